//! The rules in force, and what they say of one file.
//!
//! Rules are asked in order. One that keeps a file ends the matter. One that would move it is
//! asked about by the guards, which no rule can switch off: if a guard holds the file back, the
//! rules below are asked (a file that may not be released may still be archived), and if none
//! moves it, it is kept in that first guard's name. So every answer has the name of a rule.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::economy::Economy;
use crate::facts::{Action, Candidate, Context, Evidence, Pin};
use crate::rule::{Condition, Rule, Times, Verb};
use crate::settings::Settings;

/// What speaks where no rule of the user's does. Their numbers come before those of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builtin {
    /// No rule fits.
    NoRule,
    /// Somebody has it open.
    Open,
    /// Pinned.
    Pinned,
    /// Too small to be moved.
    TooSmall,
    /// P9: unknown is not cold.
    Unproven,
    /// Recalled lately.
    RecalledLately,
    /// The space saved does not pay for it.
    Uneconomic,
    /// No space is asked for, or enough was freed in this pass.
    NoNeed,
    /// There is no room for it to come home.
    NoRoom,
    /// Read while released: small enough to come home whole.
    ReadWhole,
    /// So much of it was read that the rest may come too.
    ReadMuch,
    /// Opened so often that it may stay.
    ReadOften,
    /// Read by ranges.
    ReadThrough,
}

impl Builtin {
    /// Each with its name, in the order of their numbers.
    pub const ALL: [(&'static str, Builtin); 13] = [
        ("no-rule", Builtin::NoRule),
        ("open", Builtin::Open),
        ("pinned", Builtin::Pinned),
        ("too-small", Builtin::TooSmall),
        ("unproven", Builtin::Unproven),
        ("recalled-lately", Builtin::RecalledLately),
        ("uneconomic", Builtin::Uneconomic),
        ("no-need", Builtin::NoNeed),
        ("no-room", Builtin::NoRoom),
        ("read-whole", Builtin::ReadWhole),
        ("read-much", Builtin::ReadMuch),
        ("read-often", Builtin::ReadOften),
        ("read-through", Builtin::ReadThrough),
    ];

    /// Its number among the rules.
    pub const fn number(self) -> u16 {
        self as u16
    }
}

#[allow(clippy::cast_possible_truncation, reason = "there are 13")]
const BUILTINS: u16 = Builtin::ALL.len() as u16;

/// A rule with the times that it asks for where it names none itself.
#[derive(Clone, Debug)]
struct Entry {
    rule: Rule,
    number: u16,
    /// Since the last change: with room, and above a high watermark. Seconds.
    least_age: [u64; 2],
    /// Since the last use. Seconds.
    least_idle: u64,
}

/// The rules in force.
#[derive(Clone, Debug)]
pub struct Rulebook {
    settings: Settings,
    entries: Vec<Entry>,
}

/// Which facts that cost something the rules need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wants {
    /// Some rule asks for the path.
    pub path: bool,
    /// Some rule asks for the owner.
    pub owner: bool,
}

/// What a file was judged by besides itself: one pass, or one question.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Seconds since 1970.
    pub now_seconds: i64,
    /// Above a high watermark.
    pub pressed: bool,
    /// To be freed.
    pub goal_bytes: u64,
    /// What moves cost.
    pub economy: Economy,
}

/// What is said of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// None: kept.
    pub action: Option<Action>,
    /// Who says so: a built-in's number, or that of a rule.
    pub rule: u16,
    /// Held back by a guard: the number of the rule that would act, and how.
    pub held: Option<(u16, Action)>,
}

impl Rulebook {
    /// Rules as these settings have them.
    pub fn new(settings: Settings) -> Self {
        let with_times = |(number, rule): (u16, &Rule)| {
            let archives = matches!(rule.verb, Verb::Archive) && !rule.asks_age();
            let frees = matches!(rule.verb, Verb::Release | Verb::Migrate);
            let ages = [settings.archive_after, settings.archive_after_pressed];
            Entry {
                number,
                least_age: if archives { ages } else { [0, 0] },
                least_idle: if frees && !rule.asks_idleness() { settings.cold_after } else { 0 },
                rule: rule.clone(),
            }
        };
        let entries = (BUILTINS..).zip(&settings.rules).map(with_times).collect();
        Self { settings, entries }
    }

