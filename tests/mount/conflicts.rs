//! Bytes that nobody can account for: every door has the same word for them, they are noted once
//! with all that is needed to find the old version, and a person chooses.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Output;

use super::harness::mount::Mount;
use super::harness::pattern::{self, Looks, looks};
use super::harness::site::Site;
use super::harness::{can_tier, raw};

const BYTES: usize = 200_000;

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

fn overwrite(path: &Path, bytes: &[u8], at: u64) {
    raw::open(path, libc::O_WRONLY, 0).unwrap().write_all_at(bytes, at).unwrap();
}

type Damage = fn(&Path);

/// What somebody did to a stub while nothing was mounted.
const DAMAGES: [(&str, Damage); 5] = [
    ("four-bytes", |path| overwrite(path, b"oops", 1_000)),
    ("in-the-text", |path| {
        let body = std::fs::read(path).unwrap();
        let at = body.windows(4).position(|part| part == b"size").unwrap_or(100);
        overwrite(path, &[body[at] ^ 1], at as u64);
    }),
    ("appended", |path| overwrite(path, b"a line", 4_096)),
    ("cut", |path| raw::open(path, libc::O_WRONLY, 0).unwrap().set_len(3_000).unwrap()),
    ("written-over", |path| std::fs::write(path, b"somebody's new file").unwrap()),
];

/// A tree with one released file a damage, each damaged.
fn damaged() -> Option<Site> {
    if !can_tier() {
        return None;
    }
    let site = Site::new();
    for (seed, (name, _)) in DAMAGES.iter().enumerate() {
        std::fs::write(site.data.join(name), pattern::bytes(seed as u64, BYTES)).unwrap();
    }
    let mount = site.mount();
    mount.all("migrate", &site.mnt);
    mount.detach();
    for (name, damage) in DAMAGES {
        damage(&site.data.join(name));
    }
    Some(site)
}

fn fsck(mount: &Mount, mode: &[&str], path: &Path) -> Output {
    let words = ["fsck"].iter().chain(mode).map(std::ffi::OsStr::new);
    mount.coldfs(words.chain([path.as_os_str()]))
}

