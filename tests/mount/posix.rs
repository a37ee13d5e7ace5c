//! What pjdfstest and the model do not ask: traps that other FUSE filesystems fell into.
//! These run on a stand-in as well.

use std::ffi::OsStr;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::harness::mount::{Mount, Start};
use super::harness::site::Site;
use super::harness::{Subject, can_mount, can_tier, copy_program, must, pattern, raw, run, sh};

fn site() -> Option<(Site, Mount)> {
    if !can_mount() {
        return None;
    }
    let site = Site::new();
    let mount = site.mount();
    Some((site, mount))
}

#[test]
fn a_file_unlinked_while_open_lives_until_it_is_closed() {
    let Some((site, mount)) = site() else { return };
    let path = site.mnt.join("file");
    std::fs::write(&path, pattern::bytes(1, 50_000)).unwrap();
    mount.all("migrate", &path);
    let mut file = raw::open(&path, libc::O_RDWR, 0).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    file.write_all_at(b"still here", 10_000).unwrap();
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    let mut expected = pattern::bytes(1, 50_000);
    expected[10_000..10_010].copy_from_slice(b"still here");
    assert!(bytes == expected);
    drop(file);
    mount.detach();
    assert!(!site.data.join("file").exists());
    assert!(
        !std::fs::read_dir(&site.data).unwrap().any(|entry| entry
            .unwrap()
            .file_name()
            .as_bytes()
            .starts_with(b".fuse_hidden")),
        "a hidden file is left"
    );
}

#[test]
fn what_is_no_regular_file_can_be_looked_at_after_its_removal_while_open() {
    let Some((site, mount)) = site() else { return };
    let (dir, fifo, other) = (site.mnt.join("dir"), site.mnt.join("fifo"), site.mnt.join("other"));
    std::fs::create_dir(&dir).unwrap();
    raw::mknod(&fifo, libc::S_IFIFO | 0o600, 0).unwrap();
    raw::mknod(&other, libc::S_IFIFO | 0o600, 0).unwrap();
    let open = |path, flags| raw::open(path, flags | libc::O_NONBLOCK, 0).unwrap();
    let held = [open(&dir, libc::O_RDONLY), open(&fifo, libc::O_RDWR), open(&other, libc::O_RDWR)];
    std::fs::remove_dir(&dir).unwrap();
    std::fs::remove_file(&fifo).unwrap();
    std::fs::write(site.mnt.join("over"), b"").unwrap();
    std::fs::rename(site.mnt.join("over"), &other).unwrap();
    // Past the second for which the kernel answers by itself.
    std::thread::sleep(std::time::Duration::from_millis(1_200));
    for file in &held {
        assert_eq!(file.metadata().unwrap().nlink(), 0);
    }
    (&held[1]).write_all(b"x").unwrap();
    drop(held);
    mount.detach();
}

#[test]
fn a_written_file_does_not_look_like_its_copy_once_its_old_time_is_set() {
    let Some((site, mount)) = site() else { return };
    let path = site.mnt.join("sparse");
    std::fs::write(&path, pattern::bytes(1, 20_000)).unwrap();
    nix::unistd::truncate(&path, 1 << 20).unwrap();
    mount.all("archive", &path);
    let mtime = |path| {
        let meta = std::fs::metadata(path).unwrap();
        meta.mtime() * 1_000_000_000 + meta.mtime_nsec()
    };
    let before = mtime(&path);
    let file = raw::open(&path, libc::O_RDWR, 0).unwrap();
    file.write_all_at(&pattern::bytes(2, 300_000), 500_000).unwrap();
    raw::set_mtime(&path, before).unwrap();
    assert!(file.metadata().unwrap().blocks() * 512 >= 300_000, "the copy's blocks are shown");
    drop(file);
    assert!(std::fs::metadata(&path).unwrap().blocks() * 512 >= 300_000);
    mount.all("migrate", &path);
    let mut expected = pattern::bytes(1, 20_000);
    expected.resize(1 << 20, 0);
    expected[500_000..800_000].copy_from_slice(&pattern::bytes(2, 300_000));
    assert!(std::fs::read(&path).unwrap() == expected);
    assert_eq!(mtime(&path), before);
    mount.detach();
}

