//! A policy that answers at random, over files of which the test knows what they are: whatever it
//! says, nothing goes that is open, pinned, too small, used lately or not proven idle, and no more
//! than an hour's share. The seed is printed; `COLDFS_SEED` runs one again.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::batch::{self, Tally};
use super::caps::{Caps, Limits};
use super::facts::Moment;
use super::guards::{Least, held};
use super::need::Room;
use super::pressure;
use crate::catalog::offers::{Class, Offer};
use crate::catalog::seen::used;
use crate::file_id::Ino;
use crate::heat::{Kind, Sight, Source};
use crate::policy::contract::{Action, Budget, Decision, StepResult};
use crate::policy::{Decided, answer};
use crate::temperature::{Evidence, HalfLife, Heat, Second};
use crate::tenant::Pin;

const DAY: u32 = 86_400;
const NOW: Second = Second(20_000 * DAY);
const ACTIONS: [Action; 4] = [Action::Archive, Action::Release, Action::Migrate, Action::Recall];

/// What is done with a file, as nobody but the test knows it.
struct Truth {
    born: Second,
    last_use: Second,
    recalled: Option<Second>,
    open: bool,
    pin: Option<Pin>,
}

fn between(dice: &mut StdRng, first: Second, last: Second) -> Second {
    // Minutes and years alike.
    let span = last.since(first);
    let back = dice.random::<f64>().powi(3) * f64::from(span);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below a u32")]
    Second(last.0 - back as u32)
}

fn moment(dice: &mut StdRng) -> Moment {
    let probe = Kind::TpBtf;
    let sources = [Source::Probe(probe), Source::Partly(probe), Source::Opens, Source::Nothing];
    let sight = Sight {
        source: *sources.choose(dice).unwrap(),
        since: between(dice, Second(NOW.0 - 200 * DAY), NOW),
        until: NOW,
        ..Sight::default()
    };
    let half_life = HalfLife::default();
    Moment { now: NOW, since: Second(0), sight, keeps_atime: dice.random(), half_life }
}

/// A file, and what the catalog, the filesystem and the ledger say of it.
fn file(dice: &mut StdRng, moment: &Moment, ino: u64) -> (Truth, Offer) {
    let born = between(dice, Second(NOW.0 - 2_000 * DAY), NOW);
    let last_use = if dice.random() { born } else { between(dice, born, NOW) };
    let ancient = Second(dice.random_range(1..=born.0));
    // relatime: no more than a day too old; what was copied has the times of its original.
    let is_copy = last_use == born && dice.random();
    let late = dice.random_range(0..DAY);
    let atime = match (moment.keeps_atime, is_copy) {
        (true, false) => Second(last_use.0 - late).max(born),
        (true, true) => ancient,
        (false, _) => *[Second(0), ancient, NOW].choose(dice).unwrap(),
    };
    let atime = used(atime, Some(born));
    let mut heat = Heat::met(between(dice, born, NOW));
    let sees_all = matches!(moment.sight.source, Source::Probe(_));
    let is_seen = sees_all && last_use >= moment.sight.since || dice.random();
    if is_seen {
        heat.touch(dice.random_range(1..9), last_use, Evidence::Probe, moment.half_life);
    }
    let recalled = dice.random::<bool>().then(|| between(dice, born, NOW));
    let pin = *[None, None, Some(Pin::NeverArchive), Some(Pin::NeverRelease)].choose(dice).unwrap();
    let truth = Truth { born, last_use, recalled, open: dice.random_bool(0.2), pin };
    let size_bytes = match dice.random_range(0..20) {
        0..4 => dice.random_range(0..=4_096),
        4..18 => dice.random_range(4_097..10 << 20),
        18 => dice.random_range(10 << 20..1 << 30),
        _ => u64::MAX >> dice.random_range(0..30),
    };
    let offer = Offer {
        ino: Ino(ino),
        class: *[Class::Resident, Class::Archived, Class::Released].choose(dice).unwrap(),
        size_bytes,
        local_bytes: size_bytes,
        mtime_seconds: if is_copy { ancient.0 } else { born.0 }.into(),
        atime,
        recalled: recalled.unwrap_or_default(),
        heat,
        pin: None,
        dir: None,
    };
    (truth, offer)
}

/// An answer by chance, to a batch of so many.
fn answered(dice: &mut StdRng, offered: u32) -> StepResult {
    let mut decisions = Vec::new();
    for _ in 0..dice.random_range(0..=offered) {
        let is_off = dice.random_bool(0.1);
        decisions.push(Decision {
            index: if is_off { dice.random() } else { dice.random_range(0..offered) },
            action: *ACTIONS.choose(dice).unwrap(),
            priority: dice.random(),
            rule: dice.random_range(0..4),
        });
    }
    StepResult { decisions, consumed: dice.random_range(0..=offered + 1), done: dice.random() }
}

