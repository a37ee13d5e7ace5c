//! Names that few programs expect, and directories deeper than a path can say.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::Output;

use super::harness::mount::{Mount, Start};
use super::harness::pattern;
use super::harness::site::Site;
use super::harness::{can_tier, sh};

const BYTES: usize = 50_000;
const DEPTH: usize = 200;

/// What each file is called below the root, in the order of their seeds.
fn names() -> Vec<PathBuf> {
    let deep: PathBuf = (0..DEPTH).map(|level| format!("level-{level}")).collect();
    let long = OsString::from_vec(b"\xff".repeat(255));
    let odd: [&[u8]; 6] =
        [b"not \xff\xfe utf-8", b"two\nlines", b"-rf", b"a\\x41%41'\"$", b"\x1b[31m", b" "];
    let mut names: Vec<PathBuf> =
        odd.into_iter().map(|name| OsStr::from_bytes(name).into()).collect();
    names.push(long.clone().into());
    names.push(PathBuf::from(&long).join(&long).join(long));
    names.push(deep.join("at the bottom"));
    names
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn asked(mount: &Mount, words: &[&str], path: &OsStr) -> Output {
    mount.coldfs(words.iter().map(OsStr::new).chain([path]))
}

/// The path of a line of JSON: text, or bytes in hexadecimal where it is none.
fn path_of(line: &serde_json::Value) -> PathBuf {
    match &line["path"] {
        serde_json::Value::String(text) => text.into(),
        other => {
            let hex = other["hex"].as_str().expect("hex");
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            OsString::from_vec((0..hex.len()).step_by(2).map(byte).collect()).into()
        }
    }
}

#[test]
fn files_of_any_name_and_depth_migrate_read_back_and_are_named_usably() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    // The bottle-neck's own: of a name as long as names are, a directory cannot be one, too.
    let names: Vec<PathBuf> = names()
        .into_iter()
        .enumerate()
        .map(|(number, name)| PathBuf::from(number.to_string()).join(name))
        .collect();
    for (seed, name) in names.iter().enumerate() {
        std::fs::create_dir_all(site.data.join(name).parent().unwrap()).unwrap();
        std::fs::write(site.data.join(name), pattern::bytes(seed as u64, BYTES)).unwrap();
    }
    let reads = |how: &str| {
        for (seed, name) in names.iter().enumerate() {
            let read = std::fs::read(site.mnt.join(name));
            assert!(read.unwrap() == pattern::bytes(seed as u64, BYTES), "{how}: {name:?}");
        }
    };
    let mount = site.mount();
    mount.all("migrate", &site.mnt);
    mount.detach();
    let mount = site.mount();
    let all: Vec<PathBuf> = names.iter().map(|name| site.mnt.join(name)).collect();

    let found = asked(&mount, &["find", "-0", "--state", "released"], site.mnt.as_os_str());
    let mut found: Vec<&[u8]> =
        found.stdout.split(|byte| *byte == 0).filter(|path| !path.is_empty()).collect();
    found.sort_unstable();
    let mut sorted: Vec<&[u8]> = all.iter().map(|path| path.as_os_str().as_bytes()).collect();
    sorted.sort_unstable();
    assert!(found == sorted, "coldfs find -0 names others");
    let found = text(&asked(&mount, &["find", "--json"], site.mnt.as_os_str()));
    let mut found: Vec<PathBuf> =
        found.lines().map(|line| path_of(&serde_json::from_str(line).unwrap())).collect();
    found.sort_unstable();
    let mut sorted = all.clone();
    sorted.sort_unstable();
    assert!(found == sorted, "coldfs find --json names others");
    for path in &all {
        let state = text(&asked(&mount, &["state", "--json"], path.as_os_str()));
        let state: serde_json::Value = serde_json::from_str(&state).unwrap();
        assert_eq!((path_of(&state), &state["state"]), (path.clone(), &"released".into()));
        let du = text(&asked(&mount, &["du", "--json"], path.as_os_str()));
        let du: serde_json::Value = serde_json::from_str(&du).unwrap();
        assert_eq!((path_of(&du), &du["files"]["released"]), (path.clone(), &1.into()));
    }
    reads("mounted again");
    for path in &all {
        mount.comes_home(path);
        let output = asked(&mount, &["release"], path.as_os_str());
        assert!(output.status.success(), "{path:?}: {output:?}");
        assert_eq!(mount.state(path), "released", "{path:?}");
        assert!(asked(&mount, &["recall"], path.as_os_str()).status.success(), "{path:?}");
        assert_ne!(mount.state(path), "released", "{path:?}");
    }
    reads("recalled");
    mount.detach();
}

