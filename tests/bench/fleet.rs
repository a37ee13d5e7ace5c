//! `bench fleet`: what tenants cost that are mounted and idle in one daemon, beside a daemon each.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Options;
use super::pair::{Better, Measured, Series};
use super::subject::mountpoints;

const TENANTS: usize = 1_000;
const QUICK_TENANTS: usize = 100;
const FILES_EACH: usize = 200;
const QUICK_FILES_EACH: usize = 20;
/// Daemons of one tenant each, to compare with: a thousand would want some 20 GiB.
const PROCESSES: usize = 10;
/// Until the walks of all tenants are over and what they wrote is durable.
const SETTLED: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(20);
const MOUNTS_WITHIN: Duration = Duration::from_secs(300);

pub fn run(options: &Options) {
    let work = tempfile::Builder::new().prefix("coldfs-bench-").tempdir_in(&options.dir).unwrap();
    let (tenants, files) = match options.quick {
        true => (QUICK_TENANTS, QUICK_FILES_EACH),
        false => (TENANTS, FILES_EACH),
    };
    let dirs: Vec<PathBuf> =
        (0..tenants).map(|number| work.path().join(format!("data/t{number:04}"))).collect();
    for dir in &dirs {
        fs::create_dir_all(dir).unwrap();
        for number in 0..files {
            fs::write(dir.join(format!("f{number}")), [0x5a; 4096]).unwrap();
        }
    }
    let report = |metric, unit, ours: Series, processes: Series| {
        let measured = Measured {
            bench: "fleet",
            metric,
            unit,
            better: Better::Lower,
            series: vec![("coldfs".to_owned(), ours), ("process".to_owned(), processes)],
        };
        if options.json {
            measured.print_json();
        } else {
            measured.print_row(None);
        }
    };
    // A daemon each, first: their tenants are in the fleet later.
    let begun = Instant::now();
    let processes: Vec<Process> =
        dirs.iter().take(PROCESSES).map(|dir| Process::mount(work.path(), dir)).collect();
    let alone = measure(&processes, &dirs[..PROCESSES], begun);
    drop(processes);
    let begun = Instant::now();
    let fleet = [Process::serve(work.path(), &dirs)];
    let together = measure(&fleet, &dirs, begun);
    let again: Vec<f64> =
        dirs.iter().take(2 * options.rounds()).map(|dir| fleet[0].again(dir)).collect();

    let rounds = again.len();
    report("attach_ms", "ms", again.into_iter().map(Some).collect(), vec![None; rounds]);
    let rows = [
        ("attach_all_ms", "ms each"),
        ("memory_per_tenant", "KiB"),
        ("threads_per_tenant", "threads"),
        ("fds_per_tenant", "fds"),
        ("idle_per_tenant", "us/s"),
    ];
    for (at, (metric, unit)) in rows.into_iter().enumerate() {
        report(metric, unit, vec![Some(together[at])], vec![Some(alone[at])]);
    }
}

/// What daemons that were begun at `begun` take a tenant: milliseconds until all are mounted, KiB,
/// threads, descriptors, and microseconds of processor time a second of idleness.
fn measure(processes: &[Process], dirs: &[PathBuf], begun: Instant) -> [f64; 5] {
    wait_mounted(dirs);
    let mounted = begun.elapsed().as_secs_f64() * 1e3;
    std::thread::sleep(SETTLED);
    let mut takes = [0.0; 3];
    for process in processes {
        for (sum, one) in takes.iter_mut().zip(process.takes()) {
            *sum += one;
        }
    }
    let [kib, threads, descriptors] = takes;
    let idle = idle_share(processes) * 1e6;
    [mounted, kib, threads, descriptors, idle].map(|all| all / dirs.len() as f64)
}

/// A daemon.
struct Process {
    child: Child,
    runtime: PathBuf,
    mounts: Vec<PathBuf>,
}

impl Process {
    fn mount(work: &Path, dir: &Path) -> Self {
        let runtime = work.join("alone").join(dir.file_name().unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_coldfs"));
        command.arg("mount").arg(dir).arg(dir);
        command.arg("--store").arg(format!("disk:{}", work.join("store").display()));
        Self::start(command, runtime, vec![dir.to_owned()])
    }

    fn serve(work: &Path, dirs: &[PathBuf]) -> Self {
        let config = work.join("coldfs.toml");
        let mut text = format!("store = \"disk:{}\"\n", work.join("store").display());
        for dir in dirs {
            writeln!(text, "[[tenants]]\ndata_dir = \"{}\"", dir.display()).unwrap();
        }
        fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_coldfs"));
        command.arg("serve").arg("--config").arg(&config);
        Self::start(command, work.join("fleet"), dirs.to_vec())
    }

    fn start(mut command: Command, runtime: PathBuf, mounts: Vec<PathBuf>) -> Self {
        fs::create_dir_all(&runtime).unwrap();
        let log = fs::File::create(runtime.join("log")).unwrap();
        command.arg("--foreground");
        command.env("COLDFS_RUNTIME_DIR", &runtime).env("COLDFS_STATE_DIR", &runtime);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self { child: command.spawn().unwrap(), runtime, mounts }
    }

    /// KiB of memory, what is shared in equal parts; threads; descriptors.
    fn takes(&self) -> [f64; 3] {
        let at = |what: &str| format!("/proc/{}/{what}", self.child.id());
        let memory = fs::read_to_string(at("smaps_rollup")).unwrap();
        let shares = memory.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        let kib = shares.trim().trim_end_matches(" kB").parse().unwrap();
        let count = |what| fs::read_dir(at(what)).unwrap().count() as f64;
        [kib, count("task"), count("fd")]
    }

    /// Processor time taken so far, seconds. Fields 14 and 15 of proc_pid_stat(5), in ticks of
    /// 10 ms on every architecture that Rust has `std` for.
    fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let (_, behind_name) = stat.rsplit_once(')').unwrap();
        let ticks = behind_name.split_whitespace().skip(11).take(2);
        ticks.map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
    }

    /// Takes one tenant away and mounts it again; how long the command to mount it took, ms.
    fn again(&self, dir: &Path) -> f64 {
        let tenant = |verb: &str| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_coldfs"));
            command.args(["tenant", verb]).arg(dir.file_name().unwrap());
            command.env("COLDFS_RUNTIME_DIR", &self.runtime);
            super::files::run(&mut command);
        };
        tenant("detach");
        let begun = Instant::now();
        tenant("attach");
        begun.elapsed().as_secs_f64() * 1e3
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).ok();
        self.child.wait().ok();
        let mounts = mountpoints();
        for dir in self.mounts.iter().filter(|dir| mounts.contains(*dir)) {
            eprintln!("bench: {} is still mounted", dir.display());
        }
    }
}

fn wait_mounted(dirs: &[PathBuf]) {
    let begun = Instant::now();
    loop {
        let mounts = mountpoints();
        if dirs.iter().all(|dir| mounts.contains(dir)) {
            return;
        }
        assert!(begun.elapsed() < MOUNTS_WITHIN, "not everything mounts");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The share of a core that they take while nothing happens.
fn idle_share(processes: &[Process]) -> f64 {
    let taken = || processes.iter().map(Process::cpu_seconds).sum::<f64>();
    let (before, begun) = (taken(), Instant::now());
    std::thread::sleep(IDLE);
    (taken() - before) / begun.elapsed().as_secs_f64()
}
