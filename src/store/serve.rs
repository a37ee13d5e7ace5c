//! The disk store on a TCP port, for any S3 tool.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::disk::DiskStore;
use super::open::OpenError;
use super::s3::EMBEDDED_BUCKET;

/// Connections at once; more wait in the kernel's queue. Each costs at most a few MiB of body.
const MAX_CONNECTIONS: usize = 256;
/// Requests under way when the server is asked to stop get this long.
const DRAIN: Duration = Duration::from_secs(30);
/// After a failed accept (no file descriptors left, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a client signs its requests with.
#[derive(Clone)]
pub struct Credentials {
    /// The public half.
    pub access_key: String,
    /// The secret half.
    pub secret_key: String,
}

impl Credentials {
    /// New ones, of 80 and 160 random bits.
    pub fn random() -> Self {
        // The last 80 bits of a ULID are random; the first 48 are the time.
        let random = || ulid::Ulid::new().to_string().split_off(10);
        Self { access_key: format!("COLD{}", random()), secret_key: random() + &random() }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// A server that is bound to its port and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    service: S3Service,
}

impl Server {
    /// Opens the store in `dir` (made if missing or empty) and binds the port. The bucket of
    /// embedded stores, `coldfs`, is there; clients may make others.
    pub async fn bind(
        dir: &Path,
        listen: SocketAddr,
        credentials: &Credentials,
    ) -> Result<Self, OpenError> {
        let owned = dir.to_owned();
        let open = tokio::task::spawn_blocking(move || {
            let disk = DiskStore::open(&owned)?;
            disk.create_bucket_if_missing(EMBEDDED_BUCKET).map(|()| disk)
        });
        let disk = open
            .await
            .map_err(|error| OpenError::io("open store", dir)(std::io::Error::other(error)))??;
        let mut builder = S3ServiceBuilder::new(disk);
        let Credentials { access_key, secret_key } = credentials.clone();
        builder.set_auth(SimpleAuth::from_single(access_key, secret_key));
        let bind = || OpenError::io("listen on", listen.to_string());
        let listener = TcpListener::bind(listen).await.map_err(bind())?;
        let address = listener.local_addr().map_err(bind())?;
        Ok(Self { listener, address, service: builder.build() })
    }

    /// Where it listens: the port that was chosen, where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` ends, then finishes what is under way.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let (stopping, _) = watch::channel(false);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut stop = std::pin::pin!(stop);
        loop {
            let accept = async {
                let place = Arc::clone(&places).acquire_owned().await.ok();
                (place, self.listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = &mut stop => break,
                accepted = accept => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let answering = answer(stream, self.service.clone(), stopping.subscribe());
            tokio::spawn(async move {
                answering.await;
                drop(place);
            });
        }
        drop(self.listener);
        stopping.send_replace(true);
        // Every connection holds a receiver until it has ended.
        if tokio::time::timeout(DRAIN, stopping.closed()).await.is_err() {
            tracing::warn!("stop with requests unfinished");
        }
    }
}

/// Answers one connection until the client leaves, or the request under way when `stopping` turns
/// true is answered.
async fn answer(stream: TcpStream, service: S3Service, mut stopping: watch::Receiver<bool>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set TCP_NODELAY");
    }
    let mut builder = http1::Builder::new();
    // With a timer hyper gives up on clients that do not send their headers (30 s).
    builder.timer(TokioTimer::new());
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        // An error: the server itself is gone, which is no reason to go on.
        () = async { drop(stopping.wait_for(|stop| *stop).await) } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "end a connection");
    }
}
