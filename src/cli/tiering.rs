//! `coldfs plan` and `coldfs explain`: what moves by itself, and why.

use std::path::PathBuf;

use clap::Args;

use super::output::{Output, count, size, unwritten};
use super::{Outcome, converse, paths};
use crate::control::wire::{
    ExplainReport, ExplainRequest, Explanation, PlanRequest, PlanSummary, Planned, Problem,
};
use crate::printable::printable;
use crate::tiering::KEEP;
use crate::units::shown_age;

const PLAN_EXAMPLES: &str = "\
Examples:
  coldfs plan /srv/t1              what the next pass would move, by which rule
  coldfs plan /srv/t1/2019 --summary
  coldfs plan /srv/t1 --json       a line a file, then the sums

It changes nothing. A file that the daemon itself would hold back (open, pinned, used or recalled
lately, not proven idle) says so. Requests are an estimate: a segment is stored and read back.";

/// Show what would move by itself now
#[derive(Debug, Args)]
#[command(after_long_help = PLAN_EXAMPLES)]
pub struct PlanArgs {
    /// A mountpoint, or a directory on it
    dir: PathBuf,

    /// Only the sums
    #[arg(long)]
    summary: bool,
}

pub fn plan(args: PlanArgs, output: &mut Output) -> Result<Outcome, Problem> {
    let summary: PlanSummary = converse(async {
        let (client, path) = paths::served(&args.dir).await?;
        let request = PlanRequest { path };
        let each = |file: Planned| match args.summary {
            true => Ok(()),
            false => output.answer(&file, planned),
        };
        client.stream("/v1/plan", &request, each).await
    })?;
    output.answer(&summary, sums).map_err(unwritten)?;
    Ok(Outcome::Done)
}

fn planned(file: &Planned) -> String {
    let held = file.held.as_ref().map_or_else(String::new, |held| format!(", held back: {held}"));
    printable(format!(
        "{:<8} {} ({}): {}, idle {} ({}){held}",
        file.action,
        file.path,
        size(file.bytes),
        file.rule,
        shown_age(file.idle_seconds.into()),
        file.evidence,
    ))
}

fn sums(summary: &PlanSummary) -> String {
    let mut lines = Vec::new();
    for (action, files) in &summary.files {
        let bytes = summary.bytes.get(action).copied().unwrap_or_default();
        lines.push(format!("{action}: {} files, {}", count(*files), size(bytes)));
    }
    if lines.is_empty() {
        lines.push("nothing would move".to_owned());
    }
    for (reason, files) in &summary.held {
        lines.push(format!("held back, {}: {} files", printable(reason), count(*files)));
    }
    lines.push(format!(
        "{} files judged, about {} requests to the store, {} to free",
        count(summary.judged),
        count(summary.requests),
        size(summary.goal_bytes)
    ));
    lines.extend(summary.cut_short.as_ref().map(|why| printable(format!("not all: {why}"))));
    lines.join("\n")
}

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  coldfs explain /srv/t1/2019/scan.tif
  coldfs explain /srv/t1/2019/scan.tif --json

State, heat and proof of idleness; the rule that speaks now and when its answer changes; what of
the daemon holds the file back, whatever a rule says; and what was last done with it by itself.";

/// Show why a file moves by itself, or does not
#[derive(Debug, Args)]
#[command(after_long_help = EXPLAIN_EXAMPLES)]
pub struct ExplainArgs {
    /// A file on a coldfs mount
    path: PathBuf,
}

pub fn explain(args: ExplainArgs, output: &mut Output) -> Result<Outcome, Problem> {
    let report: ExplainReport = converse(async {
        let (client, path) = paths::served(&args.path).await?;
        client.post("/v1/explain", &ExplainRequest { path }).await
    })?;
    output.answer(&report, people).map_err(unwritten)?;
    Ok(Outcome::Done)
}

fn people(report: &ExplainReport) -> String {
    let file = &report.file;
    let mut lines = vec![
        file.path.to_string(),
        format!(
            "  state      {}, {}, {} here",
            file.state.word(),
            size(file.size_bytes),
            size(file.local_bytes)
        ),
    ];
    match (&report.judged, &report.why_not) {
        (Some(judged), _) => lines.extend(judged_lines(judged)),
        (None, Some(why)) => lines.push(format!("  judged     no: {}", printable(why))),
        (None, None) => {}
    }
    lines.extend(file.notes.iter().map(|note| format!("  note       {}", printable(note))));
    lines.join("\n")
}

fn judged_lines(judged: &Explanation) -> Vec<String> {
    let evidence = match judged.evidence.as_str() {
        "observed" => "every use was seen",
        "atime" => "by its atime, true to a day",
        _ => "not proven, only since its last change",
    };
    let mut lines = vec![
        format!("  idle       {}, {evidence}", shown_age(judged.idle_seconds.into())),
        format!("  heat       {:.2}", judged.heat),
    ];
    if let Some(seconds) = judged.recalled_seconds {
        lines.push(format!("  came home  {} ago", shown_age(seconds.into())));
    }
    let action = judged.action.as_deref().unwrap_or(KEEP);
    lines.push(format!("  policy     {action}, by the rule {:?}", printable(&judged.rule)));
    lines.push(format!("  because    {}", printable(&judged.reason)));
    if let Some(seconds) = judged.changes_in_seconds {
        lines.push(format!("  changes    in {} if nothing happens", shown_age(seconds.into())));
    }
    lines.extend(judged.held.iter().map(|held| format!("  held back  {}", printable(held))));
    if let Some(last) = &judged.last_move {
        let field = |name: &str| printable(last[name].as_str().unwrap_or_default());
        lines.push(format!("  last move  {}, by the rule {:?}", field("action"), field("rule")));
    }
    lines
}
