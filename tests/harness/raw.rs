//! System calls of the tests that std and nix do not offer.

#![allow(unsafe_code, reason = "system calls without a safe wrapper elsewhere")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

fn check(answer: i64) -> io::Result<i64> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

pub fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// `open(2)`, closed on exec.
pub fn open(path: &Path, flags: i32, mode: u32) -> io::Result<File> {
    let path = c_path(path)?;
    // SAFETY: the path is a C string that lives through the call.
    let fd = check(i64::from(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, mode) }))?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { File::from_raw_fd(fd as i32) })
}

/// `statx(2)` past every cache of attributes.
pub fn stat_anew(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let flags = libc::AT_STATX_FORCE_SYNC;
    let mut found = std::mem::MaybeUninit::<libc::statx>::uninit();
    // SAFETY: the path lives through the call, and the answer has room.
    check(i64::from(unsafe {
        let mask = libc::STATX_BASIC_STATS;
        libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, mask, found.as_mut_ptr())
    }))
    .map(drop)
}

/// `lsetxattr(2)`.
pub fn set_xattr(path: &Path, name: &[u8], value: &[u8], flags: i32) -> io::Result<()> {
    let path = c_path(path)?;
    let name = CString::new(name).map_err(io::Error::other)?;
    // SAFETY: both strings and the value live through the call.
    check(i64::from(unsafe {
        libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags)
    }))
    .map(drop)
}

/// What is looked at: a path, links not followed, or an open file.
#[derive(Clone, Copy, Debug)]
pub enum At<'a> {
    Path(&'a Path),
    Open(&'a File),
}

impl<'a, P: AsRef<Path> + ?Sized> From<&'a P> for At<'a> {
    fn from(path: &'a P) -> Self {
        At::Path(path.as_ref())
    }
}

impl At<'_> {
    pub fn metadata(self) -> io::Result<std::fs::Metadata> {
        match self {
            At::Path(path) => std::fs::symlink_metadata(path),
            At::Open(file) => file.metadata(),
        }
    }
}

/// `lgetxattr(2)` or `fgetxattr(2)`; none where there is none.
pub fn get_xattr<'a>(at: impl Into<At<'a>>, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let name = CString::new(name).map_err(io::Error::other)?;
    let mut value = vec![0_u8; 65_536];
    let (into, len) = (value.as_mut_ptr().cast(), value.len());
    let answer = match at.into() {
        At::Path(path) => {
            let path = c_path(path)?;
            // SAFETY: the strings live through the call, and the buffer is as long as it says.
            unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), into, len) }
        }
        // SAFETY: as above.
        At::Open(file) => unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), into, len) },
    };
    match check(answer as i64) {
        Ok(len) => {
            value.truncate(len as usize);
            Ok(Some(value))
        }
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::ENODATA) | Some(libc::EOPNOTSUPP)) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// `lremovexattr(2)`.
pub fn remove_xattr(path: &Path, name: &[u8]) -> io::Result<()> {
    let path = c_path(path)?;
    let name = CString::new(name).map_err(io::Error::other)?;
    // SAFETY: both strings live through the call.
    check(i64::from(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) })).map(drop)
}

/// `llistxattr(2)` or `flistxattr(2)`.
pub fn list_xattr<'a>(at: impl Into<At<'a>>) -> io::Result<Vec<Vec<u8>>> {
    let mut names = vec![0_u8; 65_536];
    let (into, len) = (names.as_mut_ptr().cast(), names.len());
    let answer = match at.into() {
        At::Path(path) => {
            let path = c_path(path)?;
            // SAFETY: the path lives through the call, and the buffer is as long as it says.
            unsafe { libc::llistxattr(path.as_ptr(), into, len) }
        }
        // SAFETY: as above.
        At::Open(file) => unsafe { libc::flistxattr(file.as_raw_fd(), into, len) },
    };
    Ok(names[..check(answer as i64)? as usize]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect())
}

