//! How a file becomes cold: [`archive`] stores a verified remote copy, [`release`] replaces the
//! local body by a stub. Migrating is the one, then the other.
//!
//! Files go in batches, because a segment is filled by many and one barrier makes many records
//! durable. Whatever happens to a file on the way (it is opened, changed, renamed, unlinked)
//! takes that file out of the batch, and only that file: readers and writers win (P3).

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::stat::FileStat;
use tokio_util::sync::CancellationToken;

use crate::file_id::{Ino, SegmentId};
use crate::inode::{Body, Inode, Inodes, Reading, Serving};
use crate::recall::RecallError;
use crate::segment::verify::VerifyError;
use crate::segment::{Index, IndexEntry, WriteError};
use crate::store::StoreError;
use crate::tenant::Tenant;

mod archive;
mod barred;
mod indexes;
mod proof;
mod ready;
mod release;
mod stored;

/// A file of up to this size is never migrated: its stub would be as large.
pub const NEVER_MIGRATED_BYTES: u64 = 4096;

/// Files in one segment at most, so that a batch's leases and records stay a bounded number.
pub const BATCH_FILES: usize = 4096;

/// Size at which a segment of small files is closed, bytes.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// A file that is to be moved. Wherever the last one of a file is dropped, the table of inodes
/// forgets the file.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Below the tenant's root, as it was found; for people and for the segment's index.
    pub path: Vec<u8>,
    /// The file.
    pub inode: Arc<Inode>,
    /// After `inode`, because fields are dropped in their order.
    _entered: Entered,
}

/// Tidies the table of inodes when it is dropped.
#[derive(Clone, Debug)]
struct Entered {
    ino: Ino,
    inodes: Arc<Inodes>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.inodes.tidy(self.ino);
    }
}

/// Why a file was left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Skip {
    /// It is in that state already.
    Already,
    /// Not a regular file.
    NotRegular,
    /// 4,096 bytes or less, or one block: a stub would save nothing.
    TooSmall,
    /// Somebody has it open or mapped.
    Open,
    /// It changed meanwhile.
    Changed,
    /// It changed less than two seconds ago.
    Fresh,
    /// A person pinned it.
    Pinned,
    /// Immutable or append-only.
    Immutable,
    /// It has file capabilities, which writing a stub would drop.
    Capabilities,
    /// It has a set-ID bit, which this process's writing a stub would clear.
    SetId,
    /// Rootless, and its owner may not read and write it: its record could not be kept.
    Unwritable,
    /// More extents than a stub can carry.
    Fragmented,
    /// Its bytes are on the realtime device of an xfs, which no barrier reaches.
    Realtime,
    /// Pages of it are held by a pipe or socket.
    PagesHeld,
    /// Times or sizes that a record cannot hold, or a path that the work list cannot.
    OutOfRange,
    /// A record that is not ours to judge.
    Foreign,
    /// It has not been archived.
    NotArchived,
    /// It went away.
    Gone,
    /// The move was cancelled.
    Cancelled,
}

impl Skip {
    /// The word counted under, for people and scripts.
    pub fn word(self) -> &'static str {
        match self {
            Skip::Already => "already",
            Skip::NotRegular => "not-regular",
            Skip::TooSmall => "too-small",
            Skip::Open => "open",
            Skip::Changed => "changed",
            Skip::Fresh => "fresh",
            Skip::Pinned => "pinned",
            Skip::Immutable => "immutable",
            Skip::Capabilities => "capabilities",
            Skip::SetId => "set-id",
            Skip::Unwritable => "not-writable",
            Skip::Fragmented => "fragmented",
            Skip::Realtime => "realtime",
            Skip::PagesHeld => "pages-held",
            Skip::OutOfRange => "out-of-range",
            Skip::Foreign => "foreign",
            Skip::NotArchived => "not-archived",
            Skip::Gone => "gone",
            Skip::Cancelled => "cancelled",
        }
    }
}

/// What became of one file.
#[derive(Debug)]
pub enum Outcome {
    /// It is in the state asked for; so many bytes moved.
    Done(u64),
    /// Left as it is.
    Skipped(Skip),
    /// It should have worked.
    Failed(MigrateError),
}

/// Why a file or batch could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A local system call failed.
    #[error("{action}: {source}")]
    Local {
        /// What was being done.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The segment could not be stored and proven; the same for all files in it.
    #[error(transparent)]
    Unproven(Arc<Unproven>),
    /// The index of the segment that has the file cannot be read.
    #[error(transparent)]
    Index(RecallError),
    /// It is not what its record says.
    #[error(transparent)]
    Unlike(RecallError),
    /// Another user's, and this process may not take a lease on it.
    #[error("it belongs to user {owner}: only that user's coldfs, or root's, may take the lease")]
    OtherOwner {
        /// Whose it is.
        owner: u32,
    },
}

