//! One served tenant, as commands see it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::apart::apart;
use super::count::Count;
use super::files::relative;
use super::machine::Machine;
use super::status::Counted;
use super::walks::{WALKS_AT_ONCE, Walks};
use super::{known, tiering as of_tiering};
use crate::catalog::Keeper;
use crate::config::MountOptions;
use crate::control::wire::{Counters, Problem, ProblemKind, WirePath};
use crate::guard::Guard;
use crate::inode::Inodes;
use crate::migrate::Migrator;
use crate::recall::{Chunks, Recall};
use crate::sys;
use crate::tenant::{Standing, Tenant};
use crate::tiering::{self, Tiering};
use crate::walk::{Found, find};

/// How long a tenant waits for the probe, which looks at the disks of all.
pub(super) const PROBE_PATIENCE: Duration = Duration::from_secs(10);

/// What a tenant is made of.
pub(super) struct Parts {
    pub(super) tenant: Arc<Tenant>,
    pub(super) inodes: Arc<Inodes>,
    pub(super) chunks: Arc<Chunks>,
    pub(super) recall: Arc<Recall>,
    pub(super) guard: Arc<Guard>,
    pub(super) migrator: Arc<Migrator>,
}

/// A tenant that is served, with all its parts.
pub(super) struct Served {
    /// What it shares with others.
    pub(super) machine: Arc<Machine>,
    /// What commands call it.
    pub(super) name: String,
    pub(super) options: MountOptions,
    pub(super) tenant: Arc<Tenant>,
    pub(super) inodes: Arc<Inodes>,
    pub(super) chunks: Arc<Chunks>,
    pub(super) recall: Arc<Recall>,
    pub(super) guard: Arc<Guard>,
    pub(super) migrator: Arc<Migrator>,
    pub(super) passthrough: AtomicBool,
    moved_files: AtomicU64,
    running: Mutex<HashMap<u64, (Vec<WirePath>, CancellationToken)>>,
    next_move: AtomicU64,
    /// Cancelled when the detach begins: whoever asks for the status then is answered at once.
    detaching: CancellationToken,
    /// Cancelled when the mount is gone.
    ending: CancellationToken,
    pub(super) walks: Walks,
    pub(super) count: Count<Result<Counted, Problem>>,
    pub(super) keeper: Arc<Keeper>,
    /// What is wrong with what is seen of its files.
    pub(super) heat_notes: Vec<String>,
    pub(super) tiering: Arc<Tiering>,
    /// One read of who names which segment at a time.
    pub(super) reaping: Arc<tokio::sync::Mutex<()>>,
}

impl Served {
    pub(super) fn new(
        machine: Arc<Machine>,
        name: String,
        options: MountOptions,
        parts: Parts,
    ) -> Self {
        let Parts { tenant, inodes, chunks, recall, guard, migrator } = parts;
        let (detaching, ending) = (CancellationToken::new(), CancellationToken::new());
        let heat_notes = machine.watching.add(&tenant);
        let keeper = Arc::new(known::keep(&options, &tenant, &inodes));
        let tiered = tiering::Parts {
            tenant: Arc::clone(&tenant),
            inodes: Arc::clone(&inodes),
            migrator: Arc::clone(&migrator),
            recall: Arc::clone(&recall),
            keeper: Arc::clone(&keeper),
        };
        let (judge, turned) = (Arc::clone(&machine.judge), of_tiering::options(&options));
        let tiering = Arc::new(Tiering::new(tiered, judge, turned, options.store_apart));
        Self {
            machine,
            name,
            keeper,
            heat_notes,
            tiering,
            options,
            tenant,
            inodes,
            chunks,
            recall,
            guard,
            migrator,
            passthrough: AtomicBool::new(false),
            moved_files: AtomicU64::new(0),
            running: Mutex::default(),
            next_move: AtomicU64::new(0),
            reaping: Arc::default(),
            walks: Walks::new(WALKS_AT_ONCE, ending.clone()),
            count: Count::new(detaching.clone()),
            detaching,
            ending,
        }
    }

    pub(super) fn note_passthrough(&self, granted: bool) {
        self.passthrough.store(granted, Ordering::Relaxed);
    }

    pub(super) fn count_move(&self) {
        self.moved_files.fetch_add(1, Ordering::Relaxed);
    }

    /// The mount is about to go away.
    pub(super) fn begin_detach(&self) {
        self.detaching.cancel();
    }

