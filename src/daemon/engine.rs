//! One served tenant, as commands see it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::count::{self, Count, Sums};
use super::failures::{Failures, is_gone};
use super::files::{heat_of, relative, report, report_on};
use super::walks::{Stop, Unwalked, WALKS_AT_ONCE, Walks};
use super::watching::Watching;
use super::{cancel, check, known, moves, notes, pins, storm, tiering, warmth};
use crate::catalog::seen::Seen;
use crate::catalog::{Keeper, Met};
use crate::config::MountOptions;
use crate::config::checks::FS_TYPE;
use crate::control::engine::{Engine, Peer};
use crate::control::filter::Filter;
use crate::control::wire::{
    BrakeReport, BrakeRequest, CancelReport, CancelRequest, Counters, DuReport, DuRequest,
    ExplainReport, ExplainRequest, Failure, FileReport, FileState, FileWarmth, FindRequest,
    FindSummary, Finding, FsckReport, FsckRequest, HeatReport, HeatRequest, Mount, MoveRequest,
    MoveSummary, NotesRequest, NotesSummary, PinReport, PinRequest, PlanRequest, PlanSummary,
    Planned, PolicyReport, PolicyRequest, Problem, ProblemKind, Progress, Source, Status,
    TenantStatus, TopReport, WirePath,
};
use crate::guard::Guard;
use crate::inode::Inodes;
use crate::migrate::Migrator;
use crate::recall::{Chunks, Recall};
use crate::sys;
use crate::sys::mount_table::MountTable;
use crate::tenant::{Standing, Tenant};
use crate::tiering::Tiering;
use crate::walk::{Found, find, walk};

/// A tenant that is served, with all its parts.
pub(super) struct Served {
    pub(super) options: MountOptions,
    pub(super) tenant: Arc<Tenant>,
    pub(super) inodes: Arc<Inodes>,
    pub(super) chunks: Arc<Chunks>,
    pub(super) recall: Arc<Recall>,
    pub(super) guard: Arc<Guard>,
    pub(super) migrator: Arc<Migrator>,
    passthrough: AtomicBool,
    moved_files: AtomicU64,
    running: Mutex<HashMap<u64, (Vec<WirePath>, CancellationToken)>>,
    next_move: AtomicU64,
    detach: Notify,
    /// Cancelled when the detach begins: whoever asks for the status then is answered at once.
    detaching: CancellationToken,
    /// Cancelled when the mount is gone.
    ending: CancellationToken,
    pub(super) walks: Walks,
    count: Count<Sums>,
    pub(super) keeper: Arc<Keeper>,
    pub(super) watching: Watching,
    pub(super) tiering: Arc<Tiering>,
}

