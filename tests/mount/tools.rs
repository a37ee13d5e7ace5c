//! Tools that read everything, over a tree of released files, each beside a person who reads one
//! cold file after the other: what came home, what was refused, what the person noticed.
//!
//! `COLDFS_STORM_FILES` says how many files (`scripts/soak storms`: 100,000).

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::harness::mount::{Mount, Start};
use super::harness::pattern;
use super::harness::site::Site;
use super::harness::{can_tier, copy_program, has, must, run, say};

const BYTES: usize = 6_000;
const A_DIRECTORY: usize = 200;
/// Cold files of the person.
const READS: usize = 40;
/// What the person may wait for one, whatever storms, on a machine that others use too.
const BEARABLE: Duration = Duration::from_secs(10);
/// What the daemon may take of the machine: its caches (64 MiB of chunks, 64 of neighbours, 32 of
/// the catalog), what moves and fills hold, the code; and so much for each inode that the kernel
/// keeps.
const MOST_MIB: u64 = 320;
const AN_INODE_BYTES: u64 = 512;
/// A batch of recalls holds 1,024 files, the next one gathers as many.
const MOST_DESCRIPTORS: usize = 2_500;
/// Between two looks at them.
const LOOK: Duration = Duration::from_millis(50);

fn files() -> usize {
    let asked = std::env::var("COLDFS_STORM_FILES").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(1_000)
}

struct Tree {
    mount: Mount,
    site: Site,
    files: usize,
}

impl Tree {
    /// Released files, in an account of recalls that begins with nothing.
    fn new(config: &str) -> Option<Self> {
        if !can_tier() {
            return None;
        }
        let (site, files) = (Site::new(), files());
        for number in 0..files {
            let dir = site.data.join(format!("tree/{}", number / A_DIRECTORY));
            if number % A_DIRECTORY == 0 {
                std::fs::create_dir_all(&dir).unwrap();
            }
            std::fs::write(dir.join(format!("{number}.txt")), pattern::bytes(number as u64, BYTES))
                .unwrap();
        }
        std::fs::create_dir(site.data.join("person")).unwrap();
        for number in 0..READS {
            let path = site.data.join(format!("person/{number}"));
            std::fs::write(path, pattern::bytes(number as u64, BYTES)).unwrap();
        }
        let tree = Self { mount: start(&site, config), site, files };
        tree.mount.all("migrate", &tree.site.mnt);
        Some(tree)
    }

    fn state_count(&self, state: &str) -> u64 {
        self.mount.status()["tenants"][0]["files"][state].as_u64().unwrap()
    }

    fn recalled_bytes(&self) -> u64 {
        self.mount.counter("recall_bytes_total")
    }

    fn denied(&self) -> u64 {
        let denied = |account: &Value| account["denied"].as_u64();
        self.mount.applications().iter().filter_map(denied).sum()
    }

    /// Lets a tool storm while a person reads; then everything is as cold as before. How many
    /// files came home by it.
    fn storm(&self, name: &str, tool: &mut Command) -> Stormed {
        let (bytes, denied) = (self.recalled_bytes(), self.denied());
        let cold = self.state_count("released");
        // A session of its own, as a cron job or a service has.
        let mut session = Command::new("setsid");
        session.arg("--wait").arg(tool.get_program()).args(tool.get_args());
        for (key, value) in tool.get_envs() {
            session.env(key, value.unwrap_or_default());
        }
        let begun = Instant::now();
        let log = std::fs::File::create(self.site.dir.path().join("tool.log")).unwrap();
        session.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut storming = session.spawn().unwrap();
        let mut waits: Vec<Duration> =
            (0..READS).map(|number| self.read_as_a_person(number)).collect();
        let mut descriptors = 0;
        let status = loop {
            descriptors = descriptors.max(self.mount.descriptors().len());
            match storming.try_wait().unwrap() {
                Some(status) => break status,
                None => std::thread::sleep(LOOK),
            }
        };
        let took = begun.elapsed();
        waits.sort_unstable();
        let worst = waits[READS * 99 / 100];
        let stormed = Stormed {
            home: (cold - self.state_count("released")).saturating_sub(READS as u64),
            denied: self.denied() - denied,
            worst,
        };
        say(&format!(
            "storm: {name}: {} files in {:.1} s, exit {}: {} came home, {} KiB fetched, {} refused; \
             a person's cold read took at most {} ms; the daemon had up to {} MiB and {} descriptors",
            self.files,
            took.as_secs_f64(),
            status.code().unwrap_or(-1),
            stormed.home,
            (self.recalled_bytes() - bytes) >> 10,
            stormed.denied,
            worst.as_millis(),
            self.mount.peak_resident_mib(),
            descriptors
        ));
        assert!(descriptors < MOST_DESCRIPTORS, "{name}: {descriptors} descriptors");
        let most = MOST_MIB + ((self.files as u64 * AN_INODE_BYTES) >> 20);
        assert!(self.mount.peak_resident_mib() < most, "{name}: {most} MiB is the most");
        self.mount.all("release", &self.site.mnt);
        assert!(worst < BEARABLE, "{name}: a person waited {worst:?}");
        stormed
    }

    fn read_as_a_person(&self, number: usize) -> Duration {
        self.mount.beat();
        let begun = Instant::now();
        let read = std::fs::read(self.site.mnt.join(format!("person/{number}"))).unwrap();
        assert!(read == pattern::bytes(number as u64, BYTES));
        begun.elapsed()
    }

