//! Connecting to a control socket, and never for ever.
//!
//! Where a socket's queue is full a connect waits until its daemon takes a connection out of it,
//! which one that hangs never does.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use tokio::time::{Instant, sleep};

/// How long a full queue is waited for. A daemon takes a connection in a moment.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it is looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// Connects at once; `WouldBlock` where the queue is full. The stream is non-blocking.
pub fn try_dial(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(stream.into())
}

/// Connects; `TimedOut` where the queue stays full.
pub async fn dial(path: &Path) -> io::Result<tokio::net::UnixStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match try_dial(path) {
            Ok(stream) => return tokio::net::UnixStream::from_std(stream),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(_) if Instant::now() < deadline => sleep(PAUSE).await,
            Err(_) => {
                let words = "its daemon hangs: it takes no more connections";
                return Err(io::Error::new(io::ErrorKind::TimedOut, words));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use nix::sys::socket::{Backlog, listen};

    use super::*;

    #[tokio::test]
    async fn a_full_queue_is_waited_for_and_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.sock");
        let listener = UnixListener::bind(&path).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let _first = try_dial(&path).unwrap();
        assert_eq!(try_dial(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let waited = tokio::time::timeout(4 * PATIENCE, dial(&path)).await.unwrap();
        assert_eq!(waited.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let (dialled, accepted) = tokio::join!(dial(&path), async { listener.accept() });
        assert!(dialled.is_ok() && accepted.is_ok());
    }
}
