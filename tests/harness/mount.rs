//! A running mount that ends with its test, however the test ends.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::site::Site;
use super::{COMMAND_LIMIT, Subject, coldfs, control, raw, run, run_within, say, wait_for};

/// How long a daemon may take until its mount answers.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a daemon may take to end after its mount is detached.
const END_LIMIT: Duration = Duration::from_secs(60);
/// Between two tries to detach.
const DETACH_LOOK: Duration = Duration::from_millis(100);
/// How long a test may go without a sign of life before its daemon is killed, which frees
/// every process that waits on the mount.
pub const HANG_LIMIT: Duration = Duration::from_secs(180);

pub use ::coldfs::failpoint::QUIET_MS;

/// How to start a daemon.
#[derive(Clone, Debug)]
pub struct Start {
    /// Die there: `name` or `name:n`.
    pub crash_at: Option<String>,
    pub env: Vec<(String, String)>,
    /// More arguments of `coldfs mount`.
    pub args: Vec<String>,
    /// The store, unless it is the site's.
    pub store: Option<String>,
    pub quiet_ms: u64,
    pub hang_limit: Duration,
}

impl Default for Start {
    fn default() -> Self {
        Self {
            crash_at: None,
            env: Vec::new(),
            args: Vec::new(),
            store: None,
            quiet_ms: 30,
            hang_limit: HANG_LIMIT,
        }
    }
}

impl Start {
    pub fn dying_at(name: &str) -> Self {
        Self { crash_at: Some(name.into()), ..Self::default() }
    }
}

/// The daemon ended before its mount answered.
#[derive(Debug)]
pub struct Died {
    pub status: ExitStatus,
    pub log: String,
}

/// A mount. Dropped, it is detached and its daemon ended.
pub struct Mount {
    subject: Subject,
    child: Option<Child>,
    mnt: PathBuf,
    runtime: PathBuf,
    log: PathBuf,
    watchdog: Option<Watchdog>,
}

impl Site {
    /// How to mount by a configuration file with this text.
    pub fn configured(&self, text: &str) -> Start {
        let file = self.dir.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        let args = vec!["--config".into(), file.to_str().expect("UTF-8 here").into()];
        Start { args, ..Start::default() }
    }

    /// Mounts, or panics with the daemon's log.
    pub fn mount(&self) -> Mount {
        self.start(&Start::default())
    }

    pub fn start(&self, start: &Start) -> Mount {
        self.try_start(start).unwrap_or_else(|died| {
            panic!("the daemon ended at start: {}\n{}", died.status, died.log)
        })
    }

    /// Mounts; an error if the daemon ends before the mount answers.
    pub fn try_start(&self, start: &Start) -> Result<Mount, Died> {
        static LOGS: AtomicU32 = AtomicU32::new(0);
        let log =
            self.dir.path().join(format!("daemon-{}.log", LOGS.fetch_add(1, Ordering::Relaxed)));
        let subject = Subject::from_env();
        let mut command = match subject {
            Subject::Coldfs => {
                let mut command = coldfs();
                command.arg("mount").arg(&self.data).arg(&self.mnt);
                let store = start.store.as_ref().unwrap_or(&self.store_url);
                command.args(["--store", store, "--foreground"]).args(&start.args);
                command
                    .env("COLDFS_RUNTIME_DIR", &self.runtime)
                    .env("COLDFS_STATE_DIR", &self.runtime);
                command.env(QUIET_MS, start.quiet_ms.to_string());
                if let Some(name) = &start.crash_at {
                    command.env(::coldfs::failpoint::CRASH_AT, name);
                }
                command.envs(start.env.iter().cloned());
                command
            }
            Subject::Bindfs => {
                let mut command = Command::new("bindfs");
                command.arg("-f").arg(&self.data).arg(&self.mnt);
                command
            }
            Subject::Bind => {
                super::must(Command::new("mount").arg("--bind").arg(&self.data).arg(&self.mnt));
                return Ok(Mount {
                    subject,
                    child: None,
                    mnt: self.mnt.clone(),
                    runtime: self.runtime.clone(),
                    log,
                    watchdog: None,
                });
            }
        };
        let output = File::create(&log).unwrap();
        command.stdin(std::process::Stdio::null());
        command.stdout(output.try_clone().unwrap()).stderr(output);
        raw::die_with_parent(&mut command);
        let child = command.spawn().unwrap();
        let mut mount = Mount {
            subject,
            watchdog: Some(Watchdog::start(child.id(), start.hang_limit)),
            child: Some(child),
            mnt: self.mnt.clone(),
            runtime: self.runtime.clone(),
            log,
        };
        mount.wait_ready()?;
        Ok(mount)
    }
}

