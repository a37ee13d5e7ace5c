//! The thread that empties the probe: one a daemon, whatever the number of tenants.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::ledger::{Ledger, Source, Touch, Via};
use super::probe::{Description, Probe, Seen, halves};
use super::{Choice, Kind};
use crate::file_id::Ino;
use crate::sys;
use crate::temperature::{Evidence, Second};

/// A drain that found more than this share of the map full is followed by another soon.
const CROWDED_DIVISOR: u64 = 4;
/// How soon.
const SOON: Duration = Duration::from_millis(250);
/// A drain that comes later than this many intervals is counted as missed.
const LATE_INTERVALS: u32 = 3;
/// The wall clock and the one that nobody sets differ by more than this between two drains: it
/// was set. Larger than what NTP slews in a drain, and than a look at both takes.
const CLOCK_STEP: Duration = Duration::from_secs(5);
/// Pages at which tests read: far behind what a reader of small files reads at.
const TEST_PAGES: std::ops::Range<u64> = 1 << 12..1 << 24;

/// Whose reads warm nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quiet {
    /// Processes, by thread group.
    pub tasks: Vec<u32>,
    /// Names of tasks.
    pub names: Vec<String>,
    /// Control groups, by their number in the unified hierarchy.
    pub groups: Vec<u64>,
}

/// How to watch.
#[derive(Clone, Debug)]
pub struct Options {
    /// With which kind to begin. Turned where a kernel's better kind misbehaves.
    pub choice: Choice,
    /// The kernel's description, where it is not in its place: kernels without
    /// `/sys/kernel/btf/vmlinux` have it in a file beside their image.
    pub description: Option<PathBuf>,
    /// Files that may be touched between two drains: 96 bytes of kernel memory each. Turned up
    /// where status counts drops.
    pub entries: u32,
    /// How long between two drains. Turned down where heat must be seen at once.
    pub interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            choice: Choice::Auto,
            description: None,
            entries: 262_144,
            interval: Duration::from_secs(3),
        }
    }
}

/// How watching fares.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The probe's kind; none: there is no probe.
    pub kind: Option<Kind>,
    /// What is wrong: what better kinds met, or why there is none.
    pub refused: Vec<String>,
    /// Accesses that the probe told of, on watched devices.
    pub events: u64,
    /// Accesses that it saw and had no room for.
    pub dropped: u64,
    /// Drains so far.
    pub drains: u64,
    /// Drains that came late.
    pub missed: u64,
    /// Entries taken out of the map.
    pub entries: u64,
    /// Time that drains took.
    pub spent: Duration,
}

#[derive(Debug)]
struct Watched {
    ledger: Arc<Ledger>,
    via: Via,
}

#[derive(Debug, Default)]
struct Device {
    watched: Vec<Watched>,
    lost: u64,
}

#[derive(Debug)]
struct State {
    probe: Option<Probe>,
    devices: HashMap<u32, Device>,
    report: Report,
    /// The wall clock and the one that nobody sets, at the last look.
    clocks: (Second, Duration),
    /// In a namespace of processes, whose numbers the kernel's programs do not know.
    is_numbered_otherwise: bool,
    stop: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    entries: u64,
}

