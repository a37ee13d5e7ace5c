//! What a file must be before a release marks it: archived, not barred, proven unchanged.

use std::sync::Arc;

use nix::sys::stat::fstat;
use tokio_util::sync::CancellationToken;

use super::archive::{moved, open_to_read};
use super::barred::barred;
use super::proof::prove;
use super::release::{failed, gone};
use super::{Candidate, Migrator, Outcome, Skip, is_free};
use crate::failpoint::{CrashPoint, reach};
use crate::inode::Inode;
use crate::recover::unmark;
use crate::segment::IndexEntry;
use crate::tenant::Recorded;
use crate::tier::State;

/// Looks a file up and proves it; what its stub will say.
pub(super) async fn make_ready(
    migrator: &Arc<Migrator>,
    candidate: &Candidate,
    cancel: &CancellationToken,
) -> Result<IndexEntry, Outcome> {
    let entry = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(Skip::Cancelled.into()),
        looked_up = look_up(migrator, candidate) => looked_up?,
    };
    let (migrator, candidate, cancel) = (Arc::clone(migrator), candidate.clone(), cancel.clone());
    let proven = tokio::task::spawn_blocking(move || {
        prove(&migrator, &candidate, &entry, &cancel).map(|()| entry)
    });
    proven.await.unwrap_or_else(|_panic| Err(Skip::Cancelled.into()))
}

/// What the file's stub will say.
async fn look_up(migrator: &Migrator, candidate: &Candidate) -> Result<IndexEntry, Outcome> {
    let tenant = &migrator.tenant;
    let inode = &candidate.inode;
    if !inode.is_regular {
        return Err(Outcome::Skipped(Skip::NotRegular));
    }
    let (record, stat) = {
        let fd = migrator.inodes.path_fd(inode).map_err(gone)?;
        if tenant.pin(&fd).map_err(failed)?.is_some() {
            return Err(Outcome::Skipped(Skip::Pinned));
        }
        let stat = fstat(&fd).map_err(|error| failed(error.into()))?;
        if let Some(skip) = barred(tenant, &fd, &stat).map_err(failed)? {
            return Err(skip.into());
        }
        match tenant.recorded(&fd, &inode.handle).map_err(failed)? {
            Recorded::Trusted(record) => (record, stat),
            Recorded::Nothing | Recorded::Misfit => {
                return Err(Outcome::Skipped(Skip::NotArchived));
            }
            Recorded::Foreign(_) => return Err(Outcome::Skipped(Skip::Foreign)),
        }
    };
    match record.state {
        State::Archived => {}
        State::Releasing => take_mark_off(migrator, inode)?,
        State::Suspect | State::Recalling => return Err(Outcome::Skipped(Skip::Open)),
        State::Released | State::Lost if inode.is_coming_home() => return Err(Skip::Open.into()),
        State::Released | State::Lost => {
            let fd = migrator.inodes.path_fd(inode).map_err(gone)?;
            return Err(moved(tenant, inode, fd, &stat));
        }
    }
    let index = migrator.index(record.at).await.map_err(Outcome::Failed)?;
    index.entry(record.at.entry).cloned().ok_or(Outcome::Skipped(Skip::NotArchived))
}

/// Takes off the mark of a release that was given up, or nobody would ever release the file.
fn take_mark_off(migrator: &Migrator, inode: &Inode) -> Result<(), Outcome> {
    let Some(held) = inode.try_tier() else { return Err(Skip::Open.into()) };
    if !is_free(inode, &held) || held.is_being_released() {
        return Err(Skip::Open.into());
    }
    let file = open_to_read(migrator, inode)?;
    if unmark(&migrator.tenant, inode, &file).map_err(failed)? {
        reach(CrashPoint::ReleaseAfterOldMark);
        Ok(())
    } else {
        // In flight at a crash: the next open puts it in order.
        Err(Skip::Open.into())
    }
}
