//! Replies in fuser's types.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;

use fuser::{FopenFlags, ReplyEmpty, ReplyStatfs, ReplyXattr};
use nix::sys::statvfs::Statvfs;

use crate::ops::{Errno, How};

pub(super) fn errno(error: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error.0)
}

pub(super) fn reply_empty(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

pub(super) fn reply_xattr(result: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match result {
        Err(error) => reply.error(errno(error)),
        Ok(value) => match u32::try_from(value.len()) {
            Ok(length) if size == 0 => reply.size(length),
            Ok(length) if length <= size => reply.data(&value),
            _ => reply.error(fuser::Errno::ERANGE),
        },
    }
}

pub(super) fn reply_statfs(fs: &Statvfs, reply: ReplyStatfs) {
    let word = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    reply.statfs(
        fs.blocks(),
        fs.blocks_free(),
        fs.blocks_available(),
        fs.files(),
        fs.files_free(),
        word(fs.block_size()),
        word(fs.name_max()),
        word(fs.fragment_size()),
    );
}

pub(super) fn opened_flags(how: &How) -> FopenFlags {
    match how {
        How::Passthrough(_) => FopenFlags::FOPEN_NOFLUSH,
        How::Daemon => FopenFlags::empty(),
    }
}

pub(super) fn xattr_name(name: &OsStr) -> Result<CString, Errno> {
    CString::new(name.as_bytes()).map_err(|_nul| Errno(libc::EINVAL))
}
