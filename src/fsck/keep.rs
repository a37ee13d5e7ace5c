//! A person's choice about a body that nobody can account for: the remote copy that the file's
//! record names, or the local bytes.
//!
//! ```text
//! remote: the copy is read and proven -> local bytes aside, on disk -> stub over block 0 -> on disk
//!           -> cut -> mtime, record released -> on disk
//! local:  what the record names is noted -> marked plain, where the head is a stub's
//!           -> record gone -> on disk
//! ```
//!
//! At every point between, the file is the conflict that it was, or what was chosen: whoever is
//! interrupted chooses again. Nothing is lost by a choice: local bytes stay in
//! `.coldfs/conflicts.d`, a remote copy in the store, its place in the notes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Look, look_at};
use crate::failpoint::{CrashPoint, reach};
use crate::inode::{Inode, Inodes};
use crate::recall::{RecallError, cut_to_stub, prove_remote};
use crate::record::Record;
use crate::recover::{Judged, entry_of};
use crate::stub::{STUB_BYTES, STUB_LENGTH, Stub};
use crate::sys::lease::{Lease, LeaseKind};
use crate::tenant::Tenant;
use crate::tier::standing::Standing;
use crate::tier::verdict::{Source, Verdict};

/// What of a conflict is to be the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The bytes that are here.
    Local,
    /// The version that the record names.
    Remote,
}

/// Why nothing was chosen.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// There is nothing to choose.
    #[error("{what}")]
    NoChoice {
        /// What the file is.
        what: &'static str,
        /// What the person can do.
        next_step: &'static str,
    },
    /// Somebody has it open.
    #[error("somebody has it open")]
    Busy,
    /// The remote copy is not there, or cannot be looked at.
    #[error("the remote copy: {0}")]
    Remote(#[from] RecallError),
    /// A local system call failed.
    #[error("{0}")]
    Local(#[from] io::Error),
}

impl KeepError {
    /// What a person can do.
    pub fn next_step(&self) -> &'static str {
        match self {
            KeepError::NoChoice { next_step, .. } => next_step,
            KeepError::Busy => "close it, then run the command again",
            KeepError::Remote(error) => error.next_step(),
            KeepError::Local(_) => "check the data filesystem, then run the command again",
        }
    }
}

/// How long a file may be open that a choice is about: the catalog reads what stands in a damaged
/// one, and is through in a moment.
const OWN_LOOK: Duration = Duration::from_secs(1);

const ADOPT: &str = "coldfs fsck --adopt gives a stub of this tenant its record";

/// Carries a choice out; what was done, in words. Waits for the store up to `patience`.
pub async fn keep(
    tenant: &Arc<Tenant>,
    inodes: &Inodes,
    inode: &Arc<Inode>,
    choice: Keep,
    patience: Duration,
) -> Result<String, KeepError> {
    let held = inode.tier().await;
    let chosen = choose(tenant, inodes, inode, choice, patience).await;
    // Before anybody opens it: a read by the old size would be wrong.
    inodes.tell_kernel(inode.ino);
    drop(held);
    chosen
}

/// Under the file's tier lock.
async fn choose(
    tenant: &Arc<Tenant>,
    inodes: &Inodes,
    inode: &Arc<Inode>,
    choice: Keep,
    patience: Duration,
) -> Result<String, KeepError> {
    let Some(Look { file, judged }) = look_at(tenant, inodes, inode, libc::O_RDWR)? else {
        return Err(KeepError::Busy);
    };
    let no_choice = |what, next_step| Err(KeepError::NoChoice { what, next_step });
    match (judged.standing(), choice, judged.record) {
        (Standing::Conflict, Keep::Local, _) => keep_local(tenant, inode, file, judged).await,
        // Another's pointer, which somebody keeps as a file; a record would be the other's.
        (Standing::Foreign, Keep::Local, _) if judged.verdict == Verdict::OrphanStub => {
            keep_local(tenant, inode, file, judged).await
        }
        (Standing::Conflict | Standing::Orphan, Keep::Remote, Some(record)) => {
            keep_remote(tenant, inode, file, record, patience).await
        }
        (Standing::Conflict, Keep::Remote, None) => no_choice(
            "a damaged stub without a record: nothing names a remote copy",
            "restore it from a backup, or keep its bytes with --keep local",
        ),
        (Standing::Orphan, Keep::Local | Keep::Remote, _) => {
            no_choice("a whole stub of this tenant", ADOPT)
        }
        (Standing::Foreign, Keep::Local | Keep::Remote, _) => no_choice(
            "a record or stub of another tenant, or of a newer coldfs",
            "use the coldfs or the tenant that wrote it",
        ),
        (
            Standing::Unmoved | Standing::Resident | Standing::Recorded(_),
            Keep::Local | Keep::Remote,
            _,
        ) => {
            no_choice("there is nothing to choose: it is no conflict", "coldfs fsck looks for any")
        }
    }
}

