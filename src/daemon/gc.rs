//! `gc --dry-run`: what a tenant's segments are. Deletes nothing.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio_util::sync::CancellationToken;

use super::served::Served;
use super::walks::Unwalked;
use crate::control::wire::{
    Failure, GcNews, GcProgress, GcReport, GcRequest, GcSegment, GcTotal, GcVerdict, Problem,
    ProblemKind,
};
use crate::reap::{
    Doubt, Facts, Hold, IndexFact, Listed, Reading, Refs, SEGMENTS_AT_ONCE, Stored, Tally, Told,
    Verdict, Weighed, Youth, list, read, verdict, weigh,
};
use crate::segment::ReadError;
use crate::store::StoreError;
use crate::store::governor::{Class, ranked};

/// Indexes that are read at once: each takes up to 64 MiB, most of them some hundred KiB.
const INDEXES_AT_ONCE: usize = 4;
/// Segments in a row of which the store says nothing before it counts as away.
const UNANSWERED: u32 = 8;
/// How often it is told how far the read is.
const TOLD_EVERY: Duration = Duration::from_millis(200);

/// Looks at all segments of a tenant.
pub(super) async fn run(
    served: &Arc<Served>,
    request: GcRequest,
    news: mpsc::Sender<GcNews>,
    cancel: CancellationToken,
) -> Result<GcReport, Problem> {
    let Ok(only) = Arc::clone(&served.reaping).try_lock_owned() else {
        let what = format!("tenant {}: another gc is under way", served.name);
        return Err(Problem::new(ProblemKind::Failed, what, "run the command again once it ended"));
    };
    let mut survey = Survey::new(served, request.grace_seconds, news, Arc::new(only));
    let whole = async {
        let forbidden = served.tenant.right_to_reap().await.err();
        survey.report.forbidden = forbidden.map(|error| format!("{error}; {}", error.next_step()));
        survey.all(&cancel).await
    };
    let surveyed = tokio::select! {
        surveyed = ranked(Class::Delete, whole) => surveyed,
        () = cancel.cancelled() => Ok(Ended::Cancelled),
        // Whoever does not read what is told keeps no mount.
        () = served.detaching() => Ok(Ended::Cancelled),
    };
    survey.report.cancelled = surveyed? == Ended::Cancelled;
    Ok(survey.report())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Whole,
    Cancelled,
}

/// A look under way.
struct Survey<'a> {
    served: &'a Arc<Served>,
    grace_seconds: u64,
    news: mpsc::Sender<GcNews>,
    report: GcReport,
    totals: BTreeMap<GcVerdict, GcTotal>,
    /// Segments in a row of which the store said nothing.
    unanswered: u32,
    /// No other looks: it ends with the last thread that does, which a cancelled run does not
    /// wait for.
    only: Arc<OwnedMutexGuard<()>>,
}

/// What is known of a segment once its index was asked for.
struct Asked {
    stored: Stored,
    refs: Refs,
    weighed: Option<Result<Weighed, ReadError>>,
}

impl<'a> Survey<'a> {
    fn new(
        served: &'a Arc<Served>,
        grace_seconds: u64,
        news: mpsc::Sender<GcNews>,
        only: Arc<OwnedMutexGuard<()>>,
    ) -> Self {
        let report = GcReport { complete: true, ..GcReport::default() };
        let totals = BTreeMap::new();
        Self { served, grace_seconds, news, report, totals, unanswered: 0, only }
    }

