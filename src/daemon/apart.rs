//! Work that may wait for a disk without end: on threads where it keeps nobody else from anything.

use std::io;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// One thread that runs what must go on whatever the threads of the daemon's runtime wait for: the
/// comings and goings of tenants. Nothing that runs here may wait for a disk or a store.
pub(super) struct Tending {
    runtime: Handle,
    /// The thread ends when this goes.
    _end: oneshot::Sender<()>,
}

impl Tending {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let tend = move || drop(runtime.block_on(ended));
        std::thread::Builder::new().name("tenants".to_owned()).spawn(tend)?;
        Ok(Self { runtime: handle, _end: end })
    }

    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn(work)
    }
}

/// Does something on a thread of its own. Whoever stops waiting leaves it to its end.
pub(super) async fn apart<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, answer) = oneshot::channel();
    // Refused where nobody waits for it any more.
    let work = move || drop(done.send(work()));
    std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
    answer.await.map_err(|_panicked| io::Error::other("it ended by a fault"))
}
