//! A move that somebody gets in the way of: what it leaves can be moved again.

use std::fs::File;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coldfs::file_id::TimeNs;
use coldfs::fsck::{self, Trouble};
use coldfs::inode::Inode;
use coldfs::migrate::{Outcome, Skip};
use coldfs::ops::{SetAttr, SetTime};
use coldfs::record::Record;
use coldfs::store::faulty::{Fault, Rule};
use coldfs::tenant::{Pin, Tenant};
use coldfs::tier::State;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use tokio_util::sync::CancellationToken;

use super::world::{World, content, run, until};

/// How often a race is tried until it is met.
const TRIES: u32 = 200;

async fn archived(files: &[&str]) -> World {
    let world = World::new(files).await;
    let outcomes = world.life().archive(files, &CancellationToken::new()).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done(_))), "{outcomes:?}");
    world
}

async fn release(world: &World, file: &str) -> Outcome {
    world.life().release(&[file], &CancellationToken::new()).await.pop().unwrap()
}

fn record(world: &World, file: &str) -> Option<Record> {
    let inode = world.life().candidate(file).inode;
    world.life().tenant.record(File::open(world.path(file)).unwrap(), &inode).unwrap()
}

/// Whether a release of the file needs no hash.
fn is_known(world: &World, file: &str) -> bool {
    let stat = std::fs::metadata(world.path(file)).unwrap();
    let ctime = TimeNs::from_parts(stat.st_ctime(), stat.st_ctime_nsec()).unwrap();
    let inode = world.life().candidate(file).inode;
    world.life().tenant.known.is(inode.ino, &inode.handle, ctime)
}

#[test]
fn a_file_whose_archive_was_given_up_while_somebody_looked_at_it_is_archived_later() {
    run(async {
        let world = World::new(&["a"]).await;
        let inode = world.life().candidate("a").inode;
        world.store.script(Rule::any(Fault::Hang));
        let cancel = CancellationToken::new();
        let names = ["a"];
        let archive = world.life().archive(&names, &cancel);
        let looking = async {
            until("the archive has its lease", || {
                inode.try_tier().is_some_and(|held| held.archiving.is_some())
            })
            .await;
            let held = inode.tier().await;
            cancel.cancel();
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(held);
        };
        let (outcomes, ()) = futures::join!(archive, looking);
        assert!(matches!(outcomes[..], [Outcome::Skipped(Skip::Cancelled)]), "{outcomes:?}");
        world.store.heal();
        let again = world.life().archive(&["a"], &CancellationToken::new()).await;
        assert!(matches!(again[..], [Outcome::Done(_)]), "{again:?}");
    });
}

#[test]
fn what_was_proven_by_a_hash_is_remembered_where_the_release_is_put_off() {
    run(async {
        let mut world = archived(&["a"]).await;
        world.restart().await;
        assert!(!is_known(&world, "a"), "a new daemon knows nothing");
        let opener = File::open(world.path("a")).unwrap();
        let outcome = release(&world, "a").await;
        assert!(matches!(outcome, Outcome::Skipped(Skip::Open)), "{outcome:?}");
        assert!(is_known(&world, "a"), "the next try would hash it again");
        drop(opener);
        let outcome = release(&world, "a").await;
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
        assert_eq!(world.life().read_all("a").await.unwrap(), content("a"));
    });
}

#[test]
fn bytes_that_were_changed_behind_the_mount_with_their_times_are_not_released() {
    run(async {
        let mut world = archived(&["a"]).await;
        world.stop().await;
        let modified = std::fs::metadata(world.path("a")).unwrap().modified().unwrap();
        let mut changed = content("a");
        changed[5_000] ^= 1;
        let file = File::options().write(true).open(world.path("a")).unwrap();
        file.write_all_at(&changed, 0).unwrap();
        file.set_modified(modified).unwrap();
        drop(file);
        world.start().await;
        let outcome = release(&world, "a").await;
        assert!(matches!(outcome, Outcome::Skipped(Skip::Changed)), "{outcome:?}");
        assert_eq!(record(&world, "a"), None, "the record is of other bytes");
        assert_eq!(world.life().read_all("a").await.unwrap(), changed);
    });
}

