//! What was acknowledged as durable is there after a power cut, whatever the tier did to the
//! file before. These run on a stand-in as well, where they test the machinery.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;

use super::harness::mount::Mount;
use super::harness::site::Site;
use super::harness::volume::{Cut, FsKind};
use super::harness::{Subject, can_loop, can_mount, must, pattern, raw, say};

const IMAGE_MIB: u64 = 512;
const FILE_BYTES: usize = 1 << 20;
const AT: u64 = 8_192;
/// What is spliced in, and a quarter of what a pipe holds.
const HELD_BYTES: usize = 8_192;

/// How an application makes an overwrite durable. Passthrough tells the daemon of the first
/// two only.
#[derive(Clone, Copy, Debug)]
enum Ack {
    Fsync,
    Fdatasync,
    Msync,
    OpenDsync,
    WriteDsync,
}

const ACKS: [Ack; 5] = [Ack::Fsync, Ack::Fdatasync, Ack::Msync, Ack::OpenDsync, Ack::WriteDsync];

impl Ack {
    /// Overwrites in place and has it acknowledged; the handle stays open, as it would be.
    fn overwrite(self, path: &std::path::Path, bytes: &[u8]) -> File {
        let dsync = if matches!(self, Ack::OpenDsync) { libc::O_DSYNC } else { 0 };
        let file = raw::open(path, libc::O_RDWR | dsync, 0).unwrap();
        match self {
            Ack::Fsync => {
                file.write_all_at(bytes, AT).unwrap();
                file.sync_all().unwrap();
            }
            Ack::Fdatasync => {
                file.write_all_at(bytes, AT).unwrap();
                file.sync_data().unwrap();
            }
            Ack::Msync => {
                let map = raw::Mapping::new(&file, FILE_BYTES, true).unwrap();
                map.write(AT as usize, bytes);
                map.sync().unwrap();
            }
            Ack::OpenDsync => file.write_all_at(bytes, AT).unwrap(),
            Ack::WriteDsync => {
                assert_eq!(raw::write_dsync(&file, bytes, AT).unwrap(), bytes.len());
            }
        }
        file
    }
}

/// What the file was before it was overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Archived,
    Released,
}

#[test]
fn an_acknowledged_overwrite_on_ext4_survives_a_power_cut() {
    acknowledged(FsKind::Ext4);
}

#[test]
fn an_acknowledged_overwrite_on_xfs_survives_a_power_cut() {
    acknowledged(FsKind::Xfs);
}

