//! `user.coldfs.*`: what coldfs knows of a file, for `getfattr` and scripts. Not listed, so
//! that no copying tool carries it along.

use std::os::fd::AsFd;

use nix::sys::stat::fstat;

use super::Ops;
use crate::catalog::seen::standing;
use crate::inode::{Inode, Serving};
use crate::temperature::Warmth;

impl Ops {
    /// The value of one of coldfs's virtual attributes; none where it has none for this file.
    pub(super) fn virtual_xattr(&self, inode: &Inode, name: &[u8]) -> Option<Vec<u8>> {
        let fd = self.inodes.path_fd(inode).ok()?;
        let stat = fstat(&fd).ok()?;
        let text = match name {
            b"user.coldfs.state" if inode.is_regular => {
                let standing = standing(&self.tenant, fd.as_fd(), &inode.handle, &stat);
                standing.ok()?.word().to_owned()
            }
            b"user.coldfs.remote" if inode.is_regular => {
                self.tenant.record(&fd, inode).ok()??.at.to_string()
            }
            b"user.coldfs.resident_bytes" if inode.is_regular => {
                (stat.st_blocks.cast_unsigned() * 512).to_string()
            }
            b"user.coldfs.pin" => self.tenant.pin(&fd).ok()??.word().to_owned(),
            b"user.coldfs.heat" if inode.is_regular => {
                let open = !matches!(inode.serving(), Serving::Closed);
                shown(&self.keeper.warmth(inode.ino, &inode.handle, open)?)
            }
            _ => return None,
        };
        Some(text.into_bytes())
    }
}

/// A file's heat in words that scripts can take apart. Times are seconds since the epoch.
fn shown(warmth: &Warmth) -> String {
    let heat = &warmth.heat;
    let idle = warmth.idle_seconds.map_or_else(|| "unknown".to_owned(), |idle| format!("{idle}s"));
    format!(
        "score={:.3} accesses={} last={} evidence={} idle={idle}",
        warmth.score,
        heat.accesses,
        heat.last.0,
        heat.evidence.word()
    )
}
