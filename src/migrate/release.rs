//! Releasing: the local body gives way to a stub.
//!
//! ```text
//! each file proven unchanged (proof) -> work list, records releasing -> barrier
//!   -> each file, under its tier lock: write lease, no pages held, unchanged?
//!      -> stub over block 0
//!   -> all stubs on disk -> each file: cut -> mtime -> record released -> lease dropped
//! -> barrier -> off the work list
//! ```
//!
//! A file that somebody asks for before it is cut gets its first block back and stays. Whatever
//! may take long comes before the first stub: while one stands, its readers wait, and its lease
//! keeps others out only so long.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::stat::{FileStat, fstat};
use tokio_util::sync::CancellationToken;

use super::barred::barred;
use super::proof::disproven;
use super::ready::make_ready;
use super::{Candidate, MigrateError, Migrator, Outcome, Skip, is_closed, is_free};
use crate::failpoint::{CrashPoint, reach};
use crate::file_id::{EntryRef, TimeNs};
use crate::inode::{Inode, TierGuard};
use crate::intents::{Intent, MAX_PATH_BYTES, Subject};
use crate::recall::{Privileges, restore_mtime};
use crate::record::Record;
use crate::recover::hash_local;
use crate::segment::IndexEntry;
use crate::stub::{STUB_BYTES, STUB_LENGTH, Stub};
use crate::sys;
use crate::sys::lease::{Lease, LeaseKind};
use crate::tenant::{Pin, Tenant};
use crate::tier::State;

/// Files released behind one barrier: at 100 us a stub, leases are held for a tenth of a second.
const RELEASE_BATCH_FILES: usize = 1024;

/// How long files are looked up and proven before those that are ready go: hashing the rest
/// must not keep a full disk waiting.
const GATHER_FOR: Duration = Duration::from_secs(3);

/// How long the first stub of a round stands before the round is closed. Its readers wait for
/// that, and leases are trusted for 20 s.
const ROUND_FOR: Duration = Duration::from_secs(3);

type Outcomes = Vec<(Candidate, Outcome)>;

pub(super) async fn batch(
    migrator: &Arc<Migrator>,
    batch: Vec<Candidate>,
    cancel: &CancellationToken,
) -> Outcomes {
    let mut outcomes = Vec::with_capacity(batch.len());
    let mut rest = batch.into_iter();
    while rest.len() > 0 {
        let wanted = gather(migrator, &mut rest, &mut outcomes, cancel).await;
        let run = Run::of(migrator);
        match tokio::task::spawn_blocking(move || run.all(wanted)).await {
            Ok(done) => {
                outcomes.extend(done.outcomes);
                for (inode, at) in done.busy {
                    tokio::spawn(unmark_later(Arc::clone(migrator), inode, at));
                }
            }
            Err(error) => tracing::error!(%error, "a release batch ended by a fault"),
        }
    }
    outcomes
}

/// The next files that are fit to be released.
async fn gather(
    migrator: &Arc<Migrator>,
    rest: &mut std::vec::IntoIter<Candidate>,
    outcomes: &mut Outcomes,
    cancel: &CancellationToken,
) -> Vec<(Candidate, IndexEntry)> {
    let until = tokio::time::Instant::now() + GATHER_FOR;
    let mut wanted = Vec::new();
    while wanted.len() < RELEASE_BATCH_FILES
        && (wanted.is_empty() || tokio::time::Instant::now() < until)
    {
        let Some(candidate) = rest.next() else { break };
        match make_ready(migrator, &candidate, cancel).await {
            Ok(entry) => wanted.push((candidate, entry)),
            Err(outcome) => outcomes.push((candidate, outcome)),
        }
    }
    wanted
}

pub(super) fn failed(error: io::Error) -> Outcome {
    Outcome::Failed(error.into())
}

pub(super) fn gone(error: io::Error) -> Outcome {
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
    /// The ctime that our own marking left on the proven file. None: ctimes prove nothing here,
    /// and the file is hashed under its lease.
    known_ctime: Option<TimeNs>,
    /// See [`Body::releasing`](crate::inode::Body::releasing).
    _mark: Arc<()>,
}

/// A file whose block 0 is its stub, under its lease and tier lock.
struct Stubbed {
    marked: Marked,
    held: TierGuard,
    lease: Lease,
    original: Box<[u8; STUB_BYTES]>,
    freed_bytes: u64,
}

/// A batch on its way.
struct Run {
    migrator: Arc<Migrator>,
    outcomes: Outcomes,
    /// Somebody had the lock of these when their mark was to be taken off.
    busy: Vec<(Arc<Inode>, EntryRef)>,
    /// A body is in a state that recovery has to look at.
    unfinished: bool,
}

