//! What one look at a file says: the one answer that walks and the catalog share, so that they
//! agree.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::sys::stat::FileStat;

use crate::file_id::{EntryRef, FileHandle, Ino, TimeNs};
use crate::record::Record;
use crate::stub::{STUB_LENGTH, looks_like_stub};
use crate::sys;
use crate::tenant::{Pin, Recorded, Tenant};
use crate::tier::State;

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file: only those are ever migrated.
    Regular,
    /// A directory.
    Directory,
    /// A FIFO, socket or device. Symbolic links are nowhere in here.
    Other,
}

/// Where a file's bytes are, as its record and, where there is none, its head say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Not a regular file: never moves.
    Unmoved,
    /// No record.
    Resident,
    /// A stub without its record.
    Orphan,
    /// A record that is not ours to judge.
    Foreign,
    /// A record of ours.
    Recorded(State),
}

/// What one look says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its number.
    pub ino: Ino,
    /// Its name for ever.
    pub handle: FileHandle,
    /// What it is.
    pub kind: Kind,
    /// Where its bytes are.
    pub standing: Standing,
    /// The remote copy, and its size.
    pub remote: Option<(EntryRef, u64)>,
    /// The pin on it, not those above it.
    pub pin: Option<Pin>,
    /// Its size as applications see it.
    pub size_bytes: u64,
    /// What it takes here.
    pub local_bytes: u64,
    /// Last modification.
    pub mtime: TimeNs,
}

impl Seen {
    /// Looks at what `fd` (an O_PATH descriptor will do) names.
    pub fn of(tenant: &Tenant, fd: impl AsFd, stat: &FileStat) -> io::Result<Self> {
        let fd = fd.as_fd();
        let kind = match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => Kind::Regular,
            libc::S_IFDIR => Kind::Directory,
            _ => Kind::Other,
        };
        let handle = sys::handle::of(fd, c"")?;
        let (standing, record) = match kind {
            Kind::Regular => standing(tenant, fd, &handle, stat)?,
            Kind::Directory | Kind::Other => (Standing::Unmoved, None),
        };
        let pin = match kind {
            Kind::Regular | Kind::Directory => tenant.pin(fd)?,
            Kind::Other => None,
        };
        Ok(Self {
            ino: Ino(stat.st_ino),
            handle,
            kind,
            standing,
            remote: record.as_ref().map(|record| (record.at, record.size_bytes)),
            pin,
            size_bytes: shown_bytes(stat, record.as_ref()),
            local_bytes: stat.st_blocks.cast_unsigned() * 512,
            mtime: TimeNs::mtime_of(stat).unwrap_or_default(),
        })
    }
}

fn standing(
    tenant: &Tenant,
    fd: impl AsFd,
    handle: &FileHandle,
    stat: &FileStat,
) -> io::Result<(Standing, Option<Record>)> {
    Ok(match tenant.recorded(fd, handle)? {
        Recorded::Trusted(record) => (Standing::Recorded(record.state), Some(record)),
        Recorded::Foreign(_) => (Standing::Foreign, None),
        Recorded::Nothing | Recorded::Misfit => {
            let orphan = stat.st_size == STUB_LENGTH.cast_signed() && has_stub_head(tenant, handle);
            (if orphan { Standing::Orphan } else { Standing::Resident }, None)
        }
    })
}

fn has_stub_head(tenant: &Tenant, handle: &FileHandle) -> bool {
    use std::os::unix::fs::FileExt;
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOATIME;
    let Ok(fd) = sys::handle::open(tenant.root(), handle, flags) else { return false };
    let mut head = [0; 32];
    File::from(fd).read_exact_at(&mut head, 0).is_ok() && looks_like_stub(&head)
}

/// The size that the mount shows.
fn shown_bytes(stat: &FileStat, record: Option<&Record>) -> u64 {
    match record {
        Some(record)
            if matches!(record.state, State::Released | State::Recalling | State::Lost) =>
        {
            record.size_bytes
        }
        Some(_) | None => stat.st_size.cast_unsigned(),
    }
}
