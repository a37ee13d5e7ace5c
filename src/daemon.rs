//! The daemon: assembles the parts of its tenants and serves them until they are detached.
//!
//! [`run`] is `coldfs mount`: one tenant, and the daemon ends with its mount. [`serve`] is `coldfs
//! serve`: those of a configuration, which come and go.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::background::Ready;
use crate::config::MountOptions;
use crate::config::file::ConfigFile;
use crate::control::runtime::RuntimeDir;
use crate::control::server::ControlSocket;
use crate::control::wire::{Problem, ProblemKind};
use crate::sys;

mod apart;
mod attach;
mod cancel;
mod check;
mod commands;
mod count;
mod ending;
mod failures;
mod files;
mod fleet;
mod gc;
mod known;
mod machine;
mod moves;
mod notes;
mod pins;
mod quiet;
mod reload;
mod search;
mod served;
mod slot;
mod status;
mod stores;
mod storm;
mod tiering;
mod turns;
mod walks;
mod warmth;
mod watching;

use apart::apart;
use commands::Commands;
use ending::{Signals, on_signals};
use fleet::Fleet;
use machine::{Common, Machine};
use reload::Configured;
use slot::Source;
pub use stores::open as open_store;

/// Threads of the runtime: they carry S3 requests and recalls; disk work has its own.
const RUNTIME_THREADS: usize = 2;
/// Threads that may wait for the disk at once.
const DISK_THREADS: usize = 32;
/// How long work on the disk may take after the detach before the process ends without it: what
/// it leaves is what a kill leaves.
const END_PATIENCE: Duration = Duration::from_secs(20);
/// How long a daemon of many tenants waits for them before it says that it is ready.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// How long what all tenants share may take to end.
const SHARED_PATIENCE: Duration = Duration::from_secs(15);
/// Mounts that a daemon of many tenants takes away at once.
const DETACHED_AT_ONCE: usize = 8;

/// Serves one directory until it is detached; says through `ready` when the mount answers.
pub fn run(options: MountOptions, ready: Ready) -> Result<(), Problem> {
    on_a_runtime(mount_one(options, ready))
}

/// Serves the tenants of a configuration until it is asked to end; says through `ready` when all
/// that can be mounted is.
pub fn serve(config: PathBuf, file: ConfigFile, ready: Ready) -> Result<(), Problem> {
    on_a_runtime(serve_many(config, file, ready))
}

fn on_a_runtime(daemon: impl Future<Output = Result<(), Problem>>) -> Result<(), Problem> {
    sys::keep_large_buffers_lazy();
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .max_blocking_threads(DISK_THREADS)
        .enable_all()
        .build()
        .map_err(|error| failed("start the runtime", &error))?;
    let served = runtime.block_on(daemon);
    runtime.shutdown_timeout(END_PATIENCE);
    served
}

async fn mount_one(options: MountOptions, ready: Ready) -> Result<(), Problem> {
    let common = Common {
        heat: options.heat.clone(),
        classes: options.rules.classes.clone(),
        chunk_cache_bytes: options.tuning.chunk_cache_bytes,
        detached_at_once: 1,
    };
    let daemon = Daemon::start(&common, true)?;
    let (name, notes) = (options.tenant.to_string(), options.notes.clone());
    daemon.fleet.add(&name, Source::Line(Box::new(options)));
    let attached = tokio::select! {
        biased;
        attached = daemon.fleet.mounted(&name) => attached,
        () = daemon.asked_to_end() => {
            let what = "asked to end before the mount answered";
            Err(Problem::new(ProblemKind::Failed, what, "mount it again"))
        }
    };
    let detached = match attached {
        Err(problem) => daemon.fleet.end().await.and(Err(problem)),
        Ok(()) => {
            let served = daemon.fleet.served();
            let missing = served.iter().flat_map(|served| served.missing());
            ready.ready(&notes.into_iter().chain(missing).collect::<Vec<_>>());
            drop(served);
            sys::give_back_memory();
            tokio::select! {
                _ = daemon.fleet.gone(&name) => {}
                () = daemon.asked_to_end() => {}
            }
            daemon.fleet.end().await
        }
    };
    daemon.stop().await;
    detached
}

