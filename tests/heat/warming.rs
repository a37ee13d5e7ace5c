//! What warms a file: each way of reading the one it read, and nothing else any.

use std::path::Path;
use std::process::Command;

use super::harness::mount::Mount;
use super::harness::site::Site;
use super::harness::volume::FsKind;
use super::harness::{copy_program, must, on_path, raw, run, skip};
use super::reader::{self, WAYS};
use super::{accesses, drained, has_probe, heat, mounted, no_heat_here, plant};

const UNTOUCHED: [&str; 7] =
    ["alone", "stated", "opened", "archived", "scanned", "grouped", "elsewhere"];

fn names(prefix: &str) -> Vec<String> {
    WAYS.iter().map(|(way, _)| format!("{prefix}-{way}")).collect()
}

/// Every way of reading, through the mount and behind it, and all that is none.
fn each_way_warms_its_file(site: &Site) {
    let planted: Vec<String> = names("mount").into_iter().chain(names("raw")).collect();
    let planted: Vec<&str> = planted.iter().map(String::as_str).chain(UNTOUCHED).collect();
    plant(&site.data, &planted);
    let mount = mounted(site, "");
    if !has_probe(&mount) {
        return;
    }
    for (way, _) in WAYS {
        reader::read(way, &site.mnt.join(format!("mount-{way}")));
        // Buffered writes behind the mount are seen by whoever looks at the file next.
        if way != "write" {
            reader::read(way, &site.data.join(format!("raw-{way}")));
        }
    }
    no_reading(site, &mount);
    drained(&mount);
    super::settled(&mount);
    for name in planted {
        let heat = heat(&mount, &site.mnt.join(name));
        let count = heat["accesses"].as_u64().unwrap();
        let is_touched = !UNTOUCHED.contains(&name) && name != "raw-write";
        assert_eq!(count > 0, is_touched, "{name}: {heat}\n{:#}", super::tenant(&mount));
        let evidence = match name {
            _ if !is_touched => "none",
            "mount-write" => "write",
            _ => "probe",
        };
        assert_eq!(heat["evidence"], evidence, "{name}: {heat}");
    }
    mount.detach();
}

/// What applications do all the time without reading.
fn no_reading(site: &Site, mount: &Mount) {
    for dir in [&site.mnt, &site.data] {
        std::fs::metadata(dir.join("stated")).unwrap();
        must(Command::new("ls").arg("-lR").arg(dir));
        drop(std::fs::File::open(dir.join("opened")).unwrap());
    }
    mount.all("archive", &site.mnt.join("archived"));
    let scanner = site.dir.path().join("clamscan");
    copy_program("/bin/cat", &scanner);
    raw::chmod(&scanner, 0o755);
    must(Command::new(&scanner).arg(site.mnt.join("scanned")));
    must(Command::new(&scanner).arg(site.data.join("scanned")));
}

#[test]
fn each_way_of_reading_warms_its_file_on_ext4() {
    each_way(FsKind::Ext4);
}

#[test]
fn each_way_of_reading_warms_its_file_on_xfs() {
    each_way(FsKind::Xfs);
}

#[test]
fn each_way_of_reading_warms_its_file_on_btrfs() {
    each_way(FsKind::Btrfs);
}

fn each_way(kind: FsKind) {
    if no_heat_here() || !reader::can_read() {
        return;
    }
    if !on_path(&format!("mkfs.{}", kind.word())) {
        return skip(&format!("needs mkfs.{}", kind.word()));
    }
    each_way_warms_its_file(&Site::on(kind, 512));
}

#[test]
fn a_ring_of_requests_warms_its_file() {
    if no_heat_here() {
        return;
    }
    if !on_path("fio") {
        return skip("needs fio");
    }
    let site = Site::new();
    plant(&site.data, &["mount", "raw", "alone"]);
    let mount = mounted(&site, "");
    if !has_probe(&mount) {
        return;
    }
    for path in [site.mnt.join("mount"), site.data.join("raw")] {
        let mut fio = Command::new("fio");
        fio.args(["--name=ring", "--ioengine=io_uring", "--rw=read", "--bs=4k", "--size=16k"]);
        fio.args(["--readonly", "--filename"]).arg(&path).current_dir(site.dir.path());
        if !run(&mut fio).status.success() {
            mount.detach();
            return skip("this kernel allows no io_uring");
        }
    }
    drained(&mount);
    for name in ["mount", "raw"] {
        assert!(accesses(&mount, &site.mnt.join(name)) > 0, "{name}");
    }
    assert_eq!(accesses(&mount, &site.mnt.join("alone")), 0);
    mount.detach();
}

#[test]
fn another_filesystem_with_the_same_numbers_warms_nothing() {
    if no_heat_here() || !on_path("mkfs.ext4") {
        return;
    }
    let (site, other) = (Site::on(FsKind::Ext4, 256), Site::on(FsKind::Ext4, 256));
    plant(&site.data, &["a", "b"]);
    plant(&other.data, &["a", "b"]);
    let number = |site: &Site| raw_ino(&site.data.join("a"));
    assert_eq!(number(&site), number(&other), "the images are alike");
    let mount = mounted(&site, "");
    if !has_probe(&mount) {
        return;
    }
    std::fs::read(other.data.join("a")).unwrap();
    std::fs::read(site.data.join("b")).unwrap();
    drained(&mount);
    assert_eq!(accesses(&mount, &site.mnt.join("a")), 0);
    assert!(accesses(&mount, &site.mnt.join("b")) > 0);
    mount.detach();
}

