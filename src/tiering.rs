//! Tiering by itself: a pass now and then, by the policy's advice and the host's own guards.
//!
//! ```text
//! need (filesystem, quota) -> offers (catalog, coldest first) -> policy::Judge -> Decided
//!   -> guards (P9, pins, open files) -> caps -> migrate, in small batches -> moves.jsonl
//!            ^ looked at again, at the file itself, right before it is moved
//! ```
//!
//! The policy is advice. What no policy can have: a file released without proof of idleness
//! ([`guards`]), an open or pinned one, more than the caps ([`caps`]), or anything while recalls run,
//! the disk is busy ([`pressure`]) or a class of errors repeats ([`breaker`]). A file that failed is
//! left alone for a while ([`quarantine`]). [`run`] is the loop, [`moves`] carry out, [`ask`] answers
//! `plan` and `explain` by the same judgement.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::catalog::Keeper;
use crate::inode::Inodes;
use crate::migrate::Migrator;
use crate::policy::contract::{Action, Rulebook, Setting};
use crate::policy::settings::Settings;
use crate::policy::{self, Judge};
use crate::recall::Recall;
use crate::sys::mount_table::Mounted;
use crate::temperature::HalfLife;
use crate::tenant::{Lines, Notebook, Tenant};

mod ask;
mod batch;
pub mod breaker;
pub mod caps;
pub mod clock;
mod facts;
pub mod guards;
mod moves;
pub mod need;
mod offers;
pub mod pressure;
pub mod quarantine;
mod run;

#[cfg(test)]
mod tests;

pub use ask::{Explanation, KEEP, PlanSummary, Planned};

use breaker::Breaker;
use caps::{Caps, Limits};
use clock::SteadyClock;
use quarantine::Quarantine;

/// Decisions of one pass at most: they are kept in memory until they are carried out.
const DECISIONS: usize = 16_384;
/// The notebook of what was moved, a line a file, in `.coldfs`.
const MOVES: &str = "moves.jsonl";

/// How a tenant is tiered.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether anything moves by itself.
    pub enabled: bool,
    /// From the end of a pass to the next.
    pub interval: Duration,
    /// Above this much of the filesystem, percent, files are released ...
    pub high_percent: u32,
    /// ... until it is down to this.
    pub low_percent: u32,
    /// What the tenant may take here, bytes; none: the filesystem is all that counts.
    pub quota_bytes: Option<u64>,
    /// No policy can release what was used more recently.
    pub least_idle: Duration,
    /// No policy can release what came home more recently.
    pub least_stay: Duration,
    /// What may be moved in an hour.
    pub limits: Limits,
    /// Above this much of the time waiting for disks, percent, nothing is moved.
    pub io_pressure_percent: u32,
    /// How long until a use counts half.
    pub half_life: HalfLife,
    /// Which policy; of a daemon with many tenants, one for all.
    pub policy: policy::Options,
    /// What this tenant has instead of its settings.
    pub overrides: Settings,
}

/// What a pass came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PassSummary {
    /// When it began, seconds since 1970.
    pub at: u64,
    /// How long it took.
    pub seconds: f64,
    /// Files that the policy looked at.
    pub judged: u64,
    /// Files archived.
    pub archived: u64,
    /// Bytes of them.
    pub archived_bytes: u64,
    /// Files released.
    pub released: u64,
    /// Bytes that became free.
    pub released_bytes: u64,
    /// Files that came home ahead of need.
    pub recalled: u64,
    /// Decisions that were not carried out, by reason.
    pub held: BTreeMap<String, u64>,
    /// Files that should have moved and could not.
    pub failed: u64,
    /// Bytes that were to be freed for the filesystem's sake.
    pub goal_bytes: u64,
    /// Why it ended early; none: it did not.
    pub cut_short: Option<String>,
}

/// What stands in the way of all moves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Broken {
    /// Which errors.
    pub class: String,
    /// The last of them.
    pub error: String,
    /// Seconds until it is tried again.
    pub seconds: u64,
}

