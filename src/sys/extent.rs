//! Where a file has data and where it has holes (`SEEK_DATA`, `SEEK_HOLE`).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::file_id::Extent;

/// The file's data extents in order, up to `size_bytes`; `limit` bounds their number.
/// None: there are more.
pub fn data(fd: impl AsFd, size_bytes: u64, limit: usize) -> io::Result<Option<Vec<Extent>>> {
    let fd = fd.as_fd();
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size_bytes {
        let Some(start) = seek(fd, at, libc::SEEK_DATA)? else { break };
        if start >= size_bytes {
            break;
        }
        let end = seek(fd, start, libc::SEEK_HOLE)?.unwrap_or(size_bytes).min(size_bytes);
        if end <= start {
            break;
        }
        if extents.len() == limit {
            return Ok(None);
        }
        extents.push(Extent { offset: start, length: end - start });
        at = end;
    }
    Ok(Some(extents))
}

fn seek(fd: BorrowedFd<'_>, offset: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    match lseek(fd, offset, whence) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `lseek(2)`, `SEEK_DATA` and `SEEK_HOLE` included. `ENXIO`: beyond the end, or no more data.
pub fn lseek(fd: impl AsFd, offset: i64, whence: i32) -> io::Result<i64> {
    // SAFETY: takes no pointers; the descriptor is open.
    let answer = unsafe { libc::lseek(fd.as_fd().as_raw_fd(), offset, whence) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}
