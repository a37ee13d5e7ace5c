//! What a walk could not do: the first named, the rest counted.

use std::error::Error;
use std::io;

use super::files::shown;
use super::served::Served;
use crate::control::wire::{FAILURES_NAMED, Failure};

/// Failures of one command.
#[derive(Clone, Debug, Default)]
pub(super) struct Failures {
    /// At most [`FAILURES_NAMED`].
    pub(super) named: Vec<Failure>,
    /// How many there were.
    pub(super) total: u64,
}

impl Failures {
    /// One more; beyond those that are named, it is in the log.
    pub(super) fn push(&mut self, failure: Failure) {
        self.total += 1;
        if self.named.len() < FAILURES_NAMED {
            self.named.push(failure);
        } else {
            tracing::warn!("{failure}");
        }
    }

    /// Those of another part of the command.
    pub(super) fn add(&mut self, other: Failures) {
        let unnamed = other.total.saturating_sub(u64::try_from(other.named.len()).unwrap_or(0));
        other.named.into_iter().for_each(|failure| self.push(failure));
        self.total += unnamed;
    }

    /// A path that could not be looked at.
    pub(super) fn note(&mut self, served: &Served, path: &[u8], error: &dyn Error) {
        self.push(Failure {
            path: shown(served, path).into(),
            cause: error.to_string(),
            next_step: "check its permissions, then run the command again".to_owned(),
        });
    }
}

/// Whether a file went away since it was found: no failure of anybody.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE))
}
