//! How warm a file is: a decayed number of accesses, the last of them, and how that is known.
//! Values and rules without I/O.
//!
//! Times are whole seconds since the Unix epoch, so that a row of the catalog stays small; they
//! reach to 2106.

use std::time::{Duration, SystemTime};

/// Seconds since the Unix epoch; 0: never, or not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Second(pub u32);

impl Second {
    /// The wall clock's. Before 1970 it is 0, after 2106 it stands still.
    pub fn now() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self(now.map_or(0, |now| u32::try_from(now.as_secs()).unwrap_or(u32::MAX)))
    }

    /// A file's time. Before 1970 it is 0, after 2106 it stands still.
    pub fn of_unix(seconds: i64) -> Self {
        Self(u32::try_from(seconds.clamp(0, u32::MAX.into())).unwrap_or(u32::MAX))
    }

    /// Seconds from `earlier` to this; 0 where it is later: a clock that went backwards makes
    /// files younger, never older.
    pub fn since(self, earlier: Second) -> u32 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What told of a file's last access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// Nothing did.
    #[default]
    Nothing,
    /// The kernel's probe.
    Probe,
    /// Its size or times of modification changed.
    Write,
    /// It was opened through the mount, where there is no probe.
    Open,
    /// It was open or mapped for long: what happens in mapped pages nobody sees.
    Held,
}

impl Evidence {
    /// All, by the byte that the catalog keeps.
    const ALL: [Evidence; 5] =
        [Evidence::Nothing, Evidence::Probe, Evidence::Write, Evidence::Open, Evidence::Held];

    /// The word shown to people and scripts.
    pub fn word(self) -> &'static str {
        match self {
            Evidence::Nothing => "none",
            Evidence::Probe => "probe",
            Evidence::Write => "write",
            Evidence::Open => "open",
            Evidence::Held => "held",
        }
    }

    /// The byte that the catalog keeps.
    pub fn byte(self) -> u8 {
        self as u8
    }

    /// What a byte says.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

/// How long until an access counts half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalfLife(pub Duration);

impl Default for HalfLife {
    /// Half of the 14 days after which a file counts as cold (DESIGN.md, section 9).
    fn default() -> Self {
        Self(Duration::from_secs(7 * 86_400))
    }
}

impl HalfLife {
    fn left_after(self, seconds: u32) -> f32 {
        let half_lives = f64::from(seconds) / self.0.as_secs_f64().max(1.0);
        #[allow(clippy::cast_possible_truncation, reason = "a factor between 0 and 1")]
        let left = (-half_lives).exp2() as f32;
        left
    }
}

/// The heat of one file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Heat {
    /// Since when the file is known: what happened before, nobody knows.
    pub since: Second,
    /// The last access; 0: none since.
    pub last: Second,
    /// Accesses since, none forgotten.
    pub accesses: u32,
    /// Accesses, each counting half after a half-life, as of `last`.
    score: f32,
    /// What told of the last.
    pub evidence: Evidence,
}

impl Heat {
    /// Of a file that is met at this time.
    pub fn met(since: Second) -> Self {
        Self { since, ..Self::default() }
    }

    /// As the catalog kept it; none: no such number of accesses.
    pub fn kept(since: Second, last: Second, accesses: u32, score: f32, by: u8) -> Option<Self> {
        let evidence = Evidence::from_byte(by)?;
        let valid = score.is_finite() && score >= 0.0;
        valid.then_some(Self { since, last, accesses, score, evidence })
    }

    /// The score as of the last access, for the catalog.
    pub fn score_at_last(&self) -> f32 {
        self.score
    }

    /// The score now.
    pub fn score(&self, now: Second, half_life: HalfLife) -> f32 {
        self.score * half_life.left_after(now.since(self.last))
    }

    /// `count` accesses, the last at `at`.
    pub fn touch(&mut self, count: u64, at: Second, by: Evidence, half_life: HalfLife) {
        let at = at.max(self.last);
        #[allow(clippy::cast_precision_loss, reason = "a score, not a count")]
        let more = count as f32;
        self.score = self.score(at, half_life) + more;
        self.accesses = self.accesses.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        self.last = at;
        self.evidence = by;
    }

    /// For how many seconds it is proven that nobody used the file, if everything was seen
    /// from `watched` on.
    pub fn idle_seconds(&self, now: Second, watched: Second) -> u32 {
        now.since(self.last.max(self.since).max(watched))
    }
}

/// How warm a file is now, and for what that is proof.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warmth {
    /// What is known of its uses.
    pub heat: Heat,
    /// Its score now.
    pub score: f32,
    /// Since when nothing was missed.
    pub watched_since: Second,
    /// For how long it is proven that nobody used it; none: unknown, which is not cold.
    pub idle_seconds: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u32 = 86_400;
    const HALF: HalfLife = HalfLife(Duration::from_secs(86_400));

    #[test]
    fn an_access_counts_half_after_a_half_life() {
        let mut heat = Heat::met(Second(DAY));
        heat.touch(8, Second(2 * DAY), Evidence::Probe, HALF);
        assert!((heat.score(Second(4 * DAY), HALF) - 2.0).abs() < 1e-6);
        heat.touch(1, Second(3 * DAY), Evidence::Probe, HALF);
        assert!((heat.score(Second(3 * DAY), HALF) - 5.0).abs() < 1e-6);
        assert_eq!(heat.accesses, 9);
    }

    #[test]
    fn idleness_is_proven_only_from_where_all_was_seen() {
        let mut heat = Heat::met(Second(100));
        assert_eq!(heat.idle_seconds(Second(150), Second(0)), 50);
        assert_eq!(heat.idle_seconds(Second(150), Second(140)), 10, "a gap ended at 140");
        heat.touch(1, Second(145), Evidence::Probe, HALF);
        assert_eq!(heat.idle_seconds(Second(150), Second(140)), 5);
        assert_eq!(heat.idle_seconds(Second(50), Second(0)), 0, "the clock went backwards");
    }

    #[test]
    fn a_late_note_makes_no_file_older() {
        let mut heat = Heat::met(Second(1));
        heat.touch(1, Second(100), Evidence::Probe, HALF);
        heat.touch(1, Second(50), Evidence::Probe, HALF);
        assert_eq!((heat.last, heat.accesses), (Second(100), 2));
    }

    #[test]
    fn what_was_never_kept_is_refused() {
        let kept = |score, by| Heat::kept(Second(1), Second(2), 3, score, by);
        assert!(kept(1.5, 1).is_some());
        assert!(kept(f32::NAN, 1).is_none() && kept(-1.0, 1).is_none() && kept(1.0, 9).is_none());
        for evidence in Evidence::ALL {
            assert_eq!(Evidence::from_byte(evidence.byte()), Some(evidence));
        }
    }
}
