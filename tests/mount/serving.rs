//! Many tenants in one daemon: each comes and goes by itself, and what is wrong with one is its
//! own matter.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use super::environments::{as_user, can_be_a_user};
use super::harness::fleet::{Fleet, PATIENCE};
use super::harness::mount::{is_mounted, shown_state as state};
use super::harness::pattern::{self, Looks, looks};
use super::harness::site::Site;
use super::harness::volume::{FsKind, Volume};
use super::harness::{
    Subject, can_loop, can_tier, coldfs, is_running, must, raw, run, run_within, say, wait_for,
};

const BYTES: usize = 200_000;

fn not_here() -> bool {
    !can_tier() || Subject::from_env() != Subject::Coldfs
}

/// A site with tenants of these names, each with a file of its own bytes.
fn site_of(names: &[&str]) -> Site {
    let site = Site::new();
    for (index, name) in names.iter().enumerate() {
        site.tenant(name, &bytes(index));
    }
    site
}

fn bytes(index: usize) -> Vec<u8> {
    pattern::bytes(index as u64, BYTES)
}

fn file(site: &Site, name: &str) -> PathBuf {
    site.plain.join(name).join("file")
}

fn is_whole(path: &Path, index: usize) {
    assert!(std::fs::read(path).unwrap() == bytes(index), "{}", path.display());
}

/// Unmounts as a person would. RELEASE comes after close(2): busy for a moment.
fn unmount(at: &Path) {
    let command = || run(Command::new("fusermount3").arg("-u").arg(at)).status.success();
    assert!(wait_for(PATIENCE, || command().then_some(())).is_some(), "{} is busy", at.display());
}

fn all_mounted(fleet: &Fleet, names: &[&str]) {
    names.iter().for_each(|name| fleet.becomes(name, "mounted"));
}

/// Such a site, served: all its tenants are mounted.
fn served(names: &[&str]) -> (Site, Fleet) {
    let site = site_of(names);
    let fleet = site.serve(&site.fleet_text("", names));
    all_mounted(&fleet, names);
    (site, fleet)
}

#[test]
fn one_tenant_comes_and_goes_while_files_of_another_move() {
    if not_here() {
        return;
    }
    let names = ["one", "two", "three"];
    let (site, fleet) = served(&names);
    for (index, name) in names.iter().enumerate() {
        is_whole(&file(&site, name), index);
    }
    fleet.all("migrate", &site.plain.join("two"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::SeqCst) || rounds == 0 {
                fleet.all("migrate", &site.plain.join("one"));
                is_whole(&file(&site, "one"), 0);
                fleet.all("recall", &site.plain.join("one"));
                rounds += 1;
            }
        });
        for _ in 0..3 {
            fleet.must(&["tenant", "detach", "two"]);
            assert_eq!(fleet.state("two"), "detached");
            let stub = std::fs::read(file(&site, "two")).unwrap();
            assert_eq!(looks(&stub), Looks::Stub, "detached, it fails closed");
            fleet.must(&["tenant", "attach", "two"]);
            assert_eq!(state(&file(&site, "two")), "released");
            // Detached by anybody, as any mount.
            unmount(&site.plain.join("three"));
            fleet.becomes("three", "detached");
            is_whole(&file(&site, "three"), 2);
            fleet.must(&["tenant", "attach", "three"]);
        }
        done.store(true, Ordering::SeqCst);
        moving.join().unwrap();
    });
    is_whole(&file(&site, "two"), 1);
    all_mounted(&fleet, &names);
    assert!(fleet.end().success());
}

