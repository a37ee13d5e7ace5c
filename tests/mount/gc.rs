//! `coldfs gc --dry-run`: what in the store nobody needs any more. Whatever it says, nothing goes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::bad_input::{says, segments, words};
use super::harness::mount::Mount;
use super::harness::pattern::{self, Looks, looks};
use super::harness::site::Site;
use super::harness::{can_tier, must, raw};

const BYTES: usize = 200_000;
/// After which a file may be archived: what `Start` asks for, and more.
const SETTLED: Duration = Duration::from_millis(50);

/// What one run said.
struct Said {
    code: Option<i32>,
    /// By segment: the verdict, and why.
    verdicts: BTreeMap<String, (String, String)>,
    segments: Vec<serde_json::Value>,
    report: serde_json::Value,
    text: String,
}

impl Said {
    fn verdict(&self, segment: &str) -> &str {
        self.verdicts.get(segment).map_or("not listed", |(verdict, _)| verdict)
    }

    fn why(&self, segment: &str) -> &str {
        &self.verdicts[segment].1
    }

    fn of(&self, segment: &str) -> &serde_json::Value {
        self.segments.iter().find(|found| found["segment"] == segment).expect("it is listed")
    }

    fn is_complete(&self) {
        assert_eq!(self.code, Some(0), "{}", self.text);
        assert_eq!(self.report["complete"], true, "{}", self.text);
    }

    fn is_incomplete(&self, path: &Path) {
        assert_eq!(self.code, Some(1), "{}", self.text);
        assert_eq!(self.report["complete"], false, "{}", self.text);
        let named = self.report["failed"].as_array().unwrap().iter();
        let named: Vec<&str> = named.map(|doubt| doubt["path"].as_str().unwrap()).collect();
        assert_eq!(named, [path.to_str().unwrap()], "{}", self.text);
        for (segment, (verdict, _)) in &self.verdicts {
            assert!(["live", "held"].contains(&verdict.as_str()), "{segment}: {}", self.text);
        }
    }
}

/// Asks, with no grace, unless one is given.
fn gc(mount: &Mount, site: &Site) -> Said {
    gc_with(mount, site, &["--grace", "0s"])
}

fn gc_with(mount: &Mount, site: &Site, more: &[&str]) -> Said {
    let args = ["gc", "--dry-run", "--json"].iter().chain(more).map(OsStr::new);
    let output = mount.coldfs(args.chain([site.mnt.as_os_str()]));
    let text = words(&output);
    let lines = String::from_utf8(output.stdout).unwrap();
    let mut all: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let report = all.pop().unwrap_or_default();
    let word = |found: &serde_json::Value, field: &str| found[field].as_str().unwrap().to_owned();
    let verdicts = all.iter().filter(|found| found["segment"].is_string());
    let verdicts = verdicts
        .map(|found| (word(found, "segment"), (word(found, "verdict"), word(found, "why"))));
    let verdicts = verdicts.collect();
    Said { code: output.status.code(), verdicts, segments: all, report, text }
}

/// The segment that has a file's bytes.
fn segment_of(mount: &Mount, path: &Path) -> String {
    let output = mount.coldfs(["state".as_ref(), "--json".as_ref(), path.as_os_str()]);
    let state: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    state["remote"]["segment"].as_str().unwrap_or_else(|| panic!("{state}")).to_owned()
}

fn write(dir: &Path, names: &[&str]) {
    for (seed, name) in names.iter().enumerate() {
        std::fs::write(dir.join(name), pattern::bytes(seed as u64, BYTES)).unwrap();
    }
}

/// A file in a segment of its own, archived; its segment.
fn archive(mount: &Mount, site: &Site, name: &str) -> String {
    write(&site.mnt, &[name]);
    mount.all("archive", &site.mnt.join(name));
    segment_of(mount, &site.mnt.join(name))
}

fn in_store(site: &Site) -> Vec<(PathBuf, u64)> {
    let sized = |path: PathBuf| (path.clone(), std::fs::metadata(path).unwrap().len());
    segments(&site.store).into_iter().map(sized).collect()
}

