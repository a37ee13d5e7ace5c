//! `coldfs gc`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;

use super::output::{Output, columns, count, files, size, unwritten};
use super::{Outcome, converse, paths};
use crate::config::usage;
use crate::control::wire::{
    GcNews, GcProgress, GcReport, GcRequest, GcSegment, GcTotal, GcVerdict, Problem, ProblemKind,
};
use crate::printable::printable;
use crate::units::{parse_seconds, shown_age};

const EXAMPLES: &str = "\
Examples:
  coldfs gc --dry-run                       what is in the store that nobody needs?
  coldfs gc --dry-run /srv/t1               of one mount
  coldfs gc --dry-run /srv/t1 --grace 90d   only segments older than 90 days are dead
  coldfs gc --dry-run /srv/t1 --json | jq 'select(.verdict == \"dead\")'

A line a segment: what it is, its name, its size, what of it is named, its age, and why. live: all of
it is named by files; partly-dead: some of it; dead: nothing; young: nothing names it, and it is
younger than the grace; held: nobody can say, and so it stays.

The exit code is 1 where something could not be read that may name a segment: then nothing counts
as dead. Each such place is named. This coldfs deletes nothing from the store (docs/gc.md).";

/// Show what is in the store that nobody needs any more
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct GcArgs {
    /// A mountpoint, or any path on it; without it, of the only mount
    mountpoint: Option<PathBuf>,

    /// Look only; without it nothing is done: this coldfs does not delete
    #[arg(long)]
    dry_run: bool,

    /// How old a segment has to be that nothing names: 36h, 30d, 8w
    #[arg(long, value_name = "AGE", value_parser = parse_seconds, default_value = "30d")]
    grace: u64,
}

pub fn run(args: GcArgs, output: &mut Output) -> Result<Outcome, Problem> {
    if !args.dry_run {
        let next_step = "give --dry-run, to see what is there";
        return Err(usage("gc: this coldfs deletes nothing from the store", next_step));
    }
    let bar = output.is_watched().then(bar);
    let report: GcReport = converse(async {
        let (client, path) = match &args.mountpoint {
            Some(path) => {
                let (client, path) = paths::served(path).await?;
                (client, Some(path))
            }
            None => (the_only_daemon(paths::all_daemons().await?)?, None),
        };
        let request = GcRequest { path, grace_seconds: args.grace };
        let each = |news: GcNews| match (news, &bar) {
            (GcNews::Progress(at), Some(bar)) => {
                bar.set_message(progress(at));
                Ok(())
            }
            (GcNews::Progress(_), None) => Ok(()),
            (GcNews::Segment(segment), Some(bar)) => {
                bar.suspend(|| output.answer(&segment, people))
            }
            (GcNews::Segment(segment), None) => output.answer(&segment, people),
        };
        client.stream("/v1/gc", &request, each).await
    })?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    output.failures(&report.failed, report.failed_total);
    output.answer(&report, summary).map_err(unwritten)?;
    Ok(Outcome::failed_if(!report.complete || report.cancelled))
}

fn the_only_daemon(
    mut daemons: Vec<crate::control::client::Daemon>,
) -> Result<crate::control::client::Client, Problem> {
    match (daemons.pop(), daemons.is_empty()) {
        (Some(only), true) => Ok(only.client),
        (Some(_), false) => Err(usage("several daemons are running", "name a path of a mount")),
        (None, _) => Err(Problem::new(
            ProblemKind::NotMounted,
            "nothing is mounted",
            "mount a directory: coldfs mount DATA_DIR MOUNTPOINT",
        )),
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn progress(at: GcProgress) -> String {
    let GcProgress { segments, files: looked_at, directories } = at;
    let (segments, directories) = (count(segments), count(directories));
    format!("{segments} segments, {} looked at in {directories} directories", files(looked_at))
}

fn people(segment: &GcSegment) -> String {
    let name = segment.segment.as_ref().unwrap_or(&segment.key);
    let named = match (segment.live_entries, segment.entries) {
        (Some(live), Some(all)) => {
            format!("{} of {} named", count(live.into()), files(all.into()))
        }
        _ => "index not read".to_owned(),
    };
    let age = segment.age_seconds.map_or("of no age".to_owned(), |age| shown_age(age) + " old");
    printable(format!(
        "{:<11} {name} {:>9}, {named}, {age}: {}",
        segment.verdict.word(),
        size(segment.size_bytes),
        segment.why
    ))
}

fn summary(report: &GcReport) -> String {
    let head = ["", "segments", "size", "live", "dead"].map(str::to_owned).to_vec();
    let total = |verdict: &GcVerdict| report.totals.iter().find(|total| total.verdict == *verdict);
    let row = |total: &GcTotal| {
        vec![
            total.verdict.word().to_owned(),
            count(total.segments),
            size(total.size_bytes),
            size(total.live_bytes),
            size(total.dead_bytes),
        ]
    };
    let rows = GcVerdict::ALL.iter().filter_map(total).map(row);
    let mut lines = vec![columns(&[head].into_iter().chain(rows).collect::<Vec<_>>())];
    let looked_at = files(report.files);
    let (directories, passes) = (count(report.directories), report.passes);
    lines.push(format!("{looked_at} looked at in {directories} directories, {passes} passes"));
    if report.cancelled {
        lines.push("cancelled before the end".to_owned());
    }
    if !report.complete {
        let unread = count(report.failed_total);
        lines.push(format!("not complete: {unread} could not be read, so nothing counts as dead"));
    }
    if let Some(forbidden) = &report.forbidden {
        lines.push(format!("nothing may be deleted here: {forbidden}"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_says_what_is_there_and_why_nothing_may_go() {
        let dead = GcTotal {
            verdict: GcVerdict::Dead,
            segments: 1_200,
            size_bytes: 3 << 30,
            live_bytes: 0,
            dead_bytes: 3 << 30,
        };
        let live = GcTotal { verdict: GcVerdict::Live, live_bytes: 3 << 30, dead_bytes: 0, ..dead };
        let report = GcReport {
            totals: vec![dead, live],
            failed_total: 2,
            forbidden: Some("1 copies; detach them".to_owned()),
            ..GcReport::default()
        };
        let text = summary(&report);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("live") && lines[2].starts_with("dead"), "{text}");
        assert!(lines[2].contains("1,200") && lines[2].ends_with("3.0 GiB"), "{text}");
        assert!(text.contains("not complete: 2 could not be read"), "{text}");
        assert!(text.ends_with("nothing may be deleted here: 1 copies; detach them"), "{text}");
    }

    #[test]
    fn a_segment_is_one_line_whatever_is_known_of_it() {
        let known = GcSegment {
            key: "t/seg/aa/01K9Z".to_owned(),
            segment: Some("01K9Z".to_owned()),
            size_bytes: 64 << 20,
            entries: Some(1_000),
            live_entries: Some(400),
            live_bytes: Some(25 << 20),
            dead_bytes: Some(39 << 20),
            age_seconds: Some(40 * 86_400),
            verdict: GcVerdict::PartlyDead,
            why: "files name a part of it".to_owned(),
        };
        assert_eq!(
            people(&known),
            "partly-dead 01K9Z  64.0 MiB, 400 of 1,000 files named, 40 d old: files name a part of it"
        );
        let strange = GcSegment {
            key: "t/seg/read\nme".to_owned(),
            segment: None,
            entries: None,
            live_entries: None,
            age_seconds: None,
            ..known
        };
        let line = people(&strange);
        assert!(line.contains("index not read, of no age") && !line.contains('\n'), "{line}");
    }
}
