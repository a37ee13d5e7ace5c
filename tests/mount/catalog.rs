//! The catalog: `find`, `du` and `status` say what a walk says, whatever happened, and whatever
//! became of the catalog itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::harness::mount::{Mount, Start};
use super::harness::site::Site;
use super::harness::{Subject, can_tier, pattern, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);
/// Larger than what is never migrated.
const BYTES: usize = 20_000;

fn json(mount: &Mount, arguments: &[&str], path: &Path) -> Vec<Value> {
    let mut command: Vec<&std::ffi::OsStr> = arguments.iter().map(AsRef::as_ref).collect();
    command.extend(["--json".as_ref(), path.as_os_str()]);
    let output = mount.coldfs(command);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What `find` and `du` say of a path, and who says it.
fn said(mount: &Mount, path: &Path, walk: bool) -> (BTreeSet<String>, Value, String) {
    let states = "none,resident,archived,suspect,releasing,released,recalling,lost,orphan,foreign";
    let mut find = vec!["find", "--state", states];
    let mut du = vec!["du"];
    if walk {
        find.push("--walk");
        du.push("--walk");
    }
    let files = json(mount, &find, path).iter().map(Value::to_string).collect();
    let mut sums = json(mount, &du, path).remove(0);
    let source = sums["source"].take().as_str().unwrap().to_owned();
    (files, sums, source)
}

fn complete(mount: &Mount) {
    let state = || mount.status()["tenants"][0]["catalog"]["state"].as_str().map(str::to_owned);
    let complete = wait_for(PATIENCE, || (state().as_deref() == Some("complete")).then_some(()));
    assert!(complete.is_some(), "{:#}\n{}", mount.status(), mount.log_tail());
}

/// Whether the catalog answers, and as a walk does.
fn agrees(mount: &Mount, site: &Site, below: &[&str]) {
    complete(mount);
    for below in below.iter().chain([&""]) {
        let path = site.mnt.join(below);
        let (files, sums, source) = said(mount, &path, false);
        let (walked, counted, by_walk) = said(mount, &path, true);
        assert_eq!((source.as_str(), by_walk.as_str()), ("catalog", "walk"));
        let differ: Vec<_> = files.symmetric_difference(&walked).collect();
        assert!(differ.is_empty(), "{differ:#?}");
        assert_eq!(sums, counted, "{}", path.display());
        if below.is_empty() {
            let status = &mount.status()["tenants"][0];
            assert_eq!((&status["files"], &status["bytes"]), (&sums["files"], &sums["bytes"]));
            let regular = walked.iter().filter(|file| !file.contains(r#""state":"none""#));
            let inodes: BTreeSet<String> = regular
                .map(|file| serde_json::from_str::<Value>(file).unwrap()["ino"].to_string())
                .collect();
            assert_eq!(status["catalog"]["files"], inodes.len());
        }
    }
}

fn plant(dir: &Path) {
    for sub in ["a", "a/b", "c"] {
        std::fs::create_dir(dir.join(sub)).unwrap();
    }
    for number in 0..30_usize {
        let sub = ["", "a", "a/b", "c"][number % 4];
        let body = pattern::bytes(number as u64, BYTES + number * 777);
        std::fs::write(dir.join(sub).join(format!("f{number}")), body).unwrap();
    }
}

fn no_catalog_here() -> bool {
    !can_tier() || Subject::from_env() != Subject::Coldfs
}

#[test]
fn find_du_and_status_agree_with_a_walk_after_a_busy_day() {
    if no_catalog_here() {
        return;
    }
    let site = Site::new();
    plant(&site.data);
    let mount = site.mount();
    let mnt = |path: &str| site.mnt.join(path);
    agrees(&mount, &site, &["a", "f0"]);

    mount.all("archive", &mnt("a"));
    mount.all("migrate", &mnt("a/b"));
    agrees(&mount, &site, &["a", "a/b"]);

    std::fs::rename(mnt("a/b"), mnt("moved")).unwrap();
    std::fs::create_dir_all(mnt("x/y/z")).unwrap();
    std::fs::rename(mnt("moved"), mnt("x/y/z/moved")).unwrap();
    std::fs::hard_link(mnt("f0"), mnt("x/linked")).unwrap();
    std::fs::hard_link(mnt("f4"), mnt("x/y/linked")).unwrap();
    std::fs::remove_file(mnt("f4")).unwrap();
    std::os::unix::fs::symlink("a", mnt("symlink")).unwrap();
    std::fs::remove_dir_all(mnt("c")).unwrap();
    std::fs::write(mnt("f8"), b"overwritten").unwrap();
    std::fs::write(mnt("a/f5"), b"archived no more").unwrap();
    let short = std::fs::OpenOptions::new().write(true).open(mnt("a/f9")).unwrap();
    short.set_len(10).unwrap();
    drop(short);
    agrees(&mount, &site, &["x", "x/y", "a"]);

    mount.all("recall", &mnt("x/y/z/moved"));
    let pinned = mount.coldfs(["pin".as_ref(), mnt("x/y").as_os_str()]);
    assert!(pinned.status.success());
    agrees(&mount, &site, &["x", "x/y/z"]);

    // A writer that does not close tells of nothing.
    let open = std::fs::OpenOptions::new().append(true).open(mnt("f12")).unwrap();
    std::io::Write::write_all(&mut &open, &[7; 9_000]).unwrap();
    agrees(&mount, &site, &["f12"]);
    drop(open);
    mount.all("migrate", &site.mnt);
    agrees(&mount, &site, &["x", "a"]);
    mount.detach();
}

#[test]
fn what_happened_while_detached_is_in_the_answers() {
    if no_catalog_here() {
        return;
    }
    let site = Site::new();
    plant(&site.data);
    let mount = site.mount();
    mount.all("migrate", &site.mnt.join("a"));
    agrees(&mount, &site, &["a"]);
    mount.detach();
    let data = |path: &str| site.data.join(path);
    std::fs::rename(data("a/b"), data("b")).unwrap();
    std::fs::rename(data("a"), data("b/a")).unwrap();
    std::fs::remove_file(data("f0")).unwrap();
    std::fs::write(data("f4"), b"edited").unwrap();
    std::fs::copy(data("b/a/f1"), data("copied-stub")).unwrap();
    let mount = site.mount();
    agrees(&mount, &site, &["b", "b/a"]);
    mount.kill();
    std::fs::write(data("f8"), b"edited after a kill").unwrap();
    let mount = site.mount();
    agrees(&mount, &site, &["b"]);
    mount.detach();
}

/// The catalog's file.
fn catalog(site: &Site) -> PathBuf {
    let mut found = std::fs::read_dir(site.runtime.join("catalog")).unwrap();
    found.next().expect("a catalog").unwrap().path()
}

#[test]
fn a_catalog_that_is_lost_damaged_or_cut_is_made_anew() {
    if no_catalog_here() {
        return;
    }
    let site = Site::new();
    plant(&site.data);
    let mount = site.mount();
    mount.all("migrate", &site.mnt.join("a"));
    agrees(&mount, &site, &[]);
    mount.detach();
    let damages: [fn(&Path); 3] = [
        |path| std::fs::remove_file(path).unwrap(),
        |path| {
            let mut bytes = std::fs::read(path).unwrap();
            bytes.iter_mut().skip(5_000).step_by(3_001).for_each(|byte| *byte ^= 0x40);
            std::fs::write(path, bytes).unwrap();
        },
        |path| {
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(9_999).unwrap();
        },
    ];
    for damage in damages {
        damage(&catalog(&site));
        let mount = site.mount();
        agrees(&mount, &site, &["a"]);
        mount.detach();
    }
}

#[test]
fn without_a_catalog_everything_walks_and_status_says_why() {
    if no_catalog_here() {
        return;
    }
    let site = Site::new();
    plant(&site.data);
    std::fs::create_dir(site.data.join("inside")).unwrap();
    let places = [
        ("/dev/null/none".to_owned(), "Not a directory"),
        (site.data.join("inside").display().to_string(), "is inside the mount"),
    ];
    for (place, why) in places {
        let config = site.dir.path().join("config.toml");
        std::fs::write(&config, format!("[catalog]\ndir = {place:?}\n")).unwrap();
        let args = vec!["--config".to_owned(), config.display().to_string()];
        let mount = site.start(&Start { args, ..Start::default() });
        let noted = || {
            let status = mount.status();
            let tenant = &status["tenants"][0];
            assert_eq!(tenant["files"]["resident"], 30);
            (tenant["catalog"]["state"] == "none").then(|| tenant["notes"].to_string())
        };
        let notes = wait_for(PATIENCE, noted).expect("no catalog");
        assert!(notes.contains(why) && notes.contains("walk"), "{notes}");
        let (files, sums, source) = said(&mount, &site.mnt, false);
        assert_eq!((source.as_str(), &sums["files"]["resident"]), ("walk", &Value::from(30)));
        assert_eq!(files, said(&mount, &site.mnt, true).0);
        mount.detach();
    }
}
