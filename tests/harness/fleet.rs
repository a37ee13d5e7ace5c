//! A running `coldfs serve` that ends with its test, however the test ends.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::mount::{HANG_LIMIT, Watchdog, is_mounted};
use super::site::Site;
use super::{COMMAND_LIMIT, coldfs, raw, run, run_within, say, wait_for};

/// Deadlines are for what never comes, not for slow machines.
pub const PATIENCE: Duration = Duration::from_secs(150);
/// How long a daemon may take to end.
const END_LIMIT: Duration = Duration::from_secs(120);

/// A daemon of many tenants. Dropped, it is ended and its mounts are taken away.
pub struct Fleet {
    child: Option<Child>,
    pub config: PathBuf,
    runtime: PathBuf,
    log: PathBuf,
    /// What may be mounted, to be taken away at the end.
    places: PathBuf,
    watchdog: Watchdog,
}

impl Site {
    /// A directory for a tenant, with a file of these bytes.
    pub fn tenant(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let dir = self.plain.join(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("file"), bytes).unwrap();
        dir
    }

    /// A configuration for all tenants of this site: its store, then `text`, then a tenant for each
    /// of these names, mounted over itself.
    pub fn fleet_text(&self, text: &str, names: &[&str]) -> String {
        let mut all = format!("store = '{}'\n{text}\n", self.store_url);
        for name in names {
            let dir = self.plain.join(name);
            all += &format!("[[tenants]]\ndata_dir = '{}'\n", dir.display());
        }
        all
    }

    /// Serves what this text says.
    pub fn serve(&self, text: &str) -> Fleet {
        let config = self.dir.path().join("fleet.toml");
        std::fs::write(&config, text).unwrap();
        let log = self.dir.path().join("fleet.log");
        let output = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = coldfs();
        command.arg("serve").arg("--config").arg(&config).arg("--foreground");
        command
            .env("COLDFS_RUNTIME_DIR", &self.runtime)
            .env("COLDFS_STATE_DIR", &self.runtime)
            .env(super::mount::QUIET_MS, "30");
        command.stdin(Stdio::null());
        command.stdout(output.try_clone().unwrap()).stderr(output);
        raw::die_with_parent(&mut command);
        let child = command.spawn().unwrap();
        let watchdog = Watchdog::start(child.id(), HANG_LIMIT);
        let runtime = self.runtime.clone();
        let places = self.plain.clone();
        let mut fleet = Fleet { child: Some(child), config, runtime, log, places, watchdog };
        let socket = fleet.socket();
        let up = wait_for(PATIENCE, || {
            let ended = fleet.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "coldfs serve ended: {}", fleet.log());
            socket.exists().then_some(())
        });
        assert!(up.is_some(), "coldfs serve does not answer\n{}", fleet.log());
        fleet
    }
}

impl Fleet {
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    pub fn socket(&self) -> PathBuf {
        self.runtime.join(format!("{}.sock", self.pid()))
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// A sign of life of the test.
    pub fn beat(&self) {
        self.watchdog.beat();
    }

    /// Runs `coldfs ARGS` as a person would.
    pub fn coldfs<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.watchdog.beat();
        let mut command = coldfs();
        command.args(args);
        command.env("COLDFS_RUNTIME_DIR", &self.runtime).env("COLDFS_STATE_DIR", &self.runtime);
        let output = run_within(&mut command, COMMAND_LIMIT)
            .unwrap_or_else(|| panic!("{command:?} did not end within {COMMAND_LIMIT:?}"));
        self.watchdog.beat();
        output
    }

    /// The same, which must succeed; what it prints.
    pub fn must<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> String {
        let output = self.coldfs(args.iter().map(AsRef::as_ref));
        let args: Vec<_> = args.iter().map(AsRef::as_ref).collect();
        assert!(
            output.status.success(),
            "coldfs {args:?}: {}\n{}{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Moves a file or all files below a directory, waiting for those that are busy.
    pub fn all(&self, verb: &str, path: &Path) {
        self.must(&[verb.as_ref(), "-r".as_ref(), "--wait".as_ref(), path.as_os_str()]);
    }

    /// `coldfs tenant list`.
    pub fn entries(&self) -> Vec<Value> {
        let text = self.must(&["tenant", "list", "--json"]);
        text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
    }

    /// What a tenant is at.
    pub fn state(&self, name: &str) -> String {
        let entries = self.entries();
        let entry = entries.iter().find(|entry| entry["name"] == name);
        entry.map_or_else(String::new, |entry| entry["state"].as_str().unwrap().to_owned())
    }

    /// Waits until a tenant is at something; empty: until nobody knows it.
    pub fn becomes(&self, name: &str, state: &str) {
        let there = wait_for(PATIENCE, || (self.state(name) == state).then_some(()));
        assert!(there.is_some(), "{name} is {:?}, not {state}\n{}", self.state(name), self.log());
    }

    /// Waits until the log has a line with all these words.
    pub fn logs(&self, words: &[&str]) {
        let is_it = |line: &str| words.iter().all(|word| line.contains(word));
        let said = wait_for(PATIENCE, || {
            self.watchdog.beat();
            self.log().lines().any(is_it).then_some(())
        });
        assert!(said.is_some(), "no line has {words:?}\n{}", self.log());
    }

    /// `coldfs status --json`.
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.must(&["status", "--json"])).expect("an object")
    }

    /// Writes the configuration anew, and has it read.
    pub fn reload(&self, text: &str) {
        std::fs::write(&self.config, text).unwrap();
        raw::signal(self.pid(), libc::SIGHUP);
    }

    /// Threads, descriptors, and resident MiB of the daemon.
    pub fn takes(&self) -> [usize; 3] {
        let at = |what: &str| format!("/proc/{}/{what}", self.pid());
        let count = |what| std::fs::read_dir(at(what)).unwrap().count();
        let status = std::fs::read_to_string(at("status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: usize = resident.trim().trim_end_matches(" kB").parse().unwrap();
        [count("task"), count("fd"), kib / 1024]
    }

    /// Asks the daemon to end, and waits for that.
    pub fn end(mut self) -> ExitStatus {
        self.watchdog.beat();
        raw::signal(self.pid(), libc::SIGTERM);
        let child = self.child.as_mut().unwrap();
        let status = wait_for(END_LIMIT, || child.try_wait().unwrap());
        let status = status.unwrap_or_else(|| panic!("the daemon does not end\n{}", self.log()));
        self.child = None;
        status
    }

    /// Ends the daemon as an out-of-memory killer would; what it leaves stays.
    pub fn die(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Whether something is mounted at a place below this fleet's.
    fn mounts(&self) -> Vec<PathBuf> {
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let places = text.lines().filter_map(|line| line.split(' ').nth(4).map(PathBuf::from));
        places.filter(|at| at.starts_with(&self.places) && at != &self.places).collect()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() && self.child.is_some() {
            say(&format!("the daemon's log:\n{}", self.log()));
        }
        if let Some(mut child) = self.child.take() {
            raw::signal(child.id(), libc::SIGTERM);
            if wait_for(Duration::from_secs(30), || child.try_wait().unwrap()).is_none() {
                child.kill().ok();
                child.wait().ok();
            }
        }
        for at in self.mounts() {
            while is_mounted(&at) {
                run(Command::new("fusermount3").arg("-uz").arg(&at));
            }
        }
    }
}
