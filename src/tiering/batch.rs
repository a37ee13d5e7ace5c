//! How much is moved at a time, and what it costs. Pure.

use super::caps::{Caps, Cost};
use crate::migrate::SEGMENT_BYTES;
use crate::policy::Decided;
use crate::policy::contract::Action;
use crate::segment::verify::VERIFY_PART_BYTES;
use crate::segment::write::part_bytes_for;
use crate::wire;

/// Files a batch: between two batches caps, pauses and the end are looked at.
const FILES: u64 = 512;
/// Bytes a batch; one file may be larger.
const BYTES: u64 = 256 << 20;

/// Moves, counted as they come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    files: u64,
    bytes: u64,
    /// Of files that share segments.
    packed_bytes: u64,
    /// For all others.
    requests: u64,
}

impl Tally {
    pub(super) fn of<'a>(decided: impl IntoIterator<Item = &'a Decided>) -> Self {
        let mut tally = Self::default();
        decided.into_iter().for_each(|decided| tally.add(decided));
        tally
    }

    fn add(&mut self, decided: &Decided) {
        let bytes = decided.file.size_bytes;
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        match decided.action {
            Action::Archive | Action::Migrate if bytes > SEGMENT_BYTES => {
                // Sent in parts between a begin and an end, told of, and read back.
                let parts = bytes.div_ceil(wire::u64_of(part_bytes_for(bytes)));
                self.requests += parts + 3 + bytes.div_ceil(VERIFY_PART_BYTES);
            }
            Action::Archive | Action::Migrate => {
                self.packed_bytes = self.packed_bytes.saturating_add(bytes);
            }
            Action::Recall => self.requests += bytes.div_ceil(VERIFY_PART_BYTES).max(1),
            Action::Release => {}
        }
    }

    /// Files that are packed are stored a segment at a time, each of which is told of.
    pub(super) fn cost(&self) -> Cost {
        let packed = 2 * self.packed_bytes.div_ceil(SEGMENT_BYTES);
        Cost { files: self.files, bytes: self.bytes, requests: self.requests + packed }
    }
}

/// The order of a pass: what comes home comes last, and one that ranks higher before one that ranks
/// lower; among equals the coldest stays first.
pub(super) fn sort(decided: &mut [Decided]) {
    decided.sort_by_key(|decided| {
        (decided.action == Action::Recall, std::cmp::Reverse(decided.priority))
    });
}

/// How many of these are the next batch; 0: none in this hour. Files that come home go one by
/// one: each needs room.
pub(super) fn length(decided: &[Decided], caps: &Caps) -> usize {
    let comes_home = |decided: &Decided| decided.action == Action::Recall;
    let mut tally = Tally::default();
    let fits = decided.iter().take_while(|next| {
        let is_first = tally.files == 0;
        tally.add(next);
        let cost = tally.cost();
        let is_one_batch = cost.files <= FILES && cost.bytes <= BYTES && !comes_home(next);
        caps.allow(&cost) && (is_first || is_one_batch)
    });
    match decided.first() {
        Some(first) if comes_home(first) => fits.take(1).count(),
        _ => fits.count(),
    }
}
