//! Moves that a person asked for: `archive`, `release`, `recall`, `migrate` of paths and trees.
//!
//! A walk feeds batches to the migrator through a channel of one batch, so the tree is never in
//! memory; whatever happens to one file, the others go on.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use globset::GlobMatcher;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::files::{relative, shown};
use super::served::Served;
use super::walks::{Stop, Unwalked};
use crate::control::engine::Peer;
use crate::control::filter::name_pattern;
use crate::control::wire::{
    FAILURES_NAMED, Failure, MoveRequest, MoveSummary, Problem, ProblemKind, Progress,
    Skip as SkipCount, SkippedFile, Verb, WirePath,
};
use crate::guard::reader::Reader;
use crate::guard::{Ask, Why};
use crate::inode::{Inode, Serving};
use crate::migrate::{BATCH_FILES, Candidate, MigrateError, Outcome, SEGMENT_BYTES, Skip};
use crate::prestage::{Recalled, forget_copy, recall_file, remote_copy};
use crate::recall::RecallError;
use crate::record::Record;
use crate::tenant::Pin;
use crate::walk::{Found, find, walk};

/// What one recall command has under way at once, in parts: as many small files, which share what
/// they wait for at the disk, or 16 large ones.
const RECALLING_PARTS: u32 = 1024;
const PART_BYTES: u64 = 16 << 10;
const PARTS_OF_A_LARGE_FILE: u64 = 64;
/// Bytes of files in a batch, or a few more: then a person is told how far it is. An archive is no
/// slower for it, its segments being as large; a release waits for the disk once a batch; of a
/// recall each file is told of.
const ARCHIVED_BYTES: u64 = SEGMENT_BYTES;
const RELEASED_BYTES: u64 = 1 << 30;
/// How often a batch of recalls that is under way tells how far it is.
const TOLD_EVERY: Duration = Duration::from_millis(100);
/// How often a command that waits tries files again that were in use.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Why a file that a person named could not be moved.
#[derive(Debug, thiserror::Error)]
enum MoveError {
    /// It could not be found or looked at.
    #[error(transparent)]
    Found(#[from] std::io::Error),
    /// It could not be archived or released.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// It could not be recalled.
    #[error(transparent)]
    Recall(#[from] RecallError),
}

impl MoveError {
    fn next_step(&self) -> &'static str {
        match self {
            MoveError::Found(error) => match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => "check the name",
                Some(libc::EXDEV) => "name a file of the mounted directory's own filesystem",
                _ => "check its permissions, then run the command again",
            },
            MoveError::Migrate(error) => error.next_step(),
            MoveError::Recall(error) => error.next_step(),
        }
    }
}

/// What became of one file.
type Ended = Result<Moved, MoveError>;

/// What became of a file that did not fail.
enum Moved {
    /// It is where it was to go; so many bytes.
    Done(u64),
    /// Left as it is.
    Skipped(Skip),
}

fn ended((candidate, outcome): (Candidate, Outcome)) -> (Candidate, Ended) {
    let ended = match outcome {
        Outcome::Done(bytes) => Ok(Moved::Done(bytes)),
        Outcome::Skipped(skip) => Ok(Moved::Skipped(skip)),
        Outcome::Failed(error) => Err(error.into()),
    };
    (candidate, ended)
}

/// What a walk sends: a batch, or a path that it could not read.
enum Met {
    Batch(Vec<(Candidate, Option<Pin>)>),
    Failed(Failure),
}

struct Running {
    verb: Verb,
    /// Whose command it is.
    person: Reader,
    started: Instant,
    done: u64,
    already: u64,
    bytes: u64,
    skipped: BTreeMap<Skip, u64>,
    skipped_files: Vec<SkippedFile>,
    failed: Vec<Failure>,
    failed_total: u64,
    found: Arc<AtomicU64>,
    progress: mpsc::Sender<Progress>,
}

