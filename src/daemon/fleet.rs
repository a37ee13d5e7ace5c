//! The tenants of a daemon: attached and detached one by one, none of them in another's way.
//!
//! ```text
//! attaching -> mounted -> detaching -> detached --attach--> attaching
//!     +---> failed --attach, reload--> attaching
//!                         detaching -> stuck --detach--> detaching
//! ```
//!
//! A task a tenant carries it from one end of that line to the other; whoever asks for something
//! sets it off and waits until the tenant stands where it should. These tasks have a thread of
//! their own: a mount goes away whatever the other threads of the daemon wait for.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::apart::{Tending, apart};
use super::attach::{Attached, assemble, give_up};
use super::failed;
use super::machine::Machine;
use super::served::Served;
use super::slot::{Phase, Slot, Source};
use super::turns::Turns;
use crate::config::checks::FS_TYPE;
use crate::config::tenants::Refused;
use crate::control::wire::{Counters, Problem, ProblemKind, TenantEntry, TenantState};
use crate::migrate::Migrator;
use crate::sys::mount_table::MountTable;

/// Tenants that are being attached at once: each asks the store a few things, and reads its disk.
const ATTACHING_AT_ONCE: usize = 4;
/// Beside them, those whose disk or store lets them wait: a thread or two each, and one of those
/// that all tenants' disk work shares.
const HELD_UP_AT_ONCE: usize = 12;
/// How long the last users of a tenant that is detached may take to let go of it, before it is
/// called detached all the same: its lock goes with the last of them.
const LETTING_GO: Duration = Duration::from_secs(10);
const LETTING_GO_POLL: Duration = Duration::from_millis(10);
/// How long a reload waits for the mount of a tenant that the configuration has no more; it goes
/// away all the same.
const LEAVING: Duration = Duration::from_secs(30);
/// How long the end of the daemon waits for its mounts to go, before it goes without them. With
/// what comes after it, within what docs/serve.md gives systemd to end it.
const ENDING: Duration = Duration::from_secs(45);

/// The tenants of a daemon.
pub(super) struct Fleet {
    pub(super) machine: Arc<Machine>,
    slots: Mutex<BTreeMap<String, Slot>>,
    refused: Mutex<Vec<Refused>>,
    changed: watch::Sender<u64>,
    tending: Tending,
    /// The daemon's runtime, where tenants are served.
    work: Handle,
    attaching: Turns,
    /// Those that may hold leases, until they are gone.
    movers: Mutex<Vec<Weak<Migrator>>>,
    /// What tenants did that are not mounted any more.
    retired: Mutex<Counters>,
    /// Cancelled when the daemon ends.
    ending: CancellationToken,
    /// The daemon of `coldfs mount`: it ends with its tenant.
    is_one: bool,
}

/// Why a tenant is not mounted.
enum Unattached {
    /// Told to stop.
    Stopped,
    Failed(Problem),
}

impl From<Problem> for Unattached {
    fn from(problem: Problem) -> Self {
        Unattached::Failed(problem)
    }
}