#[test]
fn requests_go_to_the_tenant_whose_path_they_name() {
    if not_here() {
        return;
    }
    let names = ["one", "two"];
    let (site, fleet) = served(&names);
    let (one, two) = (site.plain.join("one"), site.plain.join("two"));
    // One command, paths of both; then one that names one of them.
    let both = ["archive".as_ref(), "-r".as_ref(), "--wait".as_ref()];
    fleet.must(&[&both[..], &[one.as_os_str(), two.as_os_str()]].concat());
    fleet.all("release", &two);
    assert_eq!(
        (state(&file(&site, "one")), state(&file(&site, "two"))),
        ("archived".to_owned(), "released".to_owned())
    );
    let of_one = |args: &[&str]| {
        let text = fleet.must(&[args, &[one.to_str().unwrap(), "--json"]].concat());
        serde_json::from_str::<serde_json::Value>(text.lines().next().unwrap()).unwrap()
    };
    let status = of_one(&["status"]);
    assert_eq!(status["tenants"].as_array().unwrap().len(), 1);
    assert_eq!(status["tenants"][0]["name"], "one");
    assert_eq!(status["tenants"][0]["files"]["archived"], 1);
    assert_eq!(of_one(&["brake"])["tenant"], "one");
    assert_eq!(of_one(&["top", "--once"]).as_array().unwrap().len(), 1);
    assert_eq!(of_one(&["policy", "show"])["name"], "default");
    // Of all: those too that are not mounted.
    is_whole(&file(&site, "two"), 1);
    fleet.must(&["tenant", "detach", "two"]);
    let status = fleet.status();
    let of = |name: &str| {
        let tenants = status["tenants"].as_array().unwrap();
        tenants.iter().find(|tenant| tenant["name"] == name).unwrap().clone()
    };
    assert_eq!(
        (of("one")["mounted"].clone(), of("two")["mounted"].clone()),
        (true.into(), false.into())
    );
    // What it did is not forgotten with it.
    assert!(status["counters"]["recall_bytes_total"].as_u64() > Some(0), "{status:#}");
    assert!(status["counters"]["migrate_files_total"].as_u64() >= Some(3), "{status:#}");
    assert!(fleet.end().success());
}

#[test]
fn what_is_wrong_with_one_is_named_and_the_others_are_served() {
    if not_here() {
        return;
    }
    let names = ["one", "two"];
    let site = site_of(&names);
    let mount = site.mount();
    let at = |name: &str| site.plain.join(name).display().to_string();
    let text = site.fleet_text("", &["one", "gone", "two"])
        + &format!("[[tenants]]\ndata_dir = '{}'\nname = 'one'\n", at("other"))
        + &format!("[[tenants]]\nname = 'same'\ndata_dir = '{}'\n", at("one"))
        + &format!("[[tenants]]\nname = 'late'\ndata_dir = '{}'\n", site.mnt.display())
        + &format!("[[tenants]]\nname = 'odd'\ndata_dir = '{}'\noptions = 'zip'\n", at("odd"));
    // As a person begins it: the command returns, and says who is left out.
    let config = site.dir.path().join("fleet.toml");
    std::fs::write(&config, text).unwrap();
    let mut command = coldfs();
    command.arg("serve").arg("--config").arg(&config);
    command.env("COLDFS_RUNTIME_DIR", &site.runtime).env("COLDFS_STATE_DIR", &site.runtime);
    let output = run_within(&mut command, PATIENCE).expect("it returns");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let pid = wait_for(PATIENCE, || {
        let entries = std::fs::read_dir(&site.runtime).unwrap();
        let pid = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.unwrap().path().file_name()?.to_str()?.strip_suffix(".sock")?.parse::<u32>().ok()
        };
        entries.filter_map(pid).find(|pid| *pid != mount.pid())
    });
    let _ended = EndedAtLast(pid.expect("it has a socket"), site.plain.clone());
    assert!(output.status.success(), "{said}");
    for words in [
        ["note: 2 of 7 tenants are mounted", ""],
        ["left out: gone", "mkdir -p"],
        ["tenant one: the name is that of line", "give one of them another name"],
        ["is also that of tenant one (line 3)", "places of its own"],
        ["left out: late", "already served"],
        ["left out: odd", "unknown option"],
    ] {
        let is_it = |line: &str| words.iter().all(|word| line.contains(word));
        assert!(said.lines().any(is_it), "{words:?}\n{said}");
    }
    is_whole(&file(&site, "one"), 0);
    is_whole(&file(&site, "two"), 1);
    assert!(is_mounted(&site.plain.join("one")) && is_mounted(&site.plain.join("two")));
    // Asked for by name, it says the same again.
    let again = mount.coldfs(["tenant", "attach", "gone"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("mkdir -p"));
    // What `coldfs mount` serves ends with its mount, and not otherwise.
    let other = mount.coldfs(["tenant", "detach", "data"]);
    assert_eq!(other.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&other.stderr).contains("fusermount3 -u"));
    assert!(is_mounted(&site.mnt));
    mount.detach();
}

/// Ends a daemon that a test began in the background, and takes its mounts away.
struct EndedAtLast(u32, PathBuf);

