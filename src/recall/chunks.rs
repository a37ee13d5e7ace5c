//! Chunks of segments: one GET for any number of readers, and a bounded memory of the last.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use lru::LruCache;

use super::RecallError;
use super::insist::insist;
use super::neighbours::Neighbours;
use crate::file_id::SegmentId;
use crate::inode::Place;
use crate::segment::Piece;
use crate::store::ObjectStore;

type Key = (SegmentId, u32, u32);
type Flight = Shared<BoxFuture<'static, Result<Bytes, RecallError>>>;

/// The chunks of a store that are in memory or on their way.
pub struct Chunks {
    neighbours: Neighbours,
    state: Mutex<State>,
    runtime: tokio::runtime::Handle,
    capacity_bytes: usize,
}

struct State {
    flights: HashMap<Key, Flight>,
    cache: LruCache<Key, Bytes>,
    cached_bytes: usize,
}

impl Chunks {
    /// Chunks of `store`, of which up to `capacity_bytes` are remembered, and as much of what lies
    /// beside small ones.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        capacity_bytes: usize,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        let cache = LruCache::unbounded(); // bounded by bytes, below
        let state = State { flights: HashMap::new(), cache, cached_bytes: 0 };
        let neighbours = Neighbours::new(store, capacity_bytes);
        Self { neighbours, state: Mutex::new(state), runtime, capacity_bytes }
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
        match self.flight(place, number, deadline) {
            Ok(chunk) => Ok(chunk),
            Err(flight) => flight.await,
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
        let mut data = BytesMut::with_capacity(length);
        for piece in place.packing.pieces(range) {
            match piece {
                Piece::Hole(hole) => {
                    let zeros = usize::try_from(hole.length).unwrap_or(0);
                    data.resize(data.len() + zeros, 0);
                }
                Piece::Data { at, packed_offset } => {
                    let packed = packed_offset..packed_offset + at.length;
                    for number in place.entry.chunks_of(packed.clone()) {
                        let chunk = self.get(place, number, deadline).await?;
                        let from = place.entry.packed_range(number..number + 1).start;
                        let index = |offset: u64| {
                            let within = offset.saturating_sub(from);
                            usize::try_from(within).unwrap_or(usize::MAX).min(chunk.len())
                        };
                        data.extend_from_slice(&chunk[index(packed.start)..index(packed.end)]);
                    }
                }
            }
        }
        Ok(data.freeze())
    }

    /// Sets a chunk on its way, if it is neither here nor on its way.
    pub fn prefetch(self: &Arc<Self>, place: &Place, number: u32, deadline: Duration) {
        // A chunk at hand or a flight begun: either is all that was wanted.
        drop(self.flight(place, number, deadline));
    }

    fn flight(
        self: &Arc<Self>,
        place: &Place,
        number: u32,
        deadline: Duration,
    ) -> Result<Bytes, Flight> {
        let at = place.entry.at();
        let key = (at.segment, at.entry, number);
        let mut state = self.lock();
        if let Some(chunk) = state.cache.get(&key) {
            return Ok(chunk.clone());
        }
        if let Some(flight) = state.flights.get(&key) {
            return Err(flight.clone());
        }
        let (chunks, place) = (Arc::clone(self), place.clone());
        // A task of its own: a reader that goes away does not take the others' bytes along.
        let task = self.runtime.spawn(async move {
            let fetched = chunks.fetch(&place, number, deadline).await;
            chunks.land(key, &fetched);
            fetched
        });
        let flight = async move {
            match task.await {
                Ok(fetched) => fetched,
                Err(_ended) => Err(RecallError::Detaching),
            }
        };
        let flight = flight.boxed().shared();
        state.flights.insert(key, flight.clone());
        Err(flight)
    }

    fn land(&self, key: Key, fetched: &Result<Bytes, RecallError>) {
        let mut state = self.lock();
        state.flights.remove(&key);
        let Ok(chunk) = fetched else { return };
        state.cached_bytes += chunk.len();
        if let Some(replaced) = state.cache.put(key, chunk.clone()) {
            state.cached_bytes -= replaced.len();
        }
        while state.cached_bytes > self.capacity_bytes
            && let Some((_, oldest)) = state.cache.pop_lru()
        {
            state.cached_bytes -= oldest.len();
        }
    }

    async fn fetch(
        &self,
        place: &Place,
        number: u32,
        deadline: Duration,
    ) -> Result<Bytes, RecallError> {
        let first = "no free place among the requests under way";
        let ask = || self.neighbours.chunk(place, number);
        insist(place.entry.at(), deadline, first, ask).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Chunks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunks")
            .field("store", &self.neighbours.store().url())
            .finish_non_exhaustive()
    }
}