    /// Some segments after the others: each lot has a read of the directory of its own.
    async fn all(&mut self, cancel: &CancellationToken) -> Result<Ended, Problem> {
        let tenant = &self.served.tenant;
        let mut after = None;
        loop {
            let listed = list(&*tenant.store, &tenant.name, after, SEGMENTS_AT_ONCE).await;
            let Listed { segments, next } = listed.map_err(|error| self.store_problem(&error))?;
            self.report.segments += segments.len() as u64;
            // After the listing and before the read: what is recorded meanwhile is met there.
            let uploading = tenant.uploads.under_way();
            let ids = segments.iter().filter_map(|stored| stored.id);
            let (reading, tally) = match self.read(Tally::of(ids), cancel).await {
                Ok(read) => read,
                Err(Unwalked::Cancelled) => return Ok(Ended::Cancelled),
                Err(other) => return Err(other.into()),
            };
            let complete = reading.doubts.is_empty();
            self.add(reading);
            let store = &*tenant.store;
            let mut asking = futures::stream::iter(segments)
                .map(|stored| {
                    let refs = stored.id.map(|id| tally.refs(id)).unwrap_or_default();
                    let uuid = tenant.seal.tenant();
                    async move {
                        let weighed = match stored.id {
                            Some(id) => {
                                let size = stored.size_bytes;
                                Some(weigh(store, &stored.key, uuid, id, size, &refs).await)
                            }
                            None => None,
                        };
                        Asked { stored, refs, weighed }
                    }
                })
                .buffered(INDEXES_AT_ONCE);
            while let Some(asked) = asking.next().await {
                if is_gone(&asked) {
                    // It went since it was listed.
                    continue;
                }
                self.count_answer(&asked)?;
                let uploading = asked.stored.id.is_some_and(|id| uploading.contains(&id));
                if self.tell(asked, uploading, complete).await.is_break() {
                    return Ok(Ended::Cancelled);
                }
            }
            drop(asking);
            match next {
                Some(next) => after = Some(next),
                None => return Ok(Ended::Whole),
            }
        }
    }

    async fn read(
        &self,
        mut tally: Tally,
        cancel: &CancellationToken,
    ) -> Result<(Reading, Tally), Unwalked> {
        let (reading, news) = (Arc::clone(self.served), self.news.clone());
        let (segments, only) = (self.report.segments, Arc::clone(&self.only));
        let work = self.served.walks.run(cancel.clone(), move |stop| {
            let _only = only;
            let mut told = Instant::now();
            let mut go_on = |at: Told| {
                if told.elapsed() >= TOLD_EVERY {
                    told = Instant::now();
                    let Told { files, directories } = at;
                    let progress = GcProgress { segments, files, directories };
                    // For display only: a full channel loses a line of it.
                    drop(news.try_send(GcNews::Progress(progress)));
                }
                stop.flow()
            };
            match read(&reading.tenant, &reading.inodes, &mut tally, &mut go_on) {
                ControlFlow::Continue(read) => Ok((read, tally)),
                ControlFlow::Break(()) => Err(Unwalked::Cancelled),
            }
        });
        work.await?
    }

    fn add(&mut self, reading: Reading) {
        let report = &mut self.report;
        report.complete &= reading.doubts.is_empty();
        report.files += reading.files;
        report.directories += reading.directories;
        report.passes += reading.passes;
        report.failed_total += reading.doubts.total;
        let data_dir = &self.served.options.data_dir;
        report.failed.extend(reading.doubts.named.into_iter().map(|doubt| {
            let Doubt { path, cause, next_step } = doubt;
            // Below, not on the mount: some of it nobody sees there.
            let path = match path.is_empty() {
                true => data_dir.clone(),
                false => data_dir.join(std::ffi::OsStr::from_bytes(&path)),
            };
            Failure { path: path.into(), cause, next_step: next_step.to_owned() }
        }));
        report.failed.truncate(crate::control::wire::FAILURES_NAMED);
    }

    /// A store that says nothing of one segment after another is away.
    fn count_answer(&mut self, asked: &Asked) -> Result<(), Problem> {
        match &asked.weighed {
            Some(Err(ReadError::Store(error))) if error.is_transient() => {
                self.unanswered += 1;
                if self.unanswered >= UNANSWERED {
                    return Err(self.store_problem(error));
                }
            }
            Some(_) | None => self.unanswered = 0,
        }
        Ok(())
    }

    fn store_problem(&self, error: &StoreError) -> Problem {
        let what = format!("tenant {}: {error}", self.served.name);
        Problem::new(ProblemKind::Store, what, error.next_step())
    }

