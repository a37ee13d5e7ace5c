//! The storm guard, as a person meets it: who may bring cold files home and how much, that
//! resident files never notice, and that there is an account of who asked for what.

use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::harness::mount::Mount;
use super::harness::pattern;
use super::harness::server::Server;
use super::harness::site::Site;
use super::harness::{can_tier, copy_program, has, must, run, wait_for};

const BYTES: usize = 20_000;
/// Cold files, each in a segment of its own, and one that stays here.
const FILES: usize = 12;

struct Storm {
    mount: Mount,
    site: Site,
}

impl Storm {
    fn new(config: &str) -> Option<Self> {
        if !can_tier() {
            return None;
        }
        let site = Site::new();
        for number in 0..FILES {
            let bytes = pattern::bytes(number as u64, BYTES);
            std::fs::write(site.data.join(format!("cold-{number}")), bytes).unwrap();
        }
        std::fs::write(site.data.join("here"), pattern::bytes(99, BYTES)).unwrap();
        let mut start = site.configured(config);
        start.args.extend(["-o".into(), "allow_other".into()]);
        let mount = site.start(&start);
        for number in 0..FILES {
            mount.all("migrate", &site.mnt.join(format!("cold-{number}")));
        }
        Some(Self { mount, site })
    }

    fn cold(&self, number: usize) -> PathBuf {
        self.site.mnt.join(format!("cold-{number}"))
    }

    /// `cat` under another name: who a process is, is what it is called.
    fn program(&self, name: &str) -> PathBuf {
        let path = self.site.dir.path().join(name);
        if !path.exists() {
            copy_program("/bin/cat", &path);
        }
        path
    }

    /// What a program of this name reads of a file; none: it was refused.
    fn read_as(&self, name: &str, path: &Path) -> Option<Vec<u8>> {
        let output = run(Command::new(self.program(name)).arg(path));
        if output.status.success() {
            return Some(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("Permission denied"), "{said}");
        None
    }

    fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.site.data.join(".coldfs/audit.jsonl"));
        let text = text.unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The account of one application in `coldfs top`.
    fn account(&self, name: &str) -> Value {
        let applications = self.mount.applications();
        let found = applications.iter().find(|account| account["name"] == name);
        found.unwrap_or_else(|| panic!("{name} is not in {applications:?}")).clone()
    }

    /// The file that stays here reads, whatever goes on.
    fn hot_reads(&self) {
        assert!(std::fs::read(self.site.mnt.join("here")).unwrap() == pattern::bytes(99, BYTES));
    }
}

#[test]
fn a_scanner_reads_what_it_wants_and_brings_nothing_home() {
    let Some(storm) = Storm::new("") else { return };
    for number in 0..3 {
        let read = storm.read_as("clamscan", &storm.cold(number));
        assert!(read == Some(pattern::bytes(number as u64, BYTES)));
        assert_eq!(storm.mount.state(&storm.cold(number)), "released");
    }
    assert!(storm.read_as("reader", &storm.cold(0)).is_some());
    storm.mount.comes_home(&storm.cold(0));
    let lines =
        wait_for(Duration::from_secs(60), || Some(storm.audit()).filter(|lines| lines.len() == 4));
    let lines = lines.expect("a line for each open");
    let of = |line: &Value| {
        (line["name"].as_str().unwrap().to_owned(), line["class"].clone(), line["kept"].clone())
    };
    assert_eq!(of(&lines[0]), ("clamscan".into(), "scanner".into(), false.into()));
    assert_eq!(of(&lines[3]), ("reader".into(), "interactive".into(), true.into()));
    assert!(lines[0]["path"].as_str().unwrap().ends_with("/cold-0"), "{}", lines[0]);
    assert_eq!((&lines[0]["size_bytes"], &lines[0]["why"]), (&BYTES.into(), &"read".into()));
    assert_eq!(storm.account("clamscan")["files"], 3);
    storm.mount.detach();
}

#[test]
fn a_class_that_is_denied_is_told_so_at_open_and_the_file_stays_cold() {
    let config = "[[class]]\nname = 'nosy'\nprograms = ['nosy']\naction = 'deny'\n";
    let Some(storm) = Storm::new(config) else { return };
    assert_eq!(storm.read_as("nosy", &storm.cold(0)), None);
    assert_eq!(storm.mount.state(&storm.cold(0)), "released");
    assert!(storm.read_as("nosy", &storm.site.mnt.join("here")).is_some(), "what is here");
    assert_eq!(storm.account("nosy")["denied"], 1);
    // Nothing of it stays open: a grep over everything would use up the daemon's descriptors.
    let closed =
        || (!storm.mount.descriptors().iter().any(|name| name.ends_with("cold-0"))).then_some(());
    assert!(wait_for(Duration::from_secs(60), closed).is_some(), "cold-0 is still open");
    let line = &storm.audit()[0];
    assert!(line["outcome"].as_str().unwrap().contains("class \"nosy\" may not recall"), "{line}");
    storm.mount.detach();
}

