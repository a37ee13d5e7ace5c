//! Heat beside the truth: uses that the test itself made, weighed to the microsecond, and what
//! other judges would have made of the same uses.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;

use super::harness::mount::Mount;
use super::harness::site::Site;
use super::harness::volume::FsKind;
use super::harness::{env_number, on_path, say, seed, skip};
use super::judge::{Exact, Zipf, coldest_found, rank_correlation, recalls};
use super::{drained, has_probe, mounted, no_heat_here, tenant};

const FILES_A_DIRECTORY: usize = 500;
/// Slices of the trace, and the pause after each: a short trace lasts some drains too.
const SLICES: usize = 20;
const PAUSE: Duration = Duration::from_millis(300);
/// What follows the trace, as a part of it.
const FUTURE_DIVISOR: u64 = 50;

fn name(number: usize) -> String {
    format!("d{}/f{number}", number / FILES_A_DIRECTORY)
}

/// Files of a page, without a byte on the disk.
fn plant(dir: &Path, files: usize) {
    for number in 0..files {
        if number % FILES_A_DIRECTORY == 0 {
            std::fs::create_dir(dir.join(format!("d{}", number / FILES_A_DIRECTORY))).unwrap();
        }
        File::create(dir.join(name(number))).unwrap().set_len(4_096).unwrap();
    }
}

/// Reads files by this law; what was read when.
fn replay(dir: &Path, zipf: &Zipf, accesses: u64, half_life: f64, dice: &mut StdRng) -> Vec<Exact> {
    let files = zipf_files(dir, zipf);
    let mut truth = vec![Exact::default(); files.len()];
    let begun = Instant::now();
    let mut byte = [0];
    for _ in 0..SLICES {
        for _ in 0..accesses / SLICES as u64 {
            let number = zipf.file(dice);
            File::open(&files[number]).unwrap().read_at(&mut byte, 0).unwrap();
            truth[number].used(begun.elapsed().as_secs_f64(), half_life);
        }
        std::thread::sleep(PAUSE);
    }
    truth
}

fn zipf_files(dir: &Path, zipf: &Zipf) -> Vec<PathBuf> {
    (0..zipf.len()).map(|number| dir.join(name(number))).collect()
}

/// What coldfs says of every file, by its name.
fn measured(mount: &Mount, root: &Path, files: usize) -> (Vec<f64>, Vec<u64>) {
    let args = ["heat".as_ref(), "--files".as_ref(), "--json".as_ref(), root.as_os_str()];
    let output = mount.coldfs(args);
    let by_path: HashMap<String, Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| {
            let file: Value = serde_json::from_str(line).unwrap();
            (file["path"].as_str().unwrap().to_owned(), file)
        })
        .collect();
    let of = |number| {
        let path = root.join(name(number)).display().to_string();
        by_path.get(&path).unwrap_or_else(|| panic!("{path} is not told of"))
    };
    let number = |file: &Value, fact: &str| file[fact].as_f64().unwrap();
    (0..files).map(|at| (number(of(at), "score"), number(of(at), "accesses") as u64)).unzip()
}

/// A judge's row of the table.
fn row(judge: &str, truth: &[f64], scores: &[f64], used: &[bool]) -> (f64, f64) {
    let (correlation, found) = (rank_correlation(truth, scores), coldest_found(truth, scores));
    let recalls = recalls(scores, used);
    say(&format!("| {judge} | {correlation:.4} | {found:.4} | {recalls:.0} |"));
    (correlation, found)
}

/// One run with a map of so many entries; correlation and coldest half as heat has them.
fn run(entries: usize, table: bool) -> Option<(f64, f64, Value)> {
    let files = env_number("COLDFS_HEAT_FILES", 4_000) as usize;
    let accesses = env_number("COLDFS_HEAT_ACCESSES", 60_000);
    let half_life = env_number("COLDFS_HEAT_HALF_LIFE", 20);
    if !on_path("mkfs.ext4") {
        skip("needs mkfs.ext4");
        return None;
    }
    // Nobody else reads there. An inode for each 16 KiB is what mkfs makes.
    let site = Site::on(FsKind::Ext4, 256 + files as u64 / 32);
    plant(&site.data, files);
    let config = format!("drain = 1\nentries = {entries}\nhalf_life = '{half_life}s'");
    let mount = mounted(&site, &config);
    if !has_probe(&mount) {
        return None;
    }
    let mut dice = StdRng::seed_from_u64(seed());
    let zipf = Zipf::new(files, &mut dice);
    let begun = Instant::now();
    let exact = replay(&site.data, &zipf, accesses, half_life as f64, &mut dice);
    let end = begun.elapsed().as_secs_f64();
    drained(&mount);
    let (heat, counts) = measured(&mount, &site.mnt, files);
    let status = tenant(&mount);
    let truth: Vec<f64> = exact.iter().map(|file| file.score_at(end, half_life as f64)).collect();
    let mut used = vec![false; files];
    (0..accesses / FUTURE_DIVISOR).for_each(|_| used[zipf.file(&mut dice)] = true);

    let (lost, gaps) = (&status["heat"]["lost"], &status["heat"]["gaps"]);
    say(&format!(
        "{accesses} uses of {files} files in {end:.0} s, half-life {half_life} s, {entries} entries: \
         {lost} lost, {gaps} gaps; {} files are used afterwards",
        used.iter().filter(|used| **used).count()
    ));
    say("| judge | rank correlation | coldest half found | recalls |");
    let found = row(&format!("heat, {entries} entries"), &truth, &heat, &used);
    if table {
        let by = |score: fn(&Exact) -> f64| exact.iter().map(score).collect::<Vec<_>>();
        row("the truth itself", &truth, &truth, &used);
        row("LRU of opens, atime (strict)", &truth, &by(|file| file.last), &used);
        // Moved by the first read after a write, then not for a day.
        row("atime (relatime)", &truth, &by(|file| file.first), &used);
        let made: Vec<f64> = (0..files).map(|number| number as f64).collect();
        row("mtime", &truth, &made, &used);
        row("atime (noatime)", &truth, &vec![0.0; files], &used);
    }
    if lost == 0 {
        for (number, (file, count)) in exact.iter().zip(&counts).enumerate() {
            // The first read may be told in two steps (read-ahead).
            let range = u64::from(file.uses)..=u64::from(file.uses) + 2;
            assert!(range.contains(count), "{}: {} uses, {count} seen", name(number), file.uses);
        }
    }
    mount.detach();
    Some((found.0, found.1, status["heat"].clone()))
}

#[test]
fn heat_orders_files_as_the_truth_does() {
    if no_heat_here() {
        return;
    }
    let Some((correlation, found, _)) = run(262_144, true) else { return };
    // As far as a machine under load keeps the time; `scripts/soak heat` says how far here.
    assert!(correlation > 0.95 && found > 0.9, "{correlation} {found}");
}

#[test]
fn a_map_at_a_tenth_of_the_files_is_still_some_truth() {
    if no_heat_here() {
        return;
    }
    let entries = (env_number("COLDFS_HEAT_FILES", 4_000) as usize / 10).max(64);
    let Some((correlation, _, status)) = run(entries, false) else { return };
    assert!(status["lost"] != 0 && status["gaps"] != 0, "what is lost is counted: {status}");
    // How much it knows is a matter of how often it is emptied.
    assert!(correlation > 0.2, "{correlation}");
}