async fn serve_many(config: PathBuf, file: ConfigFile, ready: Ready) -> Result<(), Problem> {
    let daemon = Daemon::start(&reload::common(&file)?, false)?;
    let begun = tokio::select! {
        begun = Configured::begin(&daemon.fleet, config, file) => begun.map(Some),
        () = daemon.asked_to_end() => Ok(None),
    };
    let configured = match begun {
        Ok(Some(configured)) => configured,
        Ok(None) => {
            daemon.stop().await;
            return Ok(());
        }
        Err(problem) => {
            daemon.stop().await;
            return Err(problem);
        }
    };
    tokio::select! {
        // One that hangs keeps nobody from the others, nor the file from being mended.
        _ = timeout(READY_PATIENCE, daemon.fleet.all_settled()) => {
            ready.ready(&configured.notes());
            sys::give_back_memory();
            daemon.reload_until_the_end(&configured).await;
        }
        () = daemon.asked_to_end() => {}
    }
    let ended = daemon.fleet.end().await;
    daemon.stop().await;
    ended
}

/// What runs from a daemon's first moment to its last.
struct Daemon {
    fleet: Arc<Fleet>,
    signals: Signals,
    /// Cancelled when a command asks the daemon to end.
    end: CancellationToken,
    /// Cancelled when no command is answered any more.
    deaf: CancellationToken,
    control: JoinHandle<std::io::Result<()>>,
    leases: JoinHandle<()>,
}

impl Daemon {
    fn start(common: &Common, is_one: bool) -> Result<Self, Problem> {
        // The first thing: a lease that somebody breaks sends SIGIO, which kills by default.
        let mut lease_breaks = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::io())
            .map_err(|error| failed("listen to SIGIO", &error))?;
        // Next: a SIGHUP would kill, too.
        let known = Arc::new(OnceLock::<Weak<Fleet>>::new());
        let ends = Arc::clone(&known);
        let left = move || {
            let fleet = ends.get().and_then(Weak::upgrade);
            fleet.map_or_else(String::new, |fleet| fleet.cut_off())
        };
        let signals = on_signals(is_one, left);
        let signals = signals.map_err(|error| failed("listen to signals", &error))?;
        let runtime_dir = RuntimeDir::from_env()?;
        let control = ControlSocket::bind(&runtime_dir)?;
        let machine = Machine::start(common, runtime_dir);
        let machine = machine.map_err(|error| failed("start a thread", &error))?;
        let fleet = Fleet::new(Arc::new(machine), is_one);
        let fleet = fleet.map_err(|error| failed("start a thread", &error))?;
        let yielding = Arc::downgrade(&fleet);
        let leases = tokio::spawn(async move {
            while lease_breaks.recv().await.is_some() {
                if let Some(fleet) = yielding.upgrade() {
                    fleet.yield_leases();
                }
            }
        });
        known.get_or_init(|| Arc::downgrade(&fleet));
        let (end, deaf) = (CancellationToken::new(), CancellationToken::new());
        let engine = Commands { fleet: Arc::clone(&fleet), end: end.clone() };
        let control = tokio::spawn(control.serve(Arc::new(engine), deaf.clone()));
        Ok(Self { fleet, signals, end, deaf, control, leases })
    }

    async fn asked_to_end(&self) {
        tokio::select! {
            () = self.end.cancelled() => {}
            () = self.signals.end.cancelled() => {}
        }
    }

    async fn reload_until_the_end(&self, configured: &Configured) {
        loop {
            tokio::select! {
                () = self.asked_to_end() => return,
                () = self.signals.hangup.notified() => {}
            }
            tokio::select! {
                () = self.asked_to_end() => return,
                () = configured.reload() => {}
            }
        }
    }

    /// Ends what all tenants share, once none is served.
    async fn stop(self) {
        let Self { fleet, deaf, control, leases, .. } = self;
        let machine = Arc::clone(&fleet.machine);
        let ended = timeout(SHARED_PATIENCE, apart("end", move || machine.stop())).await;
        if !matches!(ended, Ok(Ok(()))) {
            tracing::warn!("what tenants share has not ended: the process ends without it");
        }
        deaf.cancel();
        leases.abort();
        if let Err(error) = control.await {
            tracing::debug!(%error, "the control socket ended");
        }
    }
}

/// The soft limit of open files, as high as it goes: what is open in the mount is open here.
fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of open files stays");
    }
}

fn failed(action: &str, error: &dyn std::error::Error) -> Problem {
    Problem::new(ProblemKind::Failed, format!("{action}: {error}"), "see `coldfs doctor`")
}
