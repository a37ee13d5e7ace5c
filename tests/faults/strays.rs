//! What a recall or a check meets that is not the store's fault: bytes written behind the mount, a
//! change of mode, a refusal, an end. Each is one file's, and leaves nothing behind.

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::Duration;

use coldfs::fsck::{Mode, Trouble};
use coldfs::migrate::Outcome;
use coldfs::store::call::Call;
use coldfs::store::faulty::{Fault, Rule};
use coldfs::tier::State;
use tokio_util::sync::CancellationToken;

use super::telling::skip;
use super::world::{World, content, run, until};

async fn released(world: &World, files: &[&str]) {
    let cancel = CancellationToken::new();
    world.life().archive(files, &cancel).await;
    let outcomes = world.life().release(files, &cancel).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done(_))), "{outcomes:?}");
}

fn state(world: &World, file: &str) -> Option<State> {
    let inode = world.life().candidate(file).inode;
    let fd = nix::fcntl::open(
        &world.path(file),
        nix::fcntl::OFlag::O_PATH,
        nix::sys::stat::Mode::empty(),
    );
    world.life().tenant.record(fd.unwrap(), &inode).unwrap().map(|record| record.state)
}

#[test]
fn bytes_written_into_an_open_stub_behind_the_mount_are_kept_and_found() {
    run(async {
        let edits: [(&str, u64, &[u8]); 3] = [
            ("its first sectors", 0, b"mine"),
            ("the last of its spaces", 4_000, b"mine"),
            ("behind its end", 4_096, b"mine"),
        ];
        for (where_, offset, edit) in edits {
            let world = World::new(&["range"]).await;
            released(&world, &["range"]).await;
            let mut edited = std::fs::read(world.path("range")).unwrap();
            edited.resize(edited.len().max(usize::try_from(offset).unwrap() + edit.len()), 0);
            edited[usize::try_from(offset).unwrap()..][..edit.len()].copy_from_slice(edit);
            let path = world.path("range");
            let stray = || {
                let raw = File::options().write(true).open(&path).unwrap();
                raw.write_all_at(edit, offset).unwrap();
            };
            // Whoever has it open reads the version that was opened.
            world.life().read_around("range", stray).await.unwrap();
            until("it is closed", || !world.life().is_open("range")).await;
            let body = std::fs::read(world.path("range")).unwrap();
            assert!(body == edited, "{where_}: the bytes behind the mount are gone");
            let found = world.life().fsck("range", Mode::Check).await.unwrap().unwrap();
            assert_eq!(found.trouble, Trouble::Conflict, "{where_}");
            let noted = std::fs::read_to_string(world.path(".coldfs/conflicts")).unwrap();
            assert!(noted.contains("range"), "{where_}: {noted}");
        }
    });
}

#[test]
fn a_set_id_bit_that_goes_during_a_recall_does_not_come_back_with_its_stub() {
    if !nix::unistd::geteuid().is_root() {
        skip("needs root");
        return;
    }
    run(async {
        let mut world = World::new(&["range"]).await;
        let mode = |bits| std::fs::Permissions::from_mode(bits);
        std::fs::set_permissions(world.path("range"), mode(0o4755)).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        released(&world, &["range"]).await;
        world.store.script(Rule::new(Call::Get, Fault::Hang));
        let recall = world.life().recall("range");
        let meanwhile = async {
            until("it is being filled", || state(&world, "range") == Some(State::Recalling)).await;
            world.life().chmod("range", 0o755).await.unwrap();
            world.life().end().await;
        };
        let (recalled, ()) = futures::join!(recall, meanwhile);
        assert!(recalled.is_err());
        assert_eq!(state(&world, "range"), Some(State::Released));
        let found = std::fs::metadata(world.path("range")).unwrap().permissions().mode();
        assert_eq!(found & 0o7777, 0o755);
        world.store.heal();
        world.restart().await;
        assert_eq!(world.life().read_all("range").await.unwrap(), content("range"));
    });
}

#[test]
fn a_daemon_that_ends_begins_no_recall_of_bytes_that_are_at_hand() {
    run(async {
        let names: Vec<String> = (0..20).map(|number| format!("small-{number:02}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut world = World::new(&names).await;
        released(&world, &names).await;
        world.restart().await;
        // From the third on, what lies around is fetched along.
        for name in &names[..5] {
            assert!(world.life().read_all(name).await == Ok(content(name)), "{name}");
        }
        world.life().end().await;
        let stub = std::fs::read(world.path(names[9])).unwrap();
        assert_eq!(world.life().read_all(names[9]).await, Err(libc::ENODEV));
        assert!(std::fs::read(world.path(names[9])).unwrap() == stub);
    });
}

#[test]
fn a_change_of_size_that_is_refused_leaves_the_stub_closed() {
    run(async {
        let mut world = World::new(&["a", "range"]).await;
        released(&world, &["a", "range"]).await;
        world.rules.brake.files = 1;
        world.restart().await;
        while world.life().read_all("a").await.is_ok() {
            // Until the brake is on.
            world.life().recall("a").await.unwrap();
            world.life().release_once_closed("a").await;
        }
        assert_eq!(world.life().truncate("range", 10).await, Err(libc::EACCES));
        until("it is closed", || !world.life().is_open("range")).await;
    });
}

#[test]
fn the_kernel_is_told_of_files_that_a_repair_changed_and_of_no_others() {
    run(async {
        let world = World::new(&["a", "b", "c", "plain"]).await;
        released(&world, &["a", "b"]).await;
        world.life().archive(&["c"], &CancellationToken::new()).await;
        // Cut back, as after a kill.
        world.life().set_state("b", State::Recalling);
        let told = world.life().told();
        for file in ["a", "b", "c", "plain"] {
            let found = world.life().fsck(file, Mode::Repair).await.unwrap();
            assert_eq!(found.is_some_and(|found| found.repaired), file == "b", "{file}");
        }
        let changed = world.life().candidate("b").inode.ino;
        assert_eq!(*told.lock().unwrap(), [changed]);
    });
}
