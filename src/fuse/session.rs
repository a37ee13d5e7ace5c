//! One mount: from the system call that makes it to the last reply.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use tokio_util::sync::CancellationToken;

use super::forgetting::Forgetting;
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
    mountpoint: PathBuf,
}

/// How often a detach looks again.
const DETACH_POLL: Duration = Duration::from_millis(50);

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
    let forgetting = Forgetting::new(&ops, &notifier);
    let door = Door {
        ops,
        runtime,
        caching: spec.caching,
        passthrough: spec.passthrough,
        granted: Arc::clone(&granted),
        notifier: Arc::clone(&notifier),
        forgetting,
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
    Ok(Mounted { session, passthrough, ended, mountpoint: mountpoint.to_owned() })
}

impl Mounted {
    /// Unmounts, unless somebody did, and waits for the last reply. Where files stay open for
    /// `patience`, the mount goes away for everybody but those who have them.
    pub fn detach(self, patience: Duration) -> io::Result<()> {
        if self.ended.is_cancelled() {
            return self.join();
        }
        let mut waited = Duration::ZERO;
        while let Err(error) = umount2(&self.mountpoint, MntFlags::UMOUNT_NOFOLLOW) {
            match error {
                Errno::EBUSY if waited < patience => {
                    std::thread::sleep(DETACH_POLL);
                    waited += DETACH_POLL;
                }
                Errno::EBUSY => {
                    tracing::warn!("files are still open: the mount goes away under them");
                    umount2(&self.mountpoint, MntFlags::MNT_DETACH)?;
                    break;
                }
                // Somebody else did it meanwhile, or may: fuser asks fusermount3.
                _ => return self.join(),
            }
        }
        if self.ended_within(patience) {
            return self.join();
        }
        // Whoever still has a file open keeps the old mount; this process ends it.
        Ok(())
    }

    fn join(self) -> io::Result<()> {
        match self.session.umount_and_join() {
            // The mount is gone already: that was the wish.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other,
        }
    }

    fn ended_within(&self, patience: Duration) -> bool {
        let mut waited = Duration::ZERO;
        while !self.ended.is_cancelled() && waited < patience {
            std::thread::sleep(DETACH_POLL);
            waited += DETACH_POLL;
        }
        self.ended.is_cancelled()
    }

    /// Cancelled when the kernel has let go of the mount.
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }
}