/// The local bytes are the file from now on.
async fn keep_local(
    tenant: &Arc<Tenant>,
    inode: &Arc<Inode>,
    file: Arc<File>,
    judged: Judged,
) -> Result<String, KeepError> {
    let (tenant, inode) = (Arc::clone(tenant), Arc::clone(inode));
    blocking(move || make_plain(&tenant, &inode, &file, &judged)).await
}

fn make_plain(
    tenant: &Tenant,
    inode: &Inode,
    file: &File,
    judged: &Judged,
) -> Result<String, KeepError> {
    let what = "the local bytes were chosen; the remote copy is not this file's any more";
    tenant.note_conflict(inode, file, judged.record.as_ref(), what);
    if judged.verdict.source() == Source::Nobody && file.metadata()?.len() == STUB_LENGTH {
        tenant.mark_plain(file, inode)?;
    }
    reach(CrashPoint::KeepAfterMark);
    tenant.drop_record(file, inode)?;
    file.sync_all()?;
    Ok(match judged.record {
        Some(record) => format!(
            "its local bytes are the file; {}, {} bytes, was let go",
            record.at, record.size_bytes
        ),
        None => "its local bytes are the file".to_owned(),
    })
}

/// The stub of what the record names stands again.
async fn keep_remote(
    tenant: &Arc<Tenant>,
    inode: &Arc<Inode>,
    file: Arc<File>,
    record: Record,
    patience: Duration,
) -> Result<String, KeepError> {
    let damaged = |what: &str| RecallError::Damaged { at: record.at, what: what.to_owned() };
    let entry = entry_of(tenant, record.at, patience).await?;
    if entry.meta.size_bytes != record.size_bytes {
        return Err(damaged("it is of a file of another size").into());
    }
    // Not only that it is listed: its bytes come, and prove themselves.
    prove_remote(tenant, &entry.place, patience).await?;
    let stub = Stub::of_entry(&entry, tenant.store.url(), &tenant.name, tenant.seal.tenant());
    let stub = stub.encode(&tenant.seal).map_err(|error| damaged(&error.to_string()))?;
    let (tenant, inode) = (Arc::clone(tenant), Arc::clone(inode));
    blocking(move || put_stub_back(&tenant, &inode, file, record, &stub)).await
}

fn put_stub_back(
    tenant: &Tenant,
    inode: &Inode,
    file: Arc<File>,
    mut record: Record,
    stub: &[u8; STUB_BYTES],
) -> Result<String, KeepError> {
    let taken = |file| match Lease::take(file, LeaseKind::Write) {
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Err(KeepError::Busy),
        other => Ok(other?),
    };
    let patience = Instant::now() + OWN_LOOK;
    let lease = loop {
        match taken(Arc::clone(&file)) {
            Err(KeepError::Busy) if Instant::now() < patience => std::thread::sleep(OWN_LOOK / 20),
            other => break other?,
        }
    };
    let copied_at = file.metadata()?.modified()?;
    let aside = tenant.keep_aside(inode.ino, &file)?;
    let what = format!("the remote copy was chosen; the local bytes are in {aside}");
    tenant.note_conflict(inode, &file, Some(&record), &what);
    reach(CrashPoint::KeepAfterAside);
    // A large body takes its time to be copied: unbroken, the lease is taken anew.
    let lease = match (lease.holds(), lease.is_unbroken()) {
        (true, _) => lease,
        (false, true) => {
            drop(lease);
            let again = taken(Arc::clone(&file))?;
            if file.metadata()?.modified()? != copied_at {
                return Err(KeepError::Busy);
            }
            again
        }
        (false, false) => return Err(KeepError::Busy),
    };
    file.write_all_at(stub, 0)?;
    file.sync_data()?;
    reach(CrashPoint::KeepAfterStub);
    cut_to_stub(tenant, inode, &file, &mut record)?;
    file.sync_all()?;
    drop(lease);
    Ok(format!("{} is the file; the local bytes are in {aside}", record.at))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KeepError> + Send + 'static,
) -> Result<T, KeepError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_panic| Err(io::Error::other("it ended by a fault").into()))
}
