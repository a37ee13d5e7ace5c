//! One mount: from the system call that makes it to the last reply.

use std::io;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, INodeNo, MountOption, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use tokio_util::sync::CancellationToken;

use super::forgetting::Forgetting;
use super::init::MAX_REQUEST_BYTES;
use super::{Caching, Door};
use crate::ops::Ops;
use crate::sys::mount::{Connection, MountId, mount_at};

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
    /// Never dropped: fuser then unmounts whatever is at the mountpoint.
    session: ManuallyDrop<BackgroundSession>,
    /// None: it was unmounted before it could be looked at.
    id: Option<MountId>,
    /// None: there is no fusectl filesystem that shows it.
    connection: Option<Connection>,
    /// Whether the kernel reads and writes hot files by itself.
    pub passthrough: bool,
    ended: CancellationToken,
    mountpoint: PathBuf,
}

/// Unmounts for users.
const FUSERMOUNT: &str = "fusermount3";

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
    let kernel = Arc::clone(&notifier);
    ops.on_change(move |ino| {
        // Attributes only: data stays valid, and nothing that is under way is waited for.
        if let Some(notifier) = kernel.get()
            && let Err(error) = notifier.inval_inode(INodeNo(ino.0), -1, 0)
        {
            tracing::debug!(%ino, %error, "the kernel did not take an invalidation");
        }
    });
    let door = Door {
        ops,
        runtime,
        caching: spec.caching,
        passthrough: spec.passthrough,
        granted: Arc::clone(&granted),
        forgetting,
        ended: ended.clone(),
    };
    let mut config = Config::default();
    config.mount_options.clone_from(&spec.options);
    config.acl = spec.acl;
    config.n_threads = Some(FUSE_THREADS);
    config.clone_fd = true;
    let below = mount_at(mountpoint)?;
    let session = Session::new(door, mountpoint, &config)?.spawn()?;
    if notifier.set(session.notifier()).is_err() {
        tracing::debug!("a mount has one notifier");
    }
    let passthrough = granted.get().copied().unwrap_or(false);
    // It answers already, so somebody may have unmounted it again: what is there then is not ours
    // to unmount.
    let id = mount_at(mountpoint).ok().filter(|there| *there != below);
    // Each request costs a wake or two, however much it asks for.
    if let Some(Err(error)) = id.map(|id| id.set_read_ahead(MAX_REQUEST_BYTES)) {
        tracing::debug!(%error, "the kernel reads 128 KiB ahead");
    }
    let connection = id.and_then(|id| id.connection().ok());
    let session = ManuallyDrop::new(session);
    let mountpoint = mountpoint.to_owned();
    Ok(Mounted { session, id, connection, passthrough, ended, mountpoint })
}

impl Mounted {
    /// Unmounts, unless somebody did, and waits for the last reply. Where files stay open until
    /// `patience` after `since`, the mount goes away for everybody but those who have them; after
    /// as much again for them too. Where it cannot be unmounted, this may be called again.
    pub fn detach(&self, since: Instant, patience: Duration) -> io::Result<()> {
        // While it is there, the number is its own. fusectl may have come after it.
        let late = match (&self.connection, self.id) {
            (None, Some(id)) if self.is_there() => id.connection().ok(),
            _ => None,
        };
        // Somebody else may have unmounted it, now or long ago. What is there then is theirs.
        while self.is_there() {
            let lazily = since.elapsed() >= patience;
            if lazily {
                tracing::warn!("files are still open: the mount goes away under them");
            }
            match unmount(&self.mountpoint, lazily) {
                Ok(()) => break,
                Err(error) if lazily && self.is_there() => return Err(error),
                Err(_) => {}
            }
            std::thread::sleep(DETACH_POLL);
        }
        // Whoever still has a file open keeps the old mount; this process ends it.
        self.wait_for_end(since + 2 * patience);
        if self.session.guard.is_finished() {
            return Ok(());
        }
        // As the end of the process would.
        match self.connection.as_ref().or(late.as_ref()).map(Connection::end) {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::warn!(%error, "files of the mount stay open"),
            None => tracing::warn!("files of the mount stay open: no fusectl filesystem shows it"),
        }
        self.wait_for_end(Instant::now() + patience);
        Ok(())
    }

    /// Whether this mount is what is at its mountpoint.
    fn is_there(&self) -> bool {
        let certain = self.id.is_some_and(|id| id.is_unique()) || !self.ended.is_cancelled();
        certain
            && self.id.is_some_and(|id| mount_at(&self.mountpoint).is_ok_and(|there| there == id))
    }

    fn wait_for_end(&self, until: Instant) {
        while !self.session.guard.is_finished() && Instant::now() < until {
            std::thread::sleep(DETACH_POLL);
        }
    }

    /// Cancelled when the kernel has let go of the mount.
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }
}

/// Unmounts what is at a path: by the system call, or where that is refused to a user by
/// fusermount3, which unmounts nothing but that user's FUSE mounts.
fn unmount(mountpoint: &Path, lazily: bool) -> io::Result<()> {
    let lazy = if lazily { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match umount2(mountpoint, MntFlags::UMOUNT_NOFOLLOW | lazy) {
        Err(Errno::EPERM) => {}
        other => return Ok(other?),
    }
    let how = if lazily { "-uz" } else { "-u" };
    let output = Command::new(FUSERMOUNT).args([how, "--"]).arg(mountpoint).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{FUSERMOUNT} {how}: {}", said.trim())))
}
