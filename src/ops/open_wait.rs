//! What an open waits for before it is answered: the guard, the bytes of a small file, the whole of
//! one that is to be changed or run, somebody else's lease.

use std::sync::Arc;

use super::open::{OpenRequest, Opened, Step, Wait, blocking};
use super::patience::Patience;
use super::{Errno, Ops};
use crate::guard::{Visit, Why};
use crate::inode::{Cold, Fill, Inode, Serving};
use crate::recall::RecallError;
use crate::recover::{Ordered, put_in_order};

impl Ops {
    /// Goes on without waiting for anybody, where that can be; else what is to be waited for. To
    /// wake another thread costs more than all that is done here.
    pub(super) fn at_once(
        &self,
        inode: &Arc<Inode>,
        request: &mut OpenRequest,
        wait: Wait,
    ) -> Result<Option<Wait>, Errno> {
        match wait {
            Wait::Guard(cold) => {
                let visit = self.visit_of(inode, &cold, request);
                match visit.admit_at_once() {
                    Some(admitted) => {
                        admitted.map_err(|denied| Errno::at_open(&denied))?;
                        request.visit = Some(visit);
                        Ok(None)
                    }
                    None => Ok(Some(Wait::Budget(visit))),
                }
            }
            Wait::Fill(cold)
                if !request.wants_it_home(&cold) && self.recall.hold_at_once(inode, &cold) =>
            {
                request.fill_waited = true;
                Ok(None)
            }
            other => Ok(Some(other)),
        }
    }

    pub(super) async fn open_later(
        self: Arc<Self>,
        inode: Arc<Inode>,
        mut request: OpenRequest,
        mut first: Option<Wait>,
    ) -> Result<Opened, Errno> {
        // A caller that is killed drops this future wherever it is.
        let mut unused = CloseUnused::of(&self, &inode);
        let mut patience = Patience::new();
        loop {
            let wait = match first.take() {
                None | Some(Wait::Disk) => match self.step_with_time(&inode, &request).await? {
                    Step::Done(opened) => {
                        unused.inode = None;
                        return Ok(opened);
                    }
                    Step::Wait(wait) => wait,
                },
                Some(wait) => wait,
            };
            match wait {
                Wait::Disk => return Err(Errno(libc::EIO)),
                Wait::Order(file) => {
                    let _held = inode.tier().await;
                    let patience = self.recall.options().deadline;
                    match put_in_order(&self.tenant, &inode, &file, patience).await? {
                        Ordered::Done => {}
                        Ordered::Unrecorded => request.proven_here = true,
                        Ordered::Waits(error) => return Err(error.into()),
                    }
                }
                Wait::Lease => {
                    if patience.is_over() {
                        return Err(Errno(libc::EBUSY));
                    }
                    patience.wait().await;
                }
                Wait::Stop(cold) => stop_fill(&cold).await,
                Wait::Guard(cold) => {
                    first = Some(Wait::Budget(self.visit_of(&inode, &cold, &request)));
                }
                Wait::Budget(visit) => {
                    visit.admit().await.map_err(|denied| Errno::at_open(&denied))?;
                    request.visit = Some(visit);
                }
                Wait::Fill(cold) => match self.fill(&inode, &cold, &request).await? {
                    Ok(()) => request.fill_waited = !request.wants_it_home(&cold),
                    Err(
                        RecallError::NoSpace { .. } | RecallError::Unwritable | RecallError::Busy,
                    ) if !request.exec => {
                        request.fill_waited = true;
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

    /// A step of an open, on a thread that has the disk's time where it is needed.
    async fn step_with_time(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        request: &OpenRequest,
    ) -> Result<Step, Errno> {
        let mut held = inode.tier().await;
        match self.open_step(inode, &mut held, request, false)? {
            Step::Wait(Wait::Disk) => {}
            step => return Ok(step),
        }
        let (ops, inode, request) = (Arc::clone(self), Arc::clone(inode), request.clone());
        blocking(move || ops.open_step(&inode, &mut held, &request, true)).await
    }

    /// The guard's question for an open of a cold file.
    fn visit_of(&self, inode: &Inode, cold: &Cold, request: &OpenRequest) -> Arc<Visit> {
        let why = match (request.exec, request.writable) {
            (true, _) => Why::Exec,
            (false, true) => Why::Write,
            (false, false) => Why::Read,
        };
        let at_once = request.exec || self.is_recalled_in_open(cold);
        let bytes = if at_once { cold.place.packing.packed_bytes() } else { 0 };
        self.visit(request.caller, inode, cold, why, bytes)
    }

    /// Waits until the whole file is here, for a reader in memory, or whoever waits is cancelled:
    /// nobody else waiting, the recall ends too.
    async fn fill(
        &self,
        inode: &Arc<Inode>,
        cold: &Arc<Cold>,
        request: &OpenRequest,
    ) -> Result<Result<(), RecallError>, Errno> {
        let whole = async {
            match request.wants_it_home(cold) {
                true => self.recall.whole(inode, cold).await,
                false => self.recall.in_memory(inode, cold).await,
            }
        };
        let Some(visit) = &request.visit else { return Ok(whole.await) };
        visit.waiting(whole).await.map_err(|denied| {
            if !cold.is_waited_for_by_others() {
                // Whoever comes just now begins another.
                cold.unwant_fill();
            }
            Errno::at_open(&denied)
        })
    }
}

/// Closes a file that an open, or a change of its size, left cold and nobody uses.
pub(super) struct CloseUnused {
    ops: Arc<Ops>,
    /// None: it was opened.
    inode: Option<Arc<Inode>>,
}

impl CloseUnused {
    pub(super) fn of(ops: &Arc<Ops>, inode: &Arc<Inode>) -> Self {
        Self { ops: Arc::clone(ops), inode: Some(Arc::clone(inode)) }
    }
}

impl Drop for CloseUnused {
    fn drop(&mut self) {
        if let Some(inode) = self.inode.take()
            && matches!(inode.serving(), Serving::Cold(_))
        {
            self.ops.recall.spawn(async move { inode.close_if_unused(&mut *inode.tier().await) });
        }
    }
}

/// Stops a fill and waits until the body is the stub again.
pub(super) async fn stop_fill(cold: &Cold) {
    let mut fill = cold.watch_fill();
    cold.unwant_fill();
    // An error: nobody fills it any more.
    drop(fill.wait_for(|fill| !matches!(fill, Fill::Running(_) | Fill::Held(_))).await);
}
