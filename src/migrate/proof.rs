//! Proving that an archived file still is the version that its record names (I2), before a
//! release touches anything: while a file is read no stub stands, no lock is held, and whoever
//! opens the file takes it away.

use std::fs::File;
use std::io;
use std::sync::Arc;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::stat::{FileStat, fstat};
use tokio_util::sync::CancellationToken;

use super::archive::{give_up, open_to_read, take_lease};
use super::release::{failed, gone};
use super::{Candidate, Migrator, Outcome, Skip, is_closed, is_free};
use crate::failpoint::{CrashPoint, reach};
use crate::file_id::TimeNs;
use crate::inode::Inode;
use crate::record::Record;
use crate::recover::hash_while;
use crate::segment::IndexEntry;
use crate::sys::lease::Lease;
use crate::tenant::Tenant;
use crate::tier::State;

/// Makes sure that the file's ctime is known, by its content hash where it is not.
pub(super) fn prove(
    migrator: &Migrator,
    candidate: &Candidate,
    entry: &IndexEntry,
    cancel: &CancellationToken,
) -> Result<(), Outcome> {
    let tenant = &migrator.tenant;
    let inode = &candidate.inode;
    if !tenant.known.proves() {
        // What was true before the release's own lease proves nothing within it.
        return Ok(());
    }
    let lease = {
        let Some(mut held) = inode.try_tier() else { return Err(Skip::Open.into()) };
        if !is_free(inode, &held) {
            return Err(Skip::Open.into());
        }
        let fd = migrator.inodes.path_fd(inode).map_err(gone)?;
        let stat = fstat(&fd).map_err(|error| failed(error.into()))?;
        let record = tenant.record(&fd, inode).map_err(failed)?;
        if !is_recorded(record.as_ref(), entry, &stat) {
            return Err(Skip::Changed.into());
        }
        if TimeNs::ctime_of(&stat).is_some_and(|at| tenant.known.is(inode.ino, &inode.handle, at)) {
            return Ok(());
        }
        drop(fd);
        let file = open_to_read(migrator, inode)?;
        take_lease(migrator, inode, &mut held, file)?.0
    };
    let proven = compare(migrator, candidate, entry, &lease, cancel);
    give_up(migrator, inode, &lease);
    proven
}

/// A file was changed behind our back, times and all: its bytes are the file, and it is archived no
/// more.
pub(super) fn disproven(tenant: &Tenant, inode: &Inode, file: &File) -> Outcome {
    match tenant.drop_record(file, inode) {
        Ok(()) => {
            reach(CrashPoint::ReleaseAfterDisproof);
            Skip::Changed.into()
        }
        Err(error) => failed(error),
    }
}

/// Whether the record is of this entry, and the file looks as it says.
fn is_recorded(record: Option<&Record>, entry: &IndexEntry, stat: &FileStat) -> bool {
    record.is_some_and(|record| {
        record.state == State::Archived && record.at == entry.place.at() && record.fits(stat)
    })
}

/// Hashes the file under its lease, and remembers the ctime that this proves.
fn compare(
    migrator: &Migrator,
    candidate: &Candidate,
    entry: &IndexEntry,
    lease: &Arc<Lease>,
    cancel: &CancellationToken,
) -> Result<(), Outcome> {
    let tenant = &migrator.tenant;
    let inode = &candidate.inode;
    let file = lease.file();
    // A page that is clean takes a fault to be written to, and that moves the times.
    file.sync_data().map_err(failed)?;
    let go_on = || lease.is_unbroken() && !cancel.is_cancelled();
    let content = hash_while(file, go_on).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Skip::Changed.into(),
        _ => failed(error),
    })?;
    // The release asks for it anyway, and has less time.
    posix_fadvise(&**file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
        .map_err(|error| failed(error.into()))?;
    let Some(held) = inode.try_tier() else { return Err(Skip::Open.into()) };
    let ours = held.archiving.as_ref().is_some_and(|reading| reading.is_under(lease));
    if !ours || !is_closed(inode) {
        return Err(Skip::Open.into());
    }
    let record = tenant.record(&**file, inode).map_err(failed)?;
    let stat = fstat(&**file).map_err(|error| failed(error.into()))?;
    // Asked last: whatever was seen was seen before anybody else got in.
    if !lease.is_unbroken() {
        return Err(Skip::Open.into());
    }
    let Some(content) = content else { return Err(Skip::Cancelled.into()) };
    if !is_recorded(record.as_ref(), entry, &stat) {
        return Err(Skip::Changed.into());
    }
    if content != entry.content {
        return Err(disproven(tenant, inode, file));
    }
    if let Some(at) = TimeNs::ctime_of(&stat) {
        tenant.known.remember(inode.ino, &inode.handle, at);
    }
    Ok(())
}
