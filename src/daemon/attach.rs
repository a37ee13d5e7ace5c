//! One tenant: its parts put together, mounted, and taken away again.

use std::io;
use std::sync::Arc;

use fuser::{MountOption, SessionACL};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::apart::apart;
use super::machine::Machine;
use super::served::{PROBE_PATIENCE, Parts, Served};
use super::{failed, tiering};
use crate::config::{Access, MountFlags, MountOptions};
use crate::control::runtime::RuntimeDir;
use crate::control::wire::{Problem, ProblemKind};
use crate::fuse::Caching;
use crate::fuse::session::{MountSpec, Mounted, mount};
use crate::guard::Guard;
use crate::inode::Inodes;
use crate::migrate::Migrator;
use crate::ops::Ops;
use crate::recall::{self, Chunks, Recall};
use crate::recover::recover;
use crate::store::ObjectStore;
use crate::sys;
use crate::tenant::{HeaderError, Home, HomeError, Standing, Succession, Tenant, Unknown};

/// The kernel's door to FUSE, and what to do where it or a mount is refused.
const DEV_FUSE: &str = "/dev/fuse";
const FUSE_CLOSED: &str = "run as root, or let users at it: chmod 666 /dev/fuse (`coldfs doctor`)";
const MOUNT_REFUSED: &str = "a user needs fusermount3 (package fuse3), and for -o allow_other the \
    line user_allow_other in /etc/fuse.conf; see `coldfs doctor`";

/// A socket below the mountpoint is a name that only the daemon's own mount could resolve, and
/// that shows a copy of it: no command would ever come through.
fn reachable(runtime: &RuntimeDir, options: &MountOptions) -> Result<(), Problem> {
    let path = runtime.path().canonicalize().unwrap_or_else(|_gone| runtime.path().to_owned());
    if !path.starts_with(&options.mountpoint) {
        return Ok(());
    }
    let (path, mountpoint) = (path.display(), options.mountpoint.display());
    Err(Problem::new(
        ProblemKind::Usage,
        format!(
            "the runtime directory {path} is below the mountpoint {mountpoint}: no command would reach the daemon"
        ),
        "set COLDFS_RUNTIME_DIR to a directory elsewhere",
    ))
}