#[test]
fn a_mark_that_a_release_left_behind_is_taken_off() {
    run(async {
        let world = archived(&["a", "b"]).await;
        world.life().set_state("a", State::Releasing);
        let outcome = release(&world, "a").await;
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");

        world.life().set_state("b", State::Releasing);
        let found = world.life().fsck("b", fsck::Mode::Check).await.unwrap().unwrap();
        assert_eq!((found.trouble, found.repaired), (Trouble::InFlight, false));
        let found = world.life().fsck("b", fsck::Mode::Repair).await.unwrap().unwrap();
        assert_eq!((found.trouble, found.repaired), (Trouble::InFlight, true));
        assert_eq!(record(&world, "b").unwrap().state, State::Archived);
        assert!(world.life().fsck("b", fsck::Mode::Check).await.unwrap().is_none());
    });
}

#[test]
fn a_file_that_is_changed_between_mark_and_stub_is_archived_again() {
    run(async {
        let world = archived(&["a"]).await;
        let inode = world.life().candidate("a").inode;
        for change_record in [false, true].into_iter().cycle().take(TRIES as usize) {
            let tenant = Arc::clone(&world.life().tenant);
            let theirs = Arc::clone(&inode);
            let path = world.path("a");
            // Like a chmod that gets the lock right after the mark, and keeps it for a while.
            let over = Arc::new(AtomicBool::new(false));
            let stop = Arc::clone(&over);
            let meddler = std::thread::spawn(move || {
                meet_mark(&tenant, &theirs, &path, change_record, &stop)
            });
            let outcome = release(&world, "a").await;
            over.store(true, Ordering::Relaxed);
            let met = meddler.join().unwrap();
            if matches!(outcome, Outcome::Done(_)) {
                world.life().recall("a").await.unwrap();
                continue;
            }
            until("the mark is taken off", || {
                record(&world, "a").is_some_and(|record| record.state == State::Archived)
            })
            .await;
            if met {
                return world.life().release_once_closed("a").await;
            }
        }
        panic!("no change ever met the mark: no test");
    });
}

fn meet_mark(
    tenant: &Tenant,
    inode: &Arc<Inode>,
    path: &Path,
    change_record: bool,
    over: &AtomicBool,
) -> bool {
    let file = nix::fcntl::open(path, OFlag::O_PATH, Mode::empty()).unwrap();
    while !over.load(Ordering::Relaxed) {
        let Ok(Some(record)) = tenant.record(&file, inode) else { continue };
        if record.state != State::Releasing {
            continue;
        }
        let Some(held) = inode.try_tier() else { continue };
        let Ok(Some(record)) = tenant.record(&file, inode) else { continue };
        if record.state == State::Releasing && held.is_being_released() {
            if change_record {
                let ctime_shown = TimeNs(record.ctime_shown.0 + 1);
                tenant.set_record(&file, inode, &Record { ctime_shown, ..record }).unwrap();
            }
            std::thread::sleep(Duration::from_millis(100));
            return true;
        }
    }
    false
}

#[test]
fn a_time_that_is_set_beside_a_writer_proves_nothing_about_the_bytes() {
    run(async {
        let world = archived(&["a", "b"]).await;
        for (file, mtime) in [("a", SetTime::At(1_000_000_000, 7)), ("b", SetTime::Now)] {
            let change = SetAttr { mtime: Some(mtime), ..SetAttr::default() };
            world.life().setattr_while_written(file, change).await.unwrap();
            let archived =
                record(&world, file).is_some_and(|record| record.state == State::Archived);
            assert!(!(archived && is_known(&world, file)), "{file}: a store may be hidden");
        }
        let modified = std::fs::metadata(world.path("a")).unwrap();
        assert_eq!((modified.st_mtime(), modified.st_mtime_nsec()), (1_000_000_000, 7));
    });
}

