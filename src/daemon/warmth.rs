//! How warm a tree is, out of the catalog: for `heat` and `top`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};

use tokio::sync::mpsc::Sender;

use super::files::{shown, shown_heat};
use super::known;
use super::served::Served;
use super::walks::Stop;
use crate::catalog::Met;
use crate::catalog::seen::Kind;
use crate::control::wire::{
    Band, DirectoryHeat, FileWarmth, HeatReport, HeatRequest, Problem, ProblemKind,
};
use crate::walk::Found;

/// Files are told apart by whether they were used within an hour, a day, a week, 30 days.
const BANDS: [u32; 4] = [3_600, 86_400, 7 * 86_400, 30 * 86_400];
/// Directories that are told apart at most; what is in others counts where they are.
const DIRECTORIES: usize = 4_096;
/// Files that are named at most.
const NAMED: usize = 1_000;

/// Sums up a tree, and sends its files where that is asked for.
pub(super) fn tree(
    served: &Served,
    start: &Found,
    request: &HeatRequest,
    files: &Sender<FileWarmth>,
    stop: &Stop,
) -> Result<HeatReport, Problem> {
    let open = served.inodes.open_files();
    let weighing = served.keeper.weighing();
    let mut sums = Sums::new(start, request);
    let mut counted = HashSet::new();
    let mut visit = |met: Met<'_>| {
        // A file of several names counts once.
        let is_new = met.names < 2 || counted.insert(met.seen.ino);
        if met.seen.kind != Kind::Regular || !is_new {
            return stop.flow();
        }
        let (ino, handle) = (met.seen.ino, &met.seen.handle);
        let warmth = weighing.warmth(ino, handle, met.heat, open.contains(&ino));
        let file = FileWarmth {
            path: shown(served, met.path).into(),
            size_bytes: met.seen.size_bytes,
            heat: shown_heat(&warmth),
        };
        sums.add(met.path, &file);
        if request.files { stop.send(files, file) } else { stop.flow() }
    };
    let visited = known::visit(served, start, &mut visit);
    let sight = served.tenant.heat.sight();
    let why = match visited {
        Ok(true) => {
            let probe = served.machine.watching.word(&served.tenant).to_owned();
            return Ok(sums.report(served, request, probe, sight.since.0));
        }
        Ok(false) => "it is not filled yet".to_owned(),
        Err(error) => error.to_string(),
    };
    let what = format!("{}: heat is in the catalog: {why}", request.path);
    Err(Problem::new(ProblemKind::Failed, what, "`coldfs status` shows how far it is; ask again"))
}

/// Sums of a tree.
struct Sums {
    /// Bytes of the tree's own path that stand before those below it.
    stem: usize,
    depth: usize,
    named: usize,
    total: DirectoryHeat,
    /// By path below the tenant's root.
    directories: BTreeMap<Vec<u8>, DirectoryHeat>,
    hottest: Vec<FileWarmth>,
    coldest: Vec<FileWarmth>,
}

impl Sums {
    fn new(start: &Found, request: &HeatRequest) -> Self {
        let stem = if start.path.is_empty() { 0 } else { start.path.len() + 1 };
        Self {
            stem,
            depth: usize::try_from(request.depth).unwrap_or(usize::MAX),
            named: usize::try_from(request.named).unwrap_or(NAMED).min(NAMED),
            total: empty(),
            directories: BTreeMap::new(),
            hottest: Vec::new(),
            coldest: Vec::new(),
        }
    }

    fn add(&mut self, path: &[u8], file: &FileWarmth) {
        add(&mut self.total, file);
        let directory = &path[..self.directory(path)];
        let is_full = self.directories.len() >= DIRECTORIES;
        let key = if is_full && !self.directories.contains_key(directory) {
            &path[..self.stem.saturating_sub(1).min(path.len())]
        } else {
            directory
        };
        add(self.directories.entry(key.to_vec()).or_insert_with(empty), file);
        if file.heat.score > 0.0 {
            keep(&mut self.hottest, file, self.named, hotter);
        }
        if file.heat.idle_seconds.is_some() {
            keep(&mut self.coldest, file, self.named, colder);
        }
    }

    /// Where the directory ends that a file counts in.
    fn directory(&self, path: &[u8]) -> usize {
        let below = path.get(self.stem..).unwrap_or_default();
        let slashes = below.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let end = slashes.take(self.depth).last().map(|(at, _)| self.stem + at);
        end.unwrap_or(self.stem.saturating_sub(1)).min(path.len())
    }

    fn report(
        self,
        served: &Served,
        request: &HeatRequest,
        probe: String,
        watched_since: u32,
    ) -> HeatReport {
        let named = |(path, heat): (Vec<u8>, DirectoryHeat)| DirectoryHeat {
            path: shown(served, &path).into(),
            ..heat
        };
        let mut directories: Vec<_> = self.directories.into_iter().map(named).collect();
        directories.sort_by(|a, b| b.score.total_cmp(&a.score));
        let path = request.path.clone();
        let total = DirectoryHeat { path: path.clone(), ..self.total };
        let (hottest, coldest) = (self.hottest, self.coldest);
        HeatReport { path, probe, watched_since, total, directories, hottest, coldest }
    }
}