#[test]
fn appends_of_many_handles_lose_nothing() {
    let Some((site, mount)) = site() else { return };
    let path = site.mnt.join("log");
    std::fs::write(&path, vec![b'.'; 8_192]).unwrap();
    mount.all("migrate", &path);
    std::thread::scope(|scope| {
        for writer in 0..4_u8 {
            let path = &path;
            scope.spawn(move || {
                let mut file = raw::open(path, libc::O_WRONLY | libc::O_APPEND, 0).unwrap();
                for line in 0..200 {
                    file.write_all(format!("{writer} {line:05}\n").as_bytes()).unwrap();
                }
            });
        }
    });
    let text = std::fs::read(&path).unwrap();
    assert!(text[..8_192].iter().all(|byte| *byte == b'.'));
    let text = String::from_utf8(text[8_192..].to_vec()).unwrap();
    for writer in 0..4 {
        let lines: Vec<&str> =
            text.lines().filter(|line| line.starts_with(&format!("{writer} "))).collect();
        let expected: Vec<String> = (0..200).map(|line| format!("{writer} {line:05}")).collect();
        assert_eq!(lines, expected);
    }
    mount.detach();
}

#[test]
fn names_of_any_bytes_and_any_depth_work() {
    let Some((site, mount)) = site() else { return };
    let long = "x".repeat(255);
    let names: [&[u8]; 6] =
        [b"\xff\xfe not utf-8", b"new\nline", b" ", b"-r", "\u{1f9ca}".as_bytes(), long.as_bytes()];
    for (index, name) in names.iter().enumerate() {
        let path = site.mnt.join(OsStr::from_bytes(name));
        std::fs::write(path, pattern::bytes(index as u64, 9_000)).unwrap();
    }
    let error = std::fs::write(site.mnt.join("x".repeat(256)), "").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
    let deep = (0..200).fold(site.mnt.clone(), |path, _| path.join("deep"));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("file"), pattern::bytes(99, 9_000)).unwrap();
    mount.all("migrate", &site.mnt);
    mount.detach();
    let mount = site.mount();
    for (index, name) in names.iter().enumerate() {
        let read = std::fs::read(site.mnt.join(OsStr::from_bytes(name))).unwrap();
        assert!(read == pattern::bytes(index as u64, 9_000), "{name:?}");
    }
    assert!(std::fs::read(deep.join("file")).unwrap() == pattern::bytes(99, 9_000));
    mount.detach();
}

#[test]
fn a_sparse_terabyte_keeps_its_size_and_holes() {
    let Some((site, mount)) = site() else { return };
    let path = site.mnt.join("terabyte");
    let file = raw::open(&path, libc::O_CREAT | libc::O_RDWR, 0o644).unwrap();
    file.set_len(1 << 40).unwrap();
    file.write_all_at(&pattern::bytes(1, 100_000), 1 << 39).unwrap();
    drop(file);
    std::fs::write(site.mnt.join("empty"), "").unwrap();
    mount.all("migrate", &site.mnt);
    if Subject::from_env().is_coldfs() {
        assert_eq!(mount.state(&path), "released");
        assert_eq!(mount.state(&site.mnt.join("empty")), "resident");
    }
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!(meta.len(), 1 << 40);
    assert!(meta.blocks() > 0 && meta.blocks() < 1_000, "{} blocks", meta.blocks());
    let file = raw::open(&path, libc::O_RDONLY, 0).unwrap();
    let mut bytes = vec![0; 100_000];
    file.read_exact_at(&mut bytes, 1 << 39).unwrap();
    assert!(bytes == pattern::bytes(1, 100_000));
    if Subject::from_env() != Subject::Bindfs {
        assert_eq!(raw::data_map(&file).unwrap().len(), 1);
    }
    drop(file);
    mount.all("migrate", &path);
    mount.all("recall", &path);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 40);
    mount.detach();
    let file = raw::open(&site.data.join("terabyte"), libc::O_RDONLY, 0).unwrap();
    let mut bytes = vec![0; 100_000];
    file.read_exact_at(&mut bytes, 1 << 39).unwrap();
    assert!(bytes == pattern::bytes(1, 100_000));
    if Subject::from_env() != Subject::Bindfs {
        assert_eq!(raw::data_map(&file).unwrap().len(), 1);
    }
}