impl Mount {
    fn wait_ready(&mut self) -> Result<(), Died> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                self.child = None;
                let log = self.log_tail();
                self.unmount_leftover();
                return Err(Died { status, log });
            }
            if self.answers() {
                return Ok(());
            }
            assert!(
                start.elapsed() < START_LIMIT,
                "the mount does not answer after {START_LIMIT:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn answers(&self) -> bool {
        is_fuse_mount(&self.mnt)
            && std::fs::metadata(&self.mnt).is_ok()
            && (self.subject != Subject::Coldfs || self.socket().exists())
    }

    /// The control socket of the daemon.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join(format!("{}.sock", self.pid()))
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// The most memory that the daemon ever had resident, MiB.
    pub fn peak_resident_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
    }

    /// What the daemon's descriptors are of.
    pub fn descriptors(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()).collect()
    }

    /// A sign of life from the test: the watchdog starts anew.
    pub fn beat(&self) {
        if let Some(watchdog) = &self.watchdog {
            watchdog.beat();
        }
    }

    /// Runs `coldfs ARGS`, as a person would in this test's runtime directory. Does nothing,
    /// successfully, on a stand-in.
    pub fn coldfs<I, S>(&self, args: I) -> Output
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        self.beat();
        if self.subject != Subject::Coldfs {
            return Output { status: ExitStatus::default(), stdout: vec![], stderr: vec![] };
        }
        let mut command = coldfs();
        command.args(args);
        command.env("COLDFS_RUNTIME_DIR", &self.runtime).env("COLDFS_STATE_DIR", &self.runtime);
        let hang_limit =
            self.watchdog.as_ref().map_or(HANG_LIMIT, |watchdog| watchdog.shared.limit);
        let limit = hang_limit.max(COMMAND_LIMIT);
        let output = run_within(&mut command, limit)
            .unwrap_or_else(|| panic!("{command:?} did not end within {limit:?}"));
        self.beat();
        output
    }

    /// Runs a tier verb on paths and directories below, waiting for files that are busy.
    /// Panics unless every file was done.
    pub fn all(&self, verb: &str, path: &Path) {
        let output =
            self.coldfs([verb.as_ref(), "-r".as_ref(), "--wait".as_ref(), path.as_os_str()]);
        assert!(
            output.status.success(),
            "coldfs {verb} -r --wait {}: {}\n{}{}",
            path.display(),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Runs a tier verb on one file by the control socket: no process, no output.
    pub fn quick(&self, verb: &str, path: &Path, recursive: bool) {
        self.beat();
        if self.subject == Subject::Coldfs {
            control::run_move(&self.socket(), verb, path, recursive);
        }
    }

    /// What `getfattr -n user.coldfs.state` says; empty on a stand-in.
    pub fn state<'a>(&self, at: impl Into<raw::At<'a>>) -> String {
        shown_state(at)
    }

    /// Waits until a file that somebody reads is at home: it comes behind its reader.
    pub fn comes_home(&self, path: &Path) {
        let home = || (self.state(path) == "archived").then_some(());
        let came = super::wait_for(Duration::from_secs(60), home);
        assert!(came.is_some(), "{} is {}", path.display(), self.state(path));
    }

    /// `coldfs status --json`.
    pub fn status(&self) -> serde_json::Value {
        let output = self.coldfs(["status".as_ref(), "--json".as_ref(), self.mnt.as_os_str()]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!(
                "coldfs status --json: {error}\n{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )
        })
    }

    /// The applications of `coldfs top`.
    pub fn applications(&self) -> Vec<serde_json::Value> {
        let args = ["top".as_ref(), "--once".as_ref(), "--json".as_ref(), self.mnt.as_os_str()];
        let reports: serde_json::Value =
            serde_json::from_slice(&self.coldfs(args).stdout).expect("coldfs top prints JSON");
        reports[0]["applications"].as_array().expect("a list").clone()
    }

    /// A counter of `coldfs status --json`.
    pub fn counter(&self, name: &str) -> u64 {
        self.status()["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}"))
    }

    /// Requests to the store so far, of one operation or of all.
    pub fn requests(&self, operation: Option<&str>) -> u64 {
        let status = self.status();
        let all = status["counters"]["s3_requests_total"].as_object().expect("an object").clone();
        all.iter()
            .filter(|(name, _)| operation.is_none_or(|wanted| *name == wanted))
            .flat_map(|(_, codes)| codes.as_object().expect("an object").values())
            .filter_map(serde_json::Value::as_u64)
            .sum()
    }

    /// Detaches as a person would and waits for the daemon's end.
    pub fn detach(mut self) {
        self.beat();
        let detached = wait_for(Duration::from_secs(30), || {
            // RELEASE comes after close(2): busy for a moment.
            self.try_unmount().then_some(())
        });
        assert!(detached.is_some(), "{} stays busy", self.mnt.display());
        if let Some(child) = &mut self.child {
            let status = wait_for(END_LIMIT, || child.try_wait().unwrap());
            let status = status.unwrap_or_else(|| {
                panic!("the daemon does not end once it is detached:\n{}", threads(child.id()))
            });
            self.child = None;
            assert!(status.success(), "the daemon ended with {status}\n{}", self.log_tail());
        }
    }

    fn try_unmount(&self) -> bool {
        match self.subject {
            Subject::Bind => run(Command::new("umount").arg(&self.mnt)).status.success(),
            _ => run(Command::new("fusermount3").arg("-u").arg(&self.mnt)).status.success(),
        }
    }

    /// Waits until the daemon has ended well by itself.
    pub fn wait_ended(&mut self) {
        if self.child.is_none() {
            return;
        }
        let status = self.end_status();
        assert!(status.success(), "the daemon ended with {status}\n{}", self.log_tail());
    }

    /// Waits until the daemon has ended, well or not.
    pub fn end_status(&mut self) -> ExitStatus {
        self.beat();
        let mut child = self.child.take().expect("the daemon has not ended yet");
        let status = wait_for(END_LIMIT, || child.try_wait().unwrap());
        status.expect("the daemon ends")
    }

    /// Asks the daemon to end by a signal; it detaches and ends well.
    pub fn end_by(mut self, signal: i32) {
        self.signal(signal);
        self.wait_ended();
    }

    /// Sends the daemon a signal, once it knows itself that its mount answers: asked to end a moment
    /// before that, it says that it could not begin.
    pub fn signal(&self, signal: i32) {
        let knows = || self.log_tail().contains(": mounted tenant=").then_some(());
        assert!(wait_for(START_LIMIT, knows).is_some(), "{}", self.log_tail());
        raw::signal(self.pid(), signal);
    }

    /// Ends the daemon as an out-of-memory killer would, and takes its mount away.
    pub fn kill(mut self) {
        self.die();
        self.unmount_leftover();
    }

    /// Ends the daemon as an out-of-memory killer would; what it leaves at the mountpoint stays
    /// there for as long as this lives.
    pub fn die(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Whether a crash point killed the daemon, within the time or while it was detached.
    pub fn died_or_detached(mut self, limit: Duration) -> bool {
        let mut status = self.ends_within(limit);
        let begun = Instant::now();
        while status.is_none() && begun.elapsed() < END_LIMIT {
            self.try_unmount();
            status = self.ends_within(DETACH_LOOK);
        }
        let status = status.expect("the daemon ends once it is detached");
        if !status.success() {
            self.assert_killed(status);
        }
        !status.success()
    }

    /// How the daemon ended, if it did within the time.
    fn ends_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        let status = wait_for(limit, || child.try_wait().unwrap())?;
        self.child = None;
        Some(status)
    }

    fn assert_killed(&self, status: ExitStatus) {
        let log = self.log_tail();
        self.unmount_leftover();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "the daemon ended by itself\n{log}");
        assert!(!self.hung(), "the watchdog had to kill the daemon\n{log}");
    }

    /// Whether the watchdog had to kill the daemon.
    pub fn hung(&self) -> bool {
        self.watchdog.as_ref().is_some_and(|watchdog| watchdog.shared.fired.load(Ordering::SeqCst))
    }

    fn unmount_leftover(&self) {
        while is_mounted(&self.mnt) {
            match self.subject {
                Subject::Bind => run(Command::new("umount").arg("-l").arg(&self.mnt)),
                _ => run(Command::new("fusermount3").arg("-uz").arg(&self.mnt)),
            };
        }
    }

    /// The end of the daemon's log.
    pub fn log_tail(&self) -> String {
        const LINES: usize = 60;
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() && self.child.is_some() {
            say(&format!("the daemon's log:\n{}", self.log_tail()));
        }
        if is_mounted(&self.mnt) && !self.try_unmount() {
            self.unmount_leftover();
        }
        if let Some(mut child) = self.child.take()
            && wait_for(Duration::from_secs(10), || child.try_wait().unwrap()).is_none()
        {
            child.kill().ok();
            child.wait().ok();
        }
        self.unmount_leftover();
    }
}

