//! What bad input gets: an error that names the file, the cause and the next step, and nothing
//! lost. Places that cannot work are tried one by one in `config::checks` and `places`; here is what
//! only a daemon can see, and what has become of bytes at rest.

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::harness::mount::Start;
use super::harness::pattern::{self, Looks, looks};
use super::harness::site::Site;
use super::harness::volume::{FsKind, Volume};
use super::harness::{can_loop, can_tier, coldfs, must, raw, run};

const BYTES: usize = 200_000;
/// The attribute that a record is in, of a tenant that root serves.
pub(super) const RECORD: &[u8] = b"trusted.coldfs";

/// `coldfs mount` of these places, which must be refused: its exit code and words.
pub(super) fn refused(
    site: &Site,
    data: &Path,
    mnt: &Path,
    store: &Path,
    more: &[&str],
) -> (i32, String) {
    let mut command = coldfs();
    command.arg("mount").arg(data).arg(mnt).args(["--foreground", "--store"]);
    command.arg(format!("disk:{}", store.display())).args(more);
    command.env("COLDFS_RUNTIME_DIR", &site.runtime).env("COLDFS_STATE_DIR", &site.runtime);
    let output = run(Command::new("timeout")
        .arg("60")
        .arg(command.get_program())
        .args(command.get_args())
        .env("COLDFS_RUNTIME_DIR", &site.runtime)
        .env("COLDFS_STATE_DIR", &site.runtime));
    (output.status.code().unwrap(), words(&output))
}

pub(super) fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

pub(super) fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// Two files, one released, one archived, detached.
fn detached() -> Option<Site> {
    if !can_tier() {
        return None;
    }
    let site = Site::new().with_disk_store();
    for (index, name) in ["cold", "warm"].into_iter().enumerate() {
        std::fs::write(site.data.join(name), pattern::bytes(index as u64, BYTES)).unwrap();
    }
    let mount = site.mount();
    mount.all("archive", &site.mnt);
    mount.all("release", &site.mnt.join("cold"));
    mount.detach();
    assert_eq!(looks(&std::fs::read(site.data.join("cold")).unwrap()), Looks::Stub);
    Some(site)
}

/// Mounts and says whether both files read as they were; an errno where one does not.
fn reads(site: &Site) -> [Result<(), i32>; 2] {
    let mount = site.mount();
    let seen = [(0, "cold"), (1, "warm")].map(|(index, name)| {
        let read =
            std::fs::read(site.mnt.join(name)).map_err(|error| error.raw_os_error().unwrap())?;
        assert!(read == pattern::bytes(index, BYTES), "{name} reads wrong");
        Ok(())
    });
    mount.detach();
    seen
}

/// Releases a file that was read inside an open, and is at home since.
fn cold_again(site: &Site) {
    let mount = site.mount();
    mount.all("release", &site.mnt.join("cold"));
    mount.detach();
}

#[test]
fn a_directory_that_is_served_or_swapped_is_refused_by_name() {
    let Some(site) = detached() else { return };
    let elsewhere = site.dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let mount = site.mount();
    let (code, text) = refused(&site, &site.data, &elsewhere, &site.store, &[]);
    assert_eq!(code, 1, "{text}");
    says(&text, &["data", "served by another coldfs (process", "coldfs status"]);
    mount.detach();

    // Another directory in its place: its own identity, the same name in the store.
    let kept = site.dir.path().join("kept");
    std::fs::rename(&site.data, &kept).unwrap();
    std::fs::create_dir(&site.data).unwrap();
    std::fs::write(site.data.join("cold"), "another").unwrap();
    let (code, text) = refused(&site, &site.data, &site.mnt, &site.store, &[]);
    assert_eq!(code, 4, "{text}");
    says(&text, &["another tenant named \"data\"", "--tenant", "another store"]);
    assert_eq!(std::fs::read(site.data.join("cold")).unwrap(), b"another");

    // Of another name than asked for.
    std::fs::remove_dir_all(&site.data).unwrap();
    std::fs::rename(&kept, &site.data).unwrap();
    let (code, text) = refused(&site, &site.data, &site.mnt, &site.store, &["--tenant", "other"]);
    assert_eq!(code, 2, "{text}");
    says(&text, &["belongs to the tenant \"data\"", "--tenant"]);
    assert_eq!(reads(&site), [Ok(()), Ok(())]);
}

