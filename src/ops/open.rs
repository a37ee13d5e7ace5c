//! Opening: where a reader or writer meets a migration.
//!
//! The first open of a file fixes how it is served until its last close (a rule of the
//! kernel's). What is local is served by passthrough where the kernel allows it; what is
//! remote by the daemon, from the store. What a small stub stands for is fetched inside `open`: a
//! reader is served from memory, and the file comes home behind it; a writer waits until it is
//! here. So does a program that is about to run, because a mapping cannot return an errno.

use std::fs::File;
use std::io;
use std::sync::Arc;

use nix::sys::stat::fstat;

use super::io::set_size;
use super::{Answer, Caller, Errno, Fh, Ops};
use crate::failpoint::{CrashPoint, reach};
use crate::file_id::{Ino, TimeNs};
use crate::guard::Visit;
use crate::inode::{Backing, Body, Cold, Inode, Serving, Suspect, TierGuard};
use crate::record::Record;
use crate::recover::{Finding, find};
use crate::sys::cred::WithoutFsetid;
use crate::tier::State;

/// Set by the kernel in the flags of an open for `execve` (`__FMODE_EXEC`).
const FMODE_EXEC: i32 = 0x20;

/// Registers a file for kernel passthrough; each door to the kernel has its own way.
pub trait RegisterBacking: Send + Sync {
    /// The registration, kept as long as the file is open; an error where the kernel refuses.
    fn register(&self, file: &File) -> io::Result<Backing>;
}

/// How the kernel is told to serve an open.
#[derive(Clone)]
pub enum How {
    /// From the registered file below.
    Passthrough(Backing),
    /// By asking the daemon, with the kernel's page cache in between.
    Daemon,
}

/// An opened file. One that nobody takes over is closed again: whoever waited for it may have
/// been killed meanwhile.
pub struct Opened {
    ops: Arc<Ops>,
    open: Option<(Fh, How)>,
}

impl Opened {
    /// Its number, and how it is served: from now on it is the caller's to close.
    pub fn hand_over(mut self) -> (Fh, How) {
        self.open.take().expect("only this takes it, and takes all")
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some((fh, _how)) = self.open.take() {
            self.ops.release(fh);
        }
    }
}

#[derive(Clone)]
pub(super) struct OpenRequest {
    pub(super) caller: Caller,
    pub(super) writable: bool,
    pub(super) truncate: bool,
    pub(super) exec: bool,
    /// Whether a recall inside this open was waited for: its bytes are in memory, or it cannot be
    /// had.
    pub(super) fill_waited: bool,
    /// Whether its bytes are proven to be here, whatever its record says.
    pub(super) proven_here: bool,
    /// As what the guard let it through, once the file was seen to be cold.
    pub(super) visit: Option<Arc<Visit>>,
    pub(super) door: Arc<dyn RegisterBacking>,
}

impl OpenRequest {
    /// Whether bytes in memory are not enough: it is changed, or run, or would be seen without its
    /// privileges while it comes home.
    pub(super) fn wants_it_home(&self, cold: &Cold) -> bool {
        self.writable || self.exec || cold.is_privileged()
    }
}

pub(super) enum Step {
    Done(Opened),
    Wait(Wait),
}

pub(super) enum Wait {
    /// Something takes the disk's time: not on a FUSE thread.
    Disk,
    /// Somebody else has a lease on the file below.
    Lease,
    /// It was in flight at a crash and is put in order first.
    Order(Arc<File>),
    /// It is cold: the guard is asked first.
    Guard(Arc<Cold>),
    /// The guard was asked, and lets it through once there is something to spend.
    Budget(Arc<Visit>),
    /// The file comes home first.
    Fill(Arc<Cold>),
    /// Its recall is stopped first: what was there is not wanted any more.
    Stop(Arc<Cold>),
}

impl Ops {
    /// Opens a file. `flags` as in `open(2)`.
    pub fn open(
        self: &Arc<Self>,
        caller: Caller,
        ino: Ino,
        flags: i32,
        door: Arc<dyn RegisterBacking>,
    ) -> Answer<Opened> {
        let inode = match self.inode(ino) {
            Ok(inode) => inode,
            Err(error) => return Answer::Now(Err(error)),
        };
        self.open_inode(caller, inode, flags, door)
    }

