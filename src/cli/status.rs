//! `coldfs status`.

use std::path::PathBuf;

use clap::Args;

use super::output::{Output, count, size, unwritten};
use super::{Outcome, converse, paths};
use crate::config::checks::after_a_death;
use crate::control::wire::{Status, StatusRequest, TenantStatus, TieringReport};
use crate::printable::printable;
use crate::units::shown_age;

const EXAMPLES: &str = "\
Examples:
  coldfs status                                  everything that is mounted
  coldfs status /srv/t1                          one mount
  coldfs status --json | jq .tenants[].bytes     for scripts

`note` lines say what is missing on this machine, and what would enable it.";

/// Show what is mounted and how it fares
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct StatusArgs {
    /// A mountpoint, or any path on it; all mounts without it
    mountpoint: Option<PathBuf>,
}

pub fn run(
    args: StatusArgs,
    output: &mut Output,
) -> Result<Outcome, crate::control::wire::Problem> {
    let status = converse(collect(args))?;
    output.answer(&status, people).map_err(unwritten)?;
    for tenant in &status.tenants {
        output.failures(&tenant.failed, tenant.failed_total);
    }
    Ok(Outcome::failed_if(status.tenants.iter().any(|tenant| tenant.failed_total > 0)))
}

async fn collect(args: StatusArgs) -> Result<Status, crate::control::wire::Problem> {
    if let Some(path) = args.mountpoint {
        let (client, path) = paths::served(&path).await?;
        return client.post("/v1/status", &StatusRequest { path }).await;
    }
    let daemons = paths::all_daemons().await?;
    // One object whatever the number of daemons: totals add up.
    let (version, dead) = (env!("CARGO_PKG_VERSION").into(), paths::dead_mounts(&daemons));
    let mut all = Status { version, dead, ..Status::default() };
    for daemon in daemons {
        let status: Status = daemon.client.get("/v1/status").await?;
        all.tenants.extend(status.tenants);
        all.counters.add(&status.counters);
    }
    Ok(all)
}

fn people(status: &Status) -> String {
    if status.tenants.is_empty() && status.dead.is_empty() {
        return format!("coldfs {}: nothing is mounted", status.version);
    }
    let dead = status
        .dead
        .iter()
        .map(|at| format!("{at}: no daemon\n  note         {}", after_a_death(at.as_path())));
    status.tenants.iter().map(tenant).chain(dead).collect::<Vec<_>>().join("\n\n")
}

fn tenant(tenant: &TenantStatus) -> String {
    let files = tenant.files;
    let resident = files.resident.map_or_else(|| "not counted yet".into(), count);
    if !tenant.mounted {
        let mut lines = vec![
            tenant.name.clone(),
            format!("  mountpoint   {} (not mounted)", tenant.mountpoint),
            format!("  data         {}", tenant.data_dir),
        ];
        lines.extend(tenant.notes.iter().map(|note| format!("  note         {}", printable(note))));
        return lines.join("\n");
    }
    let mut lines = vec![
        tenant.name.clone(),
        format!("  mountpoint   {}", tenant.mountpoint),
        format!("  data         {}", tenant.data_dir),
        format!("  store        {}", printable(&tenant.store)),
        format!("  verify       {}", tenant.verify),
        format!(
            "  probe        {}, {} drains, {} uses lost, {} gaps",
            tenant.probe, tenant.heat.drains, tenant.heat.lost, tenant.heat.gaps
        ),
        format!("  policy       {}", printable(&tenant.policy)),
        format!("  passthrough  {}", if tenant.passthrough { "yes" } else { "no" }),
        format!(
            "  files        {resident} resident, {} archived, {} released, {} recalling, {} lost",
            count(files.archived),
            count(files.released),
            count(files.recalling),
            count(files.lost),
        ),
        format!(
            "  bytes        {} in all, {} local, {} in the store",
            size(tenant.bytes.logical),
            size(tenant.bytes.local),
            size(tenant.bytes.remote),
        ),
    ];
    lines.extend(tiering(&tenant.tiering));
    lines.push(format!(
        "  catalog      {}, {} files",
        tenant.catalog.state.word(),
        count(tenant.catalog.files)
    ));
    lines.extend(tenant.notes.iter().map(|note| format!("  note         {}", printable(note))));
    lines.join("\n")
}

/// How files move by themselves, a line a matter.
fn tiering(report: &TieringReport) -> Vec<String> {
    let next = report.next_in_seconds.map(shown_age);
    let next = next.map_or_else(String::new, |next| format!(", next pass in {next}"));
    let mut lines = vec![format!("  tiering      {}{next}", printable(&report.state))];
    if let Some(last) = &report.last {
        lines.push(format!(
            "  last pass    {} judged, {} archived ({}), {} released ({}), {} recalled, {} failed",
            count(last.judged),
            count(last.archived),
            size(last.archived_bytes),
            count(last.released),
            size(last.released_bytes),
            count(last.recalled),
            count(last.failed),
        ));
        let held: Vec<String> =
            last.held.iter().map(|(why, files)| format!("{} {why}", count(*files))).collect();
        if !held.is_empty() {
            lines.push(format!("  held back    {}", printable(held.join(", "))));
        }
        lines.extend(
            last.cut_short.as_ref().map(|why| format!("  cut short    {}", printable(why))),
        );
    }
    if let Some(broken) = &report.broken {
        let wait = shown_age(broken.seconds);
        lines.push(format!(
            "  breaker      {wait} more, {}: {}",
            broken.class,
            printable(&broken.error)
        ));
    }
    if report.quarantined > 0 {
        lines.push(format!("  left alone   {} files that failed", count(report.quarantined)));
    }
    if let Some(fault) = &report.policy_fault {
        let times = count(report.policy_faults);
        lines.push(format!("  policy fault {times} times, the last: {}", printable(fault)));
    }
    lines
}