/// How tiering fares.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Whether files move by themselves.
    pub enabled: bool,
    /// What it does now: `off`, `waiting`, `judging`, `moving`, or why it pauses.
    pub state: String,
    /// Passes so far.
    pub passes: u64,
    /// The last of them.
    pub last: Option<PassSummary>,
    /// Seconds until the next.
    pub next_in_seconds: Option<u64>,
    /// All passes together.
    pub total: PassSummary,
    /// The breaker, while it is open.
    pub broken: Option<Broken>,
    /// Files that are left alone for a while.
    pub quarantined: u64,
    /// Times that the policy failed.
    pub policy_faults: u64,
    /// The last of them.
    pub policy_fault: Option<String>,
    /// Whether the policy failed so often that it is not asked any more.
    pub left_out: bool,
}

/// What changes while it runs.
struct State {
    doing: String,
    passes: u64,
    last: Option<PassSummary>,
    total: PassSummary,
    next: Option<Instant>,
    caps: Caps,
    breaker: Breaker,
    quarantine: Quarantine,
}

/// What of a tenant it goes by, and moves.
#[derive(Clone)]
pub struct Parts {
    /// The tenant.
    pub tenant: Arc<Tenant>,
    /// Its inodes.
    pub inodes: Arc<Inodes>,
    /// Archives and releases.
    pub migrator: Arc<Migrator>,
    /// Brings home.
    pub recall: Arc<Recall>,
    /// Keeps the catalog.
    pub keeper: Arc<Keeper>,
}

/// Tiering of one tenant.
pub struct Tiering {
    tenant: Arc<Tenant>,
    inodes: Arc<Inodes>,
    migrator: Arc<Migrator>,
    recall: Arc<Recall>,
    keeper: Arc<Keeper>,
    judge: Arc<Judge>,
    options: Options,
    /// What the tenant has instead of the policy's settings.
    overrides: Mutex<Settings>,
    clock: SteadyClock,
    /// Whether the filesystem below keeps atimes.
    keeps_atime: bool,
    /// Whether a release frees anything: not where the store is on the same filesystem.
    frees: bool,
    state: Mutex<State>,
    moved: Notebook,
    wake: Notify,
    /// Held by the application that asks for a rule.
    asked: tokio::sync::Mutex<()>,
}

impl Tiering {
    /// Tiering of a tenant; nothing happens before [`Tiering::load`] and [`Tiering::run`].
    /// One `judge` judges all tenants of a daemon. `frees`: whether a release frees anything.
    pub fn new(parts: Parts, judge: Arc<Judge>, options: Options, frees: bool) -> Self {
        let Parts { tenant, inodes, migrator, recall, keeper } = parts;
        let keeps_atime = Mounted::of(tenant.root()).is_ok_and(|mount| mount.keeps_atime());
        let now = now();
        let state = State {
            doing: if options.enabled { "waiting" } else { "off" }.to_owned(),
            passes: 0,
            last: None,
            total: PassSummary::default(),
            next: None,
            caps: Caps::new(options.limits, now),
            breaker: Breaker::default(),
            quarantine: Quarantine::default(),
        };
        Self {
            tenant,
            inodes,
            migrator,
            recall,
            keeper,
            judge,
            overrides: Mutex::new(options.overrides.clone()),
            options,
            clock: SteadyClock::start(),
            keeps_atime,
            frees,
            state: Mutex::new(state),
            moved: Notebook::new(MOVES),
            wake: Notify::new(),
            asked: tokio::sync::Mutex::default(),
        }
    }

    /// Puts a policy in force; on an error the old one stays.
    pub async fn load(
        &self,
        options: policy::Options,
    ) -> Result<Arc<policy::Loaded>, policy::JudgeError> {
        self.judge.load(options).await
    }

    /// Puts another policy in force, and has it judge at once; on an error the old one stays.
    pub async fn reload(
        &self,
        options: policy::Options,
    ) -> Result<Arc<policy::Loaded>, policy::JudgeError> {
        let loaded = self.load(options).await?;
        self.wake.notify_one();
        Ok(loaded)
    }

    /// The policy in force. Where nothing moves by itself, none is before somebody asks.
    pub async fn loaded(&self) -> Result<Arc<policy::Loaded>, policy::JudgeError> {
        self.judge.loaded_or(&self.options.policy).await
    }

    /// Has the tenant judged by other settings of its own from the next pass on; refused ones change
    /// nothing.
    pub async fn set_overrides(&self, overrides: Settings) -> Result<(), String> {
        self.rulebook(&overrides).await?;
        *self.overrides.lock().unwrap_or_else(PoisonError::into_inner) = overrides;
        self.wake.notify_one();
        Ok(())
    }

