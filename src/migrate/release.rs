//! Releasing: the local body gives way to a stub.
//!
//! ```text
//! work list, records releasing -> barrier -> each file, under its tier lock:
//!   write lease, no pages held, unchanged? -> stub over block 0
//! -> all stubs on disk -> each file: cut -> mtime -> record released -> lease dropped
//! -> barrier -> off the work list
//! ```
//!
//! A file that somebody asks for before it is cut gets its first block back and stays.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::stat::{FileStat, fstat};
use tokio_util::sync::CancellationToken;

use super::{Candidate, MigrateError, Migrator, Outcome, Skip, is_closed};
use crate::failpoint::{CrashPoint, reach};
use crate::file_id::TimeNs;
use crate::inode::TierGuard;
use crate::intents::{Intent, Subject};
use crate::recall::restore_mtime;
use crate::record::Record;
use crate::recover::hash_local;
use crate::segment::IndexEntry;
use crate::stub::{STUB_BYTES, STUB_LENGTH, Stub};
use crate::sys;
use crate::sys::lease::{Lease, LeaseKind};
use crate::tenant::{Pin, Recorded, Tenant};
use crate::tier::State;

/// Files released behind one barrier. Their leases are held together, and a lease is trusted
/// for 20 s: at the slowest disk measured, 100 us a stub, this many take a tenth of a second.
const RELEASE_BATCH_FILES: usize = 1024;

pub(super) async fn batch(
    migrator: &Arc<Migrator>,
    batch: Vec<Candidate>,
    cancel: &CancellationToken,
) -> Vec<(Candidate, Outcome)> {
    let mut outcomes = Vec::with_capacity(batch.len());
    let mut rest = batch.into_iter().peekable();
    while rest.peek().is_some() {
        let part: Vec<_> = rest.by_ref().take(RELEASE_BATCH_FILES).collect();
        if cancel.is_cancelled() {
            let skipped = |candidate| (candidate, Outcome::Skipped(Skip::Cancelled));
            outcomes.extend(part.into_iter().map(skipped));
            continue;
        }
        let mut wanted = Vec::with_capacity(part.len());
        for candidate in part {
            let looked_up = tokio::select! {
                looked_up = look_up(migrator, &candidate) => looked_up,
                () = cancel.cancelled() => Err(Skip::Cancelled.into()),
            };
            match looked_up {
                Ok(entry) => wanted.push((candidate, entry)),
                Err(outcome) => outcomes.push((candidate, outcome)),
            }
        }
        let tenant = Arc::clone(&migrator.tenant);
        let inodes = Arc::clone(&migrator.inodes);
        let work = move || run(&tenant, &inodes, wanted);
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => outcomes.extend(done),
            Err(error) => tracing::error!(%error, "a release batch ended by a fault"),
        }
    }
    outcomes
}

/// What the file's stub will say.
async fn look_up(migrator: &Migrator, candidate: &Candidate) -> Result<IndexEntry, Outcome> {
    let tenant = &migrator.tenant;
    let inode = &candidate.inode;
    if !inode.is_regular {
        return Err(Outcome::Skipped(Skip::NotRegular));
    }
    let fd = migrator.inodes.path_fd(inode).map_err(gone)?;
    if tenant.pin(&fd).map_err(failed)?.is_some() {
        return Err(Outcome::Skipped(Skip::Pinned));
    }
    if has_capabilities(&fd).map_err(failed)? {
        return Err(Outcome::Skipped(Skip::Capabilities));
    }
    let stat = fstat(&fd).map_err(|error| failed(error.into()))?;
    if let Some(skip) = barred_by_mode(tenant, &stat) {
        return Err(skip.into());
    }
    let record = match tenant.recorded(&fd, &inode.handle).map_err(failed)? {
        Recorded::Trusted(record) => record,
        Recorded::Nothing | Recorded::Misfit => {
            return Err(Outcome::Skipped(Skip::NotArchived));
        }
        Recorded::Foreign(_) => return Err(Outcome::Skipped(Skip::Foreign)),
    };
    match record.state {
        State::Archived => {}
        State::Suspect | State::Releasing | State::Recalling => {
            return Err(Outcome::Skipped(Skip::Open));
        }
        State::Released | State::Lost => return Err(Outcome::Skipped(Skip::Already)),
    }
    let index = migrator.index(record.at).await.map_err(Outcome::Failed)?;
    index.entry(record.at.entry).cloned().ok_or(Outcome::Skipped(Skip::NotArchived))
}

fn failed(error: io::Error) -> Outcome {
    Outcome::Failed(error.into())
}

fn gone(error: io::Error) -> Outcome {
    if error.raw_os_error() == Some(libc::ESTALE) {
        Outcome::Skipped(Skip::Gone)
    } else {
        failed(error)
    }
}