#[test]
fn each_segment_has_its_verdict_and_nothing_is_deleted() {
    if !can_tier() {
        return;
    }
    let site = Site::new().with_disk_store();
    let mount = site.mount();
    let archived = archive(&mount, &site, "archived");
    let released = archive(&mount, &site, "released");
    mount.all("release", &site.mnt.join("released"));
    write(&site.mnt, &["one of two", "two of two"]);
    mount.all("migrate", &site.mnt.join("one of two"));
    std::fs::create_dir(site.mnt.join("d")).unwrap();
    write(&site.mnt.join("d"), &["a", "b", "c"]);
    // What is as old as all the others goes with them.
    std::thread::sleep(4 * SETTLED);
    mount.all("migrate", &site.mnt.join("d"));
    let shared = segment_of(&mount, &site.mnt.join("d/a"));
    assert_eq!(segment_of(&mount, &site.mnt.join("d/b")), shared);
    let [removed, overwritten, emptied, open] =
        ["removed", "overwritten", "emptied", "open"].map(|name| archive(&mount, &site, name));
    mount.all("release", &site.mnt.join("open"));
    let still_open = File::open(site.mnt.join("open")).unwrap();
    for name in ["removed", "open", "d/b"] {
        std::fs::remove_file(site.mnt.join(name)).unwrap();
    }
    std::fs::write(site.mnt.join("overwritten"), b"short").unwrap();
    raw::open(&site.mnt.join("emptied"), libc::O_WRONLY, 0).unwrap().set_len(0).unwrap();

    let before = in_store(&site);
    let said = gc(&mount, &site);
    said.is_complete();
    for (segment, verdict) in [
        (&archived, "live"),
        (&released, "live"),
        (&shared, "partly-dead"),
        (&removed, "dead"),
        (&overwritten, "dead"),
        (&emptied, "dead"),
        (&open, "live"),
    ] {
        assert_eq!(said.verdict(segment), verdict, "{}", said.text);
    }
    assert_eq!(said.report["segments"].as_u64().unwrap() as usize, before.len());
    let found = said.of(&shared);
    assert_eq!((&found["entries"], &found["live_entries"]), (&3.into(), &2.into()), "{found}");
    let (live, dead) = (found["live_bytes"].as_u64(), found["dead_bytes"].as_u64());
    assert_eq!(live.unwrap(), 2 * dead.unwrap(), "files alike weigh alike: {found}");
    let total = |verdict: &str| {
        let totals = said.report["totals"].as_array().unwrap();
        totals.iter().find(|total| total["verdict"] == verdict).unwrap()["segments"].clone()
    };
    assert_eq!(total("dead"), 3);
    let text = words(&mount.coldfs(["gc", "--dry-run", "--grace", "0"].map(OsStr::new)));
    says(&text, &[&removed, "nothing names it", "3 files named", "passes"]);

    // Within the grace nobody says that it is dead.
    let young = gc_with(&mount, &site, &[]);
    young.is_complete();
    assert_eq!(young.verdict(&removed), "young", "{}", young.text);
    assert_eq!(young.verdict(&released), "live");

    // Nobody has it open any more.
    drop(still_open);
    let closed = super::harness::wait_for(Duration::from_secs(20), || {
        (gc(&mount, &site).verdict(&open) == "dead").then_some(())
    });
    assert!(closed.is_some(), "{}", gc(&mount, &site).text);
    assert_eq!(in_store(&site), before, "a dry run");
    assert!(std::fs::read(site.mnt.join("released")).unwrap() == pattern::bytes(0, BYTES));
    mount.detach();
}

#[test]
fn stubs_without_a_record_notes_and_what_was_set_aside_are_references() {
    if !can_tier() {
        return;
    }
    let site = Site::new().with_disk_store();
    let mount = site.mount();
    let names = ["orphan", "let go", "chosen against", "other", "dead"];
    let [orphan, let_go, against, other, dead] = names.map(|name| archive(&mount, &site, name));
    mount.all("release", &site.mnt);
    mount.detach();
    // A backup without attributes came back: the stub is all there is.
    let stub = std::fs::read(site.data.join("orphan")).unwrap();
    assert_eq!(looks(&stub), Looks::Stub);
    for name in ["orphan", "dead"] {
        std::fs::remove_file(site.data.join(name)).unwrap();
    }
    std::fs::create_dir(site.data.join("restored")).unwrap();
    std::fs::write(site.data.join("restored/orphan"), &stub).unwrap();
    // A conflict whose remote copy nobody wants, and one whose local bytes are another's stub.
    std::fs::write(site.data.join("let go"), b"somebody's new file").unwrap();
    let stub = std::fs::read(site.data.join("other")).unwrap();
    std::fs::write(site.data.join("chosen against"), &stub).unwrap();
    std::fs::remove_file(site.data.join("other")).unwrap();
    let mount = site.mount();
    for (keep, name) in [("local", "let go"), ("remote", "chosen against")] {
        let path = site.mnt.join(name);
        let args = ["fsck".as_ref(), "--keep".as_ref(), keep.as_ref(), path.as_os_str()];
        let output = mount.coldfs(args);
        assert_eq!(output.status.code(), Some(0), "{}", words(&output));
    }
    let said = gc(&mount, &site);
    said.is_complete();
    for segment in [&orphan, &let_go, &against, &other] {
        assert_eq!(said.verdict(segment), "live", "{}", said.text);
    }
    says(said.why(&let_go), &["notes of conflicts"]);
    says(said.why(&other), &["notes of conflicts"]);
    assert_eq!(said.verdict(&dead), "dead", "{}", said.text);
    mount.detach();
}

