//! Attributes as applications see them (P1): those of the file below, but for what tiering
//! changed in it.

use std::sync::Arc;

use nix::sys::stat::{FileStat, fstat};

use super::{Errno, FUSE_ROOT, Ops};
use crate::file_id::{Ino, TimeNs};
use crate::inode::{Body, Inode, Serving};
use crate::record::Record;
use crate::stub::STUB_LENGTH;
use crate::tenant::Recorded;
use crate::tier::State;

/// A file's attributes as shown.
#[derive(Clone, Copy, Debug)]
pub struct Attr {
    /// The file below, with size, blocks and times as shown.
    pub stat: FileStat,
    /// Whether a writable mapping may change the times without a word to the daemon.
    pub unsettled: bool,
}

impl Ops {
    /// The attributes of an inode.
    pub fn getattr(&self, ino: Ino) -> Result<Attr, Errno> {
        let inode = self.inode(ino)?;
        let mut attr = self.attr_of(&inode)?;
        if ino == FUSE_ROOT {
            attr.stat.st_ino = self.root.ino.0;
            // Where directories count their subdirectories, `.coldfs` is not one to be seen.
            if attr.stat.st_nlink > 2 {
                attr.stat.st_nlink -= 1;
            }
        }
        Ok(attr)
    }

    pub(super) fn attr_of(&self, inode: &Inode) -> Result<Attr, Errno> {
        let fd = self.inodes.path_fd(inode)?;
        let (stat, reading) = self.tenant.with_record(&fd, &inode.handle, fstat(&fd)?)?;
        Ok(self.shown(inode, stat, &reading))
    }

    pub(super) fn shown(&self, inode: &Inode, stat: FileStat, reading: &Recorded) -> Attr {
        let unsettled = !matches!(inode.serving(), Serving::Closed);
        match reading {
            Recorded::Trusted(record) => Attr { stat: shown(stat, record), unsettled },
            Recorded::Nothing | Recorded::Misfit | Recorded::Foreign(_) => Attr { stat, unsettled },
        }
    }

    /// After a change to an inode's attributes: the change time of a file with a record is the
    /// record's to show, so it moves there too.
    pub(super) fn note_change(self: &Arc<Self>, inode: Arc<Inode>) {
        self.tenant.noticed.file(inode.ino);
        let recorded =
            self.inodes.path_fd(&inode).and_then(|fd| self.tenant.has_record(fd)).unwrap_or(false);
        if !inode.is_regular || !recorded {
            return self.inodes.let_go(inode);
        }
        if let Some(held) = inode.try_tier() {
            self.show_change(&inode, &held);
            drop(held);
            return self.inodes.let_go(inode);
        }
        let ops = Arc::clone(self);
        self.recall.spawn(async move {
            let held = inode.tier().await;
            ops.show_change(&inode, &held);
            drop(held);
            ops.inodes.let_go(inode);
        });
    }

    fn show_change(&self, inode: &Inode, _held: &Body) {
        let shown = (|| {
            let fd = self.inodes.path_fd(inode)?;
            let Some(mut record) = self.tenant.record(&fd, inode)? else { return Ok(()) };
            let stat = fstat(&fd)?;
            if let Some(ctime) = TimeNs::ctime_of(&stat) {
                record.ctime_shown = ctime;
            }
            self.tenant.set_record(&fd, inode, &record)
        })();
        if let Err::<(), std::io::Error>(error) = shown {
            tracing::warn!(ino = %inode.ino, %error, "an old change time is shown");
        }
    }
}

/// What a file with this record shows, given what the file below has. Pure.
fn shown(mut stat: FileStat, record: &Record) -> FileStat {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let as_recorded = record.fits(&stat);
    let (body_remote, body_unchanged) = match record.state {
        State::Released | State::Lost => (size == STUB_LENGTH, false),
        State::Recalling => (true, false),
        // Its stub moves the mtime before it is put back; nobody may see that (tar would say
        // that the file changed under it).
        State::Releasing => (size == STUB_LENGTH || size == record.size_bytes, false),
        State::Archived | State::Suspect => (false, as_recorded),
    };
    if !(body_remote || body_unchanged) {
        return stat;
    }
    stat.st_size = i64::try_from(record.size_bytes).unwrap_or(i64::MAX);
    stat.st_blocks = i64::try_from(record.blocks_512).unwrap_or(i64::MAX);
    (stat.st_mtime, stat.st_mtime_nsec) = record.mtime.parts();
    (stat.st_ctime, stat.st_ctime_nsec) = record.ctime_shown.parts();
    stat
}
