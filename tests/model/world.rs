//! Two directories that get the same operations, and the comparison after each.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::harness::facts::{Depth, Fact, Strict, Tree};
use super::harness::mount::{Mount, Start};
use super::harness::raw::{self, At};
use super::harness::site::Site;
use super::harness::{Subject, control, say, wait_for};
use super::op::{Mode, Op, PATHS};
use super::side::{Outcome, Side, Spot};

/// Where two directories stopped looking the same.
#[derive(Debug)]
pub struct Failure {
    pub step: usize,
    pub what: String,
}

/// Timestamps are as fine as a tick where nobody asked for the last one (multigrain): the
/// kernel answers `stat` on a FUSE mount from its cache, so the file below was not asked.
const TICK_NS: i128 = 20_000_000;
/// Data that may have no blocks yet: delayed allocation of a last block.
const LITTLE: u64 = 4_096;
/// How long a mapping's times and allocation may take to show (attribute timeout while a
/// file is open for writing: 1 s).
const SETTLE: Duration = Duration::from_millis(2_500);
/// A file may be archived this long after its last change.
const QUIET_MS: u64 = 20;
/// Every so many tier verbs one goes by the command line, the others by the socket.
const CLI_EVERY: usize = 16;

/// Where it is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Elsewhere,
    OverItself,
}

/// Runs a list on fresh directories.
pub fn run(ops: &[Op], place: Place, verbose: bool) -> Result<(), Failure> {
    let site = Site::new();
    let site = match place {
        Place::Elsewhere => site,
        Place::OverItself => site.over_itself(),
    };
    let mut world = World::new(&site, verbose);
    let result = ops
        .iter()
        .enumerate()
        .try_for_each(|(step, op)| {
            world.step(step, op).map_err(|what| Failure { step, what: format!("{op}: {what}") })
        })
        .and_then(|()| {
            let last = Op::CompareAll { content: u32::MAX };
            world.step(ops.len(), &last).map_err(|what| Failure { step: ops.len(), what })
        });
    if verbose {
        world.report(result.as_ref().err().map_or(ops.len(), |failure| failure.step));
        let long = result.is_ok() && ops.len() >= 20_000 && Subject::from_env().is_coldfs();
        assert!(!long || world.released_seen > 0, "nothing was ever released: no test");
    }
    world.end();
    result
}

struct World<'site> {
    site: &'site Site,
    mount: Option<Mount>,
    mounted: Side,
    plain: Side,
    /// Files (of the plain side) whose holes depend on what was cached: `fallocate`.
    soft: HashSet<u64>,
    /// Files (of the mounted side) written by a mapping whose descriptor was closed before: the
    /// last close that the daemon hears of may be earlier than the last write.
    mapped: HashSet<u64>,
    started: Instant,
    settled: u32,
    tiered: usize,
    released_seen: u64,
    verbose: bool,
}

fn start() -> Start {
    Start { quiet_ms: QUIET_MS, ..Start::default() }
}

impl<'site> World<'site> {
    fn new(site: &'site Site, verbose: bool) -> Self {
        Self {
            mount: Some(site.start(&start())),
            mounted: Side::new(&site.mnt),
            plain: Side::new(&site.plain),
            site,
            soft: HashSet::new(),
            mapped: HashSet::new(),
            started: Instant::now(),
            settled: 0,
            tiered: 0,
            released_seen: 0,
            verbose,
        }
    }

    fn mount(&self) -> &Mount {
        self.mount.as_ref().expect("mounted between steps")
    }

    fn report(&self, steps: usize) {
        say(&format!(
            "{steps} operations in {:.0?}: {} tier verbs, {} released files seen, {} settled",
            self.started.elapsed(),
            self.tiered,
            self.released_seen,
            self.settled
        ));
    }

    fn end(mut self) {
        self.close_all();
        if let Some(mount) = self.mount.take() {
            if mount.hung() || std::thread::panicking() {
                drop(mount);
            } else {
                mount.detach();
            }
        }
    }

    fn close_all(&mut self) {
        self.mounted.close_all();
        self.plain.close_all();
    }

