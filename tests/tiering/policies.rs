//! Policies that mean harm, and policies that are changed under load.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn built(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).display().to_string()
}

fn hostile(behaviour: &str) -> String {
    let component = built("fixtures/guests/built/hostile.wasm");
    format!(
        "{EAGER}[policy]\ncomponent = \"{component}\"\n[policy.settings]\nbehaviour = \"{behaviour}\"\n"
    )
}

#[test]
fn a_policy_that_says_migrate_to_everything_breaks_no_promise() {
    if not_here() {
        return;
    }
    let mut site = site();
    let cold = plant(&site, 0, 60);
    let fresh: Vec<PathBuf> = (1..6).map(|index| plant(&site, index, 0)).collect();
    let open = plant(&site, 6, 0);
    settle(&mut site);
    // It asks for no age at all; the host has a least idleness of its own.
    let config = hostile("migrate-all").replace("least_idle = 1\n", "least_idle = \"1h\"\n");
    let mount = site.start(&site.configured(&config));
    let held = std::fs::File::open(&open).unwrap();
    age(&open, 60);
    becomes(&mount, &cold, "released");
    passes(&mount, 3);
    for path in &fresh {
        assert_ne!(mount.state(path), "released", "{}", path.display());
    }
    assert_ne!(mount.state(&open), "released");
    let held_back = tiering(&mount)["total"]["held"].clone();
    assert!(held_back["used-lately"].as_u64() > Some(0), "{held_back}");
    drop(held);
    is_whole(&cold, 0);
    passes(&mount, 2);
    assert_ne!(mount.state(&cold), "released", "it came home a moment ago");
    (0..7).for_each(|index| is_whole(&site.mnt.join(name(index)), index));
    mount.detach();
}

#[test]
fn a_policy_that_traps_is_left_out_until_a_reload() {
    if not_here() {
        return;
    }
    let mut site = site();
    let cold = plant(&site, 0, 60);
    settle(&mut site);
    let mount = site.start(&site.configured(&hostile("trap")));
    let left_out = wait_for(PATIENCE, || (tiering(&mount)["left_out"] == true).then_some(()));
    assert!(left_out.is_some(), "{:#}", tiering(&mount));
    assert_eq!(mount.state(&cold), "resident");
    assert_eq!(mount.counter("policy_traps_total"), 3);
    // A reload reads the configuration anew: now it names the default policy.
    let _same_file = site.configured(EAGER);
    let reloaded = mount.coldfs(["policy".as_ref(), "reload".as_ref(), site.mnt.as_os_str()]);
    assert!(reloaded.status.success(), "{}", String::from_utf8_lossy(&reloaded.stderr));
    becomes(&mount, &cold, "released");
    // One that does not load leaves the one in force where it is.
    let _same_file = site.configured(&hostile("no such behaviour"));
    let refused = mount.coldfs(["policy".as_ref(), "reload".as_ref(), site.mnt.as_os_str()]);
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(mount.status()["tenants"][0]["policy"], "default");
    is_whole(&cold, 0);
    mount.detach();
}

#[test]
fn policies_are_changed_under_load_and_nothing_is_lost() {
    if not_here() {
        return;
    }
    let mut site = site();
    (0..20).for_each(|index| drop(plant(&site, index, 60)));
    settle(&mut site);
    let example =
        format!("{EAGER}[policy]\ncomponent = \"{}\"\n", built("wasm-policy/example.wasm"));
    let configs = [EAGER.to_owned(), example, hostile("random"), hostile("loop")];
    let mount = site.start(&site.configured(EAGER));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut read = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                is_whole(&site.mnt.join(name(read % 20)), read % 20);
                read += 1;
            }
            read
        });
        for round in 0..8 {
            let _same_file = site.configured(configs[round % 4].as_str());
            let args = ["policy".as_ref(), "reload".as_ref(), site.mnt.as_os_str()];
            let output = mount.coldfs(args);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            passes(&mount, 1);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    (0..20).for_each(|index| is_whole(&site.mnt.join(name(index)), index));
    mount.detach();
}

#[test]
fn a_configured_policy_that_is_none_is_refused_before_anything_is_mounted() {
    if not_here() {
        return;
    }
    let site = site();
    let garbage = site.dir.path().join("garbage.wasm");
    std::fs::write(&garbage, "no policy").unwrap();
    let config = format!("[policy]\ncomponent = \"{}\"\n", garbage.display());
    let died = site.try_start(&site.configured(&config)).err().expect("it is refused");
    assert_eq!(died.status.code(), Some(2), "{}", died.log);
    assert!(
        died.log.contains("garbage.wasm") && died.log.contains("not a component"),
        "{}",
        died.log
    );
    let config = "[policy.settings]\ncold-after = \"soon\"\n";
    let died = site.try_start(&site.configured(config)).err().expect("it is refused");
    assert!(died.log.contains("cold-after"), "{}", died.log);
}