#[test]
fn what_a_user_makes_belongs_to_the_user() {
    if !can_mount() {
        return;
    }
    let site = Site::new();
    raw::chmod(&site.data, 0o777);
    let mut start = Start::default();
    if Subject::from_env().is_coldfs() {
        start.args = ["-o", "allow_other"].map(String::from).to_vec();
    }
    site.open_way();
    let mount = site.start(&start);
    std::fs::create_dir(site.mnt.join("setgid")).unwrap();
    raw::chown(&site.mnt.join("setgid"), 1_000, 2_000).unwrap();
    raw::chmod(&site.mnt.join("setgid"), 0o2777);
    let script = "umask 027; echo x > file; mkdir dir; echo x > setgid/file; mkdir setgid/dir; \
                  ln -s x link; ln file hard; mkfifo fifo; \
                  ! cat forbidden 2>/dev/null; ! echo x > /proc/self/cwd/forbidden2/x 2>/dev/null";
    std::fs::write(site.mnt.join("forbidden"), "secret").unwrap();
    raw::chmod(&site.mnt.join("forbidden"), 0o600);
    let mut user = Command::new("sh");
    user.args(["-euc", script]).current_dir(&site.mnt).uid(1_000).gid(1_000);
    must(&mut user);
    let look = |name: &str| {
        let meta = std::fs::symlink_metadata(site.mnt.join(name)).unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o7777)
    };
    assert_eq!(look("file"), (1_000, 1_000, 0o640));
    assert_eq!(look("dir"), (1_000, 1_000, 0o750));
    assert_eq!(look("setgid/file"), (1_000, 2_000, 0o640));
    assert_eq!(look("setgid/dir"), (1_000, 2_000, 0o2750));
    assert_eq!((look("link").0, look("link").1), (1_000, 1_000));
    assert_eq!(look("fifo"), (1_000, 1_000, 0o640));

    // A write by somebody else takes setuid away.
    std::fs::write(site.mnt.join("suid"), pattern::bytes(1, 9_000)).unwrap();
    raw::chmod(&site.mnt.join("suid"), 0o6777);
    let mut user = Command::new("sh");
    user.args(["-euc", "echo x >> suid"]).current_dir(&site.mnt).uid(1_000).gid(1_000);
    must(&mut user);
    assert_eq!(look("suid").2, 0o777, "setuid survives another user's write");

    // And where a cold file is truncated as it is opened.
    std::fs::write(site.mnt.join("cold-suid"), pattern::bytes(1, 9_000)).unwrap();
    mount.all("migrate", &site.mnt.join("cold-suid"));
    raw::chmod(&site.mnt.join("cold-suid"), 0o6777);
    let mut user = Command::new("sh");
    user.args(["-euc", ": > cold-suid"]).current_dir(&site.mnt).uid(1_000).gid(1_000);
    must(&mut user);
    assert_eq!(look("cold-suid").2, 0o777, "setuid survives another user's truncation");
    mount.detach();
}

#[test]
fn locks_hold_between_processes() {
    let Some((site, mount)) = site() else { return };
    std::fs::write(site.mnt.join("lock"), pattern::bytes(1, 9_000)).unwrap();
    mount.all("migrate", &site.mnt);
    let script = "exec 9<>lock; flock -n 9; ! flock -n lock true; exec 9>&-; flock -n lock true";
    sh(&site.mnt, script);
    mount.detach();
}

#[test]
fn a_released_program_and_script_run() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    let mount = site.mount();
    copy_program("/bin/ls", &site.mnt.join("program"));
    let script = format!("#!/bin/sh\n{}echo ran\n", "# a comment line\n".repeat(500));
    std::fs::write(site.mnt.join("script"), script).unwrap();
    raw::chmod(&site.mnt.join("script"), 0o755);
    mount.all("migrate", &site.mnt);
    assert_eq!(mount.state(&site.mnt.join("program")), "released");
    assert_eq!(mount.state(&site.mnt.join("script")), "released");
    must(Command::new(site.mnt.join("program")).arg("/"));
    assert_eq!(must(&mut Command::new(site.mnt.join("script"))), "ran\n");
    mount.detach();
}

#[test]
fn a_nonblocking_read_of_a_released_file_gets_its_bytes() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    let mount = site.mount();
    for (name, len) in [("small", 50_000), ("medium", 5 << 20)] {
        std::fs::write(site.mnt.join(name), pattern::bytes(3, len)).unwrap();
        mount.all("migrate", &site.mnt.join(name));
        let mut file =
            raw::open(&site.mnt.join(name), libc::O_RDONLY | libc::O_NONBLOCK, 0).unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert!(bytes == pattern::bytes(3, len), "{name}");
    }
    drop(run(Command::new("true").current_dir(&site.mnt)));
    mount.detach();
}

