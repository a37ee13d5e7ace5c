//! The probe of `bench probe`: loaded, and its counts taken, as a daemon does.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coldfs::file_id::Ino;
use coldfs::heat::{FILES_WAITING, Ledger, Options, Quiet, Touch, Via, Watch};
use coldfs::temperature::{Evidence, Second};

/// Longer than any bench: counts are taken when it is asked for.
const NEVER: Duration = Duration::from_secs(86_400);

/// Loaded and watching.
pub struct Counting {
    watch: Watch,
    ledgers: Vec<Arc<Ledger>>,
}

impl Counting {
    /// As a daemon with one tenant.
    pub fn start(dir: &Path) -> Self {
        Self::with(dir, &Options::default(), 1)
    }

    fn with(dir: &Path, options: &Options, tenants: usize) -> Self {
        let watch = Watch::start(options, Quiet::default).unwrap();
        let report = watch.report();
        assert!(report.kind.is_some(), "no probe here: {}", report.refused.join("; "));
        let root = File::open(dir).unwrap();
        let ledgers: Vec<_> = (0..tenants).map(|_| Arc::new(Ledger::default())).collect();
        for ledger in &ledgers {
            let notes = watch.add(ledger, root.as_fd(), ".");
            assert!(notes.is_empty(), "{notes:?}");
        }
        Self { watch, ledgers }
    }

    /// Tenants who share these files, in runs of equal length; nothing is taken unasked.
    pub fn shared(dir: &Path, paths: &[PathBuf], tenants: usize) -> Self {
        let options = Options { interval: NEVER, entries: 1 << 20, ..Options::default() };
        let counting = Self::with(dir, &options, tenants);
        for (ledger, theirs) in counting.ledgers.iter().zip(paths.chunks(paths.len() / tenants)) {
            ledger.owns(theirs.iter().map(|path| Ino(fs::metadata(path).unwrap().ino())));
            ledger.has_met_all(true);
        }
        counting
    }

    /// Takes what was touched; entries, and the time it took.
    pub fn drain(&self) -> (u64, Duration) {
        let before = self.watch.report();
        self.watch.drain_now();
        let after = self.watch.report();
        self.ledgers.iter().for_each(|ledger| drop(ledger.take()));
        (after.entries - before.entries, after.spent - before.spent)
    }

    /// What the kernel has for so many files, as it says itself.
    pub fn kernel_bytes(dir: &Path, files: u32) -> u64 {
        let options = Options { interval: NEVER, entries: files, ..Options::default() };
        let _counting = Self::with(dir, &options, 1);
        let maps = fs::read_dir("/proc/self/fdinfo").unwrap().filter_map(|entry| {
            let text = fs::read_to_string(entry.unwrap().path()).ok()?;
            let word = |name: &str| {
                text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
            };
            (word("max_entries:")? == u64::from(files)).then(|| word("memlock:")).flatten()
        });
        maps.max().unwrap()
    }

    /// What this process has for so many files that are owned, and as many as may wait.
    pub fn own_bytes(dir: &Path, files: u32) -> u64 {
        let options = Options { interval: NEVER, ..Options::default() };
        let counting = Self::with(dir, &options, 1);
        let before = resident();
        let ledger = &counting.ledgers[0];
        ledger.owns((0..files.into()).map(|number| Ino(1_000 + number)));
        let (last, evidence) = (Second::now(), Evidence::Probe);
        let touch = Touch { via: Via::Below, generation: 1, count: 1, last, evidence };
        (0..FILES_WAITING as u64).for_each(|number| ledger.add(Ino(number), touch));
        resident() - before
    }
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() << 10
}
