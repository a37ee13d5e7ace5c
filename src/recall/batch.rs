//! Small files come home together: what they wait for at the disk is shared.
//!
//! ```text
//! work list, all of them
//!   -> each: lease, record recalling, extend, all but block 0 -> barrier
//!   -> each: block 0 -> barrier
//!   -> each: mtime, record archived, lease dropped
//! ```
//!
//! The orders of each file are those of one that is filled by itself; a batch only makes them
//! wait for each other. Their bytes are in memory before it begins, and readers are served from
//! there: nobody waits for a batch but who changes or runs a file, or wants it here. One batch is
//! under way at a time, of what came while the one before it was.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::fill::blocking;
use super::in_place::{Filling, Head, intent, put_chunk};
use super::room::Share;
use super::{Recall, RecallError, is_served};
use crate::failpoint::{CrashPoint, reach};
use crate::inode::{Cold, Inode, TierGuard};

/// Files of one batch: their leases are held together, for as long as the disk takes for all.
const BATCH_FILES: usize = 1024;

/// The files that wait for the next batch. Their bound is the turn that each has
/// ([`FILLING_PARTS`](super::FILLING_PARTS)).
#[derive(Debug, Default)]
pub(super) struct Batches(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Coming>,
    /// Whether somebody fills them, and looks again afterwards.
    is_served: bool,
}

/// A file whose bytes are in memory.
#[derive(Debug)]
struct Coming {
    inode: Arc<Inode>,
    cold: Arc<Cold>,
    stop: CancellationToken,
    chunk: Bytes,
    ended: oneshot::Sender<Result<(), RecallError>>,
}

impl Batches {
    /// Fills a file of one chunk along with others, and waits until it is here.
    pub(super) async fn fill(
        &self,
        recall: &Arc<Recall>,
        inode: &Arc<Inode>,
        cold: &Arc<Cold>,
        stop: &CancellationToken,
        chunk: Bytes,
    ) -> Result<(), RecallError> {
        let (ended, end) = oneshot::channel();
        let (inode, cold, stop) = (Arc::clone(inode), Arc::clone(cold), stop.clone());
        if self.add(Coming { inode, cold, stop, chunk, ended }) {
            let server = Arc::clone(recall);
            recall.spawn(async move { serve(&server).await });
        }
        end.await.unwrap_or(Err(RecallError::Detaching))
    }

    /// Adds a file. True: somebody has to serve the queue.
    fn add(&self, coming: Coming) -> bool {
        let mut queue = self.lock();
        queue.waiting.push(coming);
        !std::mem::replace(&mut queue.is_served, true)
    }

    /// What the next batch is made of; none: nobody serves the queue any more.
    fn take(&self) -> Option<Vec<Coming>> {
        let mut queue = self.lock();
        let count = queue.waiting.len().min(BATCH_FILES);
        queue.is_served = count > 0;
        (count > 0).then(|| queue.waiting.drain(..count).collect())
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(recall: &Arc<Recall>) {
    while let Some(batch) = recall.batches.take() {
        let on_recall = Arc::clone(recall);
        let ended = blocking(move || {
            Run { recall: &on_recall, unfinished: false }.all(batch);
            Ok(())
        });
        if let Err(error) = ended.await {
            tracing::error!(%error, "a batch of recalls ended by a fault");
        }
    }
}

/// A file of a batch on its way.
struct Begun {
    coming: Coming,
    filling: Filling,
    head: Option<Head>,
}

/// A batch on its way.
struct Run<'a> {
    recall: &'a Recall,
    /// A body is in a state that recovery has to look at.
    unfinished: bool,
}

impl Run<'_> {
    fn all(mut self, batch: Vec<Coming>) {
        let tenant = &self.recall.tenant;
        let intents: Vec<_> = batch.iter().map(|coming| intent(&coming.inode)).collect();
        let ticket = match tenant.work.begin(&intents) {
            Ok(ticket) => ticket,
            Err(error) => {
                let error = RecallError::from(error);
                return batch.into_iter().for_each(|coming| coming.end(Err(error.clone())));
            }
        };
        reach(CrashPoint::BatchAfterIntent);
        let begun = batch.into_iter().filter_map(|coming| self.begin(coming)).collect();
        let begun = self.barrier(begun);
        reach(CrashPoint::BatchAfterTail);
        let mut whole = Vec::with_capacity(begun.len());
        for mut file in begun {
            match file.coming.wanted().and_then(|()| file.filling.put_head(file.head.as_deref())) {
                Ok(()) => whole.push(file),
                Err(error) => self.undo(file, error),
            }
        }
        let whole = self.barrier(whole);
        reach(CrashPoint::BatchAfterSync);
        for file in whole {
            let mut held = self.tier(&file.coming.inode);
            match file.filling.finish(tenant, &mut held) {
                Ok(()) => {
                    drop(held);
                    file.coming.end(Ok(()));
                }
                // Under the same lock: whoever waits for it may change the file.
                Err(error) => self.undo_held(file, held, error),
            }
        }
        if self.unfinished {
            ticket.leave();
        }
    }

