//! The policy's host: a component that says what is cold, run so that it can do no harm.
//!
//! ```text
//! bytes -> code (checked, compiled by a child, cached) -> Instance (one for all tenants)
//! Offers (a tenant's candidates) -> Judge (a thread: passes in deficit round robin) -> Decided
//! ```
//!
//! Nothing that a component answers is believed before [`answer`] has checked it, and what is
//! believed is still advice: whoever moves files asks its own guards (P9, P10). Bounds: a call has
//! a time of CPU ([`STEP_TIME`], [`CALL_TIME`]), memory ([`MEMORY_BYTES`]), a size of its answer
//! ([`ANSWER_BYTES`]); texts and lists have lengths. A component that goes beyond loses its
//! instance; the other passes go on from their cursors on a fresh one, and a tenant whose passes
//! failed [`FAILURES`] times is left out until somebody reloads.

use std::time::Duration;

pub mod answer;
pub mod code;
pub mod contract;
mod court;
mod instance;
mod journal;
mod judge;
mod pass;
pub mod settings;
#[cfg(test)]
mod tests;
mod ticker;
mod wasi;

pub use instance::Fault;
pub use judge::{Counts, Judge, JudgeError, Loaded, Options};
pub use pass::{Decided, Ending, Offers, PassReport, PassRequest};

/// The policy that is in force where no other is named.
pub const DEFAULT: &[u8] = include_bytes!("../wasm-policy/policy.wasm");

/// CPU time of one step. A batch of 1,024 takes some 50 us.
const STEP_TIME: Duration = Duration::from_millis(250);
/// CPU time of one pass: a policy that is slow on each file would go on for ever.
const PASS_TIME: Duration = Duration::from_mins(2);
/// CPU time of any other call: runtimes of other languages take a while to begin.
const CALL_TIME: Duration = Duration::from_secs(2);
/// Memory of a component, all its memories together.
const MEMORY_BYTES: usize = 128 << 20;
/// What a component may hand over in one call, its journal's lines included.
const ANSWER_BYTES: usize = 16 << 20;
/// Entries of its tables.
const TABLE_ENTRIES: usize = 100_000;
/// Failures after which a tenant is left out.
const FAILURES: u32 = 3;
/// What a policy has to export.
const CONTRACT: &str = "coldfs:policy/policy@0.2.0";
/// Candidates a step at most, and a turn of a tenant with weight 1.
const BATCH: usize = 1_024;