/// Two segments at once and no more for a while; what is beyond is refused.
const SMALL_BUDGET: &str = "
[[class]]
name = 'interactive'
action = 'allow'
over = 'deny'
[budget.process]
segments = 3
segments_per_second = 1
[budget.user]
segments = 6
segments_per_second = 1
";

#[test]
fn a_grep_over_everything_ends_with_its_budget_kept_and_an_account_of_it() {
    let Some(storm) = Storm::new(SMALL_BUDGET) else { return };
    let began = Instant::now();
    let output =
        run(Command::new("setsid").args(["--wait", "grep", "-rc", "xyz"]).arg(&storm.site.mnt));
    let took = began.elapsed();
    let refused = String::from_utf8_lossy(&output.stderr).matches("Permission denied").count();
    let account = storm.account("grep");
    let (files, denied) = (account["files"].as_u64().unwrap(), account["denied"].as_u64().unwrap());
    assert_eq!((files + denied, denied), (FILES as u64, refused as u64), "{account}");
    assert!(files <= 4 + took.as_secs(), "{files} files in {took:?}: {account}");
    assert!(denied > 0);
    storm.hot_reads();
    // Another session has a budget of its own.
    let name =
        (0..FILES).map(|number| storm.cold(number)).find(|p| storm.mount.state(p) == "released");
    let output = run(Command::new("setsid").args(["--wait", "cat"]).arg(name.unwrap()));
    assert!(output.status.success(), "{output:?}");
    storm.mount.detach();
}

#[test]
fn whoever_makes_sessions_to_escape_meets_its_users_budget() {
    let Some(storm) = Storm::new(SMALL_BUDGET) else { return };
    let began = Instant::now();
    let read = (0..FILES).filter(|&number| {
        let mut escape = Command::new("setsid");
        run(escape.args(["--wait", "cat"]).arg(storm.cold(number))).status.success()
    });
    let read = read.count() as u64;
    let allowed = 7 + began.elapsed().as_secs();
    assert!((6..=allowed).contains(&read), "{read} of {allowed}");
    storm.mount.detach();
}

#[test]
fn all_users_together_meet_the_tenants_budget() {
    if !has("setpriv") {
        return;
    }
    let config = format!("{SMALL_BUDGET}[budget.tenant]\nsegments = 8\nsegments_per_second = 1\n");
    let Some(storm) = Storm::new(&config) else { return };
    storm.site.open_way();
    let began = Instant::now();
    let read = |uid: u32, number: usize| {
        let mut cat = as_uid(uid);
        run(cat.args(["setsid", "--wait", "cat"]).arg(storm.cold(number))).status.success()
    };
    // Two files a user are within each one's budget, all twelve are not within the tenant's.
    let read = (0..FILES).filter(|&number| read(1_000 + number as u32 / 2, number)).count() as u64;
    let allowed = 9 + began.elapsed().as_secs();
    assert!((8..=allowed).contains(&read), "{read} of {allowed}");
    storm.hot_reads();
    storm.mount.detach();
}

#[test]
fn a_class_knows_its_users() {
    if !has("setpriv") {
        return;
    }
    let config = "[[class]]\nname = 'guests'\nusers = [1234]\naction = 'deny'\n";
    let Some(storm) = Storm::new(config) else { return };
    storm.site.open_way();
    let read = |uid: u32, path: &Path| run(as_uid(uid).arg("cat").arg(path));
    let refused = read(1234, &storm.cold(0));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Permission denied"), "{refused:?}");
    assert_eq!(storm.mount.state(&storm.cold(0)), "released");
    assert!(read(1234, &storm.site.mnt.join("here")).status.success(), "what is here");
    assert!(read(1235, &storm.cold(0)).stdout == pattern::bytes(0, BYTES));
    storm.mount.detach();
}

/// A command of this user's, without a name and without rights.
fn as_uid(uid: u32) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &uid.to_string(), "--regid", "4321", "--clear-groups"]);
    command
}

