//! Changing attributes: mode, owner and times of any file, and the size of a regular one.

use std::os::fd::AsFd;
use std::sync::Arc;

use nix::sys::stat::{Mode, UtimensatFlags, fchmodat, utimensat};
use nix::sys::time::TimeSpec;

use super::{Answer, Attr, Caller, Errno, Ops};
use crate::file_id::{Ino, TimeNs};
use crate::inode::{Inode, PathFd};
use crate::sys;
use crate::tenant::Recorded;

/// A time to set.
#[derive(Clone, Copy, Debug)]
pub enum SetTime {
    /// The time of the call.
    Now,
    /// Seconds and nanoseconds since the Unix epoch.
    At(i64, i64),
}

/// What to change; none of it: nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
}

impl Ops {
    /// Changes attributes and returns them all.
    pub fn setattr(self: &Arc<Self>, caller: Caller, ino: Ino, change: SetAttr) -> Answer<Attr> {
        let inode = match self.inode(ino) {
            Ok(inode) => inode,
            Err(error) => return Answer::Now(Err(error)),
        };
        let Some(size) = change.size else {
            return Answer::Now(self.change(caller, &inode, change));
        };
        let ops = Arc::clone(self);
        match self.truncate(caller, &inode, size) {
            Answer::Now(Ok(())) => Answer::Now(self.change(caller, &inode, change)),
            Answer::Now(Err(error)) => Answer::Now(Err(error)),
            Answer::Later(truncated) => Answer::later(async move {
                truncated.await?;
                ops.change(caller, &inode, change)
            }),
        }
    }

    /// Everything but the size.
    fn change(&self, caller: Caller, inode: &Inode, change: SetAttr) -> Result<Attr, Errno> {
        let fd = self.inodes.path_fd(inode)?;
        let mut changed = false;
        if change.uid.is_some() || change.gid.is_some() {
            chown(&fd, change.uid, change.gid)?;
            changed = true;
        }
        if let Some(mode) = change.mode {
            let path = sys::fd_path(fd.as_fd());
            let mode = Mode::from_bits_truncate(mode);
            let follow = nix::sys::stat::FchmodatFlags::FollowSymlink;
            fchmodat(nix::fcntl::AT_FDCWD, &*path, mode, follow)?;
            changed = true;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let atime = change.atime.map_or(TimeSpec::UTIME_OMIT, SetTime::spec);
            let mtime = change.mtime.map_or(TimeSpec::UTIME_OMIT, SetTime::spec);
            set_times(&fd, &atime, &mtime)?;
            changed = true;
        }
        let _ = caller;
        if changed && inode.is_regular {
            if change.mtime.is_some() {
                self.note_mtime(&fd, inode)?;
            } else {
                self.note_ctime(&fd, &inode.handle);
            }
        }
        self.attr_of(inode)
    }

    /// The modification time of a file with a record was set: the record follows, or the file
    /// would count as changed.
    fn note_mtime(&self, fd: &PathFd<'_>, inode: &Inode) -> Result<(), Errno> {
        let Recorded::Trusted(mut record) = self.tenant.recorded(fd, &inode.handle)? else {
            return Ok(());
        };
        let stat = nix::sys::stat::fstat(fd)?;
        match TimeNs::from_parts(stat.st_mtime, stat.st_mtime_nsec) {
            Some(mtime) => record.mtime = mtime,
            // A record cannot hold it: it keeps the old one, and the file counts as changed.
            None => return Err(Errno(libc::EINVAL)),
        }
        record.ctime_shown = self.tenant.clock().now();
        Ok(self.tenant.reset_record(fd, &inode.handle, &record)?)
    }
}

impl SetTime {
    fn spec(self) -> TimeSpec {
        match self {
            SetTime::Now => TimeSpec::UTIME_NOW,
            SetTime::At(seconds, nanoseconds) => TimeSpec::new(seconds, nanoseconds),
        }
    }
}

fn chown(fd: &PathFd<'_>, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    use nix::unistd::{Gid, Uid, fchownat};
    let flags = nix::fcntl::AtFlags::AT_EMPTY_PATH;
    fchownat(fd, c"", uid.map(Uid::from_raw), gid.map(Gid::from_raw), flags)?;
    Ok(())
}

/// Sets times of what a descriptor names, itself: symbolic links have times too.
pub(super) fn set_times(fd: impl AsFd, atime: &TimeSpec, mtime: &TimeSpec) -> Result<(), Errno> {
    match sys::utimens_empty_path(fd.as_fd(), atime, mtime) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
        other => return Ok(other?),
    }
    let path = sys::fd_path(fd.as_fd());
    utimensat(nix::fcntl::AT_FDCWD, &*path, atime, mtime, UtimensatFlags::FollowSymlink)?;
    Ok(())
}