impl Run {
    fn of(migrator: &Arc<Migrator>) -> Self {
        let migrator = Arc::clone(migrator);
        Self { migrator, outcomes: Vec::new(), busy: Vec::new(), unfinished: false }
    }

    fn all(mut self, wanted: Vec<(Candidate, IndexEntry)>) -> Self {
        let migrator = Arc::clone(&self.migrator);
        let tenant = &migrator.tenant;
        let mut encoded = Vec::with_capacity(wanted.len());
        for (candidate, entry) in wanted {
            let stub =
                Stub::of_entry(&entry, tenant.store.url(), &tenant.name, tenant.seal.tenant());
            match stub.encode(&tenant.seal) {
                Ok(bytes) => encoded.push((candidate, entry, Box::new(bytes))),
                Err(_) => self.outcomes.push((candidate, Outcome::Skipped(Skip::Fragmented))),
            }
        }
        if encoded.is_empty() {
            return self;
        }
        let intents: Vec<_> = encoded
            .iter()
            .map(|(candidate, _, _)| {
                let handle = candidate.inode.handle.clone();
                // Found again by its handle, or by a walk.
                let path = match candidate.path.len() > MAX_PATH_BYTES {
                    true => Vec::new(),
                    false => candidate.path.clone(),
                };
                Intent::Release(Subject { handle, path })
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
                self.outcomes.extend(encoded.into_iter().map(fail));
                return self;
            }
        };
        reach(CrashPoint::ReleaseAfterIntent);

        let mut marked = Vec::with_capacity(encoded.len());
        for (candidate, entry, stub) in encoded {
            match mark(&migrator, candidate, entry, stub) {
                Ok(file) => marked.push(file),
                Err(outcome) => self.outcomes.push(outcome),
            }
        }
        reach(CrashPoint::ReleaseAfterRecord);
        if let Err(error) = barrier(&migrator, &marked) {
            tracing::warn!(%error, "a release batch is put off: its barrier failed");
            for file in marked {
                self.give_back(file, Outcome::Skipped(Skip::Cancelled));
            }
            return self;
        }
        reach(CrashPoint::ReleaseAfterBarrier);

        let mut rest = marked.into_iter();
        let mut last = None;
        while rest.len() > 0 {
            last = self.round(&mut rest).or(last);
        }
        reach(CrashPoint::ReleaseAfterReleased);
        let durable = last.map_or(Ok(()), |last| tenant.barrier(&*last));
        reach(CrashPoint::ReleaseBeforeClear);
        if let Err(error) = &durable {
            tracing::error!(%error, "a release is not durable yet: its files stay on the work list");
        }
        if self.unfinished || durable.is_err() {
            ticket.leave();
        } else {
            ticket.settled();
        }
        self
    }

