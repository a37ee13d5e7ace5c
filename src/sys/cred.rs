//! Acting as the caller of a FUSE request: the filesystem user and group of this thread, and
//! its capabilities.

use std::io;

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_FSETID: u32 = 4;
const CAP_MKNOD: u32 = 27;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn read_sets() -> io::Result<[Sets; 2]> {
    let mut header = Header { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: header and sets have the kernel's layout for version 3 and outlive the call.
    let answer = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    if answer == 0 { Ok(sets) } else { Err(io::Error::last_os_error()) }
}

fn write_sets(sets: &[Sets; 2]) -> io::Result<()> {
    let mut header = Header { version: CAPABILITY_VERSION_3, pid: 0 };
    // SAFETY: header and sets have the kernel's layout for version 3 and outlive the call.
    let answer = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// While it lives, what this thread creates belongs to the caller, and set-group-ID rules are
/// applied as to the caller. Permissions were checked by the kernel already
/// (`default_permissions`), so the thread keeps the right to pass them.
#[derive(Debug)]
#[must_use = "the thread acts as the caller only while this lives"]
pub struct ActingAs {
    root_before: bool,
}

impl ActingAs {
    /// Takes on the caller's filesystem user and group. Without root this is not possible
    /// and not needed: a rootless mount serves its own user.
    pub fn caller(uid: u32, gid: u32) -> io::Result<Self> {
        // SAFETY: geteuid takes nothing and cannot fail.
        if unsafe { libc::geteuid() } != 0 || (uid == 0 && gid == 0) {
            return Ok(Self { root_before: false });
        }
        // SAFETY: neither call takes pointers; both concern this thread alone.
        unsafe {
            libc::setfsgid(gid);
            libc::setfsuid(uid);
        }
        let guard = Self { root_before: true };
        if uid != 0 {
            let mut sets = read_sets()?;
            let wanted = 1 << CAP_DAC_OVERRIDE | 1 << CAP_MKNOD;
            sets[0].effective |= wanted & sets[0].permitted;
            write_sets(&sets)?;
        }
        Ok(guard)
    }
}

impl Drop for ActingAs {
    fn drop(&mut self) {
        if self.root_before {
            // SAFETY: neither call takes pointers. Returning to user 0 gives the filesystem
            // capabilities back (capabilities(7)).
            unsafe {
                libc::setfsuid(0);
                libc::setfsgid(0);
            }
        }
    }
}

/// While it lives, this thread's writes clear set-user-ID and set-group-ID bits as an
/// unprivileged writer's do.
#[derive(Debug)]
#[must_use = "the capability is missing only while this lives"]
pub struct WithoutFsetid {
    before: Option<[Sets; 2]>,
}

impl WithoutFsetid {
    /// Drops `CAP_FSETID` from this thread's effective set.
    pub fn enter() -> io::Result<Self> {
        let before = read_sets()?;
        let mut sets = before;
        if sets[0].effective >> CAP_FSETID & 1 == 0 {
            return Ok(Self { before: None });
        }
        sets[0].effective &= !(1 << CAP_FSETID);
        write_sets(&sets)?;
        Ok(Self { before: Some(before) })
    }
}

impl Drop for WithoutFsetid {
    fn drop(&mut self) {
        if let Some(before) = self.before
            && let Err(error) = write_sets(&before)
        {
            tracing::error!(%error, "cannot take CAP_FSETID back: chmod may lose set-ID bits");
        }
    }
}

impl std::fmt::Debug for Sets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}", self.effective)
    }
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
