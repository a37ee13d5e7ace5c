//! `fsck` of a tree: a walk feeds files to the check one by one.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::failures::{Failures, is_gone};
use super::files::shown;
use super::served::Served;
use super::walks::Unwalked;
use crate::control::wire::{
    Finding, FsckMode, FsckReport, FsckRequest, Problem, ProblemKind, Verdict,
};
use crate::fsck::{Fsck, Keep, Mode, Trouble, keep};
use crate::walk::{Found, walk};

/// Files that were found and wait to be checked.
const FILES_WAITING: usize = 64;

/// Checks a tree.
pub(super) async fn run(
    served: &Arc<Served>,
    request: FsckRequest,
    findings: mpsc::Sender<Finding>,
    cancel: CancellationToken,
) -> Result<FsckReport, Problem> {
    let start = served.locate(request.path.as_path()).await?;
    if request.mode != FsckMode::Check {
        served.may_change()?;
    }
    let choice = match request.mode {
        FsckMode::KeepLocal => Some(Keep::Local),
        FsckMode::KeepRemote => Some(Keep::Remote),
        FsckMode::Check | FsckMode::Repair | FsckMode::Adopt => None,
    };
    if let Some(choice) = choice {
        return choose(served, start, choice, findings).await;
    }
    let (sender, mut files) = mpsc::channel::<Found>(FILES_WAITING);
    let walking = Arc::clone(served);
    let walker = tokio::spawn(served.walks.run(cancel, move |stop| {
        let mut failures = Failures::default();
        let mut visit = |file: Found| {
            if file.is_regular() { stop.send(&sender, file) } else { stop.flow() }
        };
        let mut fail = |path: &[u8], error: std::io::Error| failures.note(&walking, path, &error);
        let _all_or_stopped = walk(&walking.tenant, start, &mut visit, &mut fail);
        failures
    }));
    let mode = match request.mode {
        FsckMode::Check | FsckMode::KeepLocal | FsckMode::KeepRemote => Mode::Check,
        FsckMode::Repair => Mode::Repair,
        FsckMode::Adopt => Mode::Adopt,
    };
    let mut fsck = Fsck::new(&served.tenant, &served.inodes, mode);
    let mut report = FsckReport::default();
    let mut failures = Failures::default();
    while let Some(file) = files.recv().await {
        report.examined += 1;
        let path = file.path.clone();
        let candidate = match served.migrator.candidate(file.path, file.fd, &file.stat) {
            Ok(candidate) => candidate,
            Err(error) => {
                if !is_gone(&error) {
                    failures.note(served, &path, &error);
                }
                continue;
            }
        };
        let checked = fsck.check(&candidate.inode).await;
        drop(candidate);
        let finding = match checked {
            Ok(None) => continue,
            Ok(Some(finding)) => Finding {
                path: shown(served, &path).into(),
                what: finding.what,
                verdict: verdict_of(finding.trouble),
                repaired: finding.repaired,
                next_step: next_step(finding.trouble, finding.repaired).to_owned(),
            },
            Err(error) => Finding {
                path: shown(served, &path).into(),
                what: format!("cannot be checked: {error}"),
                verdict: Verdict::Conflict,
                repaired: false,
                next_step: "check its permissions".to_owned(),
            },
        };
        report.found += 1;
        report.repaired += u64::from(finding.repaired);
        report.open += u64::from(!finding.repaired);
        if findings.send(finding).await.is_err() {
            break;
        }
    }
    drop(files);
    match walker.await.unwrap_or(Err(Unwalked::Fault)) {
        Ok(unread) => failures.add(unread),
        Err(Unwalked::Cancelled) => report.cancelled = true,
        Err(other) => return Err(other.into()),
    }
    (report.failed, report.failed_total) = (failures.named, failures.total);
    Ok(report)
}

/// Carries out a person's choice about one file.
async fn choose(
    served: &Arc<Served>,
    file: Found,
    choice: Keep,
    findings: mpsc::Sender<Finding>,
) -> Result<FsckReport, Problem> {
    let path = shown(served, &file.path);
    if !file.is_regular() {
        let what = format!("{}: not a file", path.display());
        return Err(Problem::new(ProblemKind::Usage, what, "choose by the names of files"));
    }
    let candidate = served.migrator.candidate(file.path, file.fd, &file.stat).map_err(|error| {
        let what = format!("{}: {error}", path.display());
        Problem::new(ProblemKind::Failed, what, "check the path")
    })?;
    let patience = served.recall.options().deadline;
    let kept = keep(&served.tenant, &served.inodes, &candidate.inode, choice, patience).await;
    let repaired = kept.is_ok();
    let (what, next_step) = match kept {
        Ok(what) => (what, String::new()),
        Err(error) => (error.to_string(), error.next_step().to_owned()),
    };
    let verdict = Verdict::Conflict;
    let finding = Finding { path: path.into(), what, verdict, repaired, next_step };
    // Whoever is gone wants no answer.
    drop(findings.send(finding).await);
    let (repaired, open) = (u64::from(repaired), u64::from(!repaired));
    Ok(FsckReport { examined: 1, found: 1, repaired, open, ..FsckReport::default() })
}

fn verdict_of(trouble: Trouble) -> Verdict {
    match trouble {
        Trouble::InFlight | Trouble::VoidRecord => Verdict::Repairable,
        Trouble::Orphan => Verdict::Orphan,
        Trouble::Conflict => Verdict::Conflict,
        Trouble::Foreign => Verdict::Foreign,
        Trouble::Lost => Verdict::Lost,
        Trouble::Unanswered => Verdict::Unanswered,
    }
}

fn next_step(trouble: Trouble, repaired: bool) -> &'static str {
    match trouble {
        _ if repaired => "",
        Trouble::InFlight | Trouble::VoidRecord => "coldfs fsck --repair, with the store reachable",
        Trouble::Orphan => "coldfs fsck --adopt, if it is this tenant's",
        Trouble::Conflict => {
            "choose: coldfs fsck --keep remote PATH, or coldfs fsck --keep local PATH"
        }
        Trouble::Foreign => "use the coldfs or the tenant that wrote it",
        Trouble::Lost => "look for the object in the store's versions or its backup",
        Trouble::Unanswered => "check the store (`coldfs doctor --store URL`), then run this again",
    }
}
