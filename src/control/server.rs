//! HTTP in front of an [`Engine`], on a Unix socket.
//!
//! A stream's work runs in a task of its own. When the client goes away its body is dropped,
//! which cancels the task's token: the work ends between two files instead of being torn.

use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Json, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Router, extract::DefaultBodyLimit};
use serde::Serialize;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::engine::{Engine, Peer, STREAM_ITEMS};
use super::runtime::RuntimeDir;
use super::wire::{
    BrakeReport, BrakeRequest, CancelReport, CancelRequest, DuReport, DuRequest, Event,
    ExplainReport, ExplainRequest, Failure, FindRequest, FsckRequest, GcRequest, HeatRequest,
    Mount, MoveRequest, NotesRequest, PinReport, PinRequest, PlanRequest, PolicyReport,
    PolicyRequest, Problem, ProblemKind, StateRequest, Status, StatusRequest, TenantEntry,
    TenantRequest, TopReport,
};

/// Largest request: some hundred thousand paths.
const REQUEST_BYTES: usize = 64 << 20;

type Shared = State<Arc<dyn Engine>>;

/// A daemon's control socket. Bind it before the mount answers, so that a command never
/// meets a mount without a daemon; dropped, it takes its socket away.
#[derive(Debug)]
pub struct ControlSocket {
    listener: std::os::unix::net::UnixListener,
    name: SocketName,
}

/// The socket's name in the runtime directory, removed on drop.
#[derive(Debug)]
struct SocketName(PathBuf);

impl Drop for SocketName {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(socket = %self.0.display(), %error, "remove control socket");
        }
    }
}

impl ControlSocket {
    /// Listens in the runtime directory.
    pub fn bind(runtime: &RuntimeDir) -> Result<Self, Problem> {
        let (listener, path) = runtime.listen()?;
        Ok(Self { listener, name: SocketName(path) })
    }

    /// Answers commands until `stop`; streams that still run then are cut off.
    pub async fn serve(
        self,
        engine: Arc<dyn Engine>,
        stop: CancellationToken,
    ) -> std::io::Result<()> {
        let Self { listener, name } = self;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let routes = routes(engine).into_make_service_with_connect_info::<Peer>();
        let result = tokio::select! {
            result = axum::serve(listener, routes).into_future() => result,
            () = stop.cancelled() => Ok(()),
        };
        drop(name);
        result
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    /// As the kernel vouches for it (`SO_PEERCRED`); the daemon, where it does not say.
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let Ok(peer) = stream.io().peer_cred() else { return Self::myself() };
        let process = peer.pid().and_then(|process| u32::try_from(process).ok());
        Self { process: process.unwrap_or(0), uid: peer.uid() }
    }
}

fn routes(engine: Arc<dyn Engine>) -> Router {
    Router::new()
        .route("/v1/mounts", get(mounts))
        .route("/v1/status", get(status).post(status_of))
        .route("/v1/tenants", get(tenants))
        .route("/v1/tenant", post(tenant))
        .route("/v1/state", post(state))
        .route("/v1/move", post(run_move))
        .route("/v1/find", post(find))
        .route("/v1/du", post(du))
        .route("/v1/heat", post(heat))
        .route("/v1/cancel", post(cancel))
        .route("/v1/pin", post(pin))
        .route("/v1/fsck", post(fsck))
        .route("/v1/gc", post(gc))
        .route("/v1/top", get(top))
        .route("/v1/notes", post(notes))
        .route("/v1/brake", post(brake))
        .route("/v1/plan", post(plan))
        .route("/v1/explain", post(explain))
        .route("/v1/policy", post(policy))
        .route("/v1/detach", post(detach))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES))
        .with_state(engine)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = match self.kind {
            ProblemKind::Usage => StatusCode::BAD_REQUEST,
            ProblemKind::NotMounted => StatusCode::NOT_FOUND,
            ProblemKind::Failed => StatusCode::CONFLICT,
            ProblemKind::Store => StatusCode::BAD_GATEWAY,
        };
        (status, Json(self)).into_response()
    }
}

async fn mounts(State(engine): Shared) -> Json<Vec<Mount>> {
    Json(engine.mounts())
}

async fn status(State(engine): Shared) -> Result<Json<Status>, Problem> {
    engine.status(None).await.map(Json)
}

async fn status_of(
    State(engine): Shared,
    Json(request): Json<StatusRequest>,
) -> Result<Json<Status>, Problem> {
    engine.status(Some(request.path.as_path())).await.map(Json)
}

async fn tenants(State(engine): Shared) -> Json<Vec<TenantEntry>> {
    Json(engine.tenants())
}

async fn tenant(
    State(engine): Shared,
    Json(request): Json<TenantRequest>,
) -> Result<Json<TenantEntry>, Problem> {
    engine.tenant(request).await.map(Json)
}

async fn state(State(engine): Shared, Json(request): Json<StateRequest>) -> Response {
    stream(move |items, cancel| async move {
        for path in request.paths {
            if cancel.is_cancelled() {
                break;
            }
            let item = match engine.state(path.as_path()).await {
                Ok(report) => Ok(report),
                Err(problem) => {
                    Err(Failure { path, cause: problem.what, next_step: problem.next_step })
                }
            };
            if items.send(item).await.is_err() {
                break;
            }
        }
        Ok(())
    })
}

