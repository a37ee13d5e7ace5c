//! Extended attributes through a mount: coldfs's own, and access control lists.

use nix::libc;
use nix::sys::statvfs::statvfs;

use super::harness::mount::Start;
use super::harness::site::Site;
use super::harness::{can_mount, can_tier, has, pattern, raw, sh};

#[test]
fn what_coldfs_knows_of_a_file_can_be_asked_for_and_is_copied_by_no_tool() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    for name in ["cold", "hot"] {
        std::fs::write(site.data.join(name), pattern::bytes(1, 50_000)).unwrap();
    }
    let mount = site.mount();
    let (cold, hot) = (site.mnt.join("cold"), site.mnt.join("hot"));
    mount.all("migrate", &cold);
    let pinned = mount.coldfs(["pin".as_ref(), hot.as_os_str()]);
    assert!(pinned.status.success(), "{pinned:?}");
    let says = |path: &std::path::Path, name: &str| {
        let value = raw::get_xattr(path, format!("user.coldfs.{name}").as_bytes()).unwrap();
        value.map(|value| String::from_utf8(value).unwrap())
    };
    assert_eq!(says(&cold, "state").as_deref(), Some("released"));
    assert_eq!(says(&cold, "resident_bytes").as_deref(), Some("4096"));
    let stub = std::fs::read_to_string(site.data.join("cold")).unwrap();
    let segment = stub.lines().find_map(|line| line.strip_prefix("segment ")).unwrap().to_owned();
    assert!(says(&cold, "remote").is_some_and(|at| at.contains(&segment)), "{segment}");
    assert_eq!(says(&cold, "pin"), None);
    assert_eq!(says(&hot, "state").as_deref(), Some("resident"));
    assert_eq!(says(&hot, "remote"), None);
    assert!(says(&hot, "pin").is_some());
    assert_eq!(says(&hot, "nothing"), None);
    for path in [&cold, &hot] {
        assert_eq!(raw::list_xattr(path).unwrap(), Vec::<Vec<u8>>::new());
        let set = raw::set_xattr(path, b"user.coldfs.state", b"resident", 0).unwrap_err();
        assert_eq!(set.raw_os_error(), Some(libc::EPERM));
        assert!(raw::remove_xattr(path, b"user.coldfs.state").is_err());
    }
    assert_eq!(says(&cold, "state").as_deref(), Some("released"));
    mount.detach();
}

/// Set, inherited, enforced, and changed on a file that is not here.
const LISTS: &str = "
    rm -rf dir; mkdir dir
    setfacl -m u:1234:r-- file; getfacl -cnp file
    setfacl -d -m u:1234:rwx,g:77:r-x dir; (umask 077; touch dir/new; mkdir dir/sub)
    getfacl -cnp dir dir/new dir/sub
    chmod 711 . dir; chmod 600 file; setfacl -m u:1234:r-- file
    setpriv --reuid 1234 --regid 1234 --clear-groups head -c 6 file
    setpriv --reuid 1235 --regid 1235 --clear-groups head -c 6 file || echo refused
    chmod 640 file; getfacl -cnp file; setfacl -b file; getfacl -cnp file; stat -c %a file";

#[test]
fn access_control_lists_are_set_inherited_and_kept_to_as_on_a_plain_directory() {
    if !can_mount() || !has("setfacl") || !has("setpriv") {
        return;
    }
    let site = Site::new();
    let others = vec!["-o".into(), "allow_other".into()];
    let mount = site.start(&Start { args: others, ..Start::default() });
    for dir in [&site.plain, &site.mnt] {
        sh(dir, "seq 20000 > file");
    }
    let expected = sh(&site.plain, LISTS);
    assert!(expected.contains("user:1234:r--") && expected.contains("refused"), "{expected}");
    assert_eq!(sh(&site.mnt, LISTS), expected, "at home");
    mount.all("migrate", &site.mnt);
    assert_eq!(sh(&site.mnt, LISTS), sh(&site.plain, LISTS), "begun on a stub");
    mount.detach();
}

#[test]
fn a_mount_has_the_space_and_the_names_of_what_is_below() {
    if !can_mount() {
        return;
    }
    let site = Site::new();
    let below = statvfs(&site.data).unwrap();
    let mount = site.mount();
    let through = statvfs(&site.mnt).unwrap();
    assert_eq!(through.blocks(), below.blocks());
    assert_eq!(through.fragment_size(), below.fragment_size());
    assert_eq!(through.name_max(), below.name_max());
    assert_eq!(through.files(), below.files());
    mount.detach();
}

#[test]
fn an_attribute_says_which_rule_speaks_for_a_file() {
    if !can_tier() {
        return;
    }
    const RULE: &[u8] = b"user.coldfs.rule";
    let site = Site::new();
    let long_ago = 1_600_000_000_000_000_000;
    for name in ["new", "old", "cold"] {
        std::fs::write(site.data.join(name), pattern::bytes(1, 50_000)).unwrap();
    }
    raw::set_mtime(&site.data.join("old"), long_ago).unwrap();
    std::fs::write(site.data.join("tiny"), "x").unwrap();
    std::fs::create_dir(site.data.join("dir")).unwrap();
    let mount = site.mount();
    mount.all("migrate", &site.mnt.join("cold"));
    let rule = |name: &str| {
        let value = raw::get_xattr(&site.mnt.join(name), RULE).unwrap();
        value.map(|value| String::from_utf8(value).unwrap())
    };
    let explained = |name: &str| {
        let path = site.mnt.join(name);
        let output = mount.coldfs(["explain".as_ref(), "--json".as_ref(), path.as_os_str()]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let judged = &report["judged"];
        let action = judged["action"].as_str().unwrap_or("keep").to_owned();
        (action.clone(), format!("{action}: {}", judged["rule"].as_str().unwrap()))
    };
    let mut actions = std::collections::BTreeSet::new();
    for name in ["new", "old", "cold"] {
        let (action, both) = explained(name);
        assert_eq!(rule(name), Some(both), "{name}");
        actions.insert(action);
    }
    assert!(actions.len() > 1, "all alike: {actions:?}");
    assert_eq!(mount.state(&site.mnt.join("cold")), "released", "asking brings nothing home");
    assert_eq!([rule("tiny"), rule("dir")], [None, None]);
    // Many at once have their turn.
    std::thread::scope(|scope| {
        let asks: Vec<_> = (0..40).map(|_| scope.spawn(|| rule("old"))).collect();
        for ask in asks {
            assert!(ask.join().unwrap().is_some());
        }
    });
    // It follows a file that is renamed, and is no attribute of anybody's.
    std::fs::rename(site.mnt.join("old"), site.mnt.join("dir/renamed")).unwrap();
    assert_eq!(rule("dir/renamed"), Some(explained("dir/renamed").1));
    let names = raw::list_xattr(&site.mnt.join("new")).unwrap();
    assert!(!names.iter().any(|name| name == RULE), "it is listed");
    let refused = raw::set_xattr(&site.mnt.join("new"), RULE, b"x", 0).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    mount.detach();
}