fn notes(mount: &Mount, site: &Site) -> Vec<serde_json::Value> {
    let output = mount.coldfs(["conflicts".as_ref(), "--json".as_ref(), site.mnt.as_os_str()]);
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_door_has_the_same_word_for_a_conflict_and_names_the_choice() {
    let Some(site) = damaged() else { return };
    let mount = site.mount();
    let found = mount.coldfs([
        "find".as_ref(),
        site.mnt.as_os_str(),
        "--state".as_ref(),
        "conflict".as_ref(),
    ]);
    for (name, _) in DAMAGES {
        let path = site.mnt.join(name);
        assert_eq!(mount.state(&path), "conflict", "{name}");
        let state = words(&mount.coldfs(["state".as_ref(), path.as_os_str()]));
        says(&state, &[name, "conflict", "segment:"]);
        says(&words(&found), &[name]);
        for verb in ["release", "migrate", "recall"] {
            if name == "written-over" && verb == "recall" {
                // Its bytes are served as they are, so it is at home.
                continue;
            }
            let output = mount.coldfs([verb.as_ref(), path.as_os_str()]);
            assert_eq!(output.status.code(), Some(1), "{verb} {name}: {}", words(&output));
            says(&words(&output), &[name, "--keep"]);
        }
        for mode in [&[][..], &["--repair"], &["--adopt"]] {
            let output = fsck(&mount, mode, &path);
            assert_eq!(output.status.code(), Some(1), "{mode:?} {name}: {}", words(&output));
            says(&words(&output), &["conflict: ", name, "names", "200000 bytes", "--keep remote"]);
        }
    }
    mount.detach();
}

#[test]
fn a_person_who_keeps_the_remote_copy_gets_it_and_loses_no_local_byte() {
    let Some(site) = damaged() else { return };
    let bodies = DAMAGES.map(|(name, _)| std::fs::read(site.data.join(name)).unwrap());
    let mount = site.mount();
    for (seed, (name, _)) in DAMAGES.iter().enumerate() {
        let path = site.mnt.join(name);
        let output = fsck(&mount, &["--keep", "remote"], &path);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", words(&output));
        says(&words(&output), &["mended: ", name, ".coldfs/conflicts.d/"]);
        assert_eq!(looks(&std::fs::read(site.data.join(name)).unwrap()), Looks::Stub);
        assert_eq!(mount.state(&path), "released", "{name}");
        assert!(std::fs::read(&path).unwrap() == pattern::bytes(seed as u64, BYTES), "{name}");
    }
    let kept: Vec<_> = std::fs::read_dir(site.data.join(".coldfs/conflicts.d"))
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    for (body, (name, _)) in bodies.iter().zip(DAMAGES) {
        assert!(kept.contains(body), "the local bytes of {name} are not kept");
    }
    assert_eq!(fsck(&mount, &[], &site.mnt).status.code(), Some(0), "nothing is left");
    // Again: there is nothing to choose.
    let output = fsck(&mount, &["--keep", "local"], &site.mnt.join("cut"));
    assert_eq!(output.status.code(), Some(1));
    says(&words(&output), &["cut", "nothing to choose"]);
    mount.detach();
}

#[test]
fn a_person_who_keeps_the_local_bytes_has_a_plain_file_for_good() {
    let Some(site) = damaged() else { return };
    let bodies = DAMAGES.map(|(name, _)| std::fs::read(site.data.join(name)).unwrap());
    let mount = site.mount();
    for (name, _) in DAMAGES {
        let output = fsck(&mount, &["--keep", "local"], &site.mnt.join(name));
        assert_eq!(output.status.code(), Some(0), "{name}: {}", words(&output));
        says(&words(&output), &["200000 bytes, was let go"]);
    }
    let noted = notes(&mount, &site);
    mount.detach();
    let mount = site.mount();
    for ((name, _), body) in DAMAGES.iter().zip(&bodies) {
        let path = site.mnt.join(name);
        assert_eq!(mount.state(&path), "resident", "{name}");
        assert!(std::fs::read(&path).unwrap() == *body, "{name}");
        let note = noted.iter().find(|note| note["path"] == path.to_str().unwrap()).unwrap();
        assert_eq!(note["remote_bytes"], BYTES, "{note}");
        assert!(note["remote"].as_str().unwrap().contains('/'), "{note}");
    }
    assert_eq!(fsck(&mount, &[], &site.mnt).status.code(), Some(0), "nothing is left");
    mount.detach();
}

#[test]
fn another_files_stub_over_a_record_leaves_a_note_by_which_the_old_version_is_found() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    for (seed, name) in [(1, "one"), (2, "two")] {
        std::fs::write(site.data.join(name), pattern::bytes(seed, BYTES)).unwrap();
    }
    let mount = site.mount();
    mount.all("migrate", &site.mnt);
    let state = words(&mount.coldfs(["state".as_ref(), site.mnt.join("two").as_os_str()]));
    let old = state.trim().rsplit("segment:").next().unwrap().to_owned();
    mount.detach();
    std::fs::write(site.data.join("two"), std::fs::read(site.data.join("one")).unwrap()).unwrap();
    let mount = site.mount();
    let two = site.mnt.join("two");
    assert_eq!(mount.state(&two), "orphan");
    let output = fsck(&mount, &["--adopt"], &site.mnt);
    assert_eq!(output.status.code(), Some(0), "{}", words(&output));
    assert!(std::fs::read(&two).unwrap() == pattern::bytes(1, BYTES), "the other's bytes");
    let noted = notes(&mount, &site);
    let note = noted.iter().find(|note| note["path"] == two.to_str().unwrap()).unwrap();
    assert_eq!(note["remote"], old, "{note}");
    assert_eq!(note["remote_bytes"], BYTES, "{note}");
    mount.detach();
}

#[test]
fn a_conflict_is_noted_once_however_often_it_is_read_and_can_be_read_in_place() {
    let Some(site) = damaged() else { return };
    // Over itself nobody reads `.coldfs` by name.
    let site = site.over_itself();
    let mount = site.mount();
    for _ in 0..30 {
        let read = std::fs::read(site.mnt.join("appended"));
        assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO));
    }
    assert_eq!(notes(&mount, &site).len(), 1);
    assert_eq!(std::fs::read(site.mnt.join("written-over")).unwrap(), b"somebody's new file");
    mount.detach();
    let mount = site.mount();
    let read = std::fs::read(site.mnt.join("appended"));
    assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO));
    let noted = notes(&mount, &site);
    assert_eq!(noted.len(), 2, "{noted:?}");
    let people = words(&mount.coldfs(["conflicts".as_ref(), site.mnt.as_os_str()]));
    says(&people, &["/appended: ", "/written-over: ", "its record names ", "200,000 bytes"]);
    mount.detach();
}

#[test]
fn the_audit_can_be_read_in_place() {
    if !can_tier() {
        return;
    }
    let site = Site::new().over_itself();
    for name in ["a", "b"] {
        std::fs::write(site.data.join(name), pattern::bytes(1, BYTES)).unwrap();
    }
    let mount = site.mount();
    mount.all("migrate", &site.mnt);
    for name in ["a", "b"] {
        std::fs::read(site.mnt.join(name)).unwrap();
    }
    let audit = |more: &[&str]| {
        let args = ["audit"].iter().chain(more).map(std::ffi::OsStr::new);
        words(&mount.coldfs(args.chain([site.mnt.as_os_str()])))
    };
    let lines = super::harness::wait_for(std::time::Duration::from_secs(5), || {
        Some(audit(&["--json"])).filter(|text| text.lines().count() == 2)
    });
    says(&lines.expect("a line an open"), &["\"outcome\":\"admitted\"", "\"path\":"]);
    let last = audit(&["--tail", "1"]);
    assert_eq!(last.lines().count(), 1);
    says(&last, &["/b ", "195 KiB", "admitted"]);
    mount.detach();
}

