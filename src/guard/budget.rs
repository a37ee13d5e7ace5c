//! Budgets: how much of the store a process, a user and a tenant may read, over time.
//!
//! A bucket fills steadily up to its burst. What is spent may take it below nothing, once: the
//! next then waits until it is above. So nothing is ever too large to be read, and whoever
//! reads much reads at the rate of its bucket.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use crate::bounded;
use crate::file_id::SegmentId;

/// Buckets that are remembered; one that is forgotten begins full again. Whoever makes sessions
/// to be forgotten meets the budget of its user, which is used all the time.
const BUCKETS: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");
/// Segments that a bucket remembers to have paid for: what lies beside a file that was read
/// costs bytes only.
const SEGMENTS_REMEMBERED: usize = 16;

/// What one bucket gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Segments at once.
    pub segments: u64,
    /// And so many a second.
    pub segments_per_second: u64,
    /// Bytes at once.
    pub bytes: u64,
    /// And so many a second.
    pub bytes_per_second: u64,
}

/// What a tenant's readers may spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// Each session (a shell and all it starts, a service).
    pub process: Budget,
    /// Each user.
    pub user: Budget,
    /// All together.
    pub tenant: Budget,
}

impl Default for Budgets {
    /// A person who reads a project never meets them; a `grep -r` over an archive does soon.
    /// Enterprise Vault's own guard is 20 files in 10 s a user; segments hold a thousand.
    fn default() -> Self {
        let budget = |factor: u64| Budget {
            segments: 256 * factor,
            segments_per_second: 16 * factor,
            bytes: factor << 34,
            bytes_per_second: factor << 28,
        };
        Self { process: budget(1), user: budget(2), tenant: budget(8) }
    }
}

/// Whose bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// A session. Its number may be used again by a later one.
    Process(u32),
    /// A user.
    User(u32),
    /// Everybody.
    Tenant,
}

impl Owner {
    /// For a person.
    pub fn word(self) -> &'static str {
        match self {
            Owner::Process(_) => "process",
            Owner::User(_) => "user",
            Owner::Tenant => "tenant",
        }
    }
}

/// A level that fills steadily, up to a most.
#[derive(Debug)]
pub(super) struct Level {
    have: f64,
    at: Instant,
}

impl Level {
    pub(super) fn full(most: u64, now: Instant) -> Self {
        Self { have: as_float(most), at: now }
    }

    fn fill(&mut self, most: u64, per_second: u64, now: Instant) {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.have = (self.have + since * as_float(per_second)).min(as_float(most));
        self.at = now;
    }

    /// How long until something may be spent.
    pub(super) fn wait(&mut self, most: u64, per_second: u64, now: Instant) -> Duration {
        self.fill(most, per_second, now);
        if self.have > 0.0 {
            return Duration::ZERO;
        }
        // Until a whole one is there: a wait of nothing would be asked again at once.
        let seconds = (1.0 - self.have) / as_float(per_second.max(1));
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    pub(super) fn spend(&mut self, count: u64) {
        self.have -= as_float(count);
    }
}

#[allow(clippy::cast_precision_loss, reason = "a part in 2^53 of a budget is nothing")]
fn as_float(count: u64) -> f64 {
    count as f64
}

#[derive(Debug)]
struct Bucket {
    segments: Level,
    bytes: Level,
    paid: Vec<SegmentId>,
}

impl Bucket {
    fn new(budget: &Budget, now: Instant) -> Self {
        let (segments, bytes) = (Level::full(budget.segments, now), Level::full(budget.bytes, now));
        Self { segments, bytes, paid: Vec::new() }
    }

    fn wait(&mut self, budget: &Budget, segment: Option<SegmentId>, now: Instant) -> Duration {
        let bytes = self.bytes.wait(budget.bytes, budget.bytes_per_second, now);
        let segments = self.segments.wait(budget.segments, budget.segments_per_second, now);
        match segment {
            Some(segment) if !self.paid.contains(&segment) => bytes.max(segments),
            Some(_) | None => bytes,
        }
    }

