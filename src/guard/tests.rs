//! The guard as a whole, on a tenant of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::store::memory::MemoryStore;
use crate::tenant::Home;

/// A tenant's directory, and a guard of it by these limits.
struct World {
    guard: Arc<Guard>,
    dir: TempDir,
}

impl World {
    fn new(files: u64) -> Self {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        let dir = tempfile::tempdir_in(target).unwrap();
        Self { guard: guard(dir.path(), files), dir }
    }

    /// The same directory, served anew.
    fn again(self, files: u64) -> Self {
        let Self { guard: old, dir } = self;
        drop(old);
        Self { guard: guard(dir.path(), files), dir }
    }

    fn open(&self, name: &str, why: Why) -> Result<(), Denied> {
        self.visit(name, why, 1).admit_at_once().expect("nobody waits")
    }

    fn visit(&self, name: &str, why: Why, ino: u64) -> Arc<Visit> {
        let reader = Reader { process: 7, name: name.to_owned(), ..Reader::default() };
        self.guard.visit(reader, ask(why, ino))
    }

    fn note(&self) -> std::path::PathBuf {
        self.dir.path().join(".coldfs/brake")
    }
}

fn guard(dir: &Path, files: u64) -> Arc<Guard> {
    let home = Home::open(dir, None, "t").unwrap();
    let tenant = Arc::new(Tenant::new(home, Arc::new(MemoryStore::new())).unwrap());
    let brake = BrakeLimits { files, ..BrakeLimits::default() };
    let rules = Rules { brake, ..Rules::default() };
    Arc::new(Guard::new(tenant, rules, Duration::from_secs(1)))
}

fn ask(why: Why, ino: u64) -> Ask {
    Ask {
        ino: Ino(ino),
        path: "/t/a".into(),
        size_bytes: 10,
        remote_bytes: 10,
        segment: SegmentId([1; 16]),
        bytes: 10,
        why,
    }
}

#[test]
fn who_leaves_files_where_they_are_neither_puts_the_brake_on_nor_meets_it() {
    let world = World::new(3);
    for _ in 0..10 {
        assert_eq!(world.open("clamscan", Why::Read), Ok(()));
    }
    assert_eq!(world.guard.alarm(), None);
    let piecewise = world.visit("borg", Why::Read, 2);
    assert_eq!(piecewise.admit_at_once(), Some(Ok(())));
    for _ in 0..4 {
        assert_eq!(world.open("cat", Why::Read), Ok(()), "a person, after the scanner");
    }
    assert_eq!(world.guard.alarm().map(|alarm| alarm.files), Some(4));
    assert_eq!(world.open("cat", Why::Read), Err(Denied::Brake));
    assert_eq!(world.open("clamscan", Why::Read), Ok(()), "nothing comes home by it");
    assert_eq!(world.open("clamscan", Why::Write), Err(Denied::Brake), "all of it would");
}

#[test]
fn the_brake_outlives_the_daemon_and_is_let_go_by_a_person_only() {
    let world = World::new(1);
    for _ in 0..2 {
        assert_eq!(world.open("cat", Why::Read), Ok(()));
    }
    let alarm = world.guard.alarm();
    let world = world.again(1);
    assert_eq!(world.guard.alarm(), alarm);
    assert_eq!(world.open("cat", Why::Read), Err(Denied::Brake));
    assert!(world.guard.let_go() && !world.note().exists());
    let world = world.again(1);
    assert_eq!(world.open("cat", Why::Read), Ok(()));
}

#[test]
fn a_note_of_the_brake_that_cannot_be_read_is_a_brake_that_is_on_and_says_so() {
    for text in [&b""[..], b"{\"files\":", b"\xff\xff", b"{}"] {
        let world = World::new(1);
        std::fs::write(world.note(), text).unwrap();
        let world = world.again(1);
        assert_eq!(world.open("cat", Why::Read), Err(Denied::Brake), "{text:?}");
        assert!(world.guard.alarm().unwrap().unreadable.is_some());
        assert!(world.guard.let_go());
        let world = world.again(1);
        assert_eq!(world.open("cat", Why::Read), Ok(()));
    }
    let world = World::new(1);
    std::fs::create_dir(world.note()).unwrap();
    assert_eq!(world.again(1).open("cat", Why::Read), Err(Denied::Brake), "no file at all");
}
