//! Bringing files home: in bulk by list, by pattern, a whole tenant for good, and by reading enough.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::harness::mount::Mount;
use super::harness::pattern::{self, Looks, looks};
use super::harness::site::Site;
use super::harness::{can_tier, raw, run, wait_for};

const BYTES: usize = 20_000;
const NAMES: [&str; 6] = ["a.flac", "b.flac", "c.txt", "d\ne", "sub/f.flac", "sub/g h"];

fn cold() -> Option<(Site, Mount)> {
    if !can_tier() {
        return None;
    }
    let site = Site::new();
    std::fs::create_dir(site.data.join("sub")).unwrap();
    for (seed, name) in NAMES.iter().enumerate() {
        std::fs::write(site.data.join(name), pattern::bytes(seed as u64, BYTES)).unwrap();
    }
    std::fs::write(site.data.join("tiny"), "x").unwrap();
    let mount = site.mount();
    mount.all("migrate", &site.mnt);
    Some((site, mount))
}

fn home(site: &Site, mount: &Mount) -> Vec<&'static str> {
    NAMES.into_iter().filter(|name| mount.state(&site.mnt.join(name)) == "archived").collect()
}

fn ran(mount: &Mount, args: &[&std::ffi::OsStr]) -> (Option<i32>, Value) {
    let output = mount.coldfs(args);
    let answer = serde_json::from_slice(&output.stdout);
    (output.status.code(), answer.unwrap_or_else(|error| panic!("{error}: {output:?}")))
}

fn list(site: &Site, names: &[&str], end: &[u8]) -> PathBuf {
    let file = site.dir.path().join("list");
    let mut text = Vec::new();
    for name in names {
        text.extend_from_slice(site.mnt.join(name).as_os_str().as_bytes());
        text.extend_from_slice(end);
    }
    std::fs::write(&file, text).unwrap();
    file
}

#[test]
fn files_are_recalled_by_list_and_by_pattern() {
    let Some((site, mount)) = cold() else { return };
    let recall = |more: &[&std::ffi::OsStr]| {
        let mut args: Vec<&std::ffi::OsStr> = vec!["recall".as_ref(), "--json".as_ref()];
        args.extend(more);
        let (code, summary) = ran(&mount, &args);
        assert_eq!(code, Some(0), "{summary}");
        summary["files_done"].as_u64().unwrap()
    };
    let lines = list(&site, &["c.txt", "sub/g h"], b"\n");
    assert_eq!(recall(&["--files-from".as_ref(), lines.as_os_str()]), 2);
    let nuls = list(&site, &["d\ne"], b"\0");
    assert_eq!(recall(&["-0".as_ref(), "--files-from".as_ref(), nuls.as_os_str()]), 1);
    assert_eq!(home(&site, &mount), ["c.txt", "d\ne", "sub/g h"]);
    let flac = ["-r".as_ref(), "--name".as_ref(), "*.flac".as_ref(), site.mnt.as_os_str()];
    assert_eq!(recall(&flac), 3);
    assert_eq!(home(&site, &mount), NAMES);
    let none = mount.coldfs(["recall", "--files-from", "/nowhere"]);
    assert_eq!(none.status.code(), Some(2));
    mount.detach();
}

#[test]
fn more_small_files_than_a_batch_has_come_home_as_they_were() {
    const FILES: u64 = 1_100;
    if !can_tier() {
        return;
    }
    let site = Site::new();
    let name = |number: u64| format!("{number:04}");
    let bytes = |number: u64| pattern::bytes(number, 4_200 + number as usize);
    for number in 0..FILES {
        std::fs::write(site.data.join(name(number)), bytes(number)).unwrap();
    }
    let mtime = |number: u64| site.data.join(name(number)).metadata().unwrap().modified().unwrap();
    let before: Vec<_> = (0..FILES).map(mtime).collect();
    let mount = site.mount();
    mount.all("migrate", &site.mnt);
    let args: [&std::ffi::OsStr; 4] =
        ["recall".as_ref(), "--json".as_ref(), "-r".as_ref(), site.mnt.as_os_str()];
    let (code, summary) = ran(&mount, &args);
    assert_eq!((code, &summary["files_done"]), (Some(0), &FILES.into()), "{summary}");
    mount.detach();
    for number in 0..FILES {
        assert!(std::fs::read(site.data.join(name(number))).unwrap() == bytes(number), "{number}");
    }
    assert!((0..FILES).map(mtime).eq(before), "a time moved");
}