/// The types of what is mounted there, the topmost last.
pub fn mount_types(mnt: &Path) -> Vec<String> {
    let wanted = mnt.to_str().expect("tests mount at UTF-8 paths");
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines()
        .filter(|line| line.split(' ').nth(4) == Some(wanted))
        .filter_map(|line| line.split(" - ").nth(1)?.split(' ').next().map(str::to_owned))
        .collect()
}

/// Whether anything is mounted there.
pub fn is_mounted(mnt: &Path) -> bool {
    !mount_types(mnt).is_empty()
}

fn is_fuse_mount(mnt: &Path) -> bool {
    mount_types(mnt).last().is_some_and(|kind| kind.starts_with("fuse"))
}

/// What `getfattr -n user.coldfs.state` says of a file, whoever serves it; empty: nothing.
pub fn shown_state<'a>(at: impl Into<raw::At<'a>>) -> String {
    raw::get_xattr(at, b"user.coldfs.state")
        .ok()
        .flatten()
        .map(|value| String::from_utf8_lossy(&value).trim_end_matches('\0').trim().to_owned())
        .unwrap_or_default()
}

/// Kills a daemon whose test gives no sign of life: a process that waits on a FUSE request
/// cannot be killed, but its daemon can, and then the request fails.
pub struct Watchdog {
    shared: Arc<Shared>,
}