/// Carries a move out.
pub(super) async fn run(
    served: &Arc<Served>,
    peer: Peer,
    request: MoveRequest,
    progress: mpsc::Sender<Progress>,
    cancel: CancellationToken,
) -> Result<MoveSummary, Problem> {
    served.may_change()?;
    let mut starts = Vec::new();
    for path in &request.paths {
        starts.push(relative(served, path.as_path()).ok_or_else(|| {
            Problem::new(
                ProblemKind::NotMounted,
                format!("{path} is not below {}", served.options.mountpoint.display()),
                "`coldfs status` shows what is mounted where",
            )
        })?);
    }
    let found = Arc::new(AtomicU64::new(0));
    #[allow(clippy::disallowed_methods, reason = "how long a person waited is real time")]
    let started = Instant::now();
    let mut running = Running {
        verb: request.verb,
        person: Reader::look(peer.process, peer.uid),
        started,
        done: 0,
        already: 0,
        bytes: 0,
        skipped: BTreeMap::new(),
        skipped_files: Vec::new(),
        failed: Vec::new(),
        failed_total: 0,
        found: Arc::clone(&found),
        progress,
    };
    let (sender, mut batches) = mpsc::channel(1);
    let walking = Arc::clone(served);
    let recursive = request.recursive;
    let name = request.name.as_deref().map(name_pattern).transpose()?;
    let batch_bytes = match request.verb {
        Verb::Archive | Verb::Migrate => ARCHIVED_BYTES,
        Verb::Release => RELEASED_BYTES,
        Verb::Recall | Verb::Drain => u64::MAX,
    };
    let unpin = request.verb == Verb::Drain;
    let wanted = Wanted { starts, recursive, name, unpin, batch_bytes };
    let walker = tokio::spawn(served.walks.run(cancel.clone(), move |stop| {
        send_batches(&walking, &wanted, &sender, stop, &found);
    }));
    let mut again = Vec::new();
    while let Some(met) = batches.recv().await {
        match met {
            Met::Failed(failure) => running.fail(failure),
            Met::Batch(batch) => {
                running.tell(0, 0);
                again.extend(running.batch(served, batch, request.wait, &cancel).await);
            }
        }
    }
    match walker.await.unwrap_or(Err(Unwalked::Fault)) {
        Ok(()) => {}
        Err(Unwalked::Cancelled) => cancel.cancel(),
        Err(other) => return Err(other.into()),
    }
    while !again.is_empty() && !cancel.is_cancelled() {
        tokio::select! {
            () = tokio::time::sleep(TRY_AGAIN_AFTER) => {}
            () = cancel.cancelled() => {}
        }
        let batch = std::mem::take(&mut again);
        let parts: Vec<Vec<_>> = batch.chunks(BATCH_FILES).map(<[_]>::to_vec).collect();
        for part in parts {
            again.extend(running.batch(served, part, true, &cancel).await);
        }
    }
    Ok(running.summary(cancel.is_cancelled()))
}

/// Which files a move is for.
struct Wanted {
    /// Paths below the tenant's root.
    starts: Vec<Vec<u8>>,
    recursive: bool,
    /// For the last component.
    name: Option<GlobMatcher>,
    /// Whether files and directories lose their pins: none means anything to a plain one.
    unpin: bool,
    batch_bytes: u64,
}

impl Wanted {
    fn has(&self, path: &[u8]) -> bool {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        self.name.as_ref().is_none_or(|glob| glob.is_match(OsStr::from_bytes(name)))
    }
}

