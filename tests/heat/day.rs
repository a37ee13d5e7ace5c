//! Days of mixed work, replayed fast: builds, git, a mail spool, a nightly backup, updatedb. What
//! each judge takes for cold, against an oracle that sees the day that follows.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::harness::mount::Mount;
use super::harness::site::Site;
use super::harness::{copy_program, env_number, has, must, raw, say, seed};
use super::{BYTES, drained, has_probe, mounted, no_heat_here};

/// A day's hours; in eight of them people work.
const HOURS: u32 = 24;
const WORK: std::ops::Range<u32> = 9..17;
/// How long an hour takes here.
const HOUR: Duration = Duration::from_millis(400);
/// Files of each kind.
const SOURCES: usize = 120;
const OBJECTS: usize = 120;
const GIT: usize = 200;
const OLD_MAIL: usize = 400;
const ARCHIVE: usize = 600;
/// Mails that come in an hour.
const MAILS: usize = 6;

/// What was done to a file, seconds since the replay began.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// It was made by now.
    exists: bool,
    /// By people's programs: the truth.
    used: Option<f64>,
    /// By anybody, the backup as well.
    opened: Option<f64>,
    written: Option<f64>,
    /// As a filesystem mounted relatime keeps it.
    relatime: Option<f64>,
    /// In the day that follows.
    wanted: bool,
}

/// A replay under way.
struct Days<'a> {
    root: &'a Path,
    files: HashMap<String, Seen>,
    begun: Instant,
    dice: StdRng,
    mails: usize,
    /// How long a day takes, seconds: the last one, a busy machine's are longer.
    day: f64,
    /// The day that the oracle sees: nothing is done any more.
    is_future: bool,
}

impl Days<'_> {
    fn now(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    fn read(&mut self, name: &str) {
        if self.is_future {
            self.files.entry(name.to_owned()).or_default().wanted = true;
            return;
        }
        std::fs::read(self.root.join(name)).unwrap();
        let now = self.now();
        let file = self.files.entry(name.to_owned()).or_default();
        file.used = Some(now);
        file.opened_at(now, self.day);
    }

    fn write(&mut self, name: &str) {
        if self.is_future {
            return;
        }
        std::fs::write(self.root.join(name), vec![9; BYTES]).unwrap();
        let now = self.now();
        let file = self.files.entry(name.to_owned()).or_default();
        (file.used, file.written, file.opened) = (Some(now), Some(now), Some(now));
        file.exists = true;
    }

    fn build(&mut self) {
        (0..SOURCES).for_each(|number| self.read(&format!("src/{number}")));
        // What changed is made anew, all of it is linked.
        for _ in 0..OBJECTS / 10 {
            let number = self.dice.random_range(0..OBJECTS);
            self.write(&format!("obj/{number}"));
        }
        (0..OBJECTS).for_each(|number| self.read(&format!("obj/{number}")));
    }

    /// Looks at all, reads what is recent.
    fn git(&mut self) {
        if !self.is_future {
            must(Command::new("find").arg(self.root.join("git")).arg("-ls"));
        }
        for _ in 0..GIT / 20 {
            let number = self.dice.random_range(0..GIT / 8);
            self.read(&format!("git/{number}"));
        }
    }

    /// What came in the hour before is read once; now and then somebody looks for an old one.
    fn mail(&mut self) {
        let unread = self.mails.saturating_sub(MAILS)..self.mails;
        unread.for_each(|number| self.read(&format!("mail/new{number}")));
        for _ in 0..MAILS {
            self.write(&format!("mail/new{}", self.mails));
            self.mails += 1;
        }
        let old = self.dice.random_range(0..OLD_MAIL);
        self.read(&format!("mail/old{old}"));
    }

    /// Reads everything, by a program that is a backup by its name.
    fn backup(&mut self, program: &Path) {
        if self.is_future {
            return;
        }
        let mut find = Command::new("find");
        find.arg(self.root).args(["-type", "f", "-print0"]).stdout(Stdio::piped());
        let mut files = find.spawn().unwrap();
        let mut backup = Command::new("xargs");
        backup.arg("-0").arg(program).stdin(files.stdout.take().unwrap());
        assert!(backup.stdout(Stdio::null()).status().unwrap().success());
        files.wait().unwrap();
        let now = self.now();
        self.files.values_mut().for_each(|file| file.opened_at(now, self.day));
    }

    fn day(&mut self, backup: &Path) {
        let begun = Instant::now();
        for hour in 0..HOURS {
            let until = Instant::now() + HOUR;
            if WORK.contains(&hour) {
                self.build();
                self.git();
            }
            self.mail();
            if hour == 2 {
                self.backup(backup);
            }
            if hour == 4 && !self.is_future {
                must(Command::new("find").arg(self.root).arg("-ls"));
            }
            if !self.is_future {
                std::thread::sleep(until.saturating_duration_since(Instant::now()));
            }
        }
        if !self.is_future {
            self.day = begun.elapsed().as_secs_f64();
        }
    }
}

