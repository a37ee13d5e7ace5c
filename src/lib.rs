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
#[cfg(test)]
pub(crate) mod fuzzing;
pub mod seal;
pub mod store;

// 4: formats at rest
pub mod intents;
pub mod record;
pub mod segment;
pub mod stub;

// 5: what we know about files
pub mod inode;

// 6: whose they are
pub mod tenant;

// 7: recall, which everything else may ask for
pub mod recall;

// 8: putting files in order
pub mod recover;

// 9: movement out
pub mod migrate;

// 10: POSIX verbs over tiered files, no FUSE types
pub mod ops;

// 11: decode, call ops, reply
pub mod fuse;

// 12: assembly and doors
pub mod background;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod doctor;