/// Puts a tenant's parts together; nothing is mounted yet. `name`: what commands call it, its own
/// without.
pub(super) async fn assemble(
    machine: &Arc<Machine>,
    name: Option<String>,
    options: &MountOptions,
) -> Result<Arc<Served>, Problem> {
    reachable(&machine.runtime_dir, options)?;
    let default_name = options.tenant.to_string();
    let given = options.tenant_given.then(|| default_name.clone());
    let data_dir = options.data_dir.clone();
    let home = apart("home", move || Home::open(&data_dir, given.as_deref(), &default_name)).await;
    let home = home.map_err(|error| failed("open the directory", &error))?;
    let home = home.map_err(|error| home_problem(&error))?;
    let store = machine.stores.open(&options.store, &options.s3).await?;
    let unknown = if options.new_store { Unknown::Take } else { Unknown::Refuse };
    let owner = match home.claim(&*store, unknown).await {
        Ok(owner) => Some(owner),
        // P8: what is resident can be used while the store is away. Elsewhere the tenant must not
        // take a name that it cannot see to be free, nor miss its files.
        Err(HeaderError::Store(error))
            if error.is_transient() && home.is_stored_in(store.url()) =>
        {
            tracing::warn!(%error, "the store does not answer: only resident files can be read");
            None
        }
        Err(error) => {
            let next_step = match &error {
                HeaderError::ElsewhereStored { .. } => "see `coldfs mount --help`",
                HeaderError::Store(error) => error.next_step(),
                _ => "see `coldfs doctor --store URL`",
            };
            let what = format!("tenant {}: {error}", home.identity().name);
            return Err(Problem::new(ProblemKind::Store, what, next_step));
        }
    };
    let mut standing = Standing::Unknown;
    if let Some(owner) = &owner {
        match home.stand(&*store, owner, options.succession).await {
            Ok(stands) => standing = stands,
            Err(error) if options.succession == Succession::TakeOver => {
                let what = format!("tenant {}: take over: {error}", home.identity().name);
                return Err(Problem::new(ProblemKind::Store, what, "see `coldfs doctor`"));
            }
            // It is served all the same: whoever is not known to own deletes nothing.
            Err(error) => tracing::warn!(%error, "nothing will be deleted from the store"),
        }
    }
    // Nothing is put where nothing can be archived.
    let is_asked = owner.is_some() && !home.is_read_only();
    machine.stores.settle_verify(&store, &options.store, &options.s3, is_asked).await;
    let runtime = tokio::runtime::Handle::current();
    let tenant = Tenant::new(home, store).map_err(|error| failed("open .coldfs", &error))?;
    let tenant = Arc::new(tenant.standing_as(standing).mounted_read_only(options.flags.read_only));
    let by_handle = sys::has_capability(sys::CAP_DAC_READ_SEARCH);
    let root = tenant.clone_root().map_err(|error| failed("open the directory", &error))?;
    let inodes = Arc::new(Inodes::new(root, by_handle));
    let recovered = recover(&tenant, &inodes)
        .await
        .map_err(|error| failed("recover what was in flight", &error))?;
    if recovered.looked_at > 0 {
        tracing::info!(files = recovered.looked_at, waiting = recovered.waiting, "recovered");
    }
    let store = Arc::clone(&tenant.store);
    let chunks = Arc::new(Chunks::new(store, &machine.memory, runtime.clone()));
    let turned = recall::Options {
        deadline: options.tuning.recall_deadline,
        whole_in_open_bytes: options.tuning.recall_in_open_bytes,
        whole_streaming_bytes: options.tuning.recall_whole_bytes,
    };
    let recall = Arc::new(Recall::new(
        Arc::clone(&tenant),
        Arc::clone(&inodes),
        Arc::clone(&chunks),
        turned,
        runtime,
    ));
    let migrator = Arc::new(Migrator::new(Arc::clone(&tenant), Arc::clone(&inodes)));
    let (rules, patience) = (options.rules.clone(), options.tuning.recall_deadline);
    let guard = Arc::new(Guard::new(Arc::clone(&tenant), rules, patience));
    let name = name.unwrap_or_else(|| tenant.name.clone());
    let parts = Parts { tenant, inodes, chunks, recall, guard, migrator };
    let served = Served::new(Arc::clone(machine), name, options.clone(), parts);
    let served = Arc::new(served);
    match tiering::begin(&served.tiering).await {
        Ok(()) => Ok(served),
        Err(problem) => {
            give_up(served).await;
            Err(problem)
        }
    }
}

/// Lets go of a tenant that is not to be mounted after all; its threads are waited for.
pub(super) async fn give_up(served: Arc<Served>) {
    served.begin_detach();
    served.stop_moves();
    served.recall.stop().await;
    if let Err(error) = apart("give-up", move || served.keeper.stop()).await {
        tracing::warn!(%error, "the catalog was not closed");
    }
}

/// A tenant that is mounted.
pub(super) struct Attached {
    pub(super) served: Arc<Served>,
    mounted: Arc<Mounted>,
    moving: JoinHandle<()>,
    stop_moving: CancellationToken,
}

impl Attached {
    /// Mounts a tenant, and has its files move by themselves.
    pub(super) fn begin(served: &Arc<Served>) -> Result<Self, Problem> {
        let mounted = mount_served(served, &served.options)?;
        served.note_passthrough(mounted.passthrough);
        let stop_moving = CancellationToken::new();
        let moving = tokio::spawn(Arc::clone(&served.tiering).run(stop_moving.clone()));
        let (served, mounted) = (Arc::clone(served), Arc::new(mounted));
        Ok(Self { served, mounted, moving, stop_moving })
    }

    /// Cancelled when the kernel has let go of the mount.
    pub(super) fn ended(&self) -> CancellationToken {
        self.mounted.ended()
    }

    /// Takes the mount away, unless somebody did. Where it stays, this can be tried again.
    pub(super) async fn unmount(&mut self) -> io::Result<()> {
        self.served.machine.detacher.detach(Arc::clone(&self.mounted)).await
    }