#[test]
fn a_file_that_an_application_wrote_is_its_bytes_also_where_they_read_like_a_stub() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    let formats = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats/v1");
    let names = ["stub", "stub-flipped", "stub-forged-size", "stub-newer"];
    std::fs::write(site.data.join("cold"), pattern::bytes(1, BYTES)).unwrap();
    let mount = site.mount();
    let bytes = |name: &str| {
        let mut body = std::fs::read(formats.join(name)).unwrap();
        body.resize(4_096, b'\n');
        body
    };
    for name in names {
        std::fs::write(site.mnt.join(name), bytes(name)).unwrap();
        assert!(std::fs::read(site.mnt.join(name)).unwrap() == bytes(name), "{name}");
    }
    mount.all("migrate", &site.mnt);
    mount.detach();
    // A real stub of this tenant that comes back through the mount is none: fsck --adopt knows.
    let real = std::fs::read(site.data.join("cold")).unwrap();
    assert_eq!(looks(&real), Looks::Stub);
    let mount = site.mount();
    std::fs::write(site.mnt.join("restored"), &real).unwrap();
    for name in names {
        assert!(
            std::fs::read(site.mnt.join(name)).unwrap() == bytes(name),
            "{name}, mounted again"
        );
        assert_eq!(mount.state(&site.mnt.join(name)), "resident", "{name}");
    }
    let read = std::fs::read(site.mnt.join("restored"));
    assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO), "a pointer is no content");
    assert_eq!(mount.state(&site.mnt.join("restored")), "orphan");
    mount.detach();

    // The mark is these bytes' and this file's: nothing else becomes plain by it.
    std::fs::copy(site.data.join("stub"), site.data.join("copied")).unwrap();
    let mark = raw::get_xattr(&site.data.join("stub"), b"trusted.coldfs.plain").unwrap().unwrap();
    raw::set_xattr(&site.data.join("copied"), b"trusted.coldfs.plain", &mark, 0).unwrap();
    std::fs::write(site.data.join("stub"), &real).unwrap();
    let mount = site.mount();
    for name in ["copied", "stub"] {
        let read = std::fs::read(site.mnt.join(name));
        assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO), "{name}");
    }
    // A person may say so of another tenant's pointer, and of no stub of this one's.
    let output = fsck(&mount, &["--keep", "local"], &site.mnt.join("copied"));
    assert_eq!(output.status.code(), Some(0), "{}", words(&output));
    assert!(std::fs::read(site.mnt.join("copied")).unwrap() == bytes("stub"));
    let output = fsck(&mount, &["--keep", "local"], &site.mnt.join("stub"));
    assert_eq!(output.status.code(), Some(1), "{}", words(&output));
    says(&words(&output), &["whole stub of this tenant", "--adopt"]);
    mount.detach();
}

#[test]
fn a_copy_that_is_gone_is_named_by_its_own_entry_and_its_file_goes_on_as_a_plain_one() {
    if !can_tier() {
        return;
    }
    let site = Site::new().with_disk_store();
    for (seed, name) in [(1, "one"), (2, "two")] {
        std::fs::write(site.data.join(name), pattern::bytes(seed, BYTES)).unwrap();
    }
    let mount = site.mount();
    mount.all("archive", &site.mnt);
    let place = |name: &str| {
        let state = words(&mount.coldfs(["state".as_ref(), site.mnt.join(name).as_os_str()]));
        state.trim().rsplit("segment:").next().unwrap().to_owned()
    };
    let places = ["one", "two"].map(|name| (name, place(name)));
    mount.detach();
    for segment in super::bad_input::segments(&site.store) {
        std::fs::remove_file(segment).unwrap();
    }
    let mount = site.mount();
    for verb in ["release", "migrate"] {
        let output = mount.coldfs([verb.as_ref(), site.mnt.join("two").as_os_str()]);
        assert_eq!(output.status.code(), Some(1), "{}", words(&output));
        says(&words(&output), &["two: ", "coldfs fsck --repair"]);
    }
    let found = words(&fsck(&mount, &["--repair"], &site.mnt));
    for (name, place) in &places {
        let line = found.lines().find(|line| line.contains(&format!("/{name}: "))).unwrap();
        assert!(line.starts_with("mended: ") && line.contains(place.as_str()), "{line}");
        assert!(line.ends_with("the bytes are here"), "{line}");
    }
    mount.all("migrate", &site.mnt);
    assert!(std::fs::read(site.mnt.join("two")).unwrap() == pattern::bytes(2, BYTES));
    mount.detach();
}