/// Extents of data as `lseek(2)` shows them, `offset..end`.
pub fn data_map(file: &File) -> io::Result<Vec<(u64, u64)>> {
    let seek = |at: i64, whence: i32| {
        // SAFETY: no pointers.
        check(unsafe { libc::lseek(file.as_raw_fd(), at, whence) })
    };
    let mut map = Vec::new();
    let mut at = 0;
    loop {
        match seek(at, libc::SEEK_DATA) {
            Ok(start) => {
                let end = seek(start, libc::SEEK_HOLE)?;
                map.push((start as u64, end as u64));
                at = end;
            }
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Ok(map),
            Err(error) => return Err(error),
        }
    }
}

/// `fallocate(2)`.
pub fn fallocate(file: &File, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: no pointers.
    check(i64::from(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, len as i64) }))
        .map(drop)
}

/// `copy_file_range(2)` with offsets.
pub fn copy_range(from: &File, at: u64, to: &File, to_at: u64, len: usize) -> io::Result<usize> {
    let mut at = at as i64;
    let mut to_at = to_at as i64;
    // SAFETY: both offsets live through the call.
    check(unsafe {
        libc::copy_file_range(from.as_raw_fd(), &mut at, to.as_raw_fd(), &mut to_at, len, 0)
    } as i64)
    .map(|len| len as usize)
}

/// `pwritev2(2)` of one buffer with `RWF_DSYNC`.
pub fn write_dsync(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    let part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: one buffer that lives through the call and is only read.
    check(unsafe { libc::pwritev2(file.as_raw_fd(), &part, 1, offset as i64, libc::RWF_DSYNC) }
        as i64)
    .map(|len| len as usize)
}

/// `renameat2(2)`.
pub fn rename(from: &Path, to: &Path, flags: u32) -> io::Result<()> {
    let from = c_path(from)?;
    let to = c_path(to)?;
    // SAFETY: both strings live through the call.
    check(i64::from(unsafe {
        libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags)
    }))
    .map(drop)
}

/// `utimensat(2)` or `futimens(2)`: mtime in nanoseconds since the epoch, atime left alone.
pub fn set_mtime<'a>(at: impl Into<At<'a>>, mtime_ns: i64) -> io::Result<()> {
    let times = [
        libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
        libc::timespec {
            tv_sec: mtime_ns.div_euclid(1_000_000_000),
            tv_nsec: mtime_ns.rem_euclid(1_000_000_000),
        },
    ];
    let answer = match at.into() {
        At::Path(path) => {
            let (path, flags) = (c_path(path)?, libc::AT_SYMLINK_NOFOLLOW);
            // SAFETY: a string that lives through the call; two timespecs, as the call reads them.
            unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), flags) }
        }
        // SAFETY: as above.
        At::Open(file) => unsafe { libc::futimens(file.as_raw_fd(), times.as_ptr()) },
    };
    check(i64::from(answer)).map(drop)
}

/// `flock(2)`, never waiting.
pub fn flock(file: &File, operation: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(i64::from(unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) })).map(drop)
}

/// `fcntl(2)` with `F_OFD_SETLK`: a lock of this open file on a range, never waiting.
pub fn lock_range(file: &File, kind: i32, at: u64, len: u64) -> io::Result<()> {
    let lock = libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: at as i64,
        l_len: len as i64,
        l_pid: 0,
    };
    // SAFETY: the lock lives through the call and is only read.
    check(i64::from(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) })).map(drop)
}

/// `mknod(2)`.
pub fn mknod(path: &Path, mode: u32, device: u64) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: the string lives through the call.
    check(i64::from(unsafe { libc::mknod(path.as_ptr(), mode, device) })).map(drop)
}

/// `lchown(2)`.
pub fn chown(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))
}

/// A shared mapping of a file.
pub struct Mapping {
    at: *mut libc::c_void,
    len: usize,
}

// SAFETY: a mapping may be used from any thread; accesses are volatile copies.
unsafe impl Send for Mapping {}

