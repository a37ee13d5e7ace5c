//! `coldfs archive`, `release`, `recall`, `migrate` and `cancel`.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::output::{Output, count, files, size, unwritten};
use super::{Outcome, converse, paths};
use crate::control::wire::{
    CancelReport, CancelRequest, FAILURES_NAMED, Failure, MoveRequest, MoveSummary, Problem,
    ProblemKind, Progress, Skip, Verb,
};

const EXAMPLES: &str = "\
Examples:
  coldfs archive -r /srv/t1            store a verified copy of everything; nothing goes away
  coldfs release /srv/t1/big.iso       give up the local bytes of what is archived
  coldfs migrate -r /srv/t1/2019       archive, then release
  coldfs recall -r /srv/t1/2019        bring it back
  coldfs recall -r /srv/t1 --name '*.flac'
  sort wanted.txt | coldfs recall --files-from -

Applications may use the files meanwhile: a reader or writer always wins, and the file is
skipped. Ctrl-C stops between two files; what was done stays done, so run it again to go on.";

/// Move files to the store or back: archive keeps local bytes, release gives them up,
/// migrate does both, recall brings them back
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct MoveArgs {
    /// Files on a coldfs mount; directories with -r
    #[arg(required_unless_present = "files_from", value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Directories mean all files below them
    #[arg(short, long)]
    recursive: bool,

    /// Only files whose name fits this pattern
    #[arg(long, value_name = "GLOB")]
    name: Option<String>,

    /// Files named in this list too, a line each; - is standard input
    #[arg(long, value_name = "FILE")]
    files_from: Option<PathBuf>,

    /// The list's names end in NUL (find -print0)
    #[arg(short = '0', long, requires = "files_from")]
    null: bool,

    /// Wait for files that are open or changed a moment ago instead of skipping them
    #[arg(long)]
    wait: bool,

    /// Name files that are skipped, and why
    #[arg(short, long)]
    verbose: bool,
}

pub fn run(verb: Verb, args: MoveArgs, output: &mut Output) -> Result<Outcome, Problem> {
    let mut typed = args.paths.clone();
    if let Some(list) = &args.files_from {
        typed.extend(listed(list, args.null)?);
    }
    let MoveArgs { recursive, name, wait, verbose, .. } = args;
    let asked = Asked { recursive, name, wait, verbose };
    carry_out(verb, &typed, &asked, output)
}

/// What of a move is not its paths.
pub(super) struct Asked {
    pub(super) recursive: bool,
    pub(super) name: Option<String>,
    pub(super) wait: bool,
    pub(super) verbose: bool,
}

/// Moves files and says how it went.
pub(super) fn carry_out(
    verb: Verb,
    typed: &[PathBuf],
    asked: &Asked,
    output: &mut Output,
) -> Result<Outcome, Problem> {
    let bar = Bar::new(verb, output.is_watched());
    let summary =
        converse(async {
            let mut all = empty(verb);
            let (shares, mut unserved) = paths::deal(typed).await?;
            if shares.is_empty() && !unserved.is_empty() {
                return Err(unserved.swap_remove(0).into());
            }
            // The others are moved all the same.
            all.failed_total = unserved.len() as u64;
            let named = unserved.into_iter().take(FAILURES_NAMED);
            all.failed.extend(named.map(|paths::Unserved { path, cause, next_step, .. }| {
                Failure { path: path.into(), cause, next_step }
            }));
            for share in shares {
                let request = MoveRequest {
                    verb,
                    paths: share.paths,
                    recursive: asked.recursive,
                    name: asked.name.clone(),
                    wait: asked.wait,
                };
                let each = |progress: Progress| {
                    bar.show(&progress);
                    Ok(())
                };
                let summary: MoveSummary = share.client.stream("/v1/move", &request, each).await?;
                add(&mut all, summary);
            }
            Ok(all)
        });
    bar.clear();
    let summary = summary?;
    output.failures(&summary.failed, summary.failed_total);
    if asked.verbose && !output.is_json() {
        for file in &summary.skipped_files {
            output.line(&format!("skipped: {}: {}", file.path, file.reason)).map_err(unwritten)?;
        }
    }
    output.answer(&summary, people).map_err(unwritten)?;
    Ok(Outcome::failed_if(summary.failed_total > 0 || summary.cancelled))
}

/// The names in a list.
fn listed(list: &Path, null: bool) -> Result<Vec<PathBuf>, Problem> {
    let text = match list.to_str() {
        Some("-") => {
            let mut text = Vec::new();
            std::io::stdin().lock().read_to_end(&mut text).map(|_length| text)
        }
        _ => std::fs::read(list),
    };
    let text = text.map_err(|error| {
        let what = format!("--files-from {}: {error}", list.display());
        Problem::new(ProblemKind::Usage, what, "name a list that you may read")
    })?;
    let end = if null { 0 } else { b'\n' };
    let names = text.split(|byte| *byte == end).filter(|name| !name.is_empty());
    Ok(names.map(|name| OsStr::from_bytes(name).into()).collect())
}