#[test]
fn another_store_than_the_one_that_holds_the_cold_files_is_refused_by_both_names() {
    let Some(site) = detached() else { return };
    let other = site.dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let (code, text) = refused(&site, &site.data, &site.mnt, &other, &[]);
    assert_eq!(code, 4, "{text}");
    let known = format!("cold files lie in {}", site.store_url);
    says(&text, &["other has no tenant named \"data\"", &known, "--new-store"]);
    assert_eq!(reads(&site), [Ok(()), Ok(())], "nothing is lost");

    // Moved with all that is in it, it is the same store.
    cold_again(&site);
    std::fs::remove_dir_all(&other).unwrap();
    std::fs::rename(&site.store, &other).unwrap();
    let moved = Start { store: Some(format!("disk:{}", other.display())), ..Start::default() };
    let mount = site.start(&moved);
    let cold = std::fs::read(site.mnt.join("cold")).unwrap();
    assert!(cold == pattern::bytes(0, BYTES), "read from the store's new place");
    mount.detach();

    // Left behind, because somebody said so.
    let start = Start { args: vec!["--new-store".into()], ..Start::default() };
    site.start(&start).detach();
    assert_eq!(reads(&site), [Ok(()), Ok(())], "both are at home");
}

#[test]
fn a_store_that_cannot_be_written_or_is_full_says_so_and_loses_nothing() {
    if !can_tier() || !can_loop() {
        return;
    }
    let site = Site::new();
    let beside = site.dir.path().join("beside");
    std::fs::create_dir(&beside).unwrap();
    let volume = Volume::create(&beside, FsKind::Ext4, 64);
    let store = volume.root().join("store");
    std::fs::write(site.data.join("file"), pattern::bytes(1, 1 << 20)).unwrap();
    let start = Start { store: Some(format!("disk:{}", store.display())), ..Start::default() };

    let mount = site.start(&start);
    let filler = File::create(volume.root().join("filler")).unwrap();
    let mut at = 0;
    while filler.write_all_at(&[7; 4_096], at).is_ok() {
        at += 4_096;
    }
    drop(filler);
    let output =
        mount.coldfs(["migrate".as_ref(), "--wait".as_ref(), site.mnt.join("file").as_os_str()]);
    assert_eq!(output.status.code(), Some(1), "{}", words(&output));
    says(&words(&output), &["file: ", "full", "make room in the store"]);
    assert!(std::fs::read(site.mnt.join("file")).unwrap() == pattern::bytes(1, 1 << 20));
    mount.detach();
    assert!(std::fs::read(site.data.join("file")).unwrap() == pattern::bytes(1, 1 << 20));

    std::fs::remove_file(volume.root().join("filler")).unwrap();
    must(Command::new("mount").args(["-o", "remount,ro"]).arg(volume.root()));
    let (code, text) = refused(&site, &site.data, &site.mnt, &store, &[]);
    must(Command::new("mount").args(["-o", "remount,rw"]).arg(volume.root()));
    assert_eq!(code, 2, "{text}");
    says(&text, &["store", "not writable", "--store"]);
    let mount = site.start(&start);
    mount.all("migrate", &site.mnt);
    assert!(std::fs::read(site.mnt.join("file")).unwrap() == pattern::bytes(1, 1 << 20));
    mount.detach();
}

#[test]
fn records_that_were_changed_are_not_believed_and_cost_nothing() {
    let Some(site) = detached() else { return };
    let record = |name: &str| raw::get_xattr(&site.data.join(name), RECORD).unwrap().unwrap();
    let mut good = ["cold", "warm"].map(record);
    let set = |bytes: [&[u8]; 2]| {
        for (name, bytes) in ["cold", "warm"].into_iter().zip(bytes) {
            raw::set_xattr(&site.data.join(name), RECORD, bytes, 0).unwrap();
        }
    };
    let flip = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        bytes
    };
    let mut changed = vec![
        ["cut".to_owned().into_bytes(), vec![]],
        [good[0][..40].to_vec(), good[1][..63].to_vec()],
        [[&good[0][..], b"more"].concat(), vec![1; 300]],
        // Each other's: of the same tenant, of another file.
        [good[1].clone(), good[0].clone()],
    ];
    changed.extend([1, 8, 20, 30, 60].map(|at| [flip(&good[0], at), flip(&good[1], at)]));
    for bytes in &changed {
        set([&bytes[0], &bytes[1]]);
        assert_eq!(reads(&site), [Err(libc::EIO), Ok(())], "{bytes:?}");
        assert_eq!(looks(&std::fs::read(site.data.join("cold")).unwrap()), Looks::Stub);
        set([&good[0], &good[1]]);
        assert_eq!(reads(&site), [Ok(()), Ok(())], "put back after {bytes:?}");
        cold_again(&site);
        good = ["cold", "warm"].map(record);
    }
    // Of a newer version: kept, whatever it says.
    let newer = good.clone().map(|mut bytes| {
        bytes[0] = 9;
        bytes
    });
    set([&newer[0], &newer[1]]);
    assert_eq!(reads(&site), [Err(libc::EIO), Ok(())]);
    assert_eq!(["cold", "warm"].map(record), newer);
    let mount = site.mount();
    let output = mount.coldfs(["fsck".as_ref(), "--adopt".as_ref(), site.mnt.as_os_str()]);
    says(&words(&output), &["cold: ", "newer coldfs", "use the coldfs"]);
    mount.detach();
    assert_eq!(["cold", "warm"].map(record), newer);
    set([&good[0], &good[1]]);
    assert_eq!(reads(&site), [Ok(()), Ok(())]);
}