#[test]
fn a_scanner_by_control_group_warms_nothing() {
    if no_heat_here() {
        return;
    }
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let Some(root) = table
        .lines()
        .find(|line| line.contains(" - cgroup2 "))
        .and_then(|line| line.split(' ').nth(4))
    else {
        return skip("needs a unified control group hierarchy");
    };
    let name = format!("coldfs-heat-{}", std::process::id());
    let group = Path::new(root).join(&name);
    if let Err(error) = std::fs::create_dir_all(group.join("below")) {
        return skip(&format!("cannot make a control group: {error}"));
    }
    let site = Site::new();
    plant(&site.data, &["scanned", "read"]);
    let class =
        format!("[[class]]\nname = 'nightly'\ncgroups = ['/{name}']\naction = 'pass-through'\n");
    let mount = site.start(&super::start(&site, &class));
    super::settled(&mount);
    if has_probe(&mount) {
        // Told to the probe with the next drain.
        drained(&mount);
        let procs = group.join("below/cgroup.procs");
        let script = format!(
            "echo $$ >{}; exec cat {}",
            procs.display(),
            site.mnt.join("scanned").display()
        );
        must(Command::new("sh").arg("-c").arg(script));
        std::fs::read(site.mnt.join("read")).unwrap();
        drained(&mount);
        assert_eq!(accesses(&mount, &site.mnt.join("scanned")), 0);
        assert!(accesses(&mount, &site.mnt.join("read")) > 0);
    }
    mount.detach();
    std::fs::remove_dir(group.join("below")).unwrap();
    std::fs::remove_dir(group).unwrap();
}

#[test]
fn a_cold_files_reader_warms_it_though_the_daemon_serves_it() {
    if no_heat_here() {
        return;
    }
    let site = Site::new();
    plant(&site.data, &["cold"]);
    let cold = site.mnt.join("cold");
    let mount = mounted(&site, "");
    if !has_probe(&mount) {
        return;
    }
    mount.all("migrate", &cold);
    super::settled(&mount);
    drained(&mount);
    assert_eq!(accesses(&mount, &cold), 0, "the migrator warms nothing: {}", heat(&mount, &cold));
    std::fs::read(&cold).unwrap();
    drained(&mount);
    assert!(accesses(&mount, &cold) > 0, "{}", heat(&mount, &cold));
    mount.detach();
}

#[test]
fn a_file_with_a_dead_ones_number_is_not_warm() {
    if no_heat_here() || !on_path("mkfs.ext4") {
        return;
    }
    let site = Site::on(FsKind::Ext4, 256);
    plant(&site.data, &["old"]);
    let mount = mounted(&site, "");
    if !has_probe(&mount) {
        return;
    }
    let before = raw_ino(&site.data.join("old"));
    std::fs::read(site.mnt.join("old")).unwrap();
    std::fs::remove_file(site.mnt.join("old")).unwrap();
    std::fs::write(site.mnt.join("new"), "new").unwrap();
    if raw_ino(&site.data.join("new")) != before {
        return skip("this kernel does not give the number again at once");
    }
    drained(&mount);
    super::settled(&mount);
    let heat = heat(&mount, &site.mnt.join("new"));
    assert_ne!(heat["evidence"], "probe", "{heat}");
    mount.detach();
}

#[test]
fn a_repeat_counts_though_the_map_is_not_told() {
    if no_heat_here() || !reader::can_read() {
        return;
    }
    let site = Site::new();
    plant(&site.data, &["often"]);
    let mount = mounted(&site, "");
    if !has_probe(&mount) {
        return;
    }
    let loops =
        "import os, sys\nfd = os.open(sys.argv[1], 0)\nfor _ in range(5000): os.pread(fd, 9, 0)";
    must(Command::new("python3").arg("-c").arg(loops).arg(site.data.join("often")));
    drained(&mount);
    drained(&mount);
    let count = accesses(&mount, &site.mnt.join("often"));
    // A call may be told in two steps (read-ahead).
    assert!((5_000..5_100).contains(&count), "{count}");
    let value = raw::get_xattr(&site.mnt.join("often"), b"user.coldfs.heat").unwrap().unwrap();
    let value = String::from_utf8_lossy(&value).into_owned();
    assert!(
        value.contains("evidence=probe") && value.contains(&format!("accesses={count}")),
        "{value}"
    );
    mount.detach();
}

#[test]
fn overlayfs_warms_and_never_vouches() {
    if no_heat_here() || !on_path("mkfs.ext4") {
        return;
    }
    let mut site = Site::on(FsKind::Ext4, 256);
    let root = site.volume.as_ref().unwrap().root().to_owned();
    let dirs = ["lower", "upper", "work", "merged"].map(|name| root.join(name));
    dirs.iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    let [lower, upper, work, merged] = dirs.map(|dir| dir.display().to_string());
    let options =
        format!("lowerdir={lower},upperdir={upper},workdir={work},index=on,nfs_export=on");
    let made =
        run(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options, &merged]));
    if !made.status.success() {
        return skip("this kernel has no overlayfs with index and nfs_export");
    }
    site.data = merged.clone().into();
    plant(&site.data, &["read", "alone"]);
    let mount = mounted(&site, "");
    if has_probe(&mount) {
        std::fs::read(site.mnt.join("read")).unwrap();
        drained(&mount);
        let read = heat(&mount, &site.mnt.join("read"));
        assert!(read["accesses"].as_u64().unwrap() > 0, "{read}");
        let alone = heat(&mount, &site.mnt.join("alone"));
        assert_eq!(alone["accesses"], 0, "{alone}");
        assert!(alone["idle_seconds"].is_null(), "{alone}");
        assert!(super::tenant(&mount)["notes"].to_string().contains("stacked"));
    }
    mount.detach();
    must(Command::new("umount").arg(&merged));
}

fn raw_ino(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).unwrap().ino()
}