#[test]
fn the_brake_holds_until_a_person_lets_go() {
    let config = "[brake]\nfiles = 3\n";
    let Some(Storm { mount, site }) = Storm::new(config) else { return };
    for number in 0..4 {
        let bytes = std::fs::read(site.mnt.join(format!("cold-{number}")));
        assert!(bytes.is_ok(), "{number}");
    }
    // No end of the daemon lets go.
    mount.kill();
    site.start(&site.configured(config)).detach();
    let mount = site.start(&site.configured(config));
    let storm = Storm { mount, site };
    let read = |number: usize| std::fs::read(storm.cold(number)).map_err(|error| error.kind());
    assert_eq!(read(4), Err(ErrorKind::PermissionDenied));
    storm.hot_reads();
    File::options().write(true).truncate(true).open(storm.cold(5)).expect("it needs no bytes");
    storm.mount.all("recall", &storm.cold(6));
    let notes = storm.mount.status()["tenants"][0]["notes"].to_string();
    assert!(notes.contains("the recall brake is on: 4 cold files"), "{notes}");

    let brake = |more: &[&str]| {
        let mut args = vec!["brake", "--json", storm.site.mnt.to_str().unwrap()];
        args.extend(more);
        serde_json::from_slice::<Value>(&storm.mount.coldfs(args).stdout).unwrap()
    };
    assert_eq!(brake(&[])["alarm"]["files"], 4);
    assert_eq!(brake(&["--release"])["released"], true);
    assert_eq!(brake(&[])["alarm"], Value::Null);
    let Storm { mount, site } = storm;
    mount.detach();
    let mount = site.start(&site.configured(config));
    assert!(std::fs::read(site.mnt.join("cold-4")).is_ok());
    mount.detach();

    std::fs::write(site.data.join(".coldfs/brake"), "torn").unwrap();
    let mount = site.start(&site.configured(config));
    let refused = std::fs::read(site.mnt.join("cold-7")).map_err(|error| error.kind());
    assert_eq!(refused.err(), Some(ErrorKind::PermissionDenied), "nobody knows: it is on");
    let notes = mount.status()["tenants"][0]["notes"].to_string();
    assert!(notes.contains(".coldfs/brake cannot be read"), "{notes}");
    mount.detach();
}

#[test]
fn a_scanner_over_more_files_than_the_brake_leaves_a_person_to_read_and_reads_on() {
    let Some(storm) = Storm::new("[brake]\nfiles = 3\n") else { return };
    let scan = |number: usize| storm.read_as("clamscan", &storm.cold(number)).is_some();
    assert!((0..FILES).all(scan), "a scanner brings nothing home");
    for number in 0..4 {
        assert!(storm.read_as("reader", &storm.cold(number)).is_some(), "{number}");
    }
    assert_eq!(storm.read_as("reader", &storm.cold(4)), None, "that is too much of a person");
    assert!((4..FILES).all(scan), "the brake is for what comes home");
    assert_eq!(storm.mount.state(&storm.cold(4)), "released");
    storm.mount.detach();
}

#[test]
fn the_second_touch_brings_a_file_home_where_a_class_says_so() {
    let config = "[[class]]\nname = 'viewer'\nprograms = ['viewer']\naction = 'allow'\n\
                  admit = 'second-touch'\n";
    let Some(storm) = Storm::new(config) else { return };
    assert!(storm.read_as("viewer", &storm.cold(0)) == Some(pattern::bytes(0, BYTES)));
    assert_eq!(storm.mount.state(&storm.cold(0)), "released");
    assert!(storm.read_as("viewer", &storm.cold(0)) == Some(pattern::bytes(0, BYTES)));
    storm.mount.comes_home(&storm.cold(0));
    storm.mount.detach();
}

#[test]
fn who_waits_for_its_turn_is_slow_and_not_refused() {
    let config = "[[class]]\nname = 'slow'\nprograms = ['slow']\naction = 'slow'\n\
                  files_per_second = 2\n";
    let Some(storm) = Storm::new(config) else { return };
    let began = Instant::now();
    for number in 0..6 {
        assert!(storm.read_as("slow", &storm.cold(number)).is_some());
    }
    assert!(began.elapsed() > Duration::from_millis(1_200), "{:?}", began.elapsed());
    assert!(storm.account("slow")["waited_ms"].as_u64().unwrap() > 0);
    storm.mount.detach();
}

