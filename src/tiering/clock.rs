//! The time by which files are judged: one that a set clock cannot make older.
//!
//! ```text
//! wall  ahead of its course: held to it | behind: taken as it is, files are younger
//!       forward again after it was behind: what was stamped meanwhile looks old, and proves nothing
//! ```

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::sys;
use crate::temperature::Second;

/// Seconds by which clocks may differ without anybody having set one.
const TOLERANCE: u32 = 120;

/// What time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Now.
    pub now: Second,
    /// No file is taken to be idle, or home, from before this: 0, unless the clock was set.
    pub since: Second,
}

/// The wall clock, but never ahead of what it said at the start and what has passed since, sleep
/// included. It has to be read now and then: what it does between two readings it may undo unseen.
#[derive(Debug)]
pub struct SteadyClock {
    wall: Second,
    boot: Duration,
    course: Mutex<Course>,
}

impl SteadyClock {
    /// From now on.
    pub fn start() -> Self {
        let (wall, boot) = (Second::now(), sys::boot_clock());
        Self { wall, boot, course: Mutex::new(Course::new(wall)) }
    }

    /// Now. Set back, it makes files younger; set forward, it makes none older.
    pub fn read(&self) -> Reading {
        let mut course = self.course.lock().unwrap_or_else(PoisonError::into_inner);
        course.read(self.passed(), Second::now())
    }

    /// Seconds by which the wall clock was set forward, if it was.
    pub fn ahead(&self) -> Option<u32> {
        let ahead = Second::now().since(steady(self.wall, self.passed(), Second(u32::MAX)));
        (ahead > TOLERANCE).then_some(ahead)
    }

    fn passed(&self) -> u32 {
        let passed = sys::boot_clock().saturating_sub(self.boot).as_secs();
        u32::try_from(passed).unwrap_or(u32::MAX)
    }
}

/// Where the wall clock is, against where it should be.
#[derive(Clone, Copy, Debug)]
struct Course {
    start: Second,
    /// Seconds by which it is behind.
    behind: u32,
    since: Second,
}

impl Course {
    fn new(start: Second) -> Self {
        Self { start, behind: 0, since: Second(0) }
    }

    fn read(&mut self, passed: u32, wall: Second) -> Reading {
        let now = steady(self.start, passed, wall);
        let behind = self.start.0.saturating_add(passed).saturating_sub(wall.0);
        if behind.saturating_add(TOLERANCE) < self.behind {
            (self.behind, self.since) = (behind, now);
        } else if behind > self.behind.saturating_add(TOLERANCE) {
            self.behind = behind;
        }
        Reading { now, since: self.since }
    }
}

fn steady(start: Second, passed: u32, wall: Second) -> Second {
    wall.min(Second(start.0.saturating_add(passed).saturating_add(TOLERANCE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: u32 = 365 * 86_400;
    const START: Second = Second(1_800_000_000);

    #[test]
    fn a_clock_that_jumps_a_year_makes_no_file_older() {
        let ahead = |seconds| Second(START.0 + seconds);
        assert_eq!(steady(START, 60, ahead(60)), ahead(60));
        assert_eq!(steady(START, 60, ahead(YEAR)), ahead(60 + TOLERANCE));
        assert_eq!(steady(START, 60, Second(START.0 - YEAR)), Second(START.0 - YEAR), "younger");
        assert_eq!(steady(START, u32::MAX, Second(5)), Second(5));
    }

    #[test]
    fn a_clock_that_goes_back_and_comes_right_again_proves_nothing_of_before() {
        let mut course = Course::new(START);
        let right = |passed| Second(START.0 + passed);
        assert_eq!(course.read(60, right(60)), Reading { now: right(60), since: Second(0) });
        let back = Second(START.0 + 100 - YEAR);
        assert_eq!(course.read(100, back), Reading { now: back, since: Second(0) });
        // Half of the way, then all of it: each time from then on.
        let half = Second(START.0 + 200 - YEAR / 2);
        assert_eq!(course.read(200, half), Reading { now: half, since: half });
        let again = course.read(300, right(300));
        assert_eq!(again, Reading { now: right(300), since: right(300) });
        assert_eq!(course.read(900, right(900)).since, right(300), "and it stays so");
        // One that was ahead at the start and was put right is right.
        let mut course = Course::new(START);
        let right = Second(START.0 - 3_600 + 60);
        assert_eq!(course.read(60, right), Reading { now: right, since: Second(0) });
    }
}
