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

/// What was moved in this hour.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    limits: Limits,
    began: Instant,
    spent: Limits,
}

impl Caps {
    /// Nothing was moved yet.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self { limits, began: now, spent: Limits { files: 0, bytes: 0, requests: 0 } }
    }

    /// Spends if there is something left of each; false: not in this hour. What is larger than all
    /// that is left is let through once, and paid for by what follows: else it never would be.
    pub fn spend(&mut self, files: u64, bytes: u64, requests: u64, now: Instant) -> bool {
        if now.saturating_duration_since(self.began) >= HOUR {
            *self = Self::new(self.limits, now);
        }
        let Limits { files: most, bytes: most_bytes, requests: most_requests } = self.limits;
        let spent = &mut self.spent;
        if spent.files >= most || spent.bytes >= most_bytes || spent.requests >= most_requests {
            return false;
        }
        spent.files = spent.files.saturating_add(files);
        spent.bytes = spent.bytes.saturating_add(bytes);
        spent.requests = spent.requests.saturating_add(requests);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_has_its_share_and_no_more() {
        let start = super::super::now();
        let limits = Limits { files: 10, bytes: 1_000, requests: 5 };
        for (files, bytes, requests) in [(10, 1, 1), (1, 1_000, 1), (1, 1, 5)] {
            let mut caps = Caps::new(limits, start);
            assert!(caps.spend(files, bytes, requests, start));
            assert!(!caps.spend(1, 1, 1, start + HOUR / 2));
            assert!(caps.spend(1, 1, 1, start + HOUR));
        }
        let mut caps = Caps::new(limits, start);
        assert!(caps.spend(1, 50_000, 1, start), "a large file is moved, once");
        assert!(!caps.spend(1, 1, 1, start));
    }
}
