//! System calls that std and nix do not offer, made safe: the only module with `unsafe`.

#![allow(unsafe_code, reason = "system calls without a safe wrapper elsewhere")]

pub mod bpf;
pub mod cred;
pub mod dirents;
pub mod extent;
pub mod handle;
pub mod killed;
pub mod lease;
pub mod mount;
pub mod mount_table;
pub mod pages;
pub mod wasm;
pub mod xattr;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

/// Turns a system call's answer into a result.
fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// Ends the process at once, as `kill -9` does: no destructor, no flush, no unmount.
pub fn die() -> ! {
    // SAFETY: kill and getpid take no pointers.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    std::process::abort()
}

/// CPU time that this thread has taken.
pub fn thread_cpu_time() -> std::time::Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the answer has room and outlives the call.
    let told = check(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) });
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    match (told, seconds, nanos) {
        (Ok(_), Ok(seconds), Ok(nanos)) => std::time::Duration::new(seconds, nanos),
        // The kernel has had this clock since 2.6.12.
        _ => std::time::Duration::ZERO,
    }
}

/// Gives this thread its own umask and working directory, so that [`set_umask`] touches
/// nobody else.
pub fn unshare_thread_fs() -> io::Result<()> {
    // SAFETY: CLONE_FS concerns this thread alone and takes no pointers.
    check(unsafe { libc::unshare(libc::CLONE_FS) }).map(drop)
}

/// Sets the umask of this thread (after [`unshare_thread_fs`]; of the process before).
pub fn set_umask(mask: u32) {
    // SAFETY: umask takes no pointers and cannot fail.
    unsafe { libc::umask(mask) };
}

/// Bytes from which malloc takes pages of their own from the kernel, and gives them back.
/// fuser holds a 16 MiB buffer a FUSE thread, of which mostly the first pages are used: as
/// separate mappings 200 mounts take 9 MB, as heap 1 GB. Chunks of 1 MiB stay below: a mapping of
/// their own would be made, cleared page by page and taken down again for each.
const MMAP_THRESHOLD_BYTES: libc::c_int = 4 << 20;
/// Free bytes at the end of a heap that malloc keeps for the next chunk.
const KEPT_FREE_BYTES: libc::c_int = 8 << 20;
/// Heaps at most: so many times [`KEPT_FREE_BYTES`] stay behind after a burst.
const HEAPS: libc::c_int = 4;

/// Keeps large, mostly untouched buffers out of the heap, and those of chunks in it.
pub fn keep_large_buffers_lazy() {
    // SAFETY: mallopt takes no pointers; a refusal leaves the default.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_FREE_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}

/// Gives back to the kernel what a start takes and nothing needs again: what malloc keeps free, a
/// probe's types above all, and code that ran once. What is run again comes from the page cache.
pub fn give_back_memory() {
    // SAFETY: malloc_trim takes no pointers, and what is in use stays where it is.
    unsafe { libc::malloc_trim(0) };
    for code in own_code().unwrap_or_default() {
        // SAFETY: a private mapping of a file that nobody can write to has nothing of its own: the
        // kernel maps the same bytes again where they are touched.
        unsafe { libc::madvise(code.start as *mut _, code.len(), libc::MADV_DONTNEED) };
    }
}

/// Where this program's own code is mapped, as `/proc/self/maps` says (proc(5)).
fn own_code() -> io::Result<Vec<std::ops::Range<usize>>> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let code = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (from, to) = fields.next()?.split_once('-')?;
        let is_code = fields.next()? == "r-xp" && fields.nth(3)? == program.to_str()?;
        let place = |text| usize::from_str_radix(text, 16).ok();
        is_code.then_some(place(from)?..place(to)?)
    };
    Ok(maps.lines().filter_map(code).collect())
}

/// Whether an effective capability is held by this thread. `bit` as in `capability.h`.
pub fn has_capability(bit: u32) -> bool {
    std::fs::read_to_string("/proc/thread-self/status")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("CapEff:"))?;
            u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok()
        })
        .is_some_and(|mask| mask >> bit & 1 == 1)
}