    /// The settings behind it.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Names by number: the built-in ones, then the rules.
    pub fn names(&self) -> Vec<String> {
        let builtins = Builtin::ALL.iter().map(|(name, _)| (*name).to_string());
        builtins.chain(self.entries.iter().map(|entry| entry.rule.name.clone())).collect()
    }

    /// Facts to fetch.
    pub fn wants(&self) -> Wants {
        let any = |test: fn(&Condition) -> bool| {
            self.entries.iter().any(|entry| entry.rule.conditions.iter().any(test))
        };
        Wants {
            path: any(|condition| matches!(condition, Condition::Path(..))),
            owner: any(|condition| matches!(condition, Condition::Uid(_) | Condition::Gid(_))),
        }
    }

    /// Whether a rule recalls.
    pub fn recalls(&self) -> bool {
        self.entries.iter().any(|entry| entry.rule.verb == Verb::Recall)
    }

    /// Whether all that rules do is to release and to keep.
    pub fn only_releases(&self) -> bool {
        self.entries.iter().all(|entry| match entry.rule.verb {
            Verb::Release | Verb::Keep | Verb::NeverArchive | Verb::NeverRelease => true,
            Verb::Archive | Verb::Migrate | Verb::Recall => false,
        })
    }

    /// No rule archives what was changed more recently, seconds.
    pub fn archive_after(&self) -> u64 {
        self.least(&[Verb::Archive, Verb::Migrate], |entry| {
            let own = entry.rule.youngest(false);
            own.max(entry.least_age[1]).max(entry.least_idle)
        })
    }

    /// No rule releases an archived file that was used more recently, seconds.
    pub fn release_after(&self) -> u64 {
        self.least(&[Verb::Release, Verb::Migrate], |entry| {
            entry.rule.youngest(true).max(entry.least_idle)
        })
    }

    fn least(&self, verbs: &[Verb], seconds: impl Fn(&Entry) -> u64) -> u64 {
        let entries = self.entries.iter().filter(|entry| verbs.contains(&entry.rule.verb));
        entries.map(seconds).min().unwrap_or(u64::MAX)
    }

    /// What holds now for a tenant.
    pub fn moment(&self, context: &Context) -> Moment {
        let over = |used: u64, of: u64, percent: u64| {
            u128::from(used) * 100 > u128::from(of) * u128::from(percent)
        };
        let high = self.settings.high_watermark;
        let (local, quota) = (context.local_bytes, context.quota_bytes.unwrap_or(u64::MAX));
        // Of a quota the policy knows all; the filesystem's goal is the daemon's, which knows
        // every tenant on it.
        let over_quota = over(local, quota, high);
        let quota_goal = if over_quota {
            let low = u128::from(quota) * u128::from(self.settings.low_watermark) / 100;
            local.saturating_sub(u64::try_from(low).unwrap_or(u64::MAX))
        } else {
            0
        };
        let goal_bytes = context.release_goal_bytes.max(quota_goal);
        Moment {
            now_seconds: context.now_seconds,
            pressed: goal_bytes > 0 || over(context.used_bytes, context.capacity_bytes, high),
            goal_bytes,
            economy: Economy::new(context, &self.settings),
        }
    }

    /// What is said of this file, when so much was freed already.
    #[inline]
    pub fn judge(&self, moment: &Moment, file: &Candidate, freed_bytes: u64) -> Ruling {
        self.judge_at(moment, file, &Times::of(file, moment.now_seconds), freed_bytes)
    }

    /// The same at another time.
    pub(crate) fn judge_at(
        &self,
        moment: &Moment,
        file: &Candidate,
        times: &Times,
        freed_bytes: u64,
    ) -> Ruling {
        let kept = |rule: u16| Ruling { action: None, rule, held: None };
        if file.open_count > 0 {
            return kept(Builtin::Open.number());
        }
        let mut held: Option<Ruling> = None;
        for entry in &self.entries {
            let Some(says) = entry.rule.verb.says(file.residency) else { continue };
            if times.age < entry.least_age[usize::from(moment.pressed)]
                || times.idle < entry.least_idle
                || !entry.rule.fits(file, times, moment.pressed)
            {
                continue;
            }
            let Some(action) = says else {
                return held.unwrap_or(kept(entry.number));
            };
            match self.guard(moment, file, times, action, freed_bytes) {
                None => return Ruling { action: Some(action), rule: entry.number, held: None },
                Some(guard) => {
                    let ruling = Ruling {
                        action: None,
                        rule: guard.number(),
                        held: Some((entry.number, action)),
                    };
                    held.get_or_insert(ruling);
                }
            }
        }
        held.unwrap_or(kept(Builtin::NoRule.number()))
    }

