//! One served tenant, as commands see it.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::files::{add, relative, report, shown};
use super::moves;
use crate::config::MountOptions;
use crate::control::engine::Engine;
use crate::control::filter::Filter;
use crate::control::wire::{
    Bytes, CancelReport, CancelRequest, Counters, DuReport, DuRequest, FAILURES_NAMED, Failure,
    FileReport, Files, FindRequest, FindSummary, Finding, FsckMode, FsckReport, FsckRequest, Mount,
    MoveRequest, MoveSummary, PinReport, PinRequest, Problem, ProblemKind, Progress, Status,
    TenantStatus, Verdict, WirePath,
};
use crate::fsck::{Fsck, Mode, Trouble};
use crate::inode::{Inodes, Serving};
use crate::migrate::Migrator;
use crate::recall::{Chunks, Recall};
use crate::sys;
use crate::tenant::{Pin, Tenant};
use crate::walk::{Found, find, walk};

/// A tenant that is served, with all its parts.
pub(super) struct Served {
    pub(super) options: MountOptions,
    pub(super) tenant: Arc<Tenant>,
    pub(super) inodes: Arc<Inodes>,
    pub(super) chunks: Arc<Chunks>,
    pub(super) recall: Arc<Recall>,
    pub(super) migrator: Arc<Migrator>,
    passthrough: AtomicBool,
    moved_files: AtomicU64,
    running: Mutex<HashMap<u64, (Vec<WirePath>, CancellationToken)>>,
    next_move: AtomicU64,
    detach: Notify,
}

impl Served {
    pub(super) fn new(
        options: MountOptions,
        tenant: Arc<Tenant>,
        inodes: Arc<Inodes>,
        chunks: Arc<Chunks>,
        recall: Arc<Recall>,
        migrator: Arc<Migrator>,
    ) -> Self {
        Self {
            options,
            tenant,
            inodes,
            chunks,
            recall,
            migrator,
            passthrough: AtomicBool::new(false),
            moved_files: AtomicU64::new(0),
            running: Mutex::default(),
            next_move: AtomicU64::new(0),
            detach: Notify::new(),
        }
    }

    pub(super) fn note_passthrough(&self, granted: bool) {
        self.passthrough.store(granted, Ordering::Relaxed);
    }

    pub(super) fn count_move(&self) {
        self.moved_files.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) async fn detach_asked(&self) {
        self.detach.notified().await;
    }

    /// Cancels every move under way.
    pub(super) fn stop_moves(&self) {
        for (_, token) in self.running().values() {
            token.cancel();
        }
    }

    /// What is missing on this machine, and what would enable it.
    pub(super) fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if !self.passthrough.load(Ordering::Relaxed) {
            let why = if sys::has_capability(sys::CAP_SYS_ADMIN) {
                "this kernel has no FUSE passthrough (Linux 6.9 has)"
            } else {
                "FUSE passthrough needs CAP_SYS_ADMIN"
            };
            missing.push(format!("hot files are served by the daemon, slower: {why}"));
        }
        if self.tenant.is_read_only() {
            let text = "the filesystem below is read-only: cold files are read from the store, \
                        nothing is moved; mount it read-write and mount again";
            missing.push(text.to_owned());
        }
        if self.tenant.is_rootless() {
            let text = "records live in user.coldfs, where the tenant's users can remove them: \
                        run as root to keep them in trusted.coldfs";
            missing.push(text.to_owned());
        }
        missing
    }

    /// Stops recalls of files at or below these paths, and reads that wait for them; of all where
    /// there are none.
    async fn cancel_recalls(self: &Arc<Self>, paths: &[WirePath]) -> Result<u64, Problem> {
        let mut recalls = HashMap::new();
        for inode in self.inodes.all() {
            if let Serving::Cold(cold) = inode.serving()
                && cold.is_waited_for()
            {
                recalls.insert(inode.ino.0, cold);
            }
        }
        if recalls.is_empty() {
            return Ok(0);
        }
        let starts = paths.iter().map(|path| self.locate(path.as_path()));
        let starts: Vec<Found> = starts.collect::<Result<_, _>>()?;
        if starts.is_empty() || starts.iter().any(|start| start.path.is_empty()) {
            return Ok(recalls.values().filter(|cold| cold.cancel()).count() as u64);
        }
        let served = Arc::clone(self);
        walking(move || {
            let mut stopped = 0;
            for start in starts {
                let mut visit = |file: Found| {
                    if let Some(cold) = recalls.remove(&file.stat.st_ino) {
                        stopped += u64::from(cold.cancel());
                    }
                    if recalls.is_empty() {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                };
                let _all_or_found = walk(&served.tenant, start, &mut visit, &mut unreadable);
            }
            Ok(stopped)
        })
        .await
    }

    fn running(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<u64, (Vec<WirePath>, CancellationToken)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locate(&self, path: &Path) -> Result<Found, Problem> {
        let rest = relative(self, path).ok_or_else(|| {
            Problem::new(
                ProblemKind::NotMounted,
                format!("{} is not below {}", path.display(), self.options.mountpoint.display()),
                "`coldfs status` shows what is mounted where",
            )
        })?;
        find(&self.tenant, &rest).map_err(|error| {
            let what = format!("{}: {error}", path.display());
            Problem::new(ProblemKind::Failed, what, "check the path")
        })
    }

    fn failure(&self, path: &[u8], error: &dyn std::error::Error) -> Failure {
        Failure {
            path: shown(self, path).into(),
            cause: error.to_string(),
            next_step: "look at it, and run the command again".to_owned(),
        }
    }
}

/// Runs a walk on a thread of its own.
async fn walking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        Problem::new(ProblemKind::Failed, format!("a walk failed: {error}"), "report this")
    })?
}

