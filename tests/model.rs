//! The model test: random operations on the mount and on a plain directory side by side;
//! whatever an application can see is the same on both after every step.
//!
//! `COLDFS_SEED` repeats a run, `COLDFS_MODEL_OPS` sets its length (`scripts/soak model` runs
//! a million). A failing run is shrunk and printed as a list that `COLDFS_REPLAY=FILE` runs.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a test that panics says where"
)]

mod harness;
#[path = "model/op.rs"]
mod op;
#[path = "model/shrink.rs"]
mod shrink;
#[path = "model/side.rs"]
mod side;
#[path = "model/world.rs"]
mod world;

use std::time::Duration;

use harness::{Subject, can_mount, env_number, say, seed};
use op::Op;
use world::Place;

/// Operations of a run, unless `COLDFS_MODEL_OPS` says otherwise.
const OPS: u64 = 20_000;
/// How long a failing run is made smaller, unless `COLDFS_SHRINK_SECONDS` says otherwise.
const SHRINK_SECONDS: u64 = 240;

#[test]
fn mount_and_plain_directory_look_the_same_after_every_step() {
    if can_mount() {
        compare(Place::Elsewhere);
    }
}

/// The kernel then keeps names and attributes for a day.
#[test]
fn mount_and_plain_directory_look_the_same_where_it_is_mounted_over_itself() {
    if can_mount() && Subject::from_env().is_coldfs() {
        compare(Place::OverItself);
    }
}

fn compare(place: Place) {
    let ops = match std::env::var("COLDFS_REPLAY") {
        Ok(file) => op::parse(&std::fs::read_to_string(&file).unwrap()),
        Err(_) => op::random(seed(), env_number("COLDFS_MODEL_OPS", OPS) as usize),
    };
    let Err(failure) = world::run(&ops, place, true) else { return };
    say(&format!("step {} failed: {}\nshrinking", failure.step, failure.what));
    let limit = Duration::from_secs(env_number("COLDFS_SHRINK_SECONDS", SHRINK_SECONDS));
    let small = shrink::shrink(&ops[..=failure.step.min(ops.len() - 1)], limit, |ops| {
        world::run(ops, place, false).is_err()
    });
    let last = world::run(&small, place, false);
    let list: Vec<String> = small.iter().map(Op::to_string).collect();
    panic!(
        "after {} operations: {}\n{} operations are enough (COLDFS_REPLAY=FILE repeats them):\n{}\n{}",
        failure.step,
        failure.what,
        small.len(),
        list.join("\n"),
        last.err().map_or("not every time".into(), |failure| failure.what)
    );
}

#[test]
fn a_failing_list_is_shrunk_to_what_it_needs() {
    let ops = op::random(7, 2_000);
    let needed = [ops[31].to_string(), ops[977].to_string()];
    let fails = |ops: &[Op]| {
        let texts: Vec<String> = ops.iter().map(Op::to_string).collect();
        needed.iter().all(|text| texts.contains(text))
    };
    let small = shrink::shrink(&ops, Duration::from_secs(20), fails);
    assert_eq!(small.len(), 2, "{small:?}");
}

#[test]
fn an_operation_reads_back_as_it_was_printed() {
    let ops = op::random(3, 5_000);
    let text: Vec<String> = ops.iter().map(Op::to_string).collect();
    assert_eq!(op::parse(&text.join("\n")), ops);
}
