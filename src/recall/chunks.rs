//! Chunks of segments: one GET for any number of readers, and a bounded memory of the last.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::RecallError;
use super::insist::{UNANSWERED, insist};
use super::lane::lane;
use super::memory::{Key, Memory, Share};
use super::neighbours::Neighbours;
use super::order::NEAR_CHUNKS;
use super::run::RUNNING_CHUNKS;
use crate::file_id::{EntryRef, Extent};
use crate::inode::Place;
use crate::segment::Piece;
use crate::store::ObjectStore;
use crate::store::governor::carried;

/// A chunk on its way in a [`lane`]. Readers do not join what comes in the other: they would wait
/// as that does. At worst a chunk comes twice.
type OnItsWay = (usize, Key);
type Flight = Shared<BoxFuture<'static, Result<Bytes, RecallError>>>;
/// A chunk of a run on its way; gone: the run ended without it.
type Coming = Shared<oneshot::Receiver<Bytes>>;

/// The chunks of a store that are in memory or on their way.
pub struct Chunks {
    pub(super) neighbours: Neighbours,
    state: Mutex<State>,
    memory: Arc<Share>,
    pub(super) runtime: tokio::runtime::Handle,
}

struct State {
    flights: HashMap<OnItsWay, Flight>,
    runs: HashMap<OnItsWay, Coming>,
}

/// Where a chunk is.
enum Found {
    Here(Bytes),
    Flying(Flight),
    Coming(Coming),
}

/// A chunk of a run that is to land; dropped, it does not come.
pub(super) struct Landing {
    chunks: Arc<Chunks>,
    way: OnItsWay,
    tell: Option<oneshot::Sender<Bytes>>,
}