#[test]
fn a_file_deeper_than_a_path_can_say_migrates_or_is_left_alone_and_reads() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    // Twenty times 250 bytes, which nobody can open by one name.
    let level = "d".repeat(250);
    let descend = format!("for i in $(seq 20); do cd -P -- {level}; done");
    sh(
        &site.data,
        &format!(
            "for i in $(seq 20); do mkdir {level}; cd -P -- {level}; done; seq 20000 > file; cp file beside"
        ),
    );
    let mount = site.start(&Start::default());
    let moved = asked(&mount, &["--json", "migrate", "-r", "--wait"], site.mnt.as_os_str());
    let moved: serde_json::Value = serde_json::from_str(&text(&moved)).unwrap();
    let skipped = moved["skipped"].as_array().unwrap();
    let left: u64 = skipped.iter().map(|skip| skip["files"].as_u64().unwrap()).sum();
    assert_eq!(moved["files_done"].as_u64().unwrap() + left, 2, "{moved}");
    let read = format!("{descend}; cat file | cmp - <(seq 20000); cmp file beside; echo same");
    assert_eq!(sh(&site.mnt, &read), "same\n");
    mount.detach();
    let mount = site.mount();
    assert_eq!(sh(&site.mnt, &read), "same\n");
    mount.detach();
}

/// Levels and bytes of a directory that no path reaches.
const BEYOND_LEVELS: usize = 160;
const BEYOND_NAME: &str = "a-name-of-thirty-bytes-exactly";

/// The directory at the bottom, below `root`, made where it is not there.
fn beyond(root: &std::path::Path) -> std::os::fd::OwnedFd {
    use nix::fcntl::{OFlag, open, openat};
    use nix::sys::stat::{Mode, mkdirat};
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut dir = open(root, flags, Mode::empty()).unwrap();
    for _ in 0..BEYOND_LEVELS {
        match mkdirat(&dir, BEYOND_NAME, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => panic!("{error}"),
        }
        dir = openat(&dir, BEYOND_NAME, flags, Mode::empty()).unwrap();
    }
    dir
}

fn file_beyond(root: &std::path::Path, flags: nix::fcntl::OFlag) -> std::fs::File {
    use nix::sys::stat::Mode;
    let mode = Mode::from_bits_truncate(0o644);
    nix::fcntl::openat(beyond(root), "file", flags, mode).unwrap().into()
}

#[test]
fn a_file_that_no_path_reaches_is_migrated_and_read() {
    use std::io::{Read, Write};
    if !can_tier() {
        return;
    }
    let site = Site::new();
    let new = nix::fcntl::OFlag::O_CREAT | nix::fcntl::OFlag::O_WRONLY;
    file_beyond(&site.data, new).write_all(&pattern::bytes(1, BYTES)).unwrap();
    let read = |mount: &Mount| {
        let mut bytes = Vec::new();
        file_beyond(&site.mnt, nix::fcntl::OFlag::O_RDONLY).read_to_end(&mut bytes).unwrap();
        assert!(bytes == pattern::bytes(1, BYTES));
        mount.beat();
    };
    let mount = site.mount();
    let output = asked(&mount, &["migrate", "-r", "--wait", "--json"], site.mnt.as_os_str());
    let summary: serde_json::Value = serde_json::from_str(&text(&output)).unwrap();
    assert_eq!(summary["files_done"], 1, "{summary}");
    assert_eq!(mount.status()["tenants"][0]["files"]["released"], 1);
    read(&mount);
    mount.all("migrate", &site.mnt);
    mount.detach();
    let mount = site.mount();
    assert_eq!(mount.status()["tenants"][0]["files"]["released"], 1);
    read(&mount);
    mount.detach();
}