#[test]
fn a_change_of_mode_beside_a_writer_keeps_the_copy_a_copy_of_this_version() {
    run(async {
        let world = archived(&["a"]).await;
        let change = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        world.life().setattr_while_written("a", change).await.unwrap();
        assert_eq!(record(&world, "a").unwrap().state, State::Archived);
        assert!(is_known(&world, "a"));
    });
}

fn write_at(world: &World, file: &str, offset: u64, bytes: &[u8]) {
    let on_disk = File::options().write(true).open(world.path(file)).unwrap();
    let modified = on_disk.metadata().unwrap().modified().unwrap();
    on_disk.write_all_at(bytes, offset).unwrap();
    on_disk.set_modified(modified).unwrap();
}

/// The stub of a released file.
async fn stub_of(world: &World, file: &str) -> Vec<u8> {
    let outcome = release(world, file).await;
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    std::fs::read(world.path(file)).unwrap()
}

#[test]
fn a_file_that_holds_sectors_of_a_stub_is_left_alone_and_served_where_it_was_archived() {
    run(async {
        let world = archived(&["a", "b"]).await;
        let stub = stub_of(&world, "a").await;
        // As tar makes of a detached directory.
        let mut tar = vec![b't'; 512];
        tar.extend_from_slice(&stub);
        tar.extend_from_slice(&[0; 10_240]);
        std::fs::write(world.path("tar"), &tar).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let outcomes = world.life().archive(&["tar"], &CancellationToken::new()).await;
        assert!(matches!(outcomes[..], [Outcome::Skipped(Skip::Foreign)]), "{outcomes:?}");

        // One that an earlier coldfs archived.
        write_at(&world, "b", 512, &stub[..512]);
        let body = std::fs::read(world.path("b")).unwrap();
        assert!(world.life().read_all("b").await.as_ref() == Ok(&body), "its own bytes");
        assert!(world.life().fsck("b", fsck::Mode::Check).await.unwrap().is_none());
    });
}

#[test]
fn a_head_that_is_no_mix_of_stub_and_original_is_kept() {
    run(async {
        let mut world = archived(&["a"]).await;
        let stub = stub_of(&world, "a").await;
        world.life().set_state("a", State::Recalling);
        let mut body = content("a");
        body[..4_096].copy_from_slice(&stub);
        body[512..1_024].fill(b'x');
        write_at(&world, "a", 0, &body);
        world.life().leave_behind("a");
        world.restart().await;
        assert_eq!(world.life().read_all("a").await, Err(libc::EIO));
        let found = world.life().fsck("a", fsck::Mode::Repair).await.unwrap().unwrap();
        assert!(!found.repaired, "{found:?}");
        assert!(std::fs::read(world.path("a")).unwrap() == body, "I10: bytes were overwritten");
        assert_eq!(record(&world, "a").unwrap().state, State::Recalling);
    });
}

#[test]
fn files_that_are_skipped_are_not_kept_in_mind() {
    run(async {
        let world = archived(&["cold", "small"]).await;
        let life = world.life();
        std::fs::write(world.path("tiny"), "tiny").unwrap();
        let pinned = File::open(world.path("small")).unwrap();
        life.tenant.set_pin(&pinned, Some(Pin::NeverRelease)).unwrap();
        drop(pinned);
        let before = life.inodes_in_use();
        // As a command leaves a file that it does not even try.
        drop(life.candidate("tiny"));
        let cancel = CancellationToken::new();
        for (file, skip) in [("tiny", Skip::TooSmall), ("cold", Skip::Already)] {
            let outcome = life.archive(&[file], &cancel).await.pop().unwrap();
            assert!(matches!(outcome, Outcome::Skipped(why) if why == skip), "{outcome:?}");
        }
        let outcome = release(&world, "small").await;
        assert!(matches!(outcome, Outcome::Skipped(Skip::Pinned)), "{outcome:?}");
        cancel.cancel();
        let outcome = life.release(&["cold"], &cancel).await.pop().unwrap();
        assert!(matches!(outcome, Outcome::Skipped(Skip::Cancelled)), "{outcome:?}");
        assert_eq!(life.inodes_in_use(), before);
    });
}
