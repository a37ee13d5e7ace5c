//! What is known of files: for `state`, `find` and `du`. No request to the store.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::control::wire::{Bytes, FileReport, FileState, Files, HsmFlags, Remote};
use crate::file_id::TimeNs;
use crate::inode::Serving;
use crate::record::Record;
use crate::stub::{STUB_LENGTH, looks_like_stub};
use crate::sys;
use crate::tenant::{Recorded, Tenant};
use crate::tier::State;
use crate::walk::Found;

use super::engine::Served;

/// A path of the mount as bytes below the tenant's root; none: it is not in there.
pub(super) fn relative(served: &Served, path: &Path) -> Option<Vec<u8>> {
    [&served.options.mountpoint, &served.options.data_dir]
        .into_iter()
        .find_map(|root| path.strip_prefix(root).ok())
        .map(|rest| rest.as_os_str().as_bytes().to_vec())
}

/// The path that a person would use.
pub(super) fn shown(served: &Served, relative: &[u8]) -> PathBuf {
    if relative.is_empty() {
        return served.options.mountpoint.clone();
    }
    served.options.mountpoint.join(OsStr::from_bytes(relative))
}

/// What a file is, from its record and, where there is none, its size and head.
pub(super) fn state_of(tenant: &Tenant, found: &Found) -> io::Result<(FileState, Option<Record>)> {
    if !found.is_regular() {
        return Ok((FileState::None, None));
    }
    let handle = sys::handle::of(&found.fd, c"")?;
    Ok(match tenant.recorded(&found.fd, &handle)? {
        Recorded::Trusted(record) => (FileState::from(record.state), Some(record)),
        Recorded::Foreign(_) => (FileState::Foreign, None),
        Recorded::Nothing | Recorded::Misfit => {
            let orphan =
                found.stat.st_size == STUB_LENGTH.cast_signed() && has_stub_head(tenant, found);
            (if orphan { FileState::Orphan } else { FileState::Resident }, None)
        }
    })
}

fn has_stub_head(tenant: &Tenant, found: &Found) -> bool {
    use std::os::unix::fs::FileExt;
    let Ok(handle) = sys::handle::of(&found.fd, c"") else { return false };
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOATIME;
    let Ok(fd) = sys::handle::open(tenant.root(), &handle, flags) else { return false };
    let mut head = [0; 32];
    File::from(fd).read_exact_at(&mut head, 0).is_ok() && looks_like_stub(&head)
}

/// The size that the mount shows.
pub(super) fn logical_bytes(found: &Found, record: Option<&Record>) -> u64 {
    match record {
        Some(record)
            if matches!(record.state, State::Released | State::Recalling | State::Lost) =>
        {
            record.size_bytes
        }
        Some(_) | None => found.stat.st_size.cast_unsigned(),
    }
}

pub(super) fn local_bytes(found: &Found) -> u64 {
    found.stat.st_blocks.cast_unsigned() * 512
}

/// The report on one file.
pub(super) fn report(served: &Served, found: &Found) -> io::Result<FileReport> {
    let (state, record) = state_of(&served.tenant, found)?;
    let ino = crate::file_id::Ino(found.stat.st_ino);
    let mut notes = Vec::new();
    let mut open_count = 0;
    if let Some(inode) = served.inodes.get(ino) {
        match inode.try_tier() {
            Some(held) => open_count = held.opens.into(),
            None => notes.push("being opened or moved just now".to_owned()),
        }
        if matches!(inode.serving(), Serving::Cold(cold) if !cold.is_idle()) {
            notes.push("a recall is under way".to_owned());
        }
    }
    if state == FileState::Orphan {
        notes.push("a stub without its record; `coldfs fsck --adopt` can repair it".to_owned());
    }
    let mtime = TimeNs::mtime_of(&found.stat);
    Ok(FileReport {
        path: shown(served, &found.path).into(),
        state,
        flags: HsmFlags::of(state, found.pin.is_some()),
        ino: found.stat.st_ino,
        size_bytes: logical_bytes(found, record.as_ref()),
        local_bytes: local_bytes(found),
        mtime_ns: mtime.unwrap_or_default().0,
        remote: record.map(|record| Remote {
            segment: record.at.segment.to_string(),
            entry: record.at.entry,
            offset: None,
            length: None,
        }),
        pinned: found.pin.is_some(),
        open_count,
        notes,
    })
}

/// Adds one file to the sums of a tree.
pub(super) fn add(
    tenant: &Tenant,
    found: &Found,
    bytes: &mut Bytes,
    files: &mut Files,
) -> io::Result<()> {
    bytes.local += local_bytes(found);
    if !found.is_regular() {
        return Ok(());
    }
    let (state, record) = state_of(tenant, found)?;
    bytes.logical += logical_bytes(found, record.as_ref());
    if let Some(record) = &record {
        bytes.remote += record.size_bytes;
    }
    match state {
        FileState::Archived | FileState::Suspect | FileState::Releasing => files.archived += 1,
        FileState::Released => files.released += 1,
        FileState::Recalling => files.recalling += 1,
        FileState::Lost => files.lost += 1,
        FileState::None | FileState::Resident | FileState::Orphan | FileState::Foreign => {
            *files.resident.get_or_insert(0) += 1;
        }
    }
    Ok(())
}