    fn below(&self) -> PathBuf {
        self.site.mnt.join("tree")
    }
}

struct Stormed {
    home: u64,
    denied: u64,
    worst: Duration,
}

fn start(site: &Site, config: &str) -> Mount {
    let hang_limit = Duration::from_secs(3_600);
    site.start(&Start { hang_limit, ..site.configured(config) })
}

/// The brake is tried by itself, and the person is none of it.
const NO_BRAKE: &str = "[brake]\nfiles = 10_000_000\n";

#[test]
fn scanners_and_indexers_bring_nothing_home() {
    let Some(tree) = Tree::new("") else { return };
    if has("clamscan") {
        // A signature of nobody's: what costs is reading.
        let signatures = tree.site.dir.path().join("signatures.ndb");
        std::fs::write(&signatures, "Coldfs.Test:0:*:636f6c6466732d6e6f742d61742d616c6c\n")
            .unwrap();
        let mut clamscan = Command::new("clamscan");
        clamscan.args(["-r", "--infected", "-d"]).arg(&signatures).arg(tree.below());
        let stormed = tree.storm("clamscan -r", &mut clamscan);
        assert_eq!((stormed.home, stormed.denied), (0, 0));
    }
    if has("updatedb.plocate") {
        let mut updatedb = Command::new("updatedb.plocate");
        let database = tree.site.dir.path().join("locate.db");
        updatedb.arg("-U").arg(tree.below()).arg("-o").arg(database);
        updatedb.args(["--prunefs", "", "--prunepaths", "", "--require-visibility", "0"]);
        let stormed = tree.storm("updatedb", &mut updatedb);
        assert_eq!((stormed.home, stormed.denied), (0, 0));
    }
    // A thumbnailer, which is known by its name, whatever it does.
    let thumbnailer = tree.site.dir.path().join("ffmpegthumbnailer");
    copy_program("/bin/cat", &thumbnailer);
    let mut find = Command::new("find");
    find.arg(tree.below()).args(["-type", "f", "-exec"]).arg(&thumbnailer).args(["{}", "+"]);
    let stormed = tree.storm("a thumbnailer", &mut find);
    assert_eq!((stormed.home, stormed.denied), (0, 0));
    tree.mount.detach();
}

#[test]
fn backups_bring_nothing_home_and_are_refused_nothing() {
    let Some(tree) = Tree::new("") else { return };
    let dir = tree.site.dir.path();
    let nothing = |stormed: Stormed| assert_eq!((stormed.home, stormed.denied), (0, 0));
    if has("borg") {
        let borg = |args: &[&str]| {
            let mut borg = Command::new("borg");
            borg.args(args).env("BORG_BASE_DIR", dir).env("BORG_REPO", dir.join("borg-repository"));
            borg.env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
            borg
        };
        must(&mut borg(&["init", "--encryption", "none"]));
        nothing(tree.storm("borg create", borg(&["create", "::all"]).arg(tree.below())));
        let listed = must(&mut borg(&["list", "--short", "::all"]));
        assert_eq!(listed.matches(".txt").count(), tree.files);
    }
    if has("restic") {
        let restic = |args: &[&str]| {
            let mut restic = Command::new("restic");
            restic.args(args).env("RESTIC_REPOSITORY", dir.join("restic-repository"));
            restic.env("RESTIC_CACHE_DIR", dir.join("restic-cache")).env("RESTIC_PASSWORD", "x");
            restic
        };
        must(&mut restic(&["init"]));
        nothing(tree.storm("restic backup", restic(&["backup"]).arg(tree.below())));
        let listed = must(&mut restic(&["ls", "latest"]));
        assert_eq!(listed.matches(".txt").count(), tree.files);
    }
    tree.mount.detach();
}

#[test]
fn people_who_read_everything_leave_others_their_turn() {
    let Some(tree) = Tree::new(NO_BRAKE) else { return };
    let mut grep = Command::new("grep");
    let stormed = tree.storm("grep -r", grep.args(["-rc", "nothing"]).arg(tree.below()));
    assert_eq!(stormed.denied, 0, "within its budget: the files lie together");
    assert!(stormed.home > 0, "{}", stormed.worst.as_millis());
    if has("file") {
        let mut find = Command::new("find");
        find.arg(tree.below()).args(["-type", "f", "-exec", "file", "-b", "{}", "+"]);
        tree.storm("find -exec file", &mut find);
    }
    tree.mount.detach();
}

#[test]
fn whoever_rewrites_everything_meets_the_brake() {
    let limit = files() as u64 / 4;
    let Some(tree) = Tree::new(&format!("[brake]\nfiles = {limit}\n")) else { return };
    // As ransomware does: read, write under another name, remove.
    let script =
        "for f in \"$1\"/*/*.txt; do tr a-z n-za-m <\"$f\" >\"$f.locked\" && rm \"$f\"; done";
    let mut sh = Command::new("sh");
    sh.args(["-c", script, "rewrite"]).arg(tree.below());
    let output =
        run(Command::new("setsid").arg("--wait").arg(sh.get_program()).args(sh.get_args()));
    let refused = String::from_utf8_lossy(&output.stderr).matches("Permission denied").count();
    let left = tree.state_count("released");
    say(&format!(
        "storm: a rewriter: {} files: {refused} refused, {left} still in the store",
        tree.files
    ));
    assert!(refused as u64 + limit + 1 >= tree.files as u64, "{refused} refused of {}", tree.files);
    assert!(left + limit + 1 >= (tree.files + READS) as u64, "{left} left");
    tree.mount.detach();
}
