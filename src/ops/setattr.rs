//! Changing attributes: mode, owner and times of any file, and the size of a regular one.

use std::os::fd::AsFd;
use std::sync::Arc;

use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmodat, fstat, utimensat};
use nix::sys::time::TimeSpec;

use super::open::blocking;
use super::{Answer, Attr, Caller, Errno, Ops};
use crate::failpoint::{CrashPoint, reach};
use crate::file_id::{Ino, TimeNs};
use crate::inode::{Body, Inode, PathFd, Suspect};
use crate::record::Record;
use crate::sys;
use crate::tier::State;

/// A time to set.
#[derive(Clone, Copy, Debug)]
pub enum SetTime {
    /// The time of the call.
    Now,
    /// Seconds and nanoseconds since the Unix epoch.
    At(i64, i64),
}

/// What to change; none of it: nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
}

impl Ops {
    /// Changes attributes and returns them all.
    pub fn setattr(self: &Arc<Self>, caller: Caller, ino: Ino, change: SetAttr) -> Answer<Attr> {
        let inode = match self.inode(ino) {
            Ok(inode) => inode,
            Err(error) => return Answer::Now(Err(error)),
        };
        let Some(size) = change.size else { return self.change(caller, inode, change) };
        let ops = Arc::clone(self);
        match self.truncate(caller, &inode, size) {
            Answer::Now(Ok(())) => self.change(caller, inode, change),
            Answer::Now(Err(error)) => Answer::Now(Err(error)),
            Answer::Later(truncated) => Answer::later(async move {
                truncated.await?;
                match ops.change(caller, inode, change) {
                    Answer::Now(changed) => changed,
                    Answer::Later(changed) => changed.await,
                }
            }),
        }
    }

    /// Everything but the size. What a record says of a file follows, under its tier lock.
    fn change(
        self: &Arc<Self>,
        caller: Caller,
        inode: Arc<Inode>,
        change: SetAttr,
    ) -> Answer<Attr> {
        let recorded = self
            .inodes
            .path_fd(&inode)
            .and_then(|fd| Ok(inode.is_regular && self.tenant.has_record(fd)?));
        match recorded {
            Err(error) => Answer::Now(Err(error.into())),
            Ok(false) => Answer::Now(self.change_now(&inode, change)),
            Ok(true) if !self.is_recordable(&change) => {
                let ops = Arc::clone(self);
                Answer::later(async move { ops.change_at_home(caller, inode, change).await })
            }
            Ok(true) => match inode.try_tier() {
                Some(mut held) => Answer::Now(self.change_recorded(&inode, &mut held, change)),
                None => {
                    let ops = Arc::clone(self);
                    Answer::later(async move {
                        let mut held = inode.tier().await;
                        ops.change_recorded(&inode, &mut held, change)
                    })
                }
            },
        }
    }

    /// Whether a record can stand beside what is to be: `user.` attributes go by the mode, and no
    /// record holds a time that 64 bits of nanoseconds do not.
    fn is_recordable(&self, change: &SetAttr) -> bool {
        change.mode.is_none_or(|mode| self.tenant.can_record(mode))
            && match change.mtime {
                Some(SetTime::At(seconds, nanoseconds)) => {
                    TimeNs::from_parts(seconds, nanoseconds).is_some()
                }
                Some(SetTime::Now) | None => true,
            }
    }

    /// The change takes the record away: the file comes home first.
    async fn change_at_home(
        self: Arc<Self>,
        caller: Caller,
        inode: Arc<Inode>,
        change: SetAttr,
    ) -> Result<Attr, Errno> {
        let (mut held, file) = self.at_home(caller, &inode, true).await?;
        blocking(move || {
            self.tenant.drop_record(&file, &inode)?;
            reach(CrashPoint::ChangeAfterRecord);
            held.suspect = None;
            file.sync_all()?;
            self.change_now(&inode, change)
        })
        .await
    }

    fn change_now(&self, inode: &Inode, change: SetAttr) -> Result<Attr, Errno> {
        apply(&self.inodes.path_fd(inode)?, change)?;
        self.tenant.noticed.file(inode.ino);
        self.attr_of(inode)
    }

