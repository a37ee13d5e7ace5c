//! What is left of the filesystem below.

use nix::sys::statvfs::{Statvfs, fstatvfs};

use super::{Errno, Ops};

impl Ops {
    /// The filesystem's size and free space: those of the filesystem below, because that is
    /// what a writer can still use.
    pub fn statfs(&self) -> Result<Statvfs, Errno> {
        Ok(fstatvfs(self.tenant.root())?)
    }
}
