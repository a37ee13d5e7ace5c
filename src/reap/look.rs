//! What one file names.
//!
//! A body is opened only where it may be a stub: where it has a stub's size, or is not as its
//! record says. Under the file's tier lock, and never while it is being filled or released: to open
//! it would break the lease that this daemon has on it then.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::{OFlag, PosixFadviseAdvice, open, posix_fadvise};
use nix::sys::stat::{FileStat, Mode, fstat};

use crate::file_id::{EntryRef, FileHandle};
use crate::inode::{Inode, Inodes, Serving};
use crate::stub::{STUB_BYTES, STUB_LENGTH};
use crate::sys;
use crate::tenant::{NamedByHead, NamedByRecord, Tenant};

/// What a look at a file came to. What it names was told.
#[derive(Debug)]
pub(super) enum Look {
    /// All that it names was seen.
    Seen,
    /// Somebody opens it or moves it just now: look again.
    Busy(Arc<Inode>),
    /// Nobody can say what it names, and why.
    Unknown(String),
}

/// What a look needs.
#[derive(Clone, Copy)]
pub(super) struct Eyes<'a> {
    pub(super) tenant: &'a Tenant,
    pub(super) inodes: &'a Inodes,
}

impl Eyes<'_> {
    /// Looks at the regular file that an O_PATH descriptor names.
    pub(super) fn file(
        self,
        fd: OwnedFd,
        stat: &FileStat,
        each: &mut dyn FnMut(EntryRef),
    ) -> io::Result<Look> {
        let record = match self.by_record(fd.as_fd(), stat, each)? {
            ByRecord::Enough => return Ok(Look::Seen),
            ByRecord::Unknown(why) => return Ok(Look::Unknown(why)),
            ByRecord::LookAtHead { named } => named,
        };
        let handle = sys::handle::of(&fd, c"")?;
        if stat.st_dev != self.tenant.device() {
            // Of another subvolume: nothing of it is ever moved, nor numbered among these.
            let file = reopen(fd.as_fd())?;
            let bytes = head(&file)?;
            return self.by_head(fd.as_fd(), &handle, &bytes, record, each);
        }
        let inode = self.inodes.enter(fd, handle, stat);
        let ino = inode.ino;
        let look = self.body(inode, record, each);
        self.inodes.tidy(ino);
        look
    }

    /// Looks at a file that is known.
    pub(super) fn inode(
        self,
        inode: &Arc<Inode>,
        each: &mut dyn FnMut(EntryRef),
    ) -> io::Result<Look> {
        let fd = self.inodes.path_fd(inode)?;
        let stat = fstat(&fd)?;
        let named = match self.by_record(fd.as_fd(), &stat, each)? {
            ByRecord::Enough => return Ok(Look::Seen),
            ByRecord::Unknown(why) => return Ok(Look::Unknown(why)),
            ByRecord::LookAtHead { named } => named,
        };
        drop(fd);
        self.body(Arc::clone(inode), named, each)
    }

    fn by_record(
        self,
        fd: BorrowedFd<'_>,
        stat: &FileStat,
        each: &mut dyn FnMut(EntryRef),
    ) -> io::Result<ByRecord> {
        let is_stub_size = stat.st_size == STUB_LENGTH.cast_signed();
        Ok(match self.tenant.named_by_record(fd)? {
            NamedByRecord::NoRecord if is_stub_size => ByRecord::LookAtHead { named: false },
            NamedByRecord::NoRecord => ByRecord::Enough,
            NamedByRecord::Void => ByRecord::LookAtHead { named: false },
            NamedByRecord::Unknown(why) => ByRecord::Unknown(why),
            NamedByRecord::Entry(record) => {
                each(record.at);
                match is_stub_size || !record.fits(stat) {
                    true => ByRecord::LookAtHead { named: true },
                    false => ByRecord::Enough,
                }
            }
        })
    }

    /// Looks at a body that may be a stub. `named`: its record names an entry.
    fn body(
        self,
        inode: Arc<Inode>,
        named: bool,
        each: &mut dyn FnMut(EntryRef),
    ) -> io::Result<Look> {
        let Some(held) = inode.try_tier() else { return Ok(Look::Busy(inode)) };
        let serving = inode.serving();
        if let Serving::Cold(cold) = &serving {
            // Its body is a stub, or is being filled; what it is read from is known.
            each(cold.record.at);
            return Ok(Look::Seen);
        }
        if held.filling || held.is_being_released() {
            // Its body is this daemon's own work, from the stub that its record names.
            return Ok(if named { Look::Seen } else { Look::Busy(inode) });
        }
        let file = match self.open(&inode) {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                drop(held);
                return Ok(Look::Busy(inode));
            }
            other => other?,
        };
        let bytes = head(&file)?;
        if matches!(serving, Serving::Closed) {
            // Nobody else reads it: millions of stubs need no memory.
            if let Err(error) = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            {
                tracing::debug!(%error, "what was read of a stub stays in memory");
            }
        }
        self.by_head(file.as_fd(), &inode.handle, &bytes, named, each)
    }

    fn open(self, inode: &Inode) -> io::Result<File> {
        let flags = libc::O_RDONLY | libc::O_NONBLOCK;
        match self.inodes.open(inode, flags | libc::O_NOATIME) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                self.inodes.open(inode, flags)
            }
            other => other,
        }
    }

    fn by_head(
        self,
        fd: BorrowedFd<'_>,
        handle: &FileHandle,
        bytes: &[u8],
        named: bool,
        each: &mut dyn FnMut(EntryRef),
    ) -> io::Result<Look> {
        Ok(match self.tenant.named_by_head(fd, handle, bytes)? {
            NamedByHead::Nothing => Look::Seen,
            NamedByHead::Entry(at) => {
                each(at);
                Look::Seen
            }
            NamedByHead::Damaged(Some(segment)) if named => {
                each(EntryRef { segment, entry: u32::MAX });
                Look::Seen
            }
            NamedByHead::Damaged(_) => Look::Unknown("a damaged stub, or part of one".to_owned()),
            NamedByHead::Unknown(why) => Look::Unknown(why),
        })
    }
}

/// What a look at the record came to.
enum ByRecord {
    Enough,
    LookAtHead { named: bool },
    Unknown(String),
}

/// A file's first bytes, as many as a stub has.
fn head(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; STUB_BYTES];
    let filled = sys::read_up_to(file, &mut bytes, 0)?;
    bytes.truncate(filled);
    Ok(bytes)
}

fn reopen(fd: BorrowedFd<'_>) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let path = sys::fd_path(fd);
    match open(path.as_c_str(), flags | OFlag::O_NOATIME, Mode::empty()) {
        Err(nix::errno::Errno::EPERM) => Ok(open(path.as_c_str(), flags, Mode::empty())?.into()),
        other => Ok(other?.into()),
    }
}
