//! `bench hot`: what a mount costs on files that are local.

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::Options;
use super::files::{self, Noise, Scale, run as run_program};
use super::pair::{Better, Measured, alternate};
use super::subject::Subject;

/// One row: how a figure is taken in one subject's directory.
struct Metric {
    name: &'static str,
    unit: &'static str,
    better: Better,
    /// Bound on the ratio to `native`.
    aim: f64,
    /// None: this subject cannot do it.
    take: fn(&Path, &Scale) -> Option<f64>,
}

const fn rate(
    name: &'static str,
    unit: &'static str,
    aim: f64,
    take: fn(&Path, &Scale) -> Option<f64>,
) -> Metric {
    Metric { name, unit, better: Better::Higher, aim, take }
}

const fn time(
    name: &'static str,
    unit: &'static str,
    aim: f64,
    take: fn(&Path, &Scale) -> Option<f64>,
) -> Metric {
    Metric { name, unit, better: Better::Lower, aim, take }
}

const METRICS: [Metric; 16] = [
    rate("seq_read_1m", "MB/s", 0.98, seq_read),
    rate("rand_read_4k", "op/s", 0.9, rand_read),
    rate("odirect_read_4k", "op/s", 0.98, odirect_read),
    rate("mmap_read", "MB/s", 0.98, mmap_read),
    rate("seq_write_1m", "MB/s", 0.98, seq_write),
    rate("rand_write_4k", "op/s", 0.9, rand_write),
    time("create", "us/file", 1.5, create),
    time("unlink", "us/file", 3.0, unlink),
    time("open_read_close", "us/file", 4.0, open_read_close),
    time("stat", "us/file", 1.2, stat),
    time("find", "ms", 1.1, |dir, _| {
        program(Command::new("find").arg(dir.join("tree")).args(["-type", "f"]))
    }),
    time("du", "ms", 1.1, |dir, _| program(Command::new("du").arg("-s").arg(dir.join("tree")))),
    time("ls_lr", "ms", 5.5, |dir, _| program(Command::new("ls").arg("-lR").arg(dir.join("tree")))),
    time("git_status", "ms", 1.5, |dir, _| {
        program(
            Command::new("git").arg("-C").arg(dir.join("small")).args(["status", "--porcelain"]),
        )
    }),
    time("tar_x", "ms", 1.8, tar_x),
    time("cargo_build", "ms", 1.03, cargo_build),
];

/// What is mostly the way to a daemon and back: where `null`, which does nothing else, is measured.
const ROUND_TRIPS: [&str; 5] = ["create", "unlink", "open_read_close", "ls_lr", "tar_x"];

/// After the mount was last used, before its daemon's memory is read.
const IDLE: Duration = Duration::from_secs(2);

pub fn run(options: &Options) {
    let scale = if options.quick { Scale::QUICK } else { Scale::FULL };
    for only in &options.only {
        assert!(METRICS.iter().any(|metric| metric.name == only), "no metric is called {only}");
    }
    let work = tempfile::Builder::new().prefix("coldfs-bench-").tempdir_in(&options.dir).unwrap();
    let peers = Subject::PEERS.into_iter();
    let peers = peers
        .filter(|peer| options.peers.is_empty() || options.peers.iter().any(|name| name == peer));
    let subjects: Vec<Subject> = ["coldfs"]
        .into_iter()
        .chain(peers)
        .filter_map(|name| {
            files::fill(&work.path().join(name), &scale);
            Subject::start(name, work.path())
        })
        .collect();
    if let Some(idle) = {
        std::thread::sleep(IDLE);
        subjects[0].resident_mib()
    } {
        eprintln!("bench: the idle daemon's resident memory is {idle:.1} MiB");
    }
    for metric in METRICS.iter().filter(|metric| options.wants(metric.name)) {
        let series = alternate(subjects.len(), options.rounds(), |subject| {
            let Subject { name, dir, .. } = &subjects[subject];
            let can = *name != "null" || ROUND_TRIPS.contains(&metric.name);
            can.then(|| (metric.take)(dir, &scale)).flatten()
        });
        let names = subjects.iter().map(|subject| subject.name.to_owned());
        let measured = Measured {
            bench: "hot",
            metric: metric.name,
            unit: metric.unit,
            better: metric.better,
            series: names.zip(series).collect(),
        };
        if options.json {
            measured.print_json();
        } else {
            measured.print_row(Some(metric.aim));
        }
    }
}