/// A file of the batch, whose record says `releasing`.
struct Marked {
    candidate: Candidate,
    entry: IndexEntry,
    stub: Box<[u8; STUB_BYTES]>,
    record: Record,
    /// Whether nothing but our own marking has moved the ctime since it was archived, and what
    /// it was after that.
    known_ctime: Option<TimeNs>,
}

/// A file whose block 0 is its stub, under its lease and tier lock.
struct Stubbed {
    marked: Marked,
    held: TierGuard,
    lease: Lease,
    original: Box<[u8; STUB_BYTES]>,
    freed_bytes: u64,
}

fn run(
    tenant: &Arc<Tenant>,
    inodes: &crate::inode::Inodes,
    wanted: Vec<(Candidate, IndexEntry)>,
) -> Vec<(Candidate, Outcome)> {
    let mut outcomes = Vec::with_capacity(wanted.len());
    let mut encoded = Vec::with_capacity(wanted.len());
    for (candidate, entry) in wanted {
        let stub = Stub::of_entry(&entry, tenant.store.url(), &tenant.name, tenant.seal.tenant());
        match stub.encode(&tenant.seal) {
            Ok(bytes) => encoded.push((candidate, entry, Box::new(bytes))),
            Err(_) => outcomes.push((candidate, Outcome::Skipped(Skip::Fragmented))),
        }
    }
    if encoded.is_empty() {
        return outcomes;
    }
    let intents: Vec<_> = encoded
        .iter()
        .map(|(candidate, _, _)| {
            let handle = candidate.inode.handle.clone();
            Intent::Release(Subject { handle, path: candidate.path.clone() })
        })
        .collect();
    let ticket = match tenant.work.begin(&intents) {
        Ok(ticket) => ticket,
        Err(error) => {
            let action = "write .coldfs/intents";
            let fail = |(candidate, _, _)| {
                let source = match error.raw_os_error() {
                    Some(errno) => io::Error::from_raw_os_error(errno),
                    None => io::Error::other(error.to_string()),
                };
                (candidate, Outcome::Failed(MigrateError::Local { action, source }))
            };
            outcomes.extend(encoded.into_iter().map(fail));
            return outcomes;
        }
    };
    reach(CrashPoint::ReleaseAfterIntent);

    let mut marked = Vec::with_capacity(encoded.len());
    for (candidate, entry, stub) in encoded {
        match mark(tenant, inodes, candidate, entry, stub) {
            Ok(file) => marked.push(file),
            Err(outcome) => outcomes.push(outcome),
        }
    }
    reach(CrashPoint::ReleaseAfterRecord);
    if let Err(error) = barrier(tenant, inodes, &marked) {
        tracing::warn!(%error, "a release batch is put off: its barrier failed");
        for file in marked {
            outcomes.push(give_back(tenant, inodes, file, Outcome::Skipped(Skip::Cancelled)));
        }
        return outcomes;
    }
    reach(CrashPoint::ReleaseAfterBarrier);

    let mut stubbed = Vec::with_capacity(marked.len());
    for file in marked {
        match put_stub(tenant, inodes, file) {
            Ok(file) => stubbed.push(file),
            Err(outcome) => outcomes.push(outcome),
        }
    }
    reach(CrashPoint::ReleaseAfterStub);
    let mut synced = Ok(());
    for file in &stubbed {
        synced = synced
            .and(sys::pages::start_write_out(&**file.lease.file(), STUB_LENGTH.cast_signed()));
    }
    for file in &stubbed {
        synced = synced
            .and(sys::pages::await_write_out(&**file.lease.file(), STUB_LENGTH.cast_signed()));
    }
    reach(CrashPoint::ReleaseAfterSync);

    let mut last = None;
    for file in stubbed {
        let whole = synced.is_ok();
        let body = Arc::clone(file.lease.file());
        match cut(tenant, file, whole) {
            (candidate, Outcome::Done(bytes)) => {
                last = Some(body);
                outcomes.push((candidate, Outcome::Done(bytes)));
            }
            other => outcomes.push(other),
        }
    }
    reach(CrashPoint::ReleaseAfterReleased);
    let durable = last.map_or(Ok(()), |last| tenant.barrier(&*last));
    reach(CrashPoint::ReleaseBeforeClear);
    match durable {
        Ok(()) => drop(ticket),
        Err(error) => {
            tracing::error!(%error, "a release is not durable yet: its files stay on the work list");
            ticket.leave();
        }
    }
    outcomes
}

fn has_capabilities(fd: impl AsFd) -> io::Result<bool> {
    Ok(sys::xattr::value(fd, sys::xattr::FILE_CAPABILITIES)?.is_some())
}

