//! `coldfs fsck`.

use std::path::PathBuf;

use clap::Args;

use super::output::{Output, count, files, unwritten};
use super::{Outcome, converse, paths};
use crate::control::wire::{Finding, FsckMode, FsckReport, FsckRequest, Problem, Verdict};
use crate::printable::printable;

const EXAMPLES: &str = "\
Examples:
  coldfs fsck /srv/t1              look only
  coldfs fsck --repair /srv/t1     mend what has one right answer
  coldfs fsck --adopt /srv/t1      also give copied or restored stubs their record back

The exit code is 0 where nothing is left to do, 1 where something is or could not be looked at. Local bytes that nobody
can account for are never overwritten: they are reported as a conflict, and a person chooses.";

/// Check what records and stubs say against each other and the store
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct FsckArgs {
    /// A mountpoint, or a directory on it
    path: PathBuf,

    /// Mend what has one right answer
    #[arg(long, conflicts_with = "adopt")]
    repair: bool,

    /// Repair, and give stubs without a record theirs back
    #[arg(long)]
    adopt: bool,
}

pub fn run(args: FsckArgs, output: &mut Output) -> Result<Outcome, Problem> {
    let mode = match (args.repair, args.adopt) {
        (_, true) => FsckMode::Adopt,
        (true, false) => FsckMode::Repair,
        (false, false) => FsckMode::Check,
    };
    let report = converse(async {
        let (client, path) = paths::served(&args.path).await?;
        let each = |finding: Finding| output.answer(&finding, people);
        client.stream::<_, FsckReport>("/v1/fsck", &FsckRequest { path, mode }, each).await
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

fn people(finding: &Finding) -> String {
    let verdict = match (finding.repaired, finding.verdict) {
        (true, _) => "mended",
        (false, Verdict::Note) => "note",
        (false, Verdict::Repairable) => "repairable",
        (false, Verdict::Orphan) => "orphan",
        (false, Verdict::Conflict) => "conflict",
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