/// Nothing in any band; behind those of proven idleness, all that are idle for longer, and those
/// of which nothing is known.
fn empty() -> DirectoryHeat {
    let band = |idle_below_seconds| Band { idle_below_seconds, ..Band::default() };
    let bands = BANDS.into_iter().map(Some).chain([None, None]);
    let bands = bands.map(band).collect();
    DirectoryHeat { path: "".into(), files: 0, bytes: 0, score: 0.0, bands }
}

fn add(sums: &mut DirectoryHeat, file: &FileWarmth) {
    sums.files += 1;
    sums.bytes += file.size_bytes;
    sums.score += f64::from(file.heat.score);
    let band = match file.heat.idle_seconds {
        Some(idle) => BANDS.iter().take_while(|below| idle >= **below).count(),
        None => BANDS.len() + 1,
    };
    sums.bands[band].files += 1;
    sums.bands[band].bytes += file.size_bytes;
}

fn hotter(a: &FileWarmth, b: &FileWarmth) -> Ordering {
    b.heat.score.total_cmp(&a.heat.score)
}

/// Idle for longest; among those the one that frees most.
fn colder(a: &FileWarmth, b: &FileWarmth) -> Ordering {
    let idle = |file: &FileWarmth| (file.heat.idle_seconds, file.size_bytes);
    idle(b).cmp(&idle(a))
}

/// Keeps the first `count` by this order.
fn keep(
    best: &mut Vec<FileWarmth>,
    file: &FileWarmth,
    count: usize,
    order: fn(&FileWarmth, &FileWarmth) -> Ordering,
) {
    let at = best.partition_point(|better| order(better, file) != Ordering::Greater);
    if at < count {
        best.truncate(count - 1);
        best.insert(at, file.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::wire::FileHeat;

    fn file(score: f32, idle: Option<u32>) -> FileWarmth {
        let heat = FileHeat {
            score,
            accesses: 1,
            last_access: None,
            evidence: "probe".to_owned(),
            known_since: 0,
            watched_since: 0,
            idle_seconds: idle,
        };
        FileWarmth { path: "/m/f".into(), size_bytes: 10, heat }
    }

    fn sums(stem: usize, depth: usize, named: usize) -> Sums {
        let (hottest, coldest) = (Vec::new(), Vec::new());
        let (total, directories) = (empty(), BTreeMap::new());
        Sums { stem, depth, named, total, directories, hottest, coldest }
    }

    #[test]
    fn a_file_counts_in_the_directory_that_is_told_apart() {
        for (stem, depth, path, directory) in [
            (0, 1, "f", ""),
            (0, 1, "a/f", "a"),
            (0, 1, "a/b/f", "a"),
            (0, 2, "a/b/f", "a/b"),
            (0, 0, "a/f", ""),
            (2, 1, "a/f", "a"),
            (2, 1, "a/b/c/f", "a/b"),
            (2, 0, "a", "a"),
        ] {
            let end = sums(stem, depth, 1).directory(path.as_bytes());
            assert_eq!(&path[..end], directory, "{path} at depth {depth} below {stem}");
        }
    }

    #[test]
    fn bands_are_of_proven_idleness_and_the_last_is_of_what_is_not_known() {
        let mut all = sums(0, 1, 2);
        for idle in [Some(0), Some(3_599), Some(3_600), Some(40 * 86_400), None] {
            all.add(b"a/f", &file(1.0, idle));
        }
        let files: Vec<u64> = all.total.bands.iter().map(|band| band.files).collect();
        assert_eq!(files, [2, 1, 0, 0, 1, 1]);
        assert_eq!(all.directories.keys().collect::<Vec<_>>(), [b"a"]);
    }

    #[test]
    fn the_first_are_kept_and_unknown_is_never_among_the_coldest() {
        let mut all = sums(0, 1, 2);
        for (score, idle) in [(1.0, Some(5)), (3.0, None), (0.0, Some(9)), (2.0, Some(7))] {
            all.add(b"f", &file(score, idle));
        }
        let scores: Vec<f32> = all.hottest.iter().map(|file| file.heat.score).collect();
        assert_eq!(scores, [3.0, 2.0]);
        let idle: Vec<_> = all.coldest.iter().map(|file| file.heat.idle_seconds).collect();
        assert_eq!(idle, [Some(9), Some(7)]);
        let mut none = sums(0, 1, 0);
        none.add(b"f", &file(1.0, Some(1)));
        assert!(none.hottest.is_empty() && none.coldest.is_empty());
    }
}
