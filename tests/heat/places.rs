//! Where files are: filesystems below, several daemons, other namespaces, mounts in a directory.

use std::path::Path;
use std::process::Command;

use super::harness::site::Site;
use super::harness::volume::FsKind;
use super::harness::{must, on_path, run, skip};
use super::{accesses, drained, has_probe, heat, mounted, no_heat_here, plant, tenant};

/// A mount of a filesystem that goes with its test.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    /// None: this kernel has not got it.
    fn new(arguments: &[&str], at: &'a Path) -> Option<Self> {
        let mounted = run(Command::new("mount").args(arguments).arg(at)).status.success();
        if !mounted {
            skip(&format!("cannot mount: {arguments:?}"));
        }
        mounted.then_some(Self(at))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let gone = super::wait_for(super::PATIENCE, || {
            run(Command::new("umount").arg(self.0)).status.success().then_some(())
        });
        assert!(gone.is_some() || std::thread::panicking(), "{} stays busy", self.0.display());
    }
}

#[test]
fn tmpfs_below_counts_opens_and_never_vouches() {
    if no_heat_here() {
        return;
    }
    let site = Site::new();
    let Some(_below) = Mounted::new(&["-t", "tmpfs", "tmpfs"], &site.data) else { return };
    plant(&site.data, &["read", "alone"]);
    let mount = mounted(&site, "");
    std::fs::read(site.mnt.join("read")).unwrap();
    let tenant = tenant(&mount);
    assert_eq!(tenant["probe"], "opens", "{tenant:#}");
    if !tenant["notes"].to_string().contains("no probe: ") {
        assert!(tenant["notes"].to_string().contains("does not see reads of this"), "{tenant:#}");
    }
    let read = heat(&mount, &site.mnt.join("read"));
    assert_eq!((&read["accesses"], &read["evidence"]), (&1.into(), &"open".into()), "{read}");
    for name in ["read", "alone"] {
        let heat = heat(&mount, &site.mnt.join(name));
        assert!(heat["idle_seconds"].is_null(), "{name}: {heat}");
    }
    mount.detach();
}

#[test]
fn two_daemons_on_one_filesystem_see_their_own_files() {
    if no_heat_here() || !on_path("mkfs.ext4") {
        return;
    }
    let one = Site::on(FsKind::Ext4, 256);
    let mut two = Site::new();
    two.data = one.plain.clone();
    for site in [&one, &two] {
        plant(&site.data, &["read", "alone", "archived"]);
    }
    let (first, second) = (mounted(&one, ""), mounted(&two, ""));
    if !has_probe(&first) {
        return;
    }
    std::fs::read(one.mnt.join("read")).unwrap();
    // The other daemon's reads warm neither its files nor this one's.
    second.all("archive", &two.mnt.join("archived"));
    drained(&first);
    drained(&second);
    assert!(accesses(&first, &one.mnt.join("read")) > 0);
    for name in ["read", "alone", "archived"] {
        assert_eq!(accesses(&second, &two.mnt.join(name)), 0, "{name}");
    }
    assert_eq!(accesses(&first, &one.mnt.join("alone")), 0);
    first.detach();
    std::fs::read(two.data.join("read")).unwrap();
    drained(&second);
    assert!(accesses(&second, &two.mnt.join("read")) > 0, "the end of one is not the other's");
    assert_eq!(tenant(&second)["heat"]["blind_drains"], 0);
    second.detach();
}

