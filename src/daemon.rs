//! The daemon: assembles the parts for one directory and serves it until it is detached.

use crate::background::Ready;
use crate::config::MountOptions;
use crate::control::wire::{Problem, ProblemKind};

/// Serves one directory until it is detached; says through `ready` when the mount answers.
pub fn run(options: MountOptions, _ready: Ready) -> Result<(), Problem> {
    Err(Problem::new(
        ProblemKind::Failed,
        format!("mount {}: this build has no filesystem yet", options.mountpoint.display()),
        "build from a later commit",
    ))
}
