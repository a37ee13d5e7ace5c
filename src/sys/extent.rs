//! Where a file has data and where it has holes (`SEEK_DATA`, `SEEK_HOLE`), and on which device.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::check;
use crate::file_id::Extent;

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct Fsxattr {
    xflags: u32,
    rest: [u32; 6],
}

/// `FS_IOC_FSGETXATTR` of linux/fs.h: `_IOR('X', 31, struct fsxattr)`.
const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
const FS_XFLAG_REALTIME: u32 = 1;

/// Whether the file's bytes lie on the realtime device of an xfs: its journal is on another, and what
/// that has been told to keep says nothing of them. Needs more than an `O_PATH` descriptor.
pub fn is_realtime(fd: impl AsFd) -> io::Result<bool> {
    let mut flags = Fsxattr::default();
    // SAFETY: `flags` has the layout of struct fsxattr and outlives the call; the descriptor is open.
    let asked = check(unsafe {
        libc::ioctl(fd.as_fd().as_raw_fd(), FS_IOC_FSGETXATTR as _, &raw mut flags)
    });
    match asked {
        Ok(_) => Ok(flags.xflags & FS_XFLAG_REALTIME != 0),
        // A filesystem without such flags.
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOTTY | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) => Ok(false),
            _ => Err(error),
        },
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_knows_the_question_for_the_realtime_device() {
        assert_eq!(size_of::<Fsxattr>(), 28);
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        assert!(!is_realtime(&file).unwrap());
        let pipe = nix::unistd::pipe().unwrap().0;
        assert!(!is_realtime(pipe).unwrap());
        let path = std::fs::File::open(std::env::temp_dir()).unwrap();
        assert!(!is_realtime(path).unwrap());
    }
}