    fn spend(&mut self, segment: Option<SegmentId>, bytes: u64) {
        self.bytes.spend(bytes);
        if let Some(segment) = segment
            && !self.paid.contains(&segment)
        {
            self.segments.spend(1);
            if self.paid.len() == SEGMENTS_REMEMBERED {
                self.paid.remove(0);
            }
            self.paid.push(segment);
        }
    }
}

/// The buckets of a tenant.
#[derive(Debug)]
pub(super) struct Buckets {
    budgets: Budgets,
    buckets: LruCache<Owner, Bucket>,
}

impl Buckets {
    pub(super) fn new(budgets: Budgets) -> Self {
        Self { budgets, buckets: bounded::lru(BUCKETS) }
    }

    fn budget(&self, owner: Owner) -> Budget {
        match owner {
            Owner::Process(_) => self.budgets.process,
            Owner::User(_) => self.budgets.user,
            Owner::Tenant => self.budgets.tenant,
        }
    }

    /// How long these owners have to wait before they may read something of a segment, and
    /// whose budget it is that is spent.
    pub(super) fn wait(
        &mut self,
        owners: [Owner; 3],
        segment: Option<SegmentId>,
        now: Instant,
    ) -> (Duration, Owner) {
        let waits = owners.map(|owner| {
            let budget = self.budget(owner);
            let bucket = self.buckets.get_or_insert_mut(owner, || Bucket::new(&budget, now));
            (bucket.wait(&budget, segment, now), owner)
        });
        waits.into_iter().max().unwrap_or((Duration::ZERO, Owner::Tenant))
    }

    /// Spends for all of them.
    pub(super) fn spend(&mut self, owners: [Owner; 3], segment: Option<SegmentId>, bytes: u64) {
        for owner in owners {
            if let Some(bucket) = self.buckets.get_mut(&owner) {
                bucket.spend(segment, bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(number: u8) -> Option<SegmentId> {
        Some(SegmentId([number; 16]))
    }

    fn budgets() -> Budgets {
        let budget = |factor: u64| Budget {
            segments: 2 * factor,
            segments_per_second: 1,
            bytes: 1_000 * factor,
            bytes_per_second: 100,
        };
        Budgets { process: budget(1), user: budget(2), tenant: budget(100) }
    }

    const OWNERS: [Owner; 3] = [Owner::Process(7), Owner::User(1), Owner::Tenant];

    #[test]
    fn a_thousand_files_of_a_segment_cost_one_and_a_segment_each_waits() {
        let (mut buckets, now) = (Buckets::new(budgets()), Instant::now());
        for _ in 0..50 {
            assert!(buckets.wait(OWNERS, segment(1), now).0.is_zero());
            buckets.spend(OWNERS, segment(1), 10);
        }
        buckets.spend(OWNERS, segment(2), 10);
        let (wait, owner) = buckets.wait(OWNERS, segment(3), now);
        assert_eq!((wait, owner), (Duration::from_secs(1), Owner::Process(7)));
        assert!(buckets.wait(OWNERS, segment(1), now).0.is_zero(), "paid for");
        assert!(buckets.wait(OWNERS, segment(3), now + wait).0.is_zero());
    }

    #[test]
    fn whoever_forks_out_of_its_session_meets_its_users_budget() {
        let (mut buckets, now) = (Buckets::new(budgets()), Instant::now());
        let mut read = 0;
        for session in 0..100 {
            let owners = [Owner::Process(session), Owner::User(1), Owner::Tenant];
            if buckets.wait(owners, segment(1), now).0.is_zero() {
                buckets.spend(owners, segment(1), 500);
                read += 500;
            }
        }
        assert_eq!(read, 2_000);
        let other = [Owner::Process(0), Owner::User(2), Owner::Tenant];
        buckets.spend(other, None, 0);
        let fresh = [Owner::Process(1_000), Owner::User(2), Owner::Tenant];
        assert!(buckets.wait(fresh, segment(1), now).0.is_zero());
    }

    #[test]
    fn what_is_too_large_is_read_and_paid_for_later() {
        let (mut buckets, now) = (Buckets::new(budgets()), Instant::now());
        let _never = buckets.wait(OWNERS, segment(1), now);
        buckets.spend(OWNERS, segment(1), 11_000);
        let (wait, _) = buckets.wait(OWNERS, None, now);
        assert!((Duration::from_secs(100)..Duration::from_secs(101)).contains(&wait), "{wait:?}");
    }
}
