//! `coldfs top` and `coldfs brake`: what is hot and what is cold, who brings cold files home, and
//! when it is too much.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use super::output::{Output, columns, count, size, unwritten};
use super::{Outcome, converse, heat, paths};
use crate::control::client::Client;
use crate::control::wire::{
    Alarm, Application, BrakeReport, BrakeRequest, FileWarmth, HeatReport, HeatRequest, Problem,
    TopReport, WirePath,
};
use crate::printable::printable;
use crate::units::shown_seconds;

const TOP_EXAMPLES: &str = "\
Examples:
  coldfs top                     every mount, again every two seconds; Ctrl-C ends
  coldfs top /srv/t1 --once      one table
  coldfs top --json --once       for scripts

Tenants, directories and files are by heat: SCORE is the number of uses, each counting half after a
half-life; `coldfs heat DIR` has more. Heat is summed up anew as often as it takes a
twentieth of the time.

An application is the name of a process, its user and its recall class. FILES and BYTES are what
it asked for since the mount, NOW what it asks for a second. `coldfs audit MOUNTPOINT` has a line
for each file.";

/// Hottest and coldest files and directories that are named of each mount.
const NAMED: usize = 5;
/// Summing up heat may take this part of the time.
const HEAT_SHARE: u32 = 20;

/// Show what is hot and cold, and who brings cold files home, live
#[derive(Debug, Args)]
#[command(after_long_help = TOP_EXAMPLES)]
pub struct TopArgs {
    /// A mountpoint, or any path on it; all mounts without it
    mountpoint: Option<PathBuf>,

    /// One table, then end
    #[arg(long)]
    once: bool,

    /// Seconds between two tables
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

pub fn top(args: TopArgs, output: &mut Output) -> Result<Outcome, Problem> {
    let pause = Duration::from_secs(args.interval);
    converse(async {
        let mut before = Vec::new();
        let mut heat = Heats::default();
        loop {
            let mut now = Vec::new();
            for (client, wanted) in &daemons(args.mountpoint.as_deref()).await? {
                let reports: Vec<TopReport> = client.get("/v1/top").await?;
                for mut report in reports.into_iter().filter(|report| {
                    wanted.as_ref().is_none_or(|mountpoint| *mountpoint == report.mountpoint)
                }) {
                    report.heat = heat.of(client, &report).await;
                    now.push(report);
                }
            }
            let tables = || tables(&now, &before, args.interval);
            if args.once {
                output.answer(&now, |_| tables()).map_err(unwritten)?;
                return Ok(Outcome::Done);
            }
            if output.is_json() {
                output.answer(&now, |_| String::new()).map_err(unwritten)?;
            } else {
                output.screen(&tables()).map_err(unwritten)?;
            }
            before = now;
            tokio::time::sleep(pause).await;
        }
    })
}

/// What was summed up of each mount, and when it may be again.
#[derive(Default)]
struct Heats(HashMap<WirePath, (Instant, Option<HeatReport>)>);

impl Heats {
    /// Of this mount; none: its catalog is not there yet.
    async fn of(&mut self, client: &Client, top: &TopReport) -> Option<HeatReport> {
        let begun = Instant::now();
        if let Some((next, report)) = self.0.get(&top.mountpoint)
            && begun < *next
        {
            return report.clone();
        }
        let named = u32::try_from(NAMED).unwrap_or(u32::MAX);
        let path = top.mountpoint.clone();
        let request = HeatRequest { path: path.clone(), depth: 1, named, files: false };
        let summed = client.stream("/v1/heat", &request, |_file: FileWarmth| Ok(())).await;
        let report = summed.ok();
        self.0.insert(path, (begun + begun.elapsed() * HEAT_SHARE, report.clone()));
        report
    }
}

/// The daemon of one path, and which of its mounts is meant; or all.
async fn daemons(path: Option<&Path>) -> Result<Vec<(Client, Option<WirePath>)>, Problem> {
    match path {
        Some(path) => {
            let share = paths::shares(&[path.to_owned()]).await?.into_iter().next();
            Ok(share.map(|share| (share.client, Some(share.mountpoint))).into_iter().collect())
        }
        None => {
            let daemons = paths::all_daemons().await?;
            Ok(daemons.into_iter().map(|daemon| (daemon.client, None)).collect())
        }
    }
}

fn tables(now: &[TopReport], before: &[TopReport], seconds: u64) -> String {
    if now.is_empty() {
        return "nothing is mounted".to_owned();
    }
    let table = |report: &TopReport| {
        let old = before.iter().find(|old| old.mountpoint == report.mountpoint);
        let mut lines = vec![format!("{}  {}", report.tenant, report.mountpoint)];
        lines.extend(report.alarm.as_ref().map(alarm));
        lines.extend(report.heat.as_ref().map(warmest));
        if report.applications.is_empty() {
            lines.push("  nobody asked for a cold file since it was mounted".to_owned());
            return lines.join("\n");
        }
        lines.push(format!(
            "  {:<16} {:>6} {:<14} {:>9} {:>10} {:>12} {:>7} {:>7}",
            "APPLICATION", "USER", "CLASS", "FILES", "BYTES", "NOW", "DENIED", "WAITING"
        ));
        let old = old.map_or(&[][..], |old| &old.applications);
        lines.extend(report.applications.iter().map(|now| line(now, old, seconds)));
        lines.join("\n")
    };
    let all = tenants(now).into_iter().chain(now.iter().map(table));
    all.collect::<Vec<_>>().join("\n\n")
}

/// A line a tenant, the hottest first, where there are several.
fn tenants(now: &[TopReport]) -> Option<String> {
    let mut all: Vec<_> =
        now.iter().filter_map(|report| Some((report, report.heat.as_ref()?))).collect();
    if all.len() < 2 {
        return None;
    }
    all.sort_by(|(_, a), (_, b)| b.total.score.total_cmp(&a.total.score));
    let mut rows = vec![["tenant", "files", "size", "score"].map(str::to_owned).to_vec()];
    rows.extend(all.into_iter().map(|(report, heat)| {
        let total = &heat.total;
        let score = format!("{:.1}", total.score);
        vec![report.tenant.clone(), count(total.files), size(total.bytes), score]
    }));
    Some(columns(&rows))
}

/// The hottest and the coldest of a mount.
fn warmest(report: &HeatReport) -> String {
    let all = &report.directories;
    let shown = match all.len() > 2 * NAMED {
        // The hottest, and the coldest after them.
        true => [&all[..NAMED], &all[all.len() - NAMED..]].concat(),
        false => all.clone(),
    };
    let mut parts = vec![heat::directories(&shown)];
    for (title, named) in [("hottest", &report.hottest), ("coldest", &report.coldest)] {
        if !named.is_empty() {
            parts.push(format!("{title}\n{}", heat::table(named)));
        }
    }
    parts.join("\n")
}

fn line(now: &Application, before: &[Application], seconds: u64) -> String {
    let same =
        |old: &&Application| (&old.name, old.user, &old.class) == (&now.name, now.user, &now.class);
    let old = before.iter().find(same).map(|old| old.bytes);
    let lately = old.map_or_else(
        || "-".to_owned(),
        |old| format!("{}/s", size(now.bytes.saturating_sub(old) / seconds.max(1))),
    );
    let name = if now.name.is_empty() { "(others)" } else { &now.name };
    format!(
        "  {name:<16} {:>6} {:<14} {:>9} {:>10} {lately:>12} {:>7} {:>7}",
        now.user,
        now.class,
        count(now.files),
        size(now.bytes),
        count(now.denied),
        count(now.waiting),
    )
}

fn alarm(alarm: &Alarm) -> String {
    if let Some(error) = &alarm.unreadable {
        return printable(format!(
            "  the recall brake is on: .coldfs/brake cannot be read ({error}); cold files are \
             refused until `coldfs brake --release`"
        ));
    }
    format!(
        "  the recall brake is on: {} files, {} within {}; cold files are refused until `coldfs \
         brake --release`",
        count(alarm.files),
        size(alarm.bytes),
        shown_seconds(alarm.window_seconds)
    )
}

const BRAKE_EXAMPLES: &str = "\
Examples:
  coldfs brake /srv/t1              is it on, since when and why?
  coldfs brake /srv/t1 --release    let go, once you know who it was (`coldfs top`)

The brake is put on when cold files come home in masses: [brake] in the configuration says how
many. Until a person lets go, an open that would bring one home fails with EACCES; resident files,
readers that bring nothing home, and the commands recall and migrate, go on.";

/// Show the brake on mass recalls, or let it go
#[derive(Debug, Args)]
#[command(after_long_help = BRAKE_EXAMPLES)]
pub struct BrakeArgs {
    /// A mountpoint, or any path on it
    mountpoint: PathBuf,

