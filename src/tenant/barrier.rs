//! What is known of the filesystem below, and what follows: how a batch of records or of bodies is
//! made durable at once, and whether a ctime proves anything.
//!
//! On xfs and on an ext4 with a journal, a journal commit carries every change before it, so the fsync of one
//! changed file is enough (measured; an fsync of an unchanged file or an fdatasync is not).
//! Elsewhere the whole filesystem is synced.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::stat::fstat;
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, fstatfs};
use nix::sys::time::TimeSpec;

use crate::sys;

/// As `sync_file_range(2)` takes it.
const TO_THE_END: i64 = 0;

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
    let kind = fstatfs(&on)?.filesystem_type();
    Ok(kind.0 == XFS_SUPER_MAGIC || kind == EXT4_SUPER_MAGIC && has_journal(on))
}

/// Whether an ext4 has a journal; one without syncs each file by itself. ext2 looks alike.
fn has_journal(on: impl AsFd) -> bool {
    let task = || {
        let device = fstat(on).ok()?.st_dev;
        let (major, minor) = (libc::major(device), libc::minor(device));
        let device = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        let about = Path::new("/sys/fs/ext4").join(device.file_name()?).join("journal_task");
        std::fs::read_to_string(about).ok()?.trim().parse::<u32>().ok()
    };
    task().is_some()
}

pub(super) fn barrier(last: impl AsFd, commits_together: bool) -> io::Result<()> {
    if commits_together {
        File::from(last.as_fd().try_clone_to_owned()?).sync_all()
    } else {
        sys::syncfs(last)
    }
}

/// Makes the bytes of these files durable, with their sizes and where they lie: what became of
/// each.
pub(super) fn bodies(files: &[&File], commits_together: bool) -> Vec<io::Result<()>> {
    if let [alone] = files {
        return vec![alone.sync_data()];
    }
    // All on their way before the first is waited for.
    let started = files.iter().map(|file| sys::pages::start_write_out(file, TO_THE_END));
    let started: Vec<_> = started.collect();
    let mut written: Vec<_> = started
        .into_iter()
        .zip(files)
        .map(|(started, file)| started.and(sys::pages::await_write_out(file, TO_THE_END)))
        .collect();
    if files.is_empty() {
        return written;
    }
    let committed = commit(files, commits_together);
    if let Err(error) = &committed {
        tracing::debug!(%error, "no barrier for all: each file by itself");
    }
    for (written, file) in written.iter_mut().zip(files) {
        if written.is_ok() && (committed.is_err() || is_elsewhere(file, commits_together)) {
            *written = file.sync_data();
        }
    }
    written
}

/// Has the device keep what is written, and what the journal has of it. An error may be some other
/// file's: `syncfs` tells of any on the filesystem, and an overlay may have none.
fn commit(files: &[&File], commits_together: bool) -> io::Result<()> {
    // Changed after all others, whatever the clock's tick: only then its fsync commits theirs.
    let touch = |file: &&&File| {
        let touched = nix::sys::stat::futimens(file, &TimeSpec::UTIME_OMIT, &TimeSpec::UTIME_NOW);
        touched.is_ok()
    };
    let last = match commits_together {
        true => files.iter().rev().find(touch),
        false => files.last(),
    };
    let last = last.ok_or_else(|| io::Error::other("no file of these takes a new time"))?;
    barrier(last, commits_together)
}

/// Whether the journal's device does not have the file's bytes, or that is not known.
fn is_elsewhere(file: &File, commits_together: bool) -> bool {
    commits_together && sys::extent::is_realtime(file).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_body_that_cannot_be_made_durable_is_told_from_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let mut file = File::create_new(dir.path().join(name)).unwrap();
            file.write_all(name.as_bytes()).unwrap();
            file
        };
        let (first, last) = (file("first"), file("last"));
        let pipe = File::from(nix::unistd::pipe().unwrap().0);
        let together = commits_together(&first).unwrap();
        let synced = bodies(&[&first, &pipe, &last], together);
        let synced: Vec<_> = synced.iter().map(Result::is_ok).collect();
        assert_eq!(synced, [true, false, true]);
        assert!(bodies(&[&pipe], together)[0].is_err());
        assert!(bodies(&[], together).is_empty());
    }

    #[test]
    fn a_file_that_takes_no_new_time_costs_the_others_nothing() {
        let target = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
        let dir = tempfile::tempdir_in(target).unwrap();
        let file = |name: &str| File::create_new(dir.path().join(name)).unwrap();
        let (first, last) = (file("first"), file("last"));
        let flag = |how: &str| {
            let path = dir.path().join("last");
            std::process::Command::new("chattr")
                .arg(how)
                .arg(path)
                .status()
                .is_ok_and(|status| status.success())
        };
        if !flag("+i") {
            crate::telling::skip("chattr +i is refused");
            return;
        }
        let all: Vec<_> = [&[&first, &last][..], &[&last, &last]]
            .into_iter()
            .flat_map(|files| bodies(files, true))
            .map(|synced| synced.map_err(|error| error.to_string()))
            .collect();
        flag("-i");
        assert_eq!(all, [Ok(()), Ok(()), Ok(()), Ok(())]);
    }
}
