//! Threads that wait for the store's disk, so that nobody else's have to.
//!
//! A disk may hang: an NFS server that is away, a drive that dies. The runtime's threads for
//! blocking work serve the directory too, and the runtime waits for them when the process ends.
//! These are the store's own, [`MAX_THREADS`] of them at most, started when they are needed and
//! gone when they are not. The process ends without them.
//!
//! At the bound work waits, in order, without a thread. Given up while it waits it is never
//! begun; given up later it is finished where it runs, and keeps its turn until then.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// File operations at once. A disk gains nothing from a longer queue.
pub const MAX_THREADS: usize = 32;
/// A thread without work ends after this long.
const IDLE: Duration = Duration::from_secs(10);

/// The threads. Clones share them.
#[derive(Clone)]
pub struct Workers(Arc<Pool>);

struct Pool {
    turns: Arc<Semaphore>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    /// Those of them that wait for a job.
    idle: usize,
}

struct Job {
    work: Box<dyn FnOnce() + Send>,
    turn: Option<OwnedSemaphorePermit>,
}

impl Default for Workers {
    fn default() -> Self {
        Self(Arc::new(Pool {
            turns: Arc::new(Semaphore::new(MAX_THREADS)),
            queue: Mutex::default(),
            changed: Condvar::new(),
        }))
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").finish_non_exhaustive()
    }
}

impl Workers {
    /// Runs `work` where it may wait for the disk.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let turn = Arc::clone(&self.0.turns).acquire_owned().await.map_err(io::Error::other)?;
        let (answer, answered) = oneshot::channel();
        // Nobody may be left to hear it.
        let work = Box::new(move || drop(answer.send(work())));
        self.push(Job { work, turn: Some(turn) })?;
        answered.await.map_err(|_unanswered| io::Error::other("a file operation panicked"))
    }

    /// A value that is dropped by a worker, whoever has it last.
    pub fn keep<T: Send + 'static>(&self, value: T) -> Kept<T> {
        Kept { value: Some(value), workers: self.clone() }
    }

    fn push(&self, job: Job) -> io::Result<()> {
        let mut queue = self.0.queue();
        queue.jobs.push_back(job);
        if queue.idle >= queue.jobs.len() || queue.threads == MAX_THREADS {
            self.0.changed.notify_one();
            return Ok(());
        }
        let pool = Arc::clone(&self.0);
        let thread = std::thread::Builder::new().name("coldfs-store".into());
        match thread.spawn(move || pool.serve()) {
            Ok(_) => queue.threads += 1,
            // The others come to it.
            Err(_) if queue.threads > 0 => {}
            Err(error) => {
                queue.jobs.pop_back();
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Pool {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a thread does.
    fn serve(&self) {
        let mut queue = self.queue();
        loop {
            if let Some(Job { work, turn }) = queue.jobs.pop_front() {
                drop(queue);
                // Whoever waits for it hears of a panic.
                drop(catch_unwind(AssertUnwindSafe(work)));
                queue = self.queue();
                // Under the lock: whoever gets the turn finds this thread idle.
                drop(turn);
                continue;
            }
            queue.idle += 1;
            let waited = self.changed.wait_timeout_while(queue, IDLE, |q| q.jobs.is_empty());
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            queue.idle -= 1;
            if queue.jobs.is_empty() {
                queue.threads -= 1;
                return;
            }
        }
    }
}

/// A value whose drop may wait for the disk, as closing and removing a file do. There are no more
/// than requests under way: a worker made each, and when all of them hang no more are made.
#[derive(Debug)]
pub struct Kept<T: Send + 'static> {
    /// Some, until it is taken out or dropped.
    value: Option<T>,
    workers: Workers,
}

impl<T: Send + 'static> Kept<T> {
    /// The value; for a worker.
    pub fn into_inner(mut self) -> T {
        match self.value.take() {
            Some(value) => value,
            None => unreachable!("only this and drop take it, and both end it"),
        }
    }
}

impl<T: Send + 'static> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.value {
            Some(value) => value,
            None => unreachable!("what takes it ends it"),
        }
    }
}

