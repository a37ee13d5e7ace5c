//! What happens when a cold file is read.
//!
//! A read of a stub is served by chunks from the store ([`chunks`]): one GET each, shared by
//! all who want it, kept in a bounded cache. A file that is read through, small, or asked for
//! by a person is filled in place ([`fill`], [`in_place`]): under a lease, block 0 last, so that a
//! kill at any moment leaves a stub; readers are served meanwhile from what the fill fetches.
//! Small files are fetched into memory, served from there, and filled many at once ([`batch`]).
//!
//! Nothing here runs on a FUSE thread. Every wait for the store ends at a deadline.

use std::array::from_fn;
use std::fs::File;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::inode::{
    Cold, Fill, FillError, Inode, Inodes, Place, Refusal, SAME_ANSWER_FOR, Serving, Stop,
};
use crate::record::Record;
use crate::segment::{EntryPlace, Packing, segment_key};
use crate::store::governor::carried;
use crate::stub::Stub;
use crate::tenant::Tenant;
use crate::tier::State;

mod ahead;
mod batch;
mod chunks;
mod error;
mod fill;
mod in_place;
mod insist;
mod lane;
mod memory;
mod neighbours;
mod order;
mod privileges;
mod room;
mod run;

use batch::Batches;
pub use chunks::Chunks;
pub use error::RecallError;
pub(crate) use in_place::{cut_to_stub, restore_mtime};
pub use insist::{prove_remote, remote_index};
use lane::{PerLane, READERS, lane};
pub use memory::Memory;
pub(crate) use privileges::Privileges;
use run::RUN_CHUNKS;

/// What of a recall can be turned (DESIGN.md, admission).
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A cold read fails after this long without a byte.
    pub deadline: Duration,
    /// What a stub of up to this size stands for is fetched inside `open`.
    pub whole_in_open_bytes: u64,
    /// A stub of up to this size is recalled whole by its first read.
    pub whole_streaming_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(60),
            whole_in_open_bytes: 1 << 20,
            whole_streaming_bytes: 16 << 20,
        }
    }
}

/// A larger file is recalled whole once this share of it has been read: one in four.
const WHOLE_AT_SHARE: u64 = 4;
/// Chunks that one fill fetches at once.
const FILL_CHUNKS_AT_ONCE: u32 = 2 * RUN_CHUNKS;
/// What all fills of a tenant in one lane hold in memory at once, in parts: 32 MiB, and no more
/// files than parts, which each keep a descriptor. More fills wait.
const FILLING_PARTS: u32 = 1024;
const PART_BYTES: u64 = 32 << 10;

/// The recalls of a tenant.
pub struct Recall {
    tenant: Arc<Tenant>,
    inodes: Arc<Inodes>,
    chunks: Arc<Chunks>,
    options: Options,
    runtime: tokio::runtime::Handle,
    tasks: TaskTracker,
    filling: PerLane<Arc<Semaphore>>,
    batches: Batches,
    stop: CancellationToken,
    room: room::Room,
}

impl Recall {
    /// Recalls for a tenant. `chunks` may be shared with other tenants of the same store.
    pub fn new(
        tenant: Arc<Tenant>,
        inodes: Arc<Inodes>,
        chunks: Arc<Chunks>,
        options: Options,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        Self {
            tenant,
            inodes,
            chunks,
            options,
            runtime,
            tasks: TaskTracker::new(),
            filling: from_fn(|_lane| Arc::new(Semaphore::new(FILLING_PARTS as usize))),
            batches: Batches::default(),
            stop: CancellationToken::new(),
            room: room::Room::default(),
        }
    }

