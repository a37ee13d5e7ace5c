//! Small files lie beside each other in a segment. Whoever reads one often reads the others next,
//! in whatever order: then what lies around is fetched along, in blocks.
//!
//! Nothing here is believed: bytes are checked where they are used, and what does not fit is
//! fetched anew by itself.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use lru::LruCache;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::lane::{PerLane, lane};
use super::memory::{BLOCK_BYTES, Share};
use crate::bounded;
use crate::file_id::{EntryRef, SegmentId};
use crate::inode::Place;
use crate::segment::{ReadError, fetch_chunks, fetch_run, verify_chunks};
use crate::store::{ObjectStore, StoreError};

/// GETs under way at once in a lane; more wait their turn.
pub const FETCHES_AT_ONCE: usize = 32;
/// Blocks fetched along with one whose predecessor is here: somebody reads on.
const BLOCKS_AHEAD: u64 = 3;
/// Segments whose use is remembered.
const SEGMENTS: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// So many small files of a segment within [`SOON`] make whoever reads the next read blocks.
const FILES_BEFORE: u32 = 2;
const SOON: Duration = Duration::from_secs(10);

/// Chunks from a store, small ones with what lies around them.
pub(super) struct Neighbours {
    store: Arc<dyn ObjectStore>,
    permits: PerLane<Semaphore>,
    memory: Arc<Share>,
    state: Mutex<State>,
}

struct State {
    segments: LruCache<SegmentId, Segment>,
    fetched_bytes: u64,
}

/// How a segment is used.
#[derive(Clone)]
struct Segment {
    asked: u32,
    /// The file asked for last: asking for it again says nothing of its neighbours.
    last: Option<u32>,
    since: Instant,
    size_bytes: Option<u64>,
    /// Who fetches blocks of it; the others find them here afterwards.
    turns: PerLane<Arc<tokio::sync::Mutex<()>>>,
}

impl Neighbours {
    /// `memory` keeps blocks.
    pub(super) fn new(store: Arc<dyn ObjectStore>, memory: Arc<Share>) -> Self {
        let state = State { segments: bounded::lru(SEGMENTS), fetched_bytes: 0 };
        let permits = std::array::from_fn(|_lane| Semaphore::new(FETCHES_AT_ONCE));
        Self { store, permits, memory, state: Mutex::new(state) }
    }

    /// The store.
    pub(super) fn store(&self) -> &dyn ObjectStore {
        &*self.store
    }

    /// Bytes that came from the store since the start.
    pub(super) fn fetched_bytes(&self) -> u64 {
        self.lock().fetched_bytes
    }

    /// The packed bytes of a chunk, checked.
    pub(super) async fn chunk(&self, place: &Place, number: u32) -> Result<Bytes, ReadError> {
        let chunks = number..number + 1;
        if place.entry.chunk_count() == 1
            && let Some(run) = self.around(place, place.entry.object_range(chunks.clone())).await?
            && let Some(chunk) = self.proven(place, &run)
        {
            return Ok(chunk);
        }
        let _permit = self.permits[lane()].acquire().await;
        let chunks = fetch_chunks(&*self.store, &place.key, &place.entry, chunks).await?;
        let chunk = chunks.into_iter().next().unwrap_or_default();
        self.lock().fetched_bytes += chunk.len() as u64;
        Ok(chunk)
    }

    /// The packed bytes of a file of one chunk, checked, if what lies around it is here.
    pub(super) fn at_hand(&self, place: &Place) -> Option<Bytes> {
        let run = self.in_blocks(place.entry.at().segment, &place.entry.object_range(0..1))?;
        self.proven(place, &run)
    }

    fn proven(&self, place: &Place, run: &Bytes) -> Option<Bytes> {
        match verify_chunks(&place.entry, 0..1, run) {
            // A copy: a small file that is remembered does not keep blocks in memory.
            Ok(chunks) => Some(Bytes::from(chunks.concat())),
            Err(bad) => {
                tracing::warn!(key = %place.key, %bad, "fetched anew");
                self.forget(place.entry.at().segment);
                None
            }
        }
    }

    /// Hands on the packed bytes of several chunks, each as soon as it is checked; one request.
    pub(super) async fn run(
        &self,
        place: &Place,
        chunks: Range<u32>,
        proven: &mut (dyn FnMut(u32, Bytes) + Send),
    ) -> Result<(), ReadError> {
        let _permit = self.permits[lane()].acquire().await;
        fetch_run(&*self.store, &place.key, &place.entry, chunks, &mut |number, chunk| {
            self.lock().fetched_bytes += chunk.len() as u64;
            proven(number, chunk);
        })
        .await
    }

