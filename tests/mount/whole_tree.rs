//! A large real tree, migrated by one command, detached, mounted again, compared and brought
//! home. Small here; `scripts/soak tree` takes all of /usr and of cargo's sources.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::harness::facts::{Depth, Strict, Tree};
use super::harness::mount::{Mount, Start};
use super::harness::pattern::STUB_BYTES;
use super::harness::site::Site;
use super::harness::zoo::Zoo;
use super::harness::{can_tier, has, must, run, say};

/// One command may take this long, a sign of life or not.
const PATIENCE: Duration = Duration::from_secs(3_600);

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

fn mount(site: &Site) -> Mount {
    // Whoever reads a whole tree through the mount says so, or meets the brake.
    let config = "[brake]\nfiles = 10_000_000\nbytes = '10TiB'\n";
    site.start(&Start { hang_limit: PATIENCE, ..site.configured(config) })
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
    copy(&site.data.join("."), &site.plain);
    must(Command::new("sync").arg("-f").arg(&site.data));

    let mounted = mount(&site);
    let resident = Tree::of(&site.mnt, Depth::Layout).unwrap();
    let files = resident.files().count();
    timed("migrate", files, || mounted.all("migrate", &site.mnt));
    mounted.detach();
    let (sectors, released) = stubs(&site.data);
    let worth_it = resident.files().filter(|(_, fact)| fact.size > STUB_BYTES && fact.blocks > 8);
    let names = worth_it.count();
    assert!(released > 0 && released <= names, "{released} stubs of {names} names");
    let kib = sectors as f64 / 2.0 / released as f64;
    say(&format!("whole tree: {released} names of stubs, {kib:.2} KiB each"));
    assert!(kib < 8.01, "a stub takes {kib} KiB: a block, or two where attributes fill the inode");

    let mounted = mount(&site);
    let facts = Tree::of(&site.mnt, Depth::Stat).unwrap();
    resident.assert_equal(&facts, Strict::SameFile, "released, detached and mounted again");
    timed("rsync -c, which reads it all", files, || {
        let mut rsync = Command::new("rsync");
        rsync.args(["-aHAXc", "--dry-run", "--itemize-changes", "--delete"]);
        let mut from = site.plain.clone().into_os_string();
        from.push("/");
        let output = run(rsync.arg(from).arg(&site.mnt));
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
