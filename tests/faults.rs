//! Faults of the store, on every call of every path: a path is run once to count its calls,
//! then once for each call and each fault. Whatever the store does, nothing is lost, no wrong
//! byte is served, the error is the one promised, nothing hangs, and no FUSE thread waits. And a
//! recall is stopped at any moment.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "faults/matrix.rs"]
mod matrix;
#[path = "faults/moving.rs"]
mod moving;
#[path = "faults/neighbours.rs"]
mod neighbours;
#[path = "faults/passing.rs"]
mod passing;
#[path = "faults/paths.rs"]
mod paths;
#[path = "faults/runs.rs"]
mod runs;
#[path = "faults/stopping.rs"]
mod stopping;
#[path = "faults/strays.rs"]
mod strays;
#[path = "harness/telling.rs"]
mod telling;
#[path = "faults/world.rs"]
mod world;