    /// Let it go
    #[arg(long)]
    release: bool,
}

pub fn brake(args: BrakeArgs, output: &mut Output) -> Result<Outcome, Problem> {
    let report: BrakeReport = converse(async {
        let (client, path) = paths::served(&args.mountpoint).await?;
        let request = BrakeRequest { release: args.release, path: Some(path) };
        client.post("/v1/brake", &request).await
    })?;
    let people = |report: &BrakeReport| match (&report.alarm, report.released) {
        (None, _) => format!("{}: the brake is not on", report.tenant),
        (Some(_), true) => format!("{}: the brake is released", report.tenant),
        (Some(on), false) => format!("{}\n{}", report.tenant, alarm(on)),
    };
    output.answer(&report, people).map_err(unwritten)?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(bytes: u64, alarm: Option<Alarm>) -> TopReport {
        let grep = Application {
            name: "grep".to_owned(),
            user: 1000,
            class: "interactive".to_owned(),
            files: 1_234,
            bytes,
            ..Application::default()
        };
        let tenant = "t1".to_owned();
        let applications = vec![grep];
        TopReport { tenant, mountpoint: "/srv/t1".into(), applications, alarm, heat: None }
    }

    #[test]
    fn a_table_says_who_how_much_and_how_fast() {
        let first = tables(&[report(1 << 30, None)], &[], 2);
        assert!(first.contains("grep") && first.contains("1,234") && first.contains("1.0 GiB"));
        let on = Alarm {
            files: 60_000,
            bytes: 1 << 40,
            window_seconds: 600,
            since: 1,
            unreadable: None,
        };
        let second = tables(&[report(3 << 30, Some(on))], &[report(1 << 30, None)], 2);
        assert!(second.contains("1.0 GiB/s"), "{second}");
        assert!(second.contains("60,000 files, 1.0 TiB within 10 minutes"), "{second}");
        assert_eq!(tables(&[], &[], 2), "nothing is mounted");
    }
}
