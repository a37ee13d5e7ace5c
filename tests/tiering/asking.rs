//! `plan`, `explain` and `policy`, as people and scripts ask.

use super::*;

#[test]
fn a_plan_says_what_would_move_and_why_and_moves_nothing() {
    if not_here() {
        return;
    }
    let mut site = site();
    let cold = plant(&site, 0, 60);
    let hot = plant(&site, 1, 0);
    settle(&mut site);
    let off = EAGER.replace("[tiering]\n", "[tiering]\nenabled = false\n");
    let mount = site.start(&site.configured(&off));
    let planned = || {
        let mut lines = lines(&mount, ["plan".as_ref(), "--json".as_ref(), site.mnt.as_os_str()]);
        let summary = lines.pop().unwrap();
        (lines, summary)
    };
    let complete = || {
        let (files, summary) = planned();
        (files.len() == 1).then_some((files, summary))
    };
    let (files, summary) = wait_for(PATIENCE, complete).expect("the catalog knows both");
    assert_eq!(files[0]["path"], cold.display().to_string());
    assert_eq!((&files[0]["action"], &files[0]["rule"]), (&"archive".into(), &"archive".into()));
    assert_eq!(summary["files"]["archive"], 1);
    assert!(summary["requests"].as_u64() > Some(0) && summary["goal_bytes"].as_u64() > Some(0));
    assert_eq!((mount.state(&cold), mount.state(&hot)), ("resident".into(), "resident".into()));
    mount.all("archive", &cold);
    let releases = || {
        let (files, _) = planned();
        files.iter().any(|file| file["action"] == "release").then_some(())
    };
    assert!(wait_for(PATIENCE, releases).is_some(), "{:?}", planned());
    assert_eq!(mount.state(&cold), "archived", "asked, not done");
    let report = explain(&mount, &cold);
    assert_eq!(report["judged"]["action"], "release", "{report:#}");
    assert_eq!(report["judged"]["evidence"], "atime");
    assert!(report["judged"]["held"].to_string().contains("tiering is off"), "{report:#}");
    let report = explain(&mount, &hot);
    assert_eq!(report["judged"]["action"], Value::Null);
    assert!(report["judged"]["changes_in_seconds"].as_u64() > Some(0), "{report:#}");
    let people = mount.coldfs(["explain".as_ref(), hot.as_os_str()]);
    assert!(String::from_utf8_lossy(&people.stdout).contains("because"));
    mount.detach();
}

#[test]
fn a_policy_is_shown_and_checked() {
    if not_here() {
        return;
    }
    let site = site();
    let settings =
        "[policy.settings]\ncold-after = '30d'\nrules = ['mail: keep path mail/**', 'archive']\n";
    let mount = site.start(&site.configured(settings));
    let shown = lines(
        &mount,
        ["policy".as_ref(), "show".as_ref(), "--json".as_ref(), site.mnt.as_os_str()],
    );
    assert_eq!(shown[0]["name"], "default");
    let setting = |key: &str| {
        let settings = shown[0]["settings"].as_array().unwrap().clone();
        settings.into_iter().find(|setting| setting["key"] == key).unwrap()
    };
    assert_eq!(setting("cold-after")["value"], format!("\"{}s\"", 30 * 86_400));
    assert!(shown[0]["rules"].to_string().contains("mail"));
    assert!(shown[0]["wants"].to_string().contains("path"));
    mount.detach();
    let check = |args: &[&str]| {
        let mut command = harness::coldfs();
        command.args(["policy", "check"]).args(args);
        harness::run(&mut command)
    };
    assert!(check(&[]).status.success());
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("wasm-policy/example.wasm");
    assert!(check(&["--component", example.to_str().unwrap()]).status.success());
    let config = site.dir.path().join("wrong.toml");
    std::fs::write(&config, "[policy.settings]\nrules = ['archive age > 1']\n").unwrap();
    let wrong = check(&["--config", config.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert_eq!(wrong.status.code(), Some(2), "{said}");
    assert!(said.contains("rules") && said.contains("column 15"), "{said}");
}
