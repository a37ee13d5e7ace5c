//! What goes, and what stays.

use std::io::Read;

use super::*;

#[test]
fn what_is_cold_goes_by_itself_and_what_is_used_open_or_pinned_stays() {
    if not_here() {
        return;
    }
    let mut site = site();
    let cold: Vec<PathBuf> = (0..10).map(|index| plant(&site, index, 60)).collect();
    let hot = plant(&site, 10, 0);
    let settled = plant(&site, 11, 3);
    let open = plant(&site, 12, 0);
    let pinned = plant(&site, 13, 60);
    settle(&mut site);
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
    let mut site = site();
    let files: Vec<PathBuf> = (0..40).map(|index| plant(&site, index, 60)).collect();
    settle(&mut site);
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
    let mut site = site();
    (0..8).for_each(|index| drop(plant(&site, index, 60)));
    settle(&mut site);
    let mount = site.start(&site.configured(&format!("{EAGER}files_an_hour = 3\n")));
    let cut = || {
        let why = tiering(&mount)["last"]["cut_short"].as_str().map(str::to_owned);
        why.filter(|why| why.contains("an_hour"))
    };
    assert!(wait_for(PATIENCE, cut).is_some(), "{:#}", tiering(&mount));
    passes(&mount, 2);
    let total = tiering(&mount)["total"].clone();
    let files = |what: &str| total[what].as_u64().unwrap();
    assert_eq!(files("archived") + files("released"), 3, "{total:#}");
    mount.detach();
}

#[test]
fn what_was_copied_in_with_its_old_times_is_not_taken_for_idle() {
    if not_here() {
        return;
    }
    let mut site = site();
    let old = plant(&site, 0, 60);
    settle(&mut site);
    let copy = plant(&site, 1, 60);
    let mount = site.start(&site.configured(EAGER));
    becomes(&mount, &old, "released");
    becomes(&mount, &copy, "archived");
    passes(&mount, 2);
    assert_eq!(mount.state(&copy), "archived", "it was made a moment ago");
    assert!(explain(&mount, &copy)["judged"]["idle_seconds"].as_u64() < Some(3_600));
    mount.detach();
}

#[test]
fn the_coldest_that_cannot_go_let_others_go_in_their_place() {
    if not_here() {
        return;
    }
    let mut site = site();
    (0..12).for_each(|index| drop(plant(&site, index, 90)));
    (12..40).for_each(|index| drop(plant(&site, index, 60)));
    settle(&mut site);
    // Somebody has them open behind the mount: no release gets its lease.
    let open = |index| std::fs::File::open(site.data.join(name(index))).unwrap();
    let held: Vec<_> = (0..12).map(open).collect();
    let config = EAGER.replace("high = 2", "high = 30").replace("low = 1\n", "low = 20\n");
    let mount = site.start(&site.configured(&config));
    let is_down = || {
        let tiering = tiering(&mount);
        let released = tiering["total"]["released"].as_u64() > Some(0);
        (released && tiering["last"]["goal_bytes"] == 0).then_some(())
    };
    assert!(wait_for(PATIENCE, is_down).is_some(), "{:#}", tiering(&mount));
    (0..12).for_each(|index| assert_ne!(mount.state(&site.mnt.join(name(index))), "released"));
    assert!(tiering(&mount)["total"]["held"]["open"].as_u64() > Some(0), "{:#}", tiering(&mount));
    drop(held);
    (0..40).for_each(|index| is_whole(&site.mnt.join(name(index)), index));
    mount.detach();
}