impl Drop for EndedAtLast {
    fn drop(&mut self) {
        raw::signal(self.0, libc::SIGTERM);
        let gone = || (!is_running(self.0)).then_some(());
        if wait_for(PATIENCE, gone).is_none() {
            raw::signal(self.0, libc::SIGKILL);
        }
        for name in ["one", "two"] {
            let at = self.1.join(name);
            while is_mounted(&at) {
                run(Command::new("fusermount3").arg("-uz").arg(&at));
            }
        }
    }
}

#[test]
fn a_hangup_brings_new_tenants_and_takes_removed_ones_away() {
    if not_here() {
        return;
    }
    let names = ["one", "two", "three"];
    let site = site_of(&names);
    let fleet = site.serve(&site.fleet_text("", &["one", "two"]));
    all_mounted(&fleet, &["one", "two"]);
    let inode = std::fs::metadata(site.plain.join("one")).unwrap().dev();
    // A mistake changes nothing, and is named by its line.
    fleet.reload(&(site.fleet_text("", &["three"]) + "whta = 1\n"));
    fleet.logs(&["nothing is changed", "line 5", "whta"]);
    assert_eq!(fleet.state("three"), "");
    all_mounted(&fleet, &["one", "two"]);
    // One goes, one comes, one stays as it is: mounted as it was, by the old text.
    let text = site.fleet_text("", &["three", "one"]) + "tiering.enabled = false\n";
    fleet.reload(&text);
    fleet.becomes("two", "");
    fleet.becomes("three", "mounted");
    assert!(!is_mounted(&site.plain.join("two")));
    is_whole(&file(&site, "two"), 1);
    is_whole(&file(&site, "three"), 2);
    assert_eq!(std::fs::metadata(site.plain.join("one")).unwrap().dev(), inode, "the same mount");
    fleet.logs(&["one", "changed", "a detach and an attach"]);
    let entry = |name: &str| fleet.entries().into_iter().find(|entry| entry["name"] == name);
    assert_eq!(entry("one").unwrap()["changed"], true);
    fleet.must(&["tenant", "detach", "one"]);
    // A file cut off before its tenants takes none away, nor does one that comes in another's way.
    fleet.reload(&site.fleet_text("", &[]));
    fleet.logs(&["nothing is changed", "no tenant is left"]);
    let above = format!("[[tenants]]\nname = 'above'\ndata_dir = '{}'\n", site.plain.display());
    fleet.reload(&(site.fleet_text(&above, &["three", "one"]) + "tiering.enabled = false\n"));
    fleet.becomes("above", "refused");
    all_mounted(&fleet, &["three"]);
    // What a person detached stays so, and takes what the file says once it is attached.
    fleet.reload(&(text.clone() + "# a remark\n[[tenants]]\ndata_dir = '/nowhere/else'\n"));
    fleet.becomes("else", "failed");
    assert_eq!(fleet.state("one"), "detached");
    fleet.must(&["tenant", "attach", "one"]);
    assert_eq!(entry("one").unwrap()["changed"], false);
    assert_eq!(entry("one").unwrap()["state"], "mounted");
    assert!(fleet.end().success());
    assert!(!is_mounted(&site.plain.join("one")) && !is_mounted(&site.plain.join("three")));
}

#[test]
fn a_tenant_that_comes_back_while_it_leaves_is_mounted_again() {
    if not_here() {
        return;
    }
    let names = ["one", "two"];
    let (site, fleet) = served(&names);
    // Its mount takes five seconds to go.
    let held = std::fs::File::open(file(&site, "one")).unwrap();
    fleet.reload(&site.fleet_text("", &["two"]));
    let leaves = || (fleet.state("one") != "mounted").then_some(());
    assert!(wait_for(PATIENCE, leaves).is_some(), "{}", fleet.log());
    fleet.reload(&site.fleet_text("", &names));
    drop(held);
    all_mounted(&fleet, &names);
    is_whole(&file(&site, "one"), 0);
    assert!(fleet.end().success());
}