const BLOCK: usize = 4096;

fn per_second(count: usize, begun: Instant) -> Option<f64> {
    Some(count as f64 / begun.elapsed().as_secs_f64())
}

fn megabytes_per_second(bytes: usize, begun: Instant) -> Option<f64> {
    Some(bytes as f64 / 1e6 / begun.elapsed().as_secs_f64())
}

fn microseconds_each(count: usize, begun: Instant) -> Option<f64> {
    Some(begun.elapsed().as_secs_f64() * 1e6 / count as f64)
}

fn program(command: &mut Command) -> Option<f64> {
    let begun = Instant::now();
    run_program(command);
    Some(begun.elapsed().as_secs_f64() * 1e3)
}

/// Offsets of whole blocks, the same for every subject.
fn offsets(bytes: usize, count: usize) -> impl Iterator<Item = u64> {
    let blocks = (bytes / BLOCK) as u64;
    let mut noise = Noise(0x2545_f491_4f6c_dd1d);
    (0..count).map(move |_| noise.next() % blocks * BLOCK as u64)
}

fn seq_read(dir: &Path, scale: &Scale) -> Option<f64> {
    let file = File::open(dir.join("big")).unwrap();
    let mut buffer = vec![0; 1 << 20];
    let begun = Instant::now();
    for offset in (0..scale.big_bytes).step_by(1 << 20) {
        file.read_exact_at(&mut buffer, offset as u64).unwrap();
    }
    megabytes_per_second(scale.big_bytes, begun)
}

fn rand_read(dir: &Path, scale: &Scale) -> Option<f64> {
    let file = File::open(dir.join("big")).unwrap();
    let mut buffer = [0; BLOCK];
    let begun = Instant::now();
    for offset in offsets(scale.big_bytes, scale.cached_requests) {
        file.read_exact_at(&mut buffer, offset).unwrap();
    }
    per_second(scale.cached_requests, begun)
}

fn odirect_read(dir: &Path, scale: &Scale) -> Option<f64> {
    let file =
        OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(dir.join("big")).ok()?;
    let mut room = vec![0; 2 * BLOCK];
    let start = room.as_ptr().align_offset(BLOCK);
    let buffer = &mut room[start..start + BLOCK];
    let begun = Instant::now();
    for offset in offsets(scale.big_bytes, scale.direct_requests) {
        file.read_exact_at(buffer, offset).ok()?;
    }
    per_second(scale.direct_requests, begun)
}