/// Whether its mode would be lost, or would keep the file from coming back.
fn barred_by_mode(tenant: &Tenant, stat: &FileStat) -> Option<Skip> {
    if stat.st_mode & (libc::S_ISUID | libc::S_ISGID) != 0 && !sys::has_capability(sys::CAP_FSETID)
    {
        return Some(Skip::SetId);
    }
    (!tenant.can_record(stat.st_mode)).then_some(Skip::Unwritable)
}

/// archived -> releasing.
fn mark(
    tenant: &Tenant,
    inodes: &crate::inode::Inodes,
    candidate: Candidate,
    entry: IndexEntry,
    stub: Box<[u8; STUB_BYTES]>,
) -> Result<Marked, (Candidate, Outcome)> {
    let inode = &candidate.inode;
    let marked = (|| {
        let Some(_held) = inode.try_tier() else { return Err(Outcome::Skipped(Skip::Open)) };
        if !is_closed(inode) {
            return Err(Outcome::Skipped(Skip::Open));
        }
        let fd = inodes.path_fd(inode).map_err(gone)?;
        let Some(record) = tenant.record(&fd, inode).map_err(failed)? else {
            return Err(Outcome::Skipped(Skip::Changed));
        };
        if record.state != State::Archived || record.at != entry.place.at() {
            return Err(Outcome::Skipped(Skip::Changed));
        }
        let before = fstat(&fd).map_err(|error| failed(error.into()))?;
        let known = ctime(&before).is_some_and(|at| tenant.known.is(inode.ino, &inode.handle, at));
        let releasing = Record { state: State::Releasing, ..record };
        tenant.set_record(&fd, inode, &releasing).map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => Outcome::Skipped(Skip::Immutable),
            _ => failed(error),
        })?;
        let after = fstat(&fd).map_err(|error| failed(error.into()))?;
        Ok((releasing, ctime(&after).filter(|_| known)))
    })();
    match marked {
        Ok((record, known_ctime)) => Ok(Marked { candidate, entry, stub, record, known_ctime }),
        Err(outcome) => Err((candidate, outcome)),
    }
}

fn barrier(tenant: &Tenant, inodes: &crate::inode::Inodes, marked: &[Marked]) -> io::Result<()> {
    // Any file whose record was just set commits all the others'.
    for file in marked.iter().rev() {
        match inodes.open(&file.candidate.inode, libc::O_RDONLY | libc::O_NONBLOCK) {
            Ok(last) => return tenant.barrier(&last),
            Err(_gone_or_leased) => {}
        }
    }
    Ok(())
}

/// Takes the file, makes sure that nothing changed, and writes the stub over block 0.
fn put_stub(
    tenant: &Tenant,
    inodes: &crate::inode::Inodes,
    marked: Marked,
) -> Result<Stubbed, (Candidate, Outcome)> {
    let taken = (|| {
        let inode = &marked.candidate.inode;
        let Some(held) = inode.try_tier() else { return Err(Skip::Open.into()) };
        if !is_closed(inode) {
            return Err(Skip::Open.into());
        }
        let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_NOATIME;
        let file = Arc::new(inodes.open(inode, flags).map_err(busy)?);
        let lease = Lease::take(Arc::clone(&file), LeaseKind::Write).map_err(busy)?;
        if tenant.record(&*file, inode).map_err(failed)? != Some(marked.record) {
            return Err(Skip::Changed.into());
        }
        file.sync_data().map_err(failed)?;
        posix_fadvise(&*file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .map_err(|error| failed(error.into()))?;
        if sys::pages::cached(&*file).map_err(failed)?.is_some_and(|pages| pages > 0) {
            return Err(Skip::PagesHeld.into());
        }
        let stat = fstat(&*file).map_err(|error| failed(error.into()))?;
        if !is_unchanged(&marked, &stat) {
            let same = size(&stat) == marked.record.size_bytes
                && hash_local(&file).map_err(failed)? == marked.entry.content;
            if !same {
                // Changed behind our back, times and all: these bytes are the file.
                tenant.drop_record(&*file, inode).map_err(failed)?;
                return Err(Skip::Changed.into());
            }
        }
        if has_capabilities(&*file).map_err(failed)? {
            return Err(Skip::Capabilities.into());
        }
        if let Some(skip) = barred_by_mode(tenant, &stat) {
            return Err(skip.into());
        }
        let mut original = Box::new([0; STUB_BYTES]);
        file.read_exact_at(&mut *original, 0).map_err(failed)?;
        if !lease.holds() {
            return Err(Skip::Open.into());
        }
        let freed_bytes = (stat.st_blocks.cast_unsigned() * 512).saturating_sub(STUB_LENGTH);
        Ok((held, lease, original, freed_bytes))
    })();
    match taken {
        Ok((held, lease, original, freed_bytes)) => {
            let stubbed = Stubbed { marked, held, lease, original, freed_bytes };
            match stubbed.lease.file().write_all_at(&*stubbed.marked.stub, 0) {
                Ok(()) => Ok(stubbed),
                // No room for a stub over a hole: as it was.
                Err(error) => Err(take_back(tenant, stubbed, failed(error))),
            }
        }
        Err(outcome) => Err(give_back(tenant, inodes, marked, outcome)),
    }
}

impl From<Skip> for Outcome {
    fn from(skip: Skip) -> Self {
        Outcome::Skipped(skip)
    }
}

fn busy(error: io::Error) -> Outcome {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ETXTBSY | libc::EBUSY) => Outcome::Skipped(Skip::Open),
        Some(libc::ESTALE) => Outcome::Skipped(Skip::Gone),
        _ => failed(error),
    }
}

