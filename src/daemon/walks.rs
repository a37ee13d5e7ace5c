//! Threads for walks. A walk waits for whoever takes what it finds, and those need the runtime's
//! threads to go on: on one of these it would wait for itself.

use std::future::Future;
use std::ops::ControlFlow;
use std::sync::Arc;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::control::wire::{Problem, ProblemKind};

/// Walks of commands at once. A command beyond that waits, which takes no thread, until one ends.
pub(super) const WALKS_AT_ONCE: usize = 64;

/// Where walks run, a bounded number at once.
pub(super) struct Walks {
    free: Arc<Semaphore>,
    end: CancellationToken,
}

/// Why a walk did not come to its end.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Unwalked {
    /// Its client went away, somebody cancelled it, or the daemon ends.
    #[error("cancelled before its end")]
    Cancelled,
    /// The machine has no thread for it.
    #[error("no thread for it: {0}")]
    NoThread(String),
    /// It panicked.
    #[error("it ended by a fault")]
    Fault,
}

impl From<Unwalked> for Problem {
    fn from(unwalked: Unwalked) -> Self {
        let next_step = match unwalked {
            Unwalked::Cancelled => "run the command again",
            Unwalked::NoThread(_) => "raise the limit of processes, and run the command again",
            Unwalked::Fault => "see the daemon's log, and report it",
        };
        Problem::new(ProblemKind::Failed, format!("walk the directory: {unwalked}"), next_step)
    }
}

impl Walks {
    /// So many at once, until `end`.
    pub(super) fn new(at_once: usize, end: CancellationToken) -> Self {
        Self { free: Arc::new(Semaphore::new(at_once)), end }
    }

    /// Runs a walk, once there is a place for it. It is stopped by `cancel`, at the daemon's end,
    /// and when the future is dropped; what it has by then is not the whole, and is dropped.
    pub(super) fn run<T: Send + 'static>(
        &self,
        cancel: CancellationToken,
        work: impl FnOnce(&Stop) -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, Unwalked>> + Send + 'static {
        let (free, stop) = (Arc::clone(&self.free), self.end.child_token());
        async move {
            let _dropped = stop.clone().drop_guard();
            let place = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(Unwalked::Cancelled),
                () = stop.cancelled() => return Err(Unwalked::Cancelled),
                place = free.acquire_owned() => place,
            };
            let (done, mut answer) = oneshot::channel();
            let stopping = Stop(stop.clone());
            std::thread::Builder::new()
                .name("walk".to_owned())
                .spawn(move || {
                    let result = work(&stopping);
                    drop(place);
                    // Refused where nobody waits for it any more.
                    drop(done.send(result));
                })
                .map_err(|error| Unwalked::NoThread(error.to_string()))?;
            let answered = tokio::select! {
                answered = &mut answer => answered,
                () = cancel.cancelled() => {
                    stop.cancel();
                    answer.await
                }
            };
            match answered {
                Ok(_) if stop.is_cancelled() => Err(Unwalked::Cancelled),
                Ok(result) => Ok(result),
                Err(_panicked) => Err(Unwalked::Fault),
            }
        }
    }
}

/// Tells a walk that it is to stop.
pub(super) struct Stop(CancellationToken);

impl Stop {
    /// Whether the walk goes on to the next file.
    pub(super) fn flow(&self) -> ControlFlow<()> {
        if self.0.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Hands on what was found, once there is room for it. Breaks where nobody takes it any more.
    pub(super) fn send<T>(&self, to: &mpsc::Sender<T>, item: T) -> ControlFlow<()> {
        let item = match to.try_send(item) {
            Ok(()) => return self.flow(),
            Err(TrySendError::Closed(_)) => return ControlFlow::Break(()),
            Err(TrySendError::Full(item)) => item,
        };
        let sent = futures::executor::block_on(async {
            tokio::select! {
                biased;
                () = self.0.cancelled() => false,
                sent = to.send(item) => sent.is_ok(),
            }
        });
        if sent { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A runtime with one thread of each kind, as a daemon whose 32 are all taken.
    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.unwrap() });
        runtime.shutdown_background();
    }

    /// A walk that finds more than anybody takes, and how it ends.
    fn endless(
        walks: &Walks,
        cancel: &CancellationToken,
        to: mpsc::Sender<u64>,
    ) -> tokio::task::JoinHandle<Result<(), Unwalked>> {
        tokio::spawn(walks.run(cancel.clone(), move |stop| {
            let mut found = 0;
            while stop.send(&to, found).is_continue() {
                found += 1;
            }
        }))
    }

    #[test]
    fn walks_that_wait_for_the_runtimes_threads_leave_them_free() {
        run(async {
            let walks = Walks::new(2, CancellationToken::new());
            let cancel = CancellationToken::new();
            let (mut taken, mut walking) = (Vec::new(), Vec::new());
            for _ in 0..2 {
                let (to, mut found) = mpsc::channel(1);
                walking.push(endless(&walks, &cancel, to));
                assert_eq!(found.recv().await, Some(0));
                taken.push(found);
            }
            assert_eq!(tokio::task::spawn_blocking(|| 7).await.unwrap(), 7);
            for mut found in taken {
                assert_eq!(found.recv().await, Some(1));
            }
            for walk in walking {
                assert!(walk.await.unwrap().is_ok(), "a walk that nobody listens to ends");
            }
        });
    }

    #[test]
    fn at_the_bound_a_walk_waits_and_can_be_cancelled() {
        run(async {
            let walks = Walks::new(1, CancellationToken::new());
            let cancel = CancellationToken::new();
            let (to, mut found) = mpsc::channel(1);
            let first = endless(&walks, &cancel, to);
            assert_eq!(found.recv().await, Some(0));
            let waits = CancellationToken::new();
            let second = tokio::spawn(walks.run(waits.clone(), |_| ()));
            tokio::task::yield_now().await;
            waits.cancel();
            assert!(matches!(second.await.unwrap(), Err(Unwalked::Cancelled)));
            cancel.cancel();
            assert!(matches!(first.await.unwrap(), Err(Unwalked::Cancelled)));
            assert!(walks.run(CancellationToken::new(), |_| ()).await.is_ok());
        });
    }

    #[test]
    fn a_walk_ends_with_the_one_who_asked_and_with_the_daemon() {
        run(async {
            let end = CancellationToken::new();
            let walks = Walks::new(2, end.clone());
            let cancel = CancellationToken::new();
            let (to, mut found) = mpsc::channel(1);
            let asked = endless(&walks, &cancel, to);
            assert_eq!(found.recv().await, Some(0));
            asked.abort();
            // The channel is closed once the walk has ended.
            while found.recv().await.is_some() {}
            let (to, mut found) = mpsc::channel(1);
            let asked = endless(&walks, &cancel, to);
            assert_eq!(found.recv().await, Some(0));
            end.cancel();
            assert!(matches!(asked.await.unwrap(), Err(Unwalked::Cancelled)));
            let late = walks.run(cancel, |_| ()).await;
            assert!(matches!(late, Err(Unwalked::Cancelled)), "after the end");
        });
    }
}
