//! A disk or a quota that is full: what is there stays readable, what cannot be done says so,
//! and nothing is lost on the way.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::harness::mount::{Mount, Start};
use super::harness::pattern::{self, Looks, looks};
use super::harness::site::Site;
use super::harness::volume::{FsKind, Volume};
use super::harness::{can_loop, can_tier, has, must, raw, run, wait_for};

const FILES: u64 = 12;
const BYTES: usize = 3 << 20;

fn name(index: u64) -> String {
    format!("file-{index:02}")
}

/// Writes until there is no room; whoever calls removes the file.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    for size in [1 << 20, 4_096, 1] {
        let part = vec![7; size];
        while file.write_all(&part).is_ok() {}
    }
    file.sync_all().ok();
}

fn full(kind: FsKind, errnos: &[i32], limit: impl FnOnce(&Site), unlimit: impl FnOnce(&Site)) {
    let site = Site::on(kind, 400);
    for index in 0..FILES {
        std::fs::write(site.data.join(name(index)), pattern::bytes(index, BYTES)).unwrap();
    }
    let mount = site.mount();
    mount.all("migrate", &site.mnt);
    limit(&site);
    let filler = site.data.join("filler");
    fill(&filler);

    // Reads pass through; nothing is kept.
    for index in 0..FILES {
        let read = std::fs::read(site.mnt.join(name(index)));
        let read = read.unwrap_or_else(|error| panic!("{} with a full disk: {error}", name(index)));
        assert!(read == pattern::bytes(index, BYTES), "{} reads wrong", name(index));
    }
    // What needs room says that there is none, and the file is as it was.
    let write = raw::open(&site.mnt.join(name(1)), libc::O_WRONLY, 0)
        .and_then(|file| file.write_all_at(b"x", 1 << 20).and_then(|()| file.sync_all()));
    let error = write.expect_err("a write into a cold file on a full disk").raw_os_error();
    assert!(errnos.contains(&error.unwrap()), "a write fails with {error:?}");
    let output = mount.coldfs(["recall".as_ref(), site.mnt.join(name(2)).as_os_str()]);
    assert!(!output.status.success(), "a recall into a full disk says it is done");
    // A full disk is emptied: truncating and deleting need no room.
    // (btrfs, copying on write, may refuse even that.)
    let emptied = nix::unistd::truncate(&site.mnt.join(name(3)), 0);
    assert!(emptied.is_ok() || kind == FsKind::Btrfs, "truncate to zero: {emptied:?}");
    let gone = std::fs::remove_file(site.mnt.join(name(4)));
    assert!(gone.is_ok() || kind == FsKind::Btrfs, "unlink: {gone:?}");
    let changed = [emptied.is_ok(), gone.is_ok()];
    check(&site, &mount, changed);
    mount.detach();
    for index in [0, 1, 2, 5] {
        let body = std::fs::read(site.data.join(name(index))).unwrap();
        assert!(
            looks(&body) == Looks::Stub || body == pattern::bytes(index, BYTES),
            "P6: {} is neither",
            name(index)
        );
    }

    // With room again everything works.
    std::fs::remove_file(filler).unwrap();
    unlimit(&site);
    must(Command::new("sync").arg("-f").arg(&site.data));
    let mount = site.mount();
    mount.all("recall", &site.mnt);
    check(&site, &mount, changed);
    mount.detach();
}

/// Every file but the third, if it was emptied, and the fourth, if it was removed.
fn check(site: &Site, mount: &Mount, [emptied, gone]: [bool; 2]) {
    mount.beat();
    for index in (0..FILES).filter(|index| *index != 4 || !gone) {
        let expected = if index == 3 && emptied { vec![] } else { pattern::bytes(index, BYTES) };
        assert!(std::fs::read(site.mnt.join(name(index))).unwrap() == expected, "{}", name(index));
    }
}

#[test]
fn a_full_ext4_serves_cold_files_and_refuses_writes_to_them() {
    if can_tier() && can_loop() {
        full(FsKind::Ext4, &[libc::ENOSPC], |_| (), |_| ());
    }
}

#[test]
fn a_full_xfs_serves_cold_files_and_refuses_writes_to_them() {
    if can_tier() && can_loop() {
        full(FsKind::Xfs, &[libc::ENOSPC], |_| (), |_| ());
    }
}

const NO_LIMIT: &str = "none";

/// Sets what may be in a site's btrfs. (Of other filesystems' quotas root is not held to those of
/// ext4, and few kernels have those of xfs.)
fn limit_quota(site: &Site, bytes: &str) {
    let volume = site.data.parent().unwrap();
    if bytes != NO_LIMIT {
        must(Command::new("btrfs").args(["quota", "enable"]).arg(volume));
    }
    // A quota that is reached may refuse the change as well, until the transaction is over.
    let limited = wait_for(Duration::from_secs(150), || {
        must(Command::new("sync").arg("-f").arg(volume));
        let limit = &mut Command::new("btrfs");
        run(limit.args(["qgroup", "limit", bytes]).arg(volume)).status.success().then_some(())
    });
    limited.expect("the quota can be changed");
}