#[test]
fn what_cannot_be_read_is_named_and_nothing_counts_as_dead() {
    if !can_tier() {
        return;
    }
    let site = Site::new().with_disk_store();
    let mount = site.mount();
    let dead = archive(&mount, &site, "removed");
    let live = archive(&mount, &site, "stays");
    std::fs::remove_file(site.mnt.join("removed")).unwrap();
    let said = gc(&mount, &site);
    said.is_complete();
    assert_eq!(said.verdict(&dead), "dead");

    // Something is mounted on a directory, be it the same filesystem, or on a file.
    std::fs::create_dir_all(site.data.join("d/below")).unwrap();
    std::fs::write(site.data.join("d/file"), b"plain").unwrap();
    for (what, on) in [
        (&["-t", "tmpfs", "none"][..], "d/below"),
        (&["--bind", site.plain.to_str().unwrap()], "d/below"),
        (&["--bind", site.data.join("stays").to_str().unwrap()], "d/file"),
    ] {
        let on = site.data.join(on);
        must(Command::new("mount").args(what).arg(&on));
        let said = gc(&mount, &site);
        must(Command::new("umount").arg(&on));
        said.is_incomplete(&on);
        assert_eq!(said.verdict(&live), "live", "{}", said.text);
        says(said.why(&dead), &["could not be read"]);
        says(&said.text, &["unmount that"]);
    }
    gc(&mount, &site).is_complete();

    // A stub that nobody can read, without a record; a file of a newer coldfs.
    let stub = std::fs::read(site.data.join("stays")).unwrap();
    assert_eq!(looks(&stub), looks(&pattern::bytes(0, BYTES)));
    mount.all("release", &site.mnt.join("stays"));
    let mut stub = std::fs::read(site.data.join("stays")).unwrap();
    stub[700] ^= 1;
    let damaged = site.data.join("damaged");
    std::fs::write(&damaged, &stub).unwrap();
    let said = gc(&mount, &site);
    said.is_incomplete(&damaged);
    says(&said.text, &["a damaged stub", "coldfs fsck"]);
    std::fs::remove_file(&damaged).unwrap();
    let newer = site.data.join("of a newer coldfs");
    std::fs::write(&newer, b"bytes").unwrap();
    raw::set_xattr(&newer, b"trusted.coldfs", &[2; 64], 0).unwrap();
    gc(&mount, &site).is_incomplete(&newer);
    std::fs::remove_file(&newer).unwrap();

    // Private files of a newer coldfs, and notes that nobody can read.
    let private = site.data.join(".coldfs/tombstones");
    std::fs::write(&private, b"").unwrap();
    gc(&mount, &site).is_incomplete(&private);
    std::fs::remove_file(&private).unwrap();
    let notes = site.data.join(".coldfs/conflicts");
    std::fs::write(&notes, "1764 inode 12: of an older coldfs\n").unwrap();
    let said = gc(&mount, &site);
    said.is_incomplete(&notes);
    let people = words(&mount.coldfs(["gc", "--dry-run"].map(OsStr::new)));
    says(&people, &["conflicts: 1 lines cannot be read", "not complete: 1 could not be read"]);
    std::fs::remove_file(&notes).unwrap();
    gc(&mount, &site).is_complete();
    mount.detach();
}

