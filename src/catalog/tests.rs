//! The catalog beside what a fresh walk says.

mod damage;
mod keeping;
mod million;
mod offers;
mod property;

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::eyes::Eyes;
use super::keep::Work;
use super::part::Part;
use super::seen::Seen;
use super::totals::Totals;
use super::{Catalog, CatalogError};
use crate::file_id::{EntryRef, Ino, SegmentId, TimeNs};
use crate::inode::Inodes;
use crate::record::Record;
use crate::store::memory::MemoryStore;
use crate::tenant::{Home, Pin, Places, Tenant};
use crate::tier::State;
use crate::walk::{find, walk};

const MACHINE: &str = "this machine";
/// Of the copies taken of a catalog while it is written.
const COPIES_TRIED: usize = 24;

/// What is known of all files, by path.
type Facts = BTreeMap<Vec<u8>, (Seen, Option<Pin>)>;

/// A tenant's directory, and a place for its catalog.
struct World {
    tenant: Arc<Tenant>,
    inodes: Arc<Inodes>,
    by_handle: bool,
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        Self::finding(true)
    }

    /// `by_handle`: as the super-user's daemon finds files, or as a user's.
    fn finding(by_handle: bool) -> Self {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        let dir = tempfile::tempdir_in(target).unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let home = Home::open(&data, None, "t").unwrap();
        let tenant = Arc::new(Tenant::new(home, Arc::new(MemoryStore::new())).unwrap());
        let inodes = Arc::new(Inodes::new(tenant.clone_root().unwrap(), by_handle));
        tenant.noticed.listen(true);
        Self { tenant, inodes, by_handle, dir }
    }

    fn data(&self, path: &str) -> PathBuf {
        self.dir.path().join("data").join(path)
    }

    fn catalog(&self) -> PathBuf {
        self.dir.path().join("state/catalog.redb")
    }

    /// Opens the catalog as an attach does.
    fn attach(&self) -> Result<(Part, Work), CatalogError> {
        self.attach_on(MACHINE)
    }

    fn attach_on(&self, machine: &str) -> Result<(Part, Work), CatalogError> {
        let catalog = Arc::new(Catalog::open(&self.catalog(), machine)?);
        let root = Eyes::root_of(&self.tenant)?;
        let eyes = Eyes {
            tenant: Arc::clone(&self.tenant),
            inodes: Arc::clone(&self.inodes),
            root: root.ino,
            by_handle: self.by_handle,
        };
        let (part, goes_on) = Part::attach(catalog, self.tenant.seal.tenant(), &root)?;
        Ok((part.clone(), Work::new(part, eyes, goes_on)))
    }

    /// What a walk of the directory says.
    fn walked(&self) -> Facts {
        let mut facts = Facts::new();
        let start = find(&self.tenant, b"").unwrap();
        let mut visit = |found: crate::walk::Found| {
            let seen = Seen::of(&self.tenant, &found.fd, &found.stat).unwrap();
            facts.insert(found.path, (seen, found.pin));
            ControlFlow::Continue(())
        };
        let mut fail = |path: &[u8], error| panic!("{path:?}: {error}");
        let _all = walk(&self.tenant, start, &mut visit, &mut fail);
        facts
    }

    /// Writes a record on a file, as a migration does.
    fn record(&self, path: &Path, state: State, segment: u8) {
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        let size_bytes = match state {
            State::Released | State::Recalling | State::Lost => {
                file.set_len(crate::stub::STUB_LENGTH).unwrap();
                1_000
            }
            State::Archived | State::Suspect | State::Releasing => file.metadata().unwrap().len(),
        };
        let stat = nix::sys::stat::fstat(&file).unwrap();
        let handle = crate::sys::handle::of(&file, c"").unwrap();
        let inode = self.inodes.enter(file.try_clone().unwrap().into(), handle, &stat);
        let record = Record {
            state,
            at: EntryRef { segment: SegmentId([segment; 16]), entry: 1 },
            size_bytes,
            mtime: TimeNs::mtime_of(&stat).unwrap(),
            ctime_shown: TimeNs(2),
            blocks_512: 8,
        };
        self.tenant.set_record(&file, &inode, &record).unwrap();
        self.inodes.let_go(inode);
    }

    /// A tree with something of every kind.
    fn plant(&self) {
        for dir in ["a", "a/b", "a/b/c", "empty"] {
            std::fs::create_dir(self.data(dir)).unwrap();
        }
        for number in 0..40 {
            let dir = ["", "a", "a/b", "a/b/c"][number % 4];
            std::fs::write(self.data(dir).join(format!("f{number}")), vec![1; number * 500])
                .unwrap();
        }
        std::fs::hard_link(self.data("a/f1"), self.data("a/b/linked")).unwrap();
        std::os::unix::fs::symlink("a", self.data("points")).unwrap();
        nix::unistd::mkfifo(&self.data("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        self.record(&self.data("a/f5"), State::Archived, 3);
        self.record(&self.data("a/b/f2"), State::Released, 3);
        let dir = std::fs::File::open(self.data("a/b")).unwrap();
        self.tenant.set_pin(&dir, Some(Pin::NeverRelease)).unwrap();
        drop(self.tenant.noticed.take());
    }

    /// Whether the catalog says what a walk says, sums included.
    fn agrees(&self, part: &Part) {
        let (known, walked) = (known(part), self.walked());
        for (path, facts) in &walked {
            let path = String::from_utf8_lossy(path).into_owned();
            assert_eq!(known.get(path.as_bytes()), Some(facts), "{path:?}");
        }
        for path in known.keys() {
            assert!(walked.contains_key(path), "{:?} is gone", String::from_utf8_lossy(path));
        }
        let mut totals = Totals::default();
        let mut counted = HashSet::new();
        for (seen, _) in walked.values() {
            if counted.insert(seen.ino) {
                totals.add(seen);
            }
        }
        assert_eq!(part.totals().unwrap(), totals);
        part.is_consistent();
    }
}

/// What the catalog says of all files.
fn known(part: &Part) -> Facts {
    let mut facts = Facts::new();
    let root = part.root();
    let pin = part.read().unwrap().row(root).unwrap().unwrap().seen.pin;
    let mut visit = |met: super::Met<'_>| {
        facts.insert(met.path.to_vec(), (met.seen.clone(), met.pin));
        ControlFlow::Continue(())
    };
    assert!(part.visit(b"", root, pin, &mut visit).unwrap());
    facts
}

