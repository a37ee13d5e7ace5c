//! Why a file is kept or moved now, in a sentence, and when that changes.
//!
//! When it changes is not reckoned rule by rule: the answer is looked for again at each time at
//! which something that rules ask about changes, and the first that differs is told.

use alloc::format;
use alloc::string::{String, ToString};

use crate::facts::{Action, Candidate, Context, Evidence, Pin};
use crate::rule::{NEVER, Times};
use crate::rulebook::{Builtin, Moment, Rulebook, Ruling};
use crate::units::{show_bytes, show_seconds};

/// What is said of one file, for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// None: kept.
    pub action: Option<Action>,
    /// Who says so.
    pub rule: u16,
    /// Seconds until the answer is another if nothing happens; none: never.
    pub changes_in_seconds: Option<u32>,
    /// One sentence.
    pub reason: String,
}

/// Explains one file of a tenant.
pub fn explain(rulebook: &Rulebook, context: &Context, file: &Candidate) -> Verdict {
    let moment = rulebook.moment(context);
    let now = rulebook.judge(&moment, file, 0);
    let half_life = context.heat_half_life_seconds;
    let waits = rulebook.changes(&moment, file, half_life).into_iter();
    let answers = waits.map_while(|wait| u32::try_from(wait).ok()).map(|wait| {
        (wait, rulebook.judge_at(&moment, file, &later(file, &moment, half_life, wait), 0))
    });
    let differs = |ruling: &Ruling| (ruling.action, ruling.rule) != (now.action, now.rule);
    let change = answers.into_iter().find(|(_, ruling)| differs(ruling));
    let told = Told { rulebook, moment: &moment, file };
    Verdict {
        action: now.action,
        rule: now.rule,
        changes_in_seconds: change.map(|(wait, _)| wait),
        reason: told.reason(&now, change.as_ref()),
    }
}

/// What a file's times are so many seconds from now, if nothing happens to it.
fn later(file: &Candidate, moment: &Moment, half_life: u32, wait: u32) -> Times {
    let idle_seconds = file.idle_seconds.saturating_add(wait);
    let times = Times::of(&Candidate { idle_seconds, ..*file }, moment.now_seconds);
    let halvings = if half_life == 0 { 0.0 } else { f64::from(wait) / f64::from(half_life) };
    #[allow(clippy::cast_possible_truncation, reason = "a heat is an f32")]
    let heat = (f64::from(times.heat) * libm::exp2(-halvings)) as f32;
    let recalled = match times.recalled {
        NEVER => NEVER,
        since => since + u64::from(wait),
    };
    Times { age: times.age.saturating_add(u64::from(wait)), recalled, heat, ..times }
}

struct Told<'a> {
    rulebook: &'a Rulebook,
    moment: &'a Moment,
    file: &'a Candidate<'a>,
}

impl Told<'_> {
    fn reason(&self, now: &Ruling, change: Option<&(u32, Ruling)>) -> String {
        let reason = match now.action {
            Some(action) => {
                return format!("{}: {}", self.times(), self.by_rule(now.rule, does(action)));
            }
            None => self.kept(now),
        };
        let Some((wait, then)) = change else { return reason };
        let then = match then.action {
            Some(action) => self.by_rule(then.rule, does(action)),
            None => self.by_rule(then.rule, "keeps"),
        };
        format!("{reason}; in {} {then}", show_seconds(u64::from(*wait)))
    }

    fn kept(&self, now: &Ruling) -> String {
        let builtin = Builtin::ALL.iter().find(|(_, builtin)| builtin.number() == now.rule);
        let Some((_, builtin)) = builtin else { return self.by_rule(now.rule, "keeps") };
        let settings = self.rulebook.settings();
        let would = |why: &str| match now.held {
            Some((rule, action)) => {
                format!(
                    "{}: rule \"{}\" would {} it, but {why}",
                    self.times(),
                    self.name(rule),
                    word(action)
                )
            }
            None => why.to_string(),
        };
        match builtin {
            Builtin::NoRule => format!("{}: no rule moves it", self.times()),
            Builtin::Open => {
                format!("open now, {} times; open files are never moved", self.file.open_count)
            }
            Builtin::Pinned => would(match self.file.pin {
                Pin::NeverArchive => "it is pinned never-archive",
                Pin::NeverRelease | Pin::None => "it is pinned never-release",
            }),
            Builtin::TooSmall => would(&format!(
                "it has {} ({} local), and {} or one block is too small to move",
                show_bytes(self.file.size_bytes),
                show_bytes(self.file.local_bytes),
                show_bytes(settings.minimum_size),
            )),
            Builtin::Unproven => would(
                "nothing proves that it was not read since: it was not watched for that long, \
                 and its atime cannot be trusted",
            ),
            Builtin::RecalledLately => would(&format!(
                "it was recalled {} ago and stays for {}",
                show_seconds(self.file.recalled_seconds.map_or(0, u64::from)),
                show_seconds(settings.minimum_residence),
            )),
            Builtin::Uneconomic => would(&format!(
                "the space does not pay for it within {} months",
                settings.payback_months
            )),
            Builtin::NoNeed => would("no space is needed"),
            Builtin::NoRoom => would("there is no room for it"),
            Builtin::ReadWhole | Builtin::ReadMuch | Builtin::ReadOften | Builtin::ReadThrough => {
                self.by_rule(now.rule, "speaks of a read of")
            }
        }
    }

    fn times(&self) -> String {
        let age = Times::of(self.file, self.moment.now_seconds).age;
        let idle = show_seconds(u64::from(self.file.idle_seconds));
        let used = match self.file.evidence {
            Evidence::Observed => format!("used {idle} ago"),
            Evidence::Atime => format!("used {idle} ago by its atime, true to a day"),
            Evidence::Unknown => "last use not known".to_string(),
        };
        format!("changed {} ago, {used}", show_seconds(age))
    }

    fn by_rule(&self, rule: u16, does: &str) -> String {
        format!("rule \"{}\" {does} it", self.name(rule))
    }

    fn name(&self, rule: u16) -> String {
        self.rulebook.names().into_iter().nth(usize::from(rule)).unwrap_or_default()
    }
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Archive => "archive",
        Action::Release => "release",
        Action::Migrate => "migrate",
        Action::Recall => "recall",
    }
}

