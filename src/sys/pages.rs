//! The page cache of a file: write out, drop, count.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::check;

/// `cachestat(2)`, Linux 6.5; the same number on every architecture.
const SYS_CACHESTAT: libc::c_long = 451;

#[repr(C)]
struct Range {
    offset: u64,
    length: u64,
}

#[repr(C)]
#[derive(Default)]
struct Cachestat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Number of pages of the file that are in the page cache; none where the kernel cannot tell.
pub fn cached(fd: impl AsFd) -> io::Result<Option<u64>> {
    let range = Range { offset: 0, length: 0 };
    let mut stat = Cachestat::default();
    // SAFETY: both structs have the kernel's layout and outlive the call.
    let answer = unsafe {
        libc::syscall(SYS_CACHESTAT, fd.as_fd().as_raw_fd(), &raw const range, &raw mut stat, 0)
    };
    if answer == 0 {
        return Ok(Some(stat.cached));
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENOSYS) { Ok(None) } else { Err(error) }
}

/// Starts writing bytes `0..length` out; all where `length` is 0.
pub fn start_write_out(fd: impl AsFd, length: i64) -> io::Result<()> {
    sync_range(fd, length, libc::SYNC_FILE_RANGE_WRITE)
}

/// Waits until bytes `0..length`, all where `length` is 0, are on the device (not until it is told to keep them: a
/// barrier does that).
pub fn await_write_out(fd: impl AsFd, length: i64) -> io::Result<()> {
    sync_range(
        fd,
        length,
        libc::SYNC_FILE_RANGE_WAIT_BEFORE
            | libc::SYNC_FILE_RANGE_WRITE
            | libc::SYNC_FILE_RANGE_WAIT_AFTER,
    )
}

fn sync_range(fd: impl AsFd, length: i64, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: takes no pointers; the descriptor is open.
    check(unsafe { libc::sync_file_range(fd.as_fd().as_raw_fd(), 0, length, flags) }).map(drop)
}