fn acknowledged(kind: FsKind) {
    if !can_mount() || !can_loop() {
        return;
    }
    let mut wrong = Vec::new();
    for before in [Before::Archived, Before::Released] {
        for ack in ACKS {
            for cut in [Cut::Shutdown, Cut::ImageCopy] {
                say(&format!("{kind:?} {before:?} {ack:?} {cut:?}"));
                if let Err(what) = one(kind, before, ack, cut) {
                    wrong.push(format!("{kind:?} {before:?} {ack:?} {cut:?}: {what}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn one(kind: FsKind, before: Before, ack: Ack, cut: Cut) -> Result<(), String> {
    let mut site = Site::on(kind, IMAGE_MIB);
    let mut bytes = pattern::bytes(1, FILE_BYTES);
    std::fs::write(site.data.join("file"), &bytes).unwrap();
    raw::set_mtime(&site.data.join("file"), 1_600_000_000_000_000_000).unwrap();
    let verb = if before == Before::Archived { "archive" } else { "migrate" };
    prepare(&site, verb);

    let mount = site.mount();
    let path = site.mnt.join("file");
    let new = pattern::bytes(2, 4_096);
    bytes[AT as usize..][..new.len()].copy_from_slice(&new);
    let file = ack.overwrite(&path, &new);
    site.volume().cut(cut);
    drop(file);
    mount.kill();
    site.volume().restore();
    outcome(&site, "file", &bytes)
}

/// Everything in the tree goes through a verb and is on disk afterwards.
fn prepare(site: &Site, verb: &str) {
    let mount = site.mount();
    mount.all(verb, &site.mnt);
    mount.detach();
    must(Command::new("sync").arg("-f").arg(&site.data));
}

/// The file reads as `bytes`, and still does after a release and after a migration: a record
/// that says too much would bring the old version back.
fn outcome(site: &Site, name: &str, bytes: &[u8]) -> Result<(), String> {
    let path = site.mnt.join(name);
    let check = |when: &str| match std::fs::read(&path) {
        Ok(read) if read == bytes => Ok(()),
        Ok(read) => Err(format!(
            "{when}: {} bytes, differs from byte {:?}",
            read.len(),
            read.iter().zip(bytes).position(|(left, right)| left != right)
        )),
        Err(error) => Err(format!("{when}: {error}")),
    };
    let again = |mount: Mount, verb: &str| {
        mount.coldfs([verb.as_ref(), path.as_os_str()]);
        mount.detach();
        site.mount()
    };
    let mount = site.mount();
    // Before anything reads it: a release must not believe a stale record either.
    let mount = again(mount, "release");
    check("after a release")?;
    mount.all("migrate", &path);
    check("after a migration")?;
    mount.detach();
    Ok(())
}

/// Whoever holds pages in a pipe has no file open: a move may begin.
#[test]
fn spliced_pages_and_a_power_cut_after_a_move_bring_no_other_version() {
    if !can_mount() || !can_loop() {
        return;
    }
    let cuts = [(FsKind::Ext4, Cut::Shutdown), (FsKind::Xfs, Cut::ImageCopy)];
    for (kind, cut) in cuts {
        for holds in [true, false] {
            say(&format!("{kind:?} {cut:?}, a pipe holds pages: {holds}"));
            let mut site = Site::on(kind, IMAGE_MIB);
            let mut bytes = pattern::bytes(1, FILE_BYTES);
            std::fs::write(site.data.join("file"), &bytes).unwrap();
            raw::set_mtime(&site.data.join("file"), 1_600_000_000_000_000_000).unwrap();
            prepare(&site, "archive");

            let mount = site.mount();
            let path = site.mnt.join("file");
            let file = raw::open(&path, libc::O_RDWR, 0).unwrap();
            let held = raw::HeldPages::splice(&file, 0, 4 * HELD_BYTES).unwrap();
            let new = pattern::bytes(4, HELD_BYTES);
            raw::splice_into(&file, &new, HELD_BYTES as u64).unwrap();
            bytes[HELD_BYTES..][..HELD_BYTES].copy_from_slice(&new);
            file.sync_all().unwrap();
            drop(file);
            let held = if holds {
                Some(held)
            } else {
                drop(held);
                None
            };
            // As far as it comes: a file whose pages somebody holds stays.
            mount.coldfs(["migrate".as_ref(), "--wait".as_ref(), path.as_os_str()]);
            assert!(holds || !Subject::from_env().is_coldfs() || mount.state(&path) == "released");
            site.volume().cut(cut);
            mount.kill();
            if let Some(held) = held {
                // The pages themselves: what the splice brought is in them.
                assert!(held.read().unwrap() == bytes[..4 * HELD_BYTES], "what the pipe holds");
            }
            site.volume().restore();
            outcome(&site, "file", &bytes)
                .unwrap_or_else(|what| panic!("{kind:?} {cut:?}: {what}"));
        }
    }
}

#[test]
fn a_raw_edit_while_detached_is_kept_though_its_times_do_not_tell() {
    if !can_mount() || !can_loop() {
        return;
    }
    for kind in [FsKind::Ext4, FsKind::Xfs] {
        for cut in [None, Some(Cut::Shutdown), Some(Cut::ImageCopy)] {
            say(&format!("{kind:?} {cut:?}"));
            let mut site = Site::on(kind, IMAGE_MIB);
            let mut bytes = pattern::bytes(1, FILE_BYTES);
            let path = site.data.join("file");
            std::fs::write(&path, &bytes).unwrap();
            raw::set_mtime(&path, 1_600_000_000_000_000_000).unwrap();
            prepare(&site, "archive");
            let new = pattern::bytes(3, 4_096);
            bytes[AT as usize..][..new.len()].copy_from_slice(&new);
            let file = raw::open(&path, libc::O_RDWR, 0).unwrap();
            file.write_all_at(&new, AT).unwrap();
            // fdatasync commits neither mtime nor ctime of an overwrite.
            file.sync_data().unwrap();
            drop(file);
            match cut {
                Some(cut) => {
                    site.volume().cut(cut);
                    site.volume().restore();
                }
                None => raw::set_mtime(&path, 1_600_000_000_000_000_000).unwrap(),
            }
            outcome(&site, "file", &bytes)
                .unwrap_or_else(|what| panic!("{kind:?} {cut:?}: {what}"));
        }
    }
}

#[test]
fn what_was_synced_through_a_remounted_volume_is_there() {
    // The machinery itself: a cut must lose what was not synced and keep what was.
    if !can_loop() {
        return;
    }
    for kind in [FsKind::Ext4, FsKind::Xfs] {
        for cut in [Cut::Shutdown, Cut::ImageCopy] {
            let mut site = Site::on(kind, IMAGE_MIB);
            let synced = pattern::bytes(1, 100_000);
            std::fs::write(site.data.join("synced"), &synced).unwrap();
            File::open(site.data.join("synced")).unwrap().sync_all().unwrap();
            std::fs::write(site.data.join("not"), &synced).unwrap();
            site.volume().cut(cut);
            site.volume().restore();
            assert_eq!(
                std::fs::read(site.data.join("synced")).unwrap(),
                synced,
                "{kind:?} {cut:?}"
            );
            let lost = std::fs::read(site.data.join("not")).map_or(true, |read| read != synced);
            assert!(lost, "{kind:?} {cut:?}: the cut lost nothing, so it proves nothing");
        }
    }
}