impl Served {
    pub(super) fn new(
        options: MountOptions,
        tenant: Arc<Tenant>,
        inodes: Arc<Inodes>,
        chunks: Arc<Chunks>,
        recall: Arc<Recall>,
        guard: Arc<Guard>,
        migrator: Arc<Migrator>,
    ) -> Self {
        let (detaching, ending) = (CancellationToken::new(), CancellationToken::new());
        let watching = Watching::begin(&options, &tenant);
        let keeper = Arc::new(known::keep(&options, &tenant, &inodes));
        let tiering = Arc::new(Tiering::new(
            Arc::clone(&tenant),
            Arc::clone(&inodes),
            Arc::clone(&migrator),
            Arc::clone(&recall),
            Arc::clone(&keeper),
            tiering::options(&options),
            options.store_apart,
        ));
        Self {
            keeper,
            watching,
            tiering,
            options,
            tenant,
            inodes,
            chunks,
            recall,
            guard,
            migrator,
            passthrough: AtomicBool::new(false),
            moved_files: AtomicU64::new(0),
            running: Mutex::default(),
            next_move: AtomicU64::new(0),
            detach: Notify::new(),
            walks: Walks::new(WALKS_AT_ONCE, ending.clone()),
            count: Count::new(detaching.clone()),
            detaching,
            ending,
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

    /// The mount is about to go away.
    pub(super) fn begin_detach(&self) {
        self.detaching.cancel();
    }

    /// Whether a person's command may change the data directory.
    pub(super) fn may_change(&self) -> Result<(), Problem> {
        if self.tenant.may_move() {
            return Ok(());
        }
        let (what, next_step) = match self.tenant.is_read_only() {
            true => (
                format!("{}: on a read-only filesystem", self.options.data_dir.display()),
                "mount it read-write, detach, and mount coldfs again",
            ),
            false => (
                format!(
                    "{}: Read-only file system: mounted with -o ro",
                    self.options.mountpoint.display()
                ),
                "detach, and mount it without -o ro",
            ),
        };
        Err(Problem::new(ProblemKind::Failed, what, next_step))
    }

    /// Cancels every move and walk under way.
    pub(super) fn stop_moves(&self) {
        for (_, token) in self.running().values() {
            token.cancel();
        }
        self.ending.cancel();
    }

    /// What a process that ends now leaves, for a person.
    pub(super) fn left(&self) -> String {
        let mountpoint = self.options.mountpoint.display();
        let mounted = MountTable::read()
            .is_ok_and(|table| table.type_at(&self.options.mountpoint) == Some(FS_TYPE));
        let mut left = match self.running().len() {
            0 => "no move was under way".to_owned(),
            moves => format!("moves cut off: {moves}"),
        };
        if mounted {
            left +=
                &format!("; {mountpoint} is left without a daemon: fusermount3 -uz {mountpoint}");
        }
        left
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
        if *self.tenant.standing() == Standing::Guest {
            let text = "a copy of another directory, which owns what is in the store: it works, and \
                        deletes nothing there; where the other is gone, mount with --take-over";
            missing.push(text.to_owned());
        }
        missing
    }

    pub(super) fn running(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<u64, (Vec<WirePath>, CancellationToken)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn locate(&self, path: &Path) -> Result<Found, Problem> {
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
}

/// A `find` under way.
struct Search<'a> {
    served: &'a Served,
    filter: Filter,
    found: mpsc::Sender<FileReport>,
    summary: FindSummary,
}

impl Search<'_> {
    /// Sends a file that is meant.
    fn take(&mut self, report: FileReport, stop: &Stop) -> ControlFlow<()> {
        self.summary.examined += u64::from(report.state != FileState::None);
        let name = report.path.as_path().file_name().unwrap_or_default().to_owned();
        if !self.filter.accepts(&name, report.state, report.size_bytes, report.mtime_ns) {
            return stop.flow();
        }
        self.summary.matched += 1;
        stop.send(&self.found, report)
    }

    /// The catalog said all that it can.
    fn answered_by_catalog(self, failures: Failures) -> FindSummary {
        let Failures { named: failed, total: failed_total } = failures;
        FindSummary { failed, failed_total, source: Source::Catalog, ..self.summary }
    }

    /// Walks.
    fn walk(mut self, start: Found, stop: &Stop) -> FindSummary {
        let served = self.served;
        let failures = RefCell::new(Failures::default());
        let mut visit = |file: Found| match report(served, &file) {
            Ok(report) => self.take(report, stop),
            Err(error) => {
                self.summary.examined += 1;
                if !is_gone(&error) {
                    failures.borrow_mut().note(served, &file.path, &error);
                }
                stop.flow()
            }
        };
        let mut fail = |path: &[u8], error: std::io::Error| {
            failures.borrow_mut().note(served, path, &error);
        };
        let _all_or_stopped = walk(&served.tenant, start, &mut visit, &mut fail);
        let Failures { named, total } = failures.into_inner();
        FindSummary { failed: named, failed_total: total, ..self.summary }
    }
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
    fn top(&self) -> TopReport {
        storm::top(self)
    }

    fn brake(&self, request: BrakeRequest) -> BrakeReport {
        storm::brake(self, request)
    }

    async fn notes(
        &self,
        request: NotesRequest,
        notes: mpsc::Sender<serde_json::Value>,
    ) -> Result<NotesSummary, Problem> {
        notes::run(&self.0, request, notes).await
    }

    fn mounts(&self) -> Vec<Mount> {
        vec![Mount {
            tenant: self.tenant.name.clone(),
            data_dir: self.options.data_dir.clone().into(),
            mountpoint: self.options.mountpoint.clone().into(),
        }]
    }

    async fn status(&self) -> Result<Status, Problem> {
        let mut notes = self.options.notes.clone();
        notes.extend(storm::note(self));
        notes.extend(self.missing());
        notes.extend(self.watching.notes());
        notes.extend(self.tiering.notes());
        let root = self.locate(&self.options.mountpoint)?;
        let served = Arc::clone(&self.0);
        let counted = self.count.ask(move |stop| {
            let known = known::sums(&served, &root, stop);
            known.unwrap_or_else(|| count::sums(&served, root, stop))
        });
        let counted = counted.await;
        let (catalog, note) = known::status(self, &self.keeper.report());
        notes.extend(note);
        let sums = match counted {
            Err(Unwalked::Cancelled) if self.detaching.is_cancelled() => {
                notes.push("it is being detached, and its files are not counted".to_owned());
                Sums::default()
            }
            counted => counted?,
        };
        let tenant = TenantStatus {
            name: self.tenant.name.clone(),
            mounted: true,
            data_dir: self.options.data_dir.clone().into(),
            mountpoint: self.options.mountpoint.clone().into(),
            store: self.tenant.store.url().to_owned(),
            guest: *self.tenant.standing() == Standing::Guest,
            verify: self.tenant.store.verify().word().to_owned(),
            probe: self.watching.word(&self.tenant).to_owned(),
            heat: self.watching.status(&self.tenant),
            policy: self.tiering.policy_name().unwrap_or_else(|| "none".to_owned()),
            tiering: self.tiering.report(),
            passthrough: self.passthrough.load(Ordering::Relaxed),
            files: sums.files,
            bytes: sums.bytes,
            catalog,
            failed: sums.failures.named,
            failed_total: sums.failures.total,
            notes,
        };
        let traffic = self.tenant.store.traffic();
        let counters = Counters {
            s3_requests_total: traffic.requests,
            s3_throttled_total: traffic.throttled,
            recall_bytes_total: self.chunks.fetched_bytes(),
            heat_events_total: self.watching.report().events,
            heat_dropped_total: self.watching.report().dropped,
            migrate_files_total: self.moved_files.load(Ordering::Relaxed) + self.tiering.moved(),
            policy_traps_total: self.tiering.report().policy_faults,
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Status { version, tenants: vec![tenant], counters, dead: Vec::new() })
    }

    async fn state(&self, path: &Path) -> Result<FileReport, Problem> {
        let found = self.locate(path)?;
        let told = Seen::of(&self.tenant, &found.fd, &found.stat).map(|seen| {
            let report = report_on(self, &found.path, &seen, found.pin);
            let heat = found.is_regular().then(|| heat_of(self, &seen, report.open_count > 0));
            FileReport { heat: heat.flatten(), ..report }
        });
        told.map_err(|error| {
            let what = format!("{}: {error}", path.display());
            Problem::new(ProblemKind::Failed, what, "check the file")
        })
    }

    async fn run_move(
        &self,
        peer: Peer,
        request: MoveRequest,
        progress: mpsc::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<MoveSummary, Problem> {
        let number = self.next_move.fetch_add(1, Ordering::Relaxed);
        self.running().insert(number, (request.paths.clone(), cancel.clone()));
        let summary = moves::run(&self.0, peer, request, progress, cancel).await;
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
        let walk = self.walks.run(cancel, move |stop| {
            let mut search =
                Search { served: &served, filter, found, summary: FindSummary::default() };
            if !request.walk {
                let mut take = |met: Met<'_>| {
                    search.take(report_on(&served, met.path, met.seen, met.pin), stop)
                };
                match known::visit(&served, &start, &mut take) {
                    Ok(false) => {}
                    Ok(true) => return search.answered_by_catalog(Failures::default()),
                    Err(error) => {
                        let mut failures = Failures::default();
                        failures.push(Failure {
                            path: request.root,
                            cause: format!("the catalog: {error}"),
                            next_step: "run the command again: it is made anew".to_owned(),
                        });
                        return search.answered_by_catalog(failures);
                    }
                }
            }
            search.walk(start, stop)
        });
        Ok(walk.await?)
    }

    async fn du(&self, request: DuRequest, cancel: CancellationToken) -> Result<DuReport, Problem> {
        let start = self.locate(request.path.as_path())?;
        let served = Arc::clone(&self.0);
        let counted = self.walks.run(cancel, move |stop| {
            let known = (!request.walk).then(|| known::sums(&served, &start, stop)).flatten();
            known.unwrap_or_else(|| count::sums(&served, start, stop))
        });
        let Sums { bytes, files, failures, source } = counted.await?;
        let (failed, failed_total) = (failures.named, failures.total);
        Ok(DuReport { path: request.path, bytes, files, source, failed, failed_total })
    }

    async fn heat(
        &self,
        request: HeatRequest,
        files: mpsc::Sender<FileWarmth>,
        cancel: CancellationToken,
    ) -> Result<HeatReport, Problem> {
        let start = self.locate(request.path.as_path())?;
        let served = Arc::clone(&self.0);
        let walk = self
            .walks
            .run(cancel, move |stop| warmth::tree(&served, &start, &request, &files, stop));
        walk.await?
    }

    async fn cancel(&self, request: CancelRequest) -> Result<CancelReport, Problem> {
        cancel::run(&self.0, request).await
    }

    async fn pin(
        &self,
        request: PinRequest,
        cancel: CancellationToken,
    ) -> Result<PinReport, Problem> {
        pins::run(&self.0, request, cancel).await
    }

    async fn fsck(
        &self,
        request: FsckRequest,
        findings: mpsc::Sender<Finding>,
        cancel: CancellationToken,
    ) -> Result<FsckReport, Problem> {
        check::run(&self.0, request, findings, cancel).await
    }

    async fn plan(
        &self,
        request: PlanRequest,
        files: mpsc::Sender<Planned>,
    ) -> Result<PlanSummary, Problem> {
        tiering::plan(&self.0, request, files).await
    }

    async fn explain(&self, request: ExplainRequest) -> Result<ExplainReport, Problem> {
        tiering::explain(&self.0, request.path.as_path()).await
    }

    async fn policy(&self, request: PolicyRequest) -> Result<PolicyReport, Problem> {
        tiering::policy(&self.0, request).await
    }

    async fn detach(&self) -> Result<(), Problem> {
        self.detach.notify_one();
        Ok(())
    }
}
