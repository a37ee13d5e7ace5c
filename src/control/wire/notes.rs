//! The daemon's notebooks, which nobody can read in a directory that is mounted over itself.

use serde::{Deserialize, Serialize};

use super::WirePath;

/// Which notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Notes {
    /// Bodies that nobody can account for, and what was chosen about them.
    Conflicts,
    /// Opens of cold files.
    Audit,
    /// What moved by itself.
    Moves,
}

/// Asks for notes, oldest first; each is an item, as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotesRequest {
    /// Which.
    pub notes: Notes,
    /// Only so many, the newest.
    pub tail: Option<u64>,
    /// Of whom: a path on its mount. None: of the daemon's only tenant.
    #[serde(default)]
    pub path: Option<WirePath>,
}

/// How they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotesSummary {
    /// Notes sent.
    pub sent: u64,
    /// Notes that found no room since the mount: the log has them.
    pub unwritten: u64,
    /// Older notes that fell out of a full notebook: those are gone.
    #[serde(default)]
    pub fallen_out: u64,
}
