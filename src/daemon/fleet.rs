//! The tenants of a daemon: attached and detached one by one, none of them in another's way.
//!
//! ```text
//! attaching -> mounted -> detaching -> detached --attach--> attaching
//!     +---> failed --attach, reload--> attaching
//! ```
//!
//! A task a tenant carries it from one end of that line to the other; whoever asks for something
//! sets it off and waits until the tenant stands where it should.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::attach::{Attached, assemble, give_up};
use super::failed;
use super::machine::Machine;
use super::served::Served;
use super::slot::{Phase, Slot, Source};
use crate::config::tenants::Refused;
use crate::control::wire::{Counters, Problem, ProblemKind, TenantEntry, TenantState};

/// Tenants that are being attached at once: each asks the store a few things, and reads its disk.
const ATTACHING_AT_ONCE: usize = 4;
/// How long the last users of a tenant that is detached may take to let go of it, before it is
/// called detached all the same: its lock goes with the last of them.
const LETTING_GO: Duration = Duration::from_secs(10);
const LETTING_GO_POLL: Duration = Duration::from_millis(10);

/// The tenants of a daemon.
pub(super) struct Fleet {
    pub(super) machine: Arc<Machine>,
    slots: Mutex<BTreeMap<String, Slot>>,
    refused: Mutex<Vec<Refused>>,
    changed: watch::Sender<u64>,
    attaching: Semaphore,
    /// What tenants did that are not mounted any more.
    retired: Mutex<Counters>,
    /// Cancelled when the daemon ends.
    ending: CancellationToken,
    /// The daemon of `coldfs mount`: it ends with its tenant.
    is_one: bool,
}