fn may_go(action: Action, truth: &Truth, offer: &Offer, moment: &Moment, least: Least) -> bool {
    let is_free = !truth.open && offer.size_bytes > 4_096;
    let is_watched = matches!(moment.sight.source, Source::Probe(_)) || moment.keeps_atime;
    let is_idle = NOW.since(truth.last_use) >= least.idle && NOW.since(truth.born) >= least.idle;
    let has_stayed = truth.recalled.is_none_or(|then| NOW.since(then) >= least.stay);
    match action {
        Action::Archive => is_free && truth.pin != Some(Pin::NeverArchive),
        Action::Release | Action::Migrate => {
            is_free && truth.pin.is_none() && is_watched && is_idle && has_stayed
        }
        Action::Recall => true,
    }
}

/// One pass of files by one policy. How many went.
fn pass(seed: u64) -> u64 {
    let dice = &mut StdRng::seed_from_u64(seed);
    let moment = moment(dice);
    let days = Duration::from_secs(u64::from(DAY) * dice.random_range(0..60));
    let least = Least {
        idle: u32::try_from(days.as_secs()).unwrap() + 60,
        stay: dice.random_range(0..30 * DAY),
    };
    let files: Vec<_> = (0..200).map(|ino| file(dice, &moment, ino)).collect();
    let candidate =
        |(truth, offer): &(Truth, Offer)| moment.candidate(offer, u32::from(truth.open), truth.pin);
    let batch: Vec<_> = files.iter().map(candidate).collect();
    let budget = Budget { max_candidates: 200, max_decisions: 200 };
    let Ok(step) = answer::step(batch.len(), &budget, 3, answered(dice, 200)) else { return 0 };
    let decided = step.decisions.into_iter().map(|decision| Decided {
        file: batch[decision.index as usize].clone(),
        action: decision.action,
        priority: decision.priority,
        rule: decision.rule,
    });
    let mut decided: Vec<Decided> = decided.collect();
    let once: BTreeSet<u64> = decided.iter().map(|decided| decided.file.file_id).collect();
    assert_eq!(once.len(), decided.len(), "a file twice");
    batch::sort(&mut decided);
    let limits = Limits {
        files: dice.random_range(0..100),
        bytes: dice.random_range(0..2 << 30),
        requests: dice.random_range(0..500),
    };
    let began = super::now();
    let mut caps = Caps::new(limits, began);
    let mut room = Room { capacity_bytes: 1 << 40, used_bytes: dice.random_range(0..1 << 40) };
    let (mut rest, mut gone, mut moved) = (decided.as_slice(), 0, Vec::new());
    for hour in 0..4 {
        caps.turn(began + Duration::from_secs(3_600 * hour));
        moved.clear();
        loop {
            let length = batch::length(rest, &caps);
            let (batch, later) = rest.split_at(length);
            let Some(first) = batch.first() else { break };
            rest = later;
            if first.action == Action::Recall {
                assert_eq!(batch.len(), 1, "each that comes home is looked at by itself");
                assert!(pressure::yields(first.action, u64::MAX));
            }
            let paid = Tally::of(batch).cost();
            caps.spend(&paid);
            let goes = |decided: &&Decided| {
                let (truth, offer) = &files[usize::try_from(decided.file.file_id).unwrap()];
                let facts = moment.facts(offer, truth.open, truth.pin);
                let goes = held(decided.action, &facts, least).is_none();
                let may = may_go(decided.action, truth, offer, &moment, least);
                assert!(may || !goes, "{:?} of {offer:?}\n{facts:?}", decided.action);
                let comes_home = decided.action == Action::Recall;
                goes && (!comes_home || room.takes(decided.file.size_bytes, 80))
            };
            let went: Vec<_> = batch.iter().filter(goes).cloned().collect();
            caps.give_back(&paid.less(&Tally::of(&went).cost()));
            for recalled in went.iter().filter(|went| went.action == Action::Recall) {
                room.used_bytes += recalled.file.size_bytes;
                assert!(room.goal_bytes(85, 80) == 0, "it made others go");
            }
            gone += went.iter().filter(|went| went.action != Action::Recall).count() as u64;
            moved.extend(went);
        }
        let bytes =
            moved.iter().fold(0_u64, |sum, moved| sum.saturating_add(moved.file.size_bytes));
        let files = moved.len() as u64;
        assert!(files <= limits.files, "{files} files of {limits:?}");
        assert!(bytes <= limits.bytes || files == 1, "{bytes} bytes of {limits:?}");
        let requests = Tally::of(&moved).cost().requests;
        assert!(requests <= limits.requests || files == 1, "{requests} requests of {limits:?}");
    }
    gone
}

#[test]
fn a_policy_that_answers_at_random_breaks_no_promise_pin_or_cap() {
    let one = std::env::var("COLDFS_SEED").ok().and_then(|seed| seed.parse().ok());
    let first: u64 = one.unwrap_or_else(rand::random);
    let seeds = if one.is_some() { 1 } else { 2_000 };
    let mut gone = 0;
    for seed in (0..seeds).map(|more| first.wrapping_add(more)) {
        let passed = std::panic::catch_unwind(|| pass(seed));
        gone += passed.unwrap_or_else(|_| panic!("COLDFS_SEED={seed}"));
    }
    assert!(gone > 0 || one.is_some(), "nothing ever went: the test proves nothing");
}
