//! What the proofs share: volumes to lose power on, mounts that clean up after themselves,
//! every visible fact of a tree, contents that tell which version they are.
//!
//! The subject under test is `coldfs`, or a stand-in that keeps the machinery honest where
//! coldfs is not in question: `COLDFS_SUBJECT=bind` (a bind mount) or `bindfs`. Tier verbs do
//! nothing on a stand-in; proofs that are about tiering skip it and say so.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod control;
pub mod facts;
pub mod fleet;
pub mod liar;
pub mod mount;
pub mod pattern;
pub mod raw;
pub mod server;
pub mod site;
mod telling;
pub mod versions;
pub mod volume;
pub mod zoo;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub use telling::{say, skip, test_name};

/// What stands at the mountpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Coldfs,
    Bind,
    Bindfs,
}

impl Subject {
    pub fn from_env() -> Self {
        match std::env::var("COLDFS_SUBJECT").as_deref() {
            Err(_) | Ok("coldfs") => Subject::Coldfs,
            Ok("bind") => Subject::Bind,
            Ok("bindfs") => Subject::Bindfs,
            Ok(other) => panic!("COLDFS_SUBJECT={other}: not one of coldfs, bind, bindfs"),
        }
    }

    pub fn is_coldfs(self) -> bool {
        self == Subject::Coldfs
    }
}

/// Whether a mount can be made here; says why not.
pub fn can_mount() -> bool {
    if !nix::unistd::geteuid().is_root() {
        skip("needs root");
        return false;
    }
    if !Path::new("/dev/fuse").exists() {
        skip("needs /dev/fuse");
        return false;
    }
    true
}

/// Whether this test can run against the real thing; says why not.
pub fn can_tier() -> bool {
    if !Subject::from_env().is_coldfs() {
        skip("is about tiering, and COLDFS_SUBJECT is a stand-in");
        return false;
    }
    can_mount()
}

/// Whether a program is on PATH; says that it is not.
pub fn has(program: &str) -> bool {
    if on_path(program) {
        return true;
    }
    skip(&format!("needs {program}"));
    false
}

pub fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|dir| dir.join(program).is_file())
    })
}

/// Whether loop devices work here; says why not.
pub fn can_loop() -> bool {
    if !nix::unistd::geteuid().is_root() {
        skip("needs root");
        return false;
    }
    if !Path::new("/dev/loop-control").exists() {
        skip("needs loop devices");
        return false;
    }
    true
}

/// A number from the environment.
pub fn env_number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")),
        Err(_) => default,
    }
}

/// The seed of this run: `COLDFS_SEED`, or a new one. Printed, so that a failure repeats.
pub fn seed() -> u64 {
    let seed = env_number("COLDFS_SEED", rand::random::<u64>() >> 16);
    say(&format!("COLDFS_SEED={seed}"));
    seed
}

/// Polls until `condition` gives something; none when the time is over.
pub fn wait_for<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if start.elapsed() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How long a command of a test may take.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(300);

/// Runs a command to its end, output captured; ends it and panics when it takes too long.
pub fn run(command: &mut Command) -> Output {
    run_within(command, COMMAND_LIMIT)
        .unwrap_or_else(|| panic!("{command:?} did not end within {COMMAND_LIMIT:?}"))
}

/// Runs a command to its end; none, and the command is killed, when it takes too long.
pub fn run_within(command: &mut Command, limit: Duration) -> Option<Output> {
    let name = format!("{command:?}");
    // Files, not pipes: a command that leaves a child behind does not hold us up.
    let stdout = tempfile::tempfile().unwrap();
    let stderr = tempfile::tempfile().unwrap();
    command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().unwrap())
        .stderr(stderr.try_clone().unwrap());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
    let status = wait_for(limit, || child.try_wait().unwrap());
    let Some(status) = status else {
        child.kill().ok();
        child.wait().ok();
        return None;
    };
    Some(Output { status, stdout: slurp(stdout), stderr: slurp(stderr) })
}

fn slurp(mut file: std::fs::File) -> Vec<u8> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Whether a process runs. One that ended stays in /proc until its parent asks: where nobody adopts
/// orphans, for ever.
pub fn is_running(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains("zombie"))
}

/// Begins a command that hears and says nothing.
pub fn begin_silent(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Copies a program by a process of its own: a descriptor of ours that may write it could be in a
/// child of another test just now, and then it cannot be run ("Text file busy").
pub fn copy_program(from: &str, to: &Path) {
    must(Command::new("cp").arg(from).arg(to));
}

/// Runs a command that must succeed.
pub fn must(command: &mut Command) -> String {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a shell script that must succeed, in a directory.
pub fn sh(dir: &Path, script: &str) -> String {
    must(Command::new("bash").arg("-euc").arg(script).current_dir(dir))
}

/// A coldfs command line. `COLDFS_BINARY` names another build: a soak of hours runs a copy, so
/// that building meanwhile does not change what it tests. It keeps no catalog, unless a test
/// names a directory for it: the machine's own is not the tests'.
pub fn coldfs() -> Command {
    let built = || env!("CARGO_BIN_EXE_coldfs").into();
    let mut command = Command::new(std::env::var_os("COLDFS_BINARY").unwrap_or_else(built));
    command.env("COLDFS_STATE_DIR", "/dev/null");
    command
}
