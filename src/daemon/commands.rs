//! What the control socket calls: each request goes to the tenant it is about, those about the
//! whole daemon to all.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::count;
use super::files::{heat_of, report_on};
use super::fleet::Fleet;
use super::served::Served;
use super::{cancel, check, gc, moves, notes, pins, search, status, storm, tiering, warmth};
use crate::catalog::seen::Seen;
use crate::config::usage;
use crate::control::engine::{Engine, Peer};
use crate::control::wire::{
    BrakeReport, BrakeRequest, CancelReport, CancelRequest, Counters, DuReport, DuRequest,
    ExplainReport, ExplainRequest, FileReport, FileWarmth, FindRequest, FindSummary, Finding,
    FsckReport, FsckRequest, GcNews, GcReport, GcRequest, HeatReport, HeatRequest, Mount,
    MoveRequest, MoveSummary, NotesRequest, NotesSummary, PinReport, PinRequest, PlanRequest,
    PlanSummary, Planned, PolicyReport, PolicyRequest, Problem, ProblemKind, Progress, Status,
    TenantEntry, TenantRequest, TenantState, TenantStatus, TenantVerb, TopReport, WirePath,
};

/// Tenants whose files are counted at once, for a status of all: each may walk.
const COUNTED_AT_ONCE: usize = 8;

/// A daemon's tenants, as commands reach them.
pub(super) struct Commands {
    pub(super) fleet: Arc<Fleet>,
    /// Cancelled when somebody asks the daemon to end.
    pub(super) end: CancellationToken,
}

impl Commands {
    /// The tenant that serves a path.
    fn of(&self, path: &Path) -> Result<Arc<Served>, Problem> {
        self.fleet.serving(path).ok_or_else(|| {
            Problem::new(
                ProblemKind::NotMounted,
                format!("{} is on no mount of this daemon", path.display()),
                "`coldfs status` shows what is mounted where",
            )
        })
    }

    /// The tenant that serves all these paths.
    fn of_all(&self, paths: &[WirePath]) -> Result<Arc<Served>, Problem> {
        let mut tenants = Vec::new();
        for path in paths {
            let served = self.of(path.as_path())?;
            if !tenants.iter().any(|known| Arc::ptr_eq(known, &served)) {
                tenants.push(served);
            }
        }
        match (tenants.pop(), tenants.is_empty()) {
            (Some(served), true) => Ok(served),
            (Some(_), false) => {
                Err(usage("the paths are on mounts of several tenants", "ask for each by itself"))
            }
            (None, _) => self.of_the_only(),
        }
    }

    /// The tenant of a request that may name a path.
    fn of_maybe(&self, path: Option<&WirePath>) -> Result<Arc<Served>, Problem> {
        path.map_or_else(|| self.of_the_only(), |path| self.of(path.as_path()))
    }

    fn of_the_only(&self) -> Result<Arc<Served>, Problem> {
        let mut served = self.fleet.served();
        match (served.pop(), served.is_empty()) {
            (Some(only), true) => Ok(only),
            (Some(_), false) => {
                Err(usage("the daemon serves several tenants", "name a path of one of them"))
            }
            (None, _) => Err(Problem::new(
                ProblemKind::NotMounted,
                "none of the daemon's tenants is mounted",
                "see `coldfs tenant list`",
            )),
        }
    }

    fn counters(&self) -> Counters {
        let machine = &self.fleet.machine;
        let mut sum = self.fleet.counted();
        sum.add(&machine.stores.traffic());
        let heat = machine.watching.report();
        sum.heat_events_total = heat.events;
        sum.heat_dropped_total = heat.dropped;
        sum.policy_traps_total = machine.judge.counts().faults;
        sum
    }

    /// How a tenant fares, whatever is wrong with it.
    async fn fares(&self, entry: TenantEntry) -> Result<TenantStatus, Problem> {
        let mounted = self.fleet.served_as(&entry.name).filter(|_| {
            // One that stands in its way may have its name.
            entry.state != TenantState::Refused
        });
        let Some(served) = mounted else { return Ok(status::absent(&entry)) };
        match status::of(&served).await {
            Ok(mut status) => {
                status.notes.extend(entry.cause.filter(|_| entry.changed));
                Ok(status)
            }
            Err(problem) if self.fleet.is_one() => Err(problem),
            Err(problem) => {
                let (cause, next_step) = (Some(problem.what), Some(problem.next_step));
                let status = status::absent(&TenantEntry { cause, next_step, ..entry });
                Ok(TenantStatus { mounted: true, ..status })
            }
        }
    }
}

#[async_trait]
impl Engine for Commands {
    fn mounts(&self) -> Vec<Mount> {
        let mount = |served: Arc<Served>| Mount {
            tenant: served.name.clone(),
            data_dir: served.options.data_dir.clone().into(),
            mountpoint: served.options.mountpoint.clone().into(),
        };
        self.fleet.served().into_iter().map(mount).collect()
    }

