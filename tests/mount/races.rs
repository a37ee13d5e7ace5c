//! Readers, writers, mappings, pipes, raw openers, programs and renames against migrations
//! of the same files, for `COLDFS_RACE_SECONDS`. Every block that is read says which version
//! it is: at least the last one whose write was answered before the read began, at most the
//! last one begun when it ended.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coldfs::file_id::SegmentId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::bad_input::RECORD;
use super::harness::mount::{Mount, Start};
use super::harness::pattern::{BLOCK, Block, Looks, looks};
use super::harness::site::Site;
use super::harness::versions::Versions;
use super::harness::{Subject, can_mount, copy_program, env_number, raw, run_within, say, seed};

const SECONDS: u64 = 20;
/// Moves between two looks for segments that nobody needs.
const MOVES_A_LOOK: u64 = 100;
/// What a move of one file takes with a disk: store, about, milliseconds.
const MOVE_MILLIS: u128 = 100;
/// Recalled in open(), whole, and by chunks; and one that is written below the mount.
const BLOCKS: [u32; 4] = [6, 900, 5_200, 12];
/// Of these the last.
const RAW: usize = 3;
/// What is done behind the mount is seen within this long (SEMANTICS.md).
const SEEN_WITHIN: Duration = Duration::from_secs(5);

struct Race {
    data: PathBuf,
    mnt: PathBuf,
    files: Vec<(PathBuf, Versions)>,
    /// One writer at a time a file: whole writes, or block versions would cross.
    pens: Vec<Mutex<()>>,
    over: AtomicBool,
    rounds: AtomicU64,
    /// Rounds of whoever writes below the mount that met a pointer, and that met bytes.
    met_below: [AtomicU64; 2],
    wrong: Mutex<Vec<String>>,
}

impl Race {
    fn fail(&self, who: &str, what: String) {
        self.over.store(true, Ordering::SeqCst);
        self.wrong.lock().unwrap().push(format!("{who}: {what}"));
    }

    fn pick(&self, rng: &mut StdRng) -> usize {
        // Small files turn over faster.
        [0, 0, 0, 1, 1, 2][rng.random_range(0..6)]
    }
}

/// One participant's round.
type Round = fn(&Race, &mut StdRng) -> Result<(), String>;

