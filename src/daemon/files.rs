//! What is known of files: for `state`, `find` and `du`. No request to the store.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::catalog::seen::Seen;
use crate::catalog::totals::Totals;
use crate::control::wire::{Bytes, FileHeat, FileReport, FileState, Files, HsmFlags, Remote};
use crate::temperature::Warmth;
use crate::tenant::Pin;
use crate::walk::Found;

use super::served::Served;

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

/// The report on one file.
pub(super) fn report(served: &Served, found: &Found) -> io::Result<FileReport> {
    let seen = Seen::of(&served.tenant, &found.fd, &found.stat)?;
    Ok(report_on(served, &found.path, &seen, found.pin))
}

/// The report on a file that was looked at, now or when something changed. `pin`: the hardest
/// on it or above it.
pub(super) fn report_on(served: &Served, path: &[u8], seen: &Seen, pin: Option<Pin>) -> FileReport {
    let state = FileState::from(seen.standing);
    let mut notes = Vec::new();
    let mut open_count = 0;
    if let Some(inode) = served.inodes.get(seen.ino) {
        match inode.try_tier() {
            Some(held) => open_count = held.opens.into(),
            None => notes.push("being opened or moved just now".to_owned()),
        }
        if inode.is_coming_home() {
            notes.push("a recall is under way".to_owned());
        }
    }
    if state == FileState::Orphan {
        notes.push("a stub without its record; `coldfs fsck --adopt` can repair it".to_owned());
    }
    if state == FileState::Conflict {
        let note = "bytes that nobody can account for; `coldfs fsck` says which, and `coldfs fsck \
                    --keep remote` or `--keep local` chooses";
        notes.push(note.to_owned());
    }
    FileReport {
        path: shown(served, path).into(),
        state,
        flags: HsmFlags::of(state, pin.is_some()),
        ino: seen.ino.0,
        size_bytes: seen.size_bytes,
        local_bytes: seen.local_bytes,
        mtime_ns: seen.mtime.0,
        remote: seen.remote.map(|(at, _)| Remote {
            segment: at.segment.to_string(),
            entry: at.entry,
            offset: None,
            length: None,
        }),
        pinned: pin.is_some(),
        open_count,
        heat: None,
        notes,
    }
}

/// How warm a file is, for a report on it.
pub(super) fn heat_of(served: &Served, seen: &Seen, open: bool) -> Option<FileHeat> {
    served.keeper.warmth(seen.ino, &seen.handle, open).map(|warmth| shown_heat(&warmth))
}

/// Heat as commands show it.
pub(super) fn shown_heat(warmth: &Warmth) -> FileHeat {
    FileHeat {
        score: warmth.score,
        accesses: warmth.heat.accesses,
        last_access: (warmth.heat.last.0 != 0).then_some(warmth.heat.last.0),
        evidence: warmth.heat.evidence.word().to_owned(),
        known_since: warmth.heat.since.0,
        watched_since: warmth.watched_since.0,
        idle_seconds: warmth.idle_seconds,
    }
}

/// Sums as commands show them.
pub(super) fn shown_sums(totals: &Totals) -> (Bytes, Files) {
    let bytes = Bytes {
        logical: totals.logical_bytes,
        local: totals.local_bytes,
        remote: totals.remote_bytes,
    };
    let files = Files {
        resident: Some(totals.resident),
        archived: totals.archived,
        released: totals.released,
        recalling: totals.recalling,
        lost: totals.lost,
    };
    (bytes, files)
}
