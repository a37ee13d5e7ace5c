//! Where people run it: without rights, read-only, over other filesystems, behind clocks that
//! are wrong, started by mount(8), ended by a signal.

use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::harness::facts::{Depth, Strict, Tree};
use super::harness::mount::{Start, is_mounted};
use super::harness::pattern::{self, Looks, looks};
use super::harness::site::Site;
use super::harness::volume::FsKind;
use super::harness::{
    can_loop, can_mount, can_tier, copy_program, has, is_running, must, raw, run, sh, wait_for,
};

const BYTES: usize = 50_000;
/// Larger than what is recalled inside `open`.
const LARGE: usize = 3 << 20;

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().expect("an errno")
}

/// Whether scripts can be run as a user here; says so where not.
pub(super) fn can_be_a_user() -> bool {
    has("setpriv") && has("unshare")
}

/// For scripts: waits until a process ended, as `is_running` sees it; false: it still runs.
const ENDED: &str = r#"
    ended() {
        for _ in $(seq 300); do
            grep -qs '^State:.[^Z]' "/proc/$1/status" || return 0
            sleep 0.1
        done
        return 1
    }
"#;

/// Runs a script as a user without any capability, who owns all of the site.
pub(super) fn as_user(site: &Site, script: &str) -> String {
    const USER: u32 = 1_000;
    for dir in [&site.data, &site.mnt, &site.store, &site.runtime] {
        raw::chown(dir, USER, USER).unwrap();
    }
    site.open_way();
    let script_file = site.dir.path().join("script");
    std::fs::write(&script_file, format!("{ENDED}\n{script}")).unwrap();
    raw::chmod(&script_file, 0o755);
    // /dev/fuse is open to all on most machines. Where it is not, it is here, for nobody else.
    // Other tests' mounts, copied into this namespace, would outlive their detach.
    let open_door = "awk '$3 ~ /^fuse/ { print $2 }' /proc/self/mounts | xargs -r umount -l; \
        mknod -m 666 door c 10 229; mount --bind door /dev/fuse; \
        exec setpriv --reuid 1000 --regid 1000 --clear-groups bash -euc '. ./script'";
    must(
        Command::new("unshare")
            .args(["-m", "bash", "-euc", open_door])
            .current_dir(site.dir.path())
            .env("COLDFS", env!("CARGO_BIN_EXE_coldfs"))
            .env("COLDFS_RUNTIME_DIR", &site.runtime)
            .env("COLDFS_STATE_DIR", &site.runtime)
            .env("COLDFS_QUIET_MS", "20")
            .env("DATA", &site.data)
            .env("MNT", &site.mnt)
            .env("STORE", &site.store),
    )
}

