//! The mark on a file of an application's own 4,096 bytes that read like a stub (a fixture of
//! coldfs's, a stub that somebody put into a repository): written through the mount, or chosen by
//! a person, they are the file.
//!
//! It is a MAC over these bytes and this inode: copied elsewhere, or under other bytes, it means
//! nothing. It is never asked of a stub whose own MAC fits: a real stub of this tenant is never
//! plain.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use super::Tenant;
use crate::file_id::FileHandle;
use crate::inode::Inode;
use crate::stub::{STUB_BYTES, STUB_LENGTH, Stub, StubHead, holds_stub_sector, looks_like_stub};
use crate::sys;

fn name(rootless: bool) -> &'static CStr {
    if rootless { c"user.coldfs.plain" } else { c"trusted.coldfs.plain" }
}

impl Tenant {
    /// Whether these bytes were marked on this file as its own.
    pub(super) fn is_plain(
        &self,
        fd: impl AsFd,
        handle: &FileHandle,
        body: &[u8],
    ) -> io::Result<bool> {
        let value = match sys::xattr::value(fd, name(self.is_rootless())) {
            Err(error) => match error.raw_os_error() {
                Some(libc::EOPNOTSUPP) => None,
                Some(libc::EACCES) if self.is_rootless() => None,
                _ => return Err(error),
            },
            Ok(value) => value,
        };
        Ok(value.is_some_and(|value| value == self.seal.plain_mark(body, handle)))
    }

    /// Marks what is in a file as its own; durable with its next fsync. Only what is looked at
    /// as a stub without a record needs that: 4,096 bytes.
    pub fn mark_plain(&self, file: &File, inode: &Inode) -> io::Result<()> {
        let mut body = [0; STUB_BYTES];
        let filled = sys::read_up_to(file, &mut body, 0)?;
        let mark = self.seal.plain_mark(&body[..filled], &inode.handle);
        let set = sys::xattr::set(file, name(self.is_rootless()), &mark, 0);
        self.noticed.file(inode.ino);
        set
    }

    /// After the last close of a file that was written through the mount: one that looks like a
    /// stub, and is none of this tenant's, is what was written.
    pub fn mark_if_plain(&self, file: &File, inode: &Inode) -> io::Result<()> {
        if file.metadata()?.len() != STUB_LENGTH {
            return Ok(());
        }
        let mut body = [0; STUB_BYTES];
        let filled = sys::read_up_to(file, &mut body, 0)?;
        let body = &body[..filled];
        if !looks_like_stub(body) && !holds_stub_sector(body) {
            return Ok(());
        }
        let is_ours = match Stub::parse(body, &self.seal) {
            StubHead::Sealed(_) => true,
            // Its MAC does not fit: damaged, so as before.
            StubHead::Unsealed(stub) => stub.tenant == self.seal.tenant(),
            StubHead::Damaged(_) | StubHead::Newer(_) | StubHead::NotAStub => false,
        };
        if is_ours || self.has_record(file)? || self.is_plain(file, &inode.handle, body)? {
            return Ok(());
        }
        self.mark_plain(file, inode)
    }
}
