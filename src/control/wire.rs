//! What a command and a daemon say to each other: JSON, also what `--json` prints.
//!
//! Field names are promises to scripts: add, never rename. Every list a daemon sends is a
//! stream of [`Event`]s, one a line, that ends with `end` or `problem`; a stream that ends
//! with neither was cut off.

mod files;
mod gc;
mod heat;
mod moves;
mod notes;
mod repair;
mod status;
mod storm;
mod tenants;
mod tiering;

pub use crate::wire_path::WirePath;
pub use files::{
    DuReport, DuRequest, FileHeat, FileReport, FileState, FindRequest, FindSummary, HsmFlags,
    Remote, Source, StateRequest,
};
pub use gc::{GcNews, GcProgress, GcReport, GcRequest, GcSegment, GcTotal, GcVerdict};
pub use heat::{Band, DirectoryHeat, FileWarmth, HeatReport, HeatRequest};
pub use moves::{
    CancelReport, CancelRequest, FAILURES_NAMED, Failure, MoveRequest, MoveSummary, PinReport,
    PinRequest, Progress, Skip, SkippedFile, Verb,
};
pub use notes::{Notes, NotesRequest, NotesSummary};
pub use repair::{Finding, FsckMode, FsckReport, FsckRequest, Verdict};
pub use status::{
    Bytes, CatalogState, CatalogStatus, Counters, Files, HeatStatus, Mount, Status, TenantStatus,
};
pub use storm::{Alarm, Application, BrakeReport, BrakeRequest, TopReport};
pub use tenants::{StatusRequest, TenantEntry, TenantRequest, TenantState, TenantVerb};
pub use tiering::{
    Broken, ExplainReport, ExplainRequest, Explanation, PassSummary, PlanRequest, PlanSummary,
    Planned, PolicyReport, PolicyRequest, PolicySetting, TieringReport,
};

use serde::{Deserialize, Serialize};

/// One line of a stream: an item, or how the stream ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event<Item, End> {
    /// One more of what was asked for.
    Item(Item),
    /// Done; nothing follows.
    End(End),
    /// It could not be done; nothing follows.
    Problem(Problem),
}

/// Whose move it is when a request cannot be answered; each has its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// The file or the machine: exit code 1.
    Failed,
    /// The person's: exit code 2.
    Usage,
    /// Nothing is mounted or running there: exit code 3.
    NotMounted,
    /// The store's: exit code 4.
    Store,
}

/// Why a request as a whole was not done: what happened, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}; {next_step}")]
pub struct Problem {
    /// Whose move it is.
    pub kind: ProblemKind,
    /// What happened, naming the file and the cause.
    pub what: String,
    /// What the person can do.
    pub next_step: String,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(kind: ProblemKind, what: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { kind, what: what.into(), next_step: next_step.into() }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::fuzzing::{self, read_json};

    /// What a daemon reads of a client, and a client of a daemon.
    #[test]
    fn decoding_a_message_never_panics() {
        let path = || WirePath::from(Path::new("/srv/t1/mail"));
        let (paths, name) = (vec![path()], Some("*.eml".to_owned()));
        let moves = MoveRequest { verb: Verb::Migrate, paths, recursive: true, name, wait: false };
        let cancel = CancelRequest { paths: vec![path()], processes: vec![7] };
        let pin = PinRequest { paths: vec![path()], recursive: false, pinned: true };
        let find = FindRequest {
            root: path(),
            states: vec![FileState::Resident],
            larger_bytes: Some(1 << 40),
            older_seconds: Some(60),
            name: None,
            walk: true,
        };
        let fsck = FsckRequest { path: path(), mode: FsckMode::KeepRemote };
        let gc = GcRequest { path: Some(path()), grace_seconds: 86_400 };
        let segment = GcSegment {
            key: "t/seg/00/1".to_owned(),
            segment: None,
            size_bytes: 9,
            entries: Some(1),
            live_entries: Some(0),
            live_bytes: None,
            dead_bytes: Some(9),
            age_seconds: None,
            verdict: GcVerdict::Dead,
            why: "nothing names it".to_owned(),
        };
        let news: Event<GcNews, GcReport> = Event::Item(GcNews::Segment(segment));
        let heat = HeatRequest { path: path(), depth: 2, named: 10, files: true };
        let notes = NotesRequest { notes: Notes::Conflicts, tail: Some(3), path: Some(path()) };
        let tenant = TenantRequest { name: "t1".to_owned(), verb: TenantVerb::Attach };
        let report = FileReport {
            path: path(),
            state: FileState::Resident,
            flags: HsmFlags::of(FileState::Resident, true),
            ino: 12,
            size_bytes: 5_000,
            local_bytes: 8_192,
            mtime_ns: -1,
            remote: None,
            pinned: true,
            open_count: 1,
            heat: None,
            notes: vec!["a changed stub".to_owned()],
        };
        let problem = Problem::new(ProblemKind::Store, "it is away", "wait");
        let events: [Event<FileReport, FindSummary>; 3] =
            [Event::Item(report), Event::End(FindSummary::default()), Event::Problem(problem)];
        let status = Status::default();
        fuzzing::run(|dice| {
            read_json(dice, &moves);
            read_json(dice, &cancel);
            read_json(dice, &pin);
            read_json(dice, &find);
            read_json(dice, &fsck);
            read_json(dice, &heat);
            read_json(dice, &gc);
            read_json(dice, &news);
            read_json(dice, &notes);
            read_json(dice, &tenant);
            read_json(dice, &status);
            for event in &events {
                read_json(dice, event);
            }
        });
    }
}
