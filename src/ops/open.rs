//! Opening: where a reader or writer meets a migration.
//!
//! The first open of a file fixes how it is served until its last close (a rule of the
//! kernel's). What is local is served by passthrough where the kernel allows it; what is
//! remote by the daemon, from the store. A small stub is recalled inside `open`, so that it
//! opens as a local file; so is a program that is about to run, because a mapping cannot
//! return an errno.

use std::fs::File;
use std::io;
use std::sync::Arc;

use nix::sys::stat::fstat;

use super::io::set_size;
use super::patience::Patience;
use super::{Answer, Caller, Errno, Fh, Ops};
use crate::failpoint::{CrashPoint, reach};
use crate::file_id::{Ino, TimeNs};
use crate::guard::{Visit, Why};
use crate::inode::{Backing, Body, Cold, Fill, Inode, Serving, Suspect, TierGuard};
use crate::recall::RecallError;
use crate::record::Record;
use crate::recover::{Finding, Ordered, find, put_in_order};
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
    /// Whether a recall inside this open was tried and cannot be had.
    pub(super) whole_refused: bool,
    /// Whether its bytes are proven to be here, whatever its record says.
    pub(super) proven_here: bool,
    /// As what the guard let it through, once the file was seen to be cold.
    pub(super) visit: Option<Arc<Visit>>,
    pub(super) door: Arc<dyn RegisterBacking>,
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
        let request = OpenRequest {
            caller,
            writable: flags & libc::O_ACCMODE != libc::O_RDONLY,
            truncate: flags & libc::O_TRUNC != 0,
            exec: flags & FMODE_EXEC != 0,
            whole_refused: false,
            proven_here: false,
            visit: None,
            door,
        };
        if let Some(mut held) = inode.try_tier() {
            match self.open_step(&inode, &mut held, &request, false) {
                Ok(Step::Done(opened)) => return Answer::Now(Ok(opened)),
                Err(error) => return Answer::Now(Err(error)),
                Ok(Step::Wait(_)) => {}
            }
        }
        let ops = Arc::clone(self);
        Answer::later(async move { ops.open_later(inode, request).await })
    }

    async fn open_later(
        self: Arc<Self>,
        inode: Arc<Inode>,
        mut request: OpenRequest,
    ) -> Result<Opened, Errno> {
        // A caller that is killed drops this future wherever it is.
        let _unused = CloseUnused { ops: Arc::clone(&self), inode: Arc::clone(&inode) };
        let mut patience = Patience::new();
        loop {
            let held = inode.tier().await;
            let step = {
                let (ops, inode, request) =
                    (Arc::clone(&self), Arc::clone(&inode), request.clone());
                let mut held = held;
                blocking(move || ops.open_step(&inode, &mut held, &request, true)).await?
            };
            match step {
                Step::Done(opened) => return Ok(opened),
                Step::Wait(Wait::Disk) => return Err(Errno(libc::EIO)),
                Step::Wait(Wait::Order(file)) => {
                    let _held = inode.tier().await;
                    let patience = self.recall.options().deadline;
                    match put_in_order(&self.tenant, &inode, &file, patience).await? {
                        Ordered::Done => {}
                        Ordered::Unrecorded => request.proven_here = true,
                        Ordered::Waits(error) => return Err(error.into()),
                    }
                }
                Step::Wait(Wait::Lease) => {
                    if patience.is_over() {
                        return Err(Errno(libc::EBUSY));
                    }
                    patience.wait().await;
                }
                Step::Wait(Wait::Stop(cold)) => stop_fill(&cold).await,
                Step::Wait(Wait::Guard(cold)) => {
                    request.visit = Some(self.pass_guard(&inode, &cold, &request).await?);
                }
                Step::Wait(Wait::Fill(cold)) => match self.fill(&inode, &cold, &request).await? {
                    Ok(()) => {}
                    Err(
                        RecallError::NoSpace { .. } | RecallError::Unwritable | RecallError::Busy,
                    ) if !request.exec => {
                        request.whole_refused = true;
                    }
                    // A program cannot be served chunk by chunk: whoever is in the way goes soon.
                    Err(RecallError::Busy) if !patience.is_over() => {
                        patience.wait().await;
                    }
                    Err(error) => {
                        if let Some(visit) = &request.visit {
                            visit.failed(&error);
                        }
                        return Err(error.into());
                    }
                },
            }
        }
    }

    /// Asks the guard for an open of a cold file.
    async fn pass_guard(
        &self,
        inode: &Inode,
        cold: &Cold,
        request: &OpenRequest,
    ) -> Result<Arc<Visit>, Errno> {
        let why = match (request.exec, request.writable) {
            (true, _) => Why::Exec,
            (false, true) => Why::Write,
            (false, false) => Why::Read,
        };
        let at_once = request.exec || self.is_recalled_in_open(cold);
        let bytes = if at_once { cold.record.size_bytes } else { 0 };
        let visit = self.visit(request.caller, inode, cold, why, bytes);
        visit.admit().await.map_err(|denied| Errno::at_open(&denied))?;
        Ok(visit)
    }

    /// Waits until the whole file is here, or whoever waits is cancelled: nobody else waiting,
    /// the recall ends too.
    async fn fill(
        &self,
        inode: &Arc<Inode>,
        cold: &Arc<Cold>,
        request: &OpenRequest,
    ) -> Result<Result<(), RecallError>, Errno> {
        let whole = self.recall.whole(inode, cold);
        let Some(visit) = &request.visit else { return Ok(whole.await) };
        visit.waiting(whole).await.map_err(|denied| {
            if !cold.is_waited_for_by_others() {
                // Whoever comes just now begins another.
                cold.unwant_fill();
            }
            Errno::at_open(&denied)
        })
    }

    fn is_recalled_in_open(&self, cold: &Cold) -> bool {
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
        if request.visit.is_none() && !request.whole_refused {
            return Ok(Step::Wait(Wait::Guard(cold)));
        }
        let keeps = request.visit.as_ref().is_none_or(|visit| visit.keeps());
        let small = self.is_recalled_in_open(&cold);
        let wanted = request.exec || (small && keeps && held.opens == 0);
        if wanted && !request.whole_refused && self.tenant.may_move() {
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
        reach(CrashPoint::ForgetAfterRecord);
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

/// Closes a file that an open left cold and nobody uses.
struct CloseUnused {
    ops: Arc<Ops>,
    inode: Arc<Inode>,
}

impl Drop for CloseUnused {
    fn drop(&mut self) {
        if matches!(self.inode.serving(), Serving::Cold(_)) {
            let inode = Arc::clone(&self.inode);
            self.ops.recall.spawn(async move { inode.close_if_unused(&mut *inode.tier().await) });
        }
    }
}

/// Stops a fill and waits until the body is the stub again.
pub(super) async fn stop_fill(cold: &Cold) {
    let mut fill = cold.watch_fill();
    cold.unwant_fill();
    // An error: nobody fills it any more.
    drop(fill.wait_for(|fill| !matches!(fill, Fill::Running(_))).await);
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