#[test]
fn reader_and_writer_win_over_migration_whoever_else_is_there() {
    if !can_mount() {
        return;
    }
    let site = Site::new();
    let files: Vec<(PathBuf, Versions)> = BLOCKS
        .iter()
        .enumerate()
        .map(|(index, blocks)| {
            (PathBuf::from(format!("file-{index}")), Versions::new(index as u32, *blocks))
        })
        .collect();
    for (path, versions) in &files {
        versions.create(&site.data.join(path));
    }
    let race = Race {
        data: site.data.clone(),
        mnt: site.mnt.clone(),
        pens: files.iter().map(|_| Mutex::new(())).collect(),
        files,
        over: AtomicBool::new(false),
        rounds: AtomicU64::new(0),
        met_below: [const { AtomicU64::new(0) }; 2],
        wrong: Mutex::new(Vec::new()),
    };
    copy_program("/bin/true", &site.data.join("program"));
    std::fs::write(site.data.join("here"), Block::file(90, 20, 1)).unwrap();
    std::fs::write(site.data.join("log"), b"").unwrap();
    std::fs::write(site.data.join("replaced"), Block::file(91, 20, 1)).unwrap();
    let mount = site.start(&Start { quiet_ms: 20, ..Start::default() });
    let pace = pace(&mount, &site.mnt.join("here"));
    let participants: Vec<(&str, Round)> = vec![
        ("reader", read_blocks),
        ("reader of all", read_all),
        ("writer", write_blocks),
        ("mapper", map_blocks),
        ("pipe", hold_pages),
        ("raw opener", open_raw),
        ("writer below", write_raw),
        ("exec", execute),
        ("rename", rename_and_read),
        ("appender", append),
        ("replacer", replace),
    ];
    let limit = Duration::from_secs(env_number("COLDFS_RACE_SECONDS", SECONDS));
    let seed = seed();
    let mut moves = 0;
    let mut released = 0;
    std::thread::scope(|scope| {
        for (index, (name, round)) in participants.iter().enumerate() {
            let race = &race;
            let mut rng = StdRng::seed_from_u64(seed ^ index as u64);
            scope.spawn(move || {
                while !race.over.load(Ordering::SeqCst) {
                    match round(race, &mut rng) {
                        Ok(()) => race.rounds.fetch_add(1, Ordering::Relaxed),
                        Err(what) => return race.fail(name, what),
                    };
                    // Writers leave gaps in which a file is quiet enough to go.
                    let longest = if name.contains("writer") { 40 } else { 6 };
                    let pause = Duration::from_millis(rng.random_range(0..longest));
                    std::thread::sleep(pause * pace);
                }
            });
        }
        let begun = Instant::now();
        let mut rng = StdRng::seed_from_u64(seed ^ 99);
        let mut dead = Dead::default();
        // On a busy machine it takes longer until a file is quiet for long enough once.
        let longest = 4 * limit;
        while (begun.elapsed() < limit || (released == 0 && begun.elapsed() < longest))
            && !race.over.load(Ordering::SeqCst)
        {
            moves += 1;
            released += migrate(&mount, &race, &mut rng);
            if moves % MOVES_A_LOOK == 0 {
                dead.remove(&site.store, &race);
            }
        }
        race.over.store(true, Ordering::SeqCst);
    });
    let wrong = race.wrong.lock().unwrap().join("\n");
    let hung = mount.hung();
    assert!(wrong.is_empty() && !hung, "hung: {hung}\n{wrong}");
    say(&format!(
        "{} rounds against {moves} moves, after which {released} files were released",
        race.rounds.load(Ordering::Relaxed)
    ));
    if Subject::from_env().is_coldfs() {
        assert!(released > 0, "nothing was ever released: no race was run");
        let rounds = race.rounds.load(Ordering::Relaxed);
        assert!(rounds >= 1_000, "{rounds} rounds are no race");
        let below = race.met_below.each_ref().map(|met| met.load(Ordering::Relaxed));
        say(&format!("below the mount it was a pointer and bytes this often: {below:?}"));
        assert!(below[0] > 0 && below[1] > 0, "{below:?}: no race below the mount");
    }
    for (path, versions) in &race.files {
        versions
            .check_all(&versions.floors(), &std::fs::read(site.mnt.join(path)).unwrap())
            .unwrap();
    }
    mount.detach();
    for (path, versions) in &race.files {
        versions.check_raw(&std::fs::read(site.data.join(path)).unwrap()).unwrap();
    }
}

/// Segments that no record named at the last look. Nothing else removes them, and those of an hour
/// would fill a disk.
#[derive(Default)]
struct Dead(HashSet<PathBuf>);

impl Dead {
    /// Removes what no record has named twice. Nothing is archived meanwhile.
    fn remove(&mut self, store: &Path, race: &Race) {
        let mut records = Vec::new();
        for name in ["file-0", "file-1", "file-2", "file-3", "program", "log", "replaced"] {
            records.extend(raw::get_xattr(&race.data.join(name), RECORD).unwrap());
        }
        let moved = ["here", "there"].map(|name| raw::get_xattr(&race.data.join(name), RECORD));
        let is_between_its_names = moved.iter().all(Result::is_err);
        records.extend(moved.into_iter().flatten().flatten());
        // Without a single one records are elsewhere: rootless.
        if is_between_its_names || records.is_empty() {
            return;
        }
        let named = |segment: &SegmentId| {
            records.iter().any(|record| record.windows(16).any(|bytes| bytes == segment.0))
        };
        let mut unnamed = HashSet::new();
        below(store, &mut |path| {
            let name = path.file_name().unwrap().to_string_lossy();
            let segment = name.get(..26).and_then(|ulid| ulid.parse::<SegmentId>().ok());
            if segment.is_some_and(|segment| !named(&segment)) {
                unnamed.insert(path);
            }
        });
        for path in self.0.intersection(&unnamed) {
            std::fs::remove_file(path).unwrap();
        }
        self.0 = unnamed;
    }
}

/// Files of a directory and of those in it; it may not be there.
fn below(dir: &Path, found: &mut dyn FnMut(PathBuf)) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => below(&entry.path(), found),
            _ => found(entry.path()),
        }
    }
}

/// How many times longer than beside a disk: store everybody rests between rounds, so that this
/// store finds files quiet for as long as a move takes it.
fn pace(mount: &Mount, file: &Path) -> u32 {
    let begun = Instant::now();
    mount.quick("migrate", file, false);
    let pace = (begun.elapsed().as_millis() / MOVE_MILLIS).clamp(1, 20) as u32;
    mount.quick("recall", file, false);
    pace
}