    fn step(&mut self, step: usize, op: &Op) -> Result<(), String> {
        self.mount().beat();
        if self.verbose && step > 0 && step.is_multiple_of(5_000) {
            self.report(step);
        }
        match op {
            Op::CompareAll { content } => self.compare_all(*content),
            Op::Remount => self.remount(),
            Op::Tier { verb, path } => {
                let path = self.mounted.root.join(PATHS[usize::from(*path)]);
                self.tier(verb.word(), &path, false)
            }
            Op::TierAll { verb } => {
                let root = self.mounted.root.clone();
                self.tier(verb.word(), &root, true)
            }
            Op::CancelAll { verb, after_us } => self.cancel_all(verb.word(), *after_us),
            Op::Pin { path, pinned } => {
                self.pin(&self.mounted.root.join(PATHS[usize::from(*path)]), *pinned)
            }
            _ => self.both(op),
        }
    }

    /// Runs an operation of an application on both sides and compares what it touched.
    fn both(&mut self, op: &Op) -> Result<(), String> {
        if let Op::Open { slot, .. } = op {
            // What it held is closed first: else the two sides could differ in how long.
            self.mounted.close(*slot);
            self.plain.close(*slot);
        }
        let mut spots = touched(op);
        // Handles on a file that is named, or that another handle is used of, see all of it too.
        let seen = self.plain.look(&spots)?;
        let inos: Vec<u64> = seen.iter().flatten().map(|fact| fact.ino).collect();
        for slot in self.plain.slots_of(&inos) {
            if !spots.contains(&Spot::Slot(slot)) {
                spots.push(Spot::Slot(slot));
            }
        }
        self.settle_closed(&spots);
        let start_ns = now_ns();
        let before = [self.mounted.look(&spots)?, self.plain.look(&spots)?];
        self.note_soft(op);
        let ours = self.mounted.apply(op);
        let theirs = self.plain.apply(op);
        let alike = match op {
            // What a soft file's handle says of holes is its own; that it answers is not.
            Op::HandleMap { slot } if self.is_soft_handle(*slot) => ours.is_ok() == theirs.is_ok(),
            _ => ours == theirs,
        };
        if !alike {
            return Err(format!("{} on the mount, {} beside it", show(&ours), show(&theirs)));
        }
        let gives_mtime = matches!(op, Op::SetMtime { .. } | Op::HandleSetMtime { .. });
        let mut lines = Vec::new();
        let check = |lines: &mut Vec<String>| -> Result<(), String> {
            lines.clear();
            let after = [self.mounted.look(&spots)?, self.plain.look(&spots)?];
            for (index, spot) in spots.iter().enumerate() {
                let now = [after[0][index].as_ref(), after[1][index].as_ref()];
                let then = [before[0][index].as_ref(), before[1][index].as_ref()];
                lines.extend(
                    compare(now, then, start_ns, gives_mtime)
                        .into_iter()
                        // The root holds `.coldfs` below, and its link count says so.
                        .filter(|line| *spot != Spot::Path(".") || !line.starts_with("nlink"))
                        .filter(|line| !(line.starts_with("blocks: ") && self.set_aside(now[1])))
                        .map(|line| format!("{spot}: {line}")),
                );
            }
            Ok(())
        };
        check(&mut lines)?;
        if !lines.is_empty() && lines.iter().all(|line| may_settle(line)) {
            let settled = wait_for(SETTLE, || match check(&mut lines) {
                Ok(()) if lines.is_empty() => Some(Ok(())),
                Ok(()) => None,
                Err(what) => Some(Err(what)),
            });
            if let Some(Err(what)) = settled {
                return Err(what);
            }
            self.settled += 1;
        }
        if lines.is_empty() { Ok(()) } else { Err(lines.join("; ")) }
    }

