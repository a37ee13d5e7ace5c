//! Whatever is not seen makes nothing cold: a killed daemon, a full map, a stopped drain, a clock
//! that is set.

use std::time::{Duration, Instant};

use super::harness::mount::{Mount, Start};
use super::harness::site::Site;
use super::{drained, has_probe, heat, mounted, no_heat_here, plant, start, tenant};

fn idle(mount: &Mount, site: &Site, name: &str) -> Option<u64> {
    heat(mount, &site.mnt.join(name))["idle_seconds"].as_u64()
}

#[test]
fn what_is_known_survives_a_restart_and_the_gap_proves_nothing() {
    if no_heat_here() {
        return;
    }
    let site = Site::new();
    plant(&site.data, &["read", "alone"]);
    let mount = mounted(&site, "");
    if !has_probe(&mount) {
        return;
    }
    std::fs::read(site.mnt.join("read")).unwrap();
    drained(&mount);
    let before = heat(&mount, &site.mnt.join("read"));
    mount.detach();
    // In the gap.
    std::fs::read(site.data.join("alone")).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let again = Instant::now();
    let mount = mounted(&site, "");
    drained(&mount);
    let after = heat(&mount, &site.mnt.join("read"));
    for fact in ["accesses", "last_access", "evidence", "known_since"] {
        assert_eq!(after[fact], before[fact], "{fact}: {after}");
    }
    for name in ["read", "alone"] {
        let idle = idle(&mount, &site, name).unwrap();
        assert!(idle <= again.elapsed().as_secs() + 1, "{name}: idle {idle} s");
    }
    mount.kill();
    let killed = Instant::now();
    let mount = mounted(&site, "");
    drained(&mount);
    for name in ["read", "alone"] {
        let idle = idle(&mount, &site, name).unwrap();
        assert!(idle <= killed.elapsed().as_secs() + 1, "{name}: idle {idle} s");
    }
    mount.detach();
}

#[test]
fn a_lost_catalog_is_unknown_heat() {
    if no_heat_here() {
        return;
    }
    let site = Site::new();
    plant(&site.data, &["read"]);
    let mount = mounted(&site, "");
    if !has_probe(&mount) {
        return;
    }
    std::fs::read(site.mnt.join("read")).unwrap();
    drained(&mount);
    mount.detach();
    for entry in std::fs::read_dir(site.runtime.join("catalog")).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let again = Instant::now();
    let mount = mounted(&site, "");
    drained(&mount);
    let heat = heat(&mount, &site.mnt.join("read"));
    assert_eq!(heat["accesses"], 0, "{heat}");
    assert!(heat["idle_seconds"].as_u64().unwrap() <= again.elapsed().as_secs() + 1, "{heat}");
    mount.detach();
}

#[test]
fn a_full_map_is_counted_and_ends_what_is_proven() {
    if no_heat_here() {
        return;
    }
    let site = Site::new();
    let names: Vec<String> = (0..600).map(|number| format!("f{number}")).collect();
    plant(&site.data, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let mount = mounted(&site, "entries = 64\ndrain = 5");
    if !has_probe(&mount) {
        return;
    }
    std::thread::sleep(Duration::from_secs(3));
    let filled = Instant::now();
    for name in &names {
        std::fs::read(site.data.join(name)).unwrap();
    }
    drained(&mount);
    let tenant = tenant(&mount);
    assert!(tenant["heat"]["lost"].as_u64().unwrap() > 0, "{tenant:#}");
    assert!(tenant["heat"]["gaps"].as_u64().unwrap() > 0, "{tenant:#}");
    assert!(mount.counter("heat_dropped_total") > 0);
    assert!(tenant["notes"].to_string().contains("[heat] entries"), "{tenant:#}");
    for name in ["f0", "f300", "f599"] {
        let idle = idle(&mount, &site, name).unwrap();
        assert!(idle <= filled.elapsed().as_secs() + 1, "{name}: idle {idle} s");
    }
    mount.detach();
}

#[test]
fn a_drain_that_never_comes_proves_nothing() {
    if no_heat_here() {
        return;
    }
    let site = Site::new();
    plant(&site.data, &["read", "alone"]);
    let mount = mounted(&site, "drain = '1d'");
    if !has_probe(&mount) {
        return;
    }
    std::fs::read(site.mnt.join("read")).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    for name in ["read", "alone"] {
        let idle = idle(&mount, &site, name).unwrap();
        assert!(idle <= 1, "{name}: idle {idle} s, and nobody has looked");
    }
    mount.detach();
}

#[test]
fn a_clock_that_is_set_makes_nothing_idle() {
    if no_heat_here() {
        return;
    }
    let found = std::process::Command::new("sh")
        .args(["-c", "ls /usr/lib/*/faketime/libfaketime.so.1 2>/dev/null"])
        .output()
        .unwrap();
    let library = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    if library.is_empty() {
        return super::skip("needs faketime");
    }
    let site = Site::new();
    plant(&site.data, &["alone"]);
    let clock = site.dir.path().join("clock");
    std::fs::write(&clock, "+0").unwrap();
    let env = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let mount = site.start(&Start { env, ..start(&site, "") });
    super::settled(&mount);
    if !has_probe(&mount) {
        return;
    }
    let before = Instant::now();
    let gaps = tenant(&mount)["heat"]["gaps"].as_u64().unwrap();
    std::fs::write(&clock, "+20d").unwrap();
    drained(&mount);
    let noticed = super::wait_for(super::PATIENCE, || {
        (tenant(&mount)["heat"]["gaps"].as_u64().unwrap() > gaps).then_some(())
    });
    assert!(noticed.is_some(), "{:#}", tenant(&mount));
    let idle = idle(&mount, &site, "alone").unwrap();
    assert!(idle <= before.elapsed().as_secs() + 2, "idle {idle} s by the clock alone");
    mount.detach();
}
