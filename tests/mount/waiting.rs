//! What ends a wait for a store that says nothing: a person's cancel, a kill, the deadline. And
//! that nothing of a wait is left behind: the file can be read, and can go again.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::harness::mount::{Mount, Start};
use super::harness::pattern::{self, Looks, looks};
use super::harness::server::Server;
use super::harness::site::Site;
use super::harness::{begin_silent, can_tier, copy_program, raw, wait_for};

/// Recalled inside `open`, whole by the first read, and served by chunks.
const FILES: [(&str, usize); 3] = [("small", 200_000), ("medium", 3 << 20), ("large", 20 << 20)];
/// What may pass on a busy machine until a process hears of what was done a moment ago: far less
/// than the deadline that would end its wait.
const SOON: Duration = Duration::from_secs(20);

/// Cold files whose store says nothing from now on.
struct Stalled {
    mount: Mount,
    server: Server,
    site: Site,
}

impl Stalled {
    fn new(deadline: &str) -> Option<Self> {
        if !can_tier() {
            return None;
        }
        let site = Site::new();
        for (seed, (name, bytes)) in FILES.into_iter().enumerate() {
            std::fs::write(site.data.join(name), pattern::bytes(seed as u64, bytes)).unwrap();
        }
        copy_program("/bin/true", &site.data.join("program"));
        let server = Server::start(&site.store);
        let config = site.dir.path().join("config.toml");
        std::fs::write(&config, format!("[recall]\ndeadline = \"{deadline}\"\n")).unwrap();
        let args = vec!["--config".into(), config.to_str().unwrap().into()];
        let start = Start { args, ..server.mount_options() };
        let mount = site.start(&start);
        mount.all("migrate", &site.mnt);
        mount.detach();
        // Nothing of them is in the memory of a new daemon.
        let mount = site.start(&start);
        server.freeze();
        Some(Self { mount, server, site })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.site.mnt.join(name)
    }

    fn is_stub(&self, name: &str) -> bool {
        looks(&std::fs::read(self.site.data.join(name)).unwrap()) == Looks::Stub
    }

    /// The store is back: everything reads as it was.
    fn end(self) {
        self.server.thaw();
        for (seed, (name, bytes)) in FILES.into_iter().enumerate() {
            let read = wait_for(Duration::from_secs(60), || std::fs::read(self.path(name)).ok());
            assert!(read == Some(pattern::bytes(seed as u64, bytes)), "{name} reads wrong");
        }
        self.mount.detach();
    }
}

#[test]
fn a_cancel_ends_the_reads_that_wait_and_leaves_a_stub_that_reads_later() {
    let Some(stalled) = Stalled::new("60s") else { return };
    for (name, _) in FILES {
        let path = stalled.path(name);
        let reader = std::thread::spawn(move || std::fs::read(path).map(|bytes| bytes.len()));
        let stopped = wait_for(Duration::from_secs(60), || {
            let path = stalled.path(name);
            let output = stalled.mount.coldfs(["cancel".as_ref(), path.as_os_str()]);
            String::from_utf8_lossy(&output.stdout).contains("1 recalls").then_some(())
        });
        assert!(stopped.is_some(), "{name}: nothing to cancel");
        assert!(wait_for(SOON, || reader.is_finished().then_some(())).is_some(), "{name} waits on");
        let error = reader.join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECANCELED), "{name}: {error}");
        assert!(wait_for(SOON, || stalled.is_stub(name).then_some(())).is_some(), "{name}");
        assert_eq!(stalled.mount.state(&stalled.path(name)), "released", "{name}");
    }
    stalled.end();
}

#[test]
fn a_process_killed_while_it_waits_for_a_cold_file_dies_and_leaves_nothing_open() {
    let Some(stalled) = Stalled::new("60s") else { return };
    let path = |name| stalled.path(name);
    // One that changes each file: the kernel lets a second one wait for the first.
    let write = format!("of={}", path("large").display());
    let write = ["if=/dev/zero", &write, "conv=notrunc", "bs=4096", "count=1", "seek=9"];
    // The shell itself waits in execve, which it does in the place of the program.
    let exec = format!("exec {}", path("program").display());
    let kills = [
        ("open", begin_silent(Command::new("cat").arg(path("small")))),
        ("read", begin_silent(Command::new("cat").arg(path("large")))),
        ("write", begin_silent(Command::new("dd").args(write))),
        ("truncate", begin_silent(Command::new("truncate").args(["-s", "9"]).arg(path("medium")))),
        ("exec", begin_silent(Command::new("sh").args(["-c", &exec]))),
    ];
    std::thread::sleep(Duration::from_millis(400));
    for (what, mut child) in kills {
        assert!(child.try_wait().unwrap().is_none(), "{what}: had nothing to wait for");
        child.kill().unwrap();
        let ended = wait_for(SOON, || child.try_wait().unwrap());
        assert!(ended.is_some(), "{what}: a killed process still waits");
    }
    stalled.server.thaw();
    for name in ["small", "medium", "large", "program"] {
        let gone = wait_for(Duration::from_secs(60), || {
            let path = path(name);
            let output = stalled.mount.coldfs(["migrate".as_ref(), path.as_os_str()]);
            assert!(output.status.success(), "{name}");
            (stalled.mount.state(&path) == "released" && stalled.is_stub(name)).then_some(())
        });
        let output =
            stalled.mount.coldfs(["state".as_ref(), "-l".as_ref(), path(name).as_os_str()]);
        let state = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(gone.is_some() && state.contains("open    0"), "{name} is not let go: {state}");
    }
    stalled.end();
}

#[test]
fn a_mapping_of_a_large_cold_file_reads_right_and_faults_when_the_store_is_gone() {
    const DEADLINE: Duration = Duration::from_secs(5);
    let Some(stalled) = Stalled::new("5s") else { return };
    let (name, bytes) = FILES[2];
    let file = raw::open(&stalled.path(name), libc::O_RDONLY, 0).unwrap();
    let mapping = raw::Mapping::new(&file, bytes, false).unwrap();
    drop(file);
    let whole = pattern::bytes(2, bytes);
    let begun = Instant::now();
    assert_eq!(mapping.compare_in_a_child(0, &whole[..1]), Err(libc::SIGBUS));
    let waited = begun.elapsed();
    // The kernel asks for a page again, alone, when its read-ahead failed: not for a deadline more.
    assert!(waited >= DEADLINE && waited < 2 * DEADLINE, "{waited:?}");
    assert_eq!(mapping.compare_in_a_child(bytes - 1, &whole[bytes - 1..]), Err(libc::SIGBUS));
    stalled.server.thaw();
    let back = wait_for(Duration::from_secs(60), || mapping.compare_in_a_child(0, &whole).ok());
    assert_eq!(back, Some(true), "what a mapping reads once the store is back");
    drop(mapping);
    stalled.end();
}
