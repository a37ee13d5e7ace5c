//! What people are shown of heat: a tree by `coldfs heat`, the same live by `coldfs top`.

use serde_json::Value;

use super::harness::mount::Mount;
use super::harness::site::Site;
use super::{BYTES, drained, has_probe, mounted, no_heat_here, plant};

fn json(mount: &Mount, arguments: &[&str]) -> Vec<Value> {
    let output = mount.coldfs(arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {text}{errors}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_trees_heat_is_what_was_read_in_it() {
    if no_heat_here() {
        return;
    }
    let site = Site::new();
    for dir in ["busy", "busy/deep", "quiet"] {
        std::fs::create_dir(site.data.join(dir)).unwrap();
    }
    plant(&site.data, &["busy/often", "busy/once", "busy/deep/once", "quiet/a", "quiet/b", "top"]);
    std::fs::hard_link(site.data.join("busy/often"), site.data.join("quiet/link")).unwrap();
    let mount = mounted(&site, "");
    if !has_probe(&mount) {
        return;
    }
    for name in ["busy/often", "busy/often", "busy/often", "busy/once", "busy/deep/once"] {
        std::fs::read(site.mnt.join(name)).unwrap();
    }
    drained(&mount);
    let root = site.mnt.to_str().unwrap();
    let path = |name: &str| Value::from(site.mnt.join(name).to_str().unwrap());

    let report = &json(&mount, &["heat", "--json", root])[0];
    let total = &report["total"];
    assert_eq!((&total["files"], &total["bytes"]), (&6.into(), &(6 * BYTES).into()), "{report:#}");
    let directories = report["directories"].as_array().unwrap();
    let sum = |fact: &str| directories.iter().map(|one| one[fact].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("files"), sum("bytes")), (6, 6 * BYTES as u64), "each file once: {report:#}");
    assert!(report["hottest"].as_array().unwrap().iter().all(|file| file["accesses"] != 0));
    let coldest = report["coldest"].as_array().unwrap();
    let idle: Vec<_> = coldest.iter().map(|file| file["idle_seconds"].as_u64().unwrap()).collect();
    assert!(idle.is_sorted_by(|a, b| a >= b), "{report:#}");
    // Which name of two it is shown by is not told.
    let hottest = &report["hottest"][0];
    let is_often = [path("busy/often"), path("quiet/link")].contains(&hottest["path"]);
    assert!(is_often, "{report:#}");

    let deep = &json(&mount, &["heat", "--json", "--depth", "2", root])[0];
    let of = |name: &str| {
        let all = deep["directories"].as_array().unwrap();
        all.iter().find(|one| one["path"] == path(name)).cloned()
    };
    assert_eq!(of("busy/deep").unwrap()["files"], 1, "{deep:#}");
    let below = &json(&mount, &["heat", "--json", site.mnt.join("busy/deep").to_str().unwrap()])[0];
    assert_eq!(below["total"]["files"], 1, "{below:#}");

    let files = json(&mount, &["heat", "--json", "--files", root]);
    assert_eq!(files.len(), 6);
    let quiet = files.iter().find(|file| file["path"] == path("quiet/a")).unwrap();
    assert_eq!((&quiet["accesses"], &quiet["evidence"]), (&0.into(), &"none".into()), "{quiet}");

    let top = &json(&mount, &["top", "--once", "--json", root])[0][0];
    assert_eq!(top["heat"]["total"]["files"], 6, "{top:#}");
    assert_eq!(top["heat"]["hottest"][0]["path"], hottest["path"], "{top:#}");
    let shown = mount.coldfs(["top", "--once", root]).stdout;
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(shown.contains("hottest") && shown.contains("busy"), "{shown}");
    mount.detach();
}

#[test]
fn without_a_catalog_heat_says_what_is_missing() {
    if no_heat_here() {
        return;
    }
    let site = Site::new();
    plant(&site.data, &["read"]);
    let mount = site.start(&super::harness::mount::Start {
        env: vec![("COLDFS_STATE_DIR".into(), "/dev/null".into())],
        ..super::harness::mount::Start::default()
    });
    let output = mount.coldfs(["heat".as_ref(), site.mnt.as_os_str()]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("heat is in the catalog") && said.contains("coldfs status"), "{said}");
    mount.detach();
}