    fn open_inode(
        self: &Arc<Self>,
        caller: Caller,
        inode: Arc<Inode>,
        flags: i32,
        door: Arc<dyn RegisterBacking>,
    ) -> Answer<Opened> {
        let mut request = OpenRequest {
            caller,
            writable: flags & libc::O_ACCMODE != libc::O_RDONLY,
            truncate: flags & libc::O_TRUNC != 0,
            exec: flags & FMODE_EXEC != 0,
            fill_waited: false,
            proven_here: false,
            visit: None,
            door,
        };
        let mut first = None;
        if let Some(mut held) = inode.try_tier() {
            let answered = loop {
                match self.open_step(&inode, &mut held, &request, false) {
                    Ok(Step::Done(opened)) => break Ok(opened),
                    Ok(Step::Wait(wait)) => match self.at_once(&inode, &mut request, wait) {
                        Ok(None) => {}
                        Ok(wait) => {
                            first = wait;
                            break Err(None);
                        }
                        Err(error) => break Err(Some(error)),
                    },
                    Err(error) => break Err(Some(error)),
                }
            };
            match answered {
                Ok(opened) => return Answer::Now(Ok(opened)),
                Err(Some(error)) => {
                    inode.close_if_unused(&mut held);
                    return Answer::Now(Err(error));
                }
                Err(None) => {}
            }
        }
        let ops = Arc::clone(self);
        Answer::later(async move { ops.open_later(inode, request, first).await })
    }

    pub(super) fn is_recalled_in_open(&self, cold: &Cold) -> bool {
        cold.record.size_bytes <= self.recall.options().whole_in_open_bytes
    }

    pub(super) fn open_step(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        held: &mut TierGuard,
        request: &OpenRequest,
        may_block: bool,
    ) -> Result<Step, Errno> {
        // P3: whoever opens takes the file from an archive that is reading it.
        if let Some(lease) = held.archiving.take() {
            lease.give_up();
        }
        match inode.serving() {
            Serving::Closed => self.first_open(inode, held, request, may_block),
            Serving::Passthrough { file, backing } => {
                if !self.prepare_local(inode, held, &file, request, may_block)? {
                    return Ok(Step::Wait(Wait::Disk));
                }
                Ok(Step::Done(self.opened(inode, held, request, How::Passthrough(backing))))
            }
            Serving::Local { file } => {
                if !self.prepare_local(inode, held, &file, request, may_block)? {
                    return Ok(Step::Wait(Wait::Disk));
                }
                Ok(Step::Done(self.opened(inode, held, request, How::Daemon)))
            }
            Serving::Cold(cold) => self.open_cold(inode, held, request, cold, may_block),
        }
    }

