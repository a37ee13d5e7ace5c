//! What a daemon must be able to do for the commands: the server calls this, the daemon
//! implements it, tests fake it.

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::wire::{
    BrakeReport, BrakeRequest, CancelReport, CancelRequest, DuReport, DuRequest, ExplainReport,
    ExplainRequest, FileReport, FileWarmth, FindRequest, FindSummary, Finding, FsckReport,
    FsckRequest, GcNews, GcReport, GcRequest, HeatReport, HeatRequest, Mount, MoveRequest,
    MoveSummary, NotesRequest, NotesSummary, PinReport, PinRequest, PlanRequest, PlanSummary,
    Planned, PolicyReport, PolicyRequest, Problem, Progress, Status, TenantEntry, TenantRequest,
    TopReport,
};

/// How many items of a stream wait for a slow reader before the engine waits too.
pub const STREAM_ITEMS: usize = 256;

/// Who is at the other end of the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its process; 0: not visible from here.
    pub process: u32,
    /// Its user.
    pub uid: u32,
}

impl Peer {
    /// This process itself.
    pub fn myself() -> Self {
        Self { process: std::process::id(), uid: nix::unistd::geteuid().as_raw() }
    }
}

/// The daemon, as commands see it.
///
/// Long calls get a token that is cancelled when the client goes away: they stop at the next
/// file, leave every file whole, and return what was done. Items go into the channel with
/// `send`, which waits for a slow reader and fails once the reader is gone; [`Progress`] is
/// for display, so `try_send` and forget it where the channel is full.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// The places it serves. Cheap: every command asks every daemon.
    fn mounts(&self) -> Vec<Mount>;

    /// What it serves and how it fares; of all tenants, or of one that has this path on its mount.
    async fn status(&self, of: Option<&std::path::Path>) -> Result<Status, Problem>;

    /// Its tenants, those too that are not mounted.
    fn tenants(&self) -> Vec<TenantEntry>;

    /// Mounts a tenant, or takes its mount away; returns once that is done.
    async fn tenant(&self, request: TenantRequest) -> Result<TenantEntry, Problem>;

    /// What is known of one file, without a request to the store.
    async fn state(&self, path: &std::path::Path) -> Result<FileReport, Problem>;

    /// Archives, releases, recalls or migrates.
    async fn run_move(
        &self,
        peer: Peer,
        request: MoveRequest,
        progress: mpsc::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<MoveSummary, Problem>;

    /// Sends the files that a [`super::filter::Filter`] accepts.
    async fn find(
        &self,
        request: FindRequest,
        found: mpsc::Sender<FileReport>,
        cancel: CancellationToken,
    ) -> Result<FindSummary, Problem>;

    /// How much a directory takes, where.
    async fn du(&self, request: DuRequest, cancel: CancellationToken) -> Result<DuReport, Problem>;

    /// How warm a tree is; sends each of its files too, where that is asked for.
    async fn heat(
        &self,
        request: HeatRequest,
        files: mpsc::Sender<FileWarmth>,
        cancel: CancellationToken,
    ) -> Result<HeatReport, Problem>;

    /// Stops running moves.
    async fn cancel(&self, request: CancelRequest) -> Result<CancelReport, Problem>;

    /// Pins or unpins.
    async fn pin(
        &self,
        request: PinRequest,
        cancel: CancellationToken,
    ) -> Result<PinReport, Problem>;

    /// Checks, and repairs as far as the request allows.
    async fn fsck(
        &self,
        request: FsckRequest,
        findings: mpsc::Sender<Finding>,
        cancel: CancellationToken,
    ) -> Result<FsckReport, Problem>;

    /// Says of each segment of a tenant whether anybody needs it; deletes nothing.
    async fn gc(
        &self,
        request: GcRequest,
        news: mpsc::Sender<GcNews>,
        cancel: CancellationToken,
    ) -> Result<GcReport, Problem>;

    /// Who brings cold files home, of each tenant that is mounted.
    fn top(&self) -> Vec<TopReport>;

    /// Sends what is noted of conflicts, or of opens of cold files.
    async fn notes(
        &self,
        request: NotesRequest,
        notes: mpsc::Sender<serde_json::Value>,
    ) -> Result<NotesSummary, Problem>;

    /// Sends what would move by itself; changes nothing.
    async fn plan(
        &self,
        request: PlanRequest,
        files: mpsc::Sender<Planned>,
    ) -> Result<PlanSummary, Problem>;

    /// Why a file moves by itself, or does not.
    async fn explain(&self, request: ExplainRequest) -> Result<ExplainReport, Problem>;

    /// The policy in force, read anew if the request says so.
    async fn policy(&self, request: PolicyRequest) -> Result<PolicyReport, Problem>;

    /// Looks at the brake on mass recalls, or lets it go.
    fn brake(&self, request: BrakeRequest) -> Result<BrakeReport, Problem>;

    /// Begins a clean detach; returns once it has begun.
    async fn detach(&self) -> Result<(), Problem>;
}
