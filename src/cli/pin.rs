//! `coldfs pin` and `unpin`.

use std::path::PathBuf;

use clap::Args;

use super::output::{Output, count, files, unwritten};
use super::{Outcome, converse, paths};
use crate::control::wire::{FAILURES_NAMED, PinReport, PinRequest, Problem};

const EXAMPLES: &str = "\
Examples:
  coldfs pin /srv/t1/db.sqlite        its bytes stay here, whatever the policy says
  coldfs pin -r /srv/t1/current
  coldfs unpin -r /srv/t1/current     no longer

A pin does not bring bytes back: recall first.";

/// Keep files' bytes here, or no longer
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct PinArgs {
    /// Files on a coldfs mount; directories with -r
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Directories mean all files below them
    #[arg(short, long)]
    recursive: bool,
}

pub fn run(pinned: bool, args: PinArgs, output: &mut Output) -> Result<Outcome, Problem> {
    let report = converse(async {
        let mut all = PinReport::default();
        for share in paths::shares(&args.paths).await? {
            let request = PinRequest { paths: share.paths, recursive: args.recursive, pinned };
            let part: PinReport = share.client.post("/v1/pin", &request).await?;
            all.changed += part.changed;
            all.already += part.already;
            all.failed.extend(part.failed);
            all.failed.truncate(FAILURES_NAMED);
            all.failed_total += part.failed_total;
        }
        Ok(all)
    })?;
    output.failures(&report.failed, report.failed_total);
    let people = |report: &PinReport| {
        let verb = if pinned { "pinned" } else { "unpinned" };
        format!("{verb} {}; {} already", files(report.changed), count(report.already))
    };
    output.answer(&report, people).map_err(unwritten)?;
    Ok(Outcome::failed_if(report.failed_total > 0))
}