    /// The record of a file that was archived, then written, goes at its last close, which the
    /// kernel tells later, and that moves the ctime (SEMANTICS.md): waits until it has.
    fn settle_closed(&mut self, spots: &[Spot]) {
        let written = self.mounted.written();
        for spot in spots {
            let path = match *spot {
                Spot::Path(path) => self.mounted.root.join(path),
                Spot::Slot(slot) => match self.mounted.handle(slot) {
                    Some(file) => format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
                    None => continue,
                },
            };
            let at = match *spot {
                Spot::Path(_) => At::Path(&path),
                Spot::Slot(slot) => At::Open(self.mounted.handle(slot).expect("open")),
            };
            if let Ok(meta) = at.metadata()
                && self.mapped.remove(&meta.ino())
                && meta.is_file()
            {
                // After a mapping it is the next writer's open (SEMANTICS.md).
                File::options().read(true).write(true).open(&path).ok();
            }
            wait_for(SETTLE, || {
                let meta = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file);
                let waits = meta.is_some_and(|meta| {
                    !written.contains(&meta.ino()) && self.mount().state(at) == "suspect"
                });
                (!waits).then_some(())
            });
            // The kernel is told a moment after, also of what a mapping did.
            raw::stat_anew(&path).ok();
        }
    }

    /// Runs a tier verb: nothing that an application sees may move.
    fn tier(&mut self, verb: &str, path: &Path, all: bool) -> Result<(), String> {
        let before = self.at_rest()?;
        self.tiered += 1;
        if self.tiered.is_multiple_of(CLI_EVERY) {
            let recursive = all.then_some("-r".as_ref());
            let arguments = [verb.as_ref(), path.as_os_str()].into_iter().chain(recursive);
            let output = self.mount().coldfs(arguments);
            // 1: it was busy; 2: there is no such file.
            if !matches!(output.status.code(), Some(0..=2)) {
                return Err(format!(
                    "coldfs {verb}: {}: {}",
                    output.status,
                    String::from_utf8_lossy(&output.stderr)
                ));
            }
        } else {
            self.mount().quick(verb, path, all);
        }
        let after = self.tree(&self.mounted.root, 0)?;
        self.count_released(&after);
        self.unmoved(&before, &after, verb)
    }

    /// Runs a tier verb on everything, and stops it on its way.
    fn cancel_all(&mut self, verb: &str, after_us: u16) -> Result<(), String> {
        let before = self.at_rest()?;
        let root = &self.mounted.root;
        std::thread::scope(|scope| {
            scope.spawn(|| self.mount().quick(verb, root, true));
            std::thread::sleep(Duration::from_micros(after_us.into()));
            self.post("/v1/cancel", &serde_json::json!({ "paths": [root] }));
        });
        let after = self.tree(root, 0)?;
        self.count_released(&after);
        self.unmoved(&before, &after, &format!("a cancelled {verb}"))
    }

    /// Pins, or takes a pin off: an attribute that no application sees, but for its ctime.
    fn pin(&mut self, path: &Path, pinned: bool) -> Result<(), String> {
        if path.is_symlink() {
            return Ok(());
        }
        let before = self.at_rest()?;
        let request = serde_json::json!({ "paths": [path], "recursive": false, "pinned": pinned });
        self.post("/v1/pin", &request);
        raw::stat_anew(path).ok();
        let mut after = self.tree(&self.mounted.root, 0)?;
        for (path, fact) in &mut after.0 {
            if let Some(before) = before.0.get(path) {
                fact.ctime_ns = before.ctime_ns;
            }
        }
        self.unmoved(&before, &after, "a pin")
    }

    fn post(&self, route: &str, body: &serde_json::Value) {
        if self.mount().pid() != 0 {
            control::post(&self.mount().socket(), route, body);
        }
    }

    /// The mounted tree, once the daemon has heard of every close.
    fn at_rest(&mut self) -> Result<Tree, String> {
        self.settle_closed(&PATHS.map(Spot::Path));
        self.tree(&self.mounted.root, 0)
    }

    fn is_soft_handle(&self, slot: u8) -> bool {
        let file = self.plain.handle(slot);
        file.is_some_and(|file| self.soft.contains(&file.metadata().expect("fstat").ino()))
    }

    fn count_released(&mut self, tree: &Tree) {
        if self.mount().pid() == 0 {
            return;
        }
        for (path, _) in tree.files() {
            if self.mount().state(&self.mounted.root.join(path)) == "released" {
                self.released_seen += 1;
            }
        }
    }

    fn unmoved(&self, before: &Tree, after: &Tree, what: &str) -> Result<(), String> {
        let lines: Vec<String> = before
            .differences(after, Strict::SameFile)
            .into_iter()
            // Allocation of what was still in memory; P1's test asks for equality after a sync.
            .filter(|line| !line.contains(": blocks: ") || !self.blocks_alike(line))
            .collect();
        if lines.is_empty() {
            return Ok(());
        }
        Err(format!("{what} moved what applications see: {}", lines.join("; ")))
    }

    fn blocks_alike(&self, line: &str) -> bool {
        const SLACK: u64 = 16;
        let numbers: Vec<u64> = line
            .rsplit(": ")
            .next()
            .into_iter()
            .flat_map(|text| text.split(" != "))
            .filter_map(|number| number.parse().ok())
            .collect();
        let loose = std::env::var_os("COLDFS_TEST_FS").is_some();
        numbers.len() == 2 && (loose || numbers[0].abs_diff(numbers[1]) <= SLACK)
    }

    fn remount(&mut self) -> Result<(), String> {
        self.close_all();
        let before = self.at_rest()?;
        if let Some(mount) = self.mount.take() {
            mount.detach();
        }
        self.mount = Some(self.site.start(&start()));
        let after = self.tree(&self.mounted.root, 0)?;
        self.unmoved(&before, &after, "detaching and mounting")
    }

    /// `content` has a bit for each of the 32 classes of paths whose bytes are read: reading
    /// recalls, and what is never read must stay right too.
    fn compare_all(&mut self, content: u32) -> Result<(), String> {
        let ours = self.tree(&self.mounted.root, content)?;
        let theirs = self.tree(&self.plain.root, content)?;
        let lines: Vec<String> = ours
            .differences(&theirs, Strict::OtherTree)
            .into_iter()
            .filter(|line| !(line.contains(": data map: ") && self.is_soft(line, &theirs)))
            .filter(|line| !(line.contains(": blocks: ") && self.is_soft(line, &theirs)))
            .chain(self.without_room(&ours))
            .collect();
        if lines.is_empty() { Ok(()) } else { Err(lines.join("; ")) }
    }

    /// Blocks set aside by `fallocate` and never written do not come back with a recall
    /// (SEMANTICS.md), so how many such a file has depends on its past.
    fn set_aside(&self, plain: Option<&Fact>) -> bool {
        plain.is_some_and(|fact| self.soft.contains(&fact.ino))
    }

    /// Files that claim fewer blocks than their data takes; each of them, set aside or not.
    fn without_room(&self, ours: &Tree) -> Vec<String> {
        ours.files()
            .filter_map(|(path, fact)| {
                let data: u64 = fact.data_map.as_ref()?.iter().map(|(from, to)| to - from).sum();
                (fact.blocks * 512 + LITTLE < data).then(|| {
                    format!("{}: {} blocks for {data} bytes of data", path.display(), fact.blocks)
                })
            })
            .collect()
    }

    fn is_soft(&self, line: &str, theirs: &Tree) -> bool {
        theirs.files().any(|(path, fact)| {
            self.soft.contains(&fact.ino)
                && line.starts_with(&format!(
                    "{}: ",
                    path.as_os_str().as_encoded_bytes().escape_ascii()
                ))
        })
    }

    fn tree(&self, root: &Path, content: u32) -> Result<Tree, String> {
        let depth = |path: &Path| {
            let class =
                path.as_os_str().as_encoded_bytes().iter().map(|b| u32::from(*b)).sum::<u32>();
            if content >> (class % 32) & 1 == 1 { Depth::Content } else { Depth::Stat }
        };
        Tree::with(root, &depth).map_err(|error| error.to_string())
    }

    /// Remembers files whose data map tells what is cached rather than what was written: a page
    /// written through a mapping gets blocks for the whole folio it is in.
    fn note_soft(&mut self, op: &Op) {
        if let Op::MmapWrite { path, .. } = op
            && let Ok(meta) = std::fs::metadata(self.mounted.root.join(PATHS[usize::from(*path)]))
        {
            self.mapped.insert(meta.ino());
        }
        let (path, soft) = match op {
            Op::Fallocate { path, .. } | Op::MmapWrite { path, .. } => (path, true),
            Op::CopyRange { to, .. } => (to, true),
            Op::Truncate { path, len: 0 }
            | Op::Write { path, mode: Mode::Truncate, .. }
            | Op::Open { path, mode: Mode::Truncate, .. } => (path, false),
            _ => return,
        };
        if let Ok(meta) = std::fs::metadata(self.plain.root.join(PATHS[usize::from(*path)])) {
            if soft {
                self.soft.insert(meta.ino());
            } else {
                self.soft.remove(&meta.ino());
            }
        }
    }
}