#[test]
fn a_large_file_is_paid_for_whole_and_the_wait_is_on_the_account() {
    // Slower than any machine reads the first. The user's: where no session is visible, each
    // process has a budget of its own.
    let config = "[budget.user]\nbytes = '1MiB'\nbytes_per_second = '2MiB'\n";
    let Some(storm) = Storm::new(config) else { return };
    let large = |number: u64| storm.site.mnt.join(format!("large-{number}"));
    let bytes = |number: u64| pattern::bytes(50 + number, 12 << 20);
    for number in 0..2 {
        std::fs::write(large(number), bytes(number)).unwrap();
        storm.mount.all("migrate", &large(number));
    }
    let began = Instant::now();
    assert!(storm.read_as("reader", &large(0)) == Some(bytes(0)));
    assert!(storm.read_as("reader", &large(1)) == Some(bytes(1)));
    let (took, account) = (began.elapsed(), storm.account("reader"));
    assert!(took > Duration::from_secs(1), "{took:?}: {account}");
    assert!(account["waited_ms"].as_u64().unwrap() > 500, "{account}");
    assert_eq!(account["bytes"], 24 << 20, "{account}");
    storm.mount.detach();
}

#[test]
fn a_sparse_file_is_charged_what_the_store_gives_of_it() {
    use std::os::unix::fs::FileExt;
    const SIZE: u64 = 64 << 20;
    let Some(storm) = Storm::new("") else { return };
    let sparse = storm.site.mnt.join("sparse");
    let data = pattern::bytes(60, 64 << 10);
    let file = File::create_new(&sparse).unwrap();
    file.set_len(SIZE).unwrap();
    for offset in [0, SIZE / 2] {
        file.write_all_at(&data, offset).unwrap();
    }
    drop(file);
    storm.mount.all("migrate", &sparse);
    let read = storm.read_as("reader", &sparse).unwrap();
    assert!(read.len() as u64 == SIZE && read[..data.len()] == data);
    let account = storm.account("reader");
    let bytes = account["bytes"].as_u64().unwrap();
    // A page that is asked for twice is charged twice.
    assert!((data.len() as u64..=1 << 20).contains(&bytes), "{account}");
    storm.mount.detach();
}

#[test]
fn a_cancel_ends_what_one_process_waits_for_and_no_others_wait() {
    // Recalled in open(), and read in pieces.
    for size in [BYTES, 3 << 20] {
        cancel_one_of_two(size);
    }
}

fn cancel_one_of_two(size: usize) {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    // Whoever reads the same page of a large file waits for the same request of the kernel's.
    let second = if size == BYTES { "one" } else { "other" };
    for name in ["one", "other"] {
        std::fs::write(site.data.join(name), pattern::bytes(1, size)).unwrap();
    }
    let server = Server::start(&site.store);
    let start = server.mount_options();
    let mount = site.start(&start);
    mount.all("migrate", &site.mnt);
    mount.detach();
    let mount = site.start(&start);
    server.freeze();
    let cat = |name: &str| {
        let mut cat = Command::new("cat");
        cat.arg(site.mnt.join(name)).stdout(std::process::Stdio::piped());
        cat.stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let (one, mut other) = (cat("one"), cat(second));
    let pid = one.id().to_string();
    let stopped = wait_for(Duration::from_secs(60), || {
        let args = ["cancel", "--json", "--process", &pid, site.mnt.to_str().unwrap()];
        let report: Value = serde_json::from_slice(&mount.coldfs(args).stdout).unwrap();
        // More than one where the kernel reads ahead.
        (report["recalls"].as_u64() > Some(0)).then_some(())
    });
    assert!(stopped.is_some(), "nothing was stopped");
    let cancelled = Instant::now();
    let output = one.wait_with_output().unwrap();
    assert!(cancelled.elapsed() < Duration::from_secs(20), "{:?}", cancelled.elapsed());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("Operation canceled"), "{said}");
    let ended = other.try_wait().unwrap();
    assert!(ended.is_none(), "the other waits on: {:?}", other.wait_with_output());
    server.thaw();
    assert!(other.wait_with_output().unwrap().stdout == pattern::bytes(1, size));
    mount.detach();
}