/// One move; how many files are released after it.
fn migrate(mount: &Mount, race: &Race, rng: &mut StdRng) -> u64 {
    let names =
        ["file-0", "file-0", "file-1", "file-2", "file-3", "program", "here", "log", "replaced"];
    let name = names[rng.random_range(0..names.len())];
    let verb = ["migrate", "migrate", "migrate", "recall", "release"][rng.random_range(0..5)];
    if rng.random_ratio(1, 12) {
        mount.quick(verb, &race.mnt, true);
    } else {
        mount.quick(verb, &race.mnt.join(name), false);
    }
    if !Subject::from_env().is_coldfs() {
        std::thread::sleep(Duration::from_millis(3));
    }
    let released = |name: &&str| mount.state(&race.mnt.join(name)) == "released";
    ["file-0", "file-1", "file-2", "file-3", "program", "here"]
        .iter()
        .filter(|name| released(name))
        .count() as u64
}

fn text(error: io::Error) -> String {
    error.to_string()
}

/// A read beside a write of the same block may see half of it: ext4 promises no more. With the
/// writers kept away it has to be whole.
fn once_more_if_torn(
    race: &Race,
    choice: usize,
    read: impl Fn() -> Result<(), String>,
) -> Result<(), String> {
    match read() {
        Err(what) if what.ends_with("torn") => {
            let _pen = race.pens[choice].lock().unwrap();
            read()
        }
        other => other,
    }
}

fn read_blocks(race: &Race, rng: &mut StdRng) -> Result<(), String> {
    let choice = race.pick(rng);
    let (path, versions) = &race.files[choice];
    let file = File::open(race.mnt.join(path)).map_err(text)?;
    for _ in 0..rng.random_range(1..8) {
        let index = rng.random_range(0..versions.count());
        once_more_if_torn(race, choice, || {
            let floor = versions.floor(index);
            let mut block = vec![0; BLOCK];
            file.read_exact_at(&mut block, u64::from(index) * BLOCK as u64).map_err(text)?;
            versions.check(index, floor, &block).map(drop)
        })?;
    }
    Ok(())
}

fn read_all(race: &Race, rng: &mut StdRng) -> Result<(), String> {
    let choice = race.pick(rng);
    let (path, versions) = &race.files[choice];
    once_more_if_torn(race, choice, || {
        let floors = versions.floors();
        let bytes = std::fs::read(race.mnt.join(path)).map_err(text)?;
        versions.check_all(&floors, &bytes)
    })
}

fn write_blocks(race: &Race, rng: &mut StdRng) -> Result<(), String> {
    let choice = race.pick(rng);
    let _pen = race.pens[choice].lock().unwrap();
    let (path, versions) = &race.files[choice];
    let file = raw::open(&race.mnt.join(path), libc::O_RDWR, 0).map_err(text)?;
    for _ in 0..rng.random_range(1..4) {
        let index = rng.random_range(0..versions.count());
        let version = versions.write(&file, index).map_err(text)?;
        versions.settled(index, version);
    }
    if rng.random_ratio(1, 4) {
        file.sync_data().map_err(text)?;
    }
    Ok(())
}

/// Maps a file, closes it, reads and writes by the mapping alone.
fn map_blocks(race: &Race, rng: &mut StdRng) -> Result<(), String> {
    let choice = race.pick(rng);
    let pen = rng.random::<bool>().then(|| race.pens[choice].lock().unwrap());
    let (path, versions) = &race.files[choice];
    let flags = if pen.is_some() { libc::O_RDWR } else { libc::O_RDONLY };
    let file = raw::open(&race.mnt.join(path), flags, 0).map_err(text)?;
    let map = match raw::Mapping::new(&file, versions.len() as usize, pen.is_some()) {
        Ok(map) => map,
        // A program or another mode of open may forbid it; FIELD-NOTES' table has no such row
        // for a file that nobody opens direct.
        Err(error) => return Err(format!("mmap: {error}")),
    };
    drop(file);
    for _ in 0..rng.random_range(1..6) {
        let index = rng.random_range(0..versions.count());
        let at = index as usize * BLOCK;
        if pen.is_some() {
            let (version, bytes) = versions.next(index);
            map.write(at, &bytes);
            versions.settled(index, version);
        }
        std::thread::sleep(Duration::from_millis(rng.random_range(0..3)));
        let floor = versions.floor(index);
        let block = map.read(at, BLOCK);
        // A store into the mapping is no atomic write: without the pen it may be seen torn.
        match versions.check(index, floor, &block) {
            Err(what) if pen.is_none() && what.ends_with("torn") => {}
            other => drop(other?),
        }
    }
    if pen.is_some() {
        map.sync().map_err(text)?;
    }
    Ok(())
}

