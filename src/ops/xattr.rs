//! Extended attributes and POSIX ACLs: the file's own, less what is coldfs's, plus what
//! coldfs answers without storing it.

use std::ffi::CStr;
use std::io;
use std::sync::Arc;

use nix::sys::stat::fstat;

use super::virtual_xattr::RULE;
use super::{Answer, Errno, Ops};
use crate::file_id::{Ino, TimeNs};
use crate::inode::{Inode, PathFd};
use crate::sys;

/// Attributes that are coldfs's own: never shown, never set by an application.
const PRIVATE: [&[u8]; 2] = [b"trusted.coldfs", b"user.coldfs"];

fn is_private(name: &[u8]) -> bool {
    PRIVATE.iter().any(|own| match name.strip_prefix(*own) {
        Some(rest) => rest.is_empty() || rest.starts_with(b"."),
        None => false,
    })
}

impl Ops {
    /// The value of an attribute.
    pub fn getxattr(&self, ino: Ino, name: &CStr) -> Answer<Vec<u8>> {
        let inode = match self.inode(ino) {
            Ok(inode) => inode,
            Err(error) => return Answer::Now(Err(error)),
        };
        match name.to_bytes() {
            RULE => self.rule(&inode),
            own if is_private(own) => {
                Answer::Now(self.virtual_xattr(&inode, own).ok_or(Errno(libc::ENODATA)))
            }
            _ => Answer::Now(self.stored_xattr(&inode, name)),
        }
    }

    fn stored_xattr(&self, inode: &Inode, name: &CStr) -> Result<Vec<u8>, Errno> {
        let fd = self.inodes.path_fd(inode)?;
        sys::xattr::value(&fd, name)?.ok_or(Errno(libc::ENODATA))
    }

    /// The names of all attributes, each ended by a NUL.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        let inode = self.inode(ino)?;
        let fd = self.inodes.path_fd(&inode)?;
        let all = sys::xattr::list(&fd)?;
        let shown = all
            .split_inclusive(|byte| *byte == 0)
            .filter(|name| !is_private(name.strip_suffix(b"\0").unwrap_or(name)));
        Ok(shown.flatten().copied().collect())
    }

    /// Sets an attribute. `flags`: 0, `XATTR_CREATE` or `XATTR_REPLACE`.
    pub fn setxattr(
        self: &Arc<Self>,
        ino: Ino,
        name: &CStr,
        value: &[u8],
        flags: i32,
    ) -> Result<(), Errno> {
        self.change_xattr(ino, name, |fd| sys::xattr::set(fd, name, value, flags))
    }

    /// Removes an attribute.
    pub fn removexattr(self: &Arc<Self>, ino: Ino, name: &CStr) -> Result<(), Errno> {
        self.change_xattr(ino, name, |fd| sys::xattr::remove(fd, name))
    }

    fn change_xattr(
        self: &Arc<Self>,
        ino: Ino,
        name: &CStr,
        change: impl FnOnce(&PathFd<'_>) -> io::Result<()>,
    ) -> Result<(), Errno> {
        let inode = self.inode(ino)?;
        if is_private(name.to_bytes()) {
            return Err(Errno(libc::EPERM));
        }
        let fd = self.inodes.path_fd(&inode)?;
        let look = || {
            let value = sys::xattr::value(&fd, name).ok().flatten();
            fstat(&fd).map(|stat| (TimeNs::ctime_of(&stat), stat.st_mode, value))
        };
        let before = look()?;
        change(&fd)?;
        let after = look()?;
        drop(fd);
        // To remove an ACL that is not there, or to set what is there, may change nothing below:
        // then it must not look like a change here. By the ctime alone it could not be told from
        // one within a tick of the last.
        if after != before {
            self.note_change(inode);
        } else {
            self.inodes.let_go(inode);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::is_private;

    #[test]
    fn only_our_own_attributes_are_private() {
        assert!(is_private(b"trusted.coldfs"));
        assert!(is_private(b"trusted.coldfs.pin"));
        assert!(is_private(b"user.coldfs.state"));
        assert!(!is_private(b"user.coldfsx"));
        assert!(!is_private(b"user.cold"));
    }
}
