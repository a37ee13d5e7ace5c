//! Two ways through everything that is waited for: one for readers, one for all others. So nobody
//! who waits for bytes waits behind what comes home in bulk.

use crate::store::governor::Class;

/// One for each way.
pub(super) type PerLane<T> = [T; 2];

/// The readers' lane.
pub(super) const READERS: usize = 0;

/// Which of the two is this task's.
pub(super) fn lane() -> usize {
    if Class::of_reads() == Class::Recall { READERS } else { 1 }
}
