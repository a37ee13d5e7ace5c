//! `bench probe`: what counting uses costs, on against off in turns, and what taking the counts
//! costs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::Options;
use super::counting::Counting;
use super::files::{self, Noise, Scale, run as run_program};
use super::pair::{Better, Measured, Series, alternate};
use super::peers::{Fanotify, Ring};
use super::reader::Reader;
use super::volume::Volume;

/// How much there is of everything.
struct Size {
    /// Preads of a slice that is timed.
    reads: u64,
    /// Rounds of the workloads: their aims are within a hundredth.
    rounds: usize,
    /// Files that are touched before a drain.
    entries: usize,
    /// Tenants of one filesystem.
    tenants: usize,
    files: Scale,
}

const FULL: Size = Size {
    reads: 400_000,
    rounds: 25,
    entries: 200_000,
    tenants: 5_000,
    files: Scale { big_bytes: 256 << 20, small_files: 2_000, ..Scale::FULL },
};
const QUICK: Size =
    Size { reads: 100_000, rounds: 5, entries: 20_000, tenants: 500, files: Scale::QUICK };

/// Files of `pread_many_files`.
pub const MANY: usize = 4_000;
/// How often the counts are taken, seconds.
const INTERVAL: f64 = 3.0;
/// Files whose memory is asked for.
const TRACKED: u32 = 1_000_000;

