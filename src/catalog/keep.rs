//! The thread that keeps the catalog: one a daemon.
//!
//! ```text
//! opening -> walking -> complete          every answer from the catalog
//!    |          ^          | missed: more was noticed than could be remembered
//!    |          +----------+
//!    +---> without: locked, newer, cannot be written; everything walks
//! ```

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use super::eyes::Eyes;
use super::listing::{self, Listing};
use super::part::Part;
use super::syncs::Syncs;
use super::uses::{Uses, Weighing};
use super::{Catalog, CatalogError, this_machine};
use crate::file_id::{FileHandle, Ino};
use crate::heat::Touch;
use crate::inode::Inodes;
use crate::temperature::{HalfLife, Second, Warmth};
use crate::tenant::{Places, Tenant};

/// How long what is noticed waits to be looked at, so that it is looked at together.
const GATHERED: Duration = Duration::from_secs(1);
/// Names that the walk looks at a second: a tenth of what two busy cores can, for the disk's
/// and everybody else's sake. A million files take a minute.
const WALK_NAMES_A_SECOND: u64 = 20_000;
/// Names a step of the walk: between two steps the catalog hears what is asked of it.
const STEP_NAMES: usize = 2_048;
/// Steps for directories that came new, before the thread hears what is asked of it.
const NEW_STEPS: usize = 16;

/// How to keep a catalog.
#[derive(Clone, Debug)]
pub struct Options {
    /// The catalog's file.
    pub path: PathBuf,
    /// Whether this process may open by handle.
    pub by_handle: bool,
    /// How long until an access counts half.
    pub half_life: HalfLife,
}

/// How far the catalog is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is being opened.
    Opening,
    /// The walk since the attach is under way: what is there may be old, or miss something.
    Walking,
    /// It agrees with the directory.
    Complete,
    /// There is none, and why.
    Without(String),
}

/// How the catalog fares.
#[derive(Clone, Debug)]
pub struct Report {
    /// How far it is.
    pub phase: Phase,
    /// Since when.
    pub since: SystemTime,
    /// Whether something could not be looked at: walks name it, the catalog does not know it.
    pub unread: bool,
    /// The tenant's part, where there is one.
    pub part: Option<Part>,
}

impl Report {
    /// What answers for the whole tenant.
    pub fn answers(&self) -> Option<&Part> {
        self.part.as_ref().filter(|_| self.phase == Phase::Complete && !self.unread)
    }
}

#[derive(Debug)]
struct State {
    report: Report,
    stop: bool,
    /// What somebody who read it found wrong.
    damage: Option<String>,
    /// Questions so far, and those before which all was looked at.
    asked: u64,
    answered: u64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, phase: Phase) {
        let mut state = self.lock();
        if state.report.phase == phase {
            return;
        }
        state.report.phase = phase;
        state.report.since = SystemTime::now();
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for a question or the end, as long as `pause`; the questions so far.
    fn pause(&self, pause: Duration) -> (u64, bool) {
        let state = self.lock();
        // The walk keeps its pace whoever asks.
        let idle = |state: &mut State| {
            !state.stop && (state.asked == state.answered || state.report.phase != Phase::Complete)
        };
        let waited = self.changed.wait_timeout_while(state, pause, idle);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (state.asked, state.stop)
    }
}

