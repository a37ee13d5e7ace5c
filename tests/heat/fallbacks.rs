//! What is left where a kernel refuses: each way forced, each said in status.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::harness::site::Site;
use super::harness::wait_for;
use super::{PATIENCE, accesses, drained, heat, mounted, no_heat_here, plant, tenant};

/// An access time, seconds since the epoch.
const LONG_AGO: u64 = 1_000_000;

/// Forces a way and reads a file by it; the probe that status names, and its notes.
fn seen_by(more: &str) -> (String, String, u64) {
    let site = Site::new();
    plant(&site.data, &["read", "alone"]);
    let mount = mounted(&site, more);
    std::fs::read(site.mnt.join("read")).unwrap();
    drained(&mount);
    assert_eq!(accesses(&mount, &site.mnt.join("alone")), 0);
    let tenant = tenant(&mount);
    let told = (
        tenant["probe"].as_str().unwrap().to_owned(),
        tenant["notes"].to_string(),
        accesses(&mount, &site.mnt.join("read")),
    );
    mount.detach();
    told
}

#[test]
fn each_kind_sees_and_is_named() {
    if no_heat_here() {
        return;
    }
    for wanted in ["auto", "tp_btf", "fentry", "raw_tp", "tracepoint"] {
        let (probe, notes, count) = seen_by(&format!("probe = '{wanted}'"));
        super::harness::say(&format!("{wanted}: {probe}, {count} accesses, {notes}"));
        assert!(count > 0, "{wanted}: {probe}, {notes}");
        if wanted != "auto" && probe != wanted {
            assert!(notes.contains(&format!("{wanted}: ")), "{wanted}: {probe}, {notes}");
        }
    }
}

#[test]
fn a_kernel_that_does_not_describe_itself_is_seen_by_records() {
    if no_heat_here() {
        return;
    }
    let (probe, notes, _) = seen_by("btf = '/nonexistent'");
    assert!(matches!(probe.as_str(), "tracepoint" | "opens"), "{probe}");
    assert!(notes.contains("tp_btf: /nonexistent: No such file"), "{notes}");
    let nonsense = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&nonsense, "nonsense").unwrap();
    let (_, notes, _) = seen_by(&format!("btf = '{}'", nonsense.path().display()));
    assert!(notes.contains("no BTF, or cut short"), "{notes}");
}

#[test]
fn without_a_probe_opens_count_and_nothing_is_proven_idle() {
    if no_heat_here() {
        return;
    }
    let site = Site::new();
    plant(&site.data, &["opened", "alone"]);
    let mount = mounted(&site, "probe = 'none'");
    drop(std::fs::File::open(site.mnt.join("opened")).unwrap());
    assert_eq!(tenant(&mount)["probe"], "opens");
    let opened = heat(&mount, &site.mnt.join("opened"));
    assert_eq!((&opened["accesses"], &opened["evidence"]), (&1.into(), &"open".into()), "{opened}");
    for name in ["opened", "alone"] {
        let heat = heat(&mount, &site.mnt.join(name));
        assert!(heat["idle_seconds"].is_null(), "{name}: {heat}");
    }
    mount.detach();
}

/// Sets a file's access time to one older than its last change: relatime would move it.
fn long_ago(path: &Path) {
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(LONG_AGO);
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_times(std::fs::FileTimes::new().set_accessed(then)).unwrap();
}

fn access_time(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().atime().cast_unsigned()
}

#[test]
fn access_times_move_where_local_bytes_are_read() {
    if no_heat_here() {
        return;
    }
    let site = Site::new();
    // Larger than what is brought home inside open().
    std::fs::write(site.data.join("cold"), vec![7; 3 << 20]).unwrap();
    plant(&site.data, &["hot", "alone"]);
    ["hot", "alone"].iter().for_each(|name| long_ago(&site.data.join(name)));
    let mount = mounted(&site, "probe = 'none'");
    mount.all("migrate", &site.mnt.join("cold"));
    long_ago(&site.data.join("cold"));
    let mut page = [0; 4_096];
    for name in ["hot", "cold"] {
        let file = std::fs::File::open(site.mnt.join(name)).unwrap();
        file.read_exact_at(&mut page, 0).unwrap();
    }
    assert_eq!(access_time(&site.data.join("alone")), LONG_AGO, "nobody read it");
    let is_moved = access_time(&site.data.join("hot")) > LONG_AGO;
    assert_eq!(is_moved, !mounted_noatime(&site.data));
    // What was read of it moves nothing; that it comes home whole does.
    let home = || (mount.state(&site.mnt.join("cold")) == "archived").then_some(());
    assert!(wait_for(PATIENCE, home).is_some());
    assert!(access_time(&site.data.join("cold")) > LONG_AGO, "it was brought home");
    // Heat takes none of it for a proof: none of them is idle for as long as that.
    for name in ["hot", "cold", "alone"] {
        let heat = heat(&mount, &site.mnt.join(name));
        assert!(heat["idle_seconds"].is_null(), "{name}: {heat}");
    }
    mount.detach();
}

fn mounted_noatime(path: &Path) -> bool {
    let flags = nix::sys::statvfs::statvfs(path).unwrap().flags();
    flags.contains(nix::sys::statvfs::FsFlags::ST_NOATIME)
}

#[test]
fn without_the_capability_doctor_says_what_is_missing() {
    if no_heat_here() {
        return;
    }
    if !super::harness::on_path("setpriv") {
        return super::skip("needs setpriv");
    }
    let mut doctor = std::process::Command::new("setpriv");
    doctor.args(["--bounding-set", "-bpf,-perfmon,-sys_admin"]);
    let coldfs = super::harness::coldfs();
    let output = super::harness::run(doctor.arg(coldfs.get_program()).args(["doctor", "--json"]));
    let text = String::from_utf8_lossy(&output.stdout);
    let probe = text.lines().find(|line| line.contains(r#""name":"probe""#)).unwrap();
    assert!(probe.contains(r#""grade":"warn""#), "{probe}");
    assert!(probe.contains("CAP_BPF and CAP_PERFMON"), "{probe}");
}
