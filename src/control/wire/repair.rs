//! `fsck`: what is wrong and what was done about it.

use serde::{Deserialize, Serialize};

use super::WirePath;

/// How far fsck may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsckMode {
    /// Look only.
    Check,
    /// Mend what has one right answer.
    Repair,
    /// Also give stubs without a record (copied or restored here) their record back.
    Adopt,
    /// Only this one file, which is a conflict: its local bytes are the file.
    #[serde(rename = "keep-local")]
    KeepLocal,
    /// Only this one file, which is a conflict: its remote copy is the file.
    #[serde(rename = "keep-remote")]
    KeepRemote,
}

/// Asks for a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckRequest {
    /// Where to begin, absolute; the mountpoint is the whole tenant.
    pub path: WirePath,
    /// How far it may go.
    pub mode: FsckMode,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Worth knowing; nothing is at risk.
    Note,
    /// One right answer exists: `--repair` gives it.
    Repairable,
    /// A stub without its record: `--adopt` gives it back.
    Orphan,
    /// Local bytes that nobody can account for; kept, a person must choose.
    Conflict,
    /// A record or stub of another tenant, or of a newer coldfs.
    Foreign,
    /// Bytes are proven missing.
    Lost,
    /// The store did not say whether it has them.
    Unanswered,
}

/// One thing that fsck found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The file.
    pub path: WirePath,
    /// What is wrong.
    pub what: String,
    /// How bad it is.
    pub verdict: Verdict,
    /// Whether it was mended.
    pub repaired: bool,
    /// What the person can do; empty where nothing is left to do.
    pub next_step: String,
}

/// How a check ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckReport {
    /// Files looked at.
    pub examined: u64,
    /// Findings that were sent.
    pub found: u64,
    /// Findings that were mended.
    pub repaired: u64,
    /// Findings still open; the exit code is 1 unless this is 0.
    pub open: u64,
    /// Files or directories that could not be looked at, at most [`super::FAILURES_NAMED`].
    #[serde(default)]
    pub failed: Vec<super::Failure>,
    /// How many of those there were in all; the exit code is 1 unless this is 0.
    #[serde(default)]
    pub failed_total: u64,
    /// Whether it was cancelled before its end.
    pub cancelled: bool,
}
