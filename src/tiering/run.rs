//! The loop: when a pass begins, and what it is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::sys::statvfs::fstatvfs;
use tokio_util::sync::CancellationToken;

use super::need::Room;
use super::offers::CatalogOffers;
use super::{DECISIONS, PassSummary, Tiering, now};
use crate::catalog::Part;
use crate::policy::contract::{Rulebook, TenantContext, UNPRICED};
use crate::policy::{Ending, Loaded, PassReport, PassRequest};

/// How long a pass waits until the catalog has what happened before it.
const PATIENCE: Duration = Duration::from_secs(1);
/// After the mount: the catalog is being walked, and whoever mounted it wants the disk.
const FIRST_AFTER: Duration = Duration::from_mins(1);
/// How often a filesystem is looked at that may have filled up between two passes.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// From a pass that left something to do to the next, if it moved files or set files aside.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What a pass goes by.
#[derive(Clone)]
pub(super) struct Brief {
    pub(super) part: Part,
    pub(super) policy: Arc<Loaded>,
    /// What the policy's settings and the tenant's own come to.
    pub(super) rulebook: Rulebook,
    pub(super) context: TenantContext,
}

impl Tiering {
    /// Passes until it is cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        if !self.options.enabled || !self.tenant.may_move() {
            return self.doing("off");
        }
        let mut pause = FIRST_AFTER.min(self.options.interval);
        loop {
            if !self.wait(pause, &cancel).await {
                return;
            }
            let (summary, set_aside) = self.pass(&cancel).await;
            if cancel.is_cancelled() {
                return;
            }
            let moved = summary.released + summary.archived + summary.recalled;
            let more = summary.cut_short.is_some() || self.goal_bytes() > 0;
            pause = if moved + set_aside > 0 && more {
                AGAIN_AFTER.min(self.options.interval)
            } else {
                self.options.interval
            };
            self.note(summary);
        }
    }

    /// Waits for the next pass; sooner if the filesystem fills up, or somebody asks. False: the
    /// end has come.
    async fn wait(&self, pause: Duration, cancel: &CancellationToken) -> bool {
        let until = now() + pause;
        self.state().next = Some(until);
        self.doing("waiting");
        let was_pressed = self.goal_bytes() > 0;
        loop {
            // A clock that is set and set again is to be seen at it.
            self.clock.read();
            let left = until.saturating_duration_since(now());
            // One that was pressed before has had its pass: it found nothing more to move.
            if left.is_zero() || (!was_pressed && self.goal_bytes() > 0) {
                self.state().next = None;
                return !cancel.is_cancelled();
            }
            tokio::select! {
                () = tokio::time::sleep(left.min(LOOK_EVERY)) => {}
                () = self.wake.notified() => { self.state().next = None; return !cancel.is_cancelled(); }
                () = cancel.cancelled() => return false,
            }
        }
    }

    /// One pass: judged, then carried out. Beside it how many files were set aside.
    async fn pass(self: &Arc<Self>, cancel: &CancellationToken) -> (PassSummary, u64) {
        let started = now();
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let mut summary =
            PassSummary { at: at.map_or(0, |at| at.as_secs()), ..PassSummary::default() };
        if let Some(broken) = self.state().breaker.broken(now()) {
            summary.cut_short = Some(format!("{}: {}", broken.class, broken.error));
            return (summary, 0);
        }
        self.doing("judging");
        let judged = tokio::select! {
            judged = self.judged(false) => judged,
            () = cancel.cancelled() => return (summary, 0),
        };
        let mut set_aside = 0;
        match judged {
            Err(why) => summary.cut_short = Some(why),
            Ok((brief, report)) => {
                summary.judged = report.judged;
                summary.goal_bytes = brief.context.release_goal_bytes;
                if report.dropped > 0 {
                    summary.held.insert("no-answer".to_owned(), report.dropped);
                }
                summary.cut_short = ending(&report.ending);
                self.doing("moving");
                set_aside = self.carry_out(&brief, report, &mut summary, cancel).await;
            }
        }
        summary.seconds = now().saturating_duration_since(started).as_secs_f64();
        (summary, set_aside)
    }

    /// What the policy says now; on trial, if nothing is to come of it.
    pub(super) async fn judged(
        self: &Arc<Self>,
        is_trial: bool,
    ) -> Result<(Brief, PassReport), String> {
        let brief = self.brief().await?;
        let offers = CatalogOffers::new(self, brief.part.clone(), self.moment(), &brief.rulebook);
        let request = PassRequest {
            context: brief.context.clone(),
            weight: 1,
            offers: Box::new(offers),
            max_decisions: DECISIONS,
            policy: Some(Arc::clone(&brief.policy)),
            is_trial,
        };
        let report = self.judge.pass(request).await.map_err(|error| error.to_string())?;
        Ok((brief, report))
    }

    /// What is known of the tenant now.
    pub(super) async fn brief(self: &Arc<Self>) -> Result<Brief, String> {
        let (policy, overrides, rulebook) = self.rulebook(&self.overrides()).await?;
        let asked = Arc::clone(self);
        let known = tokio::task::spawn_blocking(move || {
            let report = asked.keeper.settled(PATIENCE);
            let part = report.part.ok_or("there is no catalog")?;
            let totals = part.totals().map_err(|error| {
                asked.keeper.found_damaged(&error);
                error.to_string()
            })?;
            Ok((part, totals.local_bytes))
        });
        let (part, local_bytes) =
            known.await.unwrap_or_else(|_panic| Err("the catalog cannot be read".to_owned()))?;
        let room = self.room();
        let now = self.clock.read().now;
        let now_seconds = now.0.into();
        let context = TenantContext {
            tenant: self.tenant.seal.tenant().number(),
            now_seconds,
            seed: u64::from(self.tenant.seal.tenant().number()) << 32 ^ u64::from(now.0),
            heat_half_life_seconds: u32::try_from(self.options.half_life.0.as_secs())
                .unwrap_or(u32::MAX),
            tenant_local_bytes: local_bytes,
            tenant_quota_bytes: self.options.quota_bytes,
            filesystem_capacity_bytes: room.capacity_bytes,
            filesystem_used_bytes: room.used_bytes,
            release_goal_bytes: self.goal_bytes(),
            tariff: UNPRICED,
            overrides,
        };
        Ok(Brief { part, policy, rulebook, context })
    }

    /// The filesystem below, as its users may fill it.
    pub(super) fn room(&self) -> Room {
        let Ok(space) = fstatvfs(self.tenant.root()) else { return Room::default() };
        let bytes = |blocks: u64| blocks.saturating_mul(space.fragment_size());
        let used_bytes = bytes(space.blocks().saturating_sub(space.blocks_free()));
        Room { capacity_bytes: used_bytes + bytes(space.blocks_available()), used_bytes }
    }

    /// Bytes to free for the filesystem's sake.
    pub(super) fn goal_bytes(&self) -> u64 {
        match self.frees {
            true => self.room().goal_bytes(self.options.high_percent, self.options.low_percent),
            false => 0,
        }
    }

    fn note(&self, summary: PassSummary) {
        let mut state = self.state();
        state.passes += 1;
        let total = &mut state.total;
        total.seconds += summary.seconds;
        total.judged += summary.judged;
        total.archived += summary.archived;
        total.archived_bytes += summary.archived_bytes;
        total.released += summary.released;
        total.released_bytes += summary.released_bytes;
        total.recalled += summary.recalled;
        total.failed += summary.failed;
        add(&mut total.held, &summary.held);
        state.last = Some(summary);
    }
}

fn add(to: &mut BTreeMap<String, u64>, more: &BTreeMap<String, u64>) {
    for (reason, files) in more {
        *to.entry(reason.clone()).or_default() += files;
    }
}

/// Why a pass did not come to its end; none: it did.
pub(super) fn ending(ending: &Ending) -> Option<String> {
    match ending {
        Ending::Complete => None,
        Ending::Full => Some(format!("{DECISIONS} decisions are enough for one pass")),
        Ending::Slow => Some("the policy is slow: the pass had its time".to_owned()),
        Ending::Replaced => Some("another policy was put in force".to_owned()),
        Ending::Failed(fault) => Some(format!("the policy: {fault}")),
        Ending::LeftOut => {
            Some("the policy failed too often: `coldfs policy reload` asks it again".to_owned())
        }
        Ending::Unreadable(why) => Some(format!("the catalog: {why}")),
    }
}
