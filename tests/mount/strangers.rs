//! What was carried off: stubs to another tenant, and to another machine with another store; records,
//! segments, footers and work lists into the place of others. All of it is refused by name, whatever
//! carried it, and nothing is lost where it came from.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::bad_input::{RECORD, says, segments};
use super::harness::facts::{Depth, Strict, Tree};
use super::harness::mount::{Mount, Start};
use super::harness::pattern::{self, Looks, looks};
use super::harness::site::Site;
use super::harness::{can_tier, must, raw};

const BYTES: usize = 200_000;
/// Recalled inside `open`, and served by chunks.
const FILES: [(&str, usize); 2] = [("small", BYTES), ("large", 20 << 20)];

fn words(mount: &Mount, args: &[&str], path: &Path) -> (Option<i32>, String) {
    let args = args.iter().map(std::ffi::OsStr::new).chain([path.as_os_str()]);
    let output = mount.coldfs(args);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn stubs_carried_to_another_tenant_or_machine_are_refused_by_name_and_read_at_home() {
    if !can_tier() {
        return;
    }
    let home = Site::new().with_disk_store();
    for (name, bytes) in FILES {
        std::fs::write(home.data.join(name), pattern::bytes(1, bytes)).unwrap();
    }
    let mount = home.mount();
    mount.all("migrate", &home.mnt);
    mount.detach();

    // Another tenant of the same store, and one of the same name elsewhere.
    let neighbour = Site::new();
    let same_store = format!("disk:{}", home.store.display());
    let named = ["--tenant", "neighbour"].map(String::from).to_vec();
    let there = Start { store: Some(same_store), args: named, ..Start::default() };
    let away = Site::new();
    for (site, start) in [(&neighbour, there), (&away, Start::default())] {
        // A life of its own first.
        std::fs::write(site.data.join("own"), pattern::bytes(2, BYTES)).unwrap();
        let mount = site.start(&start);
        mount.all("migrate", &site.mnt);
        mount.detach();
        for (name, _) in FILES {
            let from = home.data.join(name);
            must(Command::new("cp").arg("-a").arg(&from).arg(site.data.join(format!("{name}-a"))));
            must(Command::new("cp").arg(&from).arg(site.data.join(format!("{name}-plain"))));
        }
        let mount = site.start(&start);
        for carried in ["small-a", "small-plain", "large-a", "large-plain"] {
            let path = site.mnt.join(carried);
            let raw = std::fs::read(site.data.join(carried)).unwrap();
            assert_eq!(looks(&raw), Looks::Stub);
            let error = std::fs::read(&path).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{carried}: {error}");
            let (code, text) = words(&mount, &["recall"], &path);
            assert_eq!(code, Some(1), "{carried}: {text}");
            assert!(text.contains(carried) && text.contains("tenant \"data\""), "{text}");
            for mode in [&["fsck"][..], &["fsck", "--adopt"]] {
                let (code, text) = words(&mount, mode, &path);
                assert_eq!(code, Some(1), "{carried}: {text}");
                assert!(text.contains(carried) && text.contains("tenant \"data\""), "{text}");
                assert!(text.contains(&home.store.display().to_string()), "{text}");
            }
            let (_, text) = words(&mount, &["migrate"], &path);
            assert!(text.contains("1 foreign") || text.contains("too-small"), "{text}");
            assert!(std::fs::read(&path).is_err(), "{carried}: adopted");
            assert!(std::fs::read(site.data.join(carried)).unwrap() == raw, "{carried}: changed");
        }
        assert!(std::fs::read(site.mnt.join("own")).unwrap() == pattern::bytes(2, BYTES));
        mount.detach();
    }

    let mount = home.mount();
    for (name, bytes) in FILES {
        assert!(std::fs::read(home.mnt.join(name)).unwrap() == pattern::bytes(1, bytes), "{name}");
    }
    let (code, text) = words(&mount, &["fsck"], &home.mnt);
    assert_eq!(code, Some(0), "{text}");
    mount.detach();
}

/// A tenant of its own with a store of its own: one released file, one archived, one plain, of
/// bytes that are nobody else's. Detached.
fn tenant(seed: u64) -> Site {
    let site = Site::new().with_disk_store();
    for (number, name) in ["cold", "warm", "plain"].into_iter().enumerate() {
        let bytes = pattern::bytes(seed + number as u64, BYTES);
        std::fs::write(site.data.join(name), bytes).unwrap();
    }
    let mount = site.mount();
    // A segment each.
    for name in ["cold", "warm"] {
        mount.all("archive", &site.mnt.join(name));
    }
    mount.all("release", &site.mnt.join("cold"));
    mount.detach();
    site
}

/// What the files of a tenant read as: whether as they were, or an errno.
fn reads(site: &Site, seed: u64) -> [Result<bool, i32>; 3] {
    let mut number = 0;
    ["cold", "warm", "plain"].map(|name| {
        number += 1;
        let read = std::fs::read(site.mnt.join(name));
        read.map(|bytes| bytes == pattern::bytes(seed + number - 1, BYTES))
            .map_err(|error| error.raw_os_error().unwrap())
    })
}

/// Mounts, and all is as it was; then the cold file is as cold as before.
fn is_whole(site: &Site, seed: u64) {
    let mount = site.mount();
    assert_eq!(reads(site, seed), [Ok(true); 3]);
    let (code, text) = words(&mount, &["fsck"], &site.mnt);
    assert_eq!(code, Some(0), "{text}");
    mount.all("release", &site.mnt.join("cold"));
    mount.detach();
}

#[test]
fn records_of_another_tenant_are_kept_not_believed_and_named() {
    if !can_tier() {
        return;
    }
    let (ours, theirs) = (tenant(10), tenant(20));
    let record = |site: &Site, name: &str| raw::get_xattr(&site.data.join(name), RECORD).unwrap();
    let own = ["cold", "warm", "plain"].map(|name| record(&ours, name));
    for carried in [record(&theirs, "cold").unwrap(), record(&theirs, "warm").unwrap()] {
        for name in ["cold", "warm", "plain"] {
            raw::set_xattr(&ours.data.join(name), RECORD, &carried, 0).unwrap();
        }
        let mount = ours.mount();
        assert_eq!(reads(&ours, 10), [Err(libc::EIO), Ok(true), Ok(true)]);
        for mode in [&["fsck"][..], &["fsck", "--repair"]] {
            let (code, text) = words(&mount, mode, &ours.mnt);
            assert_eq!(code, Some(1), "{text}");
            let named = ["cold: ", "warm: ", "plain: "];
            says(&text, &named);
            assert_eq!(text.matches("a record of the tenant numbered").count(), 3, "{text}");
        }
        let (_, text) = words(&mount, &["migrate", "-r"], &ours.mnt);
        says(&text, &["migrated 0 files", "3 foreign"]);
        mount.detach();
        assert_eq!(looks(&std::fs::read(ours.data.join("cold")).unwrap()), Looks::Stub);
        for (name, own) in ["cold", "warm", "plain"].into_iter().zip(&own) {
            assert_eq!(record(&ours, name), Some(carried.clone()), "{name}");
            match own {
                Some(own) => raw::set_xattr(&ours.data.join(name), RECORD, own, 0).unwrap(),
                None => raw::remove_xattr(&ours.data.join(name), RECORD).unwrap(),
            }
        }
    }
    is_whole(&ours, 10);
    is_whole(&theirs, 20);
}

/// The segments of a tenant: that of its cold file, and that of its warm one.
fn two_segments(site: &Site, seed: u64) -> [(PathBuf, Vec<u8>); 2] {
    [0, 1].map(|number| {
        let begin = pattern::bytes(seed + number, 100);
        segments(&site.store)
            .into_iter()
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .find(|(_, bytes)| bytes.windows(begin.len()).any(|window| window == begin))
            .expect("a segment with these bytes")
    })
}

#[test]
fn segments_and_footers_in_the_place_of_others_are_never_served_and_named() {
    if !can_tier() {
        return;
    }
    let (ours, theirs) = (tenant(10), tenant(20));
    let [(place, good), (_, other_file)] = two_segments(&ours, 10);
    let [(_, other_tenant), _] = two_segments(&theirs, 20);
    // Where its footer begins is the trailer's first number.
    let footer_at = |segment: &[u8]| {
        let trailer = &segment[segment.len() - 64..];
        u64::from_le_bytes(trailer[..8].try_into().unwrap()) as usize
    };
    let with_footer_of = |other: &[u8]| {
        assert_eq!(footer_at(other), footer_at(&good), "files alike lie alike");
        [&good[..footer_at(&good)], &other[footer_at(&good)..]].concat()
    };
    for (what, segment) in [
        ("the segment of another file", other_file.clone()),
        ("the segment of another tenant", other_tenant.clone()),
        ("the footer of another file", with_footer_of(&other_file)),
        ("the footer of another tenant", with_footer_of(&other_tenant)),
    ] {
        std::fs::write(&place, &segment).unwrap();
        let mount = ours.mount();
        let (code, text) = words(&mount, &["fsck"], &ours.mnt);
        assert_eq!(code, Some(1), "{what}: {text}");
        says(&text, &["cold: ", "lost: "]);
        assert!(!text.contains("warm: "), "{what}: {text}");
        let [cold, warm, plain] = reads(&ours, 10);
        // A chunk proves itself: a footer says nothing that a read needs.
        let whole = what.starts_with("the footer");
        assert_eq!(cold, if whole { Ok(true) } else { Err(libc::EIO) }, "{what}");
        assert_eq!((warm, plain), (Ok(true), Ok(true)), "{what}");
        if !whole {
            assert_eq!(mount.state(&ours.mnt.join("cold")), "lost", "{what}");
            let (_, text) = words(&mount, &["recall"], &ours.mnt.join("cold"));
            says(&text, &["cold: ", "store's versions"]);
        }
        std::fs::write(&place, &good).unwrap();
        let (code, text) = words(&mount, &["fsck", "--repair"], &ours.mnt);
        assert_eq!(code, Some(0), "{what}: {text}");
        mount.detach();
        is_whole(&ours, 10);
    }
    is_whole(&theirs, 20);
}

#[test]
fn a_work_list_of_another_tenant_moves_nothing_here_or_there() {
    if !can_tier() {
        return;
    }
    // What is in flight there: bodies that are about to go, or are half here.
    for crash in ["release-after-record", "release-after-stub", "batch-after-chunk"] {
        let (ours, theirs) = (tenant(10), tenant(20));
        let mount = theirs.start(&Start::dying_at(crash));
        let (verb, name) =
            if crash.starts_with("release") { ("release", "warm") } else { ("recall", "cold") };
        mount.quick(verb, &theirs.mnt.join(name), false);
        assert!(mount.died_or_detached(Duration::from_secs(60)), "{crash} was not reached");
        let seen = |site: &Site| {
            let tree = Tree::of(&site.data, Depth::Content).unwrap();
            let records = ["cold", "warm", "plain"]
                .map(|name| raw::get_xattr(&site.data.join(name), RECORD).unwrap());
            (tree, records)
        };
        let (tree, records) = seen(&theirs);
        let intents = |site: &Site| site.data.join(".coldfs/intents");
        std::fs::copy(intents(&theirs), intents(&ours)).unwrap();

        is_whole(&ours, 10);
        let (after, records_after) = seen(&theirs);
        after.assert_equal(&tree, Strict::SameFile, crash);
        assert_eq!(records_after, records, "{crash}");
        is_whole(&theirs, 20);
    }
}

#[test]
fn a_work_list_of_a_copy_moves_nothing_in_the_original() {
    if !can_tier() {
        return;
    }
    for crash in ["release-after-record", "release-after-stub", "batch-after-chunk"] {
        let (original, mut copy) = (tenant(10), Site::new());
        let mount = original.start(&Start::dying_at(crash));
        let (verb, name) =
            if crash.starts_with("release") { ("release", "warm") } else { ("recall", "cold") };
        mount.quick(verb, &original.mnt.join(name), false);
        assert!(mount.died_or_detached(Duration::from_secs(60)), "{crash} was not reached");
        // On the same filesystem, where the handles in the list open the original's files.
        must(Command::new("cp").arg("-aT").args([&original.data, &copy.data]));
        copy.store_url.clone_from(&original.store_url);
        let tree = Tree::of(&original.data, Depth::Content).unwrap();
        let record = raw::get_xattr(&original.data.join(name), RECORD).unwrap();

        let mount = copy.mount();
        let plain = std::fs::read(copy.mnt.join("plain")).unwrap();
        assert!(plain == pattern::bytes(12, BYTES), "{crash}");
        mount.detach();
        let after = Tree::of(&original.data, Depth::Content).unwrap();
        after.assert_equal(&tree, Strict::SameFile, crash);
        assert_eq!(raw::get_xattr(&original.data.join(name), RECORD).unwrap(), record, "{crash}");
        is_whole(&original, 10);
    }
}