/// `CAP_SYS_ADMIN`: FUSE passthrough and `trusted.` attributes need it.
pub const CAP_SYS_ADMIN: u32 = 21;
/// `CAP_PERFMON`: a probe that reads kernel memory needs it, beside [`CAP_BPF`].
pub const CAP_PERFMON: u32 = 38;
/// `CAP_BPF`: loading a probe needs it.
pub const CAP_BPF: u32 = 39;
/// `CAP_FSETID`: without it a write clears set-ID bits.
pub const CAP_FSETID: u32 = 4;
/// `CAP_DAC_READ_SEARCH`: `open_by_handle_at(2)` needs it.
pub const CAP_DAC_READ_SEARCH: u32 = 2;

/// Drains a filesystem's dirty data and journal (`syncfs(2)`).
pub fn syncfs(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the call.
    check(unsafe { libc::syncfs(fd.as_fd().as_raw_fd()) }).map(drop)
}

/// A path that names what a descriptor names, for calls that take no descriptor.
pub fn fd_path(fd: impl AsFd) -> std::ffi::CString {
    std::ffi::CString::new(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())).unwrap_or_default()
}

/// Sets the times of what a descriptor names, symbolic links and O_PATH descriptors included
/// (`utimensat(2)` with `AT_EMPTY_PATH`, Linux 5.8; `EINVAL` before).
pub fn utimens_empty_path(
    fd: impl AsFd,
    atime: &nix::sys::time::TimeSpec,
    mtime: &nix::sys::time::TimeSpec,
) -> io::Result<()> {
    let times = [*atime.as_ref(), *mtime.as_ref()];
    // SAFETY: `times` holds two timespecs, the path is NUL-terminated; both outlive the call.
    check(unsafe {
        libc::utimensat(fd.as_fd().as_raw_fd(), c"".as_ptr(), times.as_ptr(), libc::AT_EMPTY_PATH)
    })
    .map(drop)
}

/// Reads at `offset` until the buffer is full or the file ends; how much it read.
pub fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The clock that stamps files: the tick it is now.
pub fn file_clock() -> nix::sys::time::TimeSpec {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` outlives the call, which does not fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &raw mut now) };
    now.into()
}

/// Time since the machine started, sleep included: a clock that nobody sets.
pub fn boot_clock() -> std::time::Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` outlives the call, which does not fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    std::time::Duration::from_secs(u64::try_from(now.tv_sec).unwrap_or(0))
        + std::time::Duration::from_nanos(u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// When a file was made, in seconds since 1970, which nobody can set; none: its filesystem does not
/// tell (ext4 with inodes of 128 bytes).
pub fn birth(fd: impl AsFd) -> Option<i64> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    let fd = fd.as_fd().as_raw_fd();
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is NUL-terminated and the answer has room; both outlive the call.
    let told =
        unsafe { libc::statx(fd, c"".as_ptr(), flags, libc::STATX_BTIME, found.as_mut_ptr()) };
    // SAFETY: all of it is numbers, for which zeros will do.
    let found = unsafe { found.assume_init() };
    let is_told = told == 0 && found.stx_mask & libc::STATX_BTIME != 0;
    is_told.then_some(found.stx_btime.tv_sec)
}

/// Bytes of a page of memory.
pub fn page_bytes() -> u64 {
    // SAFETY: sysconf takes no pointers.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4_096)
}

/// `copy_file_range(2)` from one file and offset to another; the number of bytes copied.
pub fn copy_file_range(
    from: (impl AsFd, u64),
    to: (impl AsFd, u64),
    length: usize,
) -> io::Result<usize> {
    let mut at_source = libc::off64_t::try_from(from.1).map_err(io::Error::other)?;
    let mut at_target = libc::off64_t::try_from(to.1).map_err(io::Error::other)?;
    // SAFETY: both offsets outlive the call; the descriptors are open.
    let copied = unsafe {
        libc::copy_file_range(
            from.0.as_fd().as_raw_fd(),
            &raw mut at_source,
            to.0.as_fd().as_raw_fd(),
            &raw mut at_target,
            length,
            0,
        )
    };
    usize::try_from(copied).map_err(|_negative| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_was_given_back_runs_on() {
        let code = own_code().unwrap();
        let here = own_code as *const () as usize;
        assert!(code.iter().any(|code| code.contains(&here)), "{code:?}");
        give_back_memory();
        assert_eq!(own_code().unwrap(), code);
    }
}