/// Why a segment is not proven to be stored.
#[derive(Debug, thiserror::Error)]
pub enum Unproven {
    /// It could not be built.
    #[error(transparent)]
    Built(#[from] WriteError),
    /// The store did not take it.
    #[error(transparent)]
    Stored(#[from] StoreError),
    /// It was not read back as it was sent.
    #[error(transparent)]
    Verified(#[from] VerifyError),
}

impl MigrateError {
    /// What a person can do.
    pub fn next_step(&self) -> &'static str {
        match self {
            MigrateError::Local { source, .. } => match source.raw_os_error() {
                Some(libc::ENOSPC) => {
                    "make room on the data filesystem, then run the command again"
                }
                Some(libc::EDQUOT) => {
                    "make room in the quota, or have it raised, then run the command again"
                }
                _ => "check the data filesystem, then run the command again",
            },
            MigrateError::Unproven(unproven) => match &**unproven {
                Unproven::Built(_) => "run the command again",
                Unproven::Stored(error)
                | Unproven::Verified(VerifyError::Store { source: error, .. }) => error.next_step(),
                Unproven::Verified(VerifyError::Differs { .. }) => {
                    "run the command again; if it stays so, do not use this engine (`coldfs \
                     doctor --store URL`)"
                }
            },
            MigrateError::Index(error) if error.is_loss() => {
                "its bytes are here: `coldfs fsck --repair` drops the record of the copy that is \
                 gone, then migrate it again"
            }
            MigrateError::Index(error) | MigrateError::Unlike(error) => error.next_step(),
            MigrateError::OtherOwner { .. } => "mount as that user, or as root, and run it there",
        }
    }
}

impl From<std::io::Error> for MigrateError {
    fn from(source: std::io::Error) -> Self {
        MigrateError::Local { action: "migrate", source }
    }
}

/// A file whose verified copy is stored, with what its stub needs.
#[derive(Clone, Debug)]
pub struct Archived {
    /// The file.
    pub candidate: Candidate,
    /// Where its bytes are.
    pub entry: IndexEntry,
}

/// Moves a tenant's files between hot and cold.
pub struct Migrator {
    tenant: Arc<Tenant>,
    inodes: Arc<Inodes>,
    /// Files that are read under a lease: looked at whenever somebody asks for one.
    leased: Mutex<HashMap<Ino, Reading>>,
    indexes: Mutex<lru::LruCache<SegmentId, Arc<Index>>>,
}

impl Migrator {
    /// A migrator for a tenant.
    pub fn new(tenant: Arc<Tenant>, inodes: Arc<Inodes>) -> Self {
        let indexes = Mutex::new(lru::LruCache::new(indexes::REMEMBERED));
        Self { tenant, inodes, leased: Mutex::default(), indexes }
    }

    /// The candidate that an O_PATH descriptor names.
    pub fn candidate(
        &self,
        path: Vec<u8>,
        fd: OwnedFd,
        stat: &FileStat,
    ) -> std::io::Result<Candidate> {
        let handle = crate::sys::handle::of(&fd, c"")?;
        let inode = self.inodes.enter(fd, handle, stat);
        let entered = Entered { ino: inode.ino, inodes: Arc::clone(&self.inodes) };
        Ok(Candidate { path, inode, _entered: entered })
    }

    /// Archives a batch. The outcomes come in the batch's order.
    pub async fn archive(
        self: &Arc<Self>,
        batch: Vec<Candidate>,
        cancel: &CancellationToken,
    ) -> Vec<(Candidate, Outcome)> {
        archive::batch(self, batch, cancel).await
    }

    /// Proves a file to be what was stored, as a release does before it touches anything; it then
    /// takes no time there. Where it cannot be proven, the release says why.
    pub async fn prove(self: &Arc<Self>, candidate: &Candidate, cancel: &CancellationToken) {
        if let Err(outcome) = ready::make_ready(self, candidate, cancel).await {
            tracing::debug!(ino = %candidate.inode.ino, ?outcome, "not proven");
        }
    }

    /// Releases a batch of archived files.
    pub async fn release(
        self: &Arc<Self>,
        batch: Vec<Candidate>,
        cancel: &CancellationToken,
    ) -> Vec<(Candidate, Outcome)> {
        release::batch(self, batch, cancel).await
    }

    /// Gives back the leases that somebody waits for. Called on SIGIO, which does not say whose.
    /// Needs no tier lock: whoever has it may be the one who waits.
    pub fn yield_leases(&self) {
        for reading in self.leased().values().filter(|reading| !reading.is_unbroken()) {
            reading.give_up();
        }
    }

    fn leased(&self) -> std::sync::MutexGuard<'_, HashMap<Ino, Reading>> {
        self.leased.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nobody in the mount has the file open, and no other migration reads it.
fn is_free(inode: &Inode, held: &Body) -> bool {
    is_closed(inode) && !held.archiving.as_ref().is_some_and(Reading::is_unbroken)
}

/// Whether nobody in the mount has the file open.
fn is_closed(inode: &Inode) -> bool {
    matches!(inode.serving(), Serving::Closed)
}

impl std::fmt::Debug for Migrator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Migrator").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}
