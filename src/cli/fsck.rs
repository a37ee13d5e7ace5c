//! `coldfs fsck`.

use std::path::PathBuf;

use clap::Args;

use super::output::{Output, count, files, unwritten};
use super::{Outcome, converse, paths};
use crate::control::wire::{
    FAILURES_NAMED, Finding, FsckMode, FsckReport, FsckRequest, Problem, Verdict,
};
use crate::printable::printable;

const EXAMPLES: &str = "\
Examples:
  coldfs fsck /srv/t1              look only
  coldfs fsck --repair /srv/t1     mend what has one right answer
  coldfs fsck --adopt /srv/t1      also give copied or restored stubs their record back
  coldfs fsck --keep remote /srv/t1/a /srv/t1/b
                                   these conflicts: the version in the store is the file

Local bytes that nobody can account for (somebody wrote into a stub while nothing was mounted) are
never overwritten: they are reported as a conflict, and a person chooses by path. --keep remote
looks at the copy that the file's record names, keeps the local bytes in .coldfs/conflicts.d and
puts the stub back; --keep local makes a plain file of the local bytes, as they are. What was let go
is in `coldfs conflicts MOUNTPOINT`.

The exit code is 0 where nothing is left to do, 1 where something is or could not be looked at.";

/// Check what records and stubs say against each other and the store
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct FsckArgs {
    /// A mountpoint, a directory or files on it
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Mend what has one right answer
    #[arg(long, conflicts_with = "adopt")]
    repair: bool,

    /// Repair, and give stubs without a record theirs back
    #[arg(long)]
    adopt: bool,

    /// Of these files, which are conflicts, keep the remote copy or the local bytes
    #[arg(long, value_name = "WHICH", conflicts_with_all = ["adopt", "repair"])]
    keep: Option<Which>,
}

/// What of a conflict is to be the file.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Which {
    /// The version in the store that the file's record names
    Remote,
    /// The bytes that are here
    Local,
}

pub fn run(args: FsckArgs, output: &mut Output) -> Result<Outcome, Problem> {
    let mode = match (args.repair, args.adopt, args.keep) {
        (_, _, Some(Which::Remote)) => FsckMode::KeepRemote,
        (_, _, Some(Which::Local)) => FsckMode::KeepLocal,
        (_, true, None) => FsckMode::Adopt,
        (true, false, None) => FsckMode::Repair,
        (false, false, None) => FsckMode::Check,
    };
    let report = converse(async {
        let mut all = FsckReport::default();
        for share in paths::shares(&args.paths).await? {
            for path in share.paths {
                let each = |finding: Finding| output.answer(&finding, people);
                let request = FsckRequest { path, mode };
                add(&mut all, share.client.stream("/v1/fsck", &request, each).await?);
            }
        }
        Ok(all)
    })?;
    output.failures(&report.failed, report.failed_total);
    output
        .answer(&report, |report| {
            let unread = match report.failed_total {
                0 => String::new(),
                unread => format!("; {} could not be looked at", count(unread)),
            };
            format!(
                "{} looked at: {} found, {} mended, {} open{unread}{}",
                files(report.examined),
                count(report.found),
                count(report.repaired),
                count(report.open),
                if report.cancelled { "; cancelled before the end" } else { "" }
            )
        })
        .map_err(unwritten)?;
    Ok(Outcome::failed_if(report.open > 0 || report.failed_total > 0 || report.cancelled))
}

/// Adds another path's part.
fn add(all: &mut FsckReport, part: FsckReport) {
    all.examined += part.examined;
    all.found += part.found;
    all.repaired += part.repaired;
    all.open += part.open;
    all.failed.extend(part.failed);
    all.failed.truncate(FAILURES_NAMED);
    all.failed_total += part.failed_total;
    all.cancelled |= part.cancelled;
}

fn people(finding: &Finding) -> String {
    let verdict = match (finding.repaired, finding.verdict) {
        (true, _) => "mended",
        (false, Verdict::Note) => "note",
        (false, Verdict::Repairable) => "repairable",
        (false, Verdict::Orphan) => "orphan",
        (false, Verdict::Conflict) => "conflict",
        (false, Verdict::Foreign) => "foreign",
        (false, Verdict::Lost) => "lost",
        (false, Verdict::Unanswered) => "unanswered",
    };
    let mut text = format!("{verdict}: {}: {}", finding.path, finding.what);
    if !finding.next_step.is_empty() {
        text += "; ";
        text += &finding.next_step;
    }
    printable(text)
}
