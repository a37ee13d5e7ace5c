//! Directories in `.coldfs`, and the names in there.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};

use super::home::{open_private, open_to_look};
use crate::sys;

/// A directory of the daemon's in its home.
#[derive(Debug)]
pub(super) struct PrivateDir(OwnedFd);

impl PrivateDir {
    /// One that is open.
    pub(super) fn new(dir: OwnedFd) -> Self {
        Self(dir)
    }

    /// Makes a file that is not there yet.
    pub(super) fn create(&self, name: &str) -> io::Result<File> {
        open_private(&self.0, name, OFlag::O_WRONLY | OFlag::O_EXCL)
    }

    /// Gives `each` the names in it.
    pub(super) fn names(&self, each: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        names_in(&self.0, each)
    }

    /// Opens a file in it for reading.
    pub(super) fn open_to_look(&self, name: &str) -> io::Result<File> {
        open_to_look(&self.0, name)
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir)?)
    }

    /// Makes its names durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(fsync(&self.0)?)
    }
}

/// Gives `each` the names in a directory.
pub(super) fn names_in(dir: &OwnedFd, each: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dir = openat(dir, ".", flags, Mode::empty())?;
    sys::dirents::read(dir, 0, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            each(entry.name);
        }
        true
    })
}
