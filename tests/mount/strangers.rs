//! Stubs that were carried off: to another tenant, and to another machine with another store.
//! They are refused by name, whatever carried them, and nothing is lost where they came from.

use std::path::Path;
use std::process::Command;

use super::harness::mount::{Mount, Start};
use super::harness::pattern::{self, Looks, looks};
use super::harness::site::Site;
use super::harness::{can_tier, must};

const BYTES: usize = 200_000;
/// Recalled inside `open`, and served by chunks.
const FILES: [(&str, usize); 2] = [("small", BYTES), ("large", 20 << 20)];

fn words(mount: &Mount, args: &[&str], path: &Path) -> (Option<i32>, String) {
    let args = args.iter().map(std::ffi::OsStr::new).chain([path.as_os_str()]);
    let output = mount.coldfs(args);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn stubs_carried_to_another_tenant_or_machine_are_refused_by_name_and_read_at_home() {
    if !can_tier() {
        return;
    }
    let home = Site::new().with_disk_store();
    for (name, bytes) in FILES {
        std::fs::write(home.data.join(name), pattern::bytes(1, bytes)).unwrap();
    }
    let mount = home.mount();
    mount.all("migrate", &home.mnt);
    mount.detach();

    // Another tenant of the same store, and one of the same name elsewhere.
    let neighbour = Site::new();
    let same_store = format!("disk:{}", home.store.display());
    let named = ["--tenant", "neighbour"].map(String::from).to_vec();
    let there = Start { store: Some(same_store), args: named, ..Start::default() };
    let away = Site::new();
    for (site, start) in [(&neighbour, there), (&away, Start::default())] {
        // A life of its own first.
        std::fs::write(site.data.join("own"), pattern::bytes(2, BYTES)).unwrap();
        let mount = site.start(&start);
        mount.all("migrate", &site.mnt);
        mount.detach();
        for (name, _) in FILES {
            let from = home.data.join(name);
            must(Command::new("cp").arg("-a").arg(&from).arg(site.data.join(format!("{name}-a"))));
            must(Command::new("cp").arg(&from).arg(site.data.join(format!("{name}-plain"))));
        }
        let mount = site.start(&start);
        for carried in ["small-a", "small-plain", "large-a", "large-plain"] {
            let path = site.mnt.join(carried);
            let raw = std::fs::read(site.data.join(carried)).unwrap();
            assert_eq!(looks(&raw), Looks::Stub);
            let error = std::fs::read(&path).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{carried}: {error}");
            let (code, text) = words(&mount, &["recall"], &path);
            assert_eq!(code, Some(1), "{carried}: {text}");
            assert!(text.contains(carried) && text.contains("tenant \"data\""), "{text}");
            for mode in [&["fsck"][..], &["fsck", "--adopt"]] {
                let (code, text) = words(&mount, mode, &path);
                assert_eq!(code, Some(1), "{carried}: {text}");
                assert!(text.contains(carried) && text.contains("tenant \"data\""), "{text}");
                assert!(text.contains(&home.store.display().to_string()), "{text}");
            }
            let (_, text) = words(&mount, &["migrate"], &path);
            assert!(text.contains("1 foreign") || text.contains("too-small"), "{text}");
            assert!(std::fs::read(&path).is_err(), "{carried}: adopted");
            assert!(std::fs::read(site.data.join(carried)).unwrap() == raw, "{carried}: changed");
        }
        assert!(std::fs::read(site.mnt.join("own")).unwrap() == pattern::bytes(2, BYTES));
        mount.detach();
    }

    let mount = home.mount();
    for (name, bytes) in FILES {
        assert!(std::fs::read(home.mnt.join(name)).unwrap() == pattern::bytes(1, bytes), "{name}");
    }
    let (code, text) = words(&mount, &["fsck"], &home.mnt);
    assert_eq!(code, Some(0), "{text}");
    mount.detach();
}