/// Splices pages into a pipe, lets go of the file, reads the pipe later.
fn hold_pages(race: &Race, rng: &mut StdRng) -> Result<(), String> {
    let (path, versions) = &race.files[race.pick(rng)];
    let file = File::open(race.mnt.join(path)).map_err(text)?;
    let index = rng.random_range(0..versions.count());
    let at = u64::from(index) * BLOCK as u64;
    let floor = versions.floor(index);
    let held = raw::HeldPages::splice(&file, at, BLOCK).map_err(text)?;
    drop(file);
    std::thread::sleep(Duration::from_millis(rng.random_range(0..20)));
    let bytes = held.read().map_err(text)?;
    if bytes.is_empty() {
        return Ok(());
    }
    match versions.check(index, floor, &bytes) {
        // The pipe holds the page itself: a write of the moment may be half in it.
        Err(what) if what.ends_with("torn") => Ok(()),
        other => other.map(drop),
    }
}

/// Opens below the mount and holds: what is a pointer stays one or is refused; what is bytes
/// stays bytes for as long as it is held.
fn open_raw(race: &Race, rng: &mut StdRng) -> Result<(), String> {
    let (path, versions) = &race.files[race.pick(rng)];
    let file = File::open(race.data.join(path)).map_err(text)?;
    let mut head = vec![0; BLOCK];
    file.read_exact_at(&mut head, 0).map_err(text)?;
    if looks(&head) == Looks::Stub {
        return Ok(());
    }
    let look = |index: u32| -> Result<(), String> {
        let mut block = vec![0; BLOCK];
        file.read_exact_at(&mut block, u64::from(index) * BLOCK as u64).map_err(text)?;
        // Bytes written through a daemon-served handle may not be down here yet.
        match versions.check(index, 1, &block) {
            Err(what) if what.ends_with("torn") => Ok(()),
            other => other.map(drop).map_err(|what| format!("raw: {what}")),
        }
    };
    for _ in 0..rng.random_range(1..6) {
        look(rng.random_range(0..versions.count()))?;
        std::thread::sleep(Duration::from_millis(rng.random_range(0..4)));
    }
    look(0)
}

/// Writes below the mount, by a descriptor or a mapping alone, where bytes stand and no pointer.
/// What it wrote is there for as long as it holds it, and through the mount afterwards.
fn write_raw(race: &Race, rng: &mut StdRng) -> Result<(), String> {
    if rng.random() {
        // Long enough for a move of the file to have begun, or to be over.
        std::thread::sleep(Duration::from_millis(rng.random_range(0..250)));
    }
    let (path, versions) = &race.files[RAW];
    let whole = || {
        let floors = versions.floors();
        versions.check_all(&floors, &std::fs::read(race.mnt.join(path)).map_err(text)?)
    };
    let file = raw::open(&race.data.join(path), libc::O_RDWR, 0).map_err(text)?;
    let mut head = vec![0; BLOCK];
    file.read_exact_at(&mut head, 0).map_err(text)?;
    let is_stub = looks(&head) == Looks::Stub;
    race.met_below[usize::from(!is_stub)].fetch_add(1, Ordering::Relaxed);
    if is_stub {
        drop(file);
        return whole();
    }
    let map = raw::Mapping::new(&file, versions.len() as usize, true).map_err(text)?;
    let file = rng.random::<bool>().then_some(file);
    for _ in 0..rng.random_range(1..6) {
        let index = rng.random_range(0..versions.count());
        let at = index as usize * BLOCK;
        let version = match &file {
            Some(file) => versions.write(file, index).map_err(text)?,
            None => {
                let (version, bytes) = versions.next(index);
                map.write(at, &bytes);
                version
            }
        };
        versions.settled(index, version);
        std::thread::sleep(Duration::from_millis(rng.random_range(0..8)));
        versions
            .check(index, version, &map.read(at, BLOCK))
            .map_err(|what| format!("held: {what}"))?;
    }
    drop((map, file));
    let mut seen = whole();
    let begun = Instant::now();
    while seen.is_err() && begun.elapsed() < SEEN_WITHIN {
        seen = whole();
    }
    seen
}