#[test]
fn a_full_btrfs_quota_serves_cold_files_and_refuses_writes_to_them() {
    if !can_tier() || !can_loop() || !has("btrfs") {
        return;
    }
    full(
        FsKind::Btrfs,
        &[libc::EDQUOT, libc::ENOSPC],
        |site| limit_quota(site, "30M"),
        |site| limit_quota(site, NO_LIMIT),
    );
}

/// Runs a move of everything and reads its `--json`.
fn moved(site: &Site, mount: &Mount, verb: &str) -> (Option<i32>, serde_json::Value) {
    let words = ["--json", verb, "-r", "--wait"].map(std::ffi::OsStr::new);
    let output = mount.coldfs(words.into_iter().chain([site.mnt.as_os_str()]));
    let summary = serde_json::from_slice(&output.stdout);
    (output.status.code(), summary.unwrap_or_else(|error| panic!("{error}: {output:?}")))
}

/// Each failure of a summary names a file of its own, this cause and this next step; how many.
fn named(site: &Site, summary: &serde_json::Value, cause: &str, next_step: &str) -> u64 {
    let failed = summary["failed"].as_array().unwrap();
    let mut paths = std::collections::BTreeSet::new();
    for failure in failed {
        let word = |key: &str| failure[key].as_str().unwrap_or_default().to_owned();
        assert!(Path::new(&word("path")).starts_with(&site.mnt), "{failure}");
        assert!(word("cause").contains(cause), "{failure}");
        assert!(word("next_step").contains(next_step), "{failure}");
        paths.insert(word("path"));
    }
    assert_eq!(summary["failed_total"], paths.len(), "{summary}");
    paths.len() as u64
}

fn stubs(site: &Site) -> u64 {
    let is_stub = |index: &u64| {
        let body = std::fs::read(site.data.join(name(*index))).unwrap();
        let whole = body == pattern::bytes(*index, BYTES);
        assert!(whole || looks(&body) == Looks::Stub, "{} is neither", name(*index));
        !whole
    };
    (0..FILES).filter(is_stub).count() as u64
}

#[test]
fn a_store_that_fills_up_keeps_what_it_took_and_names_every_file_that_it_did_not() {
    if !can_tier() || !can_loop() {
        return;
    }
    let site = Site::new();
    let beside = site.dir.path().join("beside");
    std::fs::create_dir(&beside).unwrap();
    let volume = Volume::create(&beside, FsKind::Ext4, 300);
    let store = volume.root().join("store");
    for index in 0..FILES {
        std::fs::write(site.data.join(name(index)), pattern::bytes(index, BYTES)).unwrap();
    }
    // Two segments: one is full, then comes this.
    for index in FILES..FILES + 20 {
        std::fs::write(site.data.join(name(index)), pattern::bytes(index, BYTES)).unwrap();
    }
    let start = Start { store: Some(format!("disk:{}", store.display())), ..Start::default() };
    let mount = site.start(&start);
    let free = || {
        let space = nix::sys::statvfs::statvfs(volume.root()).unwrap();
        space.blocks_free() * space.fragment_size()
    };
    let filler = std::fs::File::create(volume.root().join("filler")).unwrap();
    raw::fallocate(&filler, 0, 0, free() - (80 << 20)).unwrap();
    drop(filler);
    let before = free();
    let (code, summary) = moved(&site, &mount, "migrate");
    assert_eq!(code, Some(1), "{summary}");
    let failed = named(&site, &summary, "full", "make room in the store");
    let done = summary["files_done"].as_u64().unwrap();
    assert!(done >= 20 && failed >= 5 && done + failed == FILES + 20, "{summary}");
    // A filesystem may count what was removed as free a moment later.
    let freed = wait_for(Duration::from_secs(60), || (before - free() < (70 << 20)).then_some(()));
    assert!(freed.is_some(), "an upload that failed left its bytes: {} are taken", before - free());
    let check = || {
        for index in 0..FILES + 20 {
            let read = std::fs::read(site.mnt.join(name(index))).unwrap();
            assert!(read == pattern::bytes(index, BYTES), "{}", name(index));
        }
    };
    check();
    std::fs::remove_file(volume.root().join("filler")).unwrap();
    let (code, summary) = moved(&site, &mount, "migrate");
    assert_eq!(code, Some(0), "{summary}");
    assert_eq!(stubs(&site), FILES);
    check();
    mount.detach();
}

