//! coldfs: a FUSE filesystem with transparent cold tiering to S3.
//!
//! Modules are listed from the outside world up. A module uses only modules of
//! earlier groups (`tests/tidy.rs` keeps that), so reading in this order never
//! meets an unexplained name.

// 1: vocabulary, values and rules without I/O
pub mod bounded;
pub mod file_id;
pub mod printable;
pub mod temperature;
pub mod tier;
pub mod units;
pub(crate) mod wire;

// 2: the outside world, made safe
#[cfg(test)]
pub(crate) mod fuzzing;
pub mod glance;
pub mod sys;
#[cfg(test)]
#[path = "../tests/harness/telling.rs"]
pub(crate) mod telling;
pub mod wire_path;

// 3: each speaks to one thing outside
pub mod failpoint;
pub mod heat;
pub mod policy;
pub mod seal;
pub mod store;

// 4: formats at rest
pub mod intents;
pub mod record;
pub mod segment;

// 5: the format that names another's places
pub mod stub;

// 6: what we know about files
pub mod inode;

// 7: whose they are
pub mod tenant;

// 8: going over all of them
pub mod walk;

// 9: recall, which everything else may ask for, and who may; what is known of every file
pub mod catalog;
pub mod guard;
pub mod recall;

// 10: putting files in order
pub mod recover;

// 11: movement that somebody asks for
pub mod fsck;
pub mod migrate;
pub mod prestage;
pub mod reap;

// 12: movement by itself
pub mod tiering;

// 13: POSIX verbs over tiered files, no FUSE types
pub mod ops;

// 14: decode, call ops, reply
pub mod fuse;

// 15: assembly and doors
pub mod background;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod doctor;

#[cfg(test)]
mod fixtures;
