//! Backups: those that look for what changed find nothing and fetch nothing; a copy of the mount is
//! the files; a copy of the detached directory is restored elsewhere and adopted there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::harness::facts::{Depth, Strict, Tree};
use super::harness::pattern;
use super::harness::site::Site;
use super::harness::zoo::Zoo;
use super::harness::{can_tier, has, must, run};

/// Tools that keep every attribute of what they copy.
const COPIERS: [&str; 3] = ["tar", "rsync -aHAX", "cp -a"];

const ZOO: &str = "zoo";

/// Copies all that is in `from` into `to`, with one of [`COPIERS`]; false where it is not here.
fn copy(copier: &str, from: &Path, to: &Path) -> bool {
    if !has(copier.split(' ').next().expect("a word")) {
        return false;
    }
    let script = match copier {
        "tar" => {
            "t='tar --acls --xattrs --xattrs-include=*'
             $t -C \"$1\" -cf - . | $t -C \"$2\" --numeric-owner -xpf -"
        }
        // A window of -1: otherwise what it made within the same second is left as it is.
        "rsync -aHAX" => "rsync -aHAX --numeric-ids --modify-window=-1 \"$1/\" \"$2/\"",
        "cp -a" => "cp -a \"$1/.\" \"$2/\"",
        other => unreachable!("{other}"),
    };
    must(Command::new("sh").args(["-fec", script, "copy"]).arg(from).arg(to));
    true
}

/// What is compared of a copy: everything below the root, whose time is that of `.coldfs` in it.
fn facts(root: &Path) -> Tree {
    Tree::of(&root.join(ZOO), Depth::Content).unwrap()
}

fn site_with_a_zoo() -> Site {
    let site = Site::new();
    Zoo::build(&site.data.join(ZOO));
    site
}

#[test]
fn a_copy_of_the_mount_is_the_files() {
    if !can_tier() {
        return;
    }
    let site = site_with_a_zoo();
    let before = facts(&site.data);
    let mount = site.mount();
    for copier in COPIERS {
        mount.all("migrate", &site.mnt);
        assert!(mount.status()["tenants"][0]["files"]["released"].as_u64().unwrap() > 10);
        let to = site.dir.path().join(copier);
        std::fs::create_dir(&to).unwrap();
        if copy(copier, &site.mnt, &to) {
            before.assert_equal(&facts(&to), Strict::CopiedTree, copier);
        }
    }
    mount.detach();
}

#[test]
fn a_copy_of_the_detached_directory_is_restored_elsewhere_and_adopted() {
    if !can_tier() {
        return;
    }
    let site = site_with_a_zoo();
    let before = facts(&site.data);
    let mount = site.mount();
    mount.all("migrate", &site.mnt);
    let released = mount.status()["tenants"][0]["files"]["released"].clone();
    mount.detach();
    for copier in COPIERS {
        let mut elsewhere = Site::new();
        elsewhere.store_url.clone_from(&site.store_url);
        if !copy(copier, &site.data, &elsewhere.data) {
            continue;
        }
        let mount = elsewhere.mount();
        // Not one of them is believed before a person says so.
        let error = std::fs::read(elsewhere.mnt.join(ZOO).join("text")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{copier}: {error}");
        let adopted =
            mount.coldfs(["fsck".as_ref(), "--adopt".as_ref(), elsewhere.mnt.as_os_str()]);
        assert!(adopted.status.success(), "{copier}: {}", String::from_utf8_lossy(&adopted.stdout));
        let status = mount.status();
        assert_eq!(status["tenants"][0]["files"]["released"], released, "{copier}");
        assert_eq!(status["tenants"][0]["guest"], true, "{copier}");
        before.assert_equal(&facts(&elsewhere.mnt), Strict::CopiedTree, copier);
        mount.detach();
    }
    // And whoever was copied has noticed nothing.
    let mount = site.mount();
    assert_eq!(mount.status()["tenants"][0]["guest"], false);
    before.assert_equal(&facts(&site.mnt), Strict::CopiedTree, "the original");
    mount.detach();
}

/// A backup program with its places and keys.
fn of_backups(site: &Site, program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("BORG_BASE_DIR", site.dir.path().join("borg-base"))
        .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
        .env("RESTIC_PASSWORD", "test")
        .env("RESTIC_CACHE_DIR", site.dir.path().join("restic-cache"));
    command
}

fn backup(site: &Site, program: &str, args: &[&str]) -> String {
    let mut command = of_backups(site, program);
    command.args(args).current_dir(&site.mnt);
    let output = run(&mut command);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = said + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {said}", args.join(" "));
    said
}

#[test]
fn backups_find_nothing_changed_by_a_migration_and_fetch_nothing() {
    if !can_tier() || !has("borg") || !has("restic") {
        return;
    }
    let site = Site::new();
    for number in 0..200 {
        let path = site.data.join(format!("{number}"));
        std::fs::write(path, pattern::bytes(number, 10_000)).unwrap();
    }
    let mount = site.mount();
    // Borg reads again what has the newest time of all: it may have changed within that moment.
    std::thread::sleep(Duration::from_millis(2_500));
    std::fs::write(site.mnt.join("newest"), "x").unwrap();
    let (borg, restic) = (site.dir.path().join("borg"), site.dir.path().join("restic"));
    let (borg, restic) = (borg.to_str().unwrap(), restic.to_str().unwrap());
    backup(&site, "borg", &["init", "--encryption=none", borg]);
    backup(&site, "borg", &["create", &format!("{borg}::before"), "."]);
    backup(&site, "restic", &["-q", "init", "-r", restic]);
    backup(&site, "restic", &["-q", "backup", "-r", restic, "."]);

    mount.all("migrate", &site.mnt);
    let before = mount.counter("recall_bytes_total");
    let said = backup(
        &site,
        "borg",
        &["create", "--list", "--filter=AMECx", &format!("{borg}::after"), "."],
    );
    let again: Vec<&str> = said.lines().filter(|line| !line.ends_with(" newest")).collect();
    assert!(again.is_empty(), "borg read files again: {again:?}");
    let said = backup(&site, "restic", &["--json", "backup", "-r", restic, "."]);
    let summary = said.lines().rfind(|line| line.contains("\"summary\"")).expect("a summary");
    let summary: Value = serde_json::from_str(summary).unwrap();
    assert_eq!(
        (&summary["files_new"], &summary["files_changed"]),
        (&0.into(), &0.into()),
        "{summary}"
    );
    assert_eq!(mount.counter("recall_bytes_total"), before, "a backup fetched something");
    assert_eq!(mount.status()["tenants"][0]["files"]["released"], 200);

    // And what is in the backups is the files, whichever run put it there.
    let out = site.dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let archive = format!("{borg}::after");
    let restores = [
        ("restic", &["-q", "restore", "latest", "-r", restic, "--target", "."][..]),
        ("borg", &["extract", &archive][..]),
    ];
    for (program, args) in restores {
        let into = out.join(program);
        std::fs::create_dir(&into).unwrap();
        must(of_backups(&site, program).args(args).current_dir(&into));
        for number in 0..200 {
            let restored = find_below(&into, &number.to_string());
            let bytes = std::fs::read(restored).unwrap();
            assert!(bytes == pattern::bytes(number, 10_000), "{program}: {number}");
        }
    }
    mount.detach();
}

fn find_below(dir: &Path, name: &str) -> PathBuf {
    let found = run(Command::new("find").arg(dir).args(["-name", name, "-type", "f"]));
    PathBuf::from(String::from_utf8(found.stdout).unwrap().trim_end())
}