    fn first_open(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        held: &mut TierGuard,
        request: &OpenRequest,
        may_block: bool,
    ) -> Result<Step, Errno> {
        let file = match self.open_below(inode) {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                return Ok(Step::Wait(Wait::Lease));
            }
            other => Arc::new(other?),
        };
        if !inode.is_regular {
            return Err(Errno(libc::EINVAL));
        }
        let found = match find(&self.tenant, inode, &file)? {
            Finding::InFlight if request.proven_here => Finding::Local,
            found => found,
        };
        match found {
            Finding::Local => {
                if !self.prepare_local(inode, held, &file, request, may_block)? {
                    return Ok(Step::Wait(Wait::Disk));
                }
                let how = self.serve_local(inode, held, file, request);
                Ok(Step::Done(self.opened(inode, held, request, how)))
            }
            Finding::Remote { record, stub } => {
                let cold = self.recall.cold(record, stub, file)?;
                inode.serve(held, Serving::Cold(Arc::clone(&cold)));
                self.open_cold(inode, held, request, cold, may_block)
            }
            Finding::InFlight if request.truncate => {
                if !may_block {
                    return Ok(Step::Wait(Wait::Disk));
                }
                self.cut_to_nothing(request.caller, inode, &file)?;
                let how = self.serve_local(inode, held, file, request);
                Ok(Step::Done(self.opened(inode, held, request, how)))
            }
            Finding::InFlight => Ok(Step::Wait(Wait::Order(file))),
            Finding::Refused(error) => {
                let path = self.tenant.path_of(&file).unwrap_or_default();
                tracing::error!(ino = %inode.ino, path, %error, "refused to open a file");
                Err(error.into())
            }
        }
    }

    fn open_cold(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        held: &mut TierGuard,
        request: &OpenRequest,
        cold: Arc<Cold>,
        may_block: bool,
    ) -> Result<Step, Errno> {
        if request.truncate && held.filling {
            return Ok(Step::Wait(Wait::Stop(cold)));
        }
        if request.truncate {
            if !may_block {
                return Ok(Step::Wait(Wait::Disk));
            }
            // No fetch: what was there is not wanted any more. A fill that has not begun under
            // the tier lock finds the file served otherwise, and ends.
            let cut = self.cut_to_nothing(request.caller, inode, &cold.file);
            if fstat(&*cold.file)?.st_size == 0 {
                inode.serve(held, Serving::Local { file: Arc::clone(&cold.file) });
            }
            cut?;
            return Ok(Step::Done(self.opened(inode, held, request, How::Daemon)));
        }
        if request.visit.is_none() && !request.fill_waited {
            return Ok(Step::Wait(Wait::Guard(cold)));
        }
        let keeps = request.visit.as_ref().is_none_or(|visit| visit.keeps());
        let small = self.is_recalled_in_open(&cold);
        let wanted = request.exec || (small && keeps && held.opens == 0);
        if wanted && !request.fill_waited && self.tenant.may_move() {
            return Ok(Step::Wait(Wait::Fill(cold)));
        }
        Ok(Step::Done(self.opened(inode, held, request, How::Daemon)))
    }

    /// What an open of a local file needs before it may be answered. False: it would take the
    /// disk's time, and this thread has none.
    fn prepare_local(
        &self,
        inode: &Inode,
        held: &mut Body,
        file: &File,
        request: &OpenRequest,
        may_block: bool,
    ) -> Result<bool, Errno> {
        let needs_record_change = (request.writable || request.truncate)
            && held.suspect.is_none()
            && self.tenant.has_record(file)?;
        if needs_record_change && !may_block {
            return Ok(false);
        }
        if request.truncate {
            if needs_record_change {
                self.cut_to_nothing(request.caller, inode, file)?;
            } else {
                set_size(request.caller, file, 0)?;
            }
        } else if needs_record_change {
            self.mark_suspect(inode, held, file)?;
        }
        Ok(true)
    }

    /// Truncates to nothing a file that has a record; the record goes, durably, before anybody
    /// can write (a later overwrite's own fdatasync would not carry its removal).
    fn cut_to_nothing(&self, caller: Caller, inode: &Inode, file: &File) -> Result<(), Errno> {
        set_size(caller, file, 0)?;
        self.tenant.drop_record(file, inode)?;
        reach(CrashPoint::OpenAfterTruncate);
        Ok(file.sync_all()?)
    }

    /// archived -> suspect, durable before the writer is let in.
    pub(super) fn mark_suspect(
        &self,
        inode: &Inode,
        held: &mut Body,
        file: &File,
    ) -> Result<(), Errno> {
        let stat = fstat(file)?;
        let archived = match self.tenant.record(file, inode)? {
            Some(record) if record.state == State::Archived && record.fits(&stat) => record,
            // Whatever stands there is not about these bytes: they are the file's.
            _ => {
                self.tenant.drop_record(file, inode)?;
                return Ok(file.sync_all()?);
            }
        };
        let proven = TimeNs::ctime_of(&stat)
            .is_some_and(|ctime| self.tenant.known.is(inode.ino, &inode.handle, ctime));
        let record = Record { state: State::Suspect, ..archived };
        self.tenant.set_record(file, inode, &record)?;
        file.sync_all()?;
        reach(CrashPoint::SuspectBeforeReply);
        let ctime = ctime_of(file)?.ok_or(Errno(libc::EOVERFLOW))?;
        held.suspect = Some(Suspect { archived, ctime, proven });
        Ok(())
    }

    /// The file below, for reading and writing where possible: all opens share it. Reads move its
    /// atime, as without a mount: it is proof of idleness where there is no probe.
    fn open_below(&self, inode: &Inode) -> io::Result<File> {
        match self.inodes.open(inode, libc::O_RDWR | libc::O_NONBLOCK) {
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EACCES | libc::EROFS | libc::ETXTBSY | libc::EPERM)
                ) =>
            {
                self.inodes.open(inode, libc::O_RDONLY | libc::O_NONBLOCK)
            }
            other => other,
        }
    }

    /// Serves a local file from now on: by passthrough where the kernel takes it.
    pub(super) fn serve_local(
        &self,
        inode: &Inode,
        held: &mut Body,
        file: Arc<File>,
        request: &OpenRequest,
    ) -> How {
        match self.register(&file, request) {
            Some(backing) => {
                inode.serve(held, Serving::Passthrough { file, backing: Arc::clone(&backing) });
                How::Passthrough(backing)
            }
            None => {
                inode.serve(held, Serving::Local { file });
                How::Daemon
            }
        }
    }

    fn register(&self, file: &File, request: &OpenRequest) -> Option<Backing> {
        // The kernel writes with the credentials of this moment: without this, a write by
        // another user would leave a set-user-ID bit in place.
        let _unprivileged = WithoutFsetid::enter().ok()?;
        request.door.register(file).ok()
    }

    pub(super) fn opened(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        held: &mut Body,
        request: &OpenRequest,
        how: How,
    ) -> Opened {
        held.opens += 1;
        self.tenant.heat.opened(inode.ino);
        held.writers += u32::from(request.writable);
        let fh = self.add_open_file(inode, request.writable, request.visit.clone());
        Opened { ops: Arc::clone(self), open: Some((fh, how)) }
    }
}

pub(super) fn ctime_of(file: &File) -> io::Result<Option<TimeNs>> {
    let stat = fstat(file)?;
    Ok(TimeNs::ctime_of(&stat))
}

/// Runs what takes the disk's time on a thread that has it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Errno> + Send + 'static,
) -> Result<T, Errno> {
    tokio::task::spawn_blocking(work).await.map_err(|_panic| Errno(libc::EIO))?
}