fn send_batches(
    served: &Arc<Served>,
    wanted: &Wanted,
    sender: &mpsc::Sender<Met>,
    stop: &Stop,
    found_files: &AtomicU64,
) {
    let (mut batch, mut bytes) = (Vec::with_capacity(BATCH_FILES), 0_u64);
    for start in &wanted.starts {
        let mut take = |found: Found| {
            stop.flow()?;
            if wanted.unpin
                && found.pin.is_some()
                && let Err(error) = unpin(served, &found)
            {
                let failure = failure_of(served, &found.path, &error.into());
                stop.send(sender, Met::Failed(failure))?;
            }
            let is_dir = found.stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
            let is_left_out = wanted.recursive && !found.is_regular();
            if is_dir || is_left_out || !wanted.has(&found.path) {
                return ControlFlow::Continue(());
            }
            let (pin, size) = (found.pin, found.stat.st_size);
            match served.migrator.candidate(found.path.clone(), found.fd, &found.stat) {
                Ok(candidate) => batch.push((candidate, pin)),
                Err(error) => {
                    let failure = failure_of(served, &found.path, &error.into());
                    return stop.send(sender, Met::Failed(failure));
                }
            }
            found_files.fetch_add(1, Ordering::Relaxed);
            bytes = bytes.saturating_add(size.cast_unsigned());
            if batch.len() < BATCH_FILES && bytes < wanted.batch_bytes {
                return ControlFlow::Continue(());
            }
            bytes = 0;
            stop.send(sender, Met::Batch(std::mem::take(&mut batch)))
        };
        let mut failed = |path: &[u8], error: std::io::Error| {
            let failure = failure_of(served, path, &error.into());
            let _sent_or_stopped = stop.send(sender, Met::Failed(failure));
        };
        match find(&served.tenant, start) {
            Err(error) => failed(start, error),
            Ok(found)
                if found.stat.st_mode & libc::S_IFMT == libc::S_IFDIR && !wanted.recursive =>
            {
                let failure = Failure {
                    path: shown(served, start).into(),
                    cause: "a directory".into(),
                    next_step: "add -r to take all below it".into(),
                };
                let _sent_or_stopped = stop.send(sender, Met::Failed(failure));
            }
            Ok(found) => {
                if walk(&served.tenant, found, &mut take, &mut failed).is_break() {
                    break;
                }
            }
        }
    }
    if !batch.is_empty() {
        let _sent_or_stopped = stop.send(sender, Met::Batch(batch));
    }
}

/// Takes a file's or directory's own pin off, if it has one.
fn unpin(served: &Served, found: &Found) -> std::io::Result<()> {
    match found.stat.st_mode & libc::S_IFMT {
        libc::S_IFREG | libc::S_IFDIR if served.tenant.pin(&found.fd)?.is_some() => {
            served.tenant.set_pin(&found.fd, None)
        }
        _ => Ok(()),
    }
}

fn failure_of(served: &Served, path: &[u8], error: &MoveError) -> Failure {
    let path: WirePath = shown(served, path).into();
    Failure { path, cause: error.to_string(), next_step: error.next_step().to_owned() }
}

type Batch = Vec<(Candidate, Option<Pin>)>;

