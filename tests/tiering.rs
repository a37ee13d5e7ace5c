//! Files that move by themselves, on a real mount: what is cold goes when room is needed, what is
//! used, open, pinned or not proven idle stays, whatever a policy says; and every move is accounted
//! for.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a test that panics says where"
)]

#[path = "tiering/asking.rs"]
mod asking;
mod harness;
#[path = "tiering/moving.rs"]
mod moving;
#[path = "tiering/policies.rs"]
mod policies;
#[path = "tiering/tenants.rs"]
mod tenants;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use harness::mount::Mount;
use harness::pattern;
use harness::site::Site;
use harness::volume::FsKind;
use harness::{Subject, can_loop, can_tier, must, wait_for};

/// Deadlines are for what never comes, not for slow machines.
const PATIENCE: Duration = Duration::from_secs(150);
const BYTES: usize = 1 << 20;

/// Passes one after the other; what is above 2 % of the filesystem is to be freed, so all that may
/// go has to.
const EAGER: &str =
    "[tiering]\ninterval = 1\nhigh = 2\nlow = 1\nleast_idle = 1\nio_pressure = 100\n";

fn not_here() -> bool {
    !can_tier() || !can_loop() || Subject::from_env() != Subject::Coldfs
}

/// A directory on a filesystem of its own, the store elsewhere.
fn site() -> Site {
    Site::on(FsKind::Ext4, 120).with_disk_store()
}

fn name(index: u64) -> String {
    format!("file-{index:02}")
}

/// Plants a file below the mount that was changed and read last so many days ago.
fn plant(site: &Site, index: u64, days: u32) -> PathBuf {
    let path = site.data.join(name(index));
    std::fs::write(&path, pattern::bytes(index, BYTES)).unwrap();
    if days > 0 {
        age(&path, days);
    }
    site.mnt.join(name(index))
}

/// Makes a file one that was changed and read last so many days ago.
fn age(path: &Path, days: u32) {
    let when = format!("{days} days ago");
    must(Command::new("touch").args(["-a", "-m", "-d", &when]).arg(path));
}

/// Makes all that was planted so far as old as its times say: else it is a copy of something old.
fn settle(site: &mut Site) {
    let entries = std::fs::read_dir(&site.data).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        format!("/data/{}", entry.unwrap().file_name().to_str().unwrap())
    };
    let names: Vec<String> = entries.map(name).filter(|name| name.contains("file-")).collect();
    site.volume().age_births(&names, 100);
}

fn is_whole(path: &Path, index: u64) {
    assert!(std::fs::read(path).unwrap() == pattern::bytes(index, BYTES), "{}", path.display());
}

fn tiering(mount: &Mount) -> Value {
    mount.status()["tenants"][0]["tiering"].clone()
}

/// Waits until that many more passes have ended.
fn passes(mount: &Mount, more: u64) {
    let before = tiering(mount)["passes"].as_u64().unwrap();
    let ended = || (tiering(mount)["passes"].as_u64() >= Some(before + more)).then_some(());
    assert!(wait_for(PATIENCE, ended).is_some(), "{:#}\n{}", tiering(mount), mount.log_tail());
}

/// Waits until a file is in a state.
fn becomes(mount: &Mount, path: &Path, state: &str) {
    let there = wait_for(PATIENCE, || (mount.state(path) == state).then_some(()));
    assert!(
        there.is_some(),
        "{} is {}, not {state}\n{:#}\n{}\n{}",
        path.display(),
        mount.state(path),
        tiering(mount),
        String::from_utf8_lossy(&mount.coldfs(["explain".as_ref(), path.as_os_str()]).stdout),
        mount.log_tail()
    );
}

/// Lines of JSON that a command prints.
fn lines<S: AsRef<std::ffi::OsStr>>(
    mount: &Mount,
    args: impl IntoIterator<Item = S>,
) -> Vec<Value> {
    let output = mount.coldfs(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn explain(mount: &Mount, path: &Path) -> Value {
    lines(mount, ["explain".as_ref(), "--json".as_ref(), path.as_os_str()]).remove(0)
}
