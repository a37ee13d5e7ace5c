//! `coldfs drain`: a tenant comes home and needs no store any more.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::moves::{Asked, carry_out};
use super::output::{Output, files, unwritten};
use super::{Outcome, converse, paths};
use crate::control::wire::{
    FAILURES_NAMED, FileReport, FileState, FindRequest, FindSummary, Problem, Verb,
};

const EXAMPLES: &str = "\
Examples:
  coldfs drain /srv/t1             bring everything home, and leave plain files
  coldfs drain --prove /srv/t1     is anything in the store still needed?

A drained directory needs no store and no coldfs; new moves make it need them again. What was
archived stays in the store: once --prove is content, and no backup holds stubs, it can go.";

/// Bring a tenant home: plain files that need no store any more
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct DrainArgs {
    /// A mountpoint, or a directory on it
    directory: PathBuf,

    /// Change nothing: look at every file itself, and name those that still need the store
    #[arg(long)]
    prove: bool,
}

pub fn run(args: &DrainArgs, output: &mut Output) -> Result<Outcome, Problem> {
    if args.prove {
        return prove(&args.directory, output);
    }
    let asked = Asked { recursive: true, name: None, wait: true, verbose: false };
    carry_out(Verb::Drain, std::slice::from_ref(&args.directory), &asked, output)
}

/// What is left to do.
#[derive(Debug, Default, Serialize)]
struct Proof {
    /// Files that were looked at.
    examined: u64,
    /// Files that have a record or are a stub.
    needing_the_store: u64,
    /// The first of them.
    files: Vec<FileReport>,
    /// Files and directories that could not be looked at: nothing is proven of them.
    failed_total: u64,
}

fn prove(directory: &Path, output: &mut Output) -> Result<Outcome, Problem> {
    let plain = [FileState::Resident, FileState::None];
    let states = FileState::ALL.iter().copied().filter(|state| !plain.contains(state)).collect();
    let mut proof = Proof::default();
    let summary = converse(async {
        let (client, root) = paths::served(directory).await?;
        // A proof looks itself: the catalog does not know what was edited behind the mount.
        let request = FindRequest {
            root,
            states,
            larger_bytes: None,
            older_seconds: None,
            name: None,
            walk: true,
        };
        let each = |report: FileReport| {
            proof.needing_the_store += 1;
            if proof.files.len() < FAILURES_NAMED {
                proof.files.push(report);
            }
            Ok(())
        };
        client.stream::<_, FindSummary>("/v1/find", &request, each).await
    })?;
    (proof.examined, proof.failed_total) = (summary.examined, summary.failed_total);
    output.failures(&summary.failed, summary.failed_total);
    let people = |proof: &Proof| {
        if proof.needing_the_store == 0 && proof.failed_total == 0 {
            return format!("{}: plain, none needs the store", files(proof.examined));
        }
        let mut lines: Vec<String> = proof
            .files
            .iter()
            .map(|file| format!("{}: {}", file.path, file.state.word()))
            .collect();
        let needing = files(proof.needing_the_store);
        lines.push(format!("{needing} of {} need the store: coldfs drain", proof.examined));
        lines.join("\n")
    };
    output.answer(&proof, people).map_err(unwritten)?;
    Ok(Outcome::failed_if(proof.needing_the_store > 0 || proof.failed_total > 0))
}