impl<T: Send + 'static> Drop for Kept<T> {
    fn drop(&mut self) {
        let Some(value) = self.value.take() else { return };
        let job = Job { work: Box::new(move || drop(value)), turn: None };
        if let Err(error) = self.workers.push(job) {
            tracing::debug!(%error, "no thread to close a file");
        }
    }
}

/// Runs `work` on a thread of its own. None where it takes longer than `limit`: it goes on there,
/// or hangs for ever, and nobody hears of it.
pub fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (answer, answered) = mpsc::channel();
    let thread = std::thread::Builder::new().name("coldfs-store".into());
    // Nobody may be left to hear it.
    thread.spawn(move || drop(answer.send(work()))).ok()?;
    answered.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn runtime() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).max_blocking_threads(1).enable_all().build().unwrap()
    }

    /// Takes every thread; they go on once the sender is dropped.
    async fn hang(workers: &Workers) -> mpsc::Sender<()> {
        let (go_on, hanging) = mpsc::channel();
        let hanging = Arc::new(Mutex::new(hanging));
        for _ in 0..MAX_THREADS {
            let (workers, hanging) = (workers.clone(), Arc::clone(&hanging));
            let (begun, began) = oneshot::channel();
            drop(tokio::spawn(async move {
                let wait = move || {
                    begun.send(()).unwrap();
                    drop(hanging.lock().map(|hanging| hanging.recv()));
                };
                workers.run(wait).await
            }));
            began.await.unwrap();
        }
        go_on
    }

    #[test]
    fn a_hung_disk_holds_neither_other_disk_work_nor_the_end() {
        let (runtime, workers) = (runtime(), Workers::default());
        let go_on = runtime.block_on(async {
            let go_on = hang(&workers).await;
            let other = tokio::task::spawn_blocking(|| 7);
            assert_eq!(tokio::time::timeout(SOON, other).await.unwrap().unwrap(), 7);
            go_on
        });
        assert!(within(SOON, move || drop(runtime)).is_some(), "the runtime ends");
        drop(go_on);
    }

    #[test]
    fn work_beyond_the_threads_waits_and_is_not_begun_once_it_is_given_up() {
        let workers = Workers::default();
        runtime().block_on(async {
            let go_on = hang(&workers).await;
            let (begun, began) = mpsc::channel();
            let beyond = workers.run(move || begun.send(()));
            assert!(tokio::time::timeout(Duration::from_millis(20), beyond).await.is_err());
            let next = workers.run(|| 7);
            assert_eq!(workers.0.queue().threads, MAX_THREADS);
            drop(go_on);
            assert_eq!(tokio::time::timeout(SOON, next).await.unwrap().unwrap(), 7);
            assert!(began.recv().is_err(), "given up before it began");
        });
    }

    #[test]
    fn a_panic_is_an_answer_and_leaves_the_thread() {
        let workers = Workers::default();
        runtime().block_on(async {
            for _ in 0..=MAX_THREADS {
                assert!(
                    workers.run::<()>(|| std::panic::resume_unwind(Box::new(()))).await.is_err()
                );
            }
            assert_eq!(workers.run(|| 7).await.unwrap(), 7);
        });
    }

    #[test]
    fn what_is_kept_is_dropped_by_a_worker() {
        struct Named(mpsc::Sender<Option<String>>);
        impl Drop for Named {
            fn drop(&mut self) {
                drop(self.0.send(std::thread::current().name().map(str::to_owned)));
            }
        }
        let (dropped, by) = mpsc::channel();
        drop(Workers::default().keep(Named(dropped)));
        assert_eq!(by.recv_timeout(SOON).unwrap().as_deref(), Some("coldfs-store"));
    }

    #[test]
    fn what_takes_too_long_is_left_alone() {
        let (go_on, hanging) = mpsc::channel::<()>();
        assert!(within(Duration::from_millis(20), move || hanging.recv()).is_none());
        drop(go_on);
    }
}
