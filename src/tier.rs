//! Where a file's bytes are: the states and their words (Lustre HSM's, because users know
//! them).
//!
//! ```text
//! resident --archive--> archived --release--> releasing --> released
//!     ^                    | open for write       ^             | read
//!     |                    v                      |             v
//!     +---- changed --- suspect --- unchanged --> archived <- recalling
//! ```
//!
//! `resident` has no record; every other state is the `state` byte of one.

pub mod standing;
pub mod transition;
pub mod verdict;

use serde::{Deserialize, Serialize};

/// The state that a record carries. Numbers are the format's (record byte 1): never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum State {
    /// Bytes local, and a verified remote copy of exactly this version.
    Archived = 1,
    /// Archived, and open for writing since.
    Suspect = 2,
    /// Archived, and the daemon may replace the body by a stub at any moment.
    Releasing = 3,
    /// Stub; the bytes are remote only.
    Released = 4,
    /// Stub being filled in place; the remote copy is the authority.
    Recalling = 5,
    /// The record names bytes that verified reads prove missing.
    Lost = 6,
}

impl State {
    /// Every state.
    pub const ALL: [State; 6] = [
        State::Archived,
        State::Suspect,
        State::Releasing,
        State::Released,
        State::Recalling,
        State::Lost,
    ];

    /// From the record's byte; none for a state of a later version.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as u8 == byte)
    }

    /// The word shown to people and scripts.
    pub fn word(self) -> &'static str {
        match self {
            State::Archived => "archived",
            State::Suspect => "suspect",
            State::Releasing => "releasing",
            State::Released => "released",
            State::Recalling => "recalling",
            State::Lost => "lost",
        }
    }
}