/// The thread, from outside.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    tenant: Arc<Tenant>,
    half_life: HalfLife,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Keeper {
    /// Begins to keep a tenant's catalog.
    pub fn start(tenant: Arc<Tenant>, inodes: Arc<Inodes>, options: Options) -> io::Result<Self> {
        let half_life = options.half_life;
        let mut keeper = Self::idle(Arc::clone(&tenant), Phase::Opening);
        keeper.half_life = half_life;
        tenant.noticed.listen(true);
        let shared = Arc::clone(&keeper.shared);
        let work = move || keep(&shared, &tenant, &inodes, &options);
        let thread = std::thread::Builder::new().name("catalog".into()).spawn(work)?;
        *keeper.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(keeper)
    }

    /// How warm a file is, with what is not in its row yet; none: it is not known. `open`: it is
    /// in use now.
    pub fn warmth(&self, ino: Ino, handle: &FileHandle, open: bool) -> Option<Warmth> {
        let part = self.report().part?;
        // The store below panics where it meets bytes that it never wrote.
        let read = catch_unwind(AssertUnwindSafe(|| part.heat(ino, handle)));
        let heat = match read {
            Ok(Ok(heat)) => heat?,
            Ok(Err(error)) => {
                self.found_damaged(&error);
                return None;
            }
            Err(_panic) => return None,
        };
        let waiting = HashMap::from([(ino, self.tenant.heat.waiting(ino))]);
        Some(self.weighing_with(waiting).warmth(ino, handle, heat, open))
    }

    /// Weighs many files as they are now.
    pub fn weighing(&self) -> Weighing {
        self.weighing_with(self.tenant.heat.all_waiting())
    }

    fn weighing_with(&self, waiting: HashMap<Ino, Vec<Touch>>) -> Weighing {
        let (sight, half_life) = (self.tenant.heat.sight(), self.half_life);
        Weighing { sight, waiting, half_life, now: Second::now() }
    }

    /// None is kept, and why.
    pub fn without(tenant: Arc<Tenant>, why: String) -> Self {
        Self::idle(tenant, Phase::Without(why))
    }

    fn idle(tenant: Arc<Tenant>, phase: Phase) -> Self {
        let report = Report { phase, since: SystemTime::now(), unread: false, part: None };
        let state = State { report, stop: false, damage: None, asked: 0, answered: 0 };
        let shared = Shared { state: Mutex::new(state), changed: Condvar::new() };
        let half_life = HalfLife::default();
        Self { shared: Arc::new(shared), tenant, half_life, thread: Mutex::new(None) }
    }

    /// How the catalog fares, once all that happened before is in it. Waits for that, and for a
    /// walk to end, no longer than `patience`; not for async threads.
    pub fn settled(&self, patience: Duration) -> Report {
        let mut state = self.shared.lock();
        state.asked += 1;
        let mine = state.asked;
        self.shared.changed.notify_all();
        let open = |state: &mut State| match state.report.phase {
            Phase::Without(_) => false,
            Phase::Opening | Phase::Walking => true,
            Phase::Complete => state.answered < mine,
        };
        let waited = self.shared.changed.wait_timeout_while(state, patience, open);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        let mut report = state.report.clone();
        if timeout.timed_out() && report.phase == Phase::Complete {
            // It is behind: not to be answered from.
            report.phase = Phase::Walking;
        }
        report
    }

    /// Somebody who read the catalog found it damaged: it is made anew.
    pub fn found_damaged(&self, what: &CatalogError) {
        let mut state = self.shared.lock();
        state.damage = Some(what.to_string());
        if state.report.phase == Phase::Complete {
            state.report.phase = Phase::Walking;
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// How the catalog fares now.
    pub fn report(&self) -> Report {
        self.shared.lock().report.clone()
    }

    /// Ends the thread, with what was noticed written down durably.
    pub fn stop(&self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::warn!("the catalog's thread panicked");
        }
        self.tenant.noticed.listen(false);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Keeps the catalog until it is told to stop, or cannot be kept. A damaged one is made anew,
/// once.
fn keep(shared: &Arc<Shared>, tenant: &Arc<Tenant>, inodes: &Arc<Inodes>, options: &Options) {
    let mut anew = false;
    loop {
        let kept = catch_unwind(AssertUnwindSafe(|| keep_open(shared, tenant, inodes, options)));
        shared.lock().report.part = None;
        let error = match kept {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            // The store below panics where it meets bytes that it never wrote.
            Err(_panic) => CatalogError::Damaged("it cannot be read".into()),
        };
        let path = options.path.display();
        if !anew && matches!(error, CatalogError::Damaged(_)) {
            tracing::warn!(catalog = %path, %error, "the catalog is made anew");
            anew = true;
            if std::fs::remove_file(&options.path).is_ok() {
                shared.enter(Phase::Opening);
                continue;
            }
        }
        tracing::warn!(catalog = %path, %error, "done without a catalog");
        tenant.noticed.listen(false);
        shared.enter(Phase::Without(format!("{path}: {error}")));
        return;
    }
}

fn keep_open(
    shared: &Arc<Shared>,
    tenant: &Arc<Tenant>,
    inodes: &Arc<Inodes>,
    options: &Options,
) -> Result<(), CatalogError> {
    let catalog = Arc::new(Catalog::open(&options.path, &this_machine())?);
    let root = Eyes::root_of(tenant)?;
    let eyes = Eyes {
        tenant: Arc::clone(tenant),
        inodes: Arc::clone(inodes),
        root: root.ino,
        by_handle: options.by_handle,
    };
    let (part, goes_on) = Part::attach(catalog, tenant.seal.tenant(), &root)?;
    shared.lock().report.part = Some(part.clone());
    // What an earlier catalog knew of uses, this one may not: nothing is proven idle by then.
    tenant.heat.gap(Second::now(), 0);
    let mut work = Work::new(part, eyes, goes_on);
    let mut uses = Uses::new(options.half_life);
    shared.enter(Phase::Walking);
    let mut pause = Duration::ZERO;
    loop {
        let (asked, stop) = shared.pause(pause);
        if let Some(what) = shared.lock().damage.take() {
            return Err(CatalogError::Damaged(what));
        }
        if stop {
            work.look(tenant.noticed.take())?;
            uses.write(&work.part, &work.eyes, work.walked)?;
            return work.part.write(true, |_| Ok(()));
        }
        let mut places = tenant.noticed.take();
        let agreed = work.walked && !places.missed;
        if agreed && shared.lock().answered < asked {
            places = work.with_open_files(places);
        }
        let at_rest = work.nothing_left && places.is_empty();
        work.look(places)?;
        if uses.are_due() && uses.write(&work.part, &work.eyes, work.walked)? {
            work.syncs.note_write();
        }
        if at_rest {
            work.rest()?;
        } else {
            pause = work.go_on()?;
        }
        tenant.heat.has_met_all(work.walked && work.unread == 0);
        let mut state = shared.lock();
        let answers = agreed && !pause.is_zero() && state.answered < asked;
        if answers {
            state.answered = asked;
        }
        state.report.unread = work.unread > 0;
        drop(state);
        if answers {
            shared.changed.notify_all();
        }
        shared.enter(if work.walked { Phase::Complete } else { Phase::Walking });
    }
}

/// What the thread is at.
pub(super) struct Work {
    part: Part,
    eyes: Eyes,
    listing: Option<Listing>,
    /// The walk began with what an earlier one left: another follows it.
    goes_on: bool,
    /// The walk came to its end.
    pub(super) walked: bool,
    /// Nothing was left to be listed.
    nothing_left: bool,
    unread: u64,
    syncs: Syncs,
}

impl Work {
    pub(super) fn new(part: Part, eyes: Eyes, goes_on: bool) -> Self {
        let (walked, nothing_left, unread) = (false, false, 0);
        Self {
            part,
            eyes,
            listing: None,
            goes_on,
            walked,
            nothing_left,
            unread,
            syncs: Syncs::new(),
        }
    }

    /// What there is to do where nothing happens: hardly anything, for thousands of tenants do.
    fn rest(&mut self) -> Result<(), CatalogError> {
        if self.syncs.are_overdue() {
            let durable = self.syncs.next_is_durable();
            self.part.write(durable, |_| Ok(()))?;
        }
        Ok(())
    }

    /// Adds the files that are open: a writer tells of nothing until it closes.
    fn with_open_files(&self, mut places: Places) -> Places {
        for ino in self.eyes.inodes.open_files() {
            places.add_file(ino);
        }
        places
    }

    /// Looks where something was noticed.
    pub(super) fn look(&mut self, places: Places) -> Result<(), CatalogError> {
        if places.missed {
            tracing::info!("more changed than can be remembered: the catalog is walked anew");
            return self.walk_anew();
        }
        let mut places = places;
        for again in [false, true] {
            if places.is_empty() {
                return Ok(());
            }
            let looks = self.eyes.look(&self.part.read()?, places)?;
            self.unread += looks.unread;
            looks.own(&self.eyes);
            let durable = self.syncs.next_is_durable();
            // A directory that moves may leave what is still to be walked for what was.
            let deep = !self.walked;
            self.part.write(durable, |batch| looks.write(batch, deep))?;
            listing::abandon(&self.part, &mut self.listing)?;
            places = self.still_known(looks.astray)?;
            if again && !places.is_empty() {
                // What is known of them leads nowhere.
                self.walk_anew()?;
            }
        }
        Ok(())
    }

    /// Those of places that are in the catalog still, though nobody finds them. Found by their
    /// handles, they are no more: their names tell, or told.
    fn still_known(&self, astray: Places) -> Result<Places, CatalogError> {
        let mut known = Places::default();
        if self.eyes.by_handle || astray.is_empty() {
            return Ok(known);
        }
        let reader = self.part.read()?;
        for ino in astray.files {
            if reader.row(ino)?.is_some() {
                known.add_file(ino);
            }
        }
        for (dir, names) in astray.names {
            if reader.row(dir)?.is_some() {
                names.iter().for_each(|name| known.add_name(dir, name));
            }
        }
        Ok(known)
    }

    fn walk_anew(&mut self) -> Result<(), CatalogError> {
        self.listing = None;
        self.walked = false;
        self.unread = 0;
        let root = self.part.root();
        self.part.write(false, |batch| {
            batch.list_nothing()?;
            batch.list(root, true)
        })
    }

    /// Lists what is to be listed: a step of the walk, or all that came new. How long to pause
    /// then; not at all where more is left.
    fn go_on(&mut self) -> Result<Duration, CatalogError> {
        self.nothing_left = false;
        for _ in 0..NEW_STEPS {
            let step = self.step(STEP_NAMES)?;
            if !self.walked {
                return Ok(Duration::from_nanos(step * 1_000_000_000 / WALK_NAMES_A_SECOND));
            }
            if step == 0 {
                self.nothing_left = true;
                return Ok(GATHERED);
            }
        }
        Ok(Duration::ZERO)
    }

    /// Lists up to `limit` names; how many there were. At its end the walk is over.
    pub(super) fn step(&mut self, limit: usize) -> Result<u64, CatalogError> {
        let (listing, syncs) = (&mut self.listing, &mut self.syncs);
        let step = listing::step(&self.part, &self.eyes, listing, limit, syncs)?;
        self.unread += step.unread;
        if step.nothing_left && !self.walked {
            if std::mem::take(&mut self.goes_on) {
                // What was listed before may have changed since.
                self.walk_anew()?;
            } else {
                self.walked = true;
            }
            self.part.note_filled()?;
        }
        Ok(step.looked_at)
    }
}
