//! Extended attributes of a descriptor, O_PATH ones too.
//!
//! The `f*xattr` calls refuse O_PATH descriptors with EBADF; those go by `/proc/self/fd`. The
//! `*xattrat` calls of Linux 6.13 refuse them too (tried: EBADF with `AT_EMPTY_PATH`).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

/// Longest list and value that Linux gives (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`), bytes.
pub const MAX_BYTES: usize = 65_536;

/// Runs the call by descriptor, or by path where the descriptor is an O_PATH one.
fn either(
    fd: impl AsFd,
    by_fd: impl FnOnce(RawFd) -> libc::ssize_t,
    by_path: impl FnOnce(&CStr) -> libc::ssize_t,
) -> io::Result<usize> {
    let fd = fd.as_fd();
    let answer = by_fd(fd.as_raw_fd());
    if let Ok(length) = usize::try_from(answer) {
        return Ok(length);
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::EBADF) {
        return Err(error);
    }
    let answer = by_path(&super::fd_path(fd));
    usize::try_from(answer).map_err(|_negative| io::Error::last_os_error())
}

/// Reads attribute `name` into `value`; its length. `ENODATA`: there is none; `ERANGE`: it is
/// longer than `value`. With an empty `value`: the length it would need.
pub fn get(fd: impl AsFd, name: &CStr, value: &mut [u8]) -> io::Result<usize> {
    let (pointer, size) = (value.as_mut_ptr().cast(), value.len());
    either(
        fd,
        // SAFETY: `pointer` has room for `size` bytes; all pointers outlive the call.
        |fd| unsafe { libc::fgetxattr(fd, name.as_ptr(), pointer, size) },
        // SAFETY: as above.
        |path| unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), pointer, size) },
    )
}

/// Sets attribute `name`. `flags`: 0, `XATTR_CREATE` or `XATTR_REPLACE`.
pub fn set(fd: impl AsFd, name: &CStr, value: &[u8], flags: i32) -> io::Result<()> {
    let (pointer, size) = (value.as_ptr().cast(), value.len());
    either(
        fd,
        // SAFETY: `value` holds `size` bytes that are only read; all pointers outlive the call.
        |fd| unsafe { libc::fsetxattr(fd, name.as_ptr(), pointer, size, flags) as isize },
        // SAFETY: as above.
        |path| unsafe {
            libc::setxattr(path.as_ptr(), name.as_ptr(), pointer, size, flags) as isize
        },
    )
    .map(drop)
}

/// Removes attribute `name`. `ENODATA`: there is none.
pub fn remove(fd: impl AsFd, name: &CStr) -> io::Result<()> {
    either(
        fd,
        // SAFETY: `name` is NUL-terminated and outlives the call.
        |fd| unsafe { libc::fremovexattr(fd, name.as_ptr()) as isize },
        // SAFETY: both are NUL-terminated and outlive the call.
        |path| unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) as isize },
    )
    .map(drop)
}

/// The names of all attributes, each ended by a NUL.
pub fn list(fd: impl AsFd) -> io::Result<Vec<u8>> {
    let fd = fd.as_fd();
    grown(1024, |names| {
        let (pointer, size) = (names.as_mut_ptr().cast(), names.len());
        either(
            fd,
            // SAFETY: `pointer` has room for `size` bytes and outlives the call.
            |fd| unsafe { libc::flistxattr(fd, pointer, size) },
            // SAFETY: as above; the path is NUL-terminated.
            |path| unsafe { libc::listxattr(path.as_ptr(), pointer, size) },
        )
    })
}

/// Where the kernel keeps a program's capabilities (`capabilities(7)`). Any write to the file
/// drops it, whoever writes.
pub const FILE_CAPABILITIES: &CStr = c"security.capability";

/// The value of attribute `name`, or none.
pub fn value(fd: impl AsFd, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let fd = fd.as_fd();
    match grown(256, |value| get(fd, name, value)) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads into a buffer of `first` bytes, and once more into the largest where that is too small.
fn grown(first: usize, read: impl Fn(&mut [u8]) -> io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; first];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(error)
                if error.raw_os_error() == Some(libc::ERANGE) && buffer.len() < MAX_BYTES =>
            {
                buffer.resize(MAX_BYTES, 0);
            }
            Err(error) => return Err(error),
        }
    }
}
