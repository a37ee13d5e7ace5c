//! What goes, and what stays.

use std::io::Read;

use super::*;

#[test]
fn what_is_cold_goes_by_itself_and_what_is_used_open_or_pinned_stays() {
    if not_here() {
        return;
    }
    let site = site();
    let cold: Vec<PathBuf> = (0..10).map(|index| plant(&site, index, 60)).collect();
    let hot = plant(&site, 10, 0);
    let settled = plant(&site, 11, 3);
    let open = plant(&site, 12, 0);
    let pinned = plant(&site, 13, 60);
    // Not before all is as it is to be: pins are set through the mount.
    let mount = site.start(&site.configured("[tiering]\nenabled = false\n"));
    assert!(mount.coldfs(["pin".as_ref(), pinned.as_os_str()]).status.success());
    mount.detach();
    let mount = site.start(&site.configured(EAGER));
    let mut held = std::fs::File::open(&open).unwrap();
    age(&open, 60);
    for path in &cold {
        becomes(&mount, path, "released");
    }
    becomes(&mount, &settled, "archived");
    passes(&mount, 2);
    assert_eq!(mount.state(&hot), "resident", "changed just now");
    assert_eq!(mount.state(&settled), "archived", "its idleness is three days");
    assert_eq!(mount.state(&pinned), "archived", "a pin keeps bytes here");
    assert_ne!(mount.state(&open), "released");
    assert_eq!(explain(&mount, &pinned)["judged"]["held"][0], "pinned");
    assert!(explain(&mount, &open)["judged"]["held"].to_string().contains("open"));
    // Each that moved has a line, and its explanation knows it.
    let moves = lines(
        &mount,
        ["audit".as_ref(), "--moves".as_ref(), "--json".as_ref(), site.mnt.as_os_str()],
    );
    for index in 0..10 {
        let of = |action: &str| {
            moves.iter().any(|line| line["path"] == name(index) && line["action"] == action)
        };
        assert!(of("archive") && of("release"), "{} in {moves:?}", name(index));
    }
    let report = explain(&mount, &cold[0]);
    assert_eq!(report["judged"]["last_move"]["action"], "release");
    assert_eq!(report["judged"]["last_move"]["rule"], "release");
    let total = &tiering(&mount)["total"];
    assert!(total["released"].as_u64() >= Some(10) && total["archived"].as_u64() >= Some(11));
    // What came home stays: the next passes leave it.
    is_whole(&cold[0], 0);
    becomes(&mount, &cold[0], "archived");
    passes(&mount, 2);
    assert_eq!(mount.state(&cold[0]), "archived", "{:#}", explain(&mount, &cold[0]));
    let mut text = Vec::new();
    held.read_to_end(&mut text).unwrap();
    assert!(text == pattern::bytes(12, BYTES));
    drop(held);
    mount.beat();
    (0..14).for_each(|index| is_whole(&site.mnt.join(name(index)), index));
    mount.detach();
}

#[test]
fn between_the_watermarks_nothing_more_is_released() {
    if not_here() {
        return;
    }
    let site = site();
    let files: Vec<PathBuf> = (0..40).map(|index| plant(&site, index, 60)).collect();
    // 40 of 120 MiB, less what the filesystem takes for itself: above 30, down to 20 percent.
    let config = EAGER.replace("high = 2", "high = 30").replace("low = 1\n", "low = 20\n");
    let mount = site.start(&site.configured(&config));
    let released = || {
        let released = mount.status()["tenants"][0]["files"]["released"].as_u64().unwrap();
        (released > 0).then_some(released)
    };
    assert!(wait_for(PATIENCE, released).is_some(), "{:#}", tiering(&mount));
    passes(&mount, 3);
    let after = released().unwrap();
    assert!(after < 40, "all is released, though a part of it is enough");
    passes(&mount, 2);
    assert_eq!(released(), Some(after), "and it stays so");
    assert_eq!(tiering(&mount)["last"]["goal_bytes"], 0);
    for (index, path) in (0..).zip(&files) {
        is_whole(path, index);
    }
    mount.detach();
}

#[test]
fn caps_hold_what_would_go_too_fast() {
    if not_here() {
        return;
    }
    let site = site();
    (0..8).for_each(|index| drop(plant(&site, index, 60)));
    // A batch is let through, and then nothing in this hour.
    let mount = site.start(&site.configured(&format!("{EAGER}files_an_hour = 1\n")));
    passes(&mount, 3);
    let report = tiering(&mount);
    assert!(report["last"]["cut_short"].as_str().unwrap().contains("an_hour"), "{report:#}");
    mount.detach();
}
