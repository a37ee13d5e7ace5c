//! The judging thread itself: passes in deficit round robin, one instance for all.
//!
//! ```text
//! idle -> a question comes: code is loaded, an instance made, configured
//!      -> turns, one a tenant, until every pass has ended
//!      -> nothing asked for a while: code and instance are given back
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;

use super::answer::{self, Explained};
use super::code;
use super::contract::{Candidate, Description, Rulebook, Setting, TenantContext};
use super::instance::{Fault, Instance, Program, engine};
use super::judge::{Command, Counts, JudgeError, Loaded, Options, lock};
use super::pass::{Ending, Live, PassReport, PassRequest};
use super::settings::{self, Settings};
use super::ticker::Ticker;
use super::wasi::World;
use super::{DEFAULT, FAILURES};

/// How long an instance is kept that nobody asks.
const KEPT_IDLE: Duration = Duration::from_secs(5);

/// A policy that can be run again.
struct Source {
    options: Options,
    component: Arc<[u8]>,
    loaded: Arc<Loaded>,
}

/// The judging thread.
pub(super) struct Court {
    source: Option<Source>,
    program: Option<Program>,
    instance: Option<Instance>,
    live: VecDeque<Live>,
    failures: HashMap<u32, u32>,
    counts: Arc<Mutex<Counts>>,
}

impl Court {
    pub(super) fn new(counts: Arc<Mutex<Counts>>) -> Self {
        Self {
            source: None,
            program: None,
            instance: None,
            live: VecDeque::new(),
            failures: HashMap::new(),
            counts,
        }
    }

