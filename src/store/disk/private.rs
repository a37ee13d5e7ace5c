//! Closed to others: directories are made 0700 and files 0600, however open the umask is.
//!
//! Objects are people's bytes, and `TENANT/owner` carries a tenant's key. An older or a prepared
//! root may be open: it is closed where it is ours. What lies within it stays as it is: nobody
//! gets past a closed directory.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// What the group and others may.
const OTHERS: u32 = 0o077;

/// Who may enter a store's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Its owner.
    pub uid: u32,
    /// Its permission bits.
    pub mode: u32,
}

impl Access {
    /// Looks at a root.
    pub fn of(root: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(root)?;
        Ok(Self { uid: metadata.uid(), mode: metadata.mode() & 0o7777 })
    }

    /// Nobody but its owner (and root) gets in.
    pub fn is_closed(self) -> bool {
        self.mode & OTHERS == 0
    }

    /// It is this process's user's.
    pub fn is_ours(self) -> bool {
        self.uid == nix::unistd::geteuid().as_raw()
    }
}

/// Closes a root that is open to others, where it is ours.
pub fn close(root: &Path) -> io::Result<()> {
    let access = Access::of(root)?;
    if access.is_closed() {
        return Ok(());
    }
    if !access.is_ours() {
        tracing::warn!(
            root = %root.display(), uid = access.uid, mode = format!("{:o}", access.mode),
            "the store is another user's and open to others: not closed"
        );
        return Ok(());
    }
    tracing::info!(root = %root.display(), "close the store to others");
    fs::set_permissions(root, Permissions::from_mode(access.mode & !OTHERS))
}

/// As [`fs::create_dir`].
pub fn create_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIR_MODE).create(dir)
}

/// As [`fs::create_dir_all`].
pub fn create_dir_all(dir: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIR_MODE).recursive(true).create(dir)
}

/// How files are opened for writing: those that are made are closed.
pub fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(FILE_MODE);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_that_is_ours_is_closed_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o2755)).unwrap();
        close(dir.path()).unwrap();
        let access = Access::of(dir.path()).unwrap();
        assert!(access.is_closed() && access.is_ours() && access.mode == 0o2700, "{access:?}");
        if !access.is_ours() || access.uid != 0 {
            eprintln!("skipped: only root can give a directory away");
            return;
        }
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(dir.path(), Some(4321), None).unwrap();
        close(dir.path()).unwrap();
        assert_eq!(Access::of(dir.path()).unwrap(), Access { uid: 4321, mode: 0o755 });
    }
}
