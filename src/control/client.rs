//! The command's end of the control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::dial::dial;
use super::runtime::RuntimeDir;
use super::wire::{Event, Mount, Problem, ProblemKind};

/// How long a daemon may take to say what it serves; it answers from memory.
const MOUNTS_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest line of a stream; longer is not ours.
const LINE_BYTES: usize = 16 << 20;

/// One daemon's control socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// A daemon that answered, and what it serves.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// How to talk to it.
    pub client: Client,
    /// What it serves.
    pub mounts: Vec<Mount>,
}

/// Every daemon that answers in this runtime directory.
pub async fn daemons(runtime: &RuntimeDir) -> Result<Vec<Daemon>, Problem> {
    let sockets = runtime.live_sockets().map_err(|error| {
        Problem::new(
            ProblemKind::Failed,
            format!("look for daemons in {}: {error}", runtime.path().display()),
            "check who owns it",
        )
    })?;
    let asked = sockets.into_iter().map(|socket| async move {
        let client = Client { socket };
        match tokio::time::timeout(MOUNTS_TIMEOUT, client.get("/v1/mounts")).await {
            Ok(Ok(mounts)) => Some(Daemon { client, mounts }),
            // It ended meanwhile.
            Ok(Err(problem)) if problem.kind == ProblemKind::NotMounted => {
                tracing::debug!(socket = %client.socket.display(), %problem, "ask a daemon");
                None
            }
            Ok(Err(problem)) => {
                tracing::warn!("a daemon does not answer: {problem}");
                None
            }
            Err(_elapsed) => {
                tracing::warn!(socket = %client.socket.display(), "a daemon does not answer");
                None
            }
        }
    });
    Ok(futures::future::join_all(asked).await.into_iter().flatten().collect())
}

impl Daemon {
    /// Whether this is one of its mountpoints.
    pub fn serves(&self, at: &Path) -> bool {
        self.mounts.iter().any(|mount| mount.mountpoint.as_path() == at)
    }
}

/// The daemon, and its mount, that serves an absolute path: the longest mountpoint wins.
pub fn serving<'a>(daemons: &'a [Daemon], path: &Path) -> Option<(&'a Daemon, &'a Mount)> {
    daemons
        .iter()
        .flat_map(|daemon| daemon.mounts.iter().map(move |mount| (daemon, mount)))
        .filter(|(_, mount)| path.starts_with(mount.mountpoint.as_path()))
        .max_by_key(|(_, mount)| mount.mountpoint.as_path().components().count())
}

impl Client {
    /// Talks to the daemon behind this socket.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Asks for one answer.
    pub async fn get<Answer: DeserializeOwned>(&self, route: &str) -> Result<Answer, Problem> {
        let response = self.send(Method::GET, route, Bytes::new()).await?;
        self.whole(response).await
    }

    /// Sends a request and takes one answer.
    pub async fn post<Answer: DeserializeOwned>(
        &self,
        route: &str,
        request: &impl Serialize,
    ) -> Result<Answer, Problem> {
        let response = self.send(Method::POST, route, self.encode(request)?).await?;
        self.whole(response).await
    }

    /// Sends a request and hands each item of the answer on; returns how it ended. Dropping
    /// the future hangs up, which cancels the work.
    pub async fn stream<Item: DeserializeOwned, End: DeserializeOwned>(
        &self,
        route: &str,
        request: &impl Serialize,
        mut each: impl FnMut(Item) -> io::Result<()>,
    ) -> Result<End, Problem> {
        let mut response = self.send(Method::POST, route, self.encode(request)?).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        let mut pending = BytesMut::new();
        while let Some(frame) = response.body_mut().frame().await {
            let frame = frame.map_err(|error| self.cut_off(&error))?;
            let Ok(data) = frame.into_data() else { continue };
            pending.extend_from_slice(&data);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line = pending.split_to(end);
                pending.advance(1);
                match serde_json::from_slice(&line).map_err(|error| self.cut_off(&error))? {
                    Event::Item(item) => each(item).map_err(|error| output_failed(&error))?,
                    Event::End(end) => return Ok(end),
                    Event::Problem(problem) => return Err(problem),
                }
            }
            if pending.len() > LINE_BYTES {
                return Err(self.cut_off(&"it sent a line without end"));
            }
        }
        Err(self.cut_off(&"it ended in the middle of its answer"))
    }

    fn encode(&self, request: &impl Serialize) -> Result<Bytes, Problem> {
        serde_json::to_vec(request).map(Bytes::from).map_err(|error| self.cut_off(&error))
    }

    async fn send(
        &self,
        method: Method,
        route: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Problem> {
        let stream = dial(&self.socket).await.map_err(|error| {
            let what = format!("control socket {}: {error}", self.socket.display());
            match error.kind() {
                io::ErrorKind::TimedOut => Problem::new(
                    ProblemKind::Failed,
                    what,
                    "see its log; the socket's name is its process, which may be killed: the next \
                     mount recovers",
                ),
                _ => Problem::new(
                    ProblemKind::NotMounted,
                    what,
                    "see `coldfs status` for what is mounted",
                ),
            }
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.cut_off(&error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "control connection");
            }
        });
        let request = Request::builder()
            .method(method)
            .uri(route)
            .header(hyper::header::HOST, "coldfs")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.cut_off(&error))?;
        sender.send_request(request).await.map_err(|error| self.cut_off(&error))
    }

    async fn whole<Answer: DeserializeOwned>(
        &self,
        response: Response<Incoming>,
    ) -> Result<Answer, Problem> {
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        let body = response.into_body().collect().await.map_err(|error| self.cut_off(&error))?;
        serde_json::from_slice(&body.to_bytes()).map_err(|error| self.cut_off(&error))
    }

    /// The problem that a refusal carries.
    async fn refusal(&self, response: Response<Incoming>) -> Problem {
        let status = response.status();
        match response.into_body().collect().await {
            Ok(body) => {
                let body = body.to_bytes();
                serde_json::from_slice(&body).unwrap_or_else(|_not_ours| {
                    self.cut_off(&format!(
                        "it answered {status}: {}",
                        String::from_utf8_lossy(&body)
                    ))
                })
            }
            Err(error) => self.cut_off(&error),
        }
    }

    fn cut_off(&self, cause: &dyn std::fmt::Display) -> Problem {
        Problem::new(
            ProblemKind::Failed,
            format!("the daemon at {}: {cause}", self.socket.display()),
            "see its log, and check that it is of this program's version",
        )
    }
}

fn output_failed(error: &io::Error) -> Problem {
    Problem::new(ProblemKind::Failed, format!("write output: {error}"), "check where it goes")
}