fn execute(race: &Race, _rng: &mut StdRng) -> Result<(), String> {
    let mut command = Command::new(race.mnt.join("program"));
    command.stdin(Stdio::null());
    match run_within(&mut command, Duration::from_secs(60)) {
        None => Err("a program does not end".into()),
        Some(output) if output.status.success() => Ok(()),
        Some(output) => Err(format!("a program ends with {}", output.status)),
    }
}

/// Only this participant renames `here` and `there`.
fn rename_and_read(race: &Race, rng: &mut StdRng) -> Result<(), String> {
    let (here, there) = (race.mnt.join("here"), race.mnt.join("there"));
    let check = |path: &Path| -> Result<(), String> {
        let bytes = std::fs::read(path).map_err(text)?;
        if bytes == Block::file(90, 20, 1) { Ok(()) } else { Err("other bytes".into()) }
    };
    std::fs::rename(&here, &there).map_err(text)?;
    if rng.random() {
        check(&there)?;
    }
    std::fs::rename(&there, &here).map_err(text)?;
    if rng.random() { check(&here) } else { Ok(()) }
}

/// Only this participant appends; every line before is still there.
fn append(race: &Race, rng: &mut StdRng) -> Result<(), String> {
    use std::io::Write;
    let path = race.mnt.join("log");
    let before = std::fs::metadata(&path).map_err(text)?.len();
    let mut file = raw::open(&path, libc::O_WRONLY | libc::O_APPEND, 0).map_err(text)?;
    let line = |number: u64| format!("line {number:026}\n");
    if !before.is_multiple_of(32) {
        return Err(format!("{before} bytes are no whole number of lines"));
    }
    file.write_all(line(before / 32).as_bytes()).map_err(text)?;
    drop(file);
    if rng.random_ratio(1, 20) {
        let read = std::fs::read(&path).map_err(text)?;
        let expected: String = (0..=before / 32).map(line).collect();
        if read != expected.as_bytes() {
            return Err(format!("{} bytes, not the {} appended", read.len(), expected.len()));
        }
    }
    Ok(())
}

/// Truncates and writes anew; only this participant writes there.
fn replace(race: &Race, rng: &mut StdRng) -> Result<(), String> {
    let path = race.mnt.join("replaced");
    let version = rng.random::<u64>() >> 8;
    let blocks = rng.random_range(1..40);
    std::fs::write(&path, Block::file(91, blocks, version)).map_err(text)?;
    std::thread::sleep(Duration::from_millis(rng.random_range(0..25)));
    let read = std::fs::read(&path).map_err(text)?;
    if read == Block::file(91, blocks, version) {
        return Ok(());
    }
    Err(format!("{} bytes of {}", read.len(), blocks as usize * BLOCK))
}

/// Threads that create, and files that each creates.
const CREATORS: usize = 3;
const CREATED: usize = 4_000;

#[test]
fn creating_files_never_fails_because_a_migration_looks_at_them() {
    if !can_mount() {
        return;
    }
    let site = Site::new();
    let mount = site.start(&Start { quiet_ms: 20, ..Start::default() });
    let creating = AtomicU64::new(CREATORS as u64);
    std::thread::scope(|scope| {
        for creator in 0..CREATORS {
            let (mnt, creating) = (&site.mnt, &creating);
            scope.spawn(move || {
                let made = (0..CREATED).find_map(|number| {
                    let path = mnt.join(format!("{creator}-{number}"));
                    let made = std::fs::write(&path, b"new").and_then(|()| std::fs::read(&path));
                    // Few names at once: the walk comes round to each new one soon.
                    let made = made.and_then(|_| std::fs::remove_file(&path));
                    made.err().map(|error| format!("{}: {error}", path.display()))
                });
                creating.fetch_sub(1, Ordering::SeqCst);
                assert_eq!(made, None);
            });
        }
        while creating.load(Ordering::SeqCst) > 0 {
            mount.quick("migrate", &site.mnt, true);
        }
    });
    mount.detach();
}