    pub(super) fn sit(mut self, commands: &Receiver<Command>) {
        loop {
            let command = if !self.live.is_empty() {
                match commands.try_recv() {
                    Ok(command) => Some(command),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => return,
                }
            } else if self.program.is_some() && self.can_load_again() {
                match commands.recv_timeout(KEPT_IDLE) {
                    Ok(command) => Some(command),
                    Err(RecvTimeoutError::Timeout) => {
                        (self.instance, self.program) = (None, None);
                        crate::sys::give_back_memory();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            } else {
                match commands.recv() {
                    Ok(command) => Some(command),
                    Err(_gone) => return,
                }
            };
            match command {
                Some(command) => self.obey(command),
                None => self.turn(),
            }
        }
    }

    /// Whether code that is given back need not be compiled anew.
    fn can_load_again(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.options.code_dir.is_some())
    }

    fn obey(&mut self, command: Command) {
        // Whoever asked may have gone away.
        match command {
            Command::Load(options, reply) => {
                let loaded = self.load(options);
                drop(reply.send(loaded));
            }
            Command::Pass(request, reply) => self.begin(*request, reply),
            Command::Explain(asked, reply) => {
                let answer = self.explain(&asked.0, &asked.1);
                drop(reply.send(answer));
            }
            Command::Check(settings, reply) => {
                let answer = self.check(&settings);
                drop(reply.send(answer));
            }
        }
    }

    /// A policy takes the place of the one in force, if it proves fit.
    fn load(&mut self, options: Options) -> Result<Arc<Loaded>, JudgeError> {
        let which =
            options.component.as_ref().map_or("default".into(), |path| path.display().to_string());
        let refused = |fault: Fault| JudgeError::Policy { which: which.clone(), fault };
        let component: Arc<[u8]> = match &options.component {
            None => DEFAULT.into(),
            Some(path) => code::read(path)
                .map_err(|error| JudgeError::File { path: path.clone(), why: error.to_string() })?
                .into(),
        };
        let program = program(&component, &options).map_err(refused)?;
        let mut instance = program.instance().map_err(refused)?;
        let (description, settings, rulebook) =
            configure(&mut instance, &options.settings).map_err(refused)?;
        let loaded = Arc::new(Loaded {
            component: options.component.clone(),
            description,
            rules: rulebook.rules.clone().into(),
            rulebook,
            settings,
            hash: blake3::hash(&component).to_hex().to_string(),
        });
        let source = Source { options, component, loaded: Arc::clone(&loaded) };
        self.forget_instance();
        (self.source, self.program, self.instance) = (Some(source), Some(program), Some(instance));
        self.failures.clear();
        lock(&self.counts).left_out.clear();
        // What was judged by other rules is not to be taken for an answer of these.
        for live in std::mem::take(&mut self.live) {
            live.end(Ending::Replaced);
        }
        Ok(loaded)
    }

    fn begin(&mut self, request: PassRequest, reply: oneshot::Sender<PassReport>) {
        let tenant = request.context.tenant;
        let overrides = request.context.overrides.clone();
        let rules =
            self.source.as_ref().map_or_else(|| [].into(), |source| source.loaded.rules.clone());
        if self.failures.get(&tenant).is_some_and(|failures| *failures >= FAILURES) {
            return Live::new(request, rules, reply).end(Ending::LeftOut);
        }
        let in_force = self.source.as_ref().map(|source| &source.loaded);
        let is_other = |wanted| !in_force.is_some_and(|loaded| Arc::ptr_eq(loaded, wanted));
        if request.policy.as_ref().is_some_and(is_other) {
            return Live::new(request, rules, reply).end(Ending::Replaced);
        }
        let rules = match overrides.is_empty() {
            true => Ok(rules),
            false => self.check(&overrides).map(|rulebook| rulebook.rules.into()),
        };
        match rules {
            Ok(rules) => self.live.push_back(Live::new(request, rules, reply)),
            Err(fault) => {
                if !request.is_trial {
                    self.failed(tenant, &fault);
                }
                Live::new(request, [].into(), reply).end(Ending::Failed(fault));
            }
        }
    }

    /// One turn of the pass whose turn it is.
    fn turn(&mut self) {
        let Some(mut live) = self.live.pop_front() else { return };
        if live.is_unwanted() {
            return self.close(&mut live);
        }
        let turned = self.instance().and_then(|instance| live.turn(instance));
        match turned {
            Ok(None) => self.live.push_back(live),
            Ok(Some(ending)) => {
                self.close(&mut live);
                live.end(ending);
            }
            Err(fault) => {
                match live.is_trial() {
                    true => self.count(&fault),
                    false => self.failed(live.tenant(), &fault),
                }
                self.forget_instance();
                live.end(Ending::Failed(fault));
            }
        }
    }

    /// Ends the component's side of a pass.
    fn close(&mut self, live: &mut Live) {
        let (Some(pass), Some(instance)) = (live.take_pass(), self.instance.as_mut()) else {
            return;
        };
        if let Err(fault) = instance.drop_pass(pass) {
            self.failed(live.tenant(), &fault);
            self.forget_instance();
        }
    }

    fn explain(&mut self, context: &TenantContext, file: &Candidate) -> Result<Explained, Fault> {
        let rules = match context.overrides.is_empty() {
            true => {
                self.source.as_ref().map_or_else(|| [].into(), |source| source.loaded.rules.clone())
            }
            false => self.check(&context.overrides)?.rules.into(),
        };
        let verdict =
            self.ask("explain", World::of(context.now_seconds, context.seed), |policy, store| {
                policy.call_explain(store, context, file)
            })?;
        Ok(answer::verdict(verdict, &rules))
    }

    fn check(&mut self, settings: &[Setting]) -> Result<Rulebook, Fault> {
        let answer = self
            .ask("check", World::default(), |policy, store| policy.call_check(store, settings))?;
        Ok(answer::rulebook(answer)?)
    }

    /// A question that is nobody's pass: a trap costs the instance, and counts for no tenant.
    fn ask<T>(
        &mut self,
        name: &'static str,
        mut world: World,
        call: impl FnOnce(
            &super::contract::Policy,
            &mut wasmtime::Store<super::instance::Guest>,
        ) -> wasmtime::Result<T>,
    ) -> Result<T, Fault> {
        let answer = self.instance()?.call(name, &mut world, call);
        if let Err(fault) = &answer {
            self.count(fault);
            self.forget_instance();
        }
        answer
    }

    /// The instance, made and configured where there is none.
    fn instance(&mut self) -> Result<&mut Instance, Fault> {
        let none = || Fault::Unfit("no policy is in force".into());
        let source = self.source.as_ref().ok_or_else(none)?;
        if self.program.is_none() {
            self.program = Some(program(&source.component, &source.options)?);
        }
        let program = self.program.as_ref().ok_or_else(none)?;
        if self.instance.is_none() {
            let mut fresh = program.instance()?;
            configure(&mut fresh, &source.options.settings)?;
            self.instance = Some(fresh);
        }
        self.instance.as_mut().ok_or_else(none)
    }

    /// The instance is of no use any more.
    fn forget_instance(&mut self) {
        if let Some(instance) = self.instance.take() {
            lock(&self.counts).lines_dropped += instance.lines_dropped();
        }
        self.live.iter_mut().for_each(Live::forget_instance);
    }

    fn count(&self, fault: &Fault) {
        let mut counts = lock(&self.counts);
        counts.faults += 1;
        counts.last_fault = Some(fault.to_string());
    }

    /// The component failed in a tenant's pass.
    fn failed(&mut self, tenant: u32, fault: &Fault) {
        self.count(fault);
        let failures = self.failures.entry(tenant).or_default();
        *failures += 1;
        tracing::warn!(tenant, failures = *failures, "the policy failed: {fault}");
        if *failures == FAILURES {
            lock(&self.counts).left_out.push(tenant);
            tracing::error!(
                tenant,
                "the policy failed too often, the tenant is left out until `coldfs policy reload`"
            );
        }
    }
}

fn program(component: &[u8], options: &Options) -> Result<Program, Fault> {
    let engine = engine()?;
    let code = code::code(&engine, component, &options.compiler, options.code_dir.as_deref())?;
    let loaded = code.load(&engine);
    let component = loaded.map_err(|error| Fault::Unfit(format!("load it: {error:#}")))?;
    let ticker = Ticker::start(engine);
    let ticker = ticker.map_err(|error| Fault::Unfit(format!("start a thread: {error}")))?;
    Program::new(component, Arc::new(ticker))
}

/// What a fresh instance is asked first.
fn configure(
    instance: &mut Instance,
    settings: &Settings,
) -> Result<(Description, Vec<Setting>, Rulebook), Fault> {
    let mut world = World::default();
    let description =
        instance.call("describe", &mut world, |policy, store| policy.call_describe(store))?;
    let description = answer::description(description)?;
    let settings = settings::typed(settings, &description)?;
    let answer = instance
        .call("configure", &mut world, |policy, store| policy.call_configure(store, &settings))?;
    Ok((description, settings, answer::rulebook(answer)?))
}