/// What an operation may change, and the directories that hold it.
fn touched(op: &Op) -> Vec<Spot> {
    let names = match op {
        Op::Rename { from, to, .. } | Op::Link { from, to } | Op::CopyRange { from, to, .. } => {
            vec![*from, *to]
        }
        Op::Create { path, .. }
        | Op::Write { path, .. }
        | Op::Read { path, .. }
        | Op::Truncate { path, .. }
        | Op::Unlink { path }
        | Op::Mkdir { path }
        | Op::Rmdir { path }
        | Op::Symlink { path, .. }
        | Op::Mkfifo { path }
        | Op::Chmod { path, .. }
        | Op::Chown { path, .. }
        | Op::SetMtime { path, .. }
        | Op::SetXattr { path, .. }
        | Op::RemoveXattr { path, .. }
        | Op::SetAcl { path, .. }
        | Op::RemoveAcl { path, .. }
        | Op::Fallocate { path, .. }
        | Op::MmapWrite { path, .. }
        | Op::Fsync { path, .. }
        | Op::List { path }
        | Op::Open { path, .. } => vec![*path],
        Op::HandleRead { slot, .. }
        | Op::HandleWrite { slot, .. }
        | Op::HandleTruncate { slot, .. }
        | Op::HandleSync { slot }
        | Op::HandleSetMtime { slot, .. }
        | Op::HandleMap { slot }
        | Op::Flock { slot, .. }
        | Op::LockRange { slot, .. } => return vec![Spot::Slot(*slot)],
        Op::Close { .. }
        | Op::Tier { .. }
        | Op::TierAll { .. }
        | Op::CancelAll { .. }
        | Op::Pin { .. }
        | Op::Remount
        | Op::CompareAll { .. } => vec![],
    };
    let mut spots = Vec::new();
    for name in names {
        let path = PATHS[usize::from(name)];
        let parent = path.rsplit_once('/').map_or(".", |(parent, _)| parent);
        for spot in [path, parent].map(Spot::Path) {
            if !spots.contains(&spot) {
                spots.push(spot);
            }
        }
    }
    spots
}

