//! Chunks that follow each other, fetched in one request before anybody waits for them.
//!
//! A run is tried once. Whoever waits for a chunk of one that fails asks for that chunk alone, as
//! often as it takes: what one chunk of a run suffers says nothing about the others.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::chunks::{Chunks, Landing};
use crate::inode::Place;
use crate::store::governor::carried;

/// Chunks of a run. A request costs as much of a processor as half a MiB of bytes does.
pub(super) const RUN_CHUNKS: u32 = 4;
/// Chunks of runs on their way at once, of up to 1 MiB each: memory for what nobody asked for
/// yet. Beyond it no run begins, and a reader asks for its chunk alone.
pub(super) const RUNNING_CHUNKS: usize = 32;

impl Chunks {
    /// Sets on its way what a reader will ask for next, who read so many bytes in a row and goes
    /// on at `packed_offset`.
    pub(super) fn read_ahead(
        self: &Arc<Self>,
        place: &Place,
        packed_offset: u64,
        in_a_row: u64,
        deadline: Duration,
    ) {
        let window = self.window(place.entry.at(), in_a_row);
        let ahead = place.entry.chunks_of(packed_offset..packed_offset.saturating_add(window));
        if ahead.is_empty() {
            return;
        }
        // Whole runs: else each read would begin one more chunk.
        let end = ahead.end.next_multiple_of(RUN_CHUNKS).min(place.entry.chunk_count());
        self.fetch_runs(place, ahead.start..end, deadline);
    }

    /// Sets those of these chunks on their way that are neither here nor on their way.
    pub(super) fn fetch_runs(
        self: &Arc<Self>,
        place: &Place,
        wanted: Range<u32>,
        deadline: Duration,
    ) {
        while let Some((run, landings)) = self.begin_run(place, wanted.clone(), RUN_CHUNKS) {
            let (chunks, place) = (Arc::clone(self), place.clone());
            self.runtime.spawn(carried(async move {
                let fetch = chunks.fetch_run(&place, run, landings);
                if tokio::time::timeout(deadline, fetch).await.is_err() {
                    tracing::debug!(key = %place.key, "a run did not come in time");
                }
            }));
        }
    }

    async fn fetch_run(&self, place: &Place, run: Range<u32>, landings: Vec<Landing>) {
        let mut landings = landings.into_iter();
        let mut proven = |_number, chunk| {
            if let Some(landing) = landings.next() {
                landing.land(chunk);
            }
        };
        if let Err(error) = self.neighbours.run(place, run, &mut proven).await {
            tracing::debug!(key = %place.key, %error, "a run ended early");
        }
    }
}
