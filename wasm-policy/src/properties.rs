//! What holds whatever the rules are and whatever files look like.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use crate::facts::{Action, Candidate, Context, Evidence, Pin, Residency};
use crate::pass::Pass;
use crate::rulebook::Rulebook;
use crate::samples::{self, NOW, Random, calm, pressed};
use crate::settings::Value;
use crate::units::DAY;

/// Rules of any kind, the recklessly simple ones included.
fn any_rulebook(random: &mut Random) -> Rulebook {
    let rules = [
        "archive",
        "release",
        "migrate",
        "recall",
        "keep",
        "never-archive",
        "never-release",
        "archive age > 0s",
        "release idle >= 0s",
        "migrate idle > 1s",
        "migrate size > 0B",
        "recall heat > 1",
        "keep path *.db",
        "release not path *.db heat < 0.5",
        "migrate pressed",
        "archive idle > 1d",
        "keep uid = 7",
        "release recalled > 1h idle > 2d",
    ];
    let mut chosen: Vec<String> = Vec::new();
    for _ in 0..random.of(&[1, 2, 3, 4]) {
        let rule: String = random.of(&rules).into();
        if !chosen.contains(&rule) {
            chosen.push(rule);
        }
    }
    let ahead = random.of(&[false, true]);
    samples::rulebook(&[
        ("rules", Value::Texts(chosen)),
        ("release-ahead", Value::Boolean(ahead)),
        ("minimum-residence", Value::Seconds(random.of(&[0, 86_400]))),
    ])
}

fn each(mut check: impl FnMut(&mut Random, &Rulebook, &Context, &Candidate)) {
    let mut random = Random(3);
    for _ in 0..2_000 {
        let rulebook = any_rulebook(&mut random);
        let context = random.of(&[calm(), pressed()]);
        for _ in 0..50 {
            let file = random.candidate();
            check(&mut random, &rulebook, &context, &file);
        }
    }
}

fn decide(rulebook: &Rulebook, context: &Context, file: &Candidate) -> Option<Action> {
    rulebook.judge(&rulebook.moment(context), file, 0).action
}

#[test]
fn nothing_is_released_without_evidence() {
    let mut released = 0;
    each(|_, rulebook, context, file| {
        if decide(rulebook, context, file).is_some_and(Action::frees) {
            released += 1;
            assert_ne!(file.evidence, Evidence::Unknown);
            assert!(file.evidence == Evidence::Observed || file.idle_seconds >= DAY);
        }
    });
    assert!(released > 500, "{released}");
}

#[test]
fn a_release_that_names_no_time_is_of_what_is_cold() {
    for text in
        ["release", "migrate", "migrate size > 0B", "release idle < 100d", "release idle >= 0s"]
    {
        let rulebook = samples::rules(&[text]);
        let mut random = Random(5);
        for _ in 0..20_000 {
            let file = random.candidate();
            if decide(&rulebook, &pressed(), &file).is_some() {
                assert!(file.idle_seconds >= 14 * DAY, "{text}: {file:?}");
            }
        }
    }
}

#[test]
fn nothing_is_done_with_open_files() {
    each(|_, rulebook, context, file| {
        if file.open_count > 0 {
            assert_eq!(decide(rulebook, context, file), None);
        }
    });
}

#[test]
fn pins_are_kept() {
    each(|_, rulebook, context, file| match (file.pin, decide(rulebook, context, file)) {
        (Pin::NeverArchive, action) => assert!(matches!(action, None | Some(Action::Recall))),
        (Pin::NeverRelease, action) => assert!(!action.is_some_and(Action::frees)),
        (Pin::None, _) => {}
    });
}

#[test]
fn an_action_fits_the_state_and_frees_something() {
    each(|_, rulebook, context, file| match decide(rulebook, context, file) {
        Some(Action::Archive | Action::Migrate) => {
            assert_eq!(file.residency, Residency::Resident);
            assert!(file.size_bytes > 4_096);
        }
        Some(Action::Release) => {
            assert_eq!(file.residency, Residency::Archived);
            assert!(file.local_bytes > 4_096);
        }
        Some(Action::Recall) => assert_eq!(file.residency, Residency::Released),
        None => {}
    });
}

#[test]
fn a_clock_that_goes_backwards_makes_files_younger_never_older() {
    let rulebooks =
        [&["archive", "release"][..], &["migrate idle > 1s", "archive age > 5d", "release"]];
    let mut random = Random(9);
    for _ in 0..50_000 {
        let rulebook = samples::rules(random.of(&rulebooks));
        let (context, file) = (random.of(&[calm(), pressed()]), random.candidate());
        let back = random.of(&[1, 3_600, 86_400, 40_000_000, i64::MAX]);
        let earlier = Context { now_seconds: NOW.saturating_sub(back), ..context };
        // The daemon's idle time can only shrink with it.
        let idle_seconds =
            file.idle_seconds.saturating_sub(u32::try_from(back).unwrap_or(u32::MAX));
        let younger = Candidate { idle_seconds, ..file };
        for seen in [&file, &younger] {
            if let Some(action) = decide(&rulebook, &earlier, seen) {
                let now = decide(&rulebook, &context, &file);
                assert!(
                    now == Some(action) || now.is_some_and(Action::frees),
                    "{action:?} then {now:?}: {file:?}"
                );
            }
        }
    }
}

#[test]
fn a_change_in_the_future_is_one_just_now() {
    let rulebook = samples::rules(&["archive age > 1s"]);
    for mtime_seconds in [NOW, NOW + 1, i64::MAX] {
        let file = Candidate { mtime_seconds, ..samples::settled() };
        assert_eq!(decide(&rulebook, &pressed(), &file), None);
    }
}

#[test]
fn what_the_daemon_need_not_offer_is_not_moved() {
    each(|_, rulebook, context, file| {
        let moved = decide(rulebook, context, file);
        let age = u64::try_from(NOW.saturating_sub(file.mtime_seconds)).unwrap_or(0);
        // A file that is used later than it was changed is no file.
        let honest = u64::from(file.idle_seconds) <= age;
        if honest && file.residency == Residency::Resident && age < rulebook.archive_after() {
            assert_eq!(moved, None, "{rulebook:?} {file:?}");
        }
        let idle = u64::from(file.idle_seconds);
        if file.residency == Residency::Archived && idle < rulebook.release_after() {
            assert_eq!(moved, None, "{rulebook:?} {file:?}");
        }
        if !rulebook.recalls() {
            assert_ne!(moved, Some(Action::Recall));
        }
    });
}

#[test]
fn every_answer_names_a_rule() {
    each(|_, rulebook, context, file| {
        let ruling = rulebook.judge(&rulebook.moment(context), file, 0);
        let names = rulebook.names();
        assert!(usize::from(ruling.rule) < names.len());
        assert!(ruling.action.is_none() || usize::from(ruling.rule) >= 13, "a rule of the user's");
    });
}

#[test]
fn a_pass_is_a_function_of_what_it_is_given() {
    let run = || {
        let mut random = Random(21);
        let mut pass = Pass::new(Rc::new(samples::rules(&["migrate", "archive"])), &pressed());
        (0..10_000).map(|_| pass.next(&random.candidate())).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}
