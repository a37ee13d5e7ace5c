//! `user.coldfs.*`: what coldfs knows of a file, for `getfattr` and scripts. Not listed, so
//! that no copying tool carries it along.

use std::os::fd::AsFd;

use nix::sys::stat::fstat;

use super::{Answer, Errno, Ops};
use crate::catalog::seen::standing;
use crate::inode::{Inode, Serving};
use crate::temperature::Warmth;

/// Of what the policy would do with a file: what it takes is judged, so it may take a while.
pub(super) const RULE: &[u8] = b"user.coldfs.rule";

impl Ops {
    /// The rule that speaks for a file now.
    pub(super) fn rule(&self, inode: &Inode) -> Answer<Vec<u8>> {
        let nothing = Errno(libc::ENODATA);
        let Some(tiering) = self.tiering.clone().filter(|_| inode.is_regular) else {
            return Answer::Now(Err(nothing));
        };
        let ino = inode.ino;
        Answer::later(async move {
            tiering.rule(ino).await.map(String::into_bytes).map_err(|why| {
                tracing::debug!(%ino, why, "no rule is shown");
                nothing
            })
        })
    }

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
