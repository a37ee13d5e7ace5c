//! Heat on this live kernel: what warms a file and what does not, through the mount and behind
//! it; what is left without a probe; that nothing becomes cold by what was not seen.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a test that panics says where"
)]

#[path = "heat/day.rs"]
mod day;
#[path = "heat/detached.rs"]
mod detached;
#[path = "heat/fallbacks.rs"]
mod fallbacks;
mod harness;
#[path = "heat/judge.rs"]
mod judge;
#[path = "heat/places.rs"]
mod places;
#[path = "heat/reader.rs"]
mod reader;
#[path = "heat/showing.rs"]
mod showing;
#[path = "heat/truth.rs"]
mod truth;
#[path = "heat/unseen.rs"]
mod unseen;
#[path = "heat/warming.rs"]
mod warming;

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use harness::mount::{Mount, Start};
use harness::site::Site;
use harness::{Subject, can_tier, skip, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);
/// More than is never migrated.
const BYTES: usize = 20_000;

/// Seconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// A mount that takes heat every second; more lines of `[heat]` may follow.
fn mounted(site: &Site, more: &str) -> Mount {
    let mount = site.start(&start(site, more));
    settled(&mount);
    mount
}

fn start(site: &Site, more: &str) -> Start {
    let drain = if more.contains("drain") { "" } else { "drain = 1\n" };
    site.configured(&format!("[heat]\n{drain}{more}\n"))
}

fn tenant(mount: &Mount) -> Value {
    mount.status()["tenants"][0].clone()
}

/// Waits until the catalog knows every file.
fn settled(mount: &Mount) {
    let complete = || (tenant(mount)["catalog"]["state"] == "complete").then_some(());
    assert!(wait_for(PATIENCE, complete).is_some(), "{:#}", tenant(mount));
}

/// Waits until all that happened up to now is taken out of the probe.
fn drained(mount: &Mount) {
    let moment = now();
    let taken = || tenant(mount)["heat"]["until"].as_u64().filter(|until| *until > moment);
    assert!(wait_for(PATIENCE, taken).is_some(), "{:#}\n{}", tenant(mount), mount.log_tail());
}

/// What `coldfs state` says of a file's heat.
fn heat(mount: &Mount, path: &Path) -> Value {
    let output = mount.coldfs(["state".as_ref(), "--json".as_ref(), path.as_os_str()]);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    report["heat"].clone()
}

fn accesses(mount: &Mount, path: &Path) -> u64 {
    let heat = heat(mount, path);
    heat["accesses"].as_u64().unwrap_or_else(|| panic!("{}: no heat: {heat}", path.display()))
}

/// Whether this kernel lets a probe in; says why not.
fn has_probe(mount: &Mount) -> bool {
    let tenant = tenant(mount);
    let probe = tenant["probe"].as_str().unwrap();
    if matches!(probe, "none" | "opens") {
        skip(&format!("this kernel allows no probe: {}", tenant["notes"]));
        return false;
    }
    true
}

fn no_heat_here() -> bool {
    !can_tier() || Subject::from_env() != Subject::Coldfs
}

fn plant(dir: &Path, names: &[&str]) {
    for name in names {
        std::fs::write(dir.join(name), vec![7; BYTES]).unwrap();
    }
}