/// What the control socket calls.
pub(super) struct Commands(pub(super) Arc<Served>);

impl std::ops::Deref for Commands {
    type Target = Served;
    fn deref(&self) -> &Served {
        &self.0
    }
}

#[async_trait]
impl Engine for Commands {
    fn mounts(&self) -> Vec<Mount> {
        vec![Mount {
            tenant: self.tenant.name.clone(),
            data_dir: self.options.data_dir.clone().into(),
            mountpoint: self.options.mountpoint.clone().into(),
        }]
    }

    async fn status(&self) -> Result<Status, Problem> {
        let path = self.options.mountpoint.clone().into();
        let sums = self.du(DuRequest { path }, CancellationToken::new()).await?;
        let mut notes = self.options.notes.clone();
        notes.extend(self.missing());
        let tenant = TenantStatus {
            name: self.tenant.name.clone(),
            mounted: true,
            data_dir: self.options.data_dir.clone().into(),
            mountpoint: self.options.mountpoint.clone().into(),
            store: self.tenant.store.url().to_owned(),
            probe: "none".to_owned(),
            policy: "none".to_owned(),
            passthrough: self.passthrough.load(Ordering::Relaxed),
            files: sums.files,
            bytes: sums.bytes,
            notes,
        };
        let counters = Counters {
            recall_bytes_total: self.chunks.fetched_bytes(),
            migrate_files_total: self.moved_files.load(Ordering::Relaxed),
            ..Counters::default()
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Status { version, tenants: vec![tenant], counters })
    }

    async fn state(&self, path: &Path) -> Result<FileReport, Problem> {
        let found = self.locate(path)?;
        report(self, &found).map_err(|error| {
            let what = format!("{}: {error}", path.display());
            Problem::new(ProblemKind::Failed, what, "check the file")
        })
    }