    /// Says what a segment is. Breaks where nobody wants to know.
    async fn tell(&mut self, asked: Asked, uploading: bool, complete: bool) -> ControlFlow<()> {
        let segment = self.judged(asked, uploading, complete);
        let verdict = segment.verdict;
        let total = self.totals.entry(verdict).or_insert(GcTotal {
            verdict,
            segments: 0,
            size_bytes: 0,
            live_bytes: 0,
            dead_bytes: 0,
        });
        total.segments += 1;
        total.size_bytes += segment.size_bytes;
        total.live_bytes += segment.live_bytes.unwrap_or(0);
        total.dead_bytes += segment.dead_bytes.unwrap_or(0);
        match self.news.send(GcNews::Segment(segment)).await {
            Ok(()) => ControlFlow::Continue(()),
            Err(_gone) => ControlFlow::Break(()),
        }
    }

    fn judged(&self, asked: Asked, uploading: bool, complete: bool) -> GcSegment {
        let Asked { stored, refs, weighed } = asked;
        let read = weighed.as_ref().and_then(|weighed| weighed.as_ref().ok());
        let made = stored.id.map(|id| SystemTime::now().duration_since(id.made()));
        let age_seconds = made.and_then(Result::ok).map(|age| age.as_secs());
        let verdict = verdict(&Facts {
            key_is_ours: stored.id.is_some(),
            uploading,
            complete,
            named: refs.is_named(),
            index: read.map_or(IndexFact::Unread, Weighed::fact),
            age_seconds,
            grace_seconds: self.grace_seconds,
        });
        let unread = weighed.as_ref().and_then(|weighed| weighed.as_ref().err());
        let why = why(verdict, &refs, unread);
        GcSegment {
            key: stored.key.as_str().to_owned(),
            segment: stored.id.map(|id| id.to_string()),
            size_bytes: stored.size_bytes,
            entries: read.map(|read| read.entries),
            live_entries: read.map(|read| read.live_entries),
            live_bytes: read.map(|read| read.live_bytes),
            dead_bytes: read.map(|read| read.dead_bytes),
            age_seconds,
            verdict: word(verdict),
            why,
        }
    }

    fn report(self) -> GcReport {
        GcReport { totals: self.totals.into_values().collect(), ..self.report }
    }
}

fn is_gone(asked: &Asked) -> bool {
    matches!(asked.weighed, Some(Err(ReadError::Store(StoreError::NotFound { .. }))))
}

fn word(verdict: Verdict) -> GcVerdict {
    match verdict {
        Verdict::Live => GcVerdict::Live,
        Verdict::PartlyDead => GcVerdict::PartlyDead,
        Verdict::Dead => GcVerdict::Dead,
        Verdict::Young(_) => GcVerdict::Young,
        Verdict::Held(_) => GcVerdict::Held,
    }
}

fn why(verdict: Verdict, refs: &Refs, unread: Option<&ReadError>) -> String {
    let by_notes = refs.is_named_by_notes_alone();
    let what = match verdict {
        Verdict::Live | Verdict::PartlyDead if by_notes => {
            "only notes of conflicts name it (`coldfs conflicts`)"
        }
        Verdict::Live => "files name all of it",
        Verdict::PartlyDead => "files name a part of it",
        Verdict::Dead => "nothing names it",
        Verdict::Young(Youth::Uploading) => "its files are being archived just now",
        Verdict::Young(Youth::Fresh) => "nothing names it, and it is younger than the grace",
        Verdict::Held(Hold::StrangeKey) => "not the key of a segment: coldfs did not put it there",
        Verdict::Held(Hold::Incomplete) => "what could not be read may name it",
        Verdict::Held(Hold::TookOver) => "it holds entries that files name by other segments",
        Verdict::Held(Hold::Index) => {
            return match unread {
                Some(error) => format!("its index cannot be read: {error}"),
                None => "its index cannot be read".to_owned(),
            };
        }
    };
    what.to_owned()
}
