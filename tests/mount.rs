//! What a person has who mounts coldfs: the promises, one test each; races between
//! applications and migrations; real applications; where it is run; what is left when it is detached.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a test that panics says where"
)]

#[path = "mount/applications.rs"]
mod applications;
#[path = "mount/attributes.rs"]
mod attributes;
#[path = "mount/backups.rs"]
mod backups;
#[path = "mount/bad_input.rs"]
mod bad_input;
#[path = "mount/catalog.rs"]
mod catalog;
#[path = "mount/commands.rs"]
mod commands;
#[path = "mount/conflicts.rs"]
mod conflicts;
#[path = "mount/daemon.rs"]
mod daemon;
#[path = "mount/detached.rs"]
mod detached;
#[path = "mount/environments.rs"]
mod environments;
#[path = "mount/full.rs"]
mod full;
#[path = "mount/gc.rs"]
mod gc;
mod harness;
#[path = "mount/homecoming.rs"]
mod homecoming;
#[path = "mount/moving.rs"]
mod moving;
#[path = "mount/names.rs"]
mod names;
#[path = "mount/places.rs"]
mod places;
#[path = "mount/posix.rs"]
mod posix;
#[path = "mount/promises.rs"]
mod promises;
#[path = "mount/races.rs"]
mod races;
#[path = "mount/serving.rs"]
mod serving;
#[path = "mount/storms.rs"]
mod storms;
#[path = "mount/strangers.rs"]
mod strangers;
#[path = "mount/tools.rs"]
mod tools;
#[path = "mount/waiting.rs"]
mod waiting;
#[path = "mount/whole_tree.rs"]
mod whole_tree;