impl Running {
    /// Moves one batch; what is to be tried again comes back.
    async fn batch(
        &mut self,
        served: &Arc<Served>,
        batch: Batch,
        wait: bool,
        cancel: &CancellationToken,
    ) -> Batch {
        let (pinned, free): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|(_, pin)| self.is_kept_by(*pin));
        if !pinned.is_empty() {
            pinned.iter().for_each(|(candidate, _)| self.skip(served, candidate, Skip::Pinned));
        }
        // One by its other name is the same file: moved once.
        let mut met = HashSet::new();
        let (candidates, others): (Vec<_>, Vec<_>) = free
            .into_iter()
            .map(|(candidate, _)| candidate)
            .partition(|candidate| met.insert(candidate.inode.ino));
        self.already += others.len() as u64;
        drop(others);
        let told = |files, bytes| self.tell(files, bytes);
        let all: Vec<(Candidate, Ended)> = match self.verb {
            Verb::Recall => recall(served, &self.person, candidates, cancel, &told).await,
            Verb::Drain => drain(served, &self.person, candidates, cancel, &told).await,
            Verb::Archive => {
                let outcomes = served.migrator.archive(candidates, cancel).await;
                outcomes.into_iter().map(ended).collect()
            }
            Verb::Release => {
                let outcomes = served.migrator.release(candidates, cancel).await;
                outcomes.into_iter().map(ended).collect()
            }
            Verb::Migrate => {
                let outcomes = self.migrate(served, candidates, cancel).await;
                outcomes.into_iter().map(ended).collect()
            }
        };
        let mut again = Vec::new();
        for (candidate, ended) in all {
            match ended {
                Ok(Moved::Done(bytes)) => {
                    self.done += 1;
                    self.bytes += bytes;
                    served.count_move();
                }
                Ok(Moved::Skipped(Skip::Already)) => self.already += 1,
                Ok(Moved::Skipped(Skip::Open | Skip::Fresh | Skip::Changed))
                    if wait && !cancel.is_cancelled() =>
                {
                    again.push((candidate, None));
                    continue;
                }
                Ok(Moved::Skipped(skip)) => self.skip(served, &candidate, skip),
                Err(error) => {
                    self.fail(failure_of(served, &candidate.path, &error));
                }
            }
        }
        self.tell(0, 0);
        again
    }

    fn is_kept_by(&self, pin: Option<Pin>) -> bool {
        match (self.verb, pin) {
            (Verb::Recall | Verb::Drain, _) | (_, None) => false,
            (Verb::Archive, Some(pin)) => pin == Pin::NeverArchive,
            (Verb::Release | Verb::Migrate, Some(_)) => true,
        }
    }

    async fn migrate(
        &self,
        served: &Served,
        batch: Vec<Candidate>,
        cancel: &CancellationToken,
    ) -> Vec<(Candidate, Outcome)> {
        let mut outcomes = Vec::with_capacity(batch.len());
        let mut archived = Vec::new();
        for (candidate, outcome) in served.migrator.archive(batch, cancel).await {
            match outcome {
                Outcome::Done(_) | Outcome::Skipped(Skip::Already) => archived.push(candidate),
                other => outcomes.push((candidate, other)),
            }
        }
        outcomes.extend(served.migrator.release(archived, cancel).await);
        outcomes
    }

    fn skip(&mut self, served: &Served, candidate: &Candidate, skip: Skip) {
        *self.skipped.entry(skip).or_default() += 1;
        if self.skipped_files.len() < FAILURES_NAMED {
            let path = shown(served, &candidate.path).into();
            self.skipped_files.push(SkippedFile { path, reason: skip.word().to_owned() });
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.failed_total += 1;
        if self.failed.len() < FAILURES_NAMED {
            self.failed.push(failure);
        }
    }

    /// Tells how far it is, with so many files and bytes of a batch that is under way.
    fn tell(&self, files: u64, bytes: u64) {
        let bytes = self.bytes + bytes;
        let seconds = self.started.elapsed().as_secs().max(1);
        let dealt_with = self.done + self.already + self.skipped.values().sum::<u64>();
        let progress = Progress {
            files_done: dealt_with + self.failed_total + files,
            files_total: self.found.load(Ordering::Relaxed),
            bytes_done: bytes,
            bytes_per_second: bytes / seconds,
        };
        // For display only: a full channel loses a line of it.
        drop(self.progress.try_send(progress));
    }

    fn summary(self, cancelled: bool) -> MoveSummary {
        let skipped = self
            .skipped
            .into_iter()
            .map(|(skip, files)| SkipCount { reason: skip.word().to_owned(), files })
            .collect();
        MoveSummary {
            verb: self.verb,
            files_done: self.done,
            files_already: self.already,
            bytes_done: self.bytes,
            seconds: self.started.elapsed().as_secs_f64(),
            cancelled,
            skipped,
            skipped_files: self.skipped_files,
            failed: self.failed,
            failed_total: self.failed_total,
        }
    }
}

/// Recalls files, segment by segment: what lies together comes together.
async fn recall(
    served: &Arc<Served>,
    person: &Reader,
    batch: Vec<Candidate>,
    cancel: &CancellationToken,
    told: &(dyn Fn(u64, u64) + Sync),
) -> Vec<(Candidate, Ended)> {
    let copy =
        |candidate: &Candidate| remote_copy(&served.tenant, &served.inodes, &candidate.inode);
    let mut batch: Vec<_> =
        batch.into_iter().map(|candidate| (copy(&candidate), candidate)).collect();
    batch.sort_by_key(|(copy, _)| copy.map(|record| record.at));
    let under_way = Semaphore::new(RECALLING_PARTS as usize);
    let mut all = Vec::with_capacity(batch.len());
    let mut bytes = 0;
    let mut recalls = futures::stream::iter(batch)
        .map(|(copy, candidate)| {
            let size = copy.map_or(0, |record| record.size_bytes);
            let parts = size.div_ceil(PART_BYTES).clamp(1, PARTS_OF_A_LARGE_FILE);
            let turn = under_way.acquire_many(u32::try_from(parts).unwrap_or(RECALLING_PARTS));
            async move {
                let _turn = turn.await;
                let (candidate, ended) = recall_one(served, candidate, cancel).await;
                if let Some(record) = copy {
                    note_recall(served, person, &candidate, &record, &ended);
                }
                (candidate, ended)
            }
        })
        .buffer_unordered(RECALLING_PARTS as usize)
        .boxed();
    let mut tick = tokio::time::interval(TOLD_EVERY);
    loop {
        tokio::select! {
            met = recalls.next() => {
                let Some((candidate, ended)) = met else { break };
                if let Ok(Moved::Done(length)) = &ended {
                    bytes += length;
                }
                all.push((candidate, ended));
            }
            _ = tick.tick() => told(all.len() as u64, bytes),
        }
    }
    drop(recalls);
    all
}