#[test]
fn a_segment_that_cannot_be_read_holds_itself_and_no_other() {
    if !can_tier() {
        return;
    }
    let site = Site::new().with_disk_store();
    let mount = site.mount();
    let names = ["named", "removed", "also removed"];
    let [named, removed, also] = names.map(|name| archive(&mount, &site, name));
    for name in ["removed", "also removed"] {
        std::fs::remove_file(site.mnt.join(name)).unwrap();
    }
    let at = |segment: &str| {
        let all = segments(&site.store).into_iter();
        all.into_iter().find(|path| path.to_str().unwrap().contains(segment)).unwrap()
    };
    for damaged in [&named, &also] {
        let path = at(damaged);
        let length = std::fs::metadata(&path).unwrap().len();
        let file = raw::open(&path, libc::O_WRONLY, 0).unwrap();
        file.write_all_at(b"damage", length - 100).unwrap();
    }
    let stranger = at(&removed).with_file_name("stranger");
    std::fs::copy(at(&removed), &stranger).unwrap();
    let said = gc(&mount, &site);
    said.is_complete();
    for damaged in [&named, &also] {
        assert_eq!(said.verdict(damaged), "held", "{}", said.text);
        says(said.why(damaged), &["its index cannot be read", "footer"]);
    }
    assert_eq!(said.verdict(&removed), "dead", "{}", said.text);
    mount.detach();
}

#[test]
fn a_copy_of_the_directory_and_its_owner_are_told_that_nothing_may_go() {
    if !can_tier() {
        return;
    }
    let (site, mut copy) = (Site::new().with_disk_store(), Site::new());
    let mount = site.mount();
    let dead = archive(&mount, &site, "removed");
    std::fs::remove_file(site.mnt.join("removed")).unwrap();
    assert_eq!(gc(&mount, &site).report["forbidden"], serde_json::Value::Null);
    must(Command::new("cp").arg("-aT").args([&site.data, &copy.data]));
    copy.store_url.clone_from(&site.store_url);
    let guest = copy.mount();
    let said = gc(&guest, &copy);
    says(said.report["forbidden"].as_str().unwrap(), &["another directory owns"]);
    guest.detach();
    let said = gc(&mount, &site);
    assert_eq!((said.code, said.verdict(&dead)), (Some(0), "dead"), "{}", said.text);
    says(said.report["forbidden"].as_str().unwrap(), &["1 copies of the directory"]);
    mount.detach();
}

/// Dropped, it stops a thread.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn moves_and_renames_go_on_while_it_looks_and_nothing_named_is_called_dead() {
    if !can_tier() {
        return;
    }
    let site = Site::new().with_disk_store().over_itself();
    let mount = site.mount();
    for dir in ["a", "b", "files"] {
        std::fs::create_dir(site.mnt.join(dir)).unwrap();
    }
    let files: Vec<String> = (0..60).map(|number| format!("{number}")).collect();
    for (seed, name) in files.iter().enumerate() {
        let bytes = pattern::bytes(seed as u64, 20_000);
        std::fs::write(site.mnt.join("files").join(name), bytes).unwrap();
    }
    let wandering = archive(&mount, &site, "a/wanders");
    mount.all("release", &site.mnt.join("a/wanders"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Whoever fails here stops the other, too.
        let _stops = Stops(&stop);
        scope.spawn(|| {
            let mut there = false;
            while !stop.load(Ordering::Relaxed) {
                let (from, to) = if there { ("b", "a") } else { ("a", "b") };
                let [from, to] = [from, to].map(|dir| site.mnt.join(dir).join("wanders"));
                std::fs::rename(from, to).unwrap();
                let (from, to) = if there { ("files2", "files") } else { ("files", "files2") };
                std::fs::rename(site.mnt.join(from), site.mnt.join(to)).unwrap();
                there = !there;
                std::thread::sleep(Duration::from_millis(2));
            }
            if there {
                std::fs::rename(site.mnt.join("files2"), site.mnt.join("files")).unwrap();
            }
        });
        for _ in 0..3 {
            mount.all("migrate", &site.mnt);
            let said = gc(&mount, &site);
            said.is_complete();
            assert_eq!(said.verdict(&wandering), "live", "{}", said.text);
            // Nothing was overwritten: each file's copy is the first that was made of it.
            assert!(said.verdicts.values().all(|(verdict, _)| verdict == "live"), "{}", said.text);
            let beside = scope.spawn(|| gc(&mount, &site));
            mount.all("recall", &site.mnt);
            beside.join().unwrap().is_complete();
        }
    });
    for (seed, name) in files.iter().enumerate() {
        let read = std::fs::read(site.mnt.join("files").join(name)).unwrap();
        assert!(read == pattern::bytes(seed as u64, 20_000), "{name}");
    }
    mount.detach();
}