    /// Whether a person's command may change the data directory.
    pub(super) fn may_change(&self) -> Result<(), Problem> {
        if self.tenant.may_move() {
            return Ok(());
        }
        let (what, next_step) = match self.tenant.is_read_only() {
            true => (
                format!("{}: on a read-only filesystem", self.options.data_dir.display()),
                "mount it read-write, detach, and mount coldfs again",
            ),
            false => (
                format!(
                    "{}: Read-only file system: mounted with -o ro",
                    self.options.mountpoint.display()
                ),
                "detach, and mount it without -o ro",
            ),
        };
        Err(Problem::new(ProblemKind::Failed, what, next_step))
    }

    /// Cancels every move and walk under way.
    pub(super) fn stop_moves(&self) {
        for (_, token) in self.running().values() {
            token.cancel();
        }
        self.ending.cancel();
    }

    /// Has the probe see what is read through its mount.
    pub(super) async fn watch(self: &Arc<Self>) {
        let served = Arc::clone(self);
        let watch = apart("watch", move || {
            served.machine.watching.mounted(&served.tenant, &served.options.mountpoint);
        });
        if timeout(PROBE_PATIENCE, watch).await.is_err() {
            tracing::warn!(
                tenant = self.name,
                "a disk hangs: reads of its cold files are not seen"
            );
        }
    }

    /// Comes when its mount is about to go away.
    pub(super) async fn detaching(&self) {
        self.detaching.cancelled().await;
    }

    /// Whether its mount is about to go away.
    pub(super) fn is_detaching(&self) -> bool {
        self.detaching.is_cancelled()
    }

    /// What it did since it was attached, of what a daemon counts.
    pub(super) fn counters(&self) -> Counters {
        Counters {
            recall_bytes_total: self.chunks.fetched_bytes(),
            migrate_files_total: self.moved_files.load(Ordering::Relaxed) + self.tiering.moved(),
            ..Counters::default()
        }
    }

    /// Notes a move that somebody asked for; its number.
    pub(super) fn begin_move(&self, paths: &[WirePath], cancel: &CancellationToken) -> u64 {
        let number = self.next_move.fetch_add(1, Ordering::Relaxed);
        self.running().insert(number, (paths.to_vec(), cancel.clone()));
        number
    }

    /// It has ended.
    pub(super) fn end_move(&self, number: u64) {
        self.running().remove(&number);
    }

    /// What is missing on this machine, and what would enable it.
    pub(super) fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if !self.passthrough.load(Ordering::Relaxed) {
            let why = if sys::has_capability(sys::CAP_SYS_ADMIN) {
                "this kernel has no FUSE passthrough (Linux 6.9 has)"
            } else {
                "FUSE passthrough needs CAP_SYS_ADMIN"
            };
            missing.push(format!("hot files are served by the daemon, slower: {why}"));
        }
        if self.tenant.is_read_only() {
            let text = "the filesystem below is read-only: cold files are read from the store, \
                        nothing is moved; mount it read-write and mount again";
            missing.push(text.to_owned());
        }
        if self.tenant.is_rootless() {
            let text = "records live in user.coldfs, where the tenant's users can remove them: \
                        run as root to keep them in trusted.coldfs";
            missing.push(text.to_owned());
        }
        if *self.tenant.standing() == Standing::Guest {
            let text = "a copy of another directory, which owns what is in the store: it works, and \
                        deletes nothing there; where the other is gone, mount with --take-over";
            missing.push(text.to_owned());
        }
        missing
    }

    pub(super) fn running(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<u64, (Vec<WirePath>, CancellationToken)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a file, on a thread that may wait for the disk.
    pub(super) async fn look<T: Send + 'static>(
        self: &Arc<Self>,
        path: &Path,
        at: impl FnOnce(&Arc<Self>, Found) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let (served, path) = (Arc::clone(self), path.to_owned());
        let look = self.walks.run(CancellationToken::new(), move |_stop| {
            let found = served.locate_here(&path)?;
            Ok(at(&served, found))
        });
        look.await?
    }

    /// Where a path leads.
    pub(super) async fn locate(self: &Arc<Self>, path: &Path) -> Result<Found, Problem> {
        self.look(path, |_served, found| found).await
    }

    /// Where a path leads. Not for async threads.
    pub(super) fn locate_here(&self, path: &Path) -> Result<Found, Problem> {
        let rest = relative(self, path).ok_or_else(|| {
            Problem::new(
                ProblemKind::NotMounted,
                format!("{} is not below {}", path.display(), self.options.mountpoint.display()),
                "`coldfs status` shows what is mounted where",
            )
        })?;
        find(&self.tenant, &rest).map_err(|error| {
            let what = format!("{}: {error}", path.display());
            Problem::new(ProblemKind::Failed, what, "check the path")
        })
    }
}
