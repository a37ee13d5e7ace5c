//! The thread that empties the probe: one a daemon, whatever the number of tenants.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::ledger::{Ledger, Source, Via};
use super::pass::State;
use super::probe::Probe;
use super::proof::Proof;
use super::{Choice, Kind};
use crate::sys;
use crate::sys::mount_table::Mounted;
use crate::temperature::Second;

/// A drain that found more than this share of the map full is followed by another soon.
const CROWDED_DIVISOR: u64 = 4;
/// How soon.
const SOON: Duration = Duration::from_millis(250);
/// A drain that comes later than this many intervals is counted as missed.
const LATE_INTERVALS: u32 = 3;

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
    /// Drains at which the probe did not see what the daemon read: it was detached.
    pub blind: u64,
    /// How often it was loaded anew because of that.
    pub reloads: u64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// As it was after the last pass: whoever asks waits for no disk.
    report: Mutex<Report>,
    entries: u64,
}

impl Shared {
    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        let state = State::begin(options.clone());
        if state.probe.is_none() && options.choice != Choice::None {
            let why = state.report.refused.join("; ");
            tracing::warn!("no probe, heat is what opens through the mount say: {why}");
        }
        let (entries, report) = (options.entries.into(), Mutex::new(state.report.clone()));
        let shared =
            Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), report, entries });
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
        // What may take its time, before the others are kept waiting.
        let named = Mounted::of(root).map(|mount| kernel_device(mount.device));
        let is_watching = self.lock().probe.is_some();
        let prepared = is_watching.then(|| Proof::prepare(root, private));
        let mut state = self.lock();
        let (Some(probe), Some(prepared)) = (&mut state.probe, prepared) else {
            ledger.begin(Source::Opens, Second::now());
            return Vec::new();
        };
        let kind = probe.kind;
        let mut notes = Vec::new();
        let (proof, tested) = match prepared {
            Ok(proof) => {
                let seen = proof.ask(probe);
                (Some(proof), seen)
            }
            Err(error) => (None, Err(error)),
        };
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
        let whole = matches!((&tested, &named), (Ok(Some(_)), Ok(named)) if *named == device);
        if !whole {
            notes.push(
                "a stacked or read-only filesystem: reads that the probe sees count, files that it \
                 does not see are not taken for idle"
                    .to_owned(),
            );
        }
        let watched = state.daemon_is(process);
        let watched = watched.and_then(|()| state.watch(device, ledger, Via::Below, proof));
        if let Err(error) = watched {
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
        state.watch(device, ledger, Via::Mount, None)
    }

    /// How it fares.
    pub fn report(&self) -> Report {
        self.shared.report().clone()
    }

    /// Takes what was touched now, without waiting for the next drain.
    pub fn drain_now(&self) {
        let mut state = self.lock();
        state.pass();
        self.shared.report().clone_from(&state.report);
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
    let mut told = 0;
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
        let (taken, reloads) = (state.pass(), state.report.reloads);
        if std::mem::replace(&mut told, reloads) != reloads {
            known = None;
        }
        shared.report().clone_from(&state.report);
        drained = Instant::now();
        if state.stop {
            return;
        }
        pause =
            if taken > shared.entries / CROWDED_DIVISOR { SOON.min(interval) } else { interval };
    }
}

/// Which probe this machine allows, and what better ones met.
pub fn try_here() -> Result<(Kind, Vec<String>), super::ProbeError> {
    const FEW: u32 = 64;
    let probe = Probe::load(Choice::Auto, None, FEW)?;
    Ok((probe.kind, probe.refused))
}

/// A device as the kernel keeps it (`MKDEV` of kdev_t.h).
fn kernel_device((major, minor): (u32, u32)) -> u32 {
    major << 20 | minor
}
