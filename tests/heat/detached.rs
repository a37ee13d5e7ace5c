//! A probe that somebody detaches, and one with no more rights than it needs.

use std::process::Command;
use std::time::Instant;

use super::harness::mount::Mount;
use super::harness::site::Site;
use super::harness::{on_path, run, skip, wait_for};
use super::{PATIENCE, accesses, drained, has_probe, heat, mounted, no_heat_here, plant, tenant};

/// The daemon's descriptors that hold its programs where they are.
fn links(mount: &Mount) -> Vec<u32> {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", mount.pid())).unwrap();
    let is_link = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path()).is_ok_and(|to| {
            let to = to.to_string_lossy().into_owned();
            ["bpf_link", "bpf-link", "bpf-raw-tracepoint", "perf_event"]
                .iter()
                .any(|word| to.contains(word))
        })
    };
    let links = entries.map(Result::unwrap).filter(is_link);
    links.map(|entry| entry.file_name().to_str().unwrap().parse().unwrap()).collect()
}

#[test]
fn a_probe_that_is_detached_is_missed_and_loaded_anew() {
    if no_heat_here() {
        return;
    }
    if !on_path("gdb") {
        return skip("needs gdb");
    }
    let site = Site::new();
    plant(&site.data, &["read", "alone"]);
    let mount = mounted(&site, "");
    if !has_probe(&mount) {
        return;
    }
    drained(&mount);
    let before = tenant(&mount)["heat"].clone();
    assert_eq!((&before["blind_drains"], &before["reloads"]), (&0.into(), &0.into()));
    let links = links(&mount);
    assert!(!links.is_empty(), "the daemon holds its programs by descriptors");
    // Its standard input is /dev/null: so will the links be.
    let mut gdb = Command::new("gdb");
    gdb.args(["-batch", "-nx", "-p", &mount.pid().to_string()]);
    for link in &links {
        gdb.args(["-ex", &format!("call (int)dup2(0, {link})")]);
    }
    let detached = Instant::now();
    let output = run(&mut gdb);
    if links.len() == self::links(&mount).len() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        return skip(&format!("gdb may not: {}", why.lines().next().unwrap_or_default()));
    }
    // Unseen.
    std::fs::read(site.data.join("read")).unwrap();
    let noticed =
        wait_for(PATIENCE, || Some(tenant(&mount)).filter(|tenant| tenant["heat"]["reloads"] != 0));
    let noticed = noticed.unwrap_or_else(|| panic!("{:#}", tenant(&mount)));
    assert!(noticed["heat"]["blind_drains"].as_u64().unwrap() > 0, "{noticed:#}");
    assert!(noticed["heat"]["gaps"].as_u64() > before["gaps"].as_u64(), "{noticed:#}");
    assert!(noticed["notes"].to_string().contains("detached by somebody"), "{noticed:#}");
    drained(&mount);
    for name in ["read", "alone"] {
        let heat = heat(&mount, &site.mnt.join(name));
        let idle = heat["idle_seconds"].as_u64().unwrap();
        assert!(idle <= detached.elapsed().as_secs() + 1, "{name}: {heat}");
    }
    let known = accesses(&mount, &site.mnt.join("read"));
    std::fs::read(site.data.join("read")).unwrap();
    drained(&mount);
    assert!(accesses(&mount, &site.mnt.join("read")) > known, "the new one sees");
    mount.detach();
}

#[test]
fn two_capabilities_are_enough_for_a_probe() {
    if no_heat_here() {
        return;
    }
    if !on_path("setpriv") {
        return skip("needs setpriv");
    }
    let coldfs = super::harness::coldfs();
    let probe_of = |bounding_set: &str| {
        let mut doctor = Command::new("setpriv");
        doctor.args(["--bounding-set", bounding_set]).arg(coldfs.get_program());
        let output = run(doctor.args(["doctor", "--json"]));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.contains(r#""name":"probe""#));
        line.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
            .to_owned()
    };
    let with_all = probe_of("+all");
    if !with_all.contains(r#""grade":"ok""#) {
        return skip(&format!("this kernel allows no probe: {with_all}"));
    }
    let with_two = probe_of("-all,+bpf,+perfmon");
    assert!(with_two.contains(r#""grade":"ok""#), "{with_two}");
    let with_one = probe_of("-all,+bpf");
    assert!(with_one.contains(r#""grade":"warn""#), "{with_one}");
}
