//! How much may be moved in an hour. Pure.

use std::time::{Duration, Instant};

const HOUR: Duration = Duration::from_hours(1);

/// What may be moved in an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
    /// Requests to the store.
    pub requests: u64,
}

impl Default for Limits {
    /// More than one machine moves in an hour of small files, and a month of it costs some hundred
    /// dollars of requests at most.
    fn default() -> Self {
        Self { files: 10_000_000, bytes: 2 << 40, requests: 50_000 }
    }
}

/// What moves cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
    /// Requests to the store.
    pub requests: u64,
}

impl Cost {
    /// What is left of it without that.
    #[must_use]
    pub fn less(&self, other: &Cost) -> Cost {
        Cost {
            files: self.files.saturating_sub(other.files),
            bytes: self.bytes.saturating_sub(other.bytes),
            requests: self.requests.saturating_sub(other.requests),
        }
    }
}

/// What was moved in this hour.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    limits: Limits,
    began: Instant,
    spent: Cost,
}

impl Caps {
    /// Nothing was moved yet.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self { limits, began: now, spent: Cost::default() }
    }

    /// Begins another hour where the last is over.
    pub fn turn(&mut self, now: Instant) {
        if now.saturating_duration_since(self.began) >= HOUR {
            *self = Self::new(self.limits, now);
        }
    }

    /// Whether so much more is within this hour's share. One file that is more than a whole share
    /// has an hour to itself: else it would never move.
    pub fn allow(&self, cost: &Cost) -> bool {
        let Limits { files, bytes, requests } = self.limits;
        if files == 0 || bytes == 0 || requests == 0 {
            return false;
        }
        let fits = |spent: u64, more: u64, most: u64| spent.saturating_add(more) <= most;
        let spent = &self.spent;
        let is_within = fits(spent.files, cost.files, files)
            && fits(spent.bytes, cost.bytes, bytes)
            && fits(spent.requests, cost.requests, requests);
        is_within || cost.files == 1 && *spent == Cost::default()
    }

    /// So much is about to be moved.
    pub fn spend(&mut self, cost: &Cost) {
        self.spent.files = self.spent.files.saturating_add(cost.files);
        self.spent.bytes = self.spent.bytes.saturating_add(cost.bytes);
        self.spent.requests = self.spent.requests.saturating_add(cost.requests);
    }

    /// So much of it was not moved after all.
    pub fn give_back(&mut self, cost: &Cost) {
        self.spent = self.spent.less(cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_has_its_share_and_no_more() {
        let start = super::super::now();
        let limits = Limits { files: 10, bytes: 1_000, requests: 5 };
        let cost = |files, bytes, requests| Cost { files, bytes, requests };
        for most in [cost(10, 1, 1), cost(1, 1_000, 1), cost(1, 1, 5)] {
            let mut caps = Caps::new(limits, start);
            assert!(caps.allow(&most));
            caps.spend(&most);
            assert!(!caps.allow(&cost(1, 1, 1)));
            caps.turn(start + HOUR / 2);
            assert!(!caps.allow(&cost(1, 1, 1)));
            caps.give_back(&cost(1, 1, 1));
            assert!(caps.allow(&cost(1, 1, 1)), "what was held back is not paid for");
            caps.spend(&cost(1, 1, 1));
            caps.turn(start + HOUR);
            assert!(caps.allow(&most));
        }
        assert!(!Caps::new(limits, start).allow(&cost(2, 50_000, 1)), "a batch is cut");
        let mut caps = Caps::new(limits, start);
        let large = cost(1, 50_000, 90);
        assert!(caps.allow(&large), "a large file is moved, alone");
        caps.spend(&large);
        assert!(!caps.allow(&cost(1, 1, 1)));
        let mut caps = Caps::new(limits, start);
        caps.spend(&cost(1, 1, 1));
        assert!(!caps.allow(&large), "and not beside others");
        assert!(!Caps::new(Limits { files: 0, ..limits }, start).allow(&cost(1, 1, 1)));
    }
}
