//! `archive`, `release`, `recall`, `migrate`, `cancel`, `pin`: commands that change files.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::WirePath;

/// How many failures a summary names; the rest are counted and in the daemon's log.
pub const FAILURES_NAMED: usize = 1_000;

/// What to do with files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Store a verified copy; local bytes stay.
    Archive,
    /// Give up local bytes that have a verified copy.
    Release,
    /// Bring bytes back.
    Recall,
    /// Archive, then release.
    Migrate,
    /// Bring bytes back, and forget the copy in the store: a plain file is left.
    Drain,
}

impl Verb {
    /// The word of the command line.
    pub fn word(self) -> &'static str {
        match self {
            Verb::Archive => "archive",
            Verb::Release => "release",
            Verb::Recall => "recall",
            Verb::Migrate => "migrate",
            Verb::Drain => "drain",
        }
    }

    /// What was done to a file, for a summary.
    pub fn past(self) -> &'static str {
        match self {
            Verb::Archive => "archived",
            Verb::Release => "released",
            Verb::Recall => "recalled",
            Verb::Migrate => "migrated",
            Verb::Drain => "drained",
        }
    }
}

/// Asks for files to be moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRequest {
    /// What to do.
    pub verb: Verb,
    /// Absolute paths, as the mount shows them.
    pub paths: Vec<WirePath>,
    /// Whether directories mean all files below them; without it they are failures.
    pub recursive: bool,
    /// Only files whose name this glob matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether a file that is busy now (open, or changed a moment ago) is waited for instead
    /// of skipped.
    pub wait: bool,
}

/// How far a move is; sent now and then, for display only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Files done or skipped or failed so far.
    pub files_done: u64,
    /// Files found so far; may still grow.
    pub files_total: u64,
    /// Bytes moved so far.
    pub bytes_done: u64,
    /// Bytes a second, lately.
    pub bytes_per_second: u64,
}

/// Why files were left alone; the same words wherever a migration skips a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    /// The reason, two or three words: `open`, `changed lately`, `4096 bytes or less`.
    pub reason: String,
    /// How many files.
    pub files: u64,
}

/// A file that was left alone, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedFile {
    /// The file.
    pub path: WirePath,
    /// The reason, as it is counted.
    pub reason: String,
}

/// A file that failed: which, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The file.
    pub path: WirePath,
    /// Why it failed.
    pub cause: String,
    /// What the person can do.
    pub next_step: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.path, self.cause, self.next_step)
    }
}

/// How a move ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoveSummary {
    /// What was done.
    pub verb: Verb,
    /// Files it was done to.
    pub files_done: u64,
    /// Files that were that way already.
    pub files_already: u64,
    /// Their bytes.
    pub bytes_done: u64,
    /// Seconds it took.
    pub seconds: f64,
    /// Whether it was cancelled before its end.
    pub cancelled: bool,
    /// Files left alone, by reason.
    pub skipped: Vec<Skip>,
    /// Which these were, at most [`FAILURES_NAMED`].
    #[serde(default)]
    pub skipped_files: Vec<SkippedFile>,
    /// Files that failed, at most [`FAILURES_NAMED`].
    pub failed: Vec<Failure>,
    /// How many files failed in all.
    pub failed_total: u64,
}

/// Asks for running moves to stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRequest {
    /// Stops moves of files at or below these absolute paths.
    pub paths: Vec<WirePath>,
    /// Ends waits for cold files of these processes, or of sessions by their numbers; moves go on.
    #[serde(default)]
    pub processes: Vec<u32>,
}

/// What a cancel did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelReport {
    /// Moves that were told to stop.
    pub moves: u64,
    /// Recalls of single files that were told to stop.
    pub recalls: u64,
}

/// Asks for files to keep their bytes here, or no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRequest {
    /// Absolute paths.
    pub paths: Vec<WirePath>,
    /// Whether directories mean all files below them.
    pub recursive: bool,
    /// Pin, or take the pin away.
    pub pinned: bool,
}

/// What a pin did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinReport {
    /// Files whose pin changed.
    pub changed: u64,
    /// Files that were that way already.
    pub already: u64,
    /// Files that failed, at most [`FAILURES_NAMED`].
    pub failed: Vec<Failure>,
    /// How many files failed in all.
    pub failed_total: u64,
}