    /// What holds this action back.
    fn guard(
        &self,
        moment: &Moment,
        file: &Candidate,
        times: &Times,
        action: Action,
        freed_bytes: u64,
    ) -> Option<Builtin> {
        if action == Action::Recall {
            return moment.pressed.then_some(Builtin::NoRoom);
        }
        let pinned = match file.pin {
            Pin::None => false,
            Pin::NeverArchive => true,
            Pin::NeverRelease => action.frees(),
        };
        if pinned {
            return Some(Builtin::Pinned);
        }
        if file.size_bytes <= self.settings.minimum_size || file.local_bytes <= BLOCK {
            return Some(Builtin::TooSmall);
        }
        if action.frees() {
            if file.evidence == Evidence::Unknown {
                return Some(Builtin::Unproven);
            }
            if times.recalled < self.settings.minimum_residence {
                return Some(Builtin::RecalledLately);
            }
        }
        if !moment.economy.pays(file, action, times.heat) {
            return Some(Builtin::Uneconomic);
        }
        let needed = freed_bytes < moment.goal_bytes || self.settings.release_ahead;
        (action.frees() && !needed).then_some(Builtin::NoNeed)
    }

    /// Seconds from now at which something a rule or guard asks about changes, in order: between
    /// two of them every answer stays as it is.
    pub(crate) fn changes(&self, moment: &Moment, file: &Candidate, half_life: u32) -> Vec<u64> {
        let times = Times::of(file, moment.now_seconds);
        let slack = slack_left(file);
        let until = |at: u64, have: u64| at.checked_sub(have).filter(|wait| *wait > 0);
        let cooled = |heat: f64| {
            let halvings = libm::log2(f64::from(times.heat) / heat);
            let wait = halvings * f64::from(half_life);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
            let whole = (wait > 0.0 && wait < f64::from(u32::MAX)).then(|| wait as u64 + 1);
            whole
        };
        let mut changes: Vec<u64> = Vec::new();
        for entry in &self.entries {
            changes.extend(until(entry.least_age[usize::from(moment.pressed)], times.age));
            changes.extend(until(entry.least_idle, times.idle).map(|wait| wait + slack));
            for condition in &entry.rule.conditions {
                let (bounds, have, slack) = match condition {
                    Condition::Age(bounds) => (bounds, times.age, 0),
                    Condition::Idle(bounds) => (bounds, times.idle, slack),
                    Condition::Recalled(bounds) => (bounds, times.recalled, 0),
                    Condition::Heat(bounds) => {
                        let heats = [bounds.least, bounds.most];
                        changes.extend(heats.iter().filter_map(|heat| cooled(f64::from(*heat))));
                        continue;
                    }
                    _ => continue,
                };
                let ends = [bounds.least, bounds.most.saturating_add(1)];
                let waits = ends.iter().filter_map(|end| until(*end, have));
                changes.extend(waits.map(|wait| wait.saturating_add(slack)));
            }
        }
        changes.extend(until(self.settings.minimum_residence, times.recalled));
        for action in [Action::Archive, Action::Release] {
            changes.extend(moment.economy.paying_heat(file, action).and_then(cooled));
        }
        changes.sort_unstable();
        changes.dedup();
        changes
    }
}

/// How much of an atime's day is not over, seconds: until then proven idleness stays at nothing.
fn slack_left(file: &Candidate) -> u64 {
    match file.evidence {
        Evidence::Atime => u64::from(crate::units::DAY.saturating_sub(file.idle_seconds)),
        Evidence::Observed | Evidence::Unknown => 0,
    }
}

/// What a stub occupies, bytes: a release of no more frees nothing.
const BLOCK: u64 = 4_096;