fn empty(verb: Verb) -> MoveSummary {
    MoveSummary {
        verb,
        files_done: 0,
        files_already: 0,
        bytes_done: 0,
        seconds: 0.0,
        cancelled: false,
        skipped: Vec::new(),
        skipped_files: Vec::new(),
        failed: Vec::new(),
        failed_total: 0,
    }
}

/// Adds another daemon's part.
fn add(all: &mut MoveSummary, part: MoveSummary) {
    all.files_done += part.files_done;
    all.files_already += part.files_already;
    all.bytes_done += part.bytes_done;
    all.seconds += part.seconds;
    all.cancelled |= part.cancelled;
    for skip in part.skipped {
        match all.skipped.iter_mut().find(|mine| mine.reason == skip.reason) {
            Some(mine) => mine.files += skip.files,
            None => all.skipped.push(skip),
        }
    }
    all.skipped_files.extend(part.skipped_files);
    all.skipped_files.truncate(FAILURES_NAMED);
    all.failed.extend(part.failed);
    all.failed.truncate(FAILURES_NAMED);
    all.failed_total += part.failed_total;
}

fn people(summary: &MoveSummary) -> String {
    let mut text = format!(
        "{} {}, {} in {:.1} s",
        summary.verb.past(),
        files(summary.files_done),
        size(summary.bytes_done),
        summary.seconds
    );
    if summary.files_already > 0 {
        text += &format!("; {} already", count(summary.files_already));
    }
    if !summary.skipped.is_empty() {
        let total = summary.skipped.iter().map(|skip| skip.files).sum();
        let reason = |skip: &Skip| format!("{} {}", count(skip.files), skip.reason);
        let reasons: Vec<_> = summary.skipped.iter().map(reason).collect();
        text += &format!("; skipped {}: {}", count(total), reasons.join(", "));
    }
    if summary.failed_total > 0 {
        text += &format!("; {} failed", count(summary.failed_total));
    }
    if summary.cancelled {
        text += "; cancelled before the end, run it again to go on";
    }
    text
}

/// Progress for a person who watches; nothing in a pipe.
struct Bar(Option<ProgressBar>);

impl Bar {
    fn new(verb: Verb, watched: bool) -> Self {
        if !watched {
            return Self(None);
        }
        let bar = ProgressBar::no_length().with_prefix(verb.word());
        if let Ok(style) =
            ProgressStyle::with_template("{prefix} {wide_bar} {human_pos}/{human_len} files  {msg}")
        {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(Some(bar))
    }

    fn show(&self, progress: &Progress) {
        if let Some(bar) = &self.0 {
            bar.set_length(progress.files_total);
            bar.set_position(progress.files_done);
            bar.set_message(format!(
                "{}  {}/s",
                size(progress.bytes_done),
                size(progress.bytes_per_second)
            ));
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

const CANCEL_EXAMPLES: &str = "\
Examples:
  coldfs cancel /srv/t1             stop every move on this mount
  coldfs cancel /srv/t1/2019        stop those of files in a directory; a move of all of /srv/t1
                                    is one of them, and stops as a whole
  coldfs cancel /srv/t1 --process 4711
      end what a process, or a session, waits for: its reads of cold files fail with ECANCELED

Files keep what was done to them; a recall that is cancelled leaves its file released.";

/// Stop moves and recalls that are running
///
/// A move stops if it was asked for a path at, below or above one that is named here: it stops
/// between two files, and whoever asked for it is told. Recalls that readers wait for stop where
/// their file is at or below one.
#[derive(Debug, Args)]
#[command(after_long_help = CANCEL_EXAMPLES)]
pub struct CancelArgs {
    /// Moves that have to do with these
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// What these processes or sessions wait for on these mounts, and no moves
    #[arg(long = "process", value_name = "PID")]
    processes: Vec<u32>,
}

pub fn cancel(args: CancelArgs, output: &mut Output) -> Result<Outcome, Problem> {
    let report = converse(async {
        let mut all = CancelReport::default();
        for share in paths::shares(&args.paths).await? {
            let request = CancelRequest { paths: share.paths, processes: args.processes.clone() };
            let report: CancelReport = share.client.post("/v1/cancel", &request).await?;
            all.moves += report.moves;
            all.recalls += report.recalls;
        }
        Ok(all)
    })?;
    output
        .answer(&report, |report| {
            format!("stopped {} moves and {} recalls", report.moves, report.recalls)
        })
        .map_err(unwritten)?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_says_what_was_done_and_what_was_not() {
        let mut all = empty(Verb::Migrate);
        for _ in 0..2 {
            add(
                &mut all,
                MoveSummary {
                    files_done: 600,
                    bytes_done: 1 << 30,
                    seconds: 1.5,
                    skipped: vec![Skip { reason: "open".into(), files: 2 }],
                    failed_total: 1,
                    ..empty(Verb::Migrate)
                },
            );
        }
        assert_eq!(
            people(&all),
            "migrated 1,200 files, 2.0 GiB in 3.0 s; skipped 4: 4 open; 2 failed"
        );
    }
}
