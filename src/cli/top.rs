//! `coldfs top` and `coldfs brake`: who brings cold files home, and when it is too much.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::output::{Output, count, size, unwritten};
use super::{Outcome, converse, paths};
use crate::control::client::Client;
use crate::control::wire::{Alarm, Application, BrakeReport, BrakeRequest, Problem, TopReport};
use crate::units::shown_seconds;

const TOP_EXAMPLES: &str = "\
Examples:
  coldfs top                     every mount, again every two seconds; Ctrl-C ends
  coldfs top /srv/t1 --once      one table
  coldfs top --json --once       for scripts

An application is the name of a process, its user and its recall class. FILES and BYTES are what
it asked for since the mount, NOW what it asks for a second. `coldfs audit MOUNTPOINT` has a line
for each file.";

/// Show who brings cold files home, live
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
        loop {
            let mut now = Vec::new();
            for client in clients(args.mountpoint.as_deref()).await? {
                let report: TopReport = client.get("/v1/top").await?;
                now.push(report);
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

/// The daemon of one path, or all.
async fn clients(mountpoint: Option<&Path>) -> Result<Vec<Client>, Problem> {
    match mountpoint {
        Some(path) => Ok(vec![paths::served(path).await?.0]),
        None => {
            let daemons = paths::all_daemons().await?;
            Ok(daemons.into_iter().map(|daemon| daemon.client).collect())
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
    now.iter().map(table).collect::<Vec<_>>().join("\n\n")
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
many. Until a person lets go, opening a cold file fails with EACCES; resident files, and the
commands recall and migrate, go on.";

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
        let (client, _) = paths::served(&args.mountpoint).await?;
        client.post("/v1/brake", &BrakeRequest { release: args.release }).await
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
        TopReport { tenant, mountpoint: "/srv/t1".into(), applications: vec![grep], alarm }
    }

    #[test]
    fn a_table_says_who_how_much_and_how_fast() {
        let first = tables(&[report(1 << 30, None)], &[], 2);
        assert!(first.contains("grep") && first.contains("1,234") && first.contains("1.0 GiB"));
        let on = Alarm { files: 60_000, bytes: 1 << 40, window_seconds: 600, since: 1 };
        let second = tables(&[report(3 << 30, Some(on))], &[report(1 << 30, None)], 2);
        assert!(second.contains("1.0 GiB/s"), "{second}");
        assert!(second.contains("60,000 files, 1.0 TiB within 10 minutes"), "{second}");
        assert_eq!(tables(&[], &[], 2), "nothing is mounted");
    }
}
