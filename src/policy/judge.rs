//! The policy as the rest of the daemon sees it: questions to a thread of its own (`court`),
//! so that no component ever runs on a thread that serves requests.

use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use super::answer::Explained;
use super::code::Compiler;
use super::contract::{Candidate, Description, Rulebook, Setting, TenantContext};
use super::court::Court;
use super::instance::Fault;
use super::pass::{PassReport, PassRequest};
use super::settings::{self, Settings};

/// How long the end waits for the thread; a step takes much less.
const END_PATIENCE: Duration = Duration::from_secs(5);
const END_POLL: Duration = Duration::from_millis(5);

/// Which policy, and how it is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The component's file; none: the default policy.
    pub component: Option<PathBuf>,
    /// Its settings; what is not given has its default.
    pub settings: Settings,
    /// Where compiled code is kept; none: nowhere.
    pub code_dir: Option<PathBuf>,
    /// Who compiles.
    pub compiler: Compiler,
}

/// Why a policy is not in force.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JudgeError {
    /// Its file cannot be read.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It does not load, describe itself, or take its settings.
    #[error("policy {which}: {fault}")]
    Policy {
        /// The file, or `default`.
        which: String,
        /// Why.
        fault: Fault,
    },
    /// The machine has no thread for it.
    #[error("start the policy's thread: {0}")]
    NoThread(String),
    /// The thread is gone.
    #[error("the policy's thread ended")]
    Ended,
}

/// A policy in force.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The component's file; none: the default.
    pub component: Option<PathBuf>,
    /// What it says of itself.
    pub description: Description,
    /// What its settings came to.
    pub rulebook: Rulebook,
    /// Names of rules.
    pub rules: Arc<[String]>,
    /// Settings that were given.
    pub settings: Vec<Setting>,
    /// The component's hash, in hex.
    pub hash: String,
}

impl Loaded {
    /// What is written instead of its settings, in its types.
    pub fn typed(&self, overrides: &Settings) -> Result<Vec<Setting>, Fault> {
        Ok(settings::typed(overrides, &self.description)?)
    }
}

/// What happened since the start.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Times that the component trapped or gave no answer.
    pub faults: u64,
    /// The last of them.
    pub last_fault: Option<String>,
    /// Lines of its journal that were too many.
    pub lines_dropped: u64,
    /// Tenants that are left out.
    pub left_out: Vec<u32>,
}

pub(super) enum Command {
    Load(Options, oneshot::Sender<Result<Arc<Loaded>, JudgeError>>),
    Pass(Box<PassRequest>, oneshot::Sender<PassReport>),
    Explain(Box<(TenantContext, Candidate)>, oneshot::Sender<Result<Explained, Fault>>),
    Check(Vec<Setting>, oneshot::Sender<Result<Rulebook, Fault>>),
}

/// The way to the thread.
#[derive(Debug, Default)]
enum Commands {
    /// Nobody asked anything yet.
    #[default]
    None,
    /// There.
    To(Sender<Command>),
    /// Nobody answers any more.
    Ended,
}

/// The thread, from outside.
#[derive(Debug, Default)]
pub struct Judge {
    commands: Mutex<Commands>,
    counts: Arc<Mutex<Counts>>,
    loaded: Mutex<Option<Arc<Loaded>>>,
    /// Held while a policy is put in force because there is none: by one for all.
    beginning: tokio::sync::Mutex<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Judge {
    /// Without a policy, see [`Judge::load`]; the thread begins with the first question.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a policy in force. On an error the old one stays. Tenants that were left out are judged
    /// again.
    pub async fn load(&self, options: Options) -> Result<Arc<Loaded>, JudgeError> {
        let loaded = self.ask(|reply| Command::Load(options, reply)).await??;
        *lock(&self.loaded) = Some(Arc::clone(&loaded));
        Ok(loaded)
    }

    /// The policy in force; this one, where there is none yet.
    pub async fn loaded_or(&self, options: &Options) -> Result<Arc<Loaded>, JudgeError> {
        let _one = self.beginning.lock().await;
        match self.loaded() {
            Some(loaded) => Ok(loaded),
            None => self.load(options.clone()).await,
        }
    }

    /// The policy in force.
    pub fn loaded(&self) -> Option<Arc<Loaded>> {
        lock(&self.loaded).clone()
    }

    /// Judges a tenant's candidates. Dropped, the pass ends.
    pub async fn pass(&self, request: PassRequest) -> Result<PassReport, JudgeError> {
        self.ask(|reply| Command::Pass(Box::new(request), reply)).await
    }

    /// Why a file would be kept or moved.
    pub async fn explain(
        &self,
        context: TenantContext,
        file: Candidate,
    ) -> Result<Result<Explained, Fault>, JudgeError> {
        self.ask(|reply| Command::Explain(Box::new((context, file)), reply)).await
    }

    /// What overrides come to over the settings in force.
    pub async fn check(
        &self,
        settings: Vec<Setting>,
    ) -> Result<Result<Rulebook, Fault>, JudgeError> {
        self.ask(|reply| Command::Check(settings, reply)).await
    }

    /// What happened since the start.
    pub fn counts(&self) -> Counts {
        lock(&self.counts).clone()
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, JudgeError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply))?;
        answer.await.map_err(|_gone| JudgeError::Ended)
    }

    fn send(&self, command: Command) -> Result<(), JudgeError> {
        let mut commands = lock(&self.commands);
        if let Commands::None = *commands {
            let (sender, receiver) = channel();
            let shared = Arc::clone(&self.counts);
            let work = move || Court::new(shared).sit(&receiver);
            let thread = std::thread::Builder::new().name("policy".into()).spawn(work);
            let thread = thread.map_err(|error| JudgeError::NoThread(error.to_string()))?;
            *lock(&self.thread) = Some(thread);
            *commands = Commands::To(sender);
        }
        match &*commands {
            Commands::To(sender) => sender.send(command).map_err(|_gone| JudgeError::Ended),
            Commands::None | Commands::Ended => Err(JudgeError::Ended),
        }
    }

    /// Ends the thread; what is under way is dropped. Not for async threads.
    pub fn stop(&self) {
        *lock(&self.commands) = Commands::Ended;
        let Some(thread) = lock(&self.thread).take() else { return };
        let polls = END_PATIENCE.as_millis() / END_POLL.as_millis();
        for _ in 0..polls {
            if thread.is_finished() {
                if thread.join().is_err() {
                    tracing::warn!("the policy's thread panicked");
                }
                return;
            }
            std::thread::sleep(END_POLL);
        }
        // A component is being compiled: the process ends without it.
        tracing::warn!("the policy's thread is left to itself");
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