fn does(action: Action) -> &'static str {
    match action {
        Action::Archive => "archives",
        Action::Release => "releases",
        Action::Migrate => "migrates",
        Action::Recall => "recalls",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Residency;
    use crate::samples::{NOW, Random, calm, cold, pressed, rules, settled};
    use crate::units::DAY;

    #[test]
    fn a_person_reads_why_and_until_when() {
        let rulebook = rules(&["archive", "release"]);
        let file = Candidate { idle_seconds: 3 * DAY, ..cold() };
        let verdict = explain(&rulebook, &pressed(), &file);
        assert_eq!(verdict.action, None);
        assert_eq!(verdict.changes_in_seconds, Some(11 * DAY));
        assert_eq!(
            verdict.reason,
            "changed 30 d ago, used 3 d ago: no rule moves it; in 11 d rule \"release\" releases it"
        );
        let verdict = explain(&rulebook, &calm(), &cold());
        assert_eq!(
            verdict.reason,
            "changed 30 d ago, used 30 d ago: rule \"release\" would release it, but no space is \
             needed"
        );
        assert_eq!(verdict.changes_in_seconds, None);
        let file = Candidate { recalled_seconds: Some(7_200), ..cold() };
        let verdict = explain(&rulebook, &pressed(), &file);
        assert_eq!(verdict.changes_in_seconds, Some(22 * 3_600));
        assert!(verdict.reason.contains("it was recalled 2 h ago and stays for 1 d; in 22 h"));
    }

    #[test]
    fn an_atime_has_to_be_a_day_older() {
        let rulebook = rules(&["release"]);
        let file = Candidate { evidence: Evidence::Atime, idle_seconds: 14 * DAY + 5, ..cold() };
        let verdict = explain(&rulebook, &pressed(), &file);
        assert_eq!((verdict.action, verdict.changes_in_seconds), (None, Some(DAY - 5)));
        let fresh = Candidate { idle_seconds: 60, ..file };
        let verdict = explain(&rulebook, &pressed(), &fresh);
        assert_eq!(verdict.changes_in_seconds, Some(15 * DAY - 60));
    }

    #[test]
    fn heat_is_followed_as_it_decays() {
        let rulebook = rules(&["release idle > 1h heat < 1"]);
        let file = Candidate { heat: 4.0, ..cold() };
        let verdict = explain(&rulebook, &pressed(), &file);
        let wait = verdict.changes_in_seconds.unwrap();
        assert!((14 * DAY..14 * DAY + 60).contains(&wait), "two half-lives of 7 d: {wait}");
    }

    #[test]
    fn what_is_told_is_what_a_pass_does_now_and_then() {
        let rulebook = rules(&[
            "keep path *.db uid = 7",
            "recall idle < 2h heat > 0.5",
            "migrate idle > 3d heat < 0.5 recalled > 2d size > 1MiB",
            "archive age < 20d age > 2h",
            "archive",
            "release",
        ]);
        let mut random = Random(11);
        let mut told = 0;
        for _ in 0..20_000 {
            let file = Candidate { heat: random.of(&[0.0, 0.3, 3.0]), ..random.candidate() };
            let context = random.of(&[calm(), pressed()]);
            let verdict = explain(&rulebook, &context, &file);
            let moment = rulebook.moment(&context);
            let now = rulebook.judge(&moment, &file, 0);
            assert_eq!((verdict.action, verdict.rule), (now.action, now.rule));
            let half_life = context.heat_half_life_seconds;
            let at = |wait: u32| {
                let ruling =
                    rulebook.judge_at(&moment, &file, &later(&file, &moment, half_life, wait), 0);
                (ruling.action, ruling.rule)
            };
            let Some(wait) = verdict.changes_in_seconds else { continue };
            told += 1;
            assert_ne!(at(wait), (now.action, now.rule), "{file:?}");
            for part in 1..20 {
                // Heat crosses its bound within the second before.
                let before = u32::try_from(u64::from(wait - 1) * part / 20).unwrap();
                assert_eq!(at(before), (now.action, now.rule), "{file:?} {before} of {wait}");
            }
        }
        assert!(told > 1_000, "{told}");
        let _told = explain(&rulebook, &pressed(), &Candidate { mtime_seconds: NOW, ..settled() });
        let gone = Candidate { residency: Residency::Released, ..cold() };
        assert_eq!(explain(&rulebook, &pressed(), &gone).action, None);
    }
}
