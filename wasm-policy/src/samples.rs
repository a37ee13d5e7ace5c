//! Files and tenants for tests.

use alloc::vec::Vec;

use crate::facts::{Candidate, Context, Evidence, Owner, Pin, Residency};
use crate::rulebook::Rulebook;
use crate::settings::{Settings, Value};

/// When tests take place, seconds since 1970.
pub const NOW: i64 = 1_795_000_000;

/// Archived, a MiB, not used for a month, watched.
pub fn cold() -> Candidate<'static> {
    Candidate {
        size_bytes: 1 << 20,
        local_bytes: 1 << 20,
        mtime_seconds: NOW - 30 * 86_400,
        idle_seconds: 30 * 86_400,
        evidence: Evidence::Observed,
        heat: 0.0,
        recalled_seconds: None,
        open_count: 0,
        residency: Residency::Archived,
        path: None,
        owner: None,
        pin: Pin::None,
    }
}

/// The same, never archived.
pub fn settled() -> Candidate<'static> {
    Candidate { residency: Residency::Resident, ..cold() }
}

/// A tenant whose filesystem asks for a GiB.
pub fn pressed() -> Context {
    Context {
        now_seconds: NOW,
        heat_half_life_seconds: 7 * 86_400,
        capacity_bytes: 100 << 30,
        used_bytes: 86 << 30,
        release_goal_bytes: 1 << 30,
        ..Context::default()
    }
}

/// A tenant with room.
pub fn calm() -> Context {
    Context { used_bytes: 10 << 30, release_goal_bytes: 0, ..pressed() }
}

/// The defaults with these.
pub fn rulebook(settings: &[(&str, Value)]) -> Rulebook {
    Rulebook::new(Settings::default().with(settings.iter().cloned()).unwrap())
}

/// The defaults with these rules.
pub fn rules(rules: &[&str]) -> Rulebook {
    let rules = rules.iter().map(|rule| (*rule).into()).collect();
    rulebook(&[("rules", Value::Texts(rules))])
}

/// Numbers that are the same in every run.
pub struct Random(pub u64);

impl Random {
    /// The next (splitmix64).
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of these.
    pub fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        let count = u64::try_from(choices.len()).unwrap();
        choices[usize::try_from(self.next() % count).unwrap()].clone()
    }

    /// Any candidate, odd ones included.
    pub fn candidate(&mut self) -> Candidate<'static> {
        let day = 86_400;
        let sizes = [0, 1, 4_096, 4_097, 1 << 20, 100 << 20, 1 << 40, u64::MAX];
        let ages = [0, 1, 3_599, 3_601, day - 1, day + 1, 14 * day, 15 * day + 1, 4_000 * day];
        let mtimes: Vec<i64> = ages.iter().map(|age| NOW - age).collect();
        let mtimes = [&mtimes[..], &[NOW + 1, NOW + 400 * day, i64::MIN, i64::MAX]].concat();
        let idle: Vec<u32> = ages.iter().map(|age| u32::try_from(*age).unwrap()).collect();
        let idle = [&idle[..], &[u32::MAX]].concat();
        Candidate {
            size_bytes: self.of(&sizes),
            local_bytes: self.of(&sizes),
            mtime_seconds: self.of(&mtimes),
            idle_seconds: self.of(&idle),
            evidence: self.of(&[Evidence::Observed, Evidence::Atime, Evidence::Unknown]),
            heat: self.of(&[0.0, 0.01, 1.0, 1e9, f32::NAN, f32::INFINITY, -1.0]),
            recalled_seconds: self.of(&[None, Some(0), Some(86_399), Some(86_401), Some(u32::MAX)]),
            open_count: self.of(&[0, 0, 0, 1, u32::MAX]),
            residency: self.of(&[Residency::Resident, Residency::Archived, Residency::Released]),
            path: self.of(&[None, Some("a.db"), Some("deep/er/b.txt"), Some("")]),
            owner: self.of(&[None, Some(Owner { uid: 7, gid: 8 })]),
            pin: self.of(&[Pin::None, Pin::None, Pin::NeverArchive, Pin::NeverRelease]),
        }
    }
}