/// Recalls everything where only some of it has room.
fn recall_into_too_little_room(
    site: &Site,
    (errno, place): (i32, &str),
    limit: impl FnOnce(&Site),
    unlimit: impl FnOnce(&Site),
) {
    for index in 0..FILES {
        std::fs::write(site.data.join(name(index)), pattern::bytes(index, BYTES)).unwrap();
    }
    let mount = site.mount();
    mount.all("migrate", &site.mnt);
    limit(site);
    let (code, summary) = moved(site, &mount, "recall");
    assert_eq!(code, Some(1), "{summary}");
    let cause = format!("no room {place} to recall into (errno {errno})");
    let failed = named(site, &summary, &cause, &format!("make room {place}"));
    let done = summary["files_done"].as_u64().unwrap();
    assert!(done + failed == FILES && failed > 0, "{summary}");
    // One that is whole may have failed all the same, when its record found no room.
    assert!(stubs(site) <= failed, "{summary}");
    check(site, &mount, [false, false]);
    unlimit(site);
    let (code, summary) = moved(site, &mount, "recall");
    assert_eq!((code, &summary["failed_total"]), (Some(0), &0.into()), "{summary}");
    assert_eq!(stubs(site), 0);
    check(site, &mount, [false, false]);
    mount.detach();
}

#[test]
fn a_disk_that_fills_up_while_files_are_recalled_leaves_each_whole_or_a_stub() {
    if !can_tier() || !can_loop() {
        return;
    }
    let site = Site::on(FsKind::Ext4, 400);
    let filler = site.data.join("filler");
    let limit = |site: &Site| {
        // Room for some of them above what a recall leaves free.
        let free = nix::sys::statvfs::statvfs(&site.data).unwrap();
        let free = free.blocks_available() * free.fragment_size();
        let file = std::fs::File::create(&filler).unwrap();
        raw::fallocate(&file, 0, 0, free - (77 << 20)).unwrap();
    };
    let full = (libc::ENOSPC, "on the data filesystem");
    recall_into_too_little_room(&site, full, limit, |_| {
        std::fs::remove_file(&filler).unwrap();
    });
}

#[test]
fn a_quota_that_is_reached_while_files_are_recalled_leaves_each_whole_or_a_stub() {
    if !can_tier() || !can_loop() || !has("btrfs") {
        return;
    }
    let site = Site::on(FsKind::Btrfs, 400);
    recall_into_too_little_room(
        &site,
        (libc::EDQUOT, "in the quota"),
        |site| limit_quota(site, "20M"),
        |site| limit_quota(site, NO_LIMIT),
    );
}

#[test]
fn a_quota_that_is_reached_while_files_are_archived_or_released_loses_nothing() {
    if !can_tier() || !can_loop() || !has("btrfs") {
        return;
    }
    let site = Site::on(FsKind::Btrfs, 400);
    for index in 0..FILES {
        std::fs::write(site.data.join(name(index)), pattern::bytes(index, BYTES)).unwrap();
    }
    let mount = site.mount();
    for index in 0..FILES / 2 {
        mount.all("archive", &site.mnt.join(name(index)));
    }
    limit_quota(&site, "45M");
    let filler = site.data.join("filler");
    fill(&filler);
    for verb in ["archive", "release", "migrate"] {
        let (code, summary) = moved(&site, &mount, verb);
        let cause = format!("(os error {})", libc::EDQUOT);
        let failed = named(&site, &summary, &cause, "make room in the quota");
        assert!(code == Some(1) && failed > 0, "{verb}: {summary}");
        check(&site, &mount, [false, false]);
    }
    limit_quota(&site, NO_LIMIT);
    std::fs::remove_file(filler).unwrap();
    let (code, summary) = moved(&site, &mount, "migrate");
    assert_eq!((code, &summary["failed_total"]), (Some(0), &0.into()), "{summary}");
    assert_eq!(stubs(&site), FILES);
    check(&site, &mount, [false, false]);
    mount.detach();
}

#[test]
fn releasing_on_a_full_disk_makes_room() {
    if !can_tier() || !can_loop() {
        return;
    }
    for kind in [FsKind::Ext4, FsKind::Xfs] {
        let site = Site::on(kind, 400);
        for index in 0..FILES {
            std::fs::write(site.data.join(name(index)), pattern::bytes(index, BYTES)).unwrap();
        }
        // A stub over a hole needs a block that is not there.
        let sparse = std::fs::File::create(site.data.join("hole-first")).unwrap();
        sparse.set_len(1 << 20).unwrap();
        sparse.write_all_at(&pattern::bytes(50, 20_000), 500_000).unwrap();
        drop(sparse);
        let mount = site.mount();
        mount.all("archive", &site.mnt);
        fill(&site.data.join("filler"));
        mount.coldfs(["release".as_ref(), "-r".as_ref(), site.mnt.as_os_str()]);
        let released = (0..FILES)
            .filter(|index| {
                looks(&std::fs::read(site.data.join(name(*index))).unwrap()) == Looks::Stub
            })
            .count();
        assert_eq!(released as u64, FILES, "{kind:?}: a full disk cannot be helped");
        std::fs::write(site.mnt.join("new"), vec![1; 1 << 20]).expect("there is room now");
        let mut expected = vec![0; 1 << 20];
        expected[500_000..520_000].copy_from_slice(&pattern::bytes(50, 20_000));
        assert!(std::fs::read(site.mnt.join("hole-first")).unwrap() == expected);
        for index in 0..FILES {
            assert!(
                std::fs::read(site.mnt.join(name(index))).unwrap() == pattern::bytes(index, BYTES)
            );
        }
        mount.detach();
    }
}