/// A read needs no room, no lease and no disk: only the file's way home does.
#[test]
fn a_small_file_is_read_while_it_cannot_come_home_and_comes_when_it_can() {
    let Some((site, mount)) = cold() else { return };
    let path = site.mnt.join(NAMES[0]);
    let read = || assert!(std::fs::read(&path).unwrap() == pattern::bytes(0, BYTES));
    let behind = raw::open(&site.data.join(NAMES[0]), libc::O_RDONLY, 0).unwrap();
    read();
    read();
    assert_eq!(mount.state(&path), "released");
    drop(behind);
    // What failed just before is tried again by the next reader.
    let came = wait_for(Duration::from_secs(60), || {
        read();
        (mount.state(&path) == "archived").then_some(())
    });
    assert!(came.is_some(), "{}", mount.state(&path));
    // From here on nothing asks the store.
    std::fs::remove_dir_all(&site.store).unwrap();
    read();
    mount.detach();
    assert!(std::fs::read(site.data.join(NAMES[0])).unwrap() == pattern::bytes(0, BYTES));
}

#[test]
fn a_list_that_names_what_nobody_serves_moves_the_others_and_names_it() {
    let Some((site, mount)) = cold() else { return };
    let list = list(&site, &["c.txt", "../elsewhere", "../gone/x", "sub/g h"], b"\n");
    let args: [&std::ffi::OsStr; 4] =
        ["recall".as_ref(), "--json".as_ref(), "--files-from".as_ref(), list.as_os_str()];
    let (code, summary) = ran(&mount, &args);
    assert_eq!(code, Some(1), "{summary}");
    assert_eq!((&summary["files_done"], &summary["failed_total"]), (&2.into(), &2.into()));
    let failed = summary["failed"].to_string();
    assert!(failed.contains("elsewhere") && failed.contains("gone/x"), "{failed}");
    assert_eq!(home(&site, &mount), ["c.txt", "sub/g h"]);
    mount.detach();
}

#[test]
fn a_drained_tenant_is_plain_files_that_need_no_store() {
    let Some((site, mount)) = cold() else { return };
    let drain = |more: &[&str]| {
        let mut args: Vec<&std::ffi::OsStr> = vec!["drain".as_ref(), "--json".as_ref()];
        args.extend(more.iter().map(std::ffi::OsStr::new));
        args.push(site.mnt.as_os_str());
        ran(&mount, &args)
    };
    // One is at home already, and still has a record.
    mount.all("recall", &site.mnt.join("c.txt"));
    let (code, proof) = drain(&["--prove"]);
    assert_eq!((code, &proof["needing_the_store"]), (Some(1), &NAMES.len().into()));
    let (code, summary) = drain(&[]);
    assert_eq!((code, &summary["files_done"]), (Some(0), &NAMES.len().into()), "{summary}");
    let (code, proof) = drain(&["--prove"]);
    assert_eq!((code, &proof["needing_the_store"]), (Some(0), &0.into()), "{proof}");
    let (code, again) = drain(&[]);
    assert_eq!((code, &again["files_done"]), (Some(0), &0.into()), "{again}");
    mount.detach();
    std::fs::remove_dir_all(&site.store).unwrap();
    for (seed, name) in NAMES.iter().enumerate() {
        let path = site.data.join(name);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(looks(&bytes), Looks::Bytes, "{name}");
        assert!(bytes == pattern::bytes(seed as u64, BYTES), "{name}");
        assert_eq!(raw::get_xattr(&path, b"trusted.coldfs").unwrap(), None, "{name}");
    }
    assert!(plain_tools_agree(&site.data));
}

/// As anybody reads it who has never heard of coldfs.
fn plain_tools_agree(data: &Path) -> bool {
    let found = run(Command::new("grep").args(["-rl", "coldfs stub"]).arg(data));
    found.stdout.is_empty()
}

#[test]
fn a_large_file_comes_home_once_a_quarter_of_it_was_read() {
    if !can_tier() {
        return;
    }
    const MIB: usize = 1 << 20;
    const FILE_MIB: usize = 32;
    let site = Site::new();
    let bytes = pattern::bytes(6, FILE_MIB * MIB);
    std::fs::write(site.data.join("large"), &bytes).unwrap();
    let mount = site.mount();
    let path = site.mnt.join("large");
    mount.all("migrate", &path);
    let file = raw::open(&path, libc::O_RDONLY, 0).unwrap();
    // Each page that is asked for counts, and no other is.
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM).unwrap();
    let mut part = vec![0; MIB];
    let mut read = |number: usize| {
        // Here and there, none twice.
        let at = number * 7 % FILE_MIB * MIB;
        file.read_exact_at(&mut part, at as u64).unwrap();
        assert!(part == bytes[at..at + MIB], "at {at}");
    };
    let before = mount.counter("recall_bytes_total");
    (0..FILE_MIB / 4 - 1).for_each(&mut read);
    let fetched = mount.counter("recall_bytes_total") - before;
    // Some of it ahead of the reader.
    assert!(fetched < (FILE_MIB / 2 * MIB) as u64, "{fetched} bytes were fetched");
    assert_eq!(mount.state(&path), "released", "less than a quarter");
    (FILE_MIB / 4 - 1..FILE_MIB / 4 + 1).for_each(&mut read);
    mount.comes_home(&path);
    drop(file);
    assert!(std::fs::read(site.data.join("large")).unwrap() == bytes);
    mount.detach();
}