#[test]
fn a_tenant_has_one_name_everywhere_and_is_shown_where_it_is() {
    if not_here() {
        return;
    }
    let (site, fleet) = served(&["one"]);
    assert!(fleet.end().success());
    // What it is called in its store stays; what commands call it is what the file says.
    std::fs::rename(site.plain.join("one"), site.plain.join("moved")).unwrap();
    let text = site.fleet_text("", &["moved"]);
    let fleet = site.serve(&text);
    fleet.becomes("moved", "mounted");
    assert_eq!(fleet.status()["tenants"][0]["name"], "moved");
    fleet.reload(&format!("{text}mountpoint = '{}'\n", site.mnt.display()));
    let changed = || (fleet.entries()[0]["changed"] == true).then_some(());
    assert!(wait_for(PATIENCE, changed).is_some(), "{}", fleet.log());
    let at = site.plain.join("moved").canonicalize().unwrap();
    assert_eq!(fleet.entries()[0]["mountpoint"], at.to_str().unwrap());
    fleet.must(&["tenant", "detach", "moved"]);
    assert!(!is_mounted(&at));
    fleet.must(&["tenant", "attach", "moved"]);
    assert_eq!(fleet.entries()[0]["mountpoint"], site.mnt.to_str().unwrap());
    is_whole(&site.mnt.join("file"), 0);
    assert!(fleet.end().success());
}