/// Walks to the end.
fn finish(work: &mut Work) {
    while !work.walked || work.step(7).unwrap() > 0 {
        work.step(7).unwrap();
    }
}

#[test]
fn a_walk_fills_the_catalog() {
    let world = World::new();
    world.plant();
    let (part, mut work) = world.attach().unwrap();
    finish(&mut work);
    world.agrees(&part);
    let totals = part.totals().unwrap();
    assert_eq!((totals.archived, totals.released, totals.resident), (1, 1, 38));
}

#[test]
fn a_walk_that_was_cut_off_goes_on_and_sees_what_changed_meanwhile() {
    for steps in [1, 5, 9, 20] {
        let world = World::new();
        world.plant();
        let (part, mut work) = world.attach().unwrap();
        for _ in 0..steps {
            work.step(3).unwrap();
        }
        drop((part, work));
        std::fs::remove_dir_all(world.data("a/b/c")).unwrap();
        std::fs::write(world.data("a/new"), b"x").unwrap();
        std::fs::rename(world.data("a/b"), world.data("moved")).unwrap();
        let (part, mut work) = world.attach().unwrap();
        finish(&mut work);
        world.agrees(&part);
    }
}

/// As a power cut leaves it: some of a batch's pages are on the disk, others are not.
#[test]
fn a_catalog_cut_off_in_the_middle_of_a_batch_becomes_what_a_walk_says() {
    let world = World::new();
    world.plant();
    for number in 0..2_000 {
        std::fs::write(world.data(&format!("a/{number}")), b"x").unwrap();
    }
    let (_part, mut work) = world.attach().unwrap();
    let copies = world.dir.path().join("copies");
    std::fs::create_dir(&copies).unwrap();
    let written = std::thread::scope(|scope| {
        let path = world.catalog();
        let copies = &copies;
        let copier = scope.spawn(move || {
            for number in 0.. {
                std::fs::copy(&path, copies.join(number.to_string())).unwrap();
                if copies.join("stop").exists() {
                    return number + 1;
                }
            }
            0
        });
        while !work.walked {
            work.step(40).unwrap();
        }
        std::fs::write(copies.join("stop"), b"").unwrap();
        copier.join().unwrap()
    });
    drop((_part, work));
    assert!(written > 3, "{written} copies in the time of the walk: no test");
    let (mut cut_off, mut made_anew) = (0, 0);
    for number in (0..written).step_by(written / COPIES_TRIED + 1) {
        std::fs::rename(copies.join(number.to_string()), world.catalog()).unwrap();
        let (part, mut work) = world.attach().unwrap();
        match part.totals().map(|totals| totals.resident) {
            Ok(0) | Err(_) => made_anew += 1,
            Ok(_) => cut_off += 1,
        }
        finish(&mut work);
        world.agrees(&part);
    }
    crate::telling::say(&format!("{cut_off} older states, {made_anew} made anew"));
    assert!(cut_off > 0);
}

