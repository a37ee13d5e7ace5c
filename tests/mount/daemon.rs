//! The daemon itself: that it ends when it should, takes away its own mount and no other, and
//! keeps serving whatever its clients do.

use std::process::Command;

use super::environments::{as_user, can_be_a_user};
use super::harness::mount::{Mount, mount_types};
use super::harness::site::Site;
use super::harness::{can_tier, must, raw};

const BYTES: usize = 50_000;

/// A site whose mountpoint lies on a tmpfs of its own: what a second unmount would take.
fn over_a_tmpfs() -> Site {
    let site = Site::new();
    must(Command::new("mount").args(["-t", "tmpfs", "beneath"]).arg(&site.mnt));
    site
}

#[test]
fn what_lies_below_a_mount_survives_its_unmount_by_somebody() {
    if !can_tier() {
        return;
    }
    let site = over_a_tmpfs();
    let mut mount = site.mount();
    must(Command::new("umount").arg(&site.mnt));
    mount.wait_ended();
    assert_eq!(mount_types(&site.mnt), ["tmpfs"]);
    must(Command::new("umount").arg(&site.mnt));
}

#[test]
fn what_lies_below_a_mount_survives_a_signal_after_a_lazy_unmount() {
    if !can_tier() {
        return;
    }
    let site = over_a_tmpfs();
    let mut mount = site.mount();
    std::fs::write(site.mnt.join("file"), vec![1; BYTES]).unwrap();
    let reader = std::fs::File::open(site.mnt.join("file")).unwrap();
    must(Command::new("umount").arg("-l").arg(&site.mnt));
    raw::signal(mount.pid(), libc::SIGTERM);
    mount.wait_ended();
    assert_eq!(mount_types(&site.mnt), ["tmpfs"]);
    drop(reader);
    must(Command::new("umount").arg(&site.mnt));
}

#[test]
fn what_lies_below_a_mount_survives_its_detach_by_a_signal() {
    if !can_tier() {
        return;
    }
    let site = over_a_tmpfs();
    let mut mount = site.mount();
    mount.signal(libc::SIGTERM);
    mount.wait_ended();
    assert_eq!(mount_types(&site.mnt), ["tmpfs"]);
    must(Command::new("umount").arg(&site.mnt));
}

#[test]
fn a_users_daemon_ends_by_a_signal_while_a_file_is_open() {
    if !can_tier() || !can_be_a_user() {
        return;
    }
    let site = Site::new();
    let said = as_user(
        &site,
        r#"
        echo bytes > "$DATA/file"
        "$COLDFS" mount "$DATA" "$MNT" --store "disk:$STORE" 2>/dev/null
        trap 'fusermount3 -uz "$MNT" || true' EXIT
        exec 9< "$MNT/file"
        pid=$(basename "$COLDFS_RUNTIME_DIR"/*.sock .sock)
        kill -TERM "$pid"
        ended "$pid" || { kill -KILL "$pid"; echo hangs; exit; }
        trap - EXIT
        grep -c " $MNT fuse" /proc/self/mounts || true
        "#,
    );
    assert_eq!(said, "0\n");
}

#[test]
fn a_directory_can_be_mounted_again_as_soon_as_it_is_detached() {
    if !can_tier() {
        return;
    }
    let site = Site::new();
    let mut mounts = vec![site.mount()];
    for _ in 0..5 {
        // Its daemon has the directory's lock until it has ended.
        must(Command::new("fusermount3").arg("-u").arg(&site.mnt));
        mounts.push(site.mount());
    }
    must(Command::new("fusermount3").arg("-u").arg(&site.mnt));
    mounts.iter_mut().for_each(Mount::wait_ended);
}
