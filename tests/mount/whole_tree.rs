//! A large real tree, migrated by one command, detached, mounted again, searched under a budget,
//! compared and brought home. Small here; `scripts/soak tree` takes all of /usr and of cargo's
//! sources.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::harness::facts::{Depth, Strict, Tree};
use super::harness::mount::{Mount, Start};
use super::harness::pattern::STUB_BYTES;
use super::harness::site::Site;
use super::harness::zoo::Zoo;
use super::harness::{can_tier, has, must, run_within, say};

/// One command may take this long, a sign of life or not.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// A file that is brought home before the others are searched.
const RESIDENT: &str = "resident";
const RESIDENT_BYTES: usize = 1 << 20;
/// Whoever reads it may wait that long while others storm, on a machine that is busy with it.
const RESIDENT_PATIENCE: Duration = Duration::from_millis(100);

/// The trees that are copied: those of `COLDFS_TREE_SOURCES`, else some of this project's own
/// (not its fixtures: stubs are among them, and are taken for what they are).
fn sources() -> Vec<PathBuf> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    match std::env::var_os("COLDFS_TREE_SOURCES") {
        Some(named) => std::env::split_paths(&named).collect(),
        None => ["src", "tests", "docs"].map(|name| home.join(name)).to_vec(),
    }
}

fn timed(what: &str, files: usize, work: impl FnOnce()) {
    let begun = Instant::now();
    work();
    let seconds = begun.elapsed().as_secs_f64();
    say(&format!("whole tree: {what}: {files} files in {seconds:.1} s"));
}

/// Whoever reads a whole tree through the mount says so, or meets the brake.
const NO_BRAKE: &str = "[brake]\nfiles = 10_000_000\nbytes = '10TiB'\n";

fn mount(site: &Site, config: &str) -> Mount {
    site.start(&Start { hang_limit: PATIENCE, ..site.configured(config) })
}

/// What one session may bring home: an eighth of the tree at once, the rest within a time.
struct Allowance {
    burst: u64,
    per_second: u64,
    /// The largest file: it is read even where nothing is left, and paid for later.
    largest: u64,
}

impl Allowance {
    fn of(tree: &Tree) -> Self {
        let here = tree.files().map(|(_, fact)| fact.size.min(fact.blocks * 512));
        let (bytes, files) = here.fold((0, 0), |(bytes, files), size| (bytes + size, files + 1));
        // Longer than anybody needs who is not held up.
        let seconds = 10 + files / 150;
        Self {
            burst: bytes / 8 + 1,
            per_second: bytes / seconds + 1,
            largest: tree.files().map(|(_, fact)| fact.size).max().unwrap_or(0),
        }
    }

    fn config(&self) -> String {
        let Self { burst, per_second, .. } = self;
        format!(
            "[budget.process]\nbytes = '{burst}'\nbytes_per_second = '{per_second}'\n\
             segments = 1_000_000\n{NO_BRAKE}"
        )
    }
}