impl Fleet {
    pub(super) fn new(machine: Arc<Machine>, is_one: bool) -> Arc<Self> {
        Arc::new(Self {
            machine,
            slots: Mutex::default(),
            refused: Mutex::default(),
            changed: watch::Sender::default(),
            attaching: Semaphore::new(ATTACHING_AT_ONCE),
            retired: Mutex::default(),
            ending: CancellationToken::new(),
            is_one,
        })
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
            (slot.let_go, slot.is_changed) = (let_go.clone(), false);
            slot.source.clone()
        };
        self.tell();
        let (fleet, name) = (Arc::clone(self), name.to_owned());
        tokio::spawn(async move { fleet.tend(&name, source, let_go).await });
    }

    /// From one end of a tenant's way to the other.
    async fn tend(&self, name: &str, source: Source, let_go: CancellationToken) {
        let attached = match self.attach(name, source, &let_go).await {
            Ok(attached) => attached,
            Err(_stopped) if let_go.is_cancelled() => return self.enter(name, Phase::Detached),
            Err(problem) => {
                if !self.is_one {
                    tracing::error!(tenant = name, "left out: {problem}");
                }
                return self.enter(name, Phase::Failed(problem));
            }
        };
        let (served, ended) = (Arc::clone(&attached.served), attached.ended());
        self.enter(name, Phase::Mounted(Arc::clone(&served)));
        tracing::info!(tenant = name, mountpoint = %served.options.mountpoint.display(), "mounted");
        tokio::select! {
            () = ended.cancelled() => {}
            () = let_go.cancelled() => {}
        }
        served.begin_detach();
        self.enter(name, Phase::Detaching(Some(Arc::clone(&served))));
        let detached = attached.detach().await;
        lock(&self.retired).add(&served.counters());
        if !self.is_one {
            let tenant = Arc::downgrade(&served.tenant);
            drop(served);
            self.enter(name, Phase::Detaching(None));
            let mut waited = Duration::ZERO;
            while tenant.strong_count() > 0 && waited < LETTING_GO {
                tokio::time::sleep(LETTING_GO_POLL).await;
                waited += LETTING_GO_POLL;
            }
            if tenant.strong_count() > 0 {
                tracing::warn!(tenant = name, "somebody still uses it: it cannot be attached yet");
            }
        }
        match detached {
            Ok(()) => {
                tracing::info!(tenant = name, "detached");
                self.enter(name, Phase::Detached);
            }
            Err(error) => {
                tracing::error!(tenant = name, %error, "it could not be detached");
                self.enter(name, Phase::Failed(failed("detach", &error)));
            }
        }
    }

    async fn attach(
        &self,
        name: &str,
        source: Source,
        let_go: &CancellationToken,
    ) -> Result<Attached, Problem> {
        let gone = || Problem::new(ProblemKind::Failed, "told to stop", "attach it again");
        let _turn = tokio::select! {
            () = let_go.cancelled() => return Err(gone()),
            turn = self.attaching.acquire() => turn,
        };
        let (machine, stop) = (Arc::clone(&self.machine), let_go.clone());
        let served = off_the_runtime(async move {
            let assembled = async {
                let options = source.resolve().await?;
                assemble(&machine, &options).await
            };
            tokio::select! {
                () = stop.cancelled() => Err(gone()),
                served = assembled => served,
            }
        })
        .await?;
        // Before it is mounted: a command never meets a mount without a daemon.
        self.enter(name, Phase::Attaching(Some(Arc::clone(&served))));
        if let_go.is_cancelled() {
            self.enter(name, Phase::Attaching(None));
            give_up(served).await;
            return Err(gone());
        }
        let mounting = Arc::clone(&served);
        let mounted = off_the_runtime(async move { Attached::begin(&mounting) }).await;
        if mounted.is_err() {
            self.enter(name, Phase::Attaching(None));
            give_up(served).await;
        }
        mounted
    }

    /// Mounts a tenant and waits until its mount answers.
    pub(super) async fn attach_by_name(self: &Arc<Self>, name: &str) -> Result<(), Problem> {
        if !self.lock().contains_key(name) {
            return Err(self.unknown(name));
        }
        self.settled(name).await;
        self.begin(name);
        self.mounted(name).await?;
        // The configuration may have lost it meanwhile.
        if self.lock().get(name).is_none_or(|slot| slot.is_leaving) {
            return Err(self.unknown(name));
        }
        Ok(())
    }

    /// Waits until a tenant's mount answers; it may be gone again by then.
    pub(super) async fn mounted(&self, name: &str) -> Result<(), Problem> {
        self.settled(name).await;
        match self.lock().get(name).map(|slot| &slot.phase) {
            Some(Phase::Failed(problem)) => Err(problem.clone()),
            _ => Ok(()),
        }
    }

    /// Takes a tenant's mount away and waits until it is gone.
    pub(super) async fn detach_by_name(&self, name: &str) -> Result<(), Problem> {
        match self.lock().get(name) {
            Some(slot) => slot.let_go.cancel(),
            None => return Err(self.unknown(name)),
        }
        self.gone(name).await
    }

    /// Waits until a tenant's mount is gone. A tenant that cannot be mounted has none.
    pub(super) async fn gone(&self, name: &str) -> Result<(), Problem> {
        self.until(|slots| slots.get(name).is_none_or(|slot| slot.phase.is_down())).await;
        match self.lock().get(name).map(|slot| &slot.phase) {
            Some(Phase::Failed(problem)) if self.is_one => Err(problem.clone()),
            _ => Ok(()),
        }
    }

    /// Takes a tenant's mount away, for nobody to attach it again, and forgets the tenant.
    pub(super) async fn remove(&self, name: &str) -> Result<(), Problem> {
        if let Some(slot) = self.lock().get_mut(name) {
            slot.is_leaving = true;
            slot.let_go.cancel();
        }
        let gone = self.gone(name).await;
        self.lock().remove(name);
        self.tell();
        gone
    }

    /// Waits until no tenant is on its way to somewhere.
    pub(super) async fn all_settled(&self) {
        self.until(|slots| slots.values().all(|slot| slot.phase.is_settled())).await;
    }

    async fn settled(&self, name: &str) {
        self.until(|slots| slots.get(name).is_none_or(|slot| slot.phase.is_settled())).await;
    }

    /// Takes all mounts away; none is made from now on.
    pub(super) async fn end(&self) {
        self.ending.cancel();
        self.until(|slots| slots.values().all(|slot| slot.phase.is_down())).await;
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

    /// The name that a tenant has here.
    pub(super) fn name_of(&self, served: &Served) -> String {
        let slots = self.lock();
        let is_it = |slot: &Slot| slot.served().is_some_and(|one| std::ptr::eq(&**one, served));
        let found = slots.iter().find(|(_, slot)| is_it(slot));
        found.map_or_else(|| served.tenant.name.clone(), |(name, _)| name.clone())
    }

    /// What tenants did that are not mounted any more.
    pub(super) fn retired(&self) -> Counters {
        lock(&self.retired).clone()
    }

    /// What a process that ends now leaves, for a person.
    pub(super) fn left(&self) -> String {
        let served = self.served();
        let moves: usize = served.iter().map(|served| served.running().len()).sum();
        let mut left = match moves {
            0 => "no move was under way".to_owned(),
            moves => format!("moves cut off: {moves}"),
        };
        for mountpoint in served.iter().filter(|served| served.is_in_the_mount_table()) {
            let mountpoint = mountpoint.options.mountpoint.display();
            left +=
                &format!("; {mountpoint} is left without a daemon: fusermount3 -uz {mountpoint}");
        }
        left
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

    /// A tenant is asked for otherwise: by its next attach. `is_other`: its mount is not as asked for.
    pub(super) fn ask_otherwise(self: &Arc<Self>, name: &str, source: Source, is_other: bool) {
        let mut slots = self.lock();
        let Some(slot) = slots.get_mut(name) else { return };
        slot.source = source;
        slot.is_changed |= is_other && !slot.phase.is_down();
        let is_failed = matches!(slot.phase, Phase::Failed(_));
        drop(slots);
        if is_failed {
            self.begin(name);
        }
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

/// Runs what waits for a disk now and then where it keeps nobody from the runtime's few threads.
async fn off_the_runtime<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    let runtime = tokio::runtime::Handle::current();
    let done = tokio::task::spawn_blocking(move || runtime.block_on(work)).await;
    done.map_err(|error| failed("attach it", &error))?
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
