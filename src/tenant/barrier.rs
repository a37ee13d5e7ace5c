//! Making a batch of records durable at once.
//!
//! On ext4 and xfs a journal commit carries every change before it, so the fsync of one
//! changed file is enough (measured; an fsync of an unchanged file or an fdatasync is not).
//! Elsewhere the whole filesystem is synced.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::sys::statfs::{EXT4_SUPER_MAGIC, fstatfs};

use crate::sys;

/// `XFS_SUPER_MAGIC` of linux/magic.h.
const XFS_SUPER_MAGIC: i64 = 0x5846_5342;

/// Whether one file's fsync commits what was changed on others before.
pub(super) fn commits_together(on: impl AsFd) -> io::Result<bool> {
    let kind = fstatfs(on)?.filesystem_type();
    Ok(kind == EXT4_SUPER_MAGIC || kind.0 == XFS_SUPER_MAGIC)
}

pub(super) fn barrier(last: impl AsFd, commits_together: bool) -> io::Result<()> {
    if commits_together {
        File::from(last.as_fd().try_clone_to_owned()?).sync_all()
    } else {
        sys::syncfs(last)
    }
}
