//! Directory entries with their cookies (`getdents64(2)`): nix and std keep cookies to
//! themselves.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// One entry as the kernel gave it.
#[derive(Clone, Copy, Debug)]
pub struct Dirent<'a> {
    /// Inode number.
    pub ino: u64,
    /// Position behind this entry (`d_off`): stable over opens of the directory.
    pub cookie: u64,
    /// `d_type`.
    pub kind: u8,
    /// The name, without its NUL.
    pub name: &'a [u8],
}

/// Bytes asked of the kernel at once: about 1,000 entries.
const BUFFER_BYTES: usize = 32 * 1024;
/// `offsetof(struct linux_dirent64, d_name)`.
const NAME_AT: usize = 19;

/// Gives `taker` the entries behind `cookie` until it says false or there are no more.
pub fn read(
    dir: impl AsFd,
    cookie: u64,
    taker: &mut dyn FnMut(Dirent<'_>) -> bool,
) -> io::Result<()> {
    let fd = dir.as_fd().as_raw_fd();
    if cookie != 0 {
        // SAFETY: takes no pointers; the descriptor is open.
        let at = unsafe { libc::lseek(fd, cookie.cast_signed(), libc::SEEK_SET) };
        if at < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let mut buffer = vec![0_u8; BUFFER_BYTES];
    loop {
        // SAFETY: the buffer has room for BUFFER_BYTES and outlives the call.
        let filled = unsafe {
            libc::syscall(libc::SYS_getdents64, fd, buffer.as_mut_ptr(), BUFFER_BYTES)
        };
        let Ok(filled) = usize::try_from(filled) else { return Err(io::Error::last_os_error()) };
        let mut rest = &buffer[..filled];
        if rest.is_empty() {
            return Ok(());
        }
        while let Some((entry, behind)) = first(rest) {
            if !taker(entry) {
                return Ok(());
            }
            rest = behind;
        }
    }
}

fn first(bytes: &[u8]) -> Option<(Dirent<'_>, &[u8])> {
    let ino = u64::from_ne_bytes(bytes.get(0..8)?.try_into().ok()?);
    let cookie = u64::from_ne_bytes(bytes.get(8..16)?.try_into().ok()?);
    let length = usize::from(u16::from_ne_bytes(bytes.get(16..18)?.try_into().ok()?));
    let kind = *bytes.get(18)?;
    let name = bytes.get(NAME_AT..length)?;
    let name = &name[..name.iter().position(|byte| *byte == 0)?];
    Some((Dirent { ino, cookie, kind, name }, bytes.get(length..)?))
}