#[test]
fn a_mount_that_cannot_be_taken_away_is_served_on_and_tried_again() {
    if not_here() || !can_be_a_user() {
        return;
    }
    let site = Site::new();
    std::fs::write(site.data.join("file"), bytes(0)).unwrap();
    let said = as_user(
        &site,
        r#"
        cd "$COLDFS_RUNTIME_DIR"; mkdir bin; touch stuck
        real=$(command -v fusermount3)
        printf '#!/bin/sh\n[ "$1" = -u ] || [ "$1" = -uz ] && [ -e "%s/stuck" ] && exit 7\nexec %s "$@"\n' \
            "$PWD" "$real" > bin/fusermount3
        chmod 755 bin/fusermount3
        printf 'store = "disk:%s"\n[[tenants]]\nname = "one"\ndata_dir = "%s"\nmountpoint = "%s"\n' \
            "$STORE" "$DATA" "$MNT" > fleet.toml
        PATH="$PWD/bin:$PATH" "$COLDFS" serve --config fleet.toml 2>notes || { cat notes; exit 1; }
        trap 'fusermount3 -uz "$MNT" || true' EXIT
        pid=$(basename *.sock .sock)
        "$COLDFS" tenant detach one 2>why && echo "detached though it cannot be" || echo "not detached: $?"
        grep -c 'fusermount3 -uz' why
        "$COLDFS" tenant list --json | grep -o '"state":"[a-z]*"'
        cmp "$MNT/file" "$DATA/file" && echo "served on"
        "$COLDFS" tenant attach one 2>/dev/null && echo "attached though it is" || echo "not attached: $?"
        rm stuck
        "$COLDFS" tenant detach one && "$COLDFS" tenant list --json | grep -o '"state":"[a-z]*"'
        "$COLDFS" tenant attach one && touch stuck
        kill -TERM "$pid"; ended "$pid" && grep -q " $MNT " /proc/self/mountinfo && grep -o 'is left without a daemon' ./*.log
        fusermount3 -uz "$MNT"; trap - EXIT
        "#,
    );
    let lines: Vec<_> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    for words in [
        "not detached: 1",
        "\"state\":\"detaching\"",
        "served on",
        "not attached: 1",
        "\"state\":\"detached\"",
        "is left without a daemon",
    ] {
        assert!(lines.iter().any(|line| line.contains(words)), "{words}: {said}");
    }
}

#[test]
fn a_daemon_that_is_killed_leaves_every_tenant_in_order() {
    if not_here() {
        return;
    }
    let names = ["one", "two", "three"];
    let site = site_of(&names);
    let text = site.fleet_text("", &names);
    let mut fleet = site.serve(&text);
    all_mounted(&fleet, &names);
    fleet.all("migrate", &site.plain.join("one"));
    fleet.all("archive", &site.plain.join("two"));
    fleet.die();
    let dead = site.plain.join("one");
    // The next one takes no dead mount for a directory, and says what to do.
    let next = site.serve(&text);
    for name in names {
        next.becomes(name, "failed");
    }
    let status = next.status();
    let dead_ones = status["dead"].as_array().unwrap().iter().filter(|at| {
        // Other tests have theirs.
        at.as_str().is_some_and(|at| Path::new(at).starts_with(&site.plain))
    });
    assert_eq!(dead_ones.count(), names.len(), "{status:#}");
    let entry = next.entries().remove(0);
    assert!(entry["next_step"].as_str().unwrap().contains("fusermount3 -uz"), "{entry:#}");
    for name in names {
        must(Command::new("fusermount3").arg("-uz").arg(site.plain.join(name)));
    }
    // What failed is tried again when the file is read again.
    next.reload(&text);
    all_mounted(&next, &names);
    assert_eq!(state(&dead.join("file")), "released");
    for (index, name) in names.iter().enumerate() {
        is_whole(&file(&site, name), index);
    }
    assert!(next.end().success());
}

#[test]
fn a_file_that_stays_open_holds_up_its_own_tenant_and_no_other() {
    if not_here() {
        return;
    }
    let names = ["one", "two"];
    let (site, fleet) = served(&names);
    let held = std::fs::File::open(file(&site, "one")).unwrap();
    std::thread::scope(|scope| {
        let detaching = scope.spawn(|| fleet.must(&["tenant", "detach", "one"]));
        // Meanwhile.
        fleet.must(&["tenant", "detach", "two"]);
        fleet.must(&["tenant", "attach", "two"]);
        is_whole(&file(&site, "two"), 1);
        detaching.join().unwrap();
    });
    assert!(!is_mounted(&site.plain.join("one")));
    drop(held);
    fleet.must(&["tenant", "attach", "one"]);
    is_whole(&file(&site, "one"), 0);
    assert!(fleet.end().success());
}

#[test]
fn a_tenant_that_is_detached_leaves_its_disk_free() {
    if not_here() || !can_loop() {
        return;
    }
    let site = site_of(&["one"]);
    let volume = Volume::create(site.dir.path(), FsKind::Ext4, 64);
    let apart = volume.root().join("apart");
    std::fs::create_dir(&apart).unwrap();
    std::fs::write(apart.join("file"), bytes(1)).unwrap();
    let text =
        site.fleet_text("", &["one"]) + &format!("[[tenants]]\ndata_dir = '{}'\n", apart.display());
    let fleet = site.serve(&text);
    all_mounted(&fleet, &["one", "apart"]);
    is_whole(&apart.join("file"), 1);
    fleet.must(&["tenant", "detach", "apart"]);
    // The probe lets go with its next look.
    let free = || {
        fleet.beat();
        run(Command::new("umount").arg(volume.root())).status.success().then_some(())
    };
    assert!(wait_for(PATIENCE, free).is_some(), "the disk stays busy");
    must(Command::new("mount").args(["-o", "loop"]).arg(volume.image()).arg(volume.root()));
    fleet.must(&["tenant", "attach", "apart"]);
    is_whole(&apart.join("file"), 1);
    is_whole(&file(&site, "one"), 0);
    assert!(fleet.end().success());
}

#[test]
fn fifty_tenants_take_few_threads_descriptors_and_little_memory() {
    if not_here() {
        return;
    }
    const TENANTS: usize = 50;
    /// Of each that is mounted: two for FUSE, one for its catalog; one to spare.
    const THREADS_EACH: usize = 4;
    /// Of all together: the runtime, waits for the disk and the store, the probe, the policy.
    const THREADS_FOR_ALL: usize = 120;
    const DESCRIPTORS_EACH: usize = 24;
    const DESCRIPTORS_FOR_ALL: usize = 300;
    const MIB_EACH: usize = 1;
    const MIB_FOR_ALL: usize = 64;
    let names: Vec<String> = (0..TENANTS).map(|index| format!("t{index:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (site, fleet) = served(&names);
    for (index, name) in names.iter().enumerate() {
        is_whole(&file(&site, name), index);
    }
    let [threads, descriptors, mib] = fleet.takes();
    assert!(threads <= THREADS_EACH * TENANTS + THREADS_FOR_ALL, "{threads} threads");
    assert!(
        descriptors <= DESCRIPTORS_EACH * TENANTS + DESCRIPTORS_FOR_ALL,
        "{descriptors} descriptors"
    );
    assert!(mib <= MIB_EACH * TENANTS + MIB_FOR_ALL, "{mib} MiB");
    say(&format!("{TENANTS} mounted: {threads} threads, {descriptors} descriptors, {mib} MiB"));
    let mounted = fleet.status()["tenants"].as_array().unwrap().len();
    assert_eq!(mounted, TENANTS);
    assert!(fleet.end().success());
    assert!(names.iter().all(|name| !is_mounted(&site.plain.join(name))));
    for (index, name) in names.iter().enumerate() {
        is_whole(&file(&site, name), index);
    }
}