#[test]
fn an_identity_that_was_changed_is_refused_and_can_be_put_back() {
    let Some(site) = detached() else { return };
    let path = site.data.join(".coldfs/tenant");
    let good = std::fs::read_to_string(&path).unwrap();
    let digit = good.find("\"key\"").unwrap() + 10;
    let mut flipped = good.clone().into_bytes();
    flipped[digit] = if flipped[digit] == b'0' { b'1' } else { b'0' };
    let cases: [(&[u8], &str); 4] = [
        (&good.as_bytes()[..40], "EOF"),
        (b"", "EOF"),
        (&flipped, "checksum"),
        (br#"{"format": 7, "what": 1}"#, "newer than this coldfs"),
    ];
    for (bytes, word) in cases {
        std::fs::write(&path, bytes).unwrap();
        let (code, text) = refused(&site, &site.data, &site.mnt, &site.store, &[]);
        assert_eq!(code, 1, "{text}");
        says(&text, &[".coldfs/tenant", word, "TENANT/owner"]);
    }
    std::fs::write(&path, good).unwrap();
    assert_eq!(reads(&site), [Ok(()), Ok(())]);
}

#[test]
fn a_stub_of_a_newer_coldfs_is_refused_by_name_and_kept() {
    let Some(site) = detached() else { return };
    let path = site.data.join("cold");
    let record = raw::get_xattr(&path, RECORD).unwrap().unwrap();
    let newer = {
        let mut body = std::fs::read(&path).unwrap();
        let version = body.iter().position(|byte| *byte == b'\n').unwrap() - 1;
        body[version] = b'7';
        body
    };
    let at_rest = raw::open(&path, libc::O_WRONLY, 0).unwrap();
    at_rest.write_all_at(&newer, 0).unwrap();
    drop(at_rest);
    for with_record in [true, false] {
        if !with_record {
            raw::remove_xattr(&path, RECORD).unwrap();
        }
        assert_eq!(reads(&site), [Err(libc::EIO), Ok(())]);
        let mount = site.mount();
        for mode in [&["fsck"][..], &["fsck", "--repair"], &["fsck", "--adopt"]] {
            let place = site.mnt.join("cold");
            let output =
                mount.coldfs(mode.iter().map(|word| word.as_ref()).chain([place.as_os_str()]));
            assert_eq!(output.status.code(), Some(1), "{}", words(&output));
            says(&words(&output), &["cold: ", "version 7", "newer coldfs"]);
        }
        mount.detach();
        assert_eq!(std::fs::read(&path).unwrap(), newer, "with its record: {with_record}");
        let kept = raw::get_xattr(&path, RECORD).unwrap();
        assert_eq!(kept, with_record.then(|| record.clone()));
    }
}

#[test]
fn a_segment_of_a_newer_coldfs_is_refused_by_name_and_is_not_called_lost() {
    let Some(site) = detached() else { return };
    // Where the version of a trailer is: the same in every version.
    const FROM_END: usize = 16;
    let kept: Vec<_> = segments(&site.store)
        .into_iter()
        .map(|path| {
            let good = std::fs::read(&path).unwrap();
            let mut newer = good.clone();
            let at = newer.len() - FROM_END;
            assert_eq!(newer[at], 1, "a version");
            newer[at] = 7;
            std::fs::write(&path, newer).unwrap();
            (path, good)
        })
        .collect();
    let mount = site.mount();
    let output = mount.coldfs(["fsck".as_ref(), "--repair".as_ref(), site.mnt.as_os_str()]);
    assert_eq!(output.status.code(), Some(1), "{}", words(&output));
    says(&words(&output), &["cold: ", "warm: ", "version 7", "use the coldfs that wrote it"]);
    let output = mount.coldfs(["release".as_ref(), site.mnt.join("warm").as_os_str()]);
    assert_eq!(output.status.code(), Some(1), "{}", words(&output));
    says(&words(&output), &["warm: ", "version 7", "newer coldfs"]);
    assert_eq!(
        ["cold", "warm"].map(|name| mount.state(&site.mnt.join(name))),
        ["released", "archived"]
    );
    mount.detach();
    // Its chunks prove themselves: they are right, or refused.
    let [cold, warm] = reads(&site);
    assert!(cold.is_ok() || cold == Err(libc::EIO));
    assert_eq!(warm, Ok(()));
    for (path, good) in kept {
        std::fs::write(path, good).unwrap();
    }
    assert_eq!(reads(&site), [Ok(()), Ok(())]);
}

#[test]
fn an_owner_object_of_a_newer_coldfs_is_refused_by_name_and_kept() {
    let Some(site) = detached() else { return };
    let owner = find_named(&site.store, "owner.obj").expect("an owner object");
    let good = std::fs::read(&owner).unwrap();
    let newer = br#"{"format": 7, "what": 1}"#;
    std::fs::write(&owner, newer).unwrap();
    let (code, text) = refused(&site, &site.data, &site.mnt, &site.store, &[]);
    assert_eq!(code, 4, "{text}");
    says(&text, &["data/owner", "newer than this coldfs", "use the coldfs that wrote it"]);
    assert_eq!(std::fs::read(&owner).unwrap(), newer);
    std::fs::write(&owner, good).unwrap();
    assert_eq!(reads(&site), [Ok(()), Ok(())]);
}

#[test]
fn a_work_list_of_a_newer_coldfs_is_refused_by_name_and_kept() {
    let Some(site) = detached() else { return };
    let path = site.data.join(".coldfs/intents");
    let good = std::fs::read(&path).unwrap();
    let newer = {
        let mut line = 32_u16.to_le_bytes().to_vec();
        line.extend_from_slice(&[7, 1, 0, 0, 0, 0, 0, 0, 0, 1, 9, 9, 9, 9]);
        let check = blake3::derive_key("coldfs 2026 v1 work list", &line);
        [&line[..], &check[..16]].concat()
    };
    std::fs::write(&path, &newer).unwrap();
    let (code, text) = refused(&site, &site.data, &site.mnt, &site.store, &[]);
    assert_eq!(code, 1, "{text}");
    says(&text, &[".coldfs/intents", "version 7", "newer coldfs"]);
    assert_eq!(std::fs::read(&path).unwrap(), newer);
    std::fs::write(&path, good).unwrap();
    assert_eq!(reads(&site), [Ok(()), Ok(())]);
}

#[test]
fn a_work_list_that_was_changed_costs_nothing() {
    let Some(site) = detached() else { return };
    let path = site.data.join(".coldfs/intents");
    for bytes in [vec![], vec![0xff; 5_000], pattern::bytes(3, 100_000), b"short".to_vec()] {
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(reads(&site), [Ok(()), Ok(())]);
        let mount = site.mount();
        mount.all("release", &site.mnt.join("warm"));
        mount.all("recall", &site.mnt.join("warm"));
        mount.detach();
    }
}

#[test]
fn a_place_that_cannot_be_noted_keeps_no_tenant_from_its_files() {
    let Some(site) = detached() else { return };
    let place = site.data.join(".coldfs/place");
    // Nothing can be renamed over a directory.
    std::fs::remove_file(&place).unwrap();
    std::fs::create_dir(&place).unwrap();
    assert_eq!(reads(&site), [Ok(()), Ok(())]);
    assert!(place.is_dir());
    std::fs::remove_dir(&place).unwrap();
    assert_eq!(reads(&site), [Ok(()), Ok(())]);
    assert!(place.is_file());
}

/// A file of the store, by its last component.
fn find_named(dir: &Path, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(dir).unwrap().flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            find_named(&path, name)
        } else {
            (entry.file_name() == name).then_some(path)
        }
    })
}

