//! One pass over one tenant, as the host keeps it: its cursor survives the component's end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use wasmtime::component::ResourceAny;

use super::answer::{self, Wrong};
use super::contract::{Action, Budget, Candidate, TenantContext};
use super::instance::{Fault, Instance};
use super::judge::Loaded;
use super::wasi::World;
use super::{BATCH, PASS_TIME, STEP_TIME};
use crate::sys;

/// A tenant's candidates, coldest first.
pub trait Offers: Send {
    /// The next ones, at most so many; none: that were all. An error ends the pass.
    fn next(&mut self, limit: usize) -> Result<Vec<Candidate>, String>;
}

/// A pass that is asked for.
pub struct PassRequest {
    /// What is known of the tenant, its overrides included; they were checked before.
    pub context: TenantContext,
    /// Turns of a tenant of weight 2 are twice as long as those of weight 1.
    pub weight: u32,
    /// What to judge.
    pub offers: Box<dyn Offers>,
    /// Decisions after which the pass ends: what is decided is kept in memory.
    pub max_decisions: usize,
    /// The policy that the offers were made for; none: whichever is in force.
    pub policy: Option<Arc<Loaded>>,
    /// Nothing is done by it: where the component fails, no failure is counted for the tenant.
    pub is_trial: bool,
}

/// A decision that may be believed as far as its form goes.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The file.
    pub file: Candidate,
    /// What to do with it.
    pub action: Action,
    /// Larger runs first.
    pub priority: u16,
    /// The rule's number in [`PassReport::rules`].
    pub rule: u16,
}

/// How a pass ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All was judged that the policy wanted to judge.
    Complete,
    /// As much was decided as may be.
    Full,
    /// It took more time than a pass has.
    Slow,
    /// Another policy was put in force meanwhile.
    Replaced,
    /// The component failed.
    Failed(Fault),
    /// It failed too often: the tenant is left out until somebody reloads.
    LeftOut,
    /// The candidates could not be read.
    Unreadable(String),
}

/// What came of a pass.
#[derive(Clone, Debug)]
pub struct PassReport {
    /// How it ended.
    pub ending: Ending,
    /// Candidates that were judged.
    pub judged: u64,
    /// What is to be done, in the order of the candidates.
    pub decided: Vec<Decided>,
    /// Decisions that were left out, because they were none.
    pub dropped: u64,
    /// Names of rules.
    pub rules: Arc<[String]>,
}

/// A pass that is under way.
pub(super) struct Live {
    request: PassRequest,
    reply: oneshot::Sender<PassReport>,
    world: World,
    /// The component's side of it; none: to be begun, or begun again.
    pass: Option<ResourceAny>,
    batch: Vec<Candidate>,
    /// How far the batch is judged.
    at: usize,
    deficit: usize,
    /// CPU time so far.
    spent: Duration,
    stuck: bool,
    /// What decisions so far free.
    freed_bytes: u64,
    report: PassReport,
}

impl Live {
    pub(super) fn new(
        request: PassRequest,
        rules: Arc<[String]>,
        reply: oneshot::Sender<PassReport>,
    ) -> Self {
        let world = World::of(request.context.now_seconds, request.context.seed);
        let report = PassReport {
            ending: Ending::Complete,
            judged: 0,
            decided: Vec::new(),
            dropped: 0,
            rules,
        };
        Self {
            request,
            reply,
            world,
            pass: None,
            batch: Vec::new(),
            at: 0,
            deficit: 0,
            spent: Duration::ZERO,
            stuck: false,
            freed_bytes: 0,
            report,
        }
    }

    pub(super) fn tenant(&self) -> u32 {
        self.request.context.tenant
    }

    /// The instance is gone: the component begins this pass again, at the cursor.
    pub(super) fn forget_instance(&mut self) {
        self.pass = None;
        self.stuck = false;
    }

    /// Takes the component's side of the pass, to be dropped.
    pub(super) fn take_pass(&mut self) -> Option<ResourceAny> {
        self.pass.take()
    }

    pub(super) fn is_trial(&self) -> bool {
        self.request.is_trial
    }

    /// Whether nobody waits for it any more.
    pub(super) fn is_unwanted(&self) -> bool {
        self.reply.is_closed()
    }

    pub(super) fn end(mut self, ending: Ending) {
        self.report.ending = ending;
        // Who asked may have gone away.
        drop(self.reply.send(self.report));
    }

    /// One turn; how the pass ended, if it did. A fault is the component's end.
    pub(super) fn turn(&mut self, instance: &mut Instance) -> Result<Option<Ending>, Fault> {
        let weight = usize::try_from(self.request.weight.max(1)).unwrap_or(usize::MAX);
        self.deficit = self.deficit.saturating_add(BATCH.saturating_mul(weight));
        let began = sys::thread_cpu_time();
        // A policy that looks at little in each of its steps has no longer turn for that.
        while self.deficit > 0 && sys::thread_cpu_time().saturating_sub(began) < STEP_TIME {
            if self.at == self.batch.len() {
                self.at = 0;
                self.batch = match self.request.offers.next(BATCH) {
                    Ok(batch) if batch.is_empty() => return Ok(Some(Ending::Complete)),
                    Ok(batch) => batch,
                    Err(why) => return Ok(Some(Ending::Unreadable(why))),
                };
            }
            let room = self.request.max_decisions.saturating_sub(self.report.decided.len());
            if room == 0 {
                return Ok(Some(Ending::Full));
            }
            if self.step(instance, room)? {
                return Ok(Some(Ending::Complete));
            }
        }
        // What a turn that ended by time has left is no credit.
        self.deficit = 0;
        self.spent += sys::thread_cpu_time().saturating_sub(began);
        Ok((self.spent >= PASS_TIME).then_some(Ending::Slow))
    }

    /// One step; whether the policy needs no more.
    fn step(&mut self, instance: &mut Instance, room: usize) -> Result<bool, Fault> {
        let pass = match self.pass {
            Some(pass) => pass,
            None => {
                let mut context = self.request.context.clone();
                let goal = &mut context.release_goal_bytes;
                *goal = goal.saturating_sub(self.freed_bytes);
                let pass = instance.call("a pass's begin", &mut self.world, |policy, store| {
                    policy.tenant_pass().call_constructor(store, &context)
                })?;
                *self.pass.insert(pass)
            }
        };
        let offered = &self.batch[self.at..];
        // No more than may be decided: a policy that looks at its budget late does no harm.
        let offered = &offered[..offered.len().min(self.deficit).min(room)];
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let budget =
            Budget { max_candidates: number(offered.len()), max_decisions: number(offered.len()) };
        let answer = instance.call("step", &mut self.world, |policy, store| {
            policy.tenant_pass().call_step(store, pass, offered, budget)
        })?;
        let step = answer::step(offered.len(), &budget, self.report.rules.len(), answer)?;
        if step.consumed == 0 && !step.done && std::mem::replace(&mut self.stuck, true) {
            return Err(Wrong::Nothing.into());
        }
        self.stuck = step.consumed == 0;
        for decision in step.decisions {
            let file = offered[decision.index as usize].clone();
            if matches!(decision.action, Action::Release | Action::Migrate) {
                self.freed_bytes = self.freed_bytes.saturating_add(file.local_bytes);
            }
            let (action, priority, rule) = (decision.action, decision.priority, decision.rule);
            self.report.decided.push(Decided { file, action, priority, rule });
        }
        self.report.dropped += step.dropped;
        self.report.judged += step.consumed as u64;
        self.at += step.consumed;
        // A step that looks at nothing has had its turn all the same.
        self.deficit -= step.consumed.max(1);
        Ok(step.done)
    }
}