impl Chunks {
    /// Chunks of `store`; they have a share in `memory`.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        memory: &Arc<Memory>,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        let state = State { flights: HashMap::new(), runs: HashMap::new() };
        let memory = Arc::new(memory.share());
        let neighbours = Neighbours::new(store, Arc::clone(&memory));
        Self { neighbours, state: Mutex::new(state), memory, runtime }
    }

    /// Bytes that came from the store since the start.
    pub fn fetched_bytes(&self) -> u64 {
        self.neighbours.fetched_bytes()
    }

    /// The packed bytes of a chunk.
    pub async fn get(
        self: &Arc<Self>,
        place: &Place,
        number: u32,
        deadline: Duration,
    ) -> Result<Bytes, RecallError> {
        let ends = Instant::now() + deadline;
        let coming = match self.find_or_fetch(place, number, deadline) {
            Found::Here(chunk) => return Ok(chunk),
            Found::Flying(flight) => return flight.await,
            Found::Coming(coming) => coming,
        };
        match tokio::time::timeout_at(ends, coming).await {
            Ok(Ok(chunk)) => return Ok(chunk),
            // Its run failed.
            Ok(Err(_unsent)) => {}
            Err(_elapsed) => {
                let (at, last) = (place.entry.at(), UNANSWERED.to_owned());
                return Err(RecallError::Deadline { at, deadline, last });
            }
        }
        let left = ends.saturating_duration_since(Instant::now());
        match self.fetch_alone(place, number, left) {
            Ok(chunk) => Ok(chunk),
            // What was left is not what a reader waited.
            Err(flight) => flight.await.map_err(|error| match error {
                RecallError::Deadline { at, deadline: _, last } => {
                    RecallError::Deadline { at, deadline, last }
                }
                error => error,
            }),
        }
    }

    /// The file's own bytes in `range`, which ends within it: chunks for its data, zeros for its
    /// holes.
    pub async fn read(
        self: &Arc<Self>,
        place: &Place,
        range: Range<u64>,
        deadline: Duration,
    ) -> Result<Bytes, RecallError> {
        let length = usize::try_from(range.end - range.start).unwrap_or(0);
        let pieces = place.packing.pieces(range);
        if let [Piece::Data { at, packed_offset }] = pieces[..] {
            let packed = packed_offset..packed_offset + at.length;
            let numbers = place.entry.chunks_of(packed.clone());
            if numbers.len() == 1 {
                let chunk = self.get(place, numbers.start, deadline).await?;
                // Not copied.
                return Ok(chunk.slice(within(place, numbers.start, &chunk, &packed)));
            }
            // All on their way before the first is waited for.
            numbers.for_each(|number| drop(self.find_or_fetch(place, number, deadline)));
        }
        let mut data = BytesMut::with_capacity(length);
        for piece in pieces {
            match piece {
                Piece::Hole(hole) => add_zeros(&mut data, hole.length),
                Piece::Data { at, packed_offset } => {
                    let packed = packed_offset..packed_offset + at.length;
                    for number in place.entry.chunks_of(packed.clone()) {
                        let chunk = self.get(place, number, deadline).await?;
                        data.extend_from_slice(&chunk[within(place, number, &chunk, &packed)]);
                    }
                }
            }
        }
        Ok(data.freeze())
    }

    /// How many bytes to have ahead of a reader of `at`, who read so many in a row.
    pub(super) fn window(&self, at: EntryRef, in_a_row: u64) -> u64 {
        self.memory.window(at, in_a_row)
    }

    /// The first of the chunks before this one that are all still here: what a reader has read, and
    /// need not be fetched again.
    pub(super) fn first_kept(&self, place: &Place, before: u32) -> u32 {
        let at = place.entry.at();
        let is_kept = |number: &u32| self.memory.has_chunk((at.segment, at.entry, *number));
        let kept =
            (before.saturating_sub(NEAR_CHUNKS / 2)..before).rev().take_while(is_kept).count();
        before - u32::try_from(kept).unwrap_or(0)
    }

    /// The first few of the wanted chunks that are neither here nor on their way, at most `most`
    /// and in one run: from now on they are on their way. None: there are no such, or too many
    /// runs are under way.
    pub(super) fn begin_run(
        self: &Arc<Self>,
        place: &Place,
        wanted: Range<u32>,
        most: u32,
    ) -> Option<(Range<u32>, Vec<Landing>)> {
        let key = |number| (place.entry.at().segment, place.entry.at().entry, number);
        let mut state = self.lock();
        let is_missing = |state: &State, number: u32| {
            let key = key(number);
            !self.memory.has_chunk(key)
                && joined(&state.flights, key).is_none()
                && joined(&state.runs, key).is_none()
        };
        let first = wanted.clone().find(|number| is_missing(&state, *number))?;
        let length = (first..wanted.end.min(first.saturating_add(most)))
            .take_while(|number| is_missing(&state, *number))
            .count();
        if state.runs.len() + length > RUNNING_CHUNKS {
            return None;
        }
        let run = first..first + u32::try_from(length).unwrap_or(0);
        let landings = run.clone().map(|number| {
            let (tell, told) = oneshot::channel();
            let way = (lane(), key(number));
            state.runs.insert(way, told.shared());
            Landing { chunks: Arc::clone(self), way, tell: Some(tell) }
        });
        let landings = landings.collect();
        Some((run, landings))
    }

    fn find_or_fetch(self: &Arc<Self>, place: &Place, number: u32, deadline: Duration) -> Found {
        let at = place.entry.at();
        if let Some(coming) = joined(&self.lock().runs, (at.segment, at.entry, number)) {
            return Found::Coming(coming);
        }
        match self.fetch_alone(place, number, deadline) {
            Ok(chunk) => Found::Here(chunk),
            Err(flight) => Found::Flying(flight),
        }
    }

    /// The chunk, if it is here; else its flight, begun if there was none.
    fn fetch_alone(
        self: &Arc<Self>,
        place: &Place,
        number: u32,
        deadline: Duration,
    ) -> Result<Bytes, Flight> {
        let at = place.entry.at();
        let key = (at.segment, at.entry, number);
        if let Some(chunk) = self.small_at_hand(place) {
            // What lies around it is proven once, and may go: whoever reads it again has it here.
            self.memory.keep_chunk(key, chunk.clone());
            return Ok(chunk);
        }
        let mut state = self.lock();
        if let Some(chunk) = self.memory.chunk(key) {
            return Ok(chunk);
        }
        if let Some(flight) = joined(&state.flights, key) {
            return Err(flight);
        }
        let way = (lane(), key);
        let (chunks, place) = (Arc::clone(self), place.clone());
        // A task of its own: a reader that goes away does not take the others' bytes along.
        let task = self.runtime.spawn(carried(async move {
            let fetched = chunks.fetch(&place, number, deadline).await;
            let mut state = chunks.lock();
            state.flights.remove(&way);
            if let Ok(chunk) = &fetched {
                chunks.memory.keep_chunk(key, chunk.clone());
            }
            fetched
        }));
        let flight = async move {
            match task.await {
                Ok(fetched) => fetched,
                Err(_ended) => Err(RecallError::Detaching),
            }
        };
        let flight = flight.boxed().shared();
        state.flights.insert(way, flight.clone());
        Err(flight)
    }

    /// The only chunk of a file, if it is here, or what lies around it.
    pub(super) fn small_at_hand(&self, place: &Place) -> Option<Bytes> {
        if place.entry.chunk_count() != 1 {
            return None;
        }
        let at = place.entry.at();
        let cached = self.memory.chunk((at.segment, at.entry, 0));
        cached.or_else(|| self.neighbours.at_hand(place))
    }

    async fn fetch(
        &self,
        place: &Place,
        number: u32,
        deadline: Duration,
    ) -> Result<Bytes, RecallError> {
        let ask = || self.neighbours.chunk(place, number);
        insist(place.entry.at(), deadline, ask).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What this task may join of what is on its way.
fn joined<T: Clone>(ways: &HashMap<OnItsWay, T>, key: Key) -> Option<T> {
    (0..=lane()).find_map(|lane| ways.get(&(lane, key)).cloned())
}

impl Landing {
    /// The chunk is here.
    pub(super) fn land(mut self, chunk: Bytes) {
        let mut state = self.chunks.lock();
        self.chunks.memory.keep_chunk(self.way.1, chunk.clone());
        state.runs.remove(&self.way);
        drop(state);
        if let Some(tell) = self.tell.take() {
            // Nobody may have asked for it yet.
            drop(tell.send(chunk));
        }
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if self.tell.take().is_some() {
            self.chunks.lock().runs.remove(&self.way);
        }
    }
}

/// The file's own bytes in `range`, which ends within it, of a file of a single chunk.
pub fn read_held(place: &Place, chunk: &Bytes, range: Range<u64>) -> Bytes {
    let pieces = place.packing.pieces(range);
    let part = |at: &Extent, packed_offset: u64| {
        within(place, 0, chunk, &(packed_offset..packed_offset + at.length))
    };
    if let [Piece::Data { at, packed_offset }] = &pieces[..] {
        // Not copied.
        return chunk.slice(part(at, *packed_offset));
    }
    let mut data = BytesMut::new();
    for piece in pieces {
        match piece {
            Piece::Hole(hole) => add_zeros(&mut data, hole.length),
            Piece::Data { at, packed_offset } => {
                data.extend_from_slice(&chunk[part(&at, packed_offset)]);
            }
        }
    }
    data.freeze()
}

fn add_zeros(data: &mut BytesMut, count: u64) {
    data.resize(data.len() + usize::try_from(count).unwrap_or(0), 0);
}

/// The part of a chunk that holds these packed bytes.
fn within(place: &Place, number: u32, chunk: &Bytes, packed: &Range<u64>) -> Range<usize> {
    let from = place.entry.packed_range(number..number + 1).start;
    let index = |offset: u64| {
        usize::try_from(offset.saturating_sub(from)).unwrap_or(usize::MAX).min(chunk.len())
    };
    index(packed.start)..index(packed.end)
}

impl std::fmt::Debug for Chunks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunks")
            .field("store", &self.neighbours.store().url())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_id::SegmentId;
    use crate::segment::tests::support::{ID, Shelf, TENANT, add, key, noise, whole};
    use crate::segment::{EntryPlace, Packing, SegmentBuilder};
    use crate::store::ObjectKey;

    /// A segment of so many small files, and where each is.
    fn small_files(count: usize) -> (Shelf, Vec<Place>) {
        let mut builder = SegmentBuilder::new(TENANT, ID);
        let packing = Packing::new(5_000, &[Extent { offset: 0, length: 5_000 }]).unwrap();
        let places = (0..count).map(|number| {
            let file = whole(&number.to_string(), 5_000);
            let entry = add(&mut builder, file, &noise(5_000, 1));
            Place { key: key(), entry, packing: packing.clone(), size_bytes: 5_000 }
        });
        let places = places.collect();
        (Shelf::with(builder.finish().unwrap().bytes), places)
    }

    #[tokio::test]
    async fn a_fill_begins_with_what_its_reader_has_just_read_and_is_still_here() {
        let store = Arc::new(crate::store::memory::MemoryStore::new());
        let chunks =
            Chunks::new(store, &Arc::new(Memory::new(1 << 20)), tokio::runtime::Handle::current());
        let packing = Packing::new(100_000, &[Extent { offset: 0, length: 100_000 }]).unwrap();
        let at = EntryRef { segment: SegmentId([1; 16]), entry: 0 };
        let entry = EntryPlace::new(at, 64, packing.packed_bytes(), 4_096).unwrap();
        let key = ObjectKey::new("a");
        let place = Place { key, entry, packing, size_bytes: 100_000 };
        for number in [2, 4, 5, 6] {
            let key = (at.segment, at.entry, number);
            chunks.memory.keep_chunk(key, Bytes::from_static(b"read"));
        }
        assert_eq!([0, 3, 7].map(|reader| chunks.first_kept(&place, reader)), [0, 2, 4]);
    }

    #[tokio::test]
    async fn a_small_file_that_was_read_out_of_what_lay_around_it_is_kept_by_itself() {
        let (shelf, places) = small_files(4);
        let shelf = Arc::new(shelf);
        let store: Arc<dyn ObjectStore> = Arc::clone(&shelf) as _;
        let chunks = Arc::new(Chunks::new(
            store,
            &Arc::new(Memory::new(4 << 20)),
            tokio::runtime::Handle::current(),
        ));
        let deadline = Duration::from_secs(5);
        for place in &places {
            chunks.get(place, 0, deadline).await.unwrap();
        }
        let gets = || shelf.gets.load(std::sync::atomic::Ordering::Relaxed);
        let before = gets();
        chunks.neighbours.forget(places[0].entry.at().segment);
        // The last came with the block that the third had fetched.
        chunks.get(&places[3], 0, deadline).await.unwrap();
        assert_eq!(gets(), before);
    }

    #[tokio::test]
    async fn a_reader_waits_for_nothing_that_comes_in_bulk() {
        use std::sync::atomic::Ordering;

        use crate::recall::neighbours::FETCHES_AT_ONCE;
        use crate::store::governor::{Class, ranked};
        let (mut shelf, places) = small_files(2 * FETCHES_AT_ONCE);
        shelf.stuck = Some(Class::Bulk);
        let shelf = Arc::new(shelf);
        let store: Arc<dyn ObjectStore> = Arc::clone(&shelf) as _;
        let chunks = Arc::new(Chunks::new(
            store,
            &Arc::new(Memory::new(4 << 20)),
            tokio::runtime::Handle::current(),
        ));
        let deadline = Duration::from_secs(5);
        let in_bulk = places.iter().cloned().map(|place| {
            let chunks = Arc::clone(&chunks);
            let get = async move { chunks.get(&place, 0, deadline).await };
            tokio::spawn(ranked(Class::Bulk, get))
        });
        let in_bulk: Vec<_> = in_bulk.collect();
        while shelf.gets.load(Ordering::Relaxed) < 3 {
            tokio::task::yield_now().await;
        }
        let read = async {
            for place in places.iter().rev() {
                chunks.get(place, 0, deadline).await.unwrap();
            }
        };
        tokio::time::timeout(deadline / 2, read).await.expect("read at once");
        in_bulk.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[test]
    fn what_is_held_reads_as_the_file_with_its_holes() {
        let extents =
            [Extent { offset: 0, length: 3_000 }, Extent { offset: 9_000, length: 2_000 }];
        let packing = Packing::new(12_000, &extents).unwrap();
        let at = EntryRef { segment: SegmentId([1; 16]), entry: 0 };
        let entry = EntryPlace::new(at, 64, packing.packed_bytes(), 8_192).unwrap();
        let key = ObjectKey::new("a");
        let place = Place { key, entry, packing, size_bytes: 12_000 };
        let chunk: Bytes = (0..5_000_u32).map(|n| n.to_le_bytes()[0] | 1).collect();
        let mut file = vec![0; 12_000];
        file[..3_000].copy_from_slice(&chunk[..3_000]);
        file[9_000..11_000].copy_from_slice(&chunk[3_000..]);
        for (start, end) in [(0, 12_000), (10, 20), (2_990, 9_010), (9_500, 9_501), (5_000, 6_000)]
        {
            let read = read_held(&place, &chunk, start as u64..end as u64);
            assert!(read == file[start..end], "{start}..{end}");
        }
    }
}