/// Files of the store that are segments.
pub(super) fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(segments(&path));
        } else if path.metadata().unwrap().len() > BYTES as u64 {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_segment_that_was_changed_is_an_error_until_it_is_put_back() {
    let Some(site) = detached() else { return };
    // The two files may lie in one segment or in two.
    let cold = pattern::bytes(0, BYTES);
    let begin = &cold[..100];
    let (path, good) = segments(&site.store)
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .find(|(_, bytes)| bytes.windows(begin.len()).any(|window| window == begin))
        .expect("a segment with the cold file's bytes");
    let path = &path;
    let place = good.windows(begin.len()).position(|window| window == begin).unwrap();
    let other = pattern::bytes(77, good.len());
    let change = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    for (what, bytes) in [
        ("cut", good[..1_000].to_vec()),
        ("empty", vec![]),
        ("flipped", change(place + 70_000)),
        ("swapped", other),
    ] {
        std::fs::write(path, bytes).unwrap();
        let mount = site.mount();
        let read = std::fs::read(site.mnt.join("cold")).map_err(|error| error.raw_os_error());
        assert!(read == Err(Some(libc::EIO)), "{what}: {:?}", read.map(|bytes| bytes.len()));
        assert_eq!(mount.state(&site.mnt.join("cold")), "lost", "{what}");
        let output = mount.coldfs(["recall".as_ref(), site.mnt.join("cold").as_os_str()]);
        assert_eq!(output.status.code(), Some(1), "{what}");
        says(&words(&output), &["cold: ", "store's versions"]);
        assert!(std::fs::read(site.mnt.join("warm")).unwrap() == pattern::bytes(1, BYTES));
        // It is lost until its bytes are there, whatever an index says.
        let repair = ["fsck".as_ref(), "--repair".as_ref(), site.mnt.as_os_str()];
        assert_eq!(mount.coldfs(repair).status.code(), Some(1), "{what}");
        assert_eq!(mount.state(&site.mnt.join("cold")), "lost", "{what}");
        std::fs::write(path, &good).unwrap();
        let output = mount.coldfs(repair);
        assert!(output.status.success(), "{what}: {}", words(&output));
        assert_eq!(mount.state(&site.mnt.join("cold")), "released", "{what}");
        mount.detach();
        assert_eq!(reads(&site), [Ok(()), Ok(())], "{what}: put back");
        cold_again(&site);
    }
    // A footer says nothing that a read needs: stubs carry it. fsck looks at it.
    std::fs::write(path, change(good.len() - 100)).unwrap();
    let mount = site.mount();
    let output = mount.coldfs(["fsck".as_ref(), site.mnt.as_os_str()]);
    assert_eq!(output.status.code(), Some(1), "{}", words(&output));
    says(&words(&output), &["cold: ", "lost", "store's versions"]);
    mount.detach();
    assert_eq!(reads(&site), [Ok(()), Ok(())]);
}

#[test]
fn a_stub_that_is_run_while_detached_does_nothing_but_fail() {
    let Some(site) = detached() else { return };
    let stub = site.data.join("cold");
    let before = std::fs::read(&stub).unwrap();
    std::fs::set_permissions(&stub, std::fs::Permissions::from_mode(0o755)).unwrap();
    for mut command in [Command::new(&stub), Command::new("sh")] {
        let output =
            run(if command.get_program() == "sh" { command.arg(&stub) } else { &mut command });
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    }
    assert_eq!(std::fs::read(&stub).unwrap(), before);
    assert_eq!(reads(&site), [Ok(()), Ok(())]);
}

#[test]
fn a_disk_without_a_free_inode_still_moves_files() {
    if !can_tier() || !can_loop() {
        return;
    }
    let site = Site::on(FsKind::Ext4, 256);
    for index in 0..4 {
        std::fs::write(site.data.join(format!("f{index}")), pattern::bytes(index, BYTES)).unwrap();
    }
    let mount = site.mount();
    let many = site.plain.join("many");
    std::fs::create_dir(&many).unwrap();
    let mut made = 0_u32;
    while File::create(many.join(made.to_string())).is_ok() {
        made += 1;
    }
    mount.beat();
    for verb in ["archive", "release", "recall", "migrate"] {
        mount.all(verb, &site.mnt);
    }
    for index in 0..4 {
        assert!(
            std::fs::read(site.mnt.join(format!("f{index}"))).unwrap()
                == pattern::bytes(index, BYTES)
        );
    }
    let error = std::fs::write(site.mnt.join("new"), "x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    mount.detach();
}

#[test]
fn a_path_that_is_not_there_fails_and_names_it() {
    let Some(site) = detached() else { return };
    let mount = site.mount();
    for (path, code) in [("gone", 1), ("gone/below", 1), ("warm/below", 1)] {
        let output = mount.coldfs(["release".as_ref(), site.mnt.join(path).as_os_str()]);
        assert_eq!(output.status.code(), Some(code), "{path}: {}", words(&output));
        says(&words(&output), &[path, "check the"]);
    }
    mount.detach();
    let store = format!("disk:{}", site.store.display());
    let good = run(coldfs().args(["doctor", "--store", &store]));
    says(&words(&good), &["nothing of this is left", "read back, past the page cache"]);
    let bad = run(coldfs().args(["doctor", "--store", "ftp://x"]));
    assert_eq!(bad.status.code(), Some(2), "{}", words(&bad));
}