#[test]
fn changes_to_released_files_are_applied_to_the_bytes_they_had() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    let mount = site.mount();
    let original = pattern::bytes(4, 300_000);
    type Change = fn(&std::path::Path, &mut Vec<u8>);
    let changes: [(&str, Change); 8] = [
        ("write", |path, bytes| {
            let file = raw::open(path, libc::O_WRONLY, 0).unwrap();
            file.write_all_at(b"changed", 123_456).unwrap();
            bytes[123_456..123_463].copy_from_slice(b"changed");
        }),
        ("append", |path, bytes| {
            let mut file = raw::open(path, libc::O_WRONLY | libc::O_APPEND, 0).unwrap();
            file.write_all(b"appended").unwrap();
            bytes.extend_from_slice(b"appended");
        }),
        ("shrink", |path, bytes| {
            nix::unistd::truncate(path, 100_001).unwrap();
            bytes.truncate(100_001);
        }),
        ("grow", |path, bytes| {
            nix::unistd::truncate(path, 400_000).unwrap();
            bytes.resize(400_000, 0);
        }),
        ("empty", |path, bytes| {
            nix::unistd::truncate(path, 0).unwrap();
            bytes.clear();
        }),
        ("o_trunc", |path, bytes| {
            let file = raw::open(path, libc::O_WRONLY | libc::O_TRUNC, 0).unwrap();
            file.write_all_at(b"new", 0).unwrap();
            *bytes = b"new".to_vec();
        }),
        ("punch", |path, bytes| {
            let file = raw::open(path, libc::O_RDWR, 0).unwrap();
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            raw::fallocate(&file, mode, 50_000, 60_000).unwrap();
            bytes[50_000..110_000].fill(0);
        }),
        ("mmap", |path, bytes| {
            let file = raw::open(path, libc::O_RDWR, 0).unwrap();
            let map = raw::Mapping::new(&file, bytes.len(), true).unwrap();
            map.write(200_000, b"mapped");
            map.sync().unwrap();
            bytes[200_000..200_006].copy_from_slice(b"mapped");
        }),
    ];
    for (name, change) in changes {
        let path = site.mnt.join(name);
        std::fs::write(&path, &original).unwrap();
        mount.all("migrate", &path);
        assert_eq!(mount.state(&path), "released", "{name}");
        let mut expected = original.clone();
        change(&path, &mut expected);
        assert!(std::fs::read(&path).unwrap() == expected, "{name}");
        mount.all("migrate", &path);
        assert!(std::fs::read(&path).unwrap() == expected, "{name}, migrated again");
    }
    mount.detach();
}

#[test]
fn file_capabilities_outlive_a_migration_and_a_recall() {
    if !can_tier() {
        return;
    }
    // `struct vfs_cap_data` of revision 2: CAP_NET_BIND_SERVICE, permitted and effective.
    let mut value = [0; 20];
    value[..4].copy_from_slice(&0x0200_0001u32.to_le_bytes());
    value[4..8].copy_from_slice(&(1u32 << 10).to_le_bytes());
    let name = b"security.capability";
    let site = Site::new();
    for file in ["before", "after"] {
        std::fs::write(site.data.join(file), pattern::bytes(3, 50_000)).unwrap();
    }
    raw::set_xattr(&site.data.join("before"), name, &value, 0).unwrap();
    let mount = site.mount();
    let [before, after] = ["before", "after"].map(|file| site.mnt.join(file));
    mount.all("migrate", &site.mnt);
    // Writing a stub would drop them for the time between: such a file keeps its bytes.
    assert_eq!(mount.state(&before), "archived");
    assert_eq!(mount.state(&after), "released");
    raw::set_xattr(&after, name, &value, 0).unwrap();
    for file in [&before, &after] {
        assert!(std::fs::read(file).unwrap() == pattern::bytes(3, 50_000));
        assert_eq!(raw::get_xattr(file, name).unwrap().as_deref(), Some(&value[..]), "{file:?}");
    }
    mount.comes_home(&after);
    assert_eq!(raw::get_xattr(&after, name).unwrap().as_deref(), Some(&value[..]), "at home");
    mount.detach();
}
