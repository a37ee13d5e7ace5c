//! Two tenants of one daemon: one store, one policy, settings of their own.

use super::*;
use crate::harness::fleet::PATIENCE;
use crate::harness::mount::shown_state as state;

/// Plants files that were changed and read last so many days ago.
fn plant_all(site: &Site, tenant: &str, days: u32) -> Vec<PathBuf> {
    let dir = site.plain.join(tenant);
    std::fs::create_dir(&dir).unwrap();
    let planted = (0..4).map(|index| {
        let path = dir.join(name(index));
        std::fs::write(&path, pattern::bytes(index, BYTES)).unwrap();
        age(&path, days);
        path
    });
    planted.collect()
}

#[test]
fn tenants_move_by_themselves_each_by_its_own_settings() {
    if not_here() {
        return;
    }
    let mut site = site();
    let (one, two) = (plant_all(&site, "one", 60), plant_all(&site, "two", 60));
    let of = |tenant| move |index| format!("/plain/{tenant}/{}", name(index));
    let names: Vec<String> = (0..4).map(of("one")).chain((0..4).map(of("two"))).collect();
    site.volume().age_births(&names, 100);
    // What is cold for the one is not for the other.
    let text = site.fleet_text(EAGER, &["one", "two"])
        + "policy.settings.archive-after = '3650d'\n\
           policy.settings.archive-after-pressed = '3650d'\npolicy.settings.cold-after = '3650d'\n";
    let fleet = site.serve(&text);
    fleet.becomes("one", "mounted");
    fleet.becomes("two", "mounted");
    let released = |paths: &[PathBuf]| paths.iter().all(|path| state(path) == "released");
    let went = wait_for(PATIENCE, || released(&one).then_some(()));
    assert!(went.is_some(), "{:#}\n{}", fleet.status(), fleet.log());
    let passes = || {
        let status = fleet.status();
        let tenants = status["tenants"].as_array().unwrap();
        let tenant = tenants.iter().find(|tenant| tenant["name"] == "two").unwrap();
        tenant["tiering"]["passes"].as_u64().unwrap()
    };
    assert!(wait_for(PATIENCE, || (passes() >= 2).then_some(())).is_some(), "{}", fleet.log());
    assert!(two.iter().all(|path| state(path) == "resident"), "{:#}", fleet.status());
    // Settings of its own change under a mount.
    fleet.reload(&site.fleet_text(EAGER, &["one", "two"]));
    let went = wait_for(PATIENCE, || released(&two).then_some(()));
    assert!(went.is_some(), "{:#}\n{}", fleet.status(), fleet.log());
    for (index, (one, two)) in one.iter().zip(&two).enumerate() {
        is_whole(one, index as u64);
        is_whole(two, index as u64);
    }
    let wrong = site.fleet_text(EAGER, &["one", "two"]) + "policy.settings.no-such = 1\n";
    fleet.reload(&wrong);
    fleet.logs(&["two", "no-such", "those before stay"]);
    let entries = fleet.entries();
    let said = entries.iter().find(|entry| entry["name"] == "two").unwrap();
    assert!(said["cause"].as_str().is_some_and(|cause| cause.contains("no-such")), "{said:#}");
    assert!(fleet.end().success());
}
