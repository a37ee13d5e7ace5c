//! coldfs: a FUSE filesystem with transparent cold tiering to S3.
//!
//! Modules are listed from the outside world up. A module uses only modules of
//! earlier groups (`tests/tidy.rs` keeps that), so reading in this order never
//! meets an unexplained name.

// 1: vocabulary, values and rules without I/O
pub mod file_id;
pub mod tier;

// 2: the outside world, made safe
pub mod sys;

// 3: each speaks to one thing outside
pub mod failpoint;
pub mod store;

// 9: assembly and doors
pub mod background;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod doctor;