#[test]
fn what_was_edited_while_nobody_served_is_seen_at_the_next_attach() {
    let world = World::new();
    world.plant();
    let (part, mut work) = world.attach().unwrap();
    finish(&mut work);
    drop((part, work));
    // A directory and one in it change places.
    std::fs::rename(world.data("a/b"), world.data("b")).unwrap();
    std::fs::rename(world.data("a"), world.data("b/a")).unwrap();
    std::fs::write(world.data("b/a/f1"), b"shorter").unwrap();
    std::fs::remove_file(world.data("f0")).unwrap();
    std::fs::create_dir(world.data("f0")).unwrap();
    let (part, mut work) = world.attach().unwrap();
    finish(&mut work);
    world.agrees(&part);
}

#[test]
fn more_than_can_be_remembered_is_walked_anew() {
    let world = World::new();
    world.plant();
    let (part, mut work) = world.attach().unwrap();
    finish(&mut work);
    std::fs::write(world.data("a/unnoticed"), b"x").unwrap();
    for ino in 0..=crate::tenant::NOTICED as u64 {
        world.tenant.noticed.file(crate::file_id::Ino(ino));
    }
    work.look(world.tenant.noticed.take()).unwrap();
    assert!(!work.walked);
    finish(&mut work);
    world.agrees(&part);
}

#[test]
fn a_directory_that_goes_and_comes_back_while_it_is_listed_is_listed_anew() {
    let world = World::new();
    for dir in ["a", "b", "a/c"] {
        std::fs::create_dir(world.data(dir)).unwrap();
    }
    for number in 0..20 {
        std::fs::write(world.data("a/c").join(number.to_string()), b"x").unwrap();
    }
    let number = |path: &str| Ino(std::fs::metadata(world.data(path)).unwrap().ino());
    let (a, b, c) = (number("a"), number("b"), number("a/c"));
    let (part, mut work) = world.attach().unwrap();
    while part.read().unwrap().names(c).unwrap().len() < 5 {
        work.step(1).unwrap();
    }
    let told = |dir: Ino, name: &[u8]| {
        let mut places = Places::default();
        places.add_name(dir, name);
        places
    };
    std::fs::rename(world.data("a/c"), world.data("b/c")).unwrap();
    work.look(told(a, b"c")).unwrap();
    std::fs::write(world.data("b/c/0new"), b"x").unwrap();
    work.look(told(c, b"0new")).unwrap();
    work.look(told(b, b"c")).unwrap();
    while !work.walked {
        work.step(1).unwrap();
    }
    finish(&mut work);
    world.agrees(&part);
}
