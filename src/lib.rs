//! coldfs: a FUSE filesystem with transparent cold tiering to S3.
//!
//! Modules are listed from the outside world up. A module uses only modules of
//! earlier groups (`tests/tidy.rs` keeps that), so reading in this order never
//! meets an unexplained name.

// 1: vocabulary, values and rules without I/O
pub mod file_id;
pub mod tier;
pub(crate) mod wire;

// 2: the outside world, made safe
pub mod sys;

// 3: each speaks to one thing outside
pub mod failpoint;
pub mod seal;
pub mod store;

// 4: formats at rest
pub mod intents;
pub mod record;
pub mod segment;
pub mod stub;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod fuzzing;
