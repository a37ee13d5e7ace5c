//! What is measured: coldfs and its peers, each over a directory of its own with the same
//! files in it.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{bare, null};

/// One subject, ready to be worked in.
pub struct Subject {
    pub name: &'static str,
    /// Where work is done: the mountpoint, or the plain directory.
    pub dir: PathBuf,
    served: Served,
}

enum Served {
    Plain,
    Here(#[expect(dead_code, reason = "held: dropped, it unmounts")] fuser::BackgroundSession),
    Child(Child),
}

impl Subject {
    pub const PEERS: [&'static str; 4] = ["native", "null", "bare", "bindfs"];

    /// Serves `work/NAME`, which is filled already. None: this machine does not have it.
    pub fn start(name: &'static str, work: &Path) -> Option<Self> {
        let below = work.join(name);
        let (dir, served) = match name {
            "native" => (below.clone(), Served::Plain),
            "coldfs" => {
                // Over itself, as is recommended.
                let mut command = Command::new(env!("CARGO_BIN_EXE_coldfs"));
                command.arg("mount").arg(&below).arg(&below).arg("--foreground");
                command.arg("--store").arg(format!("disk:{}", work.join("store").display()));
                command
                    .env("COLDFS_RUNTIME_DIR", work.join("run"))
                    .env("COLDFS_STATE_DIR", work.join("run"));
                let log = fs::File::create(work.join("coldfs.log")).unwrap();
                let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
                (below.clone(), Served::Child(child.unwrap()))
            }
            "null" | "bare" => {
                let mountpoint = work.join(format!("{name}-mount"));
                fs::create_dir_all(&mountpoint).unwrap();
                let mount = if name == "null" { null::mount } else { bare::mount };
                let session = mount(&below, &mountpoint).unwrap();
                (mountpoint, Served::Here(session))
            }
            "bindfs" => {
                let mountpoint = work.join("bindfs-mount");
                fs::create_dir_all(&mountpoint).unwrap();
                let mut command = Command::new("bindfs");
                command.arg("-f").arg(&below).arg(&mountpoint).stdout(Stdio::null());
                match command.spawn() {
                    Ok(child) => (mountpoint, Served::Child(child)),
                    Err(error) => {
                        eprintln!("bench: bindfs is left out: {error} (apt-get install bindfs)");
                        return None;
                    }
                }
            }
            other => panic!("no subject is called {other}"),
        };
        let subject = Self { name, dir, served };
        if !matches!(subject.served, Served::Plain) {
            subject.wait_mounted();
        }
        Some(subject)
    }

    fn wait_mounted(&self) {
        let begun = Instant::now();
        while !is_mountpoint(&self.dir) {
            assert!(begun.elapsed() < Duration::from_secs(30), "{} does not mount", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Resident memory of a subject with a process of its own, MiB.
    pub fn resident_mib(&self) -> Option<f64> {
        let Served::Child(child) = &self.served else { return None };
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib / 1024.0)
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if let Served::Child(child) = &mut self.served {
            Command::new("fusermount3").arg("-u").arg(&self.dir).status().ok();
            child.wait().ok();
        }
    }
}

pub fn is_mountpoint(dir: &Path) -> bool {
    mountpoints().contains(dir)
}

/// Where something is mounted.
pub fn mountpoints() -> HashSet<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect()
}