    /// A range out of blocks; none: nobody reads this segment's files one after the other.
    async fn around(&self, place: &Place, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        let id = place.entry.at().segment;
        if let Some(run) = self.in_blocks(id, &range) {
            return Ok(Some(run));
        }
        let Some(segment) = self.ask(place.entry.at()) else { return Ok(None) };
        let _turn = segment.turns[lane()].lock().await;
        if let Some(run) = self.in_blocks(id, &range) {
            return Ok(Some(run));
        }
        let size_bytes = match segment.size_bytes {
            Some(size) => size,
            None => {
                let _permit = self.permits[lane()].acquire().await;
                self.store.size_bytes(&place.key).await?
            }
        };
        if range.end > size_bytes {
            // Whatever that is: the range itself will tell.
            return Ok(None);
        }
        let first = range.start / BLOCK_BYTES;
        let mut end = range.end.div_ceil(BLOCK_BYTES);
        if first > 0 && self.memory.has_block(id, first - 1) {
            end += BLOCKS_AHEAD;
        }
        let wanted = first * BLOCK_BYTES..(end * BLOCK_BYTES).min(size_bytes);
        let bytes = {
            let _permit = self.permits[lane()].acquire().await;
            self.store.get(&place.key, wanted.clone()).await?
        };
        if bytes.len() as u64 != wanted.end - wanted.start {
            return Ok(None);
        }
        self.keep(id, size_bytes, first, &bytes);
        let within = |offset: u64| usize::try_from(offset - wanted.start).unwrap_or(usize::MAX);
        Ok(Some(bytes.slice(within(range.start)..within(range.end))))
    }

    /// Counts a file of a segment. The segment, where so many were read before.
    fn ask(&self, at: EntryRef) -> Option<Segment> {
        if !self.memory.keeps_blocks() {
            return None;
        }
        let mut state = self.lock();
        let now = Instant::now();
        let turns = PerLane::default;
        let unused =
            || Segment { asked: 0, last: None, since: now, size_bytes: None, turns: turns() };
        let segment = state.segments.get_or_insert_mut(at.segment, unused);
        if now.duration_since(segment.since) > SOON {
            segment.asked = 0;
        }
        segment.since = now;
        if segment.last.replace(at.entry) != Some(at.entry) {
            segment.asked = segment.asked.saturating_add(1);
        }
        (segment.asked > FILES_BEFORE).then(|| segment.clone())
    }

    /// A range of a segment, where all its blocks are here.
    fn in_blocks(&self, id: SegmentId, range: &Range<u64>) -> Option<Bytes> {
        let mut parts = Vec::new();
        for number in range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES) {
            let block = self.memory.block(id, number)?;
            let begin = number * BLOCK_BYTES;
            let within = |offset: u64| {
                let offset = offset.saturating_sub(begin).min(BLOCK_BYTES);
                usize::try_from(offset).unwrap_or(usize::MAX)
            };
            let (from, to) = (within(range.start), within(range.end));
            if to > block.len() {
                return None;
            }
            parts.push(block.slice(from..to));
        }
        if parts.len() == 1 {
            return parts.pop();
        }
        let mut run = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
        parts.iter().for_each(|part| run.extend_from_slice(part));
        Some(run.freeze())
    }

    fn keep(&self, id: SegmentId, size_bytes: u64, first: u64, bytes: &Bytes) {
        let mut state = self.lock();
        state.fetched_bytes += bytes.len() as u64;
        if let Some(segment) = state.segments.get_mut(&id) {
            segment.size_bytes = Some(size_bytes);
        }
        drop(state);
        let block = usize::try_from(BLOCK_BYTES).unwrap_or(usize::MAX);
        for (number, at) in (first..).zip((0..bytes.len()).step_by(block)) {
            // A copy: a block that is kept does not keep what was fetched along.
            let bytes = Bytes::copy_from_slice(&bytes[at..bytes.len().min(at + block)]);
            self.memory.keep_block(id, number, bytes);
        }
    }

    /// Forgets the blocks of a segment: one of them was wrong.
    pub(super) fn forget(&self, id: SegmentId) {
        self.lock().segments.pop(&id);
        self.memory.forget_blocks(id);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
