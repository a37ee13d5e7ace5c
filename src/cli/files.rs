//! `coldfs state`, `find` and `du`: what is known of files.

use std::path::PathBuf;

use clap::Args;

use super::output::{Output, columns, count, size, unwritten};
use super::{Outcome, converse, paths};
use crate::control::wire::{
    DuReport, DuRequest, Failure, FileReport, FileState, FindRequest, FindSummary, Problem,
    StateRequest,
};
use crate::printable::printable;
use crate::units::{parse_seconds, parse_size};

const STATE_EXAMPLES: &str = "\
Examples:
  coldfs state scan.tif
    /srv/t1/scan.tif: (0x0000000d) released exists archived, segment:01K9Z.../17
  coldfs state -l *.tif          size, local bytes, place in the store, open handles
  getfattr -n user.coldfs.state scan.tif      the same word without this program

The flags word and its names are those of `lfs hsm_state`.";

/// Show where files' bytes are
#[derive(Debug, Args)]
#[command(after_long_help = STATE_EXAMPLES)]
pub struct StateArgs {
    /// Files on a coldfs mount
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// More of each file
    #[arg(short, long)]
    long: bool,
}

pub fn state(args: StateArgs, output: &mut Output) -> Result<Outcome, Problem> {
    let mut failed = Vec::new();
    converse(async {
        for share in paths::shares(&args.paths).await? {
            let request = StateRequest { paths: share.paths };
            let each = |item: Result<FileReport, Failure>| match item {
                Ok(report) => {
                    output.answer(&report, |r| if args.long { long(r) } else { short(r) })
                }
                Err(failure) => {
                    failed.push(failure);
                    Ok(())
                }
            };
            share.client.stream::<_, ()>("/v1/state", &request, each).await?;
        }
        Ok(())
    })?;
    let total = u64::try_from(failed.len()).unwrap_or(u64::MAX);
    report_failed(output, &failed, total)
}

/// Names failures: on standard error for people, in JSON as lines of their own and, where more
/// failed, a line that says how many in all.
fn report_failed(output: &mut Output, failed: &[Failure], total: u64) -> Result<Outcome, Problem> {
    if output.is_json() {
        let mut lines: Vec<_> =
            failed.iter().map(|failure| serde_json::json!({ "failed": failure })).collect();
        if total > u64::try_from(failed.len()).unwrap_or(u64::MAX) {
            lines.push(serde_json::json!({ "failed_total": total }));
        }
        for line in lines {
            output.answer(&line, |_| String::new()).map_err(unwritten)?;
        }
    }
    output.failures(failed, total);
    Ok(Outcome::failed_if(total > 0))
}

/// As `lfs hsm_state` prints it.
fn short(report: &FileReport) -> String {
    let mut text = format!("{}: (0x{:08x})", report.path, report.flags.0);
    for word in report.flags.words() {
        text += " ";
        text += word;
    }
    if matches!(report.state, FileState::Orphan | FileState::Foreign | FileState::Conflict) {
        // Lustre has no flag for these.
        text += ", ";
        text += report.state.word();
    }
    if let Some(remote) = &report.remote {
        text += &format!(", segment:{}/{}", remote.segment, remote.entry);
    }
    text
}

fn long(report: &FileReport) -> String {
    let mut lines = vec![
        short(report),
        format!("  state   {}{}", report.state.word(), if report.pinned { ", pinned" } else { "" }),
        format!("  inode   {}", report.ino),
        format!(
            "  size    {} bytes, {} local",
            count(report.size_bytes),
            count(report.local_bytes)
        ),
        format!("  open    {}", report.open_count),
    ];
    if let Some(remote) = &report.remote {
        let place = match (remote.offset, remote.length) {
            (Some(offset), Some(length)) => format!(", {length} bytes at {offset}"),
            _ => String::new(),
        };
        lines.push(format!("  remote  segment {} entry {}{place}", remote.segment, remote.entry));
    }
    lines.extend(report.notes.iter().map(|note| format!("  note    {}", printable(note))));
    lines.join("\n")
}

const FIND_EXAMPLES: &str = "\
Examples:
  coldfs find /srv/t1 --state released              what is not here
  coldfs find /srv/t1 --state resident --larger 1G --older 30d
  coldfs find /srv/t1 --name '*.iso' -0 | xargs -0 coldfs archive
  coldfs find /srv/t1 --state lost,orphan,conflict --json";

/// List files by state, size, age and name
#[derive(Debug, Args)]
#[command(after_long_help = FIND_EXAMPLES)]
pub struct FindArgs {
    /// A directory on a coldfs mount
    path: PathBuf,

