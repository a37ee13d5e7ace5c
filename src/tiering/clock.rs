//! The time by which files are judged: one that a set clock cannot make older.

use std::time::Instant;

use crate::temperature::Second;

/// Seconds by which clocks may differ without anybody having set one.
const TOLERANCE: u32 = 120;

/// The wall clock, but never ahead of what it said at the start and what has passed since.
#[derive(Clone, Copy, Debug)]
pub struct SteadyClock {
    wall: Second,
    began: Instant,
}

impl SteadyClock {
    /// From now on.
    pub fn start() -> Self {
        Self { wall: Second::now(), began: super::now() }
    }

    /// Now. Set back, it makes files younger; set forward, it makes none older.
    pub fn now(&self) -> Second {
        steady(self.wall, self.passed(), Second::now())
    }

    /// Seconds by which the wall clock was set forward, if it was.
    pub fn ahead(&self) -> Option<u32> {
        let ahead = Second::now().since(steady(self.wall, self.passed(), Second(u32::MAX)));
        (ahead > TOLERANCE).then_some(ahead)
    }

    fn passed(&self) -> u32 {
        let passed = super::now().saturating_duration_since(self.began).as_secs();
        u32::try_from(passed).unwrap_or(u32::MAX)
    }
}

fn steady(start: Second, passed: u32, wall: Second) -> Second {
    wall.min(Second(start.0.saturating_add(passed).saturating_add(TOLERANCE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_a_year_makes_no_file_older() {
        const YEAR: u32 = 365 * 86_400;
        let start = Second(1_800_000_000);
        assert_eq!(steady(start, 60, Second(start.0 + 60)), Second(start.0 + 60));
        assert_eq!(steady(start, 60, Second(start.0 + YEAR)), Second(start.0 + 60 + TOLERANCE));
        assert_eq!(steady(start, 60, Second(start.0 - YEAR)), Second(start.0 - YEAR), "younger");
        assert_eq!(steady(start, u32::MAX, Second(5)), Second(5));
    }
}
