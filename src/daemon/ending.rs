//! How a daemon ends: asked by a signal, and detached by threads that wait for nothing else.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::background::EndSignals;
use crate::fuse::session::Mounted;

/// How long a detach waits for files that are still open before it leaves them.
const DETACH_PATIENCE: Duration = Duration::from_secs(5);
/// Most threads that detach: where unmounts hang, others take the next.
const MOST_THREADS: usize = 64;

/// Threads that detach. They are there from the start: when they are needed, every thread of the
/// runtime may wait for the disk, and the machine may have no other to give.
pub(super) struct Detacher {
    jobs: Sender<Job>,
    waiting: Arc<Mutex<Receiver<Job>>>,
    threads: AtomicUsize,
}

/// A mount to take away, and who waits for that.
struct Job {
    mounted: Arc<Mounted>,
    since: Instant,
    begun: CancellationToken,
    done: oneshot::Sender<io::Result<()>>,
}

impl Detacher {
    /// So many mounts are taken away at once.
    pub(super) fn start(at_once: usize) -> io::Result<Self> {
        let (jobs, waiting) = channel();
        let waiting = Arc::new(Mutex::new(waiting));
        let detacher = Self { jobs, waiting, threads: AtomicUsize::new(0) };
        (0..at_once).try_for_each(|_| detacher.begin_thread())?;
        Ok(detacher)
    }

    fn begin_thread(&self) -> io::Result<()> {
        if self.threads.fetch_add(1, Ordering::Relaxed) >= MOST_THREADS {
            self.threads.fetch_sub(1, Ordering::Relaxed);
            return Err(io::Error::other("as many unmounts as may be are under way"));
        }
        let waiting = Arc::clone(&self.waiting);
        let work = move || {
            while let Some(job) = next(&waiting) {
                job.begun.cancel();
                // Refused where the daemon has ended without waiting for it.
                drop(job.done.send(job.mounted.detach(job.since, DETACH_PATIENCE)));
            }
        };
        let begun = std::thread::Builder::new().name("detach".to_owned()).spawn(work);
        if begun.is_err() {
            self.threads.fetch_sub(1, Ordering::Relaxed);
        }
        begun.map(drop)
    }

    /// Unmounts; where files stay open, the mount goes away for everybody else. One that no thread
    /// takes in time has another thread begun for it.
    pub(super) async fn detach(&self, mounted: Arc<Mounted>) -> io::Result<()> {
        let gone = || io::Error::other("the thread that detaches ended by a fault");
        let (done, mut detached) = oneshot::channel();
        let begun = CancellationToken::new();
        let job = Job { mounted, since: Instant::now(), begun: begun.clone(), done };
        self.jobs.send(job).map_err(|_ended| gone())?;
        loop {
            tokio::select! {
                detached = &mut detached => return detached.map_err(|_ended| gone())?,
                () = tokio::time::sleep(DETACH_PATIENCE) => {
                    if begun.is_cancelled() {
                        continue;
                    }
                    if let Err(error) = self.begin_thread() {
                        tracing::warn!(%error, "a detach waits for others");
                    }
                }
            }
        }
    }
}

fn next(waiting: &Mutex<Receiver<Job>>) -> Option<Job> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
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