    async fn run_move(
        &self,
        request: MoveRequest,
        progress: mpsc::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<MoveSummary, Problem> {
        let number = self.next_move.fetch_add(1, Ordering::Relaxed);
        self.running().insert(number, (request.paths.clone(), cancel.clone()));
        let summary = moves::run(&self.0, request, progress, cancel).await;
        self.running().remove(&number);
        summary
    }

    async fn find(
        &self,
        request: FindRequest,
        found: mpsc::Sender<FileReport>,
        cancel: CancellationToken,
    ) -> Result<FindSummary, Problem> {
        let start = self.locate(request.root.as_path())?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
        let filter = Filter::new(&request, now)?;
        let served = Arc::clone(&self.0);
        walking(move || {
            let mut summary = FindSummary::default();
            let mut failures = Vec::new();
            let mut visit = |file: Found| {
                if cancel.is_cancelled() {
                    return ControlFlow::Break(());
                }
                summary.examined += 1;
                let report = match report(&served, &file) {
                    Ok(report) => report,
                    Err(error) => {
                        failures.push(served.failure(&file.path, &error));
                        return ControlFlow::Continue(());
                    }
                };
                let name = report.path.as_path().file_name().unwrap_or_default().to_owned();
                if !filter.accepts(&name, report.state, report.size_bytes, report.mtime_ns) {
                    return ControlFlow::Continue(());
                }
                summary.matched += 1;
                match found.blocking_send(report) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_gone) => ControlFlow::Break(()),
                }
            };
            let mut unread = Vec::new();
            let mut fail = |path: &[u8], error: std::io::Error| {
                unread.push(served.failure(path, &error));
            };
            let _all_or_cancelled = walk(&served.tenant, start, &mut visit, &mut fail);
            failures.extend(unread);
            summary.failed_total = failures.len() as u64;
            failures.truncate(FAILURES_NAMED);
            summary.failed = failures;
            Ok(summary)
        })
        .await
    }

    async fn du(&self, request: DuRequest, cancel: CancellationToken) -> Result<DuReport, Problem> {
        let start = self.locate(request.path.as_path())?;
        let served = Arc::clone(&self.0);
        walking(move || {
            let (mut bytes, mut files) = (Bytes::default(), Files::default());
            files.resident = Some(0);
            let mut seen = std::collections::HashSet::new();
            let mut visit = |file: Found| {
                if cancel.is_cancelled() {
                    return ControlFlow::Break(());
                }
                // A file of several names counts once.
                if file.stat.st_nlink > 1 && file.is_regular() && !seen.insert(file.stat.st_ino) {
                    return ControlFlow::Continue(());
                }
                if let Err(error) = add(&served.tenant, &file, &mut bytes, &mut files) {
                    tracing::debug!(%error, "a file went away while it was counted");
                }
                ControlFlow::Continue(())
            };
            let mut fail = |_: &[u8], error: std::io::Error| {
                tracing::warn!(%error, "a directory cannot be counted");
            };
            let _all_or_cancelled = walk(&served.tenant, start, &mut visit, &mut fail);
            Ok(DuReport { path: request.path, bytes, files })
        })
        .await
    }

    async fn cancel(&self, request: CancelRequest) -> Result<CancelReport, Problem> {
        let mut cancelled = CancelReport::default();
        for (paths, token) in self.running().values() {
            let below = |path: &WirePath| {
                request.paths.is_empty()
                    || request.paths.iter().any(|asked| {
                        path.as_path().starts_with(asked.as_path())
                            || asked.as_path().starts_with(path.as_path())
                    })
            };
            if paths.iter().any(below) {
                token.cancel();
                cancelled.moves += 1;
            }
        }
        cancelled.recalls = self.0.cancel_recalls(&request.paths).await?;
        Ok(cancelled)
    }

    async fn pin(
        &self,
        request: PinRequest,
        cancel: CancellationToken,
    ) -> Result<PinReport, Problem> {
        let mut starts = Vec::new();
        for path in &request.paths {
            starts.push(self.locate(path.as_path())?);
        }
        let served = Arc::clone(&self.0);
        walking(move || {
            let mut report = PinReport::default();
            for start in starts {
                let wanted = request.pinned.then_some(Pin::NeverRelease);
                let mut set = |file: &Found| {
                    let changed = served.tenant.pin(&file.fd).and_then(|pin| {
                        if pin == wanted {
                            return Ok(false);
                        }
                        served.tenant.set_pin(&file.fd, wanted).map(|()| true)
                    });
                    match changed {
                        Ok(true) => report.changed += 1,
                        Ok(false) => report.already += 1,
                        Err(error) => {
                            report.failed_total += 1;
                            if report.failed.len() < FAILURES_NAMED {
                                report.failed.push(served.failure(&file.path, &error));
                            }
                        }
                    }
                };
                // A pin on a directory holds for all below it.
                if !request.recursive || request.pinned {
                    set(&start);
                    continue;
                }
                let mut visit = |file: Found| {
                    let pinnable =
                        matches!(file.stat.st_mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR);
                    if pinnable {
                        set(&file);
                    }
                    if cancel.is_cancelled() {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                };
                let _all_or_cancelled = walk(&served.tenant, start, &mut visit, &mut unreadable);
            }
            Ok(report)
        })
        .await
    }

    async fn fsck(
        &self,
        request: FsckRequest,
        findings: mpsc::Sender<Finding>,
        cancel: CancellationToken,
    ) -> Result<FsckReport, Problem> {
        let start = self.locate(request.path.as_path())?;
        let (sender, mut files) = mpsc::channel::<Found>(64);
        let (served, stop) = (Arc::clone(&self.0), cancel.clone());
        let walker = walking(move || {
            let mut visit = |file: Found| {
                if stop.is_cancelled() || (file.is_regular() && sender.blocking_send(file).is_err())
                {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            };
            let mut fail = |_: &[u8], error: std::io::Error| {
                tracing::warn!(%error, "a directory cannot be checked");
            };
            let _all_or_cancelled = walk(&served.tenant, start, &mut visit, &mut fail);
            Ok(())
        });
        let walker = tokio::spawn(walker);
        let mode = match request.mode {
            FsckMode::Check => Mode::Check,
            FsckMode::Repair => Mode::Repair,
            FsckMode::Adopt => Mode::Adopt,
        };
        let mut fsck = Fsck::new(&self.tenant, &self.inodes, mode);
        let mut report = FsckReport::default();
        while let Some(file) = files.recv().await {
            report.examined += 1;
            let path = file.path.clone();
            let Ok(candidate) = self.migrator.candidate(file.path, file.fd, &file.stat) else {
                continue;
            };
            let checked = fsck.check(&candidate.inode).await;
            drop(candidate);
            let finding = match checked {
                Ok(None) => continue,
                Ok(Some(finding)) => Finding {
                    path: shown(self, &path).into(),
                    what: finding.what,
                    verdict: verdict_of(finding.trouble),
                    repaired: finding.repaired,
                    next_step: next_step(finding.trouble, finding.repaired).to_owned(),
                },
                Err(error) => Finding {
                    path: shown(self, &path).into(),
                    what: format!("cannot be checked: {error}"),
                    verdict: Verdict::Conflict,
                    repaired: false,
                    next_step: "check its permissions".to_owned(),
                },
            };
            report.found += 1;
            report.repaired += u64::from(finding.repaired);
            report.open += u64::from(!finding.repaired);
            if findings.send(finding).await.is_err() {
                break;
            }
        }
        drop(files);
        report.cancelled = cancel.is_cancelled();
        walker.await.map_err(|error| {
            Problem::new(ProblemKind::Failed, format!("a walk failed: {error}"), "report this")
        })??;
        Ok(report)
    }

    async fn detach(&self) -> Result<(), Problem> {
        self.detach.notify_one();
        Ok(())
    }
}

/// What a walk meets that it cannot go through: said, and passed over.
fn unreadable(_path: &[u8], error: std::io::Error) {
    tracing::warn!(%error, "a directory cannot be read");
}

fn verdict_of(trouble: Trouble) -> Verdict {
    match trouble {
        Trouble::InFlight | Trouble::VoidRecord => Verdict::Repairable,
        Trouble::Orphan => Verdict::Orphan,
        Trouble::Conflict | Trouble::Foreign => Verdict::Conflict,
        Trouble::Lost => Verdict::Lost,
        Trouble::Unanswered => Verdict::Unanswered,
    }
}

fn next_step(trouble: Trouble, repaired: bool) -> &'static str {
    match trouble {
        _ if repaired => "nothing: it is repaired",
        Trouble::InFlight | Trouble::VoidRecord => "coldfs fsck --repair, with the store reachable",
        Trouble::Orphan => "coldfs fsck --adopt, if it is this tenant's",
        Trouble::Conflict => "compare it with a backup; see .coldfs/conflicts",
        Trouble::Foreign => "use the coldfs or the tenant that wrote it",
        Trouble::Lost => "look for the object in the store's versions or its backup",
        Trouble::Unanswered => "check the store (`coldfs doctor --store URL`), then run this again",
    }
}
