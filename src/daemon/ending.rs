//! How a daemon ends: asked by a signal, and detached by threads that wait for nothing else.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::background::EndSignals;
use crate::fuse::session::Mounted;

/// How long a detach waits for files that are still open before it leaves them.
const DETACH_PATIENCE: Duration = Duration::from_secs(5);

/// Threads that detach. They are there from the start: when they are needed, every thread of the
/// runtime may wait for the disk, and the machine may have no other to give.
pub(super) struct Detacher(Sender<Job>);

/// A mount to take away, and who waits for that.
type Job = (Mounted, oneshot::Sender<io::Result<()>>);

impl Detacher {
    /// So many mounts are taken away at once; a file that stays open holds one of them up.
    pub(super) fn start(at_once: usize) -> io::Result<Self> {
        let (jobs, to_detach): (_, Receiver<Job>) = channel();
        let to_detach = Arc::new(Mutex::new(to_detach));
        for _ in 0..at_once {
            let jobs = Arc::clone(&to_detach);
            std::thread::Builder::new().name("detach".to_owned()).spawn(move || {
                while let Some((mounted, done)) = next(&jobs) {
                    // Refused where the daemon has ended without waiting for it.
                    drop(done.send(mounted.detach(DETACH_PATIENCE)));
                }
            })?;
        }
        Ok(Self(jobs))
    }

    /// Unmounts; where files stay open, the mount goes away for everybody else.
    pub(super) async fn detach(&self, mounted: Mounted) -> io::Result<()> {
        let gone = || io::Error::other("the thread that detaches ended by a fault");
        let (done, detached) = oneshot::channel();
        self.0.send((mounted, done)).map_err(|_ended| gone())?;
        detached.await.map_err(|_ended| gone())?
    }
}

fn next(jobs: &Mutex<Receiver<Job>>) -> Option<Job> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// What signals ask of a daemon.
#[derive(Clone, Debug, Default)]
pub(super) struct Signals {
    /// Cancelled at the first that asks it to end.
    pub(super) end: CancellationToken,
    /// Told of each SIGHUP, where that does not ask it to end.
    pub(super) hangup: Arc<Notify>,
}

/// Listens to signals. `hangup_ends`: SIGHUP asks to end too, as SIGTERM and SIGINT do. A second of
/// those two ends the process at once, whatever its other threads wait for; `left` says what a
/// person then finds.
pub(super) fn on_signals(
    hangup_ends: bool,
    left: impl Fn() -> String + Send + 'static,
) -> io::Result<Signals> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        let _of_this_runtime = runtime.enter();
        EndSignals::listen()?
    };
    let asked = Signals::default();
    let told = asked.clone();
    let wait = async move {
        let signal = loop {
            match signals.next().await {
                Signal::SIGHUP if !hangup_ends => told.hangup.notify_one(),
                signal => break signal,
            }
        };
        tracing::info!(%signal, "asked to end");
        told.end.cancel();
        loop {
            let signal = signals.next().await;
            if signal != Signal::SIGHUP {
                tracing::error!("{signal} again: ended at once; {}", left());
                std::process::exit(1);
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || runtime.block_on(wait))?;
    Ok(asked)
}