#[test]
fn a_daemon_in_a_namespace_of_processes_does_not_warm_what_it_reads() {
    if no_heat_here() {
        return;
    }
    if !on_path("unshare") {
        return skip("needs unshare");
    }
    let site = Site::new();
    plant(&site.data, &["read", "archived", "alone"]);
    let config = site.dir.path().join("config.toml");
    std::fs::write(&config, "[heat]\ndrain = 1\n").unwrap();
    let mut daemon = Command::new("unshare");
    daemon.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
    daemon.arg(super::harness::coldfs().get_program()).arg("mount").args([&site.data, &site.mnt]);
    daemon.args(["--store", &site.store_url, "--foreground", "--config"]).arg(&config);
    daemon.env("COLDFS_RUNTIME_DIR", &site.runtime).env("COLDFS_STATE_DIR", &site.runtime);
    daemon.env(super::harness::mount::QUIET_MS, "30");
    super::harness::raw::die_with_parent(&mut daemon);
    let log = std::fs::File::create(site.dir.path().join("daemon.log")).unwrap();
    let mut child = daemon.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    // Its mount is in a namespace of its own: asked through /proc.
    let inside = |program: &str, arguments: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args(["--target", &child.id().to_string(), "--mount", program]);
        command.env("COLDFS_RUNTIME_DIR", &site.runtime).env("COLDFS_STATE_DIR", &site.runtime);
        command.args(arguments);
        run(&mut command)
    };
    let coldfs = super::harness::coldfs();
    let coldfs = coldfs.get_program().to_str().unwrap();
    let mnt = site.mnt.to_str().unwrap();
    let status = || -> Option<serde_json::Value> {
        let output = inside(coldfs, &["status", "--json", mnt]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        Some(status["tenants"][0].clone()).filter(|tenant| tenant.is_object())
    };
    let complete = || status().filter(|tenant| tenant["catalog"]["state"] == "complete");
    let tenant = super::wait_for(super::PATIENCE, complete);
    let tenant = tenant.unwrap_or_else(|| {
        panic!("{}", std::fs::read_to_string(site.dir.path().join("daemon.log")).unwrap())
    });
    let seen = |name: &str| {
        let path = site.mnt.join(name);
        let output = inside(coldfs, &["state", "--json", path.to_str().unwrap()]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        report["heat"]["accesses"].as_u64().unwrap()
    };
    let is_blind = matches!(tenant["probe"].as_str().unwrap(), "none" | "opens");
    if is_blind {
        skip(&format!("this kernel allows no probe: {}", tenant["notes"]));
    } else {
        let archived = site.mnt.join("archived");
        assert!(inside(coldfs, &["archive", archived.to_str().unwrap()]).status.success());
        std::fs::read(site.data.join("read")).unwrap();
        let moment = super::now();
        let taken = || status()?["heat"]["until"].as_u64().filter(|until| *until > moment);
        assert!(super::wait_for(super::PATIENCE, taken).is_some());
        assert!(seen("read") > 0);
        assert_eq!((seen("archived"), seen("alone")), (0, 0));
    }
    must(Command::new("nsenter").args(["--target", &child.id().to_string(), "--mount"]).args([
        "fusermount3",
        "-u",
        mnt,
    ]));
    child.wait().unwrap();
}

#[test]
fn a_filesystem_comes_back_under_another_device_number() {
    if no_heat_here() || !on_path("mkfs.ext4") {
        return;
    }
    let mut site = Site::on(FsKind::Ext4, 256);
    plant(&site.data, &["read", "alone"]);
    let mount = mounted(&site, "");
    if !has_probe(&mount) {
        return;
    }
    std::fs::read(site.data.join("read")).unwrap();
    drained(&mount);
    let before = accesses(&mount, &site.mnt.join("read"));
    mount.detach();
    let device = |site: &Site| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(&site.data).unwrap().dev()
    };
    let old = device(&site);
    site.volume().unmount();
    // The loop device it had is somebody else's now.
    let taken = Site::on(FsKind::Ext4, 64);
    site.volume().mount();
    if device(&site) == old {
        return skip("the filesystem has the device number that it had");
    }
    let mount = mounted(&site, "");
    assert_eq!(accesses(&mount, &site.mnt.join("read")), before, "what was known stays");
    std::fs::read(site.data.join("read")).unwrap();
    drained(&mount);
    assert!(accesses(&mount, &site.mnt.join("read")) > before);
    assert_eq!(accesses(&mount, &site.mnt.join("alone")), 0);
    mount.detach();
    drop(taken);
}

#[test]
fn another_filesystem_in_the_directory_is_neither_warm_nor_idle() {
    if no_heat_here() || !on_path("mkfs.ext4") {
        return;
    }
    let site = Site::on(FsKind::Ext4, 256);
    plant(&site.data, &["alone"]);
    std::fs::create_dir(site.data.join("sub")).unwrap();
    let sub = site.data.join("sub");
    let image = site.dir.path().join("sub.img");
    std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    must(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
    let Some(_sub) = Mounted::new(&["-o", "loop", image.to_str().unwrap()], &sub) else { return };
    plant(&sub, &["inside"]);
    let mount = mounted(&site, "");
    if !has_probe(&mount) {
        return;
    }
    std::fs::read(sub.join("inside")).unwrap();
    drained(&mount);
    assert_eq!(accesses(&mount, &site.mnt.join("alone")), 0);
    // Whatever of it is shown, nothing is said of its files' idleness.
    let path = site.mnt.join("sub/inside");
    let output = mount.coldfs(["state".as_ref(), "--json".as_ref(), path.as_os_str()]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert!(report["heat"]["idle_seconds"].is_null(), "{report}");
    mount.detach();
}