    /// Stubs as many files as may stand together, and cuts them; the last that was released.
    fn round(&mut self, rest: &mut std::vec::IntoIter<Marked>) -> Option<Arc<std::fs::File>> {
        let mut stubbed: Vec<Stubbed> = Vec::with_capacity(rest.len());
        while stubbed.first().is_none_or(|first| first.lease.age() < ROUND_FOR) {
            let Some(file) = rest.next() else { break };
            // Reading it takes long: nobody else's stub stands meanwhile.
            let alone = file.known_ctime.is_none();
            stubbed.extend(self.put_stub(file));
            if alone {
                break;
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
            let body = Arc::clone(file.lease.file());
            if self.cut(file, synced.is_ok()) {
                last = Some(body);
            }
        }
        last
    }

    /// Takes the file, makes sure that nothing changed, and writes the stub over block 0.
    fn put_stub(&mut self, marked: Marked) -> Option<Stubbed> {
        match take(&self.migrator, &marked) {
            Ok((held, lease, original, freed_bytes)) => {
                let stubbed = Stubbed { marked, held, lease, original, freed_bytes };
                match stubbed.lease.file().write_all_at(&*stubbed.marked.stub, 0) {
                    Ok(()) => return Some(stubbed),
                    // No room for a stub over a hole: as it was.
                    Err(error) => self.take_back(stubbed, failed(error)),
                }
            }
            Err(outcome) => self.give_back(marked, outcome),
        }
        None
    }

    /// releasing -> released; false: it was not.
    fn cut(&mut self, stubbed: Stubbed, stubs_on_disk: bool) -> bool {
        let tenant = &self.migrator.tenant;
        let inode = &stubbed.marked.candidate.inode;
        if !stubs_on_disk || !stubbed.lease.holds() {
            self.take_back(stubbed, Skip::Open.into());
            return false;
        }
        let file = stubbed.lease.file();
        let done = (|| {
            // A capability can be given to a file whose stub stands; whoever recalls it keeps it.
            let privileges = Privileges::of(file)?;
            file.set_len(STUB_LENGTH)?;
            reach(CrashPoint::ReleaseAfterCut);
            privileges.restore(file)?;
            restore_mtime(file, stubbed.marked.record.mtime)?;
            reach(CrashPoint::ReleaseAfterTimes);
            let released = Record { state: State::Released, ..stubbed.marked.record };
            tenant.set_record(&**file, inode, &released)
        })();
        let is_done = done.is_ok();
        let outcome = match done {
            Ok(()) => Outcome::Done(stubbed.freed_bytes),
            // The next look at it finishes the release: its head is the stub its record names.
            Err(error) => {
                self.unfinished = true;
                failed(error)
            }
        };
        let Stubbed { marked, held, lease, .. } = stubbed;
        drop(lease);
        drop(held);
        self.outcomes.push((marked.candidate, outcome));
        is_done
    }

    /// Puts a file's first block back, under its lease: somebody wants it, or something failed.
    fn take_back(&mut self, stubbed: Stubbed, outcome: Outcome) {
        let Stubbed { marked, held, lease, original, .. } = stubbed;
        let (file, inode) = (lease.file(), &marked.candidate.inode);
        let put = (|| {
            if !lease.keeps_others_out() {
                return Err(io::Error::other("its lease is gone, and somebody may write to it"));
            }
            let privileges = Privileges::of(file)?;
            file.write_all_at(&*original, 0)?;
            privileges.restore(file)?;
            restore_mtime(file, marked.record.mtime)?;
            set_archived(&self.migrator.tenant, file, inode, marked.record, None)
        })();
        if let Err(error) = put {
            self.unfinished = true;
            let ino = inode.ino;
            tracing::error!(%ino, %error, "cannot take a release back: the next open finishes it");
        }
        drop(lease);
        drop(held);
        self.outcomes.push((marked.candidate, outcome));
    }

    /// Takes a file whose body was not touched out of the batch.
    fn give_back(&mut self, marked: Marked, outcome: Outcome) {
        let Marked { candidate, record, known_ctime, .. } = marked;
        match candidate.inode.try_tier() {
            Some(held) => {
                take_own_mark_off(&self.migrator, &candidate.inode, &held, record.at, known_ctime);
            }
            None => self.busy.push((Arc::clone(&candidate.inode), record.at)),
        }
        self.outcomes.push((candidate, outcome));
    }
}

/// Does what [`Run::give_back`] could not, once whoever has the lock is done.
async fn unmark_later(migrator: Arc<Migrator>, inode: Arc<Inode>, at: EntryRef) {
    let held = inode.tier().await;
    if !held.is_being_released() {
        take_own_mark_off(&migrator, &inode, &held, at, None);
    }
    drop(held);
    migrator.inodes.let_go(inode);
}

/// releasing -> archived, of a file whose body was not touched. What became of its record
/// otherwise stays: a chmod or utimens between mark and stub is in it.
fn take_own_mark_off(
    migrator: &Migrator,
    inode: &Inode,
    _held: &TierGuard,
    at: EntryRef,
    known_ctime: Option<TimeNs>,
) {
    let tenant = &migrator.tenant;
    let taken_off = (|| {
        let fd = migrator.inodes.path_fd(inode)?;
        match tenant.record(&fd, inode)? {
            Some(record) if record.state == State::Releasing && record.at == at => {
                set_archived(tenant, &fd, inode, record, known_ctime)
            }
            Some(_) | None => Ok(()),
        }
    })();
    match taken_off {
        Err(error) if error.raw_os_error() != Some(libc::ESTALE) => {
            tracing::warn!(ino = %inode.ino, %error, "a file stays marked as releasing");
        }
        Ok(()) | Err(_) => {}
    }
}

/// releasing -> archived. The proof stays one where the ctime is still the one it was of.
fn set_archived(
    tenant: &Tenant,
    fd: impl AsFd,
    inode: &Inode,
    record: Record,
    known_ctime: Option<TimeNs>,
) -> io::Result<()> {
    let before = TimeNs::ctime_of(&fstat(&fd)?);
    tenant.set_record(&fd, inode, &Record { state: State::Archived, ..record })?;
    if known_ctime.is_some()
        && before == known_ctime
        && let Some(after) = TimeNs::ctime_of(&fstat(&fd)?)
    {
        tenant.known.remember(inode.ino, &inode.handle, after);
    }
    Ok(())
}

/// archived -> releasing.
fn mark(
    migrator: &Migrator,
    candidate: Candidate,
    entry: IndexEntry,
    stub: Box<[u8; STUB_BYTES]>,
) -> Result<Marked, (Candidate, Outcome)> {
    let tenant = &migrator.tenant;
    let inode = &candidate.inode;
    let mark = Arc::new(());
    let marked = (|| {
        let Some(mut held) = inode.try_tier() else { return Err(Skip::Open.into()) };
        if !is_free(inode, &held) {
            return Err(Skip::Open.into());
        }
        let fd = migrator.inodes.path_fd(inode).map_err(gone)?;
        let Some(record) = tenant.record(&fd, inode).map_err(failed)? else {
            return Err(Skip::Changed.into());
        };
        if record.state != State::Archived || record.at != entry.place.at() {
            return Err(Skip::Changed.into());
        }
        let before = fstat(&fd).map_err(|error| failed(error.into()))?;
        let known = TimeNs::ctime_of(&before)
            .is_some_and(|at| tenant.known.is(inode.ino, &inode.handle, at));
        if !known && tenant.known.proves() {
            return Err(Skip::Changed.into());
        }
        let releasing = Record { state: State::Releasing, ..record };
        tenant.set_record(&fd, inode, &releasing).map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => Skip::Immutable.into(),
            _ => failed(error),
        })?;
        held.releasing = Arc::downgrade(&mark);
        let after = fstat(&fd).map_err(|error| failed(error.into()))?;
        Ok((releasing, TimeNs::ctime_of(&after).filter(|_| known)))
    })();
    match marked {
        Ok((record, known_ctime)) => {
            Ok(Marked { candidate, entry, stub, record, known_ctime, _mark: mark })
        }
        Err(outcome) => Err((candidate, outcome)),
    }
}