    async fn status(&self, of: Option<&Path>) -> Result<Status, Problem> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let asked = match of {
            Some(path) => vec![self.fleet.entry(&self.of(path)?.name)?],
            None => self.fleet.entries(),
        };
        let mut counting =
            futures::stream::iter(asked).map(|entry| self.fares(entry)).buffered(COUNTED_AT_ONCE);
        let mut tenants = Vec::new();
        while let Some(tenant) = counting.next().await {
            tenants.push(tenant?);
        }
        drop(counting);
        Ok(Status { version, tenants, counters: self.counters(), dead: Vec::new() })
    }

    fn tenants(&self) -> Vec<TenantEntry> {
        self.fleet.entries()
    }

    async fn tenant(&self, request: TenantRequest) -> Result<TenantEntry, Problem> {
        let name = &request.name;
        match request.verb {
            TenantVerb::Attach => self.fleet.attach_by_name(name).await?,
            TenantVerb::Detach if self.fleet.is_one() => {
                let mountpoint = self.fleet.entry(name)?.mountpoint;
                let what = format!("tenant {name}: `coldfs mount` serves it, which ends with it");
                return Err(usage(what, format!("detach it: fusermount3 -u {mountpoint}")));
            }
            TenantVerb::Detach => self.fleet.detach_by_name(name).await?,
        }
        self.fleet.entry(name)
    }

    async fn state(&self, path: &Path) -> Result<FileReport, Problem> {
        let served = self.of(path)?;
        let seen = served.look(path, |served, found| {
            Seen::of(&served.tenant, &found.fd, &found.stat).map(|seen| {
                let report = report_on(served, &found.path, &seen, found.pin);
                let is_open = report.open_count > 0;
                let heat = found.is_regular().then(|| heat_of(served, &seen, is_open));
                FileReport { heat: heat.flatten(), ..report }
            })
        });
        seen.await?.map_err(|error| {
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
        let served = self.of_all(&request.paths)?;
        let number = served.begin_move(&request.paths, &cancel);
        let summary = moves::run(&served, peer, request, progress, cancel).await;
        served.end_move(number);
        summary
    }

    async fn find(
        &self,
        request: FindRequest,
        found: mpsc::Sender<FileReport>,
        cancel: CancellationToken,
    ) -> Result<FindSummary, Problem> {
        search::run(&self.of(request.root.as_path())?, request, found, cancel).await
    }

    async fn du(&self, request: DuRequest, cancel: CancellationToken) -> Result<DuReport, Problem> {
        count::du(&self.of(request.path.as_path())?, request, cancel).await
    }

    async fn heat(
        &self,
        request: HeatRequest,
        files: mpsc::Sender<FileWarmth>,
        cancel: CancellationToken,
    ) -> Result<HeatReport, Problem> {
        let served = self.of(request.path.as_path())?;
        let start = served.locate(request.path.as_path()).await?;
        let walking = Arc::clone(&served);
        let walk = served
            .walks
            .run(cancel, move |stop| warmth::tree(&walking, &start, &request, &files, stop));
        walk.await?
    }

    async fn cancel(&self, request: CancelRequest) -> Result<CancelReport, Problem> {
        let mut all = CancelReport::default();
        // A process may wait for files of any of them.
        if request.paths.is_empty() || !request.processes.is_empty() {
            for served in self.fleet.served() {
                let report = cancel::run(&served, request.clone()).await?;
                all.moves += report.moves;
                all.recalls += report.recalls;
            }
            return Ok(all);
        }
        cancel::run(&self.of_all(&request.paths)?, request).await
    }

    async fn pin(
        &self,
        request: PinRequest,
        cancel: CancellationToken,
    ) -> Result<PinReport, Problem> {
        pins::run(&self.of_all(&request.paths)?, request, cancel).await
    }

    async fn fsck(
        &self,
        request: FsckRequest,
        findings: mpsc::Sender<Finding>,
        cancel: CancellationToken,
    ) -> Result<FsckReport, Problem> {
        check::run(&self.of(request.path.as_path())?, request, findings, cancel).await
    }

    async fn gc(
        &self,
        request: GcRequest,
        news: mpsc::Sender<GcNews>,
        cancel: CancellationToken,
    ) -> Result<GcReport, Problem> {
        gc::run(&self.of_maybe(request.path.as_ref())?, request, news, cancel).await
    }

    fn top(&self) -> Vec<TopReport> {
        self.fleet.served().iter().map(|served| storm::top(served)).collect()
    }

    async fn notes(
        &self,
        request: NotesRequest,
        notes: mpsc::Sender<serde_json::Value>,
    ) -> Result<NotesSummary, Problem> {
        notes::run(&self.of_maybe(request.path.as_ref())?, request, notes).await
    }

    async fn plan(
        &self,
        request: PlanRequest,
        files: mpsc::Sender<Planned>,
    ) -> Result<PlanSummary, Problem> {
        tiering::plan(&self.of(request.path.as_path())?, request, files).await
    }

    async fn explain(&self, request: ExplainRequest) -> Result<ExplainReport, Problem> {
        let path = request.path.as_path();
        tiering::explain(&self.of(path)?, path).await
    }

    async fn policy(&self, request: PolicyRequest) -> Result<PolicyReport, Problem> {
        let served = self.of_maybe(request.path.as_ref())?;
        let report = tiering::policy(&served, &request).await?;
        if request.reload {
            self.fleet.served().iter().for_each(|served| served.tiering.judge_soon());
        }
        Ok(report)
    }

    fn brake(&self, request: BrakeRequest) -> Result<BrakeReport, Problem> {
        let served = self.of_maybe(request.path.as_ref())?;
        Ok(storm::brake(&served, &request))
    }

    async fn detach(&self) -> Result<(), Problem> {
        self.end.cancel();
        Ok(())
    }
}
