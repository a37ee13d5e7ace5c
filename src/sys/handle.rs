//! File handles: `name_to_handle_at(2)` and `open_by_handle_at(2)`, Linux 2.6.39.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::check;
use crate::file_id::{FileHandle, MAX_HANDLE_BYTES};

/// `struct file_handle` of fcntl.h with room for the largest handle.
#[repr(C)]
struct RawHandle {
    handle_bytes: u32,
    handle_type: i32,
    f_handle: [u8; MAX_HANDLE_BYTES],
}

const MAX: u32 = 128;

/// The handle of what `name` in `dir` is (of `dir` itself where `name` is empty). Symbolic
/// links are not followed. `EOPNOTSUPP`: the filesystem has none.
pub fn of(dir: impl AsFd, name: &CStr) -> io::Result<FileHandle> {
    let mut raw = RawHandle { handle_bytes: MAX, handle_type: 0, f_handle: [0; MAX_HANDLE_BYTES] };
    let mut mount_id = 0;
    // SAFETY: `raw` has the layout of struct file_handle and room for handle_bytes; `name` is
    // NUL-terminated; both outlive the call.
    check(unsafe {
        libc::name_to_handle_at(
            dir.as_fd().as_raw_fd(),
            name.as_ptr(),
            (&raw mut raw).cast(),
            &raw mut mount_id,
            libc::AT_EMPTY_PATH,
        )
    })?;
    let length = usize::try_from(raw.handle_bytes).unwrap_or(MAX_HANDLE_BYTES);
    let bytes = raw.f_handle.get(..length).unwrap_or(&raw.f_handle);
    Ok(FileHandle { kind: raw.handle_type, bytes: bytes.into() })
}

/// Opens what a handle names, on the filesystem that `on` is on. `ESTALE`: it is gone.
/// Needs `CAP_DAC_READ_SEARCH`.
pub fn open(on: impl AsFd, handle: &FileHandle, flags: i32) -> io::Result<OwnedFd> {
    let mut raw = RawHandle {
        handle_bytes: u32::try_from(handle.bytes.len()).unwrap_or(MAX),
        handle_type: handle.kind,
        f_handle: [0; MAX_HANDLE_BYTES],
    };
    let room = raw
        .f_handle
        .get_mut(..handle.bytes.len())
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))?;
    room.copy_from_slice(&handle.bytes);
    // SAFETY: `raw` has the layout of struct file_handle and outlives the call; the answer is
    // a new descriptor that nobody else owns.
    unsafe {
        let fd = check(libc::open_by_handle_at(
            on.as_fd().as_raw_fd(),
            (&raw mut raw).cast(),
            flags | libc::O_CLOEXEC,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}