/// I2: size and mtime as recorded, and the ctime the one our own marking left.
fn is_unchanged(marked: &Marked, stat: &FileStat) -> bool {
    size(stat) == marked.record.size_bytes
        && TimeNs::from_parts(stat.st_mtime, stat.st_mtime_nsec) == Some(marked.record.mtime)
        && marked.known_ctime.is_some()
        && ctime(stat) == marked.known_ctime
}

fn size(stat: &FileStat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

fn ctime(stat: &FileStat) -> Option<TimeNs> {
    TimeNs::from_parts(stat.st_ctime, stat.st_ctime_nsec)
}

/// releasing -> released.
fn cut(tenant: &Tenant, stubbed: Stubbed, stubs_on_disk: bool) -> (Candidate, Outcome) {
    let inode = &stubbed.marked.candidate.inode;
    if !stubs_on_disk || !stubbed.lease.holds() {
        return take_back(tenant, stubbed, Skip::Open.into());
    }
    let file = stubbed.lease.file();
    let done = (|| {
        file.set_len(STUB_LENGTH)?;
        reach(CrashPoint::ReleaseAfterCut);
        restore_mtime(file, stubbed.marked.record.mtime)?;
        reach(CrashPoint::ReleaseAfterTimes);
        let released = Record { state: State::Released, ..stubbed.marked.record };
        tenant.set_record(&**file, inode, &released)
    })();
    let outcome = match done {
        Ok(()) => Outcome::Done(stubbed.freed_bytes),
        // The next look at it finishes the release: its head is the stub its record names.
        Err(error) => failed(error),
    };
    let Stubbed { marked, held, lease, .. } = stubbed;
    drop(lease);
    drop(held);
    (marked.candidate, outcome)
}

/// Puts a file's first block back, under its lease: somebody wants it, or something failed.
fn take_back(tenant: &Tenant, stubbed: Stubbed, outcome: Outcome) -> (Candidate, Outcome) {
    let Stubbed { marked, held, lease, original, .. } = stubbed;
    let file = lease.file();
    let put = file
        .write_all_at(&*original, 0)
        .and_then(|()| restore_mtime(file, marked.record.mtime))
        .and_then(|()| set_archived(tenant, file, &marked));
    if let Err(error) = put {
        let ino = marked.candidate.inode.ino;
        tracing::error!(%ino, %error, "cannot take a release back: the next open finishes it");
    }
    drop(lease);
    drop(held);
    (marked.candidate, outcome)
}

/// Takes a file whose body was not touched out of the batch.
fn give_back(
    tenant: &Tenant,
    inodes: &crate::inode::Inodes,
    marked: Marked,
    outcome: Outcome,
) -> (Candidate, Outcome) {
    let inode = &marked.candidate.inode;
    // Without the lock somebody else is dealing with the file, and takes `releasing` for what
    // it is: archived.
    if let Some(_held) = inode.try_tier()
        && let Ok(fd) = inodes.path_fd(inode)
        && tenant.record(&fd, inode).is_ok_and(|record| record == Some(marked.record))
        && let Err(error) = set_archived(tenant, &fd, &marked)
    {
        tracing::warn!(ino = %inode.ino, %error, "a file stays marked as releasing");
    }
    (marked.candidate, outcome)
}

/// releasing -> archived. What was known of the ctime is not known any more.
fn set_archived(tenant: &Tenant, fd: impl AsFd, marked: &Marked) -> io::Result<()> {
    let archived = Record { state: State::Archived, ..marked.record };
    tenant.set_record(fd, &marked.candidate.inode, &archived)
}

/// Whether a person's pin keeps a file from being archived.
pub(super) fn pinned_from_archive(tenant: &Tenant, fd: impl AsFd) -> io::Result<bool> {
    Ok(tenant.pin(fd)? == Some(Pin::NeverArchive))
}