async fn run_move(
    State(engine): Shared,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<MoveRequest>,
) -> Response {
    stream(move |items, cancel| async move { engine.run_move(peer, request, items, cancel).await })
}

async fn find(State(engine): Shared, Json(request): Json<FindRequest>) -> Response {
    stream(|items, cancel| async move { engine.find(request, items, cancel).await })
}

async fn heat(State(engine): Shared, Json(request): Json<HeatRequest>) -> Response {
    stream(|files, cancel| async move { engine.heat(request, files, cancel).await })
}

async fn fsck(State(engine): Shared, Json(request): Json<FsckRequest>) -> Response {
    stream(|items, cancel| async move { engine.fsck(request, items, cancel).await })
}

async fn gc(State(engine): Shared, Json(request): Json<GcRequest>) -> Response {
    stream(|news, cancel| async move { engine.gc(request, news, cancel).await })
}

async fn notes(State(engine): Shared, Json(request): Json<NotesRequest>) -> Response {
    stream(move |items, _cancel| async move { engine.notes(request, items).await })
}

async fn du(
    State(engine): Shared,
    Json(request): Json<DuRequest>,
) -> Result<Json<DuReport>, Problem> {
    // Dropped with the connection, the guard cancels the walk.
    let cancel = CancellationToken::new();
    let _guard = cancel.clone().drop_guard();
    engine.du(request, cancel).await.map(Json)
}

async fn cancel(
    State(engine): Shared,
    Json(request): Json<CancelRequest>,
) -> Result<Json<CancelReport>, Problem> {
    engine.cancel(request).await.map(Json)
}

async fn pin(
    State(engine): Shared,
    Json(request): Json<PinRequest>,
) -> Result<Json<PinReport>, Problem> {
    let cancel = CancellationToken::new();
    let _guard = cancel.clone().drop_guard();
    engine.pin(request, cancel).await.map(Json)
}

async fn top(State(engine): Shared) -> Json<Vec<TopReport>> {
    Json(engine.top())
}

async fn brake(
    State(engine): Shared,
    Json(request): Json<BrakeRequest>,
) -> Result<Json<BrakeReport>, Problem> {
    engine.brake(request).map(Json)
}

async fn plan(State(engine): Shared, Json(request): Json<PlanRequest>) -> Response {
    stream(move |items, _cancel| async move { engine.plan(request, items).await })
}

async fn explain(
    State(engine): Shared,
    Json(request): Json<ExplainRequest>,
) -> Result<Json<ExplainReport>, Problem> {
    engine.explain(request).await.map(Json)
}

async fn policy(
    State(engine): Shared,
    Json(request): Json<PolicyRequest>,
) -> Result<Json<PolicyReport>, Problem> {
    engine.policy(request).await.map(Json)
}

async fn detach(State(engine): Shared) -> Result<Json<()>, Problem> {
    engine.detach().await.map(Json)
}

/// Runs `work` in a task and answers its items, then its end, one JSON object a line.
fn stream<Item, End, Work, Running>(work: Work) -> Response
where
    Item: Serialize + Send + 'static,
    End: Serialize + Send + 'static,
    Work: FnOnce(mpsc::Sender<Item>, CancellationToken) -> Running,
    Running: Future<Output = Result<End, Problem>> + Send + 'static,
{
    let cancel = CancellationToken::new();
    let (items_in, mut items_out) = mpsc::channel(STREAM_ITEMS);
    let (lines_in, lines_out) = mpsc::channel(1);
    let running = tokio::spawn(work(items_in, cancel.clone()));
    tokio::spawn(async move {
        while let Some(item) = items_out.recv().await {
            if lines_in.send(line(&Event::<Item, End>::Item(item))).await.is_err() {
                // The reader is gone; the token is cancelled. Senders see a closed channel.
                break;
            }
        }
        drop(items_out);
        let last = match running.await {
            Ok(Ok(end)) => Event::<Item, End>::End(end),
            Ok(Err(problem)) => Event::Problem(problem),
            Err(error) => {
                tracing::error!(%error, "control request ended by a panic");
                Event::Problem(Problem::new(
                    ProblemKind::Failed,
                    "the daemon failed at this request",
                    "see its log, and report it",
                ))
            }
        };
        // Nobody left to tell is no error.
        drop(lines_in.send(line(&last)).await);
    });
    let body = Lines { lines: lines_out, _cancel: cancel.drop_guard() };
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response()
}

fn line<T: Serialize>(event: &T) -> Bytes {
    let mut text = serde_json::to_vec(event).unwrap_or_else(|error| {
        tracing::error!(%error, "encode a control event");
        Vec::new()
    });
    text.push(b'\n');
    text.into()
}

/// A response's body; dropped with the connection, it cancels the work behind it.
struct Lines {
    lines: mpsc::Receiver<Bytes>,
    _cancel: DropGuard,
}

impl futures::Stream for Lines {
    type Item = Result<Bytes, Infallible>;
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.lines.poll_recv(context).map(|line| line.map(Ok))
    }
}
