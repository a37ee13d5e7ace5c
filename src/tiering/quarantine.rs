//! Files that could not be moved are left alone, each time for longer. Pure.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::file_id::Ino;

/// Files that are remembered; those that failed longest ago are forgotten, and tried again.
const FILES: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

/// What keeps a file from being moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// What it is: it will hardly be otherwise soon.
    Itself,
    /// What is done with it just now. It is left alone so that others get their turn: the coldest are
    /// chosen first, and a pass frees no more than it is asked to.
    Now,
}

impl Failing {
    /// For how long it is left alone at first, and at most.
    fn pauses(self) -> (Duration, Duration) {
        match self {
            Failing::Itself => (Duration::from_mins(10), Duration::from_hours(7 * 24)),
            Failing::Now => (Duration::from_secs(30), Duration::from_mins(15)),
        }
    }
}

#[derive(Clone, Debug)]
struct Left {
    times: u32,
    until: Instant,
    why: String,
}

/// Who is left alone.
#[derive(Debug)]
pub struct Quarantine(LruCache<Ino, Left>);

impl Default for Quarantine {
    fn default() -> Self {
        // Nothing is allocated before the first file is in.
        let mut files = LruCache::unbounded();
        files.resize(FILES);
        Self(files)
    }
}

impl Quarantine {
    /// A file could not be moved.
    pub fn put(&mut self, ino: Ino, why: impl Into<String>, failing: Failing, now: Instant) {
        let times = self.0.get(&ino).map_or(0, |left| left.times);
        let (shortest, longest) = failing.pauses();
        let pause = shortest.saturating_mul(1 << times.min(12)).min(longest);
        self.0.put(ino, Left { times: times + 1, until: now + pause, why: why.into() });
    }

    /// A file was moved.
    pub fn clear(&mut self, ino: Ino) {
        self.0.pop(&ino);
    }

    /// Why a file is left alone, and for how many seconds more; none: it is not.
    pub fn why(&self, ino: Ino, now: Instant) -> Option<(String, u64)> {
        let left = self.0.peek(&ino).filter(|left| left.until > now)?;
        Some((left.why.clone(), left.until.duration_since(now).as_secs().max(1)))
    }

    /// Whether a file is left alone.
    pub fn has(&self, ino: Ino, now: Instant) -> bool {
        self.0.peek(&ino).is_some_and(|left| left.until > now)
    }

    /// How many are.
    pub fn len(&self, now: Instant) -> u64 {
        self.0.iter().filter(|(_, left)| left.until > now).count() as u64
    }

    /// Whether none is.
    pub fn is_empty(&self, now: Instant) -> bool {
        self.len(now) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_back_for_a_moment_is_asked_again_soon() {
        let (mut quarantine, mut now) = (Quarantine::default(), super::super::now());
        for seconds in [30, 60, 120, 240, 480, 900, 900] {
            quarantine.put(Ino(1), "open", Failing::Now, now);
            assert_eq!(quarantine.why(Ino(1), now).unwrap().1, seconds);
            now += Duration::from_secs(seconds);
        }
    }

    #[test]
    fn a_file_that_fails_is_left_alone_for_longer_each_time_and_no_others() {
        let (mut quarantine, mut now) = (Quarantine::default(), super::super::now());
        for minutes in [10, 20, 40] {
            quarantine.put(Ino(1), "too many extents", Failing::Itself, now);
            assert_eq!(quarantine.why(Ino(1), now).unwrap().1, minutes * 60);
            now += Duration::from_secs(minutes * 60);
            assert!(!quarantine.has(Ino(1), now));
        }
        assert!(!quarantine.has(Ino(2), now) && quarantine.is_empty(now));
        quarantine.put(Ino(1), "again", Failing::Itself, now);
        quarantine.clear(Ino(1));
        quarantine.put(Ino(1), "from the beginning", Failing::Itself, now);
        assert_eq!(quarantine.why(Ino(1), now).unwrap().1, 600);
        for ino in 2..100_000 {
            quarantine.put(Ino(ino), "x", Failing::Itself, now);
        }
        assert_eq!(quarantine.len(now), FILES.get() as u64);
    }
}
