//! How far to fetch ahead of whoever reads a file in order.
//!
//! Nothing for the first reads, then as much again as was read in a row, up to a bound that all
//! who read in order share: what is fetched ahead of one reader shall not push out of memory what
//! was fetched ahead of another.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use super::memory::Owner;
use crate::bounded;
use crate::file_id::EntryRef;
use crate::inode::Progress;

/// Bytes read in a row after which a reader counts as sequential.
const IN_ORDER_BYTES: u64 = 256 << 10;
/// The kernel asks for the next pages before it has the last, and its requests overtake each
/// other: a read that begins so near to where the last one ended goes on with it.
const NEAR_BYTES: u64 = 2 << 20;
/// Most that is fetched ahead of one reader, bytes: what a line of 1 GB/s carries in the 15 ms
/// that S3 takes to begin an answer.
const MOST_AHEAD_BYTES: u64 = 16 << 20;
/// A file that was not read for so long is not being read.
const STILL_READ: Duration = Duration::from_secs(1);
/// Files whose reading is remembered.
const FILES: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");

/// Takes note of a read: how many bytes were read in a row by now, none where nobody reads in
/// order.
pub(super) fn in_a_row(progress: &mut Progress, offset: u64, end: u64) -> Option<u64> {
    let next = progress.next_offset;
    if offset.abs_diff(next) <= NEAR_BYTES && (offset > 0 || next == 0) {
        progress.bytes_in_a_row += end - offset;
        progress.next_offset = next.max(end);
    } else {
        progress.bytes_in_a_row = 0;
        progress.next_offset = end;
    }
    (progress.bytes_in_a_row >= IN_ORDER_BYTES).then_some(progress.bytes_in_a_row)
}

/// The files that are read in order just now.
#[derive(Debug)]
pub(super) struct Readers {
    last_read: LruCache<(Owner, EntryRef), Instant>,
    /// For all of them, bytes.
    most_bytes: u64,
}

impl Readers {
    /// `most_bytes` may be fetched ahead of all readers together.
    pub(super) fn new(most_bytes: u64) -> Self {
        Self { last_read: bounded::lru(FILES), most_bytes }
    }

    /// How many bytes to have ahead of a reader of this file, who read so many in a row.
    pub(super) fn window(&mut self, at: (Owner, EntryRef), in_a_row: u64, now: Instant) -> u64 {
        self.last_read.put(at, now);
        let is_read =
            |(_, last): &(&(Owner, EntryRef), &Instant)| now.duration_since(**last) < STILL_READ;
        // The most recently read come first.
        let readers = self.last_read.iter().take_while(is_read).count();
        let share = self.most_bytes / u64::try_from(readers.max(1)).unwrap_or(1);
        in_a_row.min(MOST_AHEAD_BYTES).min(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_id::SegmentId;

    const MIB: u64 = 1 << 20;

    fn entry(number: u32) -> (Owner, EntryRef) {
        (0, EntryRef { segment: SegmentId([1; 16]), entry: number })
    }

    #[test]
    fn a_reader_in_order_is_known_though_its_requests_overtake_each_other() {
        let mut progress = Progress::default();
        let parts = [0, 2, 1, 3, 5, 4, 6];
        let mut last = None;
        for part in parts {
            last = in_a_row(&mut progress, part * MIB, (part + 1) * MIB);
        }
        assert_eq!(last, Some(7 * MIB));
    }

    #[test]
    fn a_reader_that_jumps_about_is_not_in_order() {
        let mut progress = Progress::default();
        for at in [900, 13, 500, 0, 700, 30] {
            assert_eq!(in_a_row(&mut progress, at * MIB, at * MIB + 4096), None, "{at}");
        }
    }

    #[test]
    fn what_is_ahead_grows_with_what_was_read_up_to_the_bound() {
        let mut readers = Readers::new(32 * MIB);
        let now = Instant::now();
        let windows = [MIB, 5 * MIB, 900 * MIB].map(|read| readers.window(entry(1), read, now));
        assert_eq!(windows, [MIB, 5 * MIB, MOST_AHEAD_BYTES]);
    }

    #[test]
    fn readers_share_what_is_ahead_and_who_is_gone_has_no_share() {
        let mut readers = Readers::new(32 * MIB);
        let now = Instant::now();
        for number in 0..8 {
            readers.window(entry(number), 900 * MIB, now);
        }
        assert_eq!(readers.window(entry(0), 900 * MIB, now), 4 * MIB);
        let later = now + 2 * STILL_READ;
        assert_eq!(readers.window(entry(0), 900 * MIB, later), MOST_AHEAD_BYTES);
        assert_eq!(Readers::new(0).window(entry(0), 900 * MIB, now), 0, "no memory, nothing ahead");
    }
}
