//! Extended attributes of a descriptor, O_PATH ones too: the `*xattrat` calls of Linux 6.13,
//! and `/proc/self/fd` before.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

// System call numbers, the same on every architecture that has the generic table and on x86-64.
const SYS_SETXATTRAT: libc::c_long = 463;
const SYS_GETXATTRAT: libc::c_long = 464;
const SYS_LISTXATTRAT: libc::c_long = 465;
const SYS_REMOVEXATTRAT: libc::c_long = 466;

/// `struct xattr_args` of linux/xattr.h.
#[repr(C, align(8))]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

/// Set once the kernel said ENOSYS.
static WITHOUT_AT_CALLS: AtomicBool = AtomicBool::new(false);

/// Runs the `*at` call, or the call by path where this kernel has none.
fn either(
    fd: BorrowedFd<'_>,
    at: impl FnOnce() -> libc::c_long,
    by_path: impl FnOnce(&CStr) -> libc::ssize_t,
) -> io::Result<usize> {
    if !WITHOUT_AT_CALLS.load(Ordering::Relaxed) {
        let answer = at();
        if answer >= 0 {
            return Ok(usize::try_from(answer).unwrap_or(0));
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ENOSYS) {
            return Err(error);
        }
        WITHOUT_AT_CALLS.store(true, Ordering::Relaxed);
    }
    let answer = by_path(&super::fd_path(fd));
    if answer >= 0 {
        Ok(usize::try_from(answer).unwrap_or(0))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Reads attribute `name` into `value`; its length. `ENODATA`: there is none; `ERANGE`: it is
/// longer than `value`. With an empty `value`: the length it would need.
pub fn get(fd: impl AsFd, name: &CStr, value: &mut [u8]) -> io::Result<usize> {
    let fd = fd.as_fd();
    let size = u32::try_from(value.len()).unwrap_or(u32::MAX);
    let pointer = value.as_mut_ptr();
    either(
        fd,
        || {
            let mut args = XattrArgs { value: pointer as u64, size, flags: 0 };
            // SAFETY: `pointer` has room for `size` bytes; all pointers outlive the call.
            unsafe {
                libc::syscall(
                    SYS_GETXATTRAT,
                    fd.as_raw_fd(),
                    c"".as_ptr(),
                    libc::AT_EMPTY_PATH,
                    name.as_ptr(),
                    &raw mut args,
                    size_of::<XattrArgs>(),
                )
            }
        },
        // SAFETY: `pointer` has room for `size` bytes; all pointers outlive the call.
        |path| unsafe {
            libc::getxattr(path.as_ptr(), name.as_ptr(), pointer.cast(), size as usize)
        },
    )
}

/// Sets attribute `name`. `flags`: 0, `XATTR_CREATE` or `XATTR_REPLACE`.
pub fn set(fd: impl AsFd, name: &CStr, value: &[u8], flags: i32) -> io::Result<()> {
    let fd = fd.as_fd();
    let size = u32::try_from(value.len()).map_err(io::Error::other)?;
    either(
        fd,
        || {
            let flags = flags.cast_unsigned();
            let mut args = XattrArgs { value: value.as_ptr() as u64, size, flags };
            // SAFETY: `value` holds `size` bytes that are only read; all pointers outlive it.
            unsafe {
                libc::syscall(
                    SYS_SETXATTRAT,
                    fd.as_raw_fd(),
                    c"".as_ptr(),
                    libc::AT_EMPTY_PATH,
                    name.as_ptr(),
                    &raw mut args,
                    size_of::<XattrArgs>(),
                )
            }
        },
        // SAFETY: `value` holds `size` bytes that are only read; all pointers outlive the call.
        |path| unsafe {
            let value = value.as_ptr().cast();
            libc::setxattr(path.as_ptr(), name.as_ptr(), value, size as usize, flags) as isize
        },
    )
    .map(drop)
}

/// Removes attribute `name`. `ENODATA`: there is none.
pub fn remove(fd: impl AsFd, name: &CStr) -> io::Result<()> {
    let fd = fd.as_fd();
    either(
        fd,
        // SAFETY: all pointers outlive the call.
        || unsafe {
            libc::syscall(
                SYS_REMOVEXATTRAT,
                fd.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                name.as_ptr(),
            )
        },
        // SAFETY: all pointers outlive the call.
        |path| unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) as isize },
    )
    .map(drop)
}

/// Longest list and value that Linux gives (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`), bytes.
pub const MAX_BYTES: usize = 65_536;

/// The names of all attributes, each ended by a NUL.
pub fn list(fd: impl AsFd) -> io::Result<Vec<u8>> {
    let fd = fd.as_fd();
    let mut names = vec![0; 1024];
    loop {
        let size = names.len();
        let pointer: *mut u8 = names.as_mut_ptr();
        let answer = either(
            fd,
            // SAFETY: `pointer` has room for `size` bytes; all pointers outlive the call.
            || unsafe {
                libc::syscall(
                    SYS_LISTXATTRAT,
                    fd.as_raw_fd(),
                    c"".as_ptr(),
                    libc::AT_EMPTY_PATH,
                    pointer,
                    size,
                )
            },
            // SAFETY: `pointer` has room for `size` bytes; all pointers outlive the call.
            |path| unsafe { libc::listxattr(path.as_ptr(), pointer.cast(), size) },
        );
        match answer {
            Ok(length) => {
                names.truncate(length);
                return Ok(names);
            }
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && size < MAX_BYTES => {
                names.resize(MAX_BYTES, 0);
            }
            Err(error) => return Err(error),
        }
    }
}

/// The value of attribute `name`, or none.
pub fn value(fd: impl AsFd, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let fd = fd.as_fd();
    let mut value = vec![0; 256];
    loop {
        match get(fd, name, &mut value) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Err(error) if error.raw_os_error() == Some(libc::ENODATA) => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && value.len() < MAX_BYTES => {
                value.resize(MAX_BYTES, 0);
            }
            Err(error) => return Err(error),
        }
    }
}