/// Leaves a line of a recall in the audit; of a file that was here, or is tried again, there is
/// nothing to tell.
fn note_recall(
    served: &Served,
    person: &Reader,
    candidate: &Candidate,
    record: &Record,
    ended: &Ended,
) {
    let (bytes, failed) = match ended {
        Ok(Moved::Done(bytes)) => (*bytes, None),
        Ok(Moved::Skipped(Skip::Cancelled)) => (0, Some("cancelled".to_owned())),
        Ok(Moved::Skipped(_)) => return,
        Err(error) => (0, Some(error.to_string())),
    };
    let ask = Ask {
        ino: candidate.inode.ino,
        path: served.options.data_dir.join(OsStr::from_bytes(&candidate.path)),
        size_bytes: record.size_bytes,
        remote_bytes: bytes,
        segment: record.at.segment,
        bytes,
        why: Why::Command,
    };
    served.guard.note_command(person.clone(), ask, failed);
}

async fn recall_one(
    served: &Arc<Served>,
    candidate: Candidate,
    cancel: &CancellationToken,
) -> (Candidate, Ended) {
    let (tenant, inodes) = (&served.tenant, &served.inodes);
    let recalled = tokio::select! {
        recalled = recall_file(tenant, inodes, &served.recall, &candidate.inode) => recalled,
        () = cancel.cancelled() => {
            stop_unless_wanted(&candidate.inode);
            Err(RecallError::Cancelled)
        }
    };
    let ended = match recalled {
        Ok(Recalled::Done(bytes)) => Ok(Moved::Done(bytes)),
        Ok(Recalled::Already) => Ok(Moved::Skipped(Skip::Already)),
        Err(RecallError::Busy) => Ok(Moved::Skipped(Skip::Open)),
        Err(RecallError::Cancelled) => Ok(Moved::Skipped(Skip::Cancelled)),
        Err(error) => Err(error.into()),
    };
    (candidate, ended)
}

/// Recalls files and makes plain files of them, those that are at home too.
async fn drain(
    served: &Arc<Served>,
    person: &Reader,
    batch: Vec<Candidate>,
    cancel: &CancellationToken,
    told: &(dyn Fn(u64, u64) + Sync),
) -> Vec<(Candidate, Ended)> {
    let mut all = Vec::with_capacity(batch.len());
    let mut last = None;
    for (candidate, recalled) in recall(served, person, batch, cancel, told).await {
        let came = match recalled {
            Ok(Moved::Done(bytes)) => bytes,
            Ok(Moved::Skipped(Skip::Already)) => 0,
            other => {
                all.push((candidate, other));
                continue;
            }
        };
        let ended = match forget_copy(&served.tenant, &served.inodes, &candidate.inode).await {
            Ok(Some(file)) => {
                last = Some(file);
                Ok(Moved::Done(came))
            }
            Ok(None) => Ok(Moved::Skipped(Skip::Already)),
            Err(RecallError::Busy) => Ok(Moved::Skipped(Skip::Open)),
            Err(error) => Err(error.into()),
        };
        all.push((candidate, ended));
    }
    // Before it, a power cut brings records back: the files are archived again, and whole.
    if let Some(file) = last {
        let tenant = Arc::clone(&served.tenant);
        let passed = tokio::task::spawn_blocking(move || tenant.barrier(&file)).await;
        if let Ok(Err(error)) = passed {
            tracing::warn!(%error, "a drain is not on disk yet");
        }
    }
    all
}

/// Stops the recall of a file that nobody has open: a reader may wait for it as well.
fn stop_unless_wanted(inode: &Inode) {
    if let Some(held) = inode.try_tier()
        && held.opens == 0
        && let Serving::Cold(cold) = inode.serving()
    {
        cold.cancel_fill();
    }
}
