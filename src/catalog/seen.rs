//! What one look at a file says: the one answer that walks and the catalog share, so that they
//! agree.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode};

use crate::file_id::{EntryRef, FileHandle, Ino, TimeNs};
use crate::record::Record;
use crate::stub::{STUB_BYTES, STUB_LENGTH};
use crate::sys;
use crate::temperature::Second;
use crate::tenant::{Pin, Recorded, Tenant};
use crate::tier::State;
pub use crate::tier::standing::Standing;
use crate::tier::verdict::{BodyFact, ContentFact, RecordFact, SizeFact, verdict};

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
    /// Last access as the filesystem below has it, not before it was made there; 0 where nothing
    /// goes by it.
    pub atime: Second,
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
            Kind::Regular => standing_of(tenant, fd, &handle, stat)?,
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
            mtime: TimeNs::nearest_mtime(stat),
            atime: match kind {
                Kind::Regular => last_use(fd, stat),
                Kind::Directory | Kind::Other => Second::default(),
            },
        })
    }
}

/// The last use of a file that its filesystem knows of.
pub fn last_use(fd: impl AsFd, stat: &FileStat) -> Second {
    used(Second::of_unix(stat.st_atime), sys::birth(fd).map(Second::of_unix))
}

/// Whoever copies a file with its times (`cp -a`, rsync, tar) gives the copy an old atime: it was
/// used when it was made all the same. An atime of 0 is that of a filesystem that keeps none.
pub(crate) fn used(atime: Second, born: Option<Second>) -> Second {
    match atime {
        Second(0) => atime,
        atime => atime.max(born.unwrap_or_default()),
    }
}

/// What a regular file is, in a word.
pub fn standing(
    tenant: &Tenant,
    fd: BorrowedFd<'_>,
    handle: &FileHandle,
    stat: &FileStat,
) -> io::Result<Standing> {
    Ok(standing_of(tenant, fd, handle, stat)?.0)
}

/// Only a file that is not as its record says is opened for a look at its head: what is in motion
/// is judged by whoever opens it.
fn standing_of(
    tenant: &Tenant,
    fd: BorrowedFd<'_>,
    handle: &FileHandle,
    stat: &FileStat,
) -> io::Result<(Standing, Option<Record>)> {
    let recorded = tenant.recorded(fd, handle)?;
    let (fact, record) = match &recorded {
        Recorded::Foreign(_) => return Ok((Standing::Foreign, None)),
        Recorded::Nothing => (RecordFact::None, None),
        Recorded::Misfit => (RecordFact::Misfit, None),
        Recorded::Trusted(record) => (RecordFact::Is(record.state), Some(*record)),
    };
    let state = record.map(|record| record.state);
    let at_first_sight = state.map_or(Standing::Resident, Standing::Recorded);
    let size = SizeFact::of(stat.st_size.cast_unsigned(), record.map(|record| record.size_bytes));
    let times_match = record.is_some_and(|record| TimeNs::mtime_of(stat) == Some(record.mtime));
    let as_recorded = match state {
        None => size != SizeFact::StubSize,
        Some(State::Released | State::Lost) => size == SizeFact::StubSize && times_match,
        Some(State::Archived) => size == SizeFact::Recorded && times_match,
        Some(State::Suspect | State::Releasing | State::Recalling) => true,
    };
    if as_recorded {
        return Ok((at_first_sight, record));
    }
    // Somebody has a lease on it, or it may not be read: whoever opens it will say.
    let Some(bytes) = first_bytes(fd) else { return Ok((at_first_sight, record)) };
    let head = tenant.head(fd, handle, &recorded, &bytes)?;
    let body = BodyFact { size, head: head.fact, times_match };
    let verdict = verdict(fact, body, ContentFact::Unknown);
    Ok((Standing::of(verdict, state, head.author()), record))
}

/// A file's first bytes, as many as a stub has.
fn first_bytes(fd: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOATIME | OFlag::O_CLOEXEC;
    let file = open(sys::fd_path(fd).as_c_str(), flags, Mode::empty()).ok()?;
    let mut bytes = vec![0; STUB_BYTES];
    let filled = sys::read_up_to(&File::from(file), &mut bytes, 0).ok()?;
    bytes.truncate(filled);
    Some(bytes)
}

/// The size that the mount shows.
fn shown_bytes(stat: &FileStat, record: Option<&Record>) -> u64 {
    let local = stat.st_size.cast_unsigned();
    match record {
        Some(record) if record.state == State::Recalling => record.size_bytes,
        Some(record) if matches!(record.state, State::Released | State::Lost) => {
            if local == STUB_LENGTH { record.size_bytes } else { local }
        }
        Some(_) | None => local,
    }
}