    /// Writes all of a file but its first block.
    fn begin(&mut self, coming: Coming) -> Option<Begun> {
        match self.try_begin(&coming) {
            // What is written is the filesystem's to know: the share ends here.
            Ok((filling, _share)) => match put_chunk(&coming.cold, 0, &coming.chunk, None) {
                Ok(head) => {
                    reach(CrashPoint::BatchAfterChunk);
                    return Some(Begun { coming, filling, head });
                }
                Err(error) => self.undo(Begun { coming, filling, head: None }, error),
            },
            Err(error) => coming.end(Err(error)),
        }
        None
    }

    fn try_begin(&self, coming: &Coming) -> Result<(Filling, Share), RecallError> {
        coming.wanted()?;
        let Coming { inode, cold, .. } = coming;
        let tenant = &self.recall.tenant;
        let mut held = self.tier(inode);
        // It was asked for outside the lock: the file may be another by now.
        if !is_served(inode, cold) {
            return Err(RecallError::Superseded);
        }
        let (filling, share) = Filling::take(tenant, inode, cold, &self.recall.room)?;
        filling.begin(tenant, &mut held)?;
        Ok((filling, share))
    }

    /// Makes the bodies of all these durable; those with which that fails are stubs again.
    fn barrier(&mut self, files: Vec<Begun>) -> Vec<Begun> {
        let bodies: Vec<_> = files.iter().map(|file| &**file.filling.file()).collect();
        let synced = self.recall.tenant.sync_bodies(&bodies);
        let mut good = Vec::with_capacity(files.len());
        for (file, synced) in files.into_iter().zip(synced) {
            match synced {
                Ok(()) => good.push(file),
                Err(error) => self.undo(file, error.into()),
            }
        }
        good
    }

    fn undo(&mut self, file: Begun, error: RecallError) {
        let held = self.tier(&file.coming.inode);
        self.undo_held(file, held, error);
    }

    fn undo_held(&mut self, file: Begun, mut held: TierGuard, error: RecallError) {
        self.unfinished |= !file.filling.undo(&self.recall.tenant, &mut held);
        drop(held);
        file.coming.end(Err(error));
    }

    /// The tier lock of a file that is being filled: whoever has it has it for a moment.
    fn tier(&self, inode: &Inode) -> TierGuard {
        inode.try_tier().unwrap_or_else(|| self.recall.runtime.block_on(inode.tier()))
    }
}

impl Coming {
    /// An error once it need not come any more. A detach waits for it: it was read, and its bytes
    /// are here.
    fn wanted(&self) -> Result<(), RecallError> {
        if self.stop.is_cancelled() { Err(RecallError::Cancelled) } else { Ok(()) }
    }

    fn end(self, result: Result<(), RecallError>) {
        // Who asked for it is gone only where the runtime is.
        drop(self.ended.send(result));
    }
}
