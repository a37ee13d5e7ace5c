//! Which mount is at a path.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::check;

/// A mount, told apart from every other at the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountId {
    id: u64,
    /// Major and minor number of the filesystem.
    device: (u32, u32),
    /// Whether the kernel never gives this number to another mount.
    is_unique: bool,
}

impl MountId {
    /// Whether no later mount can have this identity (Linux 6.8). Before, one that is made
    /// after this one is gone may.
    pub fn is_unique(&self) -> bool {
        self.is_unique
    }

    /// Sets how far the kernel reads ahead of whoever reads files of this filesystem in order.
    /// A FUSE mount can only ask for less than the kernel's 128 KiB; more takes root and sysfs.
    pub fn set_read_ahead(&self, bytes: u32) -> io::Result<()> {
        let (major, minor) = self.device;
        let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        std::fs::write(setting, format!("{}\n", bytes >> 10))
    }

    /// The connection of a FUSE mount with its daemon, which that asks for while it serves it;
    /// takes its owner and a fusectl filesystem in its place. The number of the device is the
    /// connection's.
    pub fn connection(&self) -> io::Result<Connection> {
        let (_, number) = self.device;
        let path = format!("/sys/fs/fuse/connections/{number}/abort");
        std::fs::OpenOptions::new().write(true).open(path).map(Connection)
    }

    /// Major and minor number of its filesystem, as its files show it.
    pub fn device(&self) -> (u32, u32) {
        self.device
    }
}

/// A connection of the kernel's with a FUSE daemon: this one, and none that has its number later.
#[derive(Debug)]
pub struct Connection(std::fs::File);

impl Connection {
    /// Ends it, for those too who have files open.
    pub fn end(&self) -> io::Result<()> {
        (&self.0).write_all(b"1\n")
    }
}

/// The topmost mount at a path, asked of the kernel alone: the filesystem need not answer.
pub fn mount_at(path: &Path) -> io::Result<MountId> {
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_STATX_DONT_SYNC;
    let found = statx(path, flags, libc::STATX_MNT_ID | libc::STATX_MNT_ID_UNIQUE)?;
    Ok(MountId {
        id: found.stx_mnt_id,
        device: (found.stx_dev_major, found.stx_dev_minor),
        is_unique: found.stx_mask & libc::STATX_MNT_ID_UNIQUE != 0,
    })
}

/// Whether the filesystem at a path answers. What the kernel remembers of a mount outlives its
/// daemon.
pub fn answers(path: &Path) -> io::Result<()> {
    statx(path, libc::AT_STATX_FORCE_SYNC, libc::STATX_BASIC_STATS).map(drop)
}

fn statx(path: &Path, flags: i32, mask: u32) -> io::Result<libc::statx> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is NUL-terminated and the answer has room; both outlive the call.
    check(unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, mask, found.as_mut_ptr()) })?;
    // SAFETY: zeroes are a valid answer, and the kernel has written over them.
    Ok(unsafe { found.assume_init() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_itself_and_no_other() {
        let [root, proc] = ["/", "/proc"].map(|path| mount_at(Path::new(path)).unwrap());
        assert_eq!(root, mount_at(Path::new("/")).unwrap());
        assert_ne!(root, proc);
        assert!(mount_at(Path::new("/proc/nothing")).is_err());
    }
}
