//! One mount: from the system call that makes it to the last reply.

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};

use tokio_util::sync::CancellationToken;

use super::{Caching, Door};
use crate::ops::Ops;

/// Threads that serve the kernel for one mount. None of them waits for a store, so few do.
const FUSE_THREADS: usize = 2;

/// What a mount is made with.
#[derive(Clone, Debug)]
pub struct MountSpec {
    /// fuser's options.
    pub options: Vec<MountOption>,
    /// Who may use the mount.
    pub acl: SessionACL,
    /// How long the kernel may keep names and attributes.
    pub caching: Caching,
    /// Whether to ask for passthrough.
    pub passthrough: bool,
}

/// A mount that is served.
#[derive(Debug)]
pub struct Mounted {
    session: BackgroundSession,
    /// Whether the kernel reads and writes hot files by itself.
    pub passthrough: bool,
    ended: CancellationToken,
}

/// Mounts a tenant's filesystem and begins to serve it.
pub fn mount(
    ops: Arc<Ops>,
    mountpoint: &Path,
    spec: &MountSpec,
    runtime: tokio::runtime::Handle,
) -> io::Result<Mounted> {
    let notifier = Arc::new(OnceLock::new());
    let granted = Arc::new(OnceLock::new());
    let ended = CancellationToken::new();
    let door = Door {
        ops,
        runtime,
        caching: spec.caching,
        passthrough: spec.passthrough,
        granted: Arc::clone(&granted),
        notifier: Arc::clone(&notifier),
        ended: ended.clone(),
    };
    let mut config = Config::default();
    config.mount_options.clone_from(&spec.options);
    config.acl = spec.acl;
    config.n_threads = Some(FUSE_THREADS);
    config.clone_fd = true;
    let session = Session::new(door, mountpoint, &config)?.spawn()?;
    if notifier.set(session.notifier()).is_err() {
        tracing::debug!("a mount has one notifier");
    }
    let passthrough = granted.get().copied().unwrap_or(false);
    Ok(Mounted { session, passthrough, ended })
}

impl Mounted {
    /// Unmounts, unless somebody did, and waits for the last reply.
    pub fn detach(self) -> io::Result<()> {
        self.session.umount_and_join()
    }

    /// Cancelled when the kernel has let go of the mount.
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }
}