impl Seen {
    fn opened_at(&mut self, now: f64, day: f64) {
        // Moved where it is older than the last change, or than a day.
        let is_old = self.relatime.is_none_or(|at| now - at >= day || self.written >= Some(at));
        if is_old {
            self.relatime = Some(now);
        }
        self.opened = Some(now);
    }
}

fn plant(root: &Path) -> HashMap<String, Seen> {
    let kinds = [
        ("src/", SOURCES),
        ("obj/", OBJECTS),
        ("git/", GIT),
        ("mail/old", OLD_MAIL),
        ("archive/", ARCHIVE),
    ];
    let mut files = HashMap::new();
    for (prefix, count) in kinds {
        let dir = prefix.split('/').next().unwrap();
        std::fs::create_dir_all(root.join(dir)).unwrap();
        for number in 0..count {
            let name = format!("{prefix}{number}");
            std::fs::write(root.join(&name), vec![7; BYTES]).unwrap();
            files.insert(name, Seen { exists: true, ..Seen::default() });
        }
    }
    files
}

/// For how long it is proven that nobody used each file.
fn idle(mount: &Mount, root: &Path) -> HashMap<PathBuf, Option<u64>> {
    let args = ["heat".as_ref(), "--files".as_ref(), "--json".as_ref(), root.as_os_str()];
    let output = mount.coldfs(args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let file = |line: &str| {
        let file: serde_json::Value = serde_json::from_str(line).unwrap();
        (file["path"].as_str().unwrap().into(), file["idle_seconds"].as_u64())
    };
    text.lines().map(file).collect()
}

#[test]
fn a_mixed_days_files_are_not_misjudged() {
    if no_heat_here() || !has("find") || !has("xargs") {
        return;
    }
    let days = env_number("COLDFS_HEAT_DAYS", 2) as u32;
    let site = Site::new();
    let files = plant(&site.data);
    let backup = site.dir.path().join("restic");
    copy_program("/bin/cat", &backup);
    raw::chmod(&backup, 0o755);
    let mount = mounted(&site, "drain = 1");
    if !has_probe(&mount) {
        return;
    }
    let dice = StdRng::seed_from_u64(seed());
    let begun = Instant::now();
    let day = (HOUR * HOURS).as_secs_f64();
    let mut work =
        Days { root: &site.mnt, files, begun, dice, mails: MAILS, day, is_future: false };
    (0..MAILS).for_each(|number| work.write(&format!("mail/new{number}")));
    (0..days).for_each(|_| work.day(&backup));
    drained(&mount);
    super::settled(&mount);
    let idle = idle(&mount, &site.mnt);
    let end = work.now();
    work.is_future = true;
    work.day(&backup);

    // Cold is what nobody used for a day.
    let cold_after = work.day;
    let judged: Vec<(Vec<bool>, bool)> = work
        .files
        .iter()
        .filter(|(_, file)| file.exists)
        .map(|(name, file)| {
            let idle = idle.get(&site.mnt.join(name)).copied().flatten();
            let age = |at: Option<f64>| end - at.unwrap_or(0.0) >= cold_after;
            let heat = idle.is_some_and(|idle| idle as f64 >= cold_after);
            if let Some(idle) = idle {
                // Never colder than it is: times are whole seconds.
                let truly = end - file.used.unwrap_or(0.0);
                assert!(idle as f64 <= truly + 2.0, "{name}: idle {idle} s, truly {truly:.1} s");
            }
            let by = [
                file.used,
                file.opened,
                if file.relatime > file.written { file.relatime } else { file.written },
                file.written,
            ];
            let verdicts = std::iter::once(heat).chain(by.map(age)).collect();
            (verdicts, file.wanted)
        })
        .collect();
    let (cold, used): (usize, usize) = (
        judged.iter().filter(|(_, wanted)| !wanted).count(),
        judged.iter().filter(|(_, wanted)| *wanted).count(),
    );
    say(&format!("{days} days; in the day that follows {used} files are used, {cold} are not"));
    say("| judge | taken for cold | of them used the next day (recalls) | unused, not taken |");
    let judges = [
        "heat",
        "the last use itself",
        "LRU of opens, atime (strict)",
        "atime (relatime)",
        "mtime",
    ];
    let mut recalls = Vec::new();
    for (at, judge) in judges.iter().enumerate() {
        let taken: Vec<_> = judged.iter().filter(|(cold, _)| cold[at]).collect();
        let wrong = taken.iter().filter(|(_, wanted)| *wanted).count();
        let missed = cold - (taken.len() - wrong);
        say(&format!("| {judge} | {} | {wrong} | {missed} |", taken.len()));
        recalls.push(wrong);
    }
    // Whoever knows when each was used last can do no better with this rule.
    assert!(recalls[0] <= recalls[1] + used / 20, "heat {recalls:?}");
    mount.detach();
}