    /// What was turned.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Runs something for this tenant in the background.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(work, &self.runtime);
    }

    /// Ends: fills under way are cut back, and nothing of them is running any more.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The cold file that a record and its stub describe.
    pub fn cold(
        &self,
        record: Record,
        stub: Stub,
        file: Arc<File>,
    ) -> Result<Arc<Cold>, RecallError> {
        let damaged = |what: String| RecallError::Damaged { at: record.at, what };
        let packing =
            Packing::new(stub.size_bytes, &stub.extents).map_err(|bad| damaged(bad.to_string()))?;
        let packed = packing.packed_bytes();
        let entry = EntryPlace::new(record.at, stub.data_offset, packed, stub.chunk_bytes)
            .map_err(|bad| damaged(bad.to_string()))?;
        let key = segment_key(&self.tenant.name, record.at.segment);
        let place = Place { key, entry, packing, size_bytes: stub.size_bytes };
        Ok(Arc::new(Cold::new(stub, record, place, file)))
    }

    /// Up to `size` bytes at `offset`; fewer only at the end of the file. `keeps`: whether this
    /// reader may bring the file home.
    pub async fn read(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        cold: &Arc<Cold>,
        offset: u64,
        size: u32,
        keeps: bool,
    ) -> Result<Bytes, RecallError> {
        let end = offset.saturating_add(size.into()).min(cold.place.size_bytes);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let refused = cold.progress(|progress| refusal_of_just_now(progress.refusal.as_ref()));
        if refused.is_none() {
            self.plan(inode, cold, offset..end, keeps);
        }
        let mut cancels = cold.watch_cancels();
        let read = tokio::select! {
            biased;
            read = self.chunks.read(&cold.place, offset..end, self.options.deadline) => read,
            Some(error) = std::future::ready(refused) => return Err(error),
            _ = cancels.changed() => Err(RecallError::Cancelled),
        };
        if read.is_ok() {
            cold.progress(|progress| progress.refusal = None);
        }
        match &read {
            Err(error @ (RecallError::Deadline { .. } | RecallError::Cancelled)) => {
                let at = tokio::time::Instant::now();
                let error = Arc::new(error.clone());
                cold.progress(|progress| progress.refusal = Some(Refusal { at, error }));
            }
            Err(error) if error.is_loss() => {
                self.note_state(inode, cold, State::Lost).await;
            }
            Ok(_) if cold.record.state == State::Lost => {
                self.note_state(inode, cold, State::Released).await;
            }
            Ok(_) | Err(_) => {}
        }
        read
    }

    /// The same, at once, where the whole file is in memory.
    pub fn read_held(cold: &Cold, offset: u64, size: u32) -> Option<Bytes> {
        let chunk = cold.held_chunk()?;
        let end = offset.saturating_add(size.into()).min(cold.place.size_bytes);
        Some(match offset < end {
            true => chunks::read_held(&cold.place, &chunk, offset..end),
            false => Bytes::new(),
        })
    }

    /// Decides what this read begins: a fill, a read-ahead, or nothing.
    fn plan(self: &Arc<Self>, inode: &Arc<Inode>, cold: &Arc<Cold>, read: Range<u64>, keeps: bool) {
        let Range { start: offset, end } = read;
        let (in_a_row, read) = cold.progress(|progress| {
            progress.bytes_read += end - offset;
            (ahead::in_a_row(progress, offset, end), progress.bytes_read)
        });
        let size = cold.place.size_bytes;
        let whole = size <= self.options.whole_streaming_bytes || read >= size / WHOLE_AT_SHARE;
        let never_tried = matches!(*cold.watch_fill().borrow(), Fill::Idle);
        if keeps && whole && never_tried && self.tenant.may_move() {
            self.start_fill(inode, cold);
        } else if let Some(in_a_row) = in_a_row
            && let Some(packed) = cold.place.packing.packed_range(end..size)
        {
            self.chunks.read_ahead(&cold.place, packed.start, in_a_row, self.options.deadline);
        }
    }

    /// Recalls a whole file and waits until it is here, or has become another: the caller looks
    /// at it again.
    pub async fn whole(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        cold: &Arc<Cold>,
    ) -> Result<(), RecallError> {
        self.until(inode, cold, |fill| match fill {
            Fill::Done | Fill::Failed(_) => true,
            Fill::Idle | Fill::Running(_) | Fill::Held(_) => false,
        })
        .await
    }

    /// Recalls a small file, and waits until its bytes are in memory, or it has become another. It
    /// comes home behind whoever reads it from there.
    pub async fn in_memory(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        cold: &Arc<Cold>,
    ) -> Result<(), RecallError> {
        let joins = !matches!(*cold.watch_fill().borrow(), Fill::Idle);
        // A fill that others began may be in no hurry: what it waits for is fetched beside it.
        let beside = joins && lane() == READERS && cold.place.entry.chunk_count() == 1;
        let held = self.until(inode, cold, |fill| match fill {
            Fill::Held(_) | Fill::Done | Fill::Failed(_) => true,
            Fill::Idle | Fill::Running(_) => false,
        });
        tokio::select! {
            biased;
            held = held => held,
            Ok(_here) = self.chunks.get(&cold.place, 0, self.options.deadline), if beside => Ok(()),
        }
    }

    async fn until(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        cold: &Arc<Cold>,
        is_reached: impl Fn(&Fill) -> bool,
    ) -> Result<(), RecallError> {
        let mut fill = cold.watch_fill();
        let ended = fill.wait_for(|fill| !fill.is_cancelled()).await;
        drop(ended.map_err(|_gone| RecallError::Detaching)?);
        let joined = self.start_fill(inode, cold);
        // Others may have begun anew before anybody here heard of the end.
        let is_over = || joined.as_ref().is_some_and(|joined| joined.is_by_a_person());
        let of_others = |fill: &Fill| match (fill.stop(), &joined) {
            (Some(now), Some(joined)) => !Arc::ptr_eq(now, joined),
            _ => false,
        };
        let reached = fill.wait_for(|fill| is_reached(fill) || (is_over() && of_others(fill)));
        let reached = reached.await.map_err(|_gone| RecallError::Detaching)?;
        match &*reached {
            // Whatever became of the others' since.
            Fill::Failed(_) if is_over() => Err(RecallError::Cancelled),
            Fill::Failed(error) => match as_recall_error(error) {
                RecallError::Superseded => Ok(()),
                error => Err(error),
            },
            fill if is_reached(fill) => Ok(()),
            _begun_anew => Err(RecallError::Cancelled),
        }
    }

    /// Begins a fill, unless one is under way or done; what stops the one that is under way.
    fn start_fill(self: &Arc<Self>, inode: &Arc<Inode>, cold: &Arc<Cold>) -> Option<Arc<Stop>> {
        let (begun, stop) = cold.begin_fill();
        if let (true, Some(stop)) = (begun, stop.clone()) {
            let (recall, inode, cold) = (Arc::clone(self), Arc::clone(inode), Arc::clone(cold));
            self.spawn(carried(async move {
                let filled = fill::run(&recall, &inode, &cold, &stop.token).await;
                recall.end_fill(inode, &cold, &stop, filled).await;
            }));
        }
        stop
    }

    /// Begins the recall of a small file whose bytes are in memory already, and waits for nothing.
    /// False: they are not, there is no turn for it, or recalls are over: whoever wants them has to
    /// wait, or is told.
    pub fn hold_at_once(self: &Arc<Self>, inode: &Arc<Inode>, cold: &Arc<Cold>) -> bool {
        if self.stop.is_cancelled() {
            return false;
        }
        let Some(turn) = fill::turn_at_once(self, cold) else { return false };
        let Some(chunk) = self.chunks.small_at_hand(&cold.place) else { return false };
        let (true, Some(stop)) = cold.begin_fill() else { return cold.held_chunk().is_some() };
        cold.hold(chunk.clone());
        let (recall, inode, cold) = (Arc::clone(self), Arc::clone(inode), Arc::clone(cold));
        self.spawn(async move {
            let _turn = turn;
            let filled = recall.batches.fill(&recall, &inode, &cold, &stop.token, chunk).await;
            recall.end_fill(inode, &cold, &stop, filled).await;
        });
        true
    }

    async fn end_fill(
        &self,
        inode: Arc<Inode>,
        cold: &Arc<Cold>,
        stop: &Stop,
        filled: Result<(), RecallError>,
    ) {
        let ended = match filled {
            Ok(()) => Fill::Done,
            Err(RecallError::Cancelled | RecallError::Superseded)
                if stop.is_unwanted() || !is_served(&inode, cold) =>
            {
                Fill::Failed(Arc::new(RecallError::Superseded))
            }
            Err(error) => {
                let path = self.tenant.path_of(&cold.file).unwrap_or_default();
                let at = cold.record.at;
                tracing::warn!(ino = %inode.ino, path, %at, %error, "recall failed");
                if error.is_loss() {
                    self.note_state(&inode, cold, State::Lost).await;
                }
                Fill::Failed(Arc::new(error))
            }
        };
        cold.end_fill(ended);
        inode.close_if_unused(&mut *inode.tier().await);
        self.inodes.let_go(inode);
    }

    /// Writes down that a released file's bytes are missing, or there again.
    async fn note_state(&self, inode: &Inode, cold: &Cold, state: State) {
        let _held = inode.tier().await;
        let noted = match self.tenant.record(&*cold.file, inode) {
            Ok(Some(mut record)) if matches!(record.state, State::Released | State::Lost) => {
                record.state = state;
                self.tenant.set_record(&*cold.file, inode, &record)
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = noted {
            tracing::error!(ino = %inode.ino, %error, "cannot record the state {}", state.word());
        }
    }
}

fn is_served(inode: &Inode, cold: &Arc<Cold>) -> bool {
    matches!(inode.serving(), Serving::Cold(now) if Arc::ptr_eq(&now, cold))
}

fn as_recall_error(error: &FillError) -> RecallError {
    error.downcast_ref::<RecallError>().cloned().unwrap_or(RecallError::Detaching)
}

fn refusal_of_just_now(refusal: Option<&Refusal>) -> Option<RecallError> {
    let Refusal { at, error } = refusal?;
    (at.elapsed() < SAME_ANSWER_FOR).then(|| as_recall_error(error))
}

impl std::fmt::Debug for Recall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recall").field("options", &self.options).finish_non_exhaustive()
    }
}