struct Shared {
    limit: Duration,
    started: Instant,
    beat_ms: AtomicU64,
    over: AtomicBool,
    fired: AtomicBool,
}

impl Watchdog {
    pub fn start(pid: u32, limit: Duration) -> Self {
        let shared = Arc::new(Shared {
            limit,
            started: Instant::now(),
            beat_ms: AtomicU64::new(0),
            over: AtomicBool::new(false),
            fired: AtomicBool::new(false),
        });
        let name = super::test_name();
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name(name)
            .spawn(move || {
                while !theirs.over.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(200));
                    let beat = Duration::from_millis(theirs.beat_ms.load(Ordering::SeqCst));
                    if theirs.started.elapsed().saturating_sub(beat) > theirs.limit {
                        theirs.fired.store(true, Ordering::SeqCst);
                        if !theirs.over.load(Ordering::SeqCst) {
                            say(&format!(
                                "no sign of life for {:?}: killing daemon {pid}",
                                theirs.limit
                            ));
                            raw::signal(pid, libc::SIGKILL);
                        }
                        return;
                    }
                }
            })
            .unwrap();
        Self { shared }
    }

    pub fn beat(&self) {
        let now = self.shared.started.elapsed().as_millis() as u64;
        self.shared.beat_ms.store(now, Ordering::SeqCst);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
    }
}

/// What each thread of a process that hangs is doing.
fn threads(pid: u32) -> String {
    if super::on_path("gdb") {
        let pid = pid.to_string();
        let output = run(Command::new("gdb").args([
            "-p",
            &pid,
            "-batch",
            "-ex",
            "set print frame-arguments none",
            "-ex",
            "thread apply all bt 24",
        ]));
        return String::from_utf8_lossy(&output.stdout).into_owned();
    }
    let mut text = String::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        for file in ["comm", "wchan", "stack"] {
            text += &std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
            text.push('\n');
        }
    }
    text
}