#[allow(unsafe_code, reason = "there is no mapping without it")]
fn mmap_read(dir: &Path, scale: &Scale) -> Option<f64> {
    let file = File::open(dir.join("big")).unwrap();
    let begun = Instant::now();
    // SAFETY: a fresh private mapping of a file that nobody changes, dropped below.
    let bytes = unsafe {
        let flags = libc::MAP_SHARED;
        let at = libc::mmap(
            std::ptr::null_mut(),
            scale.big_bytes,
            libc::PROT_READ,
            flags,
            file.as_raw_fd(),
            0,
        );
        assert_ne!(at, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        std::slice::from_raw_parts(at.cast::<u8>(), scale.big_bytes)
    };
    let sum = bytes.iter().step_by(64).fold(0u64, |sum, byte| sum.wrapping_add(u64::from(*byte)));
    black_box(sum);
    let rate = megabytes_per_second(scale.big_bytes, begun);
    // SAFETY: `bytes` is that mapping, and is not used any more.
    unsafe { libc::munmap(bytes.as_ptr().cast_mut().cast(), scale.big_bytes) };
    rate
}

fn writable(dir: &Path) -> File {
    OpenOptions::new().write(true).open(dir.join("big")).unwrap()
}

/// Overwrites what is cached; what reaches the disk meanwhile is the kernel's affair, so the
/// last round's dirty pages are written out before.
fn seq_write(dir: &Path, scale: &Scale) -> Option<f64> {
    let file = writable(dir);
    let buffer = vec![0x5a; 1 << 20];
    file.sync_data().unwrap();
    let begun = Instant::now();
    for offset in (0..scale.big_bytes / 2).step_by(1 << 20) {
        file.write_all_at(&buffer, offset as u64).unwrap();
    }
    megabytes_per_second(scale.big_bytes / 2, begun)
}

fn rand_write(dir: &Path, scale: &Scale) -> Option<f64> {
    let file = writable(dir);
    let buffer = [0xa5; BLOCK];
    file.sync_data().unwrap();
    let count = scale.cached_requests / 4;
    let begun = Instant::now();
    for offset in offsets(scale.big_bytes / 2, count) {
        file.write_all_at(&buffer, offset).unwrap();
    }
    per_second(count, begun)
}

/// A new directory, and the names to be made in it.
fn fresh(dir: &Path, files: usize) -> (PathBuf, Vec<PathBuf>) {
    let new = dir.join("new");
    fs::create_dir(&new).unwrap();
    let names = (0..files).map(|number| new.join(format!("file-{number}"))).collect();
    (new, names)
}

fn create(dir: &Path, scale: &Scale) -> Option<f64> {
    let (new, names) = fresh(dir, scale.small_files);
    let begun = Instant::now();
    for name in &names {
        drop(File::create(name).unwrap());
    }
    let each = microseconds_each(names.len(), begun);
    fs::remove_dir_all(new).unwrap();
    each
}

fn unlink(dir: &Path, scale: &Scale) -> Option<f64> {
    let (new, names) = fresh(dir, scale.small_files);
    for name in &names {
        drop(File::create(name).unwrap());
    }
    let begun = Instant::now();
    for name in &names {
        fs::remove_file(name).unwrap();
    }
    let each = microseconds_each(names.len(), begun);
    fs::remove_dir(new).unwrap();
    each
}

fn open_read_close(dir: &Path, scale: &Scale) -> Option<f64> {
    let names = files::paths(&dir.join("tree"), scale.small_files);
    let mut buffer = [0; BLOCK];
    let begun = Instant::now();
    for name in &names {
        File::open(name).unwrap().read_exact_at(&mut buffer, 0).unwrap();
    }
    microseconds_each(names.len(), begun)
}

fn stat(dir: &Path, scale: &Scale) -> Option<f64> {
    let names = files::paths(&dir.join("tree"), scale.tree_files);
    let begun = Instant::now();
    for name in &names {
        black_box(fs::symlink_metadata(name).unwrap());
    }
    microseconds_each(names.len(), begun)
}

fn tar_x(dir: &Path, _: &Scale) -> Option<f64> {
    let (new, _) = fresh(dir, 0);
    let took =
        program(Command::new("tar").arg("-xf").arg(dir.join("small.tar")).arg("-C").arg(&new));
    fs::remove_dir_all(new).unwrap();
    took
}

fn cargo_build(dir: &Path, _: &Scale) -> Option<f64> {
    cargo_build_in(dir)
}

/// Builds the small crate anew.
pub fn cargo_build_in(dir: &Path) -> Option<f64> {
    let home = dir.join("crate");
    let target = home.join("target");
    if target.exists() {
        fs::remove_dir_all(&target).unwrap();
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // Not the settings of the bench's own build.
    command.env_remove("CARGO_TARGET_DIR").env("CARGO_INCREMENTAL", "0");
    program(command.args(["build", "--offline", "--quiet"]).current_dir(home))
}
