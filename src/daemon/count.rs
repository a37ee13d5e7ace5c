//! How much a tree takes: for `du`, and for `status`, where all who ask at once share one walk.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::failures::{Failures, is_gone};
use super::files::shown_sums;
use super::known;
use super::served::Served;
use super::walks::{Stop, Unwalked, Walks};
use crate::catalog::seen::Seen;
use crate::catalog::totals::Totals;
use crate::control::wire::{Bytes, DuReport, DuRequest, Files, Problem, Source};
use crate::walk::{Found, walk};

/// The sums of a tree.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    pub(super) bytes: Bytes,
    pub(super) files: Files,
    /// What is not in the sums.
    pub(super) failures: Failures,
    /// Who counted.
    pub(super) source: Source,
}

/// Sums up a tree.
pub(super) fn sums(served: &Served, start: Found, stop: &Stop) -> Sums {
    let mut totals = Totals::default();
    let failures = RefCell::new(Failures::default());
    let mut seen = HashSet::new();
    let mut visit = |file: Found| {
        // A file of several names counts once.
        if file.stat.st_nlink > 1 && file.is_regular() && !seen.insert(file.stat.st_ino) {
            return stop.flow();
        }
        match Seen::of(&served.tenant, &file.fd, &file.stat) {
            Ok(seen) => totals.add(&seen),
            Err(error) if is_gone(&error) => {}
            Err(error) => failures.borrow_mut().note(served, &file.path, &error),
        }
        stop.flow()
    };
    let mut fail = |path: &[u8], error: std::io::Error| {
        failures.borrow_mut().note(served, path, &error);
    };
    let _all_or_stopped = walk(&served.tenant, start, &mut visit, &mut fail);
    Sums { failures: failures.into_inner(), ..Sums::of(&totals) }
}

/// How much a directory takes, where.
pub(super) async fn du(
    served: &Arc<Served>,
    request: DuRequest,
    cancel: CancellationToken,
) -> Result<DuReport, Problem> {
    let start = served.locate(request.path.as_path()).await?;
    let counting = Arc::clone(served);
    let counted = served.walks.run(cancel, move |stop| {
        let known = (!request.walk).then(|| known::sums(&counting, &start, stop)).flatten();
        known.unwrap_or_else(|| sums(&counting, start, stop))
    });
    let Sums { bytes, files, failures, source } = counted.await?;
    let (failed, failed_total) = (failures.named, failures.total);
    Ok(DuReport { path: request.path, bytes, files, source, failed, failed_total })
}

impl Sums {
    /// Sums from which nothing is missing.
    pub(super) fn of(totals: &Totals) -> Self {
        let (bytes, files) = shown_sums(totals);
        Self { bytes, files, failures: Failures::default(), source: Source::Walk }
    }
}

/// One count at a time, for however many ask. It is stopped when the last of them goes away.
pub(super) struct Count<T> {
    walks: Walks,
    under_way: Mutex<Weak<UnderWay<T>>>,
}

type Counted<T> = Result<T, Unwalked>;

struct UnderWay<T> {
    counted: watch::Receiver<Option<Counted<T>>>,
    _last_asker: DropGuard,
}

impl<T: Clone + Send + Sync + 'static> Count<T> {
    /// Counts until `end`.
    pub(super) fn new(end: CancellationToken) -> Self {
        Self { walks: Walks::new(1, end), under_way: Mutex::default() }
    }

    /// The count that is under way, or a new one by `work`.
    pub(super) async fn ask(&self, work: impl FnOnce(&Stop) -> T + Send + 'static) -> Counted<T> {
        let asked = self.join(work);
        let mut counted = asked.counted.clone();
        let counted = counted.wait_for(Option::is_some).await;
        counted.ok().and_then(|counted| counted.clone()).unwrap_or(Err(Unwalked::Fault))
    }

    fn join(&self, work: impl FnOnce(&Stop) -> T + Send + 'static) -> Arc<UnderWay<T>> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asked) = under_way.upgrade()
            && asked.counted.borrow().is_none()
        {
            return asked;
        }
        let last_asker = CancellationToken::new();
        let (count, counted) = watch::channel(None);
        let walk = self.walks.run(last_asker.clone(), work);
        tokio::spawn(async move {
            // Refused where nobody asks any more.
            drop(count.send(Some(walk.await)));
        });
        let asked = Arc::new(UnderWay { counted, _last_asker: last_asker.drop_guard() });
        *under_way = Arc::downgrade(&asked);
        asked
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    const ASKERS: usize = 40;
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Walks until it is stopped or `over`, and counts its beginnings and ends.
    #[derive(Clone, Default)]
    struct Walked {
        begun: Arc<AtomicU32>,
        ended: Arc<AtomicU32>,
        over: CancellationToken,
    }

    impl Walked {
        fn walk(&self) -> impl FnOnce(&Stop) -> u32 + Send + 'static {
            let walked = self.clone();
            move |stop| {
                let number = walked.begun.fetch_add(1, Ordering::SeqCst);
                while stop.flow().is_continue() && !walked.over.is_cancelled() {
                    std::thread::yield_now();
                }
                walked.ended.fetch_add(1, Ordering::SeqCst);
                number
            }
        }

        async fn until(&self, begun: u32, ended: u32) {
            let met = async {
                while self.begun.load(Ordering::SeqCst) != begun
                    || self.ended.load(Ordering::SeqCst) != ended
                {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let met = tokio::time::timeout(PATIENCE, met).await;
            assert!(met.is_ok(), "never {begun} begun and {ended} ended");
        }
    }

    fn asking(count: &Arc<Count<u32>>, walked: &Walked) -> tokio::task::JoinHandle<Counted<u32>> {
        let (count, walk) = (Arc::clone(count), walked.walk());
        tokio::spawn(async move { count.ask(walk).await })
    }

    #[tokio::test]
    async fn all_who_ask_at_once_share_one_walk() {
        let (count, walked) = (Arc::new(Count::new(CancellationToken::new())), Walked::default());
        let asked: Vec<_> = (0..ASKERS).map(|_| asking(&count, &walked)).collect();
        walked.until(1, 0).await;
        walked.over.cancel();
        for asked in asked {
            assert!(matches!(asked.await.unwrap(), Ok(0)));
        }
        assert!(matches!(count.ask(walked.walk()).await, Ok(1)), "a later one walks anew");
    }

    #[tokio::test]
    async fn a_count_is_stopped_with_its_last_asker_and_at_the_end() {
        let end = CancellationToken::new();
        let (count, walked) = (Arc::new(Count::new(end.clone())), Walked::default());
        let (one, other) = (asking(&count, &walked), asking(&count, &walked));
        walked.until(1, 0).await;
        one.abort();
        assert!(one.await.is_err());
        let third = asking(&count, &walked);
        tokio::task::yield_now().await;
        other.abort();
        assert!(other.await.is_err());
        walked.until(1, 0).await;
        third.abort();
        walked.until(1, 1).await;
        let last = asking(&count, &walked);
        walked.until(2, 1).await;
        end.cancel();
        assert!(matches!(last.await.unwrap(), Err(Unwalked::Cancelled)));
    }
}