/// How long a read of the same resident file takes, again and again, while `busy` says so.
fn resident_reads(file: &Path, mut busy: impl FnMut() -> bool) -> Duration {
    let mut took = Vec::new();
    while busy() {
        let begun = Instant::now();
        assert_eq!(std::fs::read(file).unwrap().len(), RESIDENT_BYTES);
        took.push(begun.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
    took.sort_unstable();
    took[took.len() / 2]
}

/// A person's `grep -r` over everything: it ends, what it brought home is what its budget allows
/// for that time, whoever reads what is resident notices little, and the account names it.
fn search(site: &Site, mounted: &Mount, allowance: &Allowance) {
    let here = site.mnt.join(RESIDENT);
    mounted.all("recall", &here);
    let mut left = 200;
    let alone = resident_reads(&here, || {
        left -= 1;
        left > 0
    });
    let begun = Instant::now();
    // A session of its own, as another terminal has.
    let mut grep = Command::new("setsid")
        .args(["--wait", "grep", "-rc", "no lin[e] has this"])
        .arg(&site.mnt)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let beside = resident_reads(&here, || {
        mounted.beat();
        grep.try_wait().unwrap().is_none()
    });
    let took = begun.elapsed();
    // grep exits with 1 where nothing has the line.
    assert_eq!(grep.wait().unwrap().code(), Some(1), "grep was refused something");
    let accounts = mounted.applications();
    let asked = |key: &str| {
        let of_grep = accounts.iter().filter(|account| account["name"] == "grep");
        of_grep.filter_map(|account| account[key].as_u64()).sum::<u64>()
    };
    let allowed = allowance.burst + allowance.largest + allowance.per_second * (took.as_secs() + 1);
    say(&format!(
        "whole tree: grep -r asked for {} cold files, {} MiB of {} allowed, in {:.1} s, of which \
         it waited {:.1} s for its budget; a resident file was read in {} us, alone in {} us",
        asked("files"),
        asked("bytes") >> 20,
        allowed >> 20,
        took.as_secs_f64(),
        asked("waited_ms") as f64 / 1e3,
        beside.as_micros(),
        alone.as_micros()
    ));
    assert!(asked("bytes") <= allowed, "{} bytes of {allowed} allowed", asked("bytes"));
    assert!(asked("waited_ms") > 0, "the budget was never met: {accounts:?}");
    assert!(beside < RESIDENT_PATIENCE, "a resident file was read in {beside:?}");
    let audit = std::fs::read_to_string(site.data.join(".coldfs/audit.jsonl")).unwrap();
    let line = audit.lines().find(|line| line.contains("\"grep\"")).expect("a line of grep's");
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert!(line["path"].is_string() && line["bytes"].is_u64(), "{line}");
}

/// Sectors of 512 bytes that the plain directory's stubs take, and their number.
fn stubs(data: &Path) -> (u64, usize) {
    let raw = Tree::of(data, Depth::Stat).unwrap();
    let stubs = raw.files().filter(|(path, fact)| {
        fact.size == STUB_BYTES
            && fact.xattrs.contains_key(&b"trusted.coldfs"[..])
            && !path.starts_with(".coldfs")
    });
    stubs.fold((0, 0), |(sectors, count), (_, fact)| (sectors + fact.blocks, count + 1))
}

#[test]
fn a_whole_tree_comes_through_a_migration_a_detach_and_a_recall() {
    if !can_tier() || !has("rsync") {
        return;
    }
    let site = Site::new();
    let copy = |from: &Path, to: &Path| {
        must(Command::new("cp").args(["-a", "--reflink=never"]).arg(from).arg(to));
    };
    for (number, source) in sources().iter().enumerate() {
        copy(source, &site.data.join(number.to_string()));
    }
    std::fs::create_dir(site.data.join("zoo")).unwrap();
    Zoo::build(&site.data.join("zoo"));
    let here = vec![7; RESIDENT_BYTES];
    std::fs::write(site.data.join(RESIDENT), here).unwrap();
    copy(&site.data.join("."), &site.plain);
    must(Command::new("sync").arg("-f").arg(&site.data));

    let mounted = mount(&site, NO_BRAKE);
    let resident = Tree::of(&site.mnt, Depth::Layout).unwrap();
    let files = resident.files().count();
    let allowance = Allowance::of(&resident);
    timed("migrate", files, || mounted.all("migrate", &site.mnt));
    mounted.detach();
    let (sectors, released) = stubs(&site.data);
    let worth_it = resident.files().filter(|(_, fact)| fact.size > STUB_BYTES && fact.blocks > 8);
    let names = worth_it.count();
    assert!(released > 0 && released <= names, "{released} stubs of {names} names");
    let kib = sectors as f64 / 2.0 / released as f64;
    say(&format!("whole tree: {released} names of stubs, {kib:.2} KiB each"));
    assert!(kib < 8.01, "a stub takes {kib} KiB: a block, or two where attributes fill the inode");

    let mounted = mount(&site, &allowance.config());
    let facts = Tree::of(&site.mnt, Depth::Stat).unwrap();
    resident.assert_equal(&facts, Strict::SameFile, "released, detached and mounted again");
    search(&site, &mounted, &allowance);
    timed("migrate after grep", files, || mounted.all("migrate", &site.mnt));
    mounted.detach();

    let mounted = mount(&site, NO_BRAKE);
    timed("rsync -c, which reads it all", files, || {
        let mut rsync = Command::new("rsync");
        rsync.args(["-aHAXc", "--dry-run", "--itemize-changes", "--delete"]);
        let mut from = site.plain.clone().into_os_string();
        from.push("/");
        let output = run_within(rsync.arg(from).arg(&site.mnt), PATIENCE).expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let changes = String::from_utf8_lossy(&output.stdout).into_owned();
        // The two roots were made at different times.
        let lines: Vec<_> = changes.lines().filter(|line| !line.ends_with(" ./")).collect();
        assert!(lines.is_empty(), "rsync finds differences:\n{}", lines.join("\n"));
    });
    timed("migrate again", files, || mounted.all("migrate", &site.mnt));
    timed("recall", files, || mounted.all("recall", &site.mnt));
    let recalled = Tree::of(&site.mnt, Depth::Layout).unwrap();
    resident.assert_equal(&recalled, Strict::SameFile, "recalled");
    mounted.detach();
    assert_eq!(stubs(&site.data).1, 0, "stubs are left");
}