/// The thread, from outside.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Watch {
    /// Loads a probe, where one can be loaded, and begins to empty it. `quiet` is asked at every
    /// drain whose reads warm nothing.
    pub fn start(
        options: &Options,
        quiet: impl FnMut() -> Quiet + Send + 'static,
    ) -> io::Result<Self> {
        let description = options.description.clone().map(|path| Description { path });
        let loaded = Probe::load(options.choice, &description.unwrap_or_default(), options.entries);
        let mut report = Report::default();
        let probe = match loaded {
            Ok(probe) => {
                report.kind = Some(probe.kind);
                report.refused.clone_from(&probe.refused);
                Some(probe)
            }
            Err(refused) => {
                if options.choice != Choice::None {
                    tracing::warn!("no probe, heat is what opens through the mount say: {refused}");
                }
                report.refused = refused.0;
                None
            }
        };
        let state = State {
            probe,
            devices: HashMap::new(),
            report,
            clocks: (Second::now(), sys::boot_clock()),
            is_numbered_otherwise: false,
            stop: false,
        };
        let entries = options.entries.into();
        let shared =
            Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), entries });
        let (theirs, interval) = (Arc::clone(&shared), options.interval);
        let work = move || run(&theirs, interval, quiet);
        let thread = std::thread::Builder::new().name("heat".into()).spawn(work)?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to fill a tenant's ledger from the filesystem that `root` is on; `private`: a
    /// directory in it, for a file of the test. Says what is wrong with what is seen.
    pub fn add(&self, ledger: &Arc<Ledger>, root: BorrowedFd<'_>, private: &str) -> Vec<String> {
        let mut state = self.lock();
        let Some(probe) = &mut state.probe else {
            ledger.begin(Source::Opens, Second::now());
            return Vec::new();
        };
        let kind = probe.kind;
        let mut notes = Vec::new();
        let named = sys::mount::superblock_device(root).map(kernel_device);
        let tested = test(probe, &private_of(root, private));
        let device = match (&tested, &named) {
            (Ok(Some(seen)), _) => seen.device,
            (Ok(None), _) => {
                notes.push(
                    "the probe does not see reads of this filesystem: heat is what opens through \
                     the mount say, and access times"
                        .to_owned(),
                );
                ledger.begin(Source::Opens, Second::now());
                return notes;
            }
            (Err(_), Ok(device)) => *device,
            (Err(error), Err(_)) => {
                notes.push(format!("the probe cannot be tested, and is not used: {error}"));
                ledger.begin(Source::Opens, Second::now());
                return notes;
            }
        };
        let process = match &tested {
            Ok(Some(seen)) => seen.process,
            _ => std::process::id(),
        };
        state.is_numbered_otherwise = process != std::process::id();
        let Some(probe) = &mut state.probe else { return notes };
        let whole = matches!((&tested, &named), (Ok(Some(_)), Ok(named)) if *named == device);
        if !whole {
            notes.push(
                "a stacked or read-only filesystem: reads that the probe sees count, files that it \
                 does not see are not taken for idle"
                    .to_owned(),
            );
        }
        let begun = probe.daemon_is(process).and_then(|()| state.watch(device, ledger, Via::Below));
        if let Err(error) = begun {
            notes.push(format!("the probe cannot watch this filesystem: {error}"));
            ledger.begin(Source::Opens, Second::now());
            return notes;
        }
        let source = if whole { Source::Probe(kind) } else { Source::Partly(kind) };
        ledger.begin(source, Second::now());
        notes
    }

    /// Fills a ledger also from the mount itself: from files that the daemon serves.
    pub fn add_mount(&self, ledger: &Arc<Ledger>, mountpoint: &Path) -> io::Result<()> {
        let device = kernel_device(sys::mount::mount_at(mountpoint)?.device());
        let mut state = self.lock();
        if state.probe.is_none() {
            return Ok(());
        }
        state.watch(device, ledger, Via::Mount)
    }

    /// How it fares.
    pub fn report(&self) -> Report {
        self.lock().report.clone()
    }

    /// Takes what was touched now, without waiting for the next drain.
    pub fn drain_now(&self) {
        self.lock().pass();
    }

    /// Ends the thread, after a last drain.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.shared.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::warn!("the thread that empties the probe panicked");
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(shared: &Shared, interval: Duration, mut quiet: impl FnMut() -> Quiet) {
    let mut known = None;
    let mut drained = Instant::now();
    let mut pause = Duration::ZERO;
    loop {
        let state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = shared.changed.wait_timeout_while(state, pause, |state| !state.stop);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        // Not under the lock: it looks at every process.
        let mut now = quiet();
        let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_numbered_otherwise {
            now.tasks.clear();
        }
        if let Some(probe) = &mut state.probe
            && known.as_ref() != Some(&now)
        {
            match probe.quiet(&now) {
                Ok(()) => known = Some(now),
                Err(error) => tracing::warn!(%error, "the probe cannot be told of scanners"),
            }
        }
        if drained.elapsed() > interval * LATE_INTERVALS {
            state.report.missed += 1;
        }
        let taken = state.pass();
        drained = Instant::now();
        if state.stop {
            return;
        }
        pause =
            if taken > shared.entries / CROWDED_DIVISOR { SOON.min(interval) } else { interval };
    }
}

impl State {
    fn watch(&mut self, device: u32, ledger: &Arc<Ledger>, via: Via) -> io::Result<()> {
        if let Some(probe) = &mut self.probe {
            probe.watch(device)?;
        }
        let known = self.devices.entry(device).or_default();
        known.watched.push(Watched { ledger: Arc::clone(ledger), via });
        Ok(())
    }