#[test]
fn a_cancel_of_a_path_or_of_all_ends_waits_for_a_budget() {
    // The first file is paid for in twenty seconds.
    let config = "[budget.user]\nbytes = '1KiB'\nbytes_per_second = '1KiB'\n";
    let Some(storm) = Storm::new(config) else { return };
    std::fs::create_dir(storm.site.mnt.join("below")).unwrap();
    std::fs::rename(storm.cold(3), storm.site.mnt.join("below/cold-3")).unwrap();
    assert!(std::fs::read(storm.cold(0)).is_ok());
    let cat = |path: PathBuf| {
        let mut cat = Command::new("cat");
        cat.arg(path).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        cat.spawn().unwrap()
    };
    let waiting = |count: u64| {
        let waits = || {
            let applications = storm.mount.applications();
            let waiting = applications.iter().filter_map(|account| account["waiting"].as_u64());
            (waiting.sum::<u64>() == count).then_some(())
        };
        assert!(wait_for(Duration::from_secs(60), waits).is_some(), "{count} do not wait");
    };
    let cancel = |path: &Path| {
        let args = ["cancel", "--json", path.to_str().unwrap()];
        let report: Value = serde_json::from_slice(&storm.mount.coldfs(args).stdout).unwrap();
        report["recalls"].as_u64()
    };
    let is_cancelled = |cat: std::process::Child| {
        let said = cat.wait_with_output().unwrap().stderr;
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains("Operation canceled"), "{said}");
    };
    let one = cat(storm.cold(1));
    let below = cat(storm.site.mnt.join("below/cold-3"));
    let others = [cat(storm.cold(2)), cat(storm.cold(4))];
    waiting(4);
    assert_eq!(cancel(&storm.cold(1)), Some(1));
    is_cancelled(one);
    assert_eq!(cancel(&storm.site.mnt.join("below")), Some(1));
    is_cancelled(below);
    waiting(2);
    assert_eq!(cancel(&storm.site.mnt), Some(2), "all of a tenant");
    others.into_iter().for_each(is_cancelled);
    waiting(0);
    storm.hot_reads();
    storm.mount.detach();
}

#[test]
fn a_recall_by_command_is_in_the_audit_with_whose_it_was_whatever_the_name() {
    let Some(storm) = Storm::new("") else { return };
    let odd = OsStr::from_bytes(b"not \xff utf-8");
    let (data, mnt) = (storm.site.data.join(odd), storm.site.mnt.join(odd));
    std::fs::write(&mnt, pattern::bytes(50, BYTES)).unwrap();
    storm.mount.all("migrate", &mnt);
    assert!(storm.read_as("clamscan", &mnt).is_some());
    storm.mount.all("recall", &mnt);
    storm.mount.all("recall", &mnt);
    let below = storm.site.mnt.join("below");
    std::fs::create_dir(&below).unwrap();
    std::fs::rename(storm.cold(0), below.join("cold-0")).unwrap();
    let drained = storm.mount.coldfs([OsStr::new("drain"), below.as_os_str()]);
    assert!(drained.status.success(), "{drained:?}");
    let lines =
        wait_for(Duration::from_secs(60), || Some(storm.audit()).filter(|lines| lines.len() >= 3));
    let lines = lines.expect("a line for each");
    assert_eq!(lines.len(), 3, "none for what was at home: {lines:?}");
    let hex: String =
        data.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    for (line, why) in lines.iter().zip(["read", "command", "command"]) {
        assert_eq!(line["why"], why, "{line}");
        assert_eq!(line["outcome"], "admitted", "{line}");
        assert_eq!(line["user"], nix::unistd::geteuid().as_raw(), "{line}");
    }
    assert_eq!(
        (&lines[0]["path"]["hex"], &lines[1]["path"]["hex"]),
        (&hex.as_str().into(), &hex.into())
    );
    let command = &lines[1];
    assert_eq!((&command["kept"], &command["bytes"]), (&true.into(), &BYTES.into()), "{command}");
    assert_eq!(command["segment"], lines[0]["segment"]);
    assert_eq!(command["name"], "coldfs");
    assert_eq!(lines[2]["path"], storm.site.data.join("below/cold-0").to_str().unwrap());
    let people = storm.mount.coldfs([OsStr::new("audit"), storm.site.mnt.as_os_str()]).stdout;
    let people = String::from_utf8(people).unwrap();
    assert_eq!(people.matches("/not \\xff utf-8 ").count(), 2, "{people}");
    storm.mount.detach();
}

#[test]
fn rules_that_contradict_are_refused_before_anything_is_mounted() {
    let site = Site::new();
    let file = site.dir.path().join("config.toml");
    std::fs::write(&file, "[[class]]\nname = 'all'\naction = 'deny'\n").unwrap();
    let mut mount = super::harness::coldfs();
    mount.arg("mount").args([&site.data, &site.mnt]).arg("--config").arg(&file);
    let output = run(mount.args(["--check", "--store", &site.store_url]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("config.toml") && said.contains("for everybody"), "{said}");
    must(Command::new("test").arg("!").arg("-e").arg(site.data.join(".coldfs")));
}