    /// Has the policy judge now; another one may be in force.
    pub fn judge_soon(&self) {
        self.wake.notify_one();
    }

    /// What these settings come to over those of the policy in force.
    async fn rulebook(
        &self,
        overrides: &Settings,
    ) -> Result<(Arc<policy::Loaded>, Vec<Setting>, Rulebook), String> {
        let policy = self.loaded().await.map_err(|error| error.to_string())?;
        if overrides.is_empty() {
            let rulebook = policy.rulebook.clone();
            return Ok((policy, Vec::new(), rulebook));
        }
        let wrong = |fault: policy::Fault| format!("the tenant's policy.settings: {fault}");
        let typed = policy.typed(overrides).map_err(wrong)?;
        let checked = self.judge.check(typed.clone()).await.map_err(|error| error.to_string())?;
        Ok((policy, typed, checked.map_err(wrong)?))
    }

    /// The policy as the tenant is judged by it, with settings of its own.
    pub async fn in_force(&self) -> Result<policy::Loaded, String> {
        let (policy, own, rulebook) = self.rulebook(&self.overrides()).await?;
        let is_own = |setting: &&Setting| own.iter().any(|other| other.key == setting.key);
        let for_all = policy.settings.iter().filter(|setting| !is_own(setting)).cloned();
        let settings = for_all.chain(own.iter().cloned()).collect();
        let rules = rulebook.rules.clone().into();
        Ok(policy::Loaded { settings, rules, rulebook, ..policy::Loaded::clone(&policy) })
    }

    /// What the tenant has instead of the policy's settings.
    pub fn overrides(&self) -> Settings {
        self.overrides.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the policy failed so often at this tenant that it is not asked any more.
    fn is_left_out(&self, counts: &policy::Counts) -> bool {
        counts.left_out.contains(&self.tenant.seal.tenant().number())
    }

    /// The name of the policy that judges; none: nothing moves by itself, and nobody asked yet.
    pub fn policy_name(&self) -> Option<String> {
        let loaded = self.judge.loaded().map(|loaded| loaded.description.name.clone());
        loaded.or_else(|| self.options.enabled.then(|| "default".to_owned()))
    }

    /// How it is done.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// How it fares.
    pub fn report(&self) -> Report {
        let counts = self.judge.counts();
        let state = self.state();
        let now = now();
        Report {
            enabled: self.options.enabled,
            state: state.doing.clone(),
            passes: state.passes,
            last: state.last.clone(),
            next_in_seconds: state.next.map(|next| next.saturating_duration_since(now).as_secs()),
            total: state.total.clone(),
            broken: state.breaker.broken(now),
            quarantined: state.quarantine.len(now),
            left_out: self.is_left_out(&counts),
            policy_faults: counts.faults,
            policy_fault: counts.last_fault,
        }
    }

    /// What is missing for it here, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.options.enabled && !self.frees {
            notes.push(
                "the store is on the data's own filesystem: nothing is released by watermark, it \
                 would free nothing; name another with --store"
                    .to_owned(),
            );
        }
        if let Some(seconds) = self.clock.ahead() {
            notes.push(format!(
                "the clock was set forward by {seconds} s: files are judged as if it had not been, \
                 until the next mount"
            ));
        }
        notes
    }

    /// Files moved so far.
    pub fn moved(&self) -> u64 {
        let state = self.state();
        state.total.archived + state.total.released + state.total.recalled
    }

    /// What was moved, a line of JSON each, oldest first.
    pub fn moved_lines(&self) -> std::io::Result<Lines> {
        self.moved.lines(&self.tenant)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doing(&self, what: impl Into<String>) {
        self.state().doing = what.into();
    }
}

impl std::fmt::Debug for Tiering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tiering").field("options", &self.options).finish_non_exhaustive()
    }
}

/// The time that waits are measured by; no clock that can be set.
#[allow(clippy::disallowed_methods, reason = "caps and back-offs are real time")]
fn now() -> Instant {
    Instant::now()
}

/// The word of an action, for people and scripts.
pub fn word(action: Action) -> &'static str {
    match action {
        Action::Archive => "archive",
        Action::Release => "release",
        Action::Migrate => "migrate",
        Action::Recall => "recall",
    }
}