    fn change_recorded(
        &self,
        inode: &Inode,
        held: &mut Body,
        change: SetAttr,
    ) -> Result<Attr, Errno> {
        let fd = self.inodes.path_fd(inode)?;
        let before = fstat(&fd)?;
        let Some(mut record) = self.tenant.record(&fd, inode)? else {
            return self.change_now(inode, change);
        };
        let is_remote = match record.state {
            State::Released | State::Lost | State::Recalling => true,
            State::Archived | State::Suspect | State::Releasing => false,
        };
        let is_current = is_remote || record.fits(&before);
        // What is asked for, not what is read back: a store through a mapping or a recall may
        // move the file's own time at any moment.
        let change = change.at(sys::file_clock());
        let wanted = match change.mtime {
            Some(mtime) => mtime.recorded(),
            None => Some(record.mtime),
        };
        if is_remote && wanted.is_none() {
            return Err(Errno(libc::EINVAL));
        }
        // Of a mapping's store the mtime is the only trace, and to set it removes it.
        let hides_a_store = change.mtime.is_some() && held.writers > 0 && !is_remote;
        let untouched = held.suspect.as_ref().filter(|suspect| suspect.fits(&before));
        let untouched = untouched.map(|suspect| suspect.proven);
        apply(&fd, change)?;
        self.tenant.noticed.file(inode.ino);
        let after = fstat(&fd)?;
        match (wanted, TimeNs::ctime_of(&after)) {
            (Some(mtime), Some(shown)) if is_current && !hides_a_store => {
                record.mtime = mtime;
                record.ctime_shown = shown;
                self.tenant.set_record(&fd, inode, &record)?;
                // A change of attributes alone leaves the copy a copy of this version.
                if let Some(proven) = untouched
                    && let Some(ctime) = TimeNs::ctime_of(&fstat(&fd)?)
                {
                    let archived = Record { state: State::Archived, ..record };
                    held.suspect = Some(Suspect { archived, ctime, proven });
                }
            }
            _ if is_remote => return Err(Errno(libc::EINVAL)),
            // Local bytes that are not the recorded ones must not come to look like them; a
            // time that a record cannot hold makes the file a resident one.
            _ => {
                self.tenant.drop_record(&fd, inode)?;
                held.suspect = None;
            }
        }
        self.attr_of(inode)
    }
}

fn apply(fd: &PathFd<'_>, change: SetAttr) -> Result<(), Errno> {
    if change.uid.is_some() || change.gid.is_some() {
        chown(fd, change.uid, change.gid)?;
    }
    if let Some(mode) = change.mode {
        let path = sys::fd_path(fd);
        let mode = Mode::from_bits_truncate(mode);
        fchmodat(nix::fcntl::AT_FDCWD, &*path, mode, FchmodatFlags::FollowSymlink)?;
    }
    if change.atime.is_some() || change.mtime.is_some() {
        let atime = change.atime.map_or(TimeSpec::UTIME_OMIT, SetTime::spec);
        let mtime = change.mtime.map_or(TimeSpec::UTIME_OMIT, SetTime::spec);
        set_times(fd, &atime, &mtime)?;
    }
    Ok(())
}

impl SetAttr {
    /// The same, with the time of the call filled in.
    fn at(self, now: TimeSpec) -> Self {
        let resolved = |time| match time {
            SetTime::Now => SetTime::At(now.tv_sec(), now.tv_nsec()),
            SetTime::At(..) => time,
        };
        Self { atime: self.atime.map(resolved), mtime: self.mtime.map(resolved), ..self }
    }
}

impl SetTime {
    /// As a record holds it; none: it cannot.
    fn recorded(self) -> Option<TimeNs> {
        match self {
            SetTime::Now => None,
            SetTime::At(seconds, nanoseconds) => TimeNs::from_parts(seconds, nanoseconds),
        }
    }

    fn spec(self) -> TimeSpec {
        match self {
            SetTime::Now => TimeSpec::UTIME_NOW,
            SetTime::At(seconds, nanoseconds) => TimeSpec::new(seconds, nanoseconds),
        }
    }
}

fn chown(fd: &PathFd<'_>, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    use nix::unistd::{Gid, Uid, fchownat};
    let flags = nix::fcntl::AtFlags::AT_EMPTY_PATH;
    fchownat(fd, c"", uid.map(Uid::from_raw), gid.map(Gid::from_raw), flags)?;
    Ok(())
}

/// Sets times of what a descriptor names, itself: symbolic links have times too.
pub(super) fn set_times(fd: impl AsFd, atime: &TimeSpec, mtime: &TimeSpec) -> Result<(), Errno> {
    match sys::utimens_empty_path(fd.as_fd(), atime, mtime) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
        other => return Ok(other?),
    }
    let path = sys::fd_path(fd.as_fd());
    utimensat(nix::fcntl::AT_FDCWD, &*path, atime, mtime, UtimensatFlags::FollowSymlink)?;
    Ok(())
}