fn barrier(migrator: &Migrator, marked: &[Marked]) -> io::Result<()> {
    let open = |file: &Marked| {
        migrator.inodes.open(&file.candidate.inode, libc::O_RDONLY | libc::O_NONBLOCK)
    };
    // Any file whose record was just set commits all the others'. None: gone, or leased, all of them.
    let Some(last) = marked.iter().rev().find_map(|file| open(file).ok()) else { return Ok(()) };
    migrator.tenant.barrier(&last).or_else(|error| {
        tracing::debug!(%error, "no barrier for all: each file by itself");
        marked.iter().try_for_each(|file| open(file)?.sync_all())
    })
}

type TakenBody = (TierGuard, Lease, Box<[u8; STUB_BYTES]>, u64);

/// Takes the file away from everybody else, unless somebody has it, holds a page of it, or
/// changed it.
fn take(migrator: &Migrator, marked: &Marked) -> Result<TakenBody, Outcome> {
    let tenant = &migrator.tenant;
    let inode = &marked.candidate.inode;
    let Some(held) = inode.try_tier() else { return Err(Skip::Open.into()) };
    if !is_closed(inode) {
        return Err(Skip::Open.into());
    }
    let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_NOATIME;
    let file = Arc::new(migrator.inodes.open(inode, flags).map_err(busy)?);
    let lease = Lease::take(Arc::clone(&file), LeaseKind::Write).map_err(busy)?;
    if tenant.record(&*file, inode).map_err(failed)? != Some(marked.record) {
        return Err(Skip::Changed.into());
    }
    let stat = fstat(&*file).map_err(|error| failed(error.into()))?;
    if !is_unchanged(marked, &stat) {
        return Err(Skip::Changed.into());
    }
    if marked.known_ctime.is_none() {
        file.sync_data().map_err(failed)?;
        if hash_local(&file).map_err(failed)? != marked.entry.content {
            return Err(disproven(tenant, inode, &file));
        }
    }
    posix_fadvise(&*file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
        .map_err(|error| failed(error.into()))?;
    if sys::pages::cached(&*file).map_err(failed)?.is_some_and(|pages| pages > 0) {
        return Err(Skip::PagesHeld.into());
    }
    if let Some(skip) = barred(tenant, &*file, &stat).map_err(failed)? {
        return Err(skip.into());
    }
    if sys::extent::is_realtime(&*file).map_err(failed)? {
        return Err(Skip::Realtime.into());
    }
    let mut original = Box::new([0; STUB_BYTES]);
    file.read_exact_at(&mut *original, 0).map_err(failed)?;
    if !lease.holds() {
        return Err(Skip::Open.into());
    }
    let freed_bytes = (stat.st_blocks.cast_unsigned() * 512).saturating_sub(STUB_LENGTH);
    Ok((held, lease, original, freed_bytes))
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

/// I2: size and mtime as recorded, and the ctime the one that our own marking left.
fn is_unchanged(marked: &Marked, stat: &FileStat) -> bool {
    marked.record.fits(stat)
        && (marked.known_ctime.is_none() || TimeNs::ctime_of(stat) == marked.known_ctime)
}

/// Whether a person's pin keeps a file from being archived.
pub(super) fn pinned_from_archive(tenant: &Tenant, fd: impl AsFd) -> io::Result<bool> {
    Ok(tenant.pin(fd)? == Some(Pin::NeverArchive))
}
