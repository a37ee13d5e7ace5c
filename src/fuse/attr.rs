//! Attributes in fuser's types.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, INodeNo};
use nix::sys::stat::FileStat;

use crate::file_id::Ino;

/// Attributes of a file as FUSE takes them.
pub(super) fn file_attr(stat: &FileStat) -> FileAttr {
    FileAttr {
        ino: INodeNo(stat.st_ino),
        size: stat.st_size.cast_unsigned(),
        blocks: stat.st_blocks.cast_unsigned(),
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        crtime: SystemTime::UNIX_EPOCH,
        kind: kind_of_mode(stat.st_mode),
        perm: u16::try_from(stat.st_mode & 0o7777).unwrap_or(0),
        nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: u32::try_from(stat.st_rdev).unwrap_or(0),
        blksize: u32::try_from(stat.st_blksize).unwrap_or(4096),
        flags: 0,
    }
}

/// What stands for a name that does not exist: inode number 0.
pub(super) fn nothing() -> FileAttr {
    only(Ino(0), libc::DT_REG)
}

/// What stands for an entry of which only this is known.
pub(super) fn only(ino: Ino, kind: u8) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino.0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: kind_of_dirent(kind),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// A time in seconds and nanoseconds since the Unix epoch, the latter never negative.
///
/// Undoes what fuser 0.18 does with a time before the epoch, which it takes for so many seconds
/// *and* nanoseconds before it (its `system_time_from_time` says "TODO: 1_000_000_000 - nsec").
pub(super) fn time_parts(time: SystemTime) -> (i64, i64) {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => {
            (i64::try_from(after.as_secs()).unwrap_or(i64::MAX), after.subsec_nanos().into())
        }
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            (-seconds, before.subsec_nanos().into())
        }
    }
}

fn time(seconds: i64, nanoseconds: i64) -> SystemTime {
    let nanoseconds = Duration::from_nanos(nanoseconds.cast_unsigned());
    let epoch = SystemTime::UNIX_EPOCH;
    let whole = if seconds >= 0 {
        epoch.checked_add(Duration::from_secs(seconds.cast_unsigned()))
    } else {
        epoch.checked_sub(Duration::from_secs(seconds.unsigned_abs()))
    };
    whole.and_then(|whole| whole.checked_add(nanoseconds)).unwrap_or(epoch)
}

fn kind_of_mode(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

pub(super) fn kind_of_dirent(kind: u8) -> FileType {
    match kind {
        libc::DT_DIR => FileType::Directory,
        libc::DT_LNK => FileType::Symlink,
        libc::DT_FIFO => FileType::NamedPipe,
        libc::DT_SOCK => FileType::Socket,
        libc::DT_CHR => FileType::CharDevice,
        libc::DT_BLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::time_parts;

    /// What fuser 0.18 makes of a request's time.
    fn as_fuser_reads(seconds: i64, nanoseconds: u32) -> SystemTime {
        let part = Duration::new(seconds.unsigned_abs(), nanoseconds);
        match seconds {
            0.. => SystemTime::UNIX_EPOCH + part,
            _ => SystemTime::UNIX_EPOCH - part,
        }
    }

    #[test]
    fn times_before_the_epoch_and_far_after_it_survive() {
        for (seconds, nanoseconds) in
            [(0, 0), (-1, 500_000_000), (-86_400 * 365, 1), (7_258_118_400, 999_999_999)]
        {
            let read = time_parts(as_fuser_reads(seconds, nanoseconds));
            assert_eq!(read, (seconds, i64::from(nanoseconds)));
        }
    }
}