    /// Ends all that was done for the tenant, whose mount is gone.
    pub(super) async fn finish(self) {
        let Self { served, mounted: _, moving, stop_moving } = self;
        served.stop_moves();
        // It ends between two files.
        stop_moving.cancel();
        if let Err(error) = moving.await {
            tracing::warn!(%error, "tiering ended by a fault");
        }
        served.recall.stop().await;
        // In this order: what was seen last is written too.
        let machine = Arc::clone(&served.machine);
        let drained = apart("drain", move || machine.watching.drain());
        if timeout(PROBE_PATIENCE, drained).await.is_err() {
            tracing::warn!("a disk of another tenant hangs: what was used last is not known");
        }
        let ended = apart("detached", move || {
            if let Err(error) = served.tenant.work.settle() {
                tracing::debug!(%error, "the next start looks at what ended lately");
            }
            served.keeper.stop();
        });
        if let Err(error) = ended.await {
            tracing::warn!(%error, "the catalog was not closed");
        }
    }
}

fn mount_served(served: &Served, options: &MountOptions) -> Result<Mounted, Problem> {
    let ops = Ops::new(
        Arc::clone(&served.tenant),
        Arc::clone(&served.inodes),
        Arc::clone(&served.recall),
        Arc::clone(&served.guard),
        Arc::clone(&served.keeper),
    );
    let ops =
        ops.map_err(|error| failed("open the root", &std::io::Error::from_raw_os_error(error.0)))?;
    let ops = Arc::new(ops.tiered_by(Arc::clone(&served.tiering)));
    let over_itself = options.data_dir == options.mountpoint;
    // The kernel then refuses every change by itself, before it comes here.
    let read_only = options.flags.read_only || served.tenant.is_read_only();
    let flags = MountFlags { read_only, ..options.flags };
    let spec = MountSpec {
        options: fuser_options(&flags, &served.tenant.name),
        acl: match options.flags.access {
            Access::Owner => SessionACL::Owner,
            Access::Root => SessionACL::RootAndOwner,
            Access::All => SessionACL::All,
        },
        caching: if over_itself { Caching::EXCLUSIVE } else { Caching::SHARED },
        passthrough: sys::has_capability(sys::CAP_SYS_ADMIN),
    };
    mount(ops, &options.mountpoint, &spec, tokio::runtime::Handle::current()).map_err(|error| {
        let (what, next) = match std::fs::OpenOptions::new().read(true).write(true).open(DEV_FUSE) {
            Err(closed) => (format!("open {DEV_FUSE}: {closed}"), FUSE_CLOSED),
            Ok(_) => (format!("mount {}: {error}", options.mountpoint.display()), MOUNT_REFUSED),
        };
        Problem::new(ProblemKind::Failed, what, next)
    })
}

fn fuser_options(flags: &MountFlags, tenant: &str) -> Vec<MountOption> {
    let mut options = vec![
        MountOption::FSName(format!("coldfs:{tenant}")),
        // fuser gives a subtype to fusermount3 only. Both take it as an option, and without it
        // the mount table says `fuse`, where nobody can tell whose the mount is.
        MountOption::CUSTOM("subtype=coldfs".to_owned()),
        MountOption::DefaultPermissions,
    ];
    let flag = |on, yes, no| if on { yes } else { no };
    options.push(flag(flags.read_only, MountOption::RO, MountOption::RW));
    options.push(flag(flags.no_suid, MountOption::NoSuid, MountOption::Suid));
    options.push(flag(flags.no_dev, MountOption::NoDev, MountOption::Dev));
    options.push(flag(flags.no_exec, MountOption::NoExec, MountOption::Exec));
    if flags.sync {
        options.push(MountOption::Sync);
    }
    if flags.dir_sync {
        options.push(MountOption::DirSync);
    }
    options
}

fn home_problem(error: &HomeError) -> Problem {
    let (kind, next) = match error {
        HomeError::Open { .. } => (ProblemKind::Failed, "check the directory and its permissions"),
        HomeError::Served { .. } => (ProblemKind::Failed, "`coldfs status` shows what is mounted"),
        HomeError::Unfit { .. } => (ProblemKind::Usage, "`coldfs doctor DATA_DIR` says more"),
        HomeError::NotOurs { .. } => (ProblemKind::Failed, "run coldfs as its owner"),
        HomeError::Identity { .. } => {
            (ProblemKind::Failed, "the key is also in the store, in the object TENANT/owner")
        }
        HomeError::OtherName { .. } => (ProblemKind::Usage, "name the tenant as it is"),
    };
    Problem::new(kind, error.to_string(), next)
}
