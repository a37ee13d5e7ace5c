//! In which order a fill takes the chunks of a file: along with its reader, so that both live on
//! one fetch of each chunk, then what is left.

use std::ops::Range;

/// A fill that is further than this from its reader goes to where the reader is, chunks. What the
/// reader has read is in memory for that long: half of the memory for chunks is a reader's.
pub(super) const NEAR_CHUNKS: u32 = 32;

/// The chunks that are still to be taken.
#[derive(Debug)]
pub(super) struct Order {
    /// In ascending order; one more for each time that the fill fell behind.
    left: Vec<Range<u32>>,
    next: u32,
}

impl Order {
    /// All chunks of a file, from where a reader is.
    pub(super) fn new(chunks: u32, reader: u32) -> Self {
        Self { left: std::iter::once(0..chunks).collect(), next: reader }
    }

    /// Takes the next, where a reader is at `reader`. None: all are taken.
    pub(super) fn take(&mut self, reader: u32) -> Option<u32> {
        if self.next.abs_diff(reader) > NEAR_CHUNKS {
            self.next = reader;
        }
        self.left.retain(|range| !range.is_empty());
        let here = self.left.iter().position(|range| range.end > self.next);
        let at = here.unwrap_or(0);
        let range = self.left.get(at)?.clone();
        let chunk = if here.is_some() { range.start.max(self.next) } else { range.start };
        self.left.splice(at..=at, [range.start..chunk, chunk + 1..range.end]);
        self.next = chunk + 1;
        Some(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_reader_it_is_the_order_of_the_file() {
        let mut order = Order::new(5, 0);
        let taken: Vec<u32> = std::iter::from_fn(|| order.take(0)).collect();
        assert_eq!(taken, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_fill_begins_at_its_reader_and_ends_with_what_was_read_before() {
        let mut order = Order::new(100, 25);
        let mut reader = 25;
        let taken: Vec<u32> = std::iter::from_fn(|| {
            let chunk = order.take(reader);
            reader = (reader + 1).min(100);
            chunk
        })
        .collect();
        let expected: Vec<u32> = (25..100).chain(0..25).collect();
        assert_eq!(taken, expected);
    }

    #[test]
    fn a_fill_that_falls_behind_leaves_chunks_for_the_end_and_forgets_none() {
        let mut order = Order::new(1_000, 0);
        let mut reader = 0;
        let mut taken: Vec<u32> = std::iter::from_fn(|| {
            let chunk = order.take(reader);
            reader = (reader + 5).min(1_000);
            chunk
        })
        .collect();
        assert!(taken.windows(2).any(|pair| pair[1] > pair[0] + NEAR_CHUNKS), "it never jumped");
        taken.sort_unstable();
        assert_eq!(taken, (0..1_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_file_without_data_has_nothing_to_take() {
        assert_eq!(Order::new(0, 0).take(0), None);
    }
}