impl Mapping {
    pub fn new(file: &File, len: usize, writable: bool) -> io::Result<Self> {
        let protection =
            if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { at, len })
    }

    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len);
        let mut out = vec![0; len];
        // SAFETY: within the mapping; the file is at least that long for as long as the test
        // holds it so (else SIGBUS, which is a finding).
        unsafe {
            std::ptr::copy_nonoverlapping(self.at.cast::<u8>().add(offset), out.as_mut_ptr(), len);
        }
        out
    }

    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        // SAFETY: as above, and the mapping is writable.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.at.cast::<u8>().add(offset),
                bytes.len(),
            );
        }
    }

    /// Compares in a process of its own what is mapped at `offset`; an error: the signal that
    /// killed it.
    pub fn compare_in_a_child(&self, offset: usize, expected: &[u8]) -> Result<bool, i32> {
        assert!(offset + expected.len() <= self.len);
        // SAFETY: the child of a fork shares the mapping, calls only what is safe after a fork
        // of many threads, and ends without a word to the test's runtime.
        let child = unsafe {
            match libc::fork() {
                0 => {
                    libc::signal(libc::SIGBUS, libc::SIG_DFL);
                    let mapped = self.at.cast::<u8>().add(offset);
                    let same = std::slice::from_raw_parts(mapped, expected.len()) == expected;
                    libc::_exit(i32::from(!same))
                }
                child => child,
            }
        };
        let mut status = 0;
        // SAFETY: the status has room.
        let ended = unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!(ended, child, "the child of a fork: {}", io::Error::last_os_error());
        if libc::WIFSIGNALED(status) {
            return Err(libc::WTERMSIG(status));
        }
        Ok(libc::WEXITSTATUS(status) == 0)
    }

    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: the mapping's own address and length.
        check(i64::from(unsafe { libc::msync(self.at, self.len, libc::MS_SYNC) })).map(drop)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping's own address and length; nobody else has them.
        unsafe { libc::munmap(self.at, self.len) };
    }
}

/// A pipe that holds a file's pages, not a copy of them.
pub struct HeldPages {
    reader: std::io::PipeReader,
    writer: std::io::PipeWriter,
    len: usize,
}

impl HeldPages {
    /// Splices up to `len` bytes (a pipe's size at most) of a file into a pipe.
    pub fn splice(file: &File, offset: u64, len: usize) -> io::Result<Self> {
        let (reader, writer) = std::io::pipe()?;
        let mut at = offset as i64;
        // SAFETY: the offset lives through the call.
        let len = check(unsafe {
            libc::splice(
                file.as_raw_fd(),
                &mut at,
                writer.as_raw_fd(),
                std::ptr::null_mut(),
                len,
                0,
            )
        } as i64)? as usize;
        Ok(Self { reader, writer, len })
    }

    /// What the pages hold now.
    pub fn read(self) -> io::Result<Vec<u8>> {
        use std::io::Read;
        drop(self.writer);
        let mut out = Vec::with_capacity(self.len);
        let mut reader = self.reader;
        reader.read_to_end(&mut out)?;
        Ok(out)
    }
}

/// Moves bytes into a file by `splice(2)`: through a pipe, not by a write.
pub fn splice_into(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    use std::io::Write;
    let (reader, mut writer) = std::io::pipe()?;
    // No more than a pipe holds: nobody reads it meanwhile.
    writer.write_all(bytes)?;
    let (mut at, mut left) = (offset as i64, bytes.len());
    while left > 0 {
        // SAFETY: the offset lives through the call.
        left -= check(unsafe {
            libc::splice(
                reader.as_raw_fd(),
                std::ptr::null_mut(),
                file.as_raw_fd(),
                &mut at,
                left,
                libc::SPLICE_F_MOVE,
            )
        } as i64)? as usize;
    }
    Ok(())
}

/// Makes a child die with the test: a test that is killed leaves no daemon behind.
pub fn die_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: prctl is async-signal-safe and takes no pointers here.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
}

/// A terminal of 120 columns: what a person would see of what is written on the second.
pub fn terminal() -> io::Result<(File, File)> {
    let (mut screen, mut line) = (-1, -1);
    let size = libc::winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
    let (name, modes) = (std::ptr::null_mut(), std::ptr::null());
    // SAFETY: both numbers and the size live through the call; no name and no modes are asked for.
    check(i64::from(unsafe { libc::openpty(&mut screen, &mut line, name, modes, &size) }))?;
    // SAFETY: two new descriptors that nobody else owns.
    Ok(unsafe { (File::from_raw_fd(screen), File::from_raw_fd(line)) })
}

pub fn signal(pid: u32, signal: i32) {
    // SAFETY: no pointers.
    unsafe { libc::kill(pid as i32, signal) };
}
