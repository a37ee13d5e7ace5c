//! `coldfs heat`: how warm the files of a tree are.

use std::path::PathBuf;

use clap::Args;

use super::output::{Output, columns, count, files, size, unwritten};
use super::{Outcome, converse, paths};
use crate::control::wire::{Band, DirectoryHeat, FileWarmth, HeatReport, HeatRequest, Problem};
use crate::temperature::Second;
use crate::units::shown_seconds;

const EXAMPLES: &str = "\
Examples:
  coldfs heat /srv/t1               its directories, and its hottest and coldest files
  coldfs heat /srv/t1 --depth 2 --top 20
  coldfs heat /srv/t1 --files       every file, a line each
  coldfs heat /srv/t1 --json | jq '.directories[] | [.score, .path]'

SCORE is the number of uses, each counting half after a half-life. The bar shows how a directory's
bytes are spread by their last use, as far as it is proven that nobody used them since:
within an hour, a day, a week, 30 days, longer ago, and not known, which is not cold.";

/// Cells of a bar.
const CELLS: u64 = 24;
/// A cell of each band: full, dark, medium and light shade, a dot, a question mark.
const SHADES: [char; 6] = ['\u{2588}', '\u{2593}', '\u{2592}', '\u{2591}', '\u{b7}', '?'];
const LEGEND: [&str; 6] = ["an hour", "a day", "a week", "30 days", "longer", "not known"];

/// Show how warm the files of a tree are
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct HeatArgs {
    /// A directory or file on a coldfs mount
    path: PathBuf,

    /// Levels of directories that are told apart
    #[arg(long, value_name = "LEVELS", default_value_t = 1)]
    depth: u32,

    /// Name so many of the hottest and of the coldest files
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: u32,

    /// Every file instead, in the order of the tree
    #[arg(long)]
    files: bool,
}

pub fn run(args: HeatArgs, output: &mut Output) -> Result<Outcome, Problem> {
    let report: HeatReport = converse(async {
        let (client, path) = paths::served(&args.path).await?;
        let (depth, named) = (args.depth, args.top);
        let request = HeatRequest { path, depth, named, files: args.files };
        let each = |file: FileWarmth| output.answer(&file, |file| row(file).join("  "));
        client.stream("/v1/heat", &request, each).await
    })?;
    if !args.files {
        output.answer(&report, people).map_err(unwritten)?;
    }
    Ok(Outcome::Done)
}

fn people(report: &HeatReport) -> String {
    let sight = match report.probe.as_str() {
        "none" | "opens" => "no probe sees its reads: nothing is proven idle".to_owned(),
        _ => {
            let watched = Second::now().since(Second(report.watched_since));
            format!("watched for {}", shown_seconds(watched.into()))
        }
    };
    let total = &report.total;
    let head = format!(
        "{}: {}, {}, score {:.1}, {sight}",
        report.path,
        files(total.files),
        size(total.bytes),
        total.score
    );
    let legend = SHADES.iter().zip(LEGEND).map(|(shade, words)| format!("{shade} {words}"));
    let legend = format!("last use: {}", legend.collect::<Vec<_>>().join("  "));
    let mut parts = vec![head, legend, directories(&report.directories)];
    for (title, named) in [("hottest files", &report.hottest), ("coldest files", &report.coldest)] {
        if !named.is_empty() {
            parts.push(format!("{title}\n{}", table(named)));
        }
    }
    parts.join("\n\n")
}

/// A line a directory.
pub(super) fn directories(all: &[DirectoryHeat]) -> String {
    let head = ["directory", "files", "size", "score", "bytes by last use"].map(str::to_owned);
    let line = |directory: &DirectoryHeat| {
        vec![
            directory.path.to_string(),
            count(directory.files),
            size(directory.bytes),
            format!("{:.1}", directory.score),
            bar(&directory.bands),
        ]
    };
    let rows: Vec<_> = std::iter::once(head.to_vec()).chain(all.iter().map(line)).collect();
    columns(&rows)
}

/// A line a file.
pub(super) fn table(named: &[FileWarmth]) -> String {
    let head = ["file", "size", "score", "uses", "idle", "by"].map(str::to_owned).to_vec();
    columns(&std::iter::once(head).chain(named.iter().map(row)).collect::<Vec<_>>())
}

fn row(file: &FileWarmth) -> Vec<String> {
    let idle = file.heat.idle_seconds.map(|idle| shown_seconds(idle.into()));
    vec![
        file.path.to_string(),
        size(file.size_bytes),
        format!("{:.1}", file.heat.score),
        count(file.heat.accesses.into()),
        idle.unwrap_or_else(|| "unknown".to_owned()),
        file.heat.evidence.clone(),
    ]
}

/// Cells shared out by bytes: what is there has at least one, what is not has none.
fn bar(bands: &[Band]) -> String {
    let all: u128 = bands.iter().map(|band| u128::from(band.bytes)).sum();
    if all == 0 {
        return " ".repeat(SHADES.len());
    }
    let mut cells: Vec<u64> = bands
        .iter()
        .map(|band| {
            let share = u128::from(band.bytes) * u128::from(CELLS) / all;
            u64::try_from(share).unwrap_or(CELLS).max(u64::from(band.bytes > 0))
        })
        .collect();
    // What rounding left or took, the widest has or gives.
    if let Some(widest) = (0..cells.len()).max_by_key(|at| cells[*at]) {
        let others: u64 = cells.iter().sum::<u64>() - cells[widest];
        cells[widest] = CELLS.saturating_sub(others);
    }
    let shades =
        cells.iter().zip(SHADES).flat_map(|(cells, shade)| (0..*cells).map(move |_| shade));
    shades.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bands(bytes: [u64; 6]) -> Vec<Band> {
        bytes.map(|bytes| Band { idle_below_seconds: None, files: 1, bytes }).to_vec()
    }

    #[test]
    fn a_bar_has_all_its_cells_and_one_for_each_that_is_there() {
        for bytes in [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 1, 1, 1, 1],
            [1_000_000, 1, 0, 0, 1, 1],
            [5, 7, 11, 0, 0, 3],
        ] {
            let bar = bar(&bands(bytes));
            assert_eq!(bar.chars().count() as u64, CELLS, "{bytes:?}: {bar}");
            for (bytes, shade) in bytes.iter().zip(SHADES) {
                assert_eq!(bar.contains(shade), *bytes > 0, "{bar}");
            }
        }
        assert_eq!(bar(&bands([0; 6])).trim(), "");
        assert!(bar(&bands([0, 0, 0, 0, u64::MAX, u64::MAX])).ends_with("????"));
    }
}
