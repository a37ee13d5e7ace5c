//! A read of a directory beside what is known to name segments there.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::stat::fstat;
use tempfile::TempDir;

use super::read::{Reading, Told, read};
use super::tally::Tally;
use crate::file_id::{EntryRef, Extent, SegmentId, TimeNs};
use crate::inode::{Inode, Inodes, Serving};
use crate::intents::{Intent, Subject};
use crate::record::Record;
use crate::segment::ContentHash;
use crate::store::memory::MemoryStore;
use crate::stub::{STUB_LENGTH, Stub};
use crate::sys;
use crate::sys::lease::{Lease, LeaseKind};
use crate::tenant::{Home, Tenant};
use crate::tier::State;

/// Segments that a test may name.
const SEGMENTS: u8 = 20;
const BYTES: u64 = 20_000;

struct World {
    tenant: Arc<Tenant>,
    inodes: Arc<Inodes>,
    dir: TempDir,
}

fn at(segment: u8) -> EntryRef {
    EntryRef { segment: SegmentId([segment; 16]), entry: u32::from(segment) }
}

/// A file's bytes, all alike.
fn body(byte: u8) -> Vec<u8> {
    vec![byte; usize::try_from(BYTES).unwrap()]
}

impl World {
    fn new() -> Self {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        let dir = tempfile::tempdir_in(target).unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        let home = Home::open(&dir.path().join("data"), None, "t").unwrap();
        let tenant = Arc::new(Tenant::new(home, Arc::new(MemoryStore::new())).unwrap());
        tenant.note_place().unwrap();
        let inodes = Arc::new(Inodes::new(tenant.clone_root().unwrap(), true));
        Self { tenant, inodes, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("data").join(name)
    }

    fn dir(&self, name: &str) {
        std::fs::create_dir_all(self.path(name)).unwrap();
    }

    /// What the stub of an entry looks like.
    fn stub(&self, segment: u8) -> Vec<u8> {
        let stub = Stub {
            store: "memory:".to_owned(),
            tenant_name: "t".to_owned(),
            tenant: self.tenant.seal.tenant(),
            at: at(segment),
            size_bytes: BYTES,
            content: ContentHash([0; 32]),
            data_offset: 64,
            chunk_bytes: 1 << 20,
            extents: vec![Extent { offset: 0, length: BYTES }],
        };
        stub.encode(&self.tenant.seal).unwrap().to_vec()
    }

    fn enter(&self, path: &Path) -> (File, Arc<Inode>) {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let (handle, stat) = (sys::handle::of(&file, c"").unwrap(), fstat(&file).unwrap());
        let inode = self.inodes.enter(file.try_clone().unwrap().into(), handle, &stat);
        (file, inode)
    }

    /// Makes a file with this body and a record of this state.
    fn recorded(&self, name: &str, body: &[u8], state: State, segment: u8) {
        let path = self.path(name);
        std::fs::write(&path, body).unwrap();
        let (file, inode) = self.enter(&path);
        let record = Record {
            state,
            at: at(segment),
            size_bytes: BYTES,
            mtime: TimeNs::mtime_of(&fstat(&file).unwrap()).unwrap(),
            ctime_shown: TimeNs(1),
            blocks_512: 40,
        };
        self.tenant.set_record(&file, &inode, &record).unwrap();
        self.inodes.let_go(inode);
    }

    fn archived(&self, name: &str, segment: u8) {
        self.recorded(name, &body(1), State::Archived, segment);
    }

    fn released(&self, name: &str, segment: u8) {
        self.recorded(name, &self.stub(segment), State::Released, segment);
    }

    /// Reads, with somebody who does something meanwhile.
    fn read_while(
        &self,
        go_on: &mut dyn FnMut(Told) -> ControlFlow<()>,
    ) -> ControlFlow<(), (Reading, Vec<u8>)> {
        let mut tally = Tally::of((0..SEGMENTS).map(|segment| at(segment).segment));
        let reading = read(&self.tenant, &self.inodes, &mut tally, go_on)?;
        let named = |segment: &u8| {
            let refs = tally.refs(at(*segment).segment);
            refs.is_named() && refs.has(u32::from(*segment), 4_096)
        };
        ControlFlow::Continue((reading, (0..SEGMENTS).filter(named).collect()))
    }

    /// Reads; the segments that are named.
    fn read(&self) -> (Reading, Vec<u8>) {
        match self.read_while(&mut |_| ControlFlow::Continue(())) {
            ControlFlow::Continue(read) => read,
            ControlFlow::Break(()) => panic!("nobody stopped it"),
        }
    }

    /// The paths and causes of the doubts.
    fn doubts(&self) -> Vec<String> {
        let (reading, _) = self.read();
        let named = reading.doubts.named.iter();
        named.map(|it| format!("{}: {}", String::from_utf8_lossy(&it.path), it.cause)).collect()
    }
}

fn is_complete(reading: &Reading) {
    assert!(reading.doubts.is_empty(), "{:?}", reading.doubts);
}

#[test]
fn records_and_stubs_are_met_wherever_they_stand() {
    let world = World::new();
    world.dir("a/b/c");
    world.dir("empty");
    world.archived("archived", 1);
    world.released("a/released", 2);
    std::fs::write(world.path("a/b/orphan"), world.stub(3)).unwrap();
    // A stub of another file's over a record, with the very times of the record.
    world.recorded("a/b/c/over", &world.stub(5), State::Released, 4);
    world.recorded("in flight", &body(0), State::Recalling, 6);
    world.recorded("lost", &world.stub(7), State::Lost, 7);
    std::fs::hard_link(world.path("archived"), world.path("a/linked")).unwrap();
    std::os::unix::fs::symlink("a/released", world.path("link")).unwrap();
    // A record that was copied to another file.
    world.archived("copied from", 8);
    let copy = world.path("a/copied to");
    std::fs::write(&copy, body(1)).unwrap();
    let (from, to) = (File::open(world.path("copied from")).unwrap(), File::open(&copy).unwrap());
    let name = if world.tenant.is_rootless() { c"user.coldfs" } else { c"trusted.coldfs" };
    sys::xattr::set(&to, name, &sys::xattr::value(&from, name).unwrap().unwrap(), 0).unwrap();
    std::fs::remove_file(world.path("copied from")).unwrap();
    std::fs::write(world.path("plain"), vec![b'x'; 4_096]).unwrap();
    // Of a mount with other rights.
    world.archived("other rights", 9);
    let file = File::open(world.path("other rights")).unwrap();
    let other = if world.tenant.is_rootless() { c"trusted.coldfs" } else { c"user.coldfs" };
    sys::xattr::set(&file, other, &sys::xattr::value(&file, name).unwrap().unwrap(), 0).unwrap();
    sys::xattr::remove(&file, name).unwrap();
    let (reading, named) = world.read();
    is_complete(&reading);
    assert_eq!(named, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert!(world.inodes.is_empty(), "what was entered is forgotten");
}

#[test]
fn what_nobody_can_decode_is_a_doubt_by_name() {
    let world = World::new();
    world.archived("fine", 1);
    assert_eq!(world.doubts(), [""; 0]);
    world.dir("d");
    let mut damaged = world.stub(2);
    damaged[300] ^= 1;
    std::fs::write(world.path("d/damaged"), &damaged).unwrap();
    let mut newer = world.stub(3);
    newer[25] = b'2';
    std::fs::write(world.path("newer"), &newer).unwrap();
    let mut torn = vec![b'x'; 4_096];
    torn[512..1_024].copy_from_slice(&world.stub(4)[512..1_024]);
    std::fs::write(world.path("torn"), &torn).unwrap();
    world.archived("of a newer coldfs", 5);
    let (file, inode) = world.enter(&world.path("of a newer coldfs"));
    let name = if world.tenant.is_rootless() { c"user.coldfs" } else { c"trusted.coldfs" };
    sys::xattr::set(&file, name, &[2; 64], 0).unwrap();
    drop((file, inode));
    let mut doubts = world.doubts();
    doubts.sort();
    assert_eq!(
        doubts,
        [
            "d/damaged: a damaged stub, or part of one",
            "newer: a stub of version 2, of a newer coldfs",
            "of a newer coldfs: a record of version 2, of a newer coldfs",
            "torn: a damaged stub, or part of one",
        ]
    );
    assert_eq!(world.read().1, [1], "what could be read was read all the same");
}

#[test]
fn a_damaged_stub_whose_record_is_there_names_both_and_is_no_doubt() {
    let world = World::new();
    let mut damaged = world.stub(2);
    damaged[3_000] = b'?';
    world.recorded("damaged", &damaged, State::Released, 1);
    let (reading, named) = world.read();
    is_complete(&reading);
    assert_eq!(named, [1, 2]);
}

/// A tree of which the last directory is read last, and what it names.
fn two_directories(world: &World) -> [PathBuf; 2] {
    for name in ["one", "two"] {
        world.dir(name);
        world.archived(&format!("{name}/{name}"), 1);
    }
    world.archived("one/moves", 2);
    world.archived("two/moves too", 3);
    std::thread::sleep(Duration::from_millis(60));
    [world.path("one"), world.path("two")]
}

#[test]
fn what_moves_behind_the_mount_while_it_is_read_is_met() {
    // At whatever moment of the read, in whichever direction.
    for moment in 0..12 {
        let world = World::new();
        let [one, two] = two_directories(&world);
        let mut calls = 0;
        let mut go_on = |_| {
            calls += 1;
            if calls == moment {
                std::fs::rename(one.join("moves"), two.join("moved")).unwrap();
                std::fs::rename(two.join("moves too"), one.join("moved too")).unwrap();
            }
            ControlFlow::Continue(())
        };
        let ControlFlow::Continue((reading, named)) = world.read_while(&mut go_on) else {
            panic!("nobody stopped it")
        };
        is_complete(&reading);
        assert_eq!(named, [1, 2, 3], "moved at {moment}");
    }
}

#[test]
fn directories_that_move_while_others_are_read_are_met_with_all_below_them() {
    for moment in 0..16 {
        let world = World::new();
        for name in ["one/below", "two/below too"] {
            world.dir(name);
        }
        world.archived("one/below/a", 1);
        world.archived("two/below too/b", 2);
        std::thread::sleep(Duration::from_millis(60));
        let (one, two) = (world.path("one"), world.path("two"));
        let mut calls = 0;
        let mut go_on = |_| {
            calls += 1;
            if calls == moment {
                std::fs::rename(one.join("below"), two.join("moved")).unwrap();
                std::fs::rename(two.join("below too"), one.join("moved too")).unwrap();
            }
            ControlFlow::Continue(())
        };
        let ControlFlow::Continue((reading, named)) = world.read_while(&mut go_on) else {
            panic!("nobody stopped it")
        };
        is_complete(&reading);
        assert_eq!(named, [1, 2], "moved at {moment}");
    }
}

#[test]
fn what_moves_through_the_mount_all_the_time_is_met_and_the_read_ends() {
    let world = World::new();
    let [one, two] = two_directories(&world);
    let ino = |path: &Path| {
        use std::os::unix::fs::MetadataExt;
        crate::file_id::Ino(std::fs::metadata(path).unwrap().ino())
    };
    let (dirs, mut there) = ([ino(&one), ino(&two)], false);
    let (tenant, inodes) = (Arc::clone(&world.tenant), Arc::clone(&world.inodes));
    // As ops::names does it, at every file.
    let mut go_on = |_| {
        let (from, to) = (one.join("moves"), two.join("moved"));
        let (from, to) = if there { (to, from) } else { (from, to) };
        there = !there;
        let moving = tenant.moved.begin().unwrap();
        std::fs::rename(from, &to).unwrap();
        let file = File::open(&to).unwrap();
        let (handle, stat) = (sys::handle::of(&file, c"").unwrap(), fstat(&file).unwrap());
        moving.note(inodes.enter(file.into(), handle, &stat));
        drop(moving);
        tenant.noticed.names((dirs[0], b"moves"), (dirs[1], b"moved"));
        ControlFlow::Continue(())
    };
    let ControlFlow::Continue((reading, named)) = world.read_while(&mut go_on) else {
        panic!("nobody stopped it")
    };
    is_complete(&reading);
    assert_eq!(named, [1, 2, 3]);
    assert!(reading.passes < 5, "{reading:?}");
    assert!(world.inodes.is_empty());
}

#[test]
fn directories_that_are_renamed_through_the_mount_all_the_time_do_not_hold_a_read_up() {
    let world = World::new();
    world.dir("one/below/deep");
    world.dir("two");
    world.archived("one/below/deep/a", 1);
    std::thread::sleep(Duration::from_millis(60));
    let (tenant, inodes) = (Arc::clone(&world.tenant), Arc::clone(&world.inodes));
    let (one, two, mut there) = (world.path("one/below"), world.path("two/below"), false);
    let mut go_on = |_| {
        let (from, to) = if there { (&two, &one) } else { (&one, &two) };
        there = !there;
        let moving = tenant.moved.begin().unwrap();
        std::fs::rename(from, to).unwrap();
        let dir = File::open(to).unwrap();
        let (handle, stat) = (sys::handle::of(&dir, c"").unwrap(), fstat(&dir).unwrap());
        moving.note(inodes.enter(dir.into(), handle, &stat));
        drop(moving);
        for parent in [from, to].map(|path| path.parent().unwrap()) {
            let stat = nix::sys::stat::stat(parent).unwrap();
            tenant.noticed.name(crate::file_id::Ino(stat.st_ino), b"below");
        }
        ControlFlow::Continue(())
    };
    let ControlFlow::Continue((reading, named)) = world.read_while(&mut go_on) else {
        panic!("nobody stopped it")
    };
    is_complete(&reading);
    assert_eq!(named, [1]);
    assert!(reading.passes < 5, "{reading:?}");
    assert!(world.inodes.is_empty());
}

#[test]
fn a_directory_that_never_comes_to_rest_behind_the_mount_is_a_doubt() {
    let world = World::new();
    let [one, _] = two_directories(&world);
    let mut number = 0;
    let mut go_on = |_| {
        number += 1;
        std::fs::rename(one.join("moves"), one.join("moved")).unwrap();
        std::fs::rename(one.join("moved"), one.join("moves")).unwrap();
        ControlFlow::Continue(())
    };
    let ControlFlow::Continue((reading, _)) = world.read_while(&mut go_on) else {
        panic!("nobody stopped it")
    };
    assert_eq!(reading.doubts.named[0].path, b"one");
    assert_eq!(reading.doubts.total, 1);
}

#[test]
fn a_file_without_a_name_that_somebody_has_open_is_met() {
    let world = World::new();
    world.archived("open", 1);
    world.archived("closed", 2);
    let opened = ["open", "closed"].map(|name| world.enter(&world.path(name)));
    let (file, inode) = &opened[0];
    let mut held = inode.try_tier().unwrap();
    let serving = Serving::Local { file: Arc::new(file.try_clone().unwrap()) };
    inode.serve(&mut held, serving);
    drop(held);
    for name in ["open", "closed"] {
        std::fs::remove_file(world.path(name)).unwrap();
    }
    let (reading, named) = world.read();
    is_complete(&reading);
    assert_eq!(named, [1]);
}

#[test]
fn a_file_of_the_work_list_is_met_wherever_it_is() {
    let world = World::new();
    world.archived("away", 1);
    let handle = sys::handle::of(File::open(world.path("away")).unwrap(), c"").unwrap();
    std::fs::rename(world.path("away"), world.dir.path().join("away")).unwrap();
    assert_eq!(world.read().1, [0; 0]);
    let intent = Intent::Release(Subject { handle, path: b"away".to_vec() });
    let ticket = world.tenant.work.begin(&[intent]).unwrap();
    let (reading, named) = world.read();
    is_complete(&reading);
    assert_eq!(named, [1]);
    drop(ticket);
    assert_eq!(world.read().1, [0; 0]);
}

#[test]
fn what_is_being_filled_keeps_its_lease() {
    let world = World::new();
    world.recorded("filling", &body(0), State::Recalling, 1);
    let path = world.path("filling");
    let (file, inode) = world.enter(&path);
    file.write_all_at(b"a chunk", 8_192).unwrap();
    drop(file);
    let file = Arc::new(world.inodes.open(&inode, libc::O_RDWR).unwrap());
    let lease = Lease::take(file, LeaseKind::Write).unwrap();
    inode.try_tier().unwrap().filling = true;
    let (reading, named) = world.read();
    assert!(lease.is_unbroken(), "a look took it away");
    is_complete(&reading);
    assert_eq!(named, [1]);
}

#[test]
fn a_file_that_is_in_use_for_a_moment_is_looked_at_again() {
    let world = World::new();
    std::fs::write(world.path("busy"), world.stub(1)).unwrap();
    let (_, inode) = world.enter(&world.path("busy"));
    let held = inode.try_tier().unwrap();
    let mut held = Some(held);
    let mut calls = 0;
    // It is asked once a look at what is busy, too.
    let mut go_on = |_| {
        calls += 1;
        if calls == 20 {
            held = None;
        }
        ControlFlow::Continue(())
    };
    let ControlFlow::Continue((reading, named)) = world.read_while(&mut go_on) else {
        panic!("nobody stopped it")
    };
    is_complete(&reading);
    assert_eq!(named, [1]);
    drop(inode);
}

#[test]
fn a_read_stops_where_it_is_told_to_and_leaves_nothing_behind() {
    let world = World::new();
    world.dir("a/b");
    for number in 0..10 {
        std::fs::write(world.path(&format!("a/b/{number}")), world.stub(number)).unwrap();
    }
    for last in 0..30 {
        let mut calls = 0;
        let stopped = world.read_while(&mut |_| {
            calls += 1;
            if calls > last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(stopped.is_break() || calls <= last);
        assert!(world.inodes.is_empty(), "after {last}");
        assert!(world.tenant.moved.begin().is_none(), "nobody reads any more");
    }
    assert_eq!(std::fs::metadata(world.path("a/b/1")).unwrap().len(), STUB_LENGTH);
}
