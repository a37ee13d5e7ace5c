//! What is known of the filesystem below, and what follows: how a batch of records is made
//! durable at once, and whether a ctime proves anything.
//!
//! On ext4 and xfs a journal commit carries every change before it, so the fsync of one
//! changed file is enough (measured; an fsync of an unchanged file or an fdatasync is not).
//! Elsewhere the whole filesystem is synced.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, fstatfs};

use crate::sys;

/// `XFS_SUPER_MAGIC` of linux/magic.h.
const XFS_SUPER_MAGIC: i64 = 0x5846_5342;

/// `F2FS_SUPER_MAGIC` of linux/magic.h.
const F2FS_SUPER_MAGIC: i64 = 0xF2F5_2010;
/// `BCACHEFS_STATFS_MAGIC` of linux/magic.h.
const BCACHEFS_SUPER_MAGIC: i64 = 0xCA45_1A4E;

/// Whether a store through a mapping moves the ctime when it makes a clean page dirty, so that
/// an unmoved one proves something. Not so on tmpfs, where a page that was read first can be
/// written to without a word; not known elsewhere.
pub(super) fn ctimes_prove(on: impl AsFd) -> io::Result<bool> {
    let kind = fstatfs(on)?.filesystem_type();
    Ok(kind == EXT4_SUPER_MAGIC // and ext2, ext3
        || kind == BTRFS_SUPER_MAGIC
        || [XFS_SUPER_MAGIC, F2FS_SUPER_MAGIC, BCACHEFS_SUPER_MAGIC].contains(&kind.0))
}

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
