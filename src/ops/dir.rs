//! Reading directories. No handle is kept between two reads: a directory is opened a request
//! and its position found again by cookie, because the kernel, told that opendir is not needed,
//! caches directories and asks for none.

use std::ffi::OsString;

use nix::fcntl::OFlag;

use super::lookup::Entry;
use super::open::blocking;
use super::{Answer, Errno, FUSE_ROOT, HOME_NAME, Name, Ops};
use crate::file_id::Ino;
use crate::sys::dirents::{self, Dirent};

/// One entry of a directory.
#[derive(Debug)]
pub struct DirEntry {
    /// Inode number.
    pub ino: Ino,
    /// `d_type` of `readdir(3)`.
    pub kind: u8,
    /// Where to go on after this entry.
    pub cookie: u64,
    /// The name.
    pub name: OsString,
}

/// What is done with one entry: false stops, and the entry was not taken.
pub type Listing<'a> = dyn FnMut(DirEntry) -> bool + 'a;

impl Ops {
    /// Gives the entries behind `cookie` (0: from the first) until `taker` has enough.
    pub fn readdir(&self, ino: Ino, cookie: u64, taker: &mut Listing<'_>) -> Result<(), Errno> {
        let inode = self.inode(ino)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let dir = self.inodes.open(&inode, flags.bits())?;
        let at_root = ino == FUSE_ROOT;
        dirents::read(&dir, cookie, &mut |entry: Dirent<'_>| {
            if at_root && entry.name == HOME_NAME {
                return true;
            }
            taker(DirEntry {
                ino: Ino(entry.ino),
                kind: entry.kind,
                cookie: entry.cookie,
                name: os_string(entry.name),
            })
        })?;
        Ok(())
    }

    /// The same, each entry looked up: what the taker keeps is one more reference to its
    /// inode. None instead of an entry: it cannot be looked up (it is gone, or `.` or `..`).
    pub fn readdirplus(
        &self,
        ino: Ino,
        cookie: u64,
        taker: &mut dyn FnMut(DirEntry, Option<&Entry>) -> bool,
    ) -> Result<(), Errno> {
        let parent = self.dir(ino)?;
        self.readdir(ino, cookie, &mut |entry| {
            if entry.name == "." || entry.name == ".." {
                return taker(entry, None);
            }
            let found = Name::new(&entry.name).and_then(|name| self.entry(&parent, &name)).ok();
            let taken = taker(entry, found.as_ref());
            if !taken && let Some(found) = &found {
                self.forget(Ino(found.attr.stat.st_ino), 1);
            }
            taken
        })
    }

    /// Makes a directory's entries durable.
    pub fn fsyncdir(&self, ino: Ino) -> Answer<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let opened = self.inode(ino).and_then(|inode| Ok(self.inodes.open(&inode, flags.bits())?));
        match opened {
            Ok(dir) => Answer::later(blocking(move || Ok(dir.sync_all()?))),
            Err(error) => Answer::Now(Err(error)),
        }
    }
}

fn os_string(name: &[u8]) -> OsString {
    use std::os::unix::ffi::OsStringExt;
    OsString::from_vec(name.to_vec())
}