/// What differs between the sides now, and in how their times moved since then.
fn compare(
    now: [Option<&Fact>; 2],
    then: [Option<&Fact>; 2],
    start_ns: i128,
    mtime_given: bool,
) -> Vec<String> {
    let (ours, theirs) = match now {
        [Some(ours), Some(theirs)] => (ours, theirs),
        [None, None] => return vec![],
        [Some(_), None] => return vec!["only on the mount".into()],
        [None, Some(_)] => return vec!["only beside the mount".into()],
    };
    let mut lines = ours.differences(theirs, Strict::OtherTree);
    if let [Some(ours_then), Some(theirs_then)] = then
        && ours_then.ino == ours.ino
        && theirs_then.ino == theirs.ino
    {
        let moved = |then: i128, now: i128| (then != now, now >= start_ns - TICK_NS);
        let mtime = |then: &Fact, now: &Fact| moved(then.mtime_ns, now.mtime_ns);
        let ctime = |then: &Fact, now: &Fact| moved(then.ctime_ns, now.ctime_ns);
        lines.extend(unlike("mtime", mtime(ours_then, ours), mtime(theirs_then, theirs)));
        lines.extend(unlike("ctime", ctime(ours_then, ours), ctime(theirs_then, theirs)));
    }
    if mtime_given && ours.mtime_ns != theirs.mtime_ns {
        let now = |fact: &Fact| {
            fact.mtime_ns >= start_ns - 60_000_000_000 && fact.mtime_ns < start_ns + 60_000_000_000
        };
        if !(now(ours) && now(theirs)) {
            lines.push(format!("mtime: {} != {}", ours.mtime_ns, theirs.mtime_ns));
        }
    }
    lines
}

/// Whether a time moved on one side only. One that is as young as the step counts as moved.
fn unlike(name: &str, ours: (bool, bool), theirs: (bool, bool)) -> Option<String> {
    let (our_move, ours_young) = ours;
    let (their_move, theirs_young) = theirs;
    if our_move == their_move || (our_move && theirs_young) || (their_move && ours_young) {
        return None;
    }
    let side = if our_move { "on the mount" } else { "beside it" };
    Some(format!("{name}: moved {side} only"))
}

/// Whether a difference may go away by itself: times of a mapping, delayed allocation.
fn may_settle(line: &str) -> bool {
    ["mtime: ", "ctime: ", "blocks: "].iter().any(|fact| line.contains(fact))
}

fn now_ns() -> i128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as i128
}

fn show(outcome: &Outcome) -> String {
    match outcome {
        Ok(bytes) if bytes.len() <= 8 => format!("{bytes:?}"),
        Ok(bytes) => {
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            format!(
                "{} bytes (blake3 {}, begins {:02x?}, {zeros} leading zeros)",
                bytes.len(),
                &blake3::hash(bytes).to_hex()[..12],
                &bytes[..8]
            )
        }
        Err(errno) => nix::errno::Errno::from_raw(*errno).to_string(),
    }
}
