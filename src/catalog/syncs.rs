//! When writes of the catalog are made durable: a machine that stops loses what came since.

use std::time::{Duration, Instant};

/// What is written is made durable every so often.
const EVERY: Duration = Duration::from_secs(30);
/// Or after so many writes, because the file grows until then.
const WRITES: u32 = 64;

/// What was written since the last write that was made durable.
#[derive(Debug)]
pub(super) struct Syncs {
    durable_at: Instant,
    writes: u32,
}

impl Syncs {
    pub(super) fn new() -> Self {
        Self { durable_at: Instant::now(), writes: 0 }
    }

    /// Whether a write that is about to be made is to be durable.
    pub(super) fn next_is_durable(&mut self) -> bool {
        self.writes += 1;
        let due = self.durable_at.elapsed() >= EVERY || self.writes >= WRITES;
        if due {
            *self = Self::new();
        }
        due
    }

    /// A write was made that is not durable.
    pub(super) fn note_write(&mut self) {
        self.writes += 1;
    }

    /// Whether something has waited to be durable for long enough, though nothing else is written.
    pub(super) fn are_overdue(&self) -> bool {
        self.writes > 0 && self.durable_at.elapsed() >= EVERY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_durable_after_a_time_or_a_number_of_writes_and_nothing_is_without_one() {
        let mut syncs = Syncs::new();
        let first = (1..).find(|_| syncs.next_is_durable());
        assert_eq!(first, Some(WRITES));
        syncs.durable_at -= EVERY;
        assert!(!syncs.are_overdue(), "nothing was written");
        syncs.note_write();
        assert!(syncs.are_overdue());
        assert!(syncs.next_is_durable());
        assert!(!syncs.are_overdue() && !syncs.next_is_durable());
    }
}