/// What sees reads meanwhile.
enum Seeing {
    Nothing,
    Probe(#[expect(dead_code, reason = "held: dropped, it ends")] Counting),
    Ring(#[expect(dead_code, reason = "held: dropped, it ends")] Ring),
    Fanotify(#[expect(dead_code, reason = "held: dropped, it ends")] Fanotify),
}

/// A program that is run, and its bound beside `off`.
type Work = (&'static str, &'static str, fn(&Path) -> Option<f64>);

const WORKLOADS: [Work; 4] = [
    ("cargo_build", "ms", super::hot::cargo_build_in),
    ("git_status", "ms", git_status),
    ("tar", "ms", tar),
    ("fio_seq", "ms/GiB", fio_seq),
];
const PREADS: [(&str, f64); 3] =
    [("pread_one_file", 1.15), ("pread_many_files", 1.30), ("other_device", 1.13)];
const DRAINS: [&str; 3] = ["drain_entries", "idle_drain", "memory_1m_files"];

pub fn run(options: &Options) {
    let size = if options.quick { QUICK } else { FULL };
    let names = PREADS.iter().map(|(name, _)| *name).chain(WORKLOADS.iter().map(|work| work.0));
    let names: Vec<_> = names.chain(DRAINS).collect();
    for only in &options.only {
        assert!(names.contains(&only.as_str()), "no metric is called {only}");
    }
    let work = tempfile::Builder::new().prefix("coldfs-bench-").tempdir_in(&options.dir).unwrap();
    let bench = Bench { options, size, dir: work.path().to_owned() };
    PREADS.iter().filter(|(name, _)| options.wants(name)).for_each(|pread| bench.pread(pread));
    if WORKLOADS.iter().any(|(name, ..)| options.wants(name)) {
        files::fill(&bench.dir.join("files"), &bench.size.files);
    }
    WORKLOADS.iter().filter(|(name, ..)| options.wants(name)).for_each(|work| bench.work(work));
    if options.wants("drain_entries") || options.wants("idle_drain") {
        bench.drains();
    }
    if options.wants("memory_1m_files") {
        bench.memory();
    }
}

struct Bench<'a> {
    options: &'a Options,
    size: Size,
    dir: PathBuf,
}

impl Bench<'_> {
    fn wants_peer(&self, peer: &str) -> bool {
        self.options.peers.is_empty() || self.options.peers.iter().any(|name| name == peer)
    }

    fn print(
        &self,
        metric: &'static str,
        unit: &'static str,
        better: Better,
        series: Vec<(String, Series)>,
        aim: Option<f64>,
    ) {
        let measured = Measured { bench: "probe", metric, unit, better, series };
        if self.options.json {
            measured.print_json();
        } else {
            measured.print_row_of_medians(aim);
        }
    }

    /// Cached reads of 4 KiB by another process than the one that counts.
    fn pread(&self, (metric, aim): &(&'static str, f64)) {
        let many = *metric == "pread_many_files";
        let dir = self.dir.join("pread");
        if !dir.exists() {
            fs::create_dir(&dir).unwrap();
            (0..MANY)
                .for_each(|number| fs::write(dir.join(format!("f{number}")), [7; 4096]).unwrap());
        }
        let elsewhere = (*metric == "other_device").then(|| Volume::make(&self.dir)).flatten();
        if *metric == "other_device" && elsewhere.is_none() {
            return;
        }
        let watched = elsewhere.as_ref().map_or(self.dir.as_path(), |volume| &volume.root);
        let mut reader = Reader::start(&dir, if many { MANY } else { 1 });
        let peers = ["off", "ring", "fanotify"]
            .into_iter()
            .filter(|peer| self.wants_peer(peer) && (*metric != "other_device" || *peer == "off"));
        let subjects: Vec<_> = ["coldfs"].into_iter().chain(peers).collect();
        let series = alternate(subjects.len(), self.options.rounds().max(5), |subject| {
            let _seeing = match subjects[subject] {
                "coldfs" => Seeing::Probe(Counting::start(watched)),
                "ring" => Seeing::Ring(Ring::start()?),
                "fanotify" => Seeing::Fanotify(Fanotify::start(&dir)?),
                _ => Seeing::Nothing,
            };
            reader.nanoseconds_each(self.size.reads / 10);
            Some(reader.nanoseconds_each(self.size.reads))
        });
        let names = subjects.iter().map(|name| (*name).to_owned());
        self.print(metric, "ns", Better::Lower, names.zip(series).collect(), Some(*aim));
    }

    /// What people run all day.
    fn work(&self, (metric, unit, take): &Work) {
        let dir = self.dir.join("files");
        let rounds = self.options.rounds.unwrap_or(self.size.rounds);
        let series = alternate(2, rounds, |subject| {
            let _seeing = match subject {
                0 => Seeing::Probe(Counting::start(&dir)),
                _ => Seeing::Nothing,
            };
            take(&dir)
        });
        let names = ["coldfs", "off"].map(str::to_owned);
        self.print(
            metric,
            unit,
            Better::Lower,
            names.into_iter().zip(series).collect(),
            Some(1.01),
        );
    }

    /// Taking the counts: as fast as can be, and as it is when little happens.
    fn drains(&self) {
        let (entries, tenants) = (self.size.entries, self.size.tenants);
        let dir = self.dir.join("sparse");
        let paths = sparse(&dir, entries);
        let rounds = self.options.rounds().clamp(3, 7);
        if self.options.wants("drain_entries") {
            // The tenants of one filesystem: what one touched file costs must not grow with them.
            for (metric, tenants) in [("drain_entries", 1), ("drain_entries_shared", tenants)] {
                let counting = Counting::shared(&dir, &paths, tenants);
                let series = alternate(2, rounds, |subject| {
                    if subject == 1 {
                        return Some(scan(&paths));
                    }
                    touch(&dir, 1);
                    let (entries, spent) = counting.drain();
                    assert!(entries >= paths.len() as u64, "{entries} of {}", paths.len());
                    Some(entries as f64 / spent.as_secs_f64())
                });
                let names = ["coldfs", "atime_scan"].map(str::to_owned);
                let series = names.into_iter().zip(series).collect();
                self.print(metric, "entry/s", Better::Higher, series, None);
            }
        }
        if self.options.wants("idle_drain") {
            // One file of each tenant is used between two drains.
            let few = Counting::shared(&dir, &paths, 1);
            let many = Counting::shared(&dir, &paths, tenants);
            let series = alternate(2, rounds, |subject| {
                few.drain();
                many.drain();
                touch(&dir, entries / tenants);
                let (_, spent) = if subject == 0 { many.drain() } else { few.drain() };
                Some(100.0 * spent.as_secs_f64() / INTERVAL)
            });
            let names = ["coldfs", "one_tenant"].map(str::to_owned);
            let series = names.into_iter().zip(series).collect();
            self.print("idle_drain", "% of a core", Better::Lower, series, None);
        }
    }

    /// Kernel memory of the map, and ours beside it.
    fn memory(&self) {
        let kernel = Counting::kernel_bytes(&self.dir, TRACKED);
        let ours = Counting::own_bytes(&self.dir, TRACKED);
        for (metric, bytes) in [("memory_1m_kernel", kernel), ("memory_1m_daemon", ours)] {
            let series = vec![Some(bytes as f64 / f64::from(1 << 20))];
            self.print(metric, "MiB", Better::Lower, vec![("coldfs".to_owned(), series)], None);
        }
    }
}

/// Files of 4 KiB without a byte, a thousand a directory.
fn sparse(dir: &Path, count: usize) -> Vec<PathBuf> {
    let paths: Vec<_> =
        (0..count).map(|number| dir.join(format!("d{}/f{number}", number / 1_000))).collect();
    for (number, path) in paths.iter().enumerate() {
        if number % 1_000 == 0 {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        fs::File::create(path).unwrap().set_len(4_096).unwrap();
    }
    paths
}

/// Reads a byte of every `step`th file, in another process.
fn touch(dir: &Path, step: usize) {
    let this = std::env::current_exe().unwrap();
    run_program(Command::new(this).arg("touch").arg(dir).arg(step.to_string()));
}

/// What `bench touch` does.
pub fn touch_here(dir: &Path, step: usize) {
    let mut byte = [0];
    let mut number = 0;
    for at in 0.. {
        let part = dir.join(format!("d{at}"));
        if !part.exists() {
            return;
        }
        for entry in fs::read_dir(part).unwrap() {
            if number % step == 0 {
                let file = fs::File::open(entry.unwrap().path()).unwrap();
                std::os::unix::fs::FileExt::read_at(&file, &mut byte, 0).unwrap();
            }
            number += 1;
        }
    }
}

/// Asks every file for its access time.
fn scan(paths: &[PathBuf]) -> f64 {
    let begun = Instant::now();
    let latest = paths.iter().map(|path| fs::symlink_metadata(path).unwrap().accessed().unwrap());
    std::hint::black_box(latest.max());
    paths.len() as f64 / begun.elapsed().as_secs_f64()
}

/// Runs a command some times; milliseconds each.
fn timed(times: u32, mut command: impl FnMut() -> Command) -> Option<f64> {
    let begun = Instant::now();
    (0..times).for_each(|_| run_program(&mut command()));
    Some(begun.elapsed().as_secs_f64() * 1e3 / f64::from(times))
}

fn git_status(dir: &Path) -> Option<f64> {
    timed(20, || {
        let mut git = Command::new("git");
        git.arg("-C").arg(dir.join("small")).args(["status", "--porcelain"]);
        git
    })
}

/// Into a pipe: tar does not read what goes to /dev/null.
fn tar(dir: &Path) -> Option<f64> {
    timed(4, || {
        let mut shell = Command::new("sh");
        shell.args(["-c", "tar -cf - -C \"$1\" tree | cat >/dev/null", "sh"]).arg(dir);
        shell
    })
}

fn fio_seq(dir: &Path) -> Option<f64> {
    let mut fio = Command::new("fio");
    fio.args(["--name=seq", "--rw=read", "--bs=128k", "--readonly", "--output-format=json"]);
    fio.args(["--time_based", "--runtime=1", "--filename"]).arg(dir.join("big"));
    let output = fio.stdin(Stdio::null()).output().ok()?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let rate = report["jobs"][0]["read"]["bw_bytes"].as_f64()?;
    Some(1e3 * f64::from(1 << 30) / rate)
}

/// Places of files in an order that no read-ahead guesses.
pub fn shuffled(count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count).collect();
    let mut noise = Noise(0x2545_f491_4f6c_dd1d);
    for at in (1..count).rev() {
        places.swap(at, usize::try_from(noise.next()).unwrap() % (at + 1));
    }
    places
}