    fn each_ledger(&self, mut tell: impl FnMut(&Ledger)) {
        self.devices.values().flat_map(|device| &device.watched).for_each(|watched| {
            // The mount's own inodes are seen, or lost, together with those below.
            if watched.via == Via::Below {
                tell(&watched.ledger);
            }
        });
    }

    /// One drain; how many entries it took.
    fn pass(&mut self) -> u64 {
        // Ledgers that nobody else has any more are not watched.
        let mut probe = self.probe.as_mut();
        self.devices.retain(|device, known| {
            known.watched.retain(|watched| Arc::strong_count(&watched.ledger) > 1);
            let used = !known.watched.is_empty();
            if let (false, Some(probe)) = (used, probe.as_mut()) {
                probe.forget(*device);
            }
            used
        });
        let begun = Second::now();
        if self.clock_was_set(begun) {
            tracing::warn!("the clock was set: what is idle is judged from now on");
            self.each_ledger(|ledger| ledger.clock_set(begun));
        }
        let Some(probe) = &mut self.probe else { return 0 };
        let started = Instant::now();
        let (mut events, mut entries) = (0, 0);
        let devices = &self.devices;
        let drained = probe.drain(|key, count| {
            entries += 1;
            let (device, generation) = halves(key[0]);
            let Some(device) = devices.get(&device) else { return };
            events += count;
            let (last, evidence) = (Second::now(), Evidence::Probe);
            for watched in &device.watched {
                let touch = Touch { via: watched.via, generation, count, last, evidence };
                watched.ledger.add(Ino(key[1]), touch);
            }
        });
        self.report.events += events;
        self.report.entries += entries;
        self.report.drains += 1;
        let lost = drained.and_then(|()| self.count_lost());
        match lost {
            Ok(()) => self.each_ledger(|ledger| ledger.seen_until(begun)),
            Err(error) => {
                tracing::warn!(%error, "the probe cannot be emptied: nothing counts as idle");
                self.each_ledger(|ledger| ledger.gap(Second::now(), 0));
            }
        }
        self.report.spent += started.elapsed();
        entries
    }

    /// Asks for accesses that the map had no room for: what is idle there is not known.
    fn count_lost(&mut self) -> io::Result<()> {
        let Some(probe) = &self.probe else { return Ok(()) };
        for (number, device) in &mut self.devices {
            let lost = probe.lost(*number)?;
            let more = lost.saturating_sub(device.lost);
            device.lost = lost;
            if more > 0 {
                self.report.dropped += more;
                let now = Second::now();
                device.watched.iter().for_each(|watched| watched.ledger.gap(now, more));
            }
        }
        Ok(())
    }

    fn clock_was_set(&mut self, wall: Second) -> bool {
        let before = std::mem::replace(&mut self.clocks, (wall, sys::boot_clock()));
        let went = i64::from(wall.0) - i64::from(before.0.0);
        let passed = self.clocks.1.saturating_sub(before.1);
        let passed = i64::try_from(passed.as_secs()).unwrap_or(i64::MAX);
        went.abs_diff(passed) > CLOCK_STEP.as_secs()
    }
}

/// Which probe this machine allows, and what better ones met.
pub fn try_here() -> Result<(Kind, Vec<String>), super::ProbeError> {
    const FEW: u32 = 64;
    let probe = Probe::load(Choice::Auto, &Description::default(), FEW)?;
    Ok((probe.kind, probe.refused))
}

/// Reads a file of its own where nobody else reads; what the probe saw of that.
fn test(probe: &mut Probe, private: &Path) -> io::Result<Option<Seen>> {
    let random = u64::from_le_bytes(
        crate::file_id::SegmentId::generate().0[8..].try_into().map_err(io::Error::other)?,
    );
    let page = TEST_PAGES.start + random % (TEST_PAGES.end - TEST_PAGES.start);
    let file = tempfile::tempfile_in(private)?;
    let offset = page * sys::page_bytes();
    file.set_len(offset + 1)?;
    probe.test(page, || file.read_exact_at(&mut [0], offset))
}

/// A device as the kernel keeps it (`MKDEV` of kdev_t.h).
fn kernel_device((major, minor): (u32, u32)) -> u32 {
    major << 20 | minor
}

/// A descriptor's path for calls that take a directory.
fn private_of(root: BorrowedFd<'_>, name: &str) -> PathBuf {
    format!("/proc/self/fd/{}/{name}", root.as_raw_fd()).into()
}