impl Fleet {
    /// A fleet without tenants; they are served on the runtime of whoever calls this.
    pub(super) fn new(machine: Arc<Machine>, is_one: bool) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            machine,
            slots: Mutex::default(),
            refused: Mutex::default(),
            changed: watch::Sender::default(),
            tending: Tending::start()?,
            work: Handle::current(),
            attaching: Turns::new(ATTACHING_AT_ONCE, HELD_UP_AT_ONCE),
            movers: Mutex::default(),
            retired: Mutex::default(),
            ending: CancellationToken::new(),
            is_one,
        }))
    }

    /// Whether this is the daemon of `coldfs mount`.
    pub(super) fn is_one(&self) -> bool {
        self.is_one
    }

    /// Begins to attach a tenant that is new here.
    pub(super) fn add(self: &Arc<Self>, name: &str, source: Source) {
        self.lock().insert(name.to_owned(), Slot::new(source));
        self.begin(name);
    }

    /// Begins to attach a tenant, unless it is mounted or on the way.
    fn begin(self: &Arc<Self>, name: &str) {
        let let_go = self.ending.child_token();
        let source = {
            let mut slots = self.lock();
            let Some(slot) = slots.get_mut(name) else { return };
            if !slot.phase.is_down() || slot.is_leaving {
                return;
            }
            slot.enter(Phase::Attaching(None));
            (slot.let_go, slot.is_changed, slot.objection) = (let_go.clone(), false, None);
            slot.source.clone()
        };
        self.tell();
        let (fleet, name) = (Arc::clone(self), name.to_owned());
        self.tending.spawn(async move { fleet.tend(&name, source, let_go).await });
    }

    /// From one end of a tenant's way to the other.
    async fn tend(self: &Arc<Self>, name: &str, source: Source, let_go: CancellationToken) {
        let end = match self.attach(name, source, &let_go).await {
            Ok(attached) => {
                self.serve(name, attached, &let_go).await;
                Phase::Detached
            }
            Err(Unattached::Stopped) => Phase::Detached,
            Err(Unattached::Failed(problem)) => {
                if !self.is_one {
                    tracing::error!(tenant = name, "left out: {problem}");
                }
                Phase::Failed(problem)
            }
        };
        // Dropped below the lock: what a phase held may take its time to go.
        let mut slots = self.lock();
        let is_leaving = slots.get(name).is_some_and(|slot| slot.is_leaving);
        let before = match is_leaving {
            true => slots.remove(name).map(|slot| slot.phase),
            false => slots.get_mut(name).map(|slot| slot.enter(end)),
        };
        drop(slots);
        self.tell();
        drop(before);
    }

    /// From a tenant's mount to its end.
    async fn serve(
        self: &Arc<Self>,
        name: &str,
        mut attached: Attached,
        let_go: &CancellationToken,
    ) {
        let (served, ended) = (Arc::clone(&attached.served), attached.ended());
        self.enter(name, Phase::Mounted(Arc::clone(&served)));
        tracing::info!(tenant = name, mountpoint = %served.options.mountpoint.display(), "mounted");
        // The configuration may say otherwise by now.
        self.judge_as_asked(name, false);
        tokio::select! {
            () = ended.cancelled() => {}
            () = let_go.cancelled() => {}
        }
        served.begin_detach();
        loop {
            self.enter(name, Phase::Detaching(Some(Arc::clone(&served))));
            let had_ended = ended.is_cancelled();
            let Err(error) = attached.unmount().await else { break };
            tracing::error!(tenant = name, %error, "it could not be detached");
            let again = self.stuck(name, &served, failed("detach", &error));
            // One whose connection has ended can be stuck, too.
            tokio::select! {
                () = ended.cancelled(), if !had_ended => {}
                () = again.cancelled() => {}
            }
        }
        attached.finish().await;
        self.retire(name, &served);
        let tenant = Arc::downgrade(&served.tenant);
        drop(served);
        if !self.is_one {
            let mut waited = Duration::ZERO;
            while tenant.strong_count() > 0 && waited < LETTING_GO {
                tokio::time::sleep(LETTING_GO_POLL).await;
                waited += LETTING_GO_POLL;
            }
            if tenant.strong_count() > 0 {
                tracing::warn!(tenant = name, "somebody still uses it: it cannot be attached yet");
            }
        }
        tracing::info!(tenant = name, "detached");
    }

    /// A mount that does not go away; cancelled when it is to be tried again.
    fn stuck(&self, name: &str, served: &Arc<Served>, problem: Problem) -> CancellationToken {
        let again = CancellationToken::new();
        let phase = Phase::Stuck(Arc::clone(served), problem, again.clone());
        self.enter(name, phase);
        again
    }

    /// What a tenant did counts as done by one that is gone, in one step.
    fn retire(&self, name: &str, served: &Served) {
        let mut slots = self.lock();
        lock(&self.retired).add(&served.counters());
        let before = slots.get_mut(name).map(|slot| slot.enter(Phase::Detaching(None)));
        drop(slots);
        self.tell();
        drop(before);
    }

    async fn attach(
        &self,
        name: &str,
        source: Source,
        let_go: &CancellationToken,
    ) -> Result<Attached, Unattached> {
        let attached = self.attaching.run(let_go, async {
            let (machine, stop) = (Arc::clone(&self.machine), let_go.clone());
            let called = (!self.is_one).then(|| name.to_owned());
            let served = self.off_the_runtime(async move {
                let assembled = async {
                    let options = source.resolve().await?;
                    assemble(&machine, called, &options).await
                };
                tokio::select! {
                    () = stop.cancelled() => Err(Unattached::Stopped),
                    served = assembled => Ok(served?),
                }
            });
            let served = served.await?;
            {
                let mut movers = lock(&self.movers);
                movers.retain(|mover| mover.strong_count() > 0);
                movers.push(Arc::downgrade(&served.migrator));
            }
            // Before it is mounted: a command never meets a mount without a daemon.
            self.enter(name, Phase::Attaching(Some(Arc::clone(&served))));
            let mounted = if let_go.is_cancelled() {
                Err(Unattached::Stopped)
            } else {
                let mounting = Arc::clone(&served);
                self.off_the_runtime(async move { Ok(Attached::begin(&mounting)?) }).await
            };
            match &mounted {
                Ok(_) => served.watch().await,
                Err(_) => {
                    self.enter(name, Phase::Attaching(None));
                    give_up(served).await;
                }
            }
            mounted
        });
        attached.await.unwrap_or(Err(Unattached::Stopped))
    }

    /// Runs what waits for a disk now and then where it keeps nobody from the runtime's few
    /// threads.
    async fn off_the_runtime<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Unattached>> + Send + 'static,
    ) -> Result<T, Unattached> {
        let runtime = self.work.clone();
        let done = apart("attach", move || runtime.block_on(work)).await;
        done.map_err(|error| failed("attach it", &error))?
    }

    /// Mounts a tenant and waits until its mount answers.
    pub(super) async fn attach_by_name(self: &Arc<Self>, name: &str) -> Result<(), Problem> {
        if !self.lock().contains_key(name) {
            return Err(self.unknown(name));
        }
        self.settled(name).await;
        self.begin(name);
        self.mounted(name).await?;
        let slots = self.lock();
        match slots.get(name).filter(|slot| !slot.is_leaving).map(|slot| &slot.phase) {
            Some(Phase::Mounted(_)) => Ok(()),
            // The configuration has lost it meanwhile.
            None => {
                drop(slots);
                Err(self.unknown(name))
            }
            Some(_) => {
                let what = format!("tenant {name}: somebody detached it meanwhile");
                Err(Problem::new(ProblemKind::Failed, what, "see `coldfs tenant list`"))
            }
        }
    }

    /// Waits until a tenant's mount answers; it may be gone again by then.
    pub(super) async fn mounted(&self, name: &str) -> Result<(), Problem> {
        self.settled(name).await;
        match self.lock().get(name).map(|slot| &slot.phase) {
            Some(Phase::Failed(problem) | Phase::Stuck(_, problem, _)) => Err(problem.clone()),
            _ => Ok(()),
        }
    }

    /// Takes a tenant's mount away and waits until it is gone.
    pub(super) async fn detach_by_name(&self, name: &str) -> Result<(), Problem> {
        match self.lock().get_mut(name) {
            Some(slot) => slot.ask_to_go(),
            None => return Err(self.unknown(name)),
        }
        self.gone(name).await
    }

    /// Waits until a tenant's mount is gone. A tenant that cannot be mounted has none.
    pub(super) async fn gone(&self, name: &str) -> Result<(), Problem> {
        self.until(|slots| slots.get(name).is_none_or(|slot| slot.phase.is_at_its_end())).await;
        self.outcome(name)
    }

    /// What is wrong with how far out a tenant is.
    fn outcome(&self, name: &str) -> Result<(), Problem> {
        match self.lock().get(name).map(|slot| &slot.phase) {
            Some(Phase::Stuck(_, problem, _)) => Err(problem.clone()),
            Some(Phase::Failed(problem)) if self.is_one => Err(problem.clone()),
            _ => Ok(()),
        }
    }

    /// Takes a tenant's mount away, for nobody to attach it again, and forgets the tenant.
    pub(super) async fn remove(&self, name: &str) -> Result<(), Problem> {
        {
            let mut slots = self.lock();
            let Some(slot) = slots.get_mut(name) else { return Ok(()) };
            slot.is_leaving = true;
            slot.ask_to_go();
            if slot.phase.is_down() {
                slots.remove(name);
            }
        }
        self.tell();
        timeout(LEAVING, self.gone(name)).await.unwrap_or_else(|_elapsed| {
            let what = format!("tenant {name}: it is still on its way out");
            Err(Problem::new(ProblemKind::Failed, what, "see `coldfs tenant list`"))
        })
    }

    /// Waits until no tenant is on its way to somewhere.
    pub(super) async fn all_settled(&self) {
        self.until(|slots| slots.values().all(|slot| slot.phase.is_settled())).await;
    }

    async fn settled(&self, name: &str) {
        self.until(|slots| slots.get(name).is_none_or(|slot| slot.phase.is_settled())).await;
    }

    /// Takes all mounts away; none is made from now on. The first thing that is wrong with that, or
    /// with the only tenant of this daemon.
    pub(super) async fn end(self: &Arc<Self>) -> Result<(), Problem> {
        self.ending.cancel();
        self.lock().values_mut().for_each(Slot::ask_to_go);
        let fleet = Arc::clone(self);
        let gone = self.tending.spawn(async move {
            let gone = fleet.until(|slots| slots.values().all(|slot| slot.phase.is_at_its_end()));
            drop(timeout(ENDING, gone).await);
        });
        drop(gone.await);
        let names: Vec<_> = {
            let slots = self.lock();
            for (name, slot) in slots.iter().filter(|(_, slot)| !slot.phase.is_down()) {
                let state = slot.entry(name).state.word();
                tracing::error!(tenant = name, "the daemon ends without waiting for it: {state}");
            }
            slots.keys().cloned().collect()
        };
        self.left().and_then(|()| names.iter().try_for_each(|name| self.outcome(name)))
    }

    async fn until(&self, mut is_so: impl FnMut(&BTreeMap<String, Slot>) -> bool) {
        let mut changed = self.changed.subscribe();
        while !is_so(&self.lock()) {
            // The sender is this fleet's own.
            drop(changed.changed().await);
        }
    }

    /// The tenants whose mounts answer, or are about to.
    pub(super) fn served(&self) -> Vec<Arc<Served>> {
        self.lock().values().filter_map(|slot| slot.served().cloned()).collect()
    }

    /// The tenant that serves a path: the longest mountpoint wins, as where daemons are looked for.
    pub(super) fn serving(&self, path: &Path) -> Option<Arc<Served>> {
        let slots = self.lock();
        let served = slots.values().filter_map(Slot::served);
        let mounted = served.clone().filter(|one| path.starts_with(&one.options.mountpoint));
        let longest = mounted.max_by_key(|one| one.options.mountpoint.components().count());
        let raw = || served.clone().find(|one| path.starts_with(&one.options.data_dir));
        longest.or_else(raw).cloned()
    }

    /// The tenant of this name here, while its mount may answer.
    pub(super) fn served_as(&self, name: &str) -> Option<Arc<Served>> {
        self.lock().get(name).and_then(Slot::served).cloned()
    }

    /// Those whose mounts answer, or are about to, and what they and all before them did.
    pub(super) fn counted(&self) -> Counters {
        let slots = self.lock();
        let mut sum = lock(&self.retired).clone();
        slots.values().filter_map(Slot::served).for_each(|served| sum.add(&served.counters()));
        sum
    }

    /// Has every move give back the leases that somebody waits for.
    pub(super) fn yield_leases(&self) {
        let movers = lock(&self.movers).clone();
        movers.iter().filter_map(Weak::upgrade).for_each(|mover| mover.yield_leases());
    }

    /// What a process that ends now cuts off and leaves, for a person.
    pub(super) fn cut_off(&self) -> String {
        let moves: usize = self.served().iter().map(|served| served.running().len()).sum();
        let cut_off = match moves {
            0 => "no move was under way".to_owned(),
            moves => format!("moves cut off: {moves}"),
        };
        match self.left() {
            Ok(()) => cut_off,
            Err(left) => format!("{cut_off}; {}: {}", left.what, left.next_step),
        }
    }

    /// Mounts that a process that ends now leaves, which is a failure of it.
    fn left(&self) -> Result<(), Problem> {
        let mounts = MountTable::read().unwrap_or_default();
        let mut left = Vec::new();
        for served in self.served() {
            let mountpoint = &served.options.mountpoint;
            if mounts.type_at(mountpoint) == Some(FS_TYPE) {
                left.push(mountpoint.display().to_string());
            }
        }
        let are = match left.len() {
            0 => return Ok(()),
            1 => "is",
            _ => "are",
        };
        let what = format!("{} {are} left without a daemon", left.join(", "));
        Err(Problem::new(ProblemKind::Failed, what, format!("fusermount3 -uz {}", left.join(" "))))
    }

    /// What is not served because it stands in another tenant's way.
    pub(super) fn refuse(&self, refused: Vec<Refused>) {
        for one in &refused {
            tracing::error!(tenant = one.asked.name, "left out: {}", one.why);
        }
        *lock(&self.refused) = refused;
    }

    /// What each tenant is at, those too that are not mounted.
    pub(super) fn entries(&self) -> Vec<TenantEntry> {
        let slots = self.lock();
        let mut entries: Vec<_> = slots.iter().map(|(name, slot)| slot.entry(name)).collect();
        drop(slots);
        entries.extend(lock(&self.refused).iter().map(|refused| TenantEntry {
            name: refused.asked.name.clone(),
            state: TenantState::Refused,
            since: 0,
            data_dir: refused.asked.data_dir.clone().into(),
            mountpoint: refused.asked.mountpoint.clone().into(),
            config: Some(refused.asked.config.clone().into()),
            cause: Some(refused.why.what.clone()),
            next_step: Some(refused.why.next_step.clone()),
            changed: false,
        }));
        entries
    }

    /// What one tenant is at.
    pub(super) fn entry(&self, name: &str) -> Result<TenantEntry, Problem> {
        let entry = self.lock().get(name).map(|slot| slot.entry(name));
        entry.ok_or_else(|| self.unknown(name))
    }

    /// Names of tenants, and what was asked of each.
    pub(super) fn sources(&self) -> Vec<(String, Source)> {
        self.lock().iter().map(|(name, slot)| (name.clone(), slot.source.clone())).collect()
    }

    /// A tenant is asked for otherwise: by its next attach. `is_other`: its mount is not as asked
    /// for. One that has left meanwhile is new.
    pub(super) fn ask_otherwise(self: &Arc<Self>, name: &str, source: Source, is_other: bool) {
        let mut slots = self.lock();
        let Some(slot) = slots.get_mut(name) else {
            drop(slots);
            return self.add(name, source);
        };
        slot.source = source;
        slot.is_changed |= is_other && !slot.phase.is_down();
        let comes_back = std::mem::take(&mut slot.is_leaving);
        let is_failed = matches!(slot.phase, Phase::Failed(_));
        drop(slots);
        if is_failed {
            self.begin(name);
        } else if comes_back {
            let (fleet, name) = (Arc::clone(self), name.to_owned());
            self.tending.spawn(async move {
                fleet.settled(&name).await;
                fleet.begin(&name);
            });
        }
    }

    /// Has all tenants that are mounted judged by the settings that are asked for.
    /// `by_another`: another policy judges now, which may not know those that were taken.
    pub(super) fn judge_all_as_asked(self: &Arc<Self>, by_another: bool) {
        let names: Vec<_> = self.lock().keys().cloned().collect();
        names.iter().for_each(|name| self.judge_as_asked(name, by_another));
    }

    /// Has a tenant that is mounted judged by the settings that are asked for, as soon as the
    /// policy has a look at them. Those that will not do are said, and those before stay.
    fn judge_as_asked(self: &Arc<Self>, name: &str, by_another: bool) {
        let (served, asked) = {
            let slots = self.lock();
            match slots.get(name).map(|slot| (&slot.phase, slot.source.overrides())) {
                Some((Phase::Mounted(served), Some(asked))) => (Arc::clone(served), asked.clone()),
                _ => return,
            }
        };
        if asked == served.tiering.overrides() && (asked.is_empty() || !by_another) {
            return;
        }
        let (fleet, name) = (Arc::clone(self), name.to_owned());
        self.work.spawn(async move {
            let taken = tokio::select! {
                taken = served.tiering.set_overrides(asked) => taken,
                // Nobody is judged any more.
                () = served.detaching() => return,
            };
            let objection = taken.err();
            if let Some(slot) = fleet.lock().get_mut(&name) {
                slot.objection.clone_from(&objection);
            }
            if let Some(why) = objection {
                tracing::error!(tenant = name, "{why}; those before stay");
            }
        });
    }

    fn unknown(&self, name: &str) -> Problem {
        let refused = lock(&self.refused).iter().find(|one| one.asked.name == name).cloned();
        refused.map_or_else(
            || {
                let what = format!("tenant {name}: not one of this daemon's");
                Problem::new(ProblemKind::Usage, what, "see `coldfs tenant list`")
            },
            |refused| refused.why,
        )
    }

    fn enter(&self, name: &str, phase: Phase) {
        // Dropped below the lock: what a phase held may take its time to go.
        let before = self.lock().get_mut(name).map(|slot| slot.enter(phase));
        self.tell();
        drop(before);
    }

    fn tell(&self) {
        self.changed.send_modify(|number| *number = number.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Slot>> {
        lock(&self.slots)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
