//! Filling a stub in place.
//!
//! ```text
//! work list -> record recalling -> lease, extend -> chunks, where its reader is first, block 0
//!   kept back -> fdatasync
//!   -> block 0 -> fdatasync -> mtime -> record archived
//! ```
//!
//! A file of several chunks is filled by itself, as they come. One of a single chunk is fetched
//! into memory first, and then filled along with others ([`batch`](super::batch)).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::in_place::{Filling, Head, intent, put_chunk};
use super::lane::lane;
use super::order::Order;
use super::room::Share;
use super::{
    FILL_CHUNKS_AT_ONCE, FILLING_PARTS, PART_BYTES, RUN_CHUNKS, Recall, RecallError, is_served,
};
use crate::failpoint::{CrashPoint, reach};
use crate::inode::{Cold, Inode};
use crate::segment::layout::CHUNK_BYTES;

/// How often a fill looks whether somebody behind the mount wants the file.
const LEASE_LOOK: Duration = Duration::from_secs(1);

pub(super) async fn run(
    recall: &Arc<Recall>,
    inode: &Arc<Inode>,
    cold: &Arc<Cold>,
    stop: &CancellationToken,
) -> Result<(), RecallError> {
    let _turn = turn(recall, cold, stop).await?;
    if cold.place.entry.chunk_count() > 1 {
        return alone(recall, inode, cold, stop).await;
    }
    let chunk = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(RecallError::Cancelled),
        () = recall.stop.cancelled() => return Err(RecallError::Detaching),
        chunk = only_chunk(recall, cold) => chunk?,
    };
    cold.hold(chunk.clone());
    recall.batches.fill(recall, inode, cold, stop, chunk).await
}

/// The bytes of a file of at most one chunk.
async fn only_chunk(recall: &Recall, cold: &Cold) -> Result<Bytes, RecallError> {
    match cold.place.entry.chunk_count() {
        0 => Ok(Bytes::new()),
        _ => recall.chunks.get(&cold.place, 0, recall.options.deadline).await,
    }
}

/// Fills a file by itself.
async fn alone(
    recall: &Recall,
    inode: &Arc<Inode>,
    cold: &Arc<Cold>,
    stop: &CancellationToken,
) -> Result<(), RecallError> {
    let tenant = Arc::clone(&recall.tenant);
    let (on_inode, on_cold) = (Arc::clone(inode), Arc::clone(cold));
    let mut held = inode.tier().await;
    // It was asked for outside the lock: the file may be another by now.
    if !is_served(inode, cold) {
        return Err(RecallError::Superseded);
    }
    let room = recall.room.clone();
    let begun = blocking(move || {
        let (filling, share) = Filling::take(&tenant, &on_inode, &on_cold, &room)?;
        let ticket = tenant.work.begin(&[intent(&on_inode)])?;
        reach(CrashPoint::RecallAfterIntent);
        filling.begin(&tenant, &mut held)?;
        Ok((filling, share, ticket))
    });
    let (mut filling, mut share, ticket) = begun.await?;
    let filled = fill(recall, cold, &filling, &mut share, stop).await;
    let tenant = Arc::clone(&recall.tenant);
    let mut held = inode.tier().await;
    blocking(move || {
        let whole = filled.and_then(|head| {
            filling.file().sync_data()?;
            reach(CrashPoint::RecallAfterTail);
            filling.put_head(head.as_deref())?;
            filling.file().sync_data()?;
            reach(CrashPoint::RecallAfterSync);
            filling.finish(&tenant, &mut held)
        });
        if whole.is_err() && !filling.undo(&tenant, &mut held) {
            ticket.leave();
        }
        whole
    })
    .await
}

/// Waits until this fill may hold its bytes in memory, and its file open.
async fn turn<'recall>(
    recall: &'recall Recall,
    cold: &Cold,
    stop: &CancellationToken,
) -> Result<SemaphorePermit<'recall>, RecallError> {
    let parts = parts(cold);
    let deadline = recall.options.deadline;
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(RecallError::Cancelled),
        () = recall.stop.cancelled() => Err(RecallError::Detaching),
        turn = recall.filling[lane()].acquire_many(parts) => turn.map_err(|_closed| RecallError::Detaching),
        () = tokio::time::sleep(deadline) => {
            Err(RecallError::Queued { at: cold.record.at, deadline })
        }
    }
}

/// The same, where it need not wait.
pub(super) fn turn_at_once(recall: &Recall, cold: &Cold) -> Option<OwnedSemaphorePermit> {
    Arc::clone(&recall.filling[lane()]).try_acquire_many_owned(parts(cold)).ok()
}

fn parts(cold: &Cold) -> u32 {
    let most = u64::from(FILL_CHUNKS_AT_ONCE) * u64::from(CHUNK_BYTES);
    let parts = cold.place.packing.packed_bytes().clamp(1, most).div_ceil(PART_BYTES);
    u32::try_from(parts).unwrap_or(FILLING_PARTS).min(FILLING_PARTS)
}

/// Fetches everything and writes it but for block 0, which it returns. It stops between two
/// chunks only: once it has returned, nothing writes to the file any more.
async fn fill(
    recall: &Recall,
    cold: &Arc<Cold>,
    filling: &Filling,
    share: &mut Share,
    stop: &CancellationToken,
) -> Result<Option<Head>, RecallError> {
    let chunk_count = cold.place.entry.chunk_count();
    let mut head = None;
    let mut order = Order::new(chunk_count, recall.chunks.first_kept(&cold.place, reader_at(cold)));
    let order = std::iter::from_fn(|| order.take(reader_at(cold)));
    let mut chunks = futures::stream::iter(order)
        .map(|number| async move {
            let deadline = recall.options.deadline;
            let run_end = number.saturating_add(1).next_multiple_of(RUN_CHUNKS);
            let run = number..run_end.min(chunk_count);
            recall.chunks.fetch_runs(&cold.place, run, deadline);
            (number, recall.chunks.get(&cold.place, number, deadline).await)
        })
        .buffered(FILL_CHUNKS_AT_ONCE as usize);
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(RecallError::Cancelled),
            () = recall.stop.cancelled() => return Err(RecallError::Detaching),
            next = chunks.next() => next,
            () = tokio::time::sleep(LEASE_LOOK) => {
                filling.check_lease()?;
                continue;
            }
        };
        let Some((number, chunk)) = next else { return Ok(head) };
        let chunk = chunk?;
        let (cold, lease) = (Arc::clone(cold), Arc::clone(filling.lease()));
        let (kept, length) = (head.take(), chunk.len() as u64);
        head = blocking(move || {
            if !lease.is_unbroken() {
                return Err(RecallError::Busy);
            }
            let head = put_chunk(&cold, number, &chunk, kept)?;
            reach(CrashPoint::RecallAfterChunk);
            Ok(head)
        })
        .await?;
        share.written(length);
    }
}

/// The chunk that a reader of the file will want next; one too far where it wants none any more.
fn reader_at(cold: &Cold) -> u32 {
    let next = cold.progress(|progress| progress.next_offset);
    let (entry, packing) = (&cold.place.entry, &cold.place.packing);
    let packed = packing.packed_range(next..cold.place.size_bytes);
    packed.map_or(entry.chunk_count(), |packed| entry.chunks_of(packed).start)
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RecallError> + Send + 'static,
) -> Result<T, RecallError> {
    tokio::task::spawn_blocking(work).await.map_err(|_panic| RecallError::Detaching)?
}