    /// In any of these states (every file below PATH is looked at): resident, archived, suspect, releasing, released, recalling, lost, orphan, foreign, conflict
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = parse_state)]
    state: Vec<FileState>,

    /// Larger than this: 4096, 64K, 1.5G
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    larger: Option<u64>,

    /// Last modified longer ago than this: 36h, 14d
    #[arg(long, value_name = "AGE", value_parser = parse_seconds)]
    older: Option<u64>,

    /// Last component matches this shell pattern
    #[arg(long, value_name = "PATTERN")]
    name: Option<String>,

    /// End each path with a NUL instead of a newline, its bytes as they are, for xargs -0
    #[arg(short = '0', long, conflicts_with = "json")]
    print0: bool,

    /// Ask the filesystem itself, not the catalog
    #[arg(long)]
    walk: bool,
}

fn parse_state(word: &str) -> Result<FileState, String> {
    FileState::from_word(word).ok_or_else(|| {
        let words: Vec<_> = FileState::ALL.iter().map(|state| state.word()).collect();
        format!("not a state; one of {}", words.join(", "))
    })
}

pub fn find(args: FindArgs, output: &mut Output) -> Result<Outcome, Problem> {
    let summary = converse(async {
        let (client, root) = paths::served(&args.path).await?;
        let request = FindRequest {
            root,
            states: args.state,
            larger_bytes: args.larger,
            older_seconds: args.older,
            name: args.name,
            walk: args.walk,
        };
        let each = |report: FileReport| {
            if args.print0 {
                output.path0(report.path.as_path())
            } else if output.is_json() {
                output.answer(&report, |_| String::new())
            } else {
                output.path(report.path.as_path())
            }
        };
        client.stream::<_, FindSummary>("/v1/find", &request, each).await
    })?;
    report_failed(output, &summary.failed, summary.failed_total)
}

const DU_EXAMPLES: &str = "\
Examples:
  coldfs du /srv/t1
  coldfs du /srv/t1/* --json

`du` itself says how much applications see; this says how much of it is here.";

/// Show how much directories take, here and in the store
#[derive(Debug, Args)]
#[command(after_long_help = DU_EXAMPLES)]
pub struct DuArgs {
    /// Files or directories on a coldfs mount
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Ask the filesystem itself, not the catalog
    #[arg(long)]
    walk: bool,
}

pub fn du(args: DuArgs, output: &mut Output) -> Result<Outcome, Problem> {
    let reports = converse(async {
        let mut reports = Vec::new();
        for share in paths::shares(&args.paths).await? {
            for path in share.paths {
                let report: DuReport =
                    share.client.post("/v1/du", &DuRequest { path, walk: args.walk }).await?;
                reports.push(report);
            }
        }
        Ok(reports)
    })?;
    let outcome = Outcome::failed_if(reports.iter().any(|report| report.failed_total > 0));
    if output.is_json() {
        for report in &reports {
            output.answer(report, |_| String::new()).map_err(unwritten)?;
        }
        return Ok(outcome);
    }
    let head = ["path", "logical", "local", "remote", "resident", "archived", "released", "lost"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(reports.iter().map(|report| {
        vec![
            report.path.to_string(),
            size(report.bytes.logical),
            size(report.bytes.local),
            size(report.bytes.remote),
            report.files.resident.map_or_else(|| "?".into(), count),
            count(report.files.archived),
            count(report.files.released),
            count(report.files.lost),
        ]
    }));
    output.line(&columns(&rows)).map_err(unwritten)?;
    for report in &reports {
        output.failures(&report.failed, report.failed_total);
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::wire::{HsmFlags, Remote};

    #[test]
    fn state_reads_as_lfs_hsm_state() {
        let report = FileReport {
            path: "/m/f".into(),
            state: FileState::Released,
            flags: HsmFlags::of(FileState::Released, false),
            ino: 7,
            size_bytes: 10_000,
            local_bytes: 4_096,
            mtime_ns: 0,
            remote: Some(Remote {
                segment: "01K9Z".into(),
                entry: 17,
                offset: Some(4_096),
                length: None,
            }),
            pinned: false,
            open_count: 0,
            heat: None,
            notes: vec!["look at it".into()],
        };
        assert_eq!(short(&report), "/m/f: (0x0000000d) released exists archived, segment:01K9Z/17");
        assert!(long(&report).contains("10,000 bytes, 4,096 local"), "{}", long(&report));
        assert!(long(&report).ends_with("note    look at it"));
    }
}
