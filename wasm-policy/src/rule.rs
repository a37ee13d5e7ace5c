//! One rule: what it says, of which files.

use alloc::string::String;
use alloc::vec::Vec;

use crate::facts::{Action, Candidate, Evidence, Residency};
use crate::glob::Glob;
use crate::units::DAY;

/// What a rule says of the files it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Nothing is done; the rules below are not asked.
    Keep,
    /// A resident file stays so; for an archived one the rules below are asked.
    NeverArchive,
    /// The bytes stay here; a copy may be stored.
    NeverRelease,
    /// A resident file is archived.
    Archive,
    /// An archived file is released.
    Release,
    /// A resident or archived file loses its local bytes.
    Migrate,
    /// A released file comes home.
    Recall,
}

impl Verb {
    /// Each with its word.
    pub const ALL: [(&'static str, Verb); 7] = [
        ("keep", Verb::Keep),
        ("never-archive", Verb::NeverArchive),
        ("never-release", Verb::NeverRelease),
        ("archive", Verb::Archive),
        ("release", Verb::Release),
        ("migrate", Verb::Migrate),
        ("recall", Verb::Recall),
    ];

    /// What this says of a file in this state: none, that the rule is not about it; else the
    /// action, none again where it is kept.
    pub fn says(self, residency: Residency) -> Option<Option<Action>> {
        use Residency::{Archived, Released, Resident};
        match (self, residency) {
            (Verb::Keep, _) | (Verb::NeverArchive, Resident) | (Verb::NeverRelease, Archived) => {
                Some(None)
            }
            (Verb::Archive, Resident) => Some(Some(Action::Archive)),
            (Verb::Migrate, Resident) => Some(Some(Action::Migrate)),
            (Verb::Release | Verb::Migrate, Archived) => Some(Some(Action::Release)),
            (Verb::Recall, Released) => Some(Some(Action::Recall)),
            (Verb::NeverArchive, Archived | Released)
            | (Verb::NeverRelease | Verb::Recall, Resident)
            | (Verb::NeverRelease | Verb::Migrate, Released)
            | (Verb::Archive | Verb::Recall, Archived)
            | (Verb::Release, Resident | Released)
            | (Verb::Archive, Released) => None,
        }
    }
}

/// From least to most, both included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds<T> {
    /// No less.
    pub least: T,
    /// No more.
    pub most: T,
}

impl<T: PartialOrd> Bounds<T> {
    /// Whether it lies between; NaN does not.
    pub fn holds(&self, value: &T) -> bool {
        *value >= self.least && *value <= self.most
    }
}

/// What a file must be like. All of a rule's conditions must hold.
#[derive(Clone, Debug)]
pub enum Condition {
    /// Its size, bytes.
    Size(Bounds<u64>),
    /// Since its last change, seconds.
    Age(Bounds<u64>),
    /// Since its last use, seconds, as far as that is proven.
    Idle(Bounds<u64>),
    /// Its heat.
    Heat(Bounds<f32>),
    /// Since its last recall, seconds: one that never was recalled fits any least.
    Recalled(Bounds<u64>),
    /// Above a high watermark or not.
    Pressed(bool),
    /// Its user.
    Uid(u32),
    /// Its group.
    Gid(u32),
    /// Its path fits one of these (or, negated, none).
    Path(Vec<Glob>, bool),
}

impl Condition {
    /// What it costs to ask, least first.
    pub fn cost(&self) -> u8 {
        match self {
            Condition::Pressed(_) => 0,
            Condition::Size(_)
            | Condition::Age(_)
            | Condition::Idle(_)
            | Condition::Heat(_)
            | Condition::Recalled(_) => 1,
            Condition::Uid(_) | Condition::Gid(_) => 2,
            Condition::Path(..) => 3,
        }
    }

    fn holds(&self, file: &Candidate, times: &Times, pressed: bool) -> bool {
        match self {
            Condition::Size(bounds) => bounds.holds(&file.size_bytes),
            Condition::Age(bounds) => bounds.holds(&times.age),
            Condition::Idle(bounds) => bounds.holds(&times.idle),
            Condition::Heat(bounds) => bounds.holds(&times.heat),
            Condition::Recalled(bounds) => bounds.holds(&times.recalled),
            Condition::Pressed(want) => *want == pressed,
            // A fact that was wanted and not given fits nothing: better kept than moved.
            Condition::Uid(uid) => file.owner.is_some_and(|owner| owner.uid == *uid),
            Condition::Gid(gid) => file.owner.is_some_and(|owner| owner.gid == *gid),
            Condition::Path(globs, negated) => file
                .path
                .is_some_and(|path| globs.iter().any(|glob| glob.matches(path)) != *negated),
        }
    }
}

/// Never recalled: longer ago than anything.
pub const NEVER: u64 = u64::MAX;

/// What of a file changes by time alone.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Since its last change, seconds. A change in the future is one just now.
    pub age: u64,
    /// Since its last use, seconds, as far as that is proven: by relatime an atime may be a day
    /// old before a read moves it, so that day is taken off.
    pub idle: u64,
    /// Since its last recall, seconds, or [`NEVER`].
    pub recalled: u64,
    /// Its heat.
    pub heat: f32,
}

impl Times {
    /// Of this file, at this time.
    pub fn of(file: &Candidate, now_seconds: i64) -> Self {
        let age = u64::try_from(now_seconds.saturating_sub(file.mtime_seconds)).unwrap_or(0);
        let slack = match file.evidence {
            Evidence::Atime => DAY,
            Evidence::Observed | Evidence::Unknown => 0,
        };
        Self {
            age,
            idle: u64::from(file.idle_seconds.saturating_sub(slack)),
            recalled: file.recalled_seconds.map_or(NEVER, u64::from),
            heat: file.heat,
        }
    }
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its label, or else what was written.
    pub name: String,
    /// What it says.
    pub verb: Verb,
    /// Of which files: all of these hold. Cheapest first.
    pub conditions: Vec<Condition>,
}

impl Rule {
    /// Whether this file is one of its files.
    pub fn fits(&self, file: &Candidate, times: &Times, pressed: bool) -> bool {
        self.conditions.iter().all(|condition| condition.holds(file, times, pressed))
    }

    /// Whether it asks for a least time since the last use.
    pub fn asks_idleness(&self) -> bool {
        self.conditions
            .iter()
            .any(|condition| matches!(condition, Condition::Idle(bounds) if bounds.least > 0))
    }

    /// Whether it asks for a least time since the last change. (What is idle is unchanged.)
    pub fn asks_age(&self) -> bool {
        self.asks_idleness()
            || self
                .conditions
                .iter()
                .any(|condition| matches!(condition, Condition::Age(bounds) if bounds.least > 0))
    }

    /// No file that was changed (or, `used`, used) more recently fits, seconds.
    pub fn youngest(&self, used: bool) -> u64 {
        let least = self.conditions.iter().map(|condition| match condition {
            Condition::Idle(bounds) => bounds.least,
            Condition::Age(bounds) if !used => bounds.least,
            _ => 0,
        });
        least.max().unwrap_or(0)
    }
}
