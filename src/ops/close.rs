//! Closing: what the last open handle of a file leaves behind.

use std::fs::File;
use std::io;
use std::sync::Arc;

use nix::sys::stat::fstat;

use super::open::ctime_of;
use super::{Fh, Ops};
use crate::failpoint::{CrashPoint, reach};
use crate::inode::{Inode, Suspect, TierGuard};

impl Ops {
    /// Closes an open file description; later where a migration has the file just now.
    pub fn release(self: &Arc<Self>, fh: Fh) {
        let Some((_, open)) = self.open_files.remove(&fh) else { return };
        let writable = open.writable;
        let inode = Arc::clone(&open.inode);
        drop(open);
        match inode.try_tier() {
            Some(mut held) => self.close(&inode, &mut held, writable),
            None => {
                let ops = Arc::clone(self);
                self.recall.spawn(async move {
                    let mut held = inode.tier().await;
                    ops.close(&inode, &mut held, writable);
                });
            }
        }
    }

    fn close(&self, inode: &Arc<Inode>, held: &mut TierGuard, writable: bool) {
        held.opens -= 1;
        held.writers -= u32::from(writable);
        // A mapping's writes moved the times without a word, and make(1) looks at once.
        let mut is_news = writable;
        if held.writers == 0
            && let Some(suspect) = held.suspect.take()
            && let Some(file) = inode.serving().file()
        {
            is_news = true;
            if let Err(error) = self.settle(inode, &file, &suspect) {
                // The record stays `suspect`: resident bytes until they are hashed.
                tracing::warn!(ino = %inode.ino, %error, "cannot settle a record after the last close");
            }
        }
        if writable {
            self.tenant.noticed.file(inode.ino);
            if held.writers == 0
                && let Some(file) = inode.serving().file()
                && let Err(error) = self.tenant.mark_if_plain(&file, inode)
            {
                tracing::warn!(ino = %inode.ino, %error, "cannot mark what reads like a stub");
            }
        }
        inode.close_if_unused(held);
        if is_news {
            self.inodes.tell_kernel(inode.ino);
        }
    }

    /// suspect -> archived where nothing changed, else -> resident.
    fn settle(&self, inode: &Inode, file: &File, suspect: &Suspect) -> io::Result<()> {
        let stat = fstat(file)?;
        if !suspect.fits(&stat) {
            self.tenant.drop_record(file, inode)?;
            reach(CrashPoint::ForgetAfterRecord);
            return Ok(());
        }
        self.tenant.set_record(file, inode, &suspect.archived)?;
        if suspect.proven
            && let Some(ctime) = ctime_of(file)?
        {
            self.tenant.known.remember(inode.ino, &inode.handle, ctime);
        }
        Ok(())
    }
}
