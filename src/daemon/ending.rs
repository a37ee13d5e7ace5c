//! How a daemon ends: asked by a signal, and detached by a thread that waits for nothing else.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::background::EndSignals;
use crate::fuse::session::Mounted;

/// How long a detach waits for files that are still open before it leaves them.
const DETACH_PATIENCE: Duration = Duration::from_secs(5);

/// The thread that detaches. It is there from the start: when it is needed, every thread of the
/// runtime may wait for the disk, and the machine may have no other to give.
pub(super) struct Detacher {
    mounted: Sender<Mounted>,
    detached: oneshot::Receiver<io::Result<()>>,
}

impl Detacher {
    pub(super) fn start() -> io::Result<Self> {
        let (mounted, to_detach): (_, Receiver<Mounted>) = channel();
        let (done, detached) = oneshot::channel();
        std::thread::Builder::new().name("detach".to_owned()).spawn(move || {
            if let Ok(mounted) = to_detach.recv() {
                // Refused where the daemon has ended without waiting for it.
                drop(done.send(mounted.detach(DETACH_PATIENCE)));
            }
        })?;
        Ok(Self { mounted, detached })
    }

    /// Unmounts; where files stay open, the mount goes away for everybody else.
    pub(super) async fn detach(self, mounted: Mounted) -> io::Result<()> {
        let gone = || io::Error::other("the thread that detaches ended by a fault");
        self.mounted.send(mounted).map_err(|_ended| gone())?;
        self.detached.await.map_err(|_ended| gone())?
    }
}

/// Cancels what it returns at the first signal that asks the daemon to end. A second SIGTERM or
/// SIGINT ends the process at once, whatever its other threads wait for; `left` says what a
/// person then finds.
pub(super) fn on_signals(
    left: impl Fn() -> String + Send + 'static,
) -> io::Result<CancellationToken> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        let _of_this_runtime = runtime.enter();
        EndSignals::listen()?
    };
    let asked = CancellationToken::new();
    let first = asked.clone();
    let wait = async move {
        let signal = signals.next().await;
        tracing::info!(%signal, "asked to end");
        first.cancel();
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