#[test]
fn a_user_without_rights_mounts_migrates_and_reads_back() {
    if !can_tier() || !can_be_a_user() {
        return;
    }
    let site = Site::new();
    let said = as_user(
        &site,
        r#"
        cd "$COLDFS_RUNTIME_DIR/.."; mkdir -p "$COLDFS_RUNTIME_DIR/seen"; cd "$COLDFS_RUNTIME_DIR/seen"
        sums() { (cd "$1"; find . -path ./.coldfs -prune -o -type f -print | sort | xargs sha256sum); }
        for i in 1 2 3; do seq $((i * 5000)) > "$DATA/f$i"; done
        seq 600000 > "$DATA/large"
        # Every inode in use costs a descriptor: fewer than the files that are made below.
        ulimit -n 1000
        "$COLDFS" mount "$DATA" "$MNT" --store "disk:$STORE" 2>notes || { cat notes; exit 1; }
        trap 'fusermount3 -uz "$MNT" || true' EXIT
        mkdir "$MNT/d"; seq 90000 > "$MNT/d/new"; ln "$MNT/d/new" "$MNT/d/hard"; ln -s new "$MNT/d/soft"
        mv "$MNT/f3" "$MNT/d/f3"; chmod 600 "$MNT/d/new"; setfattr -n user.mine -v kept "$MNT/d/new"
        find "$MNT" | xargs stat -c '%n %s %b %a %u %y %z %i %h' | sort > before; sums "$MNT" > sums
        timeout 60 "$COLDFS" migrate -r --wait "$MNT" >/dev/null
        "$COLDFS" find "$MNT" --state released | sed "s,$MNT/,," | sort
        find "$MNT" | xargs stat -c '%n %s %b %a %u %y %z %i %h' | sort > after
        diff before after
        getfattr -d -m - "$MNT/d/new" 2>/dev/null | grep =
        head -1 "$DATA/d/new"
        sums "$MNT" | diff sums -
        mkdir "$MNT/many"; (cd "$MNT/many"; seq 3000 | xargs touch; find . -newer "$DATA/f1" | wc -l)
        rm -r "$MNT/many"
        echo more >> "$MNT/f1"; tail -n 2 "$MNT/f1"; : > "$MNT/f2"
        timeout 60 "$COLDFS" migrate -r --wait "$MNT" >/dev/null
        timeout 60 "$COLDFS" recall -r "$MNT" >/dev/null
        "$COLDFS" state "$MNT/d/new" | grep -c released || true
        "$COLDFS" status "$MNT" | grep -E 'slower|user.coldfs' | cut -d: -f1
        sums "$MNT" > sums
        timeout 60 "$COLDFS" migrate -r --wait "$MNT" >/dev/null
        pid=$(basename "$COLDFS_RUNTIME_DIR"/*.sock .sock)
        fusermount3 -u "$MNT"; trap - EXIT
        ended "$pid"
        head -1 "$DATA/large"
        "$COLDFS" mount "$DATA" "$MNT" --store "disk:$STORE" 2>/dev/null
        trap 'fusermount3 -uz "$MNT" || true' EXIT
        sums "$MNT" | diff sums - && echo same
        pid=$(basename "$COLDFS_RUNTIME_DIR"/*.sock .sock)
        fusermount3 -u "$MNT"; trap - EXIT
        ended "$pid"
        "#,
    );
    let stub = "#!/bin/false coldfs stub 1";
    let expected = format!(
        "d/f3\nd/hard\nd/new\nf1\nf2\nlarge\nuser.mine=\"kept\"\n{stub}\n3001\n5000\nmore\n0\n\
         \x20 note         hot files are served by the daemon, slower\n\
         \x20 note         records live in user.coldfs, where the tenant's users can remove them\n\
         {stub}\nsame\n"
    );
    assert_eq!(said, expected);
}

#[test]
fn a_user_without_rights_keeps_modes_whatever_they_are() {
    if !can_tier() || !can_be_a_user() {
        return;
    }
    let site = Site::new();
    let said = as_user(
        &site,
        r#"
        cd "$COLDFS_RUNTIME_DIR/.."; mkdir -p "$COLDFS_RUNTIME_DIR/seen"; cd "$COLDFS_RUNTIME_DIR/seen"
        look() { (cd "$1"; find . -type f -path './[fl]*' | sort | xargs stat -c '%n %a %s %y'); }
        sums() { (cd "$1"; find . -type f -path './[fl]*' | sort | xargs sha256sum); }
        detach() {
            pid=$(basename "$COLDFS_RUNTIME_DIR"/*.sock .sock)
            fusermount3 -u "$MNT"; trap - EXIT
            ended "$pid"
        }
        for mode in 644 444 400 4755 2755 6711 1600 200; do
            seq 30000 > "$DATA/f$mode"; chmod $mode "$DATA/f$mode"
        done
        seq 600000 > "$DATA/later"; seq 30000 > "$DATA/latest"
        chmod 600 "$DATA/f200"; sums "$DATA" > sums; chmod 200 "$DATA/f200"; look "$DATA" > before
        "$COLDFS" mount "$DATA" "$MNT" --store "disk:$STORE" 2>notes || { cat notes; exit 1; }
        trap 'fusermount3 -uz "$MNT" || true' EXIT
        timeout 60 "$COLDFS" --json migrate -r --wait "$MNT" | sed 's/.*"skipped":/"skipped":/; s/"skipped_files":[^]]*],//' || true
        look "$MNT" | diff before -
        "$COLDFS" find "$MNT" --state released | sed "s,$MNT/,," | sort
        # Made read-only while they are cold, they read all the same.
        chmod 444 "$MNT/later"; chmod 400 "$MNT/latest"; chmod 6755 "$MNT/f1600"
        look "$MNT" > before
        chmod 600 "$MNT/f200"; sums "$MNT" | diff sums -; chmod 200 "$MNT/f200"
        timeout 60 "$COLDFS" migrate -r --wait "$MNT" >/dev/null || true
        timeout 60 "$COLDFS" recall -r "$MNT" >recalled 2>&1 || cat recalled
        chmod 600 "$MNT/f200"; sums "$MNT" | diff sums -; chmod 200 "$MNT/f200"
        look "$MNT" | diff before - && echo same
        # Made so behind the mount, they are read from the store and stay there.
        timeout 60 "$COLDFS" migrate --wait "$MNT/f644" >/dev/null; detach
        chmod 444 "$DATA/f644"
        "$COLDFS" mount "$DATA" "$MNT" --store "disk:$STORE" 2>/dev/null
        trap 'fusermount3 -uz "$MNT" || true' EXIT
        seq 30000 | cmp - "$MNT/f644" && echo reads
        timeout 60 "$COLDFS" recall "$MNT/f644" 2>&1 | grep -o 'f644: read-only or immutable.*'
        detach
        "#,
    );
    let expected = r#"
"skipped":[{"reason":"set-id","files":3},{"reason":"not-writable","files":3}],"failed":[],"failed_total":0}
f1600
f644
later
latest
same
reads
f644: read-only or immutable below: it is read from the store, and stays there; make it writable (chmod u+rw, chattr -i), then run the command again
"#;
    assert_eq!(said, expected.trim_start());
}

#[test]
fn a_file_of_another_owner_is_left_alone_and_the_error_says_whose_it_is() {
    if !can_tier() || !can_be_a_user() {
        return;
    }
    let site = Site::new();
    std::fs::write(site.data.join("theirs"), pattern::bytes(1, BYTES)).unwrap();
    raw::chmod(&site.data.join("theirs"), 0o666);
    let said = as_user(
        &site,
        r#"
        "$COLDFS" mount "$DATA" "$MNT" --store "disk:$STORE" 2>/dev/null
        trap 'fusermount3 -uz "$MNT"' EXIT
        "$COLDFS" migrate --wait "$MNT/theirs" 2>&1 | grep -o 'theirs: .*'
        "#,
    );
    assert_eq!(
        said,
        "theirs: it belongs to user 0: only that user's coldfs, or root's, may take the lease; \
         mount as that user, or as root, and run it there\n"
    );
}

#[test]
fn a_read_only_mount_reads_what_is_cold_and_refuses_changes() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    let mount = site.mount();
    for (name, bytes) in [("small", BYTES), ("large", LARGE), ("hot", BYTES)] {
        std::fs::write(site.mnt.join(name), pattern::bytes(1, bytes)).unwrap();
    }
    mount.all("migrate", &site.mnt.join("small"));
    mount.all("migrate", &site.mnt.join("large"));
    let before = Tree::of(&site.mnt, Depth::Stat).unwrap();
    mount.detach();
    let mount =
        site.start(&Start { args: ["-o", "ro"].map(String::from).to_vec(), ..Start::default() });
    Tree::of(&site.mnt, Depth::Stat).unwrap().assert_equal(&before, Strict::SameFile, "read-only");
    let hot = site.mnt.join("hot");
    for name in ["small", "large", "hot"] {
        let path = site.mnt.join(name);
        assert_eq!(errno(raw::open(&path, libc::O_RDWR, 0)), libc::EROFS, "{name}");
        assert_eq!(errno(std::fs::remove_file(&path)), libc::EROFS, "{name}");
        assert!(
            std::fs::read(&path).unwrap()
                == pattern::bytes(1, if name == "large" { LARGE } else { BYTES }),
            "{name}"
        );
    }
    assert_eq!(errno(std::fs::write(site.mnt.join("new"), "")), libc::EROFS);
    assert_eq!(errno(std::fs::create_dir(site.mnt.join("new"))), libc::EROFS);
    assert_eq!(errno(std::fs::rename(&hot, site.mnt.join("new"))), libc::EROFS);
    assert_eq!(
        errno(std::fs::set_permissions(&hot, PermissionsExt::from_mode(0o600))),
        libc::EROFS
    );
    Tree::of(&site.mnt, Depth::Content).unwrap();
    // What was read is where it was, and nothing is moved.
    for verb in [&["migrate"][..], &["recall"], &["drain"], &["pin"], &["fsck", "--repair"]] {
        let target = if verb == ["drain"] { site.mnt.clone() } else { hot.clone() };
        let words = verb.iter().map(std::ffi::OsStr::new);
        let output = mount.coldfs(words.chain([target.as_os_str()]));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{verb:?}: {said}");
        assert!(said.contains("Read-only file system") && said.contains("-o ro"), "{said}");
    }
    for name in ["small", "large"] {
        assert_eq!(mount.state(&site.mnt.join(name)), "released", "{name}");
    }
    mount.detach();
}

#[test]
fn a_directory_on_a_read_only_filesystem_is_served_and_left_as_it_is() {
    if !can_tier() || !can_loop() {
        return;
    }
    let mut site = Site::on(FsKind::Ext4, 256);
    let mount = site.mount();
    for (name, bytes) in [("small", BYTES), ("large", LARGE), ("hot", BYTES)] {
        std::fs::write(site.mnt.join(name), pattern::bytes(1, bytes)).unwrap();
    }
    mount.all("migrate", &site.mnt.join("small"));
    mount.all("migrate", &site.mnt.join("large"));
    let before = Tree::of(&site.mnt, Depth::Content).unwrap();
    mount.all("migrate", &site.mnt.join("small"));
    mount.detach();
    let root = site.volume().root().to_owned();
    must(Command::new("mount").args(["-o", "remount,ro"]).arg(&root));
    let mount = site.mount();
    Tree::of(&site.mnt, Depth::Content).unwrap().assert_equal(
        &before,
        Strict::SameFile,
        "read-only",
    );
    assert_eq!(mount.state(&site.mnt.join("small")), "released");
    assert_eq!(errno(std::fs::write(site.mnt.join("small"), "x")), libc::EROFS);
    assert_eq!(errno(std::fs::create_dir(site.mnt.join("new"))), libc::EROFS);
    mount.detach();
    must(Command::new("mount").args(["-o", "remount,rw"]).arg(&root));
    let mount = site.mount();
    Tree::of(&site.mnt, Depth::Content).unwrap().assert_equal(&before, Strict::SameFile, "again");
    mount.detach();
}

#[test]
fn another_filesystem_inside_is_left_alone_and_is_another_device() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    let inner = site.data.join("inner");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(inner.join("beneath"), pattern::bytes(7, BYTES)).unwrap();
    must(Command::new("mount").args(["-t", "tmpfs", "inner"]).arg(&inner));
    std::fs::write(inner.join("theirs"), pattern::bytes(2, BYTES)).unwrap();
    std::fs::write(site.data.join("ours"), pattern::bytes(1, BYTES)).unwrap();
    let mount = site.mount();
    mount.all("migrate", &site.mnt);
    assert_eq!(mount.state(&site.mnt.join("ours")), "released");
    let names = sh(&site.mnt, "ls");
    assert_eq!(names, "inner\nours\n");
    let (ours, theirs) = (site.mnt.join("ours"), site.mnt.join("inner/theirs"));
    assert_eq!(errno(std::fs::metadata(site.mnt.join("inner"))), libc::EXDEV);
    assert_eq!(errno(std::fs::read(&theirs)), libc::EXDEV);
    assert_eq!(errno(std::fs::rename(&ours, &theirs)), libc::EXDEV);
    assert_eq!(errno(std::fs::hard_link(&ours, site.mnt.join("inner/link"))), libc::EXDEV);
    let moved =
        mount.coldfs(["migrate".as_ref(), "-r".as_ref(), site.mnt.join("inner").as_os_str()]);
    assert_eq!(moved.status.code(), Some(1), "{}", String::from_utf8_lossy(&moved.stderr));
    assert!(std::fs::read(inner.join("theirs")).unwrap() == pattern::bytes(2, BYTES));
    must(Command::new("umount").arg(&inner));
    // What lies beneath is the tenant's.
    let seen =
        wait_for(Duration::from_secs(60), || std::fs::read(site.mnt.join("inner/beneath")).ok());
    assert!(seen.expect("what lies beneath is seen") == pattern::bytes(7, BYTES));
    mount.all("migrate", &site.mnt);
    assert_eq!(mount.state(&site.mnt.join("inner/beneath")), "released");
    mount.detach();
}

#[test]
fn changes_made_behind_a_mount_elsewhere_are_seen_within_a_second() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    std::fs::create_dir(site.data.join("dir")).unwrap();
    for name in ["rewritten", "grown", "removed", "renamed", "moded", "dir/listed", "cold"] {
        std::fs::write(site.data.join(name), pattern::bytes(1, BYTES)).unwrap();
    }
    let mount = site.mount();
    mount.all("migrate", &site.mnt.join("cold"));
    // All of it is known to the kernel, what is not there too.
    Tree::of(&site.mnt, Depth::Stat).unwrap();
    for name in ["rewritten", "grown", "moded"] {
        std::fs::read(site.mnt.join(name)).unwrap();
    }
    assert!(std::fs::metadata(site.mnt.join("new")).is_err());

    let file = raw::open(&site.data.join("rewritten"), libc::O_WRONLY, 0).unwrap();
    file.write_all_at(b"other bytes, as many", 1_000).unwrap();
    drop(file);
    let file = raw::open(&site.data.join("grown"), libc::O_WRONLY, 0).unwrap();
    file.write_all_at(b"grown", 2 * BYTES as u64).unwrap();
    drop(file);
    std::fs::remove_file(site.data.join("removed")).unwrap();
    std::fs::remove_file(site.data.join("cold")).unwrap();
    std::fs::rename(site.data.join("renamed"), site.data.join("dir/renamed")).unwrap();
    raw::chmod(&site.data.join("moded"), 0o600);
    raw::set_xattr(&site.data.join("moded"), b"user.mine", b"1", 0).unwrap();
    std::fs::write(site.data.join("new"), "new").unwrap();

    let of = |root: &Path| Tree::of(root, Depth::Content).map_err(|error| error.to_string());
    let told = || {
        let lines = of(&site.mnt)?.differences(&of(&site.data)?, Strict::SameFile);
        let lines: Vec<_> = lines
            .into_iter()
            .filter(|line| !line.starts_with(".: ") && !line.starts_with(".coldfs"))
            .collect();
        if lines.is_empty() { Ok(()) } else { Err(lines.join("\n")) }
    };
    // A second, and some more for a machine that is busy.
    let seen = wait_for(Duration::from_secs(10), || told().ok());
    assert!(seen.is_some(), "{}", told().unwrap_err());
    mount.detach();
}

#[test]
fn times_long_ago_and_far_ahead_survive_migration() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    // 1969, the first second before and after the epoch, 2200; nanoseconds in all.
    for (name, mtime) in [
        ("1969", -31_535_999_999_999_999_i64),
        ("before", -1),
        ("after", 1),
        ("2200", 7_258_118_400_123_456_789),
    ] {
        let path = site.data.join(name);
        std::fs::write(&path, pattern::bytes(1, BYTES)).unwrap();
        raw::set_mtime(&path, mtime).unwrap();
    }
    let before = Tree::of(&site.data, Depth::Content).unwrap();
    let mount = site.mount();
    mount.all("migrate", &site.mnt);
    for name in ["1969", "before", "after", "2200"] {
        assert_eq!(mount.state(&site.mnt.join(name)), "released", "{name}");
    }
    let equal = |depth, what: &str| {
        let lines = before.differences(&Tree::of(&site.mnt, depth).unwrap(), Strict::SameFile);
        let lines: Vec<_> = lines.into_iter().filter(|line| !line.starts_with(".: ")).collect();
        assert!(lines.is_empty(), "{what}: {}", lines.join("\n"));
    };
    equal(Depth::Content, "migrated");
    mount.all("migrate", &site.mnt);
    mount.detach();
    let mount = site.mount();
    mount.all("recall", &site.mnt);
    equal(Depth::Content, "recalled");
    mount.detach();
}

#[test]
fn a_daemon_whose_clock_is_wrong_migrates_and_reads_back() {
    if !can_tier() || !has("faketime") {
        return;
    }
    let site = Site::new().with_disk_store();
    // No earlier: Linux lets nobody set its clock to before 1970.
    let library = must(Command::new("faketime").args(["2000-01-01", "printenv", "LD_PRELOAD"]));
    for (file, clock) in [("old", "@1970-01-02 00:00:00"), ("new", "@2200-01-01 00:00:00")] {
        std::fs::write(site.data.join(file), pattern::bytes(1, BYTES)).unwrap();
        let env = [
            ("LD_PRELOAD", library.trim()),
            ("FAKETIME", clock),
            // Only the wall clock is wrong; nor are the times of files.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
            ("NO_FAKE_STAT", "1"),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let mount = site.start(&Start { env, ..Start::default() });
        mount.all("migrate", &site.mnt);
        assert_eq!(mount.state(&site.mnt.join(file)), "released", "{clock}");
        assert!(std::fs::read(site.mnt.join(file)).unwrap() == pattern::bytes(1, BYTES));
        mount.all("migrate", &site.mnt);
        mount.detach();
    }
    // And the clock is right again.
    let mount = site.mount();
    for file in ["old", "new"] {
        assert!(std::fs::read(site.mnt.join(file)).unwrap() == pattern::bytes(1, BYTES));
    }
    mount.detach();
}

#[test]
fn a_sigterm_detaches_and_ends_the_daemon_well() {
    if !can_tier() {
        return;
    }
    for over_itself in [false, true] {
        let mut site = Site::new();
        if over_itself {
            site = site.over_itself();
        }
        let mount = site.mount();
        std::fs::write(site.mnt.join("file"), pattern::bytes(1, LARGE)).unwrap();
        mount.all("migrate", &site.mnt);
        // Somebody is in the middle of reading it: no reason to stay.
        let reader = raw::open(&site.mnt.join("file"), libc::O_RDONLY, 0).unwrap();
        let mut head = [0; 100];
        reader.read_exact_at(&mut head, 0).unwrap();
        mount.end_by(libc::SIGTERM);
        assert!(!is_mounted(&site.mnt));
        drop(reader);
        let body = std::fs::read(site.data.join("file")).unwrap();
        assert!(looks(&body) == Looks::Stub || body == pattern::bytes(1, LARGE));
        let mount = site.mount();
        assert!(std::fs::read(site.mnt.join("file")).unwrap() == pattern::bytes(1, LARGE));
        mount.detach();
    }
}

#[test]
fn mount_8_and_its_helpers_are_served() {
    if !can_mount() || !can_tier() {
        return;
    }
    // As mount(8) calls /sbin/mount.TYPE, and as libfuse's mount.fuse calls a program.
    for name in ["mount.coldfs", "mount.fuse.coldfs", "coldfs"] {
        let site = Site::new();
        std::fs::write(site.data.join("file"), "hello").unwrap();
        let helper = site.dir.path().join(name);
        symlink(env!("CARGO_BIN_EXE_coldfs"), &helper).unwrap();
        let options = format!(
            "rw,nosuid,nodev,noexec,relatime,_netdev,x-systemd.automount,allow_other,store=disk:{}",
            site.store.display()
        );
        let coldfs = |program: &Path| {
            let mut command = Command::new(program);
            command.env("COLDFS_RUNTIME_DIR", &site.runtime).env("COLDFS_STATE_DIR", &site.runtime);
            command
        };
        let mut command = coldfs(&helper);
        must(command.arg(&site.data).arg(&site.mnt).args(["-o", &options]));
        assert_eq!(std::fs::read(site.mnt.join("file")).unwrap(), b"hello", "{name}");
        let flags = sh(&site.mnt, "findmnt -no FSTYPE,OPTIONS --target .");
        for word in ["fuse.coldfs", "nosuid", "nodev", "noexec", "allow_other"] {
            assert!(flags.contains(word), "{name}: {word} is not in {flags}");
        }
        let again = run(coldfs(&helper).arg(&site.data).arg(&site.mnt).args(["-o", "rw,bogus"]));
        assert_eq!(again.status.code(), Some(2), "{name}");
        assert!(String::from_utf8_lossy(&again.stderr).contains("-o bogus"), "{name}");
        let pids: Vec<u32> = std::fs::read_dir(&site.runtime)
            .unwrap()
            .filter_map(|entry| {
                entry.unwrap().file_name().to_str()?.strip_suffix(".sock")?.parse().ok()
            })
            .collect();
        must(Command::new("umount").arg(&site.mnt));
        assert_eq!(pids.len(), 1, "{name}: one daemon");
        let gone = wait_for(Duration::from_secs(60), || (!is_running(pids[0])).then_some(()));
        assert!(gone.is_some(), "{name}: the daemon ends once it is detached");
        assert_eq!(std::fs::metadata(site.data.join("file")).unwrap().nlink(), 1);
    }
}

/// Whether a user without rights can do it at the mount.
fn as_stranger(site: &Site, command: &str) -> bool {
    let mut stranger = Command::new("setpriv");
    stranger.args(["--reuid", "1234", "--regid", "1234", "--clear-groups", "sh", "-c", command]);
    run(stranger.current_dir(site.dir.path())).status.success()
}

#[test]
fn options_of_mount_8_do_what_they_say() {
    use nix::sys::statvfs::{FsFlags, statvfs};
    if !can_tier() || !has("setpriv") {
        return;
    }
    let site = Site::new();
    site.open_way();
    raw::chmod(&site.data, 0o755);
    copy_program("/usr/bin/id", &site.data.join("id"));
    raw::chmod(&site.data.join("id"), 0o4755);
    raw::mknod(&site.data.join("null"), libc::S_IFCHR | 0o666, nix::sys::stat::makedev(1, 3))
        .unwrap();
    let runs = |command: &str| as_stranger(&site, command);
    let known = FsFlags::ST_RDONLY
        | FsFlags::ST_NOSUID
        | FsFlags::ST_NODEV
        | FsFlags::ST_NOEXEC
        | FsFlags::ST_NOATIME
        | FsFlags::ST_SYNCHRONOUS;
    let all = FsFlags::ST_NOSUID | FsFlags::ST_NODEV | FsFlags::ST_NOEXEC;
    for (options, flags) in [
        ("defaults", FsFlags::empty()),
        ("ro", FsFlags::ST_RDONLY),
        ("nosuid", FsFlags::ST_NOSUID),
        ("nodev", FsFlags::ST_NODEV),
        ("noexec", FsFlags::ST_NOEXEC),
        ("sync", FsFlags::ST_SYNCHRONOUS),
        // As fstab has them, and as mount(8) makes them of it.
        ("rw,nosuid,nodev,noexec,users", all),
        ("rw,noexec,nodev,users,suid", all - FsFlags::ST_NOSUID),
        ("user,exec,dev,suid", FsFlags::empty()),
        ("owner", FsFlags::ST_NOSUID | FsFlags::ST_NODEV),
        ("nosuid,suid,ro,rw,sync,async", FsFlags::empty()),
        (
            "auto,noauto,nouser,nofail,_netdev,atime,noatime,relatime,norelatime,strictatime,nostrictatime,\
             diratime,nodiratime,default_permissions,silent,loud,x-systemd.automount,X-mount.mkdir,\
             comment=a,uhelper=b,helper=c",
            FsFlags::empty(),
        ),
    ] {
        let args = ["-o".to_owned(), format!("{options},allow_other")].to_vec();
        let mount = site.start(&Start { args, ..Start::default() });
        let shown = statvfs(&site.mnt).unwrap().flags() & known;
        assert_eq!(shown, flags, "{options}");
        let is = |flag| flags.contains(flag);
        assert_eq!(!is(FsFlags::ST_NOEXEC), runs("mnt/id -u"), "{options}");
        let is_root = "test $(mnt/id -u) = 0";
        assert_eq!(!flags.intersects(FsFlags::ST_NOSUID | FsFlags::ST_NOEXEC), runs(is_root));
        assert_eq!(!is(FsFlags::ST_NODEV), runs("cat mnt/null"), "{options}");
        let written = std::fs::write(site.mnt.join("new"), "new");
        assert_eq!(!is(FsFlags::ST_RDONLY), written.is_ok(), "{options}: {written:?}");
        mount.detach();
    }
    let dirsync = ["-o", "dirsync"].map(String::from).to_vec();
    let mount = site.start(&Start { args: dirsync, ..Start::default() });
    let shown = sh(&site.mnt, "findmnt -no OPTIONS --target .");
    assert!(shown.contains("dirsync"), "{shown}");
    assert!(!runs("ls mnt"), "without allow_other");
    mount.detach();
}
