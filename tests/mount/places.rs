//! Places where nothing can be mounted: mountpoints and directories that are in use, what a daemon that died left
//! behind, filesystems that lack what coldfs rests on. Refused by name, before anything is written.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use super::bad_input::{refused, says, words};
use super::harness::pattern;
use super::harness::site::Site;
use super::harness::{can_tier, coldfs, has, must, run, run_within, skip};

const BYTES: usize = 50_000;

/// Runs `coldfs ARGS PATH` beside a mount that does not serve; its exit code and words.
fn command(site: &Site, args: &[&str], path: &Path) -> (Option<i32>, Output) {
    let mut command = coldfs();
    command.args(args).arg(path);
    command.env("COLDFS_RUNTIME_DIR", &site.runtime).env("COLDFS_STATE_DIR", &site.runtime);
    let output = run(&mut command);
    (output.status.code(), output)
}

#[test]
fn a_mountpoint_that_is_in_use_is_refused_with_the_command_that_frees_it() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    let mount = site.mount();
    let other = site.dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let (code, text) = refused(&site, &other, &site.mnt, &site.store, &[]);
    assert_eq!(code, 2, "{text}");
    let freed = format!("fusermount3 -u {}", site.mnt.display());
    says(&text, &["mnt: coldfs is mounted there already", "coldfs status", &freed]);
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 0);
    mount.detach();
    // Somebody else's files.
    must(Command::new("mount").args(["-t", "tmpfs", "theirs"]).arg(&site.mnt));
    std::fs::write(site.mnt.join("file"), "").unwrap();
    let (code, text) = refused(&site, &site.data, &site.mnt, &site.store, &[]);
    must(Command::new("umount").arg(&site.mnt));
    assert_eq!(code, 2, "{text}");
    says(&text, &["mnt: not empty", "use an empty directory"]);
}

#[test]
fn what_a_daemon_that_died_left_is_named_with_the_command_that_takes_it_away() {
    if !can_tier() {
        return;
    }
    for over_itself in [false, true] {
        let mut site = Site::new();
        if over_itself {
            site = site.over_itself();
        }
        std::fs::create_dir(site.data.join("dir")).unwrap();
        std::fs::write(site.data.join("dir/file"), pattern::bytes(1, BYTES)).unwrap();
        let mut mount = site.mount();
        mount.all("migrate", &site.mnt);
        // What the kernel remembers of it outlives the daemon.
        std::fs::metadata(site.mnt.join("dir/file")).unwrap();
        mount.die();
        let taken_away = format!("fusermount3 -uz {}`", site.mnt.display());
        let dead = ["Transport endpoint is not connected", "daemon died", &taken_away];

        let elsewhere = site.dir.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        let below = |path: &str| site.mnt.join(path);
        for (data, mnt, store) in [
            (&site.data, &site.mnt, &site.store),
            (&below("dir"), &elsewhere, &site.store),
            (&elsewhere, &below("dir"), &site.store),
            (&site.plain, &elsewhere, &below("dir")),
        ] {
            let (code, text) = refused(&site, data, mnt, store, &[]);
            assert_eq!(code, 2, "{text}");
            says(&text, &dead);
        }
        for args in [
            &["status", "--json"][..],
            &["status"],
            &["state"],
            &["find"],
            &["du"],
            &["recall"],
            &["migrate", "-r"],
            &["cancel"],
            &["fsck"],
            &["explain"],
        ] {
            for path in [site.mnt.clone(), below("dir"), below("dir/file")] {
                let (code, output) = command(&site, args, &path);
                assert_eq!(code, Some(3), "{args:?}: {}", words(&output));
                says(&words(&output), &dead);
            }
        }
        // Found without a name, too.
        let output = run(coldfs().arg("status").env("COLDFS_RUNTIME_DIR", &site.runtime));
        says(&words(&output), &[&format!("{}: no daemon", site.mnt.display()), &taken_away]);
        let json =
            run(coldfs().args(["status", "--json"]).env("COLDFS_RUNTIME_DIR", &site.runtime));
        let status: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        let named = status["dead"].as_array().unwrap().iter();
        assert_eq!(named.filter(|at| *at == site.mnt.to_str().unwrap()).count(), 1, "{status}");

        must(Command::new("fusermount3").arg("-uz").arg(&site.mnt));
        let mount = site.mount();
        assert!(std::fs::read(below("dir/file")).unwrap() == pattern::bytes(1, BYTES));
        mount.detach();
    }
}

/// What `mount` mounts at a directory of this site is no place for a data directory, and `cause`
/// says why. Nothing is written there, nor to the store.
fn is_unfit(site: &Site, at: &Path, mount: &mut Command, cause: &str) {
    std::fs::create_dir_all(at).unwrap();
    let mounted = run(mount.arg(at));
    if !mounted.status.success() {
        return skip(&format!("{mount:?} does not mount here: {}", words(&mounted).trim()));
    }
    let (code, text) = refused(site, at, &site.mnt, &site.store, &[]);
    let left =
        std::fs::read_dir(at).unwrap().count() + std::fs::read_dir(&site.store).unwrap().count();
    must(Command::new("umount").arg(at));
    assert_eq!(code, 2, "{text}");
    says(&text, &[&format!("data directory {}", at.display()), cause, "ext4, xfs or btrfs"]);
    assert_eq!(left, 0, "something was made where a mount was refused");
}

#[test]
fn an_overlay_without_an_index_has_no_file_handles_and_is_refused() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    let volume = site.dir.path().join("overlay");
    for dir in ["overlay", "overlay/low", "overlay/up", "overlay/work"] {
        std::fs::create_dir(site.dir.path().join(dir)).unwrap();
    }
    let options = format!("lowerdir={0}/low,upperdir={0}/up,workdir={0}/work", volume.display());
    let mut mount = Command::new("mount");
    mount.args(["-t", "overlay", "x", "-o", &options]);
    is_unfit(&site, &volume.join("at"), &mut mount, "has no file handles");
}

#[test]
fn a_filesystem_in_memory_without_file_handles_is_refused() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    let mut mount = Command::new("mount");
    mount.args(["-t", "ramfs", "x"]);
    is_unfit(&site, &site.dir.path().join("at"), &mut mount, "has no file handles");
}

#[test]
fn a_filesystem_without_extended_attributes_is_refused() {
    if !can_tier() || !has("bindfs") {
        return;
    }
    // As vfat: file handles, and no attributes.
    let site = Site::new();
    let mut mount = Command::new("bindfs");
    mount.arg("--xattr-none").arg(&site.data);
    is_unfit(&site, &site.dir.path().join("at"), &mut mount, "keeps no extended attributes");
}

#[test]
fn a_second_daemon_is_refused_a_directory_that_is_served() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    let mount = site.mount();
    let other = site.dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let output = run_within(
        coldfs()
            .arg("mount")
            .arg(&site.data)
            .arg(&other)
            .arg("--store")
            .arg(&site.store_url)
            .arg("--foreground")
            .env("COLDFS_RUNTIME_DIR", &site.runtime)
            .env("COLDFS_STATE_DIR", &site.runtime),
        Duration::from_secs(20),
    )
    .expect("refused, not served");
    assert!(!output.status.success());
    assert!(!output.stderr.is_empty());
    drop(mount);
}
