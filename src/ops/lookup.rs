//! From names to inodes.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::stat::fstat;

use super::names::path_fd_at;
use super::{Attr, Errno, FUSE_ROOT, HOME_NAME, Name, Ops};
use crate::file_id::Ino;
use crate::inode::Inode;
use crate::sys;

/// What the kernel is told of a name: one more reference to the inode.
#[derive(Debug)]
pub struct Entry {
    /// The file's attributes as shown.
    pub attr: Attr,
    /// Differs between two files that had one inode number.
    pub generation: u32,
}

/// A directory that a verb works in.
pub(super) struct Dir {
    inode: Arc<Inode>,
    fd: Arc<std::os::fd::OwnedFd>,
}

impl Dir {
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn ino(&self) -> Ino {
        self.inode.ino
    }
}

impl Ops {
    /// Finds a name in a directory. None: there is no such name.
    pub fn lookup(&self, parent: Ino, name: &Name) -> Result<Option<Entry>, Errno> {
        if self.is_home(parent, name) {
            return Ok(None);
        }
        let dir = self.dir(parent)?;
        match self.entry(&dir, name) {
            Ok(entry) => Ok(Some(entry)),
            Err(Errno(libc::ENOENT)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The kernel gives references back.
    pub fn forget(&self, ino: Ino, count: u64) {
        if ino != FUSE_ROOT {
            self.inodes.forget(ino, count);
        }
    }

    pub(super) fn dir(&self, parent: Ino) -> Result<Dir, Errno> {
        let inode = self.inode(parent)?;
        let fd = self.inodes.dir_fd(&inode)?;
        Ok(Dir { inode, fd })
    }

    /// A directory in which `name` is about to change.
    pub(super) fn dir_for_change(&self, parent: Ino, name: &Name) -> Result<Dir, Errno> {
        if self.is_home(parent, name) {
            return Err(Errno(libc::EPERM));
        }
        self.dir(parent)
    }

    pub(super) fn is_home(&self, parent: Ino, name: &Name) -> bool {
        (parent == FUSE_ROOT || parent == self.root.ino) && name.as_bytes() == HOME_NAME
    }

    /// Enters what `name` is, with one more reference for the kernel.
    pub(super) fn entry(&self, dir: &Dir, name: &Name) -> Result<Entry, Errno> {
        let _keep = &dir.inode;
        let fd = path_fd_at(dir.as_fd(), name)?;
        self.enter(fd)
    }

    pub(super) fn enter(&self, fd: std::os::fd::OwnedFd) -> Result<Entry, Errno> {
        let stat = fstat(&fd)?;
        if stat.st_dev != self.tenant.device() {
            // Another filesystem mounted inside the data directory: its inode numbers would
            // collide, and nothing of it may be migrated.
            return Err(Errno(libc::EXDEV));
        }
        if Ino(stat.st_ino) == FUSE_ROOT {
            return Err(Errno(libc::EIO));
        }
        let handle = sys::handle::of(&fd, c"")?;
        let (stat, reading) = self.tenant.with_record(&fd, &handle, stat)?;
        let inode = self.inodes.enter_looked_up(fd, handle, &stat);
        let attr = self.shown(&inode, stat, &reading);
        Ok(Entry { generation: inode.handle.generation(), attr })
    }
}
