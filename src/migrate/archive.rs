//! Archiving: a verified remote copy of exactly this version (P2).
//!
//! ```text
//! fdatasync -> read lease -> read -> segment stored, read back, compared
//!   -> lease unbroken, size mtime ctime unmoved? -> record archived -> barrier
//! ```
//!
//! The lease is held from before the read until the record is set, because a store through an
//! old writable mapping moves no timestamp. Whoever opens the file takes the lease away, and
//! the file out of the batch.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::sys::stat::{FileStat, fstat};
use tokio_util::sync::CancellationToken;

use super::release::pinned_from_archive;
use super::{
    BATCH_FILES, Candidate, MigrateError, Migrator, NEVER_MIGRATED_BYTES, Outcome, SEGMENT_BYTES,
    Skip, Unproven, is_closed, is_free, stored,
};
use crate::catalog::seen::{Standing, standing};
use crate::failpoint::{CrashPoint, quiet_time, reach};
use crate::file_id::{EntryRef, TimeNs};
use crate::inode::{Body, Inode, Reading};
use crate::recall::RecallError;
use crate::record::{MAX_BLOCKS_512, Record};
use crate::segment::entry::MAX_EXTENTS;
use crate::segment::{
    ContentHash, ContentHasher, EntryMeta, EntryWriter, IndexEntry, SegmentBuilder,
    VerifiedSegment, WriteError,
};
use crate::stub::{self, STUB_BYTES};
use crate::sys;
use crate::sys::lease::{Lease, LeaseKind};
use crate::tenant::{Recorded, Tenant, Upload};
use crate::tier::State;

/// A file is left alone this long after its last change, so that two changes do not fall into
/// one tick of the clock that stamps them.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

/// A file that is packed and waits, under its lease, for its segment to be proven.
pub(super) struct Pending {
    candidate: Candidate,
    file: Arc<File>,
    lease: Arc<Lease>,
    seen: FileStat,
    at: EntryRef,
    packed_bytes: u64,
}

type Outcomes = Vec<(Candidate, Outcome)>;

pub(super) async fn batch(
    migrator: &Arc<Migrator>,
    batch: Vec<Candidate>,
    cancel: &CancellationToken,
) -> Outcomes {
    let mut outcomes = Vec::with_capacity(batch.len());
    let mut fresh = Vec::new();
    for (candidate, outcome) in all(migrator, batch, cancel).await {
        match outcome {
            Outcome::Skipped(Skip::Fresh) => fresh.push(candidate),
            other => outcomes.push((candidate, other)),
        }
    }
    if !fresh.is_empty() {
        tokio::select! {
            () = tokio::time::sleep(quiet_time(SETTLED_AFTER)) => {}
            () = cancel.cancelled() => {}
        }
        outcomes.extend(all(migrator, fresh, cancel).await);
    }
    outcomes
}

async fn all(
    migrator: &Arc<Migrator>,
    batch: Vec<Candidate>,
    cancel: &CancellationToken,
) -> Outcomes {
    let mut outcomes = Vec::with_capacity(batch.len());
    let mut rest = batch;
    while !rest.is_empty() {
        if cancel.is_cancelled() {
            let skipped = |candidate| (candidate, Outcome::Skipped(Skip::Cancelled));
            outcomes.extend(rest.drain(..).map(skipped));
            break;
        }
        let packing = Arc::clone(migrator);
        let packed = tokio::task::spawn_blocking(move || pack(&packing, rest)).await;
        let Ok(packed) = packed else { break };
        outcomes.extend(packed.outcomes);
        rest = packed.rest;
        if !packed.pending.is_empty() {
            let (builder, upload) = (packed.builder, packed.upload);
            let done = conclude(migrator, builder, upload, packed.pending, cancel).await;
            outcomes.extend(done);
        }
        if let Some(large) = packed.large {
            outcomes.push(stored::large(migrator, large, cancel).await);
        }
    }
    outcomes
}

struct Packed {
    builder: SegmentBuilder,
    upload: Upload,
    pending: Vec<Pending>,
    outcomes: Outcomes,
    /// A file that gets a segment of its own.
    large: Option<Candidate>,
    rest: Vec<Candidate>,
}

/// Reads files into a segment until it is full.
fn pack(migrator: &Migrator, batch: Vec<Candidate>) -> Packed {
    let upload = migrator.tenant.uploads.begin();
    let mut packed = Packed {
        builder: SegmentBuilder::new(migrator.tenant.seal.tenant(), upload.id()),
        upload,
        pending: Vec::new(),
        outcomes: Vec::new(),
        large: None,
        rest: Vec::new(),
    };
    let mut batch = batch.into_iter();
    while packed.builder.len_bytes() < SEGMENT_BYTES && packed.pending.len() < BATCH_FILES {
        let Some(candidate) = batch.next() else { break };
        match pack_one(migrator, &mut packed.builder, &candidate) {
            Ok(Some((taken, at, packed_bytes))) => {
                let Taken { file, lease, stat: seen } = taken;
                packed.pending.push(Pending { candidate, file, lease, seen, at, packed_bytes });
            }
            Ok(None) => {
                packed.large = Some(candidate);
                break;
            }
            Err(outcome) => packed.outcomes.push((candidate, outcome)),
        }
    }
    packed.rest = batch.collect();
    packed
}

/// One small file into the segment; none: it is a large one.
fn pack_one(
    migrator: &Migrator,
    builder: &mut SegmentBuilder,
    candidate: &Candidate,
) -> Result<Option<(Taken, EntryRef, u64)>, Outcome> {
    let taken = take(migrator, &candidate.inode)?;
    if taken.stat.st_size.cast_unsigned() > SEGMENT_BYTES {
        give_up(migrator, &candidate.inode, &taken.lease);
        return Ok(None);
    }
    let packed = (|| {
        let meta = meta_of(candidate, &taken)?;
        let mut writer = builder.begin_entry(meta.clone()).map_err(refused)?;
        let mut hasher = ContentHasher::new();
        let mut buffer = vec![0; READ_BYTES];
        for extent in &meta.extents {
            hasher.push_zeros(extent.offset - hasher.offset());
            let mut at = extent.offset;
            while at < extent.end() {
                let count = read_some(&taken.file, &mut buffer, at, extent.end())?;
                hasher.push(&buffer[..count]);
                writer.push(&buffer[..count]).map_err(refused)?;
                at += count as u64;
            }
        }
        let content = hasher_end(hasher, meta.size_bytes);
        let place = writer.finish(content).map_err(refused)?;
        Ok((place.at(), place.packed_bytes()))
    })();
    match packed {
        Ok((at, packed_bytes)) => Ok(Some((taken, at, packed_bytes))),
        Err(outcome) => {
            give_up(migrator, &candidate.inode, &taken.lease);
            Err(outcome)
        }
    }
}

pub(super) fn hasher_end(mut hasher: ContentHasher, size_bytes: u64) -> ContentHash {
    hasher.push_zeros(size_bytes - hasher.offset());
    hasher.finish(size_bytes)
}

/// Reads into the buffer, at most up to `end`; an early end of the file is a change of it.
pub(super) fn read_some(
    file: &File,
    buffer: &mut [u8],
    at: u64,
    end: u64,
) -> Result<usize, Outcome> {
    let room = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
    match file.read_at(&mut buffer[..room], at) {
        Ok(0) => Err(Outcome::Skipped(Skip::Changed)),
        Ok(count) => Ok(count),
        Err(error) => Err(failed("read", error)),
    }
}

/// A file under its read lease, settled and fit to be archived.
pub(super) struct Taken {
    pub(super) file: Arc<File>,
    pub(super) lease: Arc<Lease>,
    pub(super) stat: FileStat,
}

/// Takes a file for reading, unless something speaks against archiving it.
pub(super) fn take(migrator: &Migrator, inode: &Arc<Inode>) -> Result<Taken, Outcome> {
    let tenant = &migrator.tenant;
    if !inode.is_regular {
        return Err(Skip::NotRegular.into());
    }
    let Some(mut held) = inode.try_tier() else { return Err(Skip::Open.into()) };
    if !is_free(inode, &held) {
        return Err(Skip::Open.into());
    }
    let file = open_to_read(migrator, inode)?;
    let stat = fstat(&file).map_err(|error| failed("stat", error.into()))?;
    if !tenant.can_record(stat.st_mode) {
        return Err(Skip::Unwritable.into());
    }
    match tenant.recorded(&file, &inode.handle).map_err(|error| failed("read record", error))? {
        Recorded::Nothing | Recorded::Misfit => {}
        Recorded::Foreign(_) => return Err(Skip::Foreign.into()),
        Recorded::Trusted(record) => match record.state {
            State::Released | State::Lost | State::Releasing | State::Recalling => {
                return Err(moved(tenant, inode, &file, &stat));
            }
            State::Archived if record.fits(&stat) => return Err(Skip::Already.into()),
            State::Archived | State::Suspect => {}
        },
    }
    if is_too_small(&file, &stat).map_err(|error| failed("stat", error))? {
        return Err(Skip::TooSmall.into());
    }
    if sys::extent::is_realtime(&file).map_err(|error| failed("ask for flags", error))? {
        return Err(Skip::Realtime.into());
    }
    if looks_like_stub(&file).map_err(|error| failed("read", error))? {
        return Err(Skip::Foreign.into());
    }
    if pinned_from_archive(tenant, &file).map_err(|error| failed("read pin", error))? {
        return Err(Skip::Pinned.into());
    }
    if times(&stat).is_none() || stat.st_blocks.cast_unsigned() > MAX_BLOCKS_512 {
        return Err(Skip::OutOfRange.into());
    }
    if !is_settled(&stat) {
        return Err(Skip::Fresh.into());
    }
    file.sync_data().map_err(|error| failed("fdatasync", error))?;
    let (lease, stat) = take_lease(migrator, inode, &mut held, file)?;
    Ok(Taken { file: Arc::clone(lease.file()), lease, stat })
}

/// Whether no space would come of the file.
fn is_too_small(file: &File, stat: &FileStat) -> io::Result<bool> {
    let allocates_little =
        |stat: &FileStat| stat.st_blocks.cast_unsigned() * 512 <= NEVER_MIGRATED_BYTES;
    if stat.st_size.cast_unsigned() <= NEVER_MIGRATED_BYTES {
        return Ok(true);
    }
    if !allocates_little(stat) {
        return Ok(false);
    }
    // While the kernel writes delayed blocks out, there is a moment when ext4 counts them neither
    // as reserved nor as allocated.
    file.sync_data()?;
    Ok(allocates_little(&fstat(file)?))
}

/// What is to be said of a file whose record says that its bytes are remote: that they are, or
/// that it is not so.
pub(super) fn moved(tenant: &Tenant, inode: &Inode, fd: impl AsFd, stat: &FileStat) -> Outcome {
    let unlike = |error| Outcome::Failed(MigrateError::Unlike(error));
    match standing(tenant, fd.as_fd(), &inode.handle, stat) {
        Ok(Standing::Conflict) => unlike(RecallError::Conflict {
            what: "neither the recorded bytes nor a stub".to_owned(),
        }),
        Ok(Standing::Orphan) => unlike(RecallError::Orphan),
        Ok(Standing::Foreign) => Skip::Foreign.into(),
        Ok(Standing::Unmoved | Standing::Resident | Standing::Recorded(_)) => Skip::Already.into(),
        Err(error) => failed("look at its head", error),
    }
}

/// Puts a file under a read lease: from here on nobody can change it without taking that away.
pub(super) fn take_lease(
    migrator: &Migrator,
    inode: &Inode,
    held: &mut Body,
    file: File,
) -> Result<(Arc<Lease>, FileStat), Outcome> {
    let owner = fstat(&file).map_err(|error| failed("stat", error.into()))?.st_uid;
    let lease = match Lease::take(Arc::new(file), LeaseKind::Read) {
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return Err(Skip::Open.into()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => {
            return Err(Outcome::Failed(MigrateError::OtherOwner { owner }));
        }
        other => Arc::new(other.map_err(|error| failed("take a lease", error))?),
    };
    let stat = fstat(&**lease.file()).map_err(|error| failed("stat", error.into()))?;
    held.archiving = Some(Reading::under(&lease));
    migrator.leased().insert(inode.ino, Reading::under(&lease));
    Ok((lease, stat))
}

pub(super) fn open_to_read(migrator: &Migrator, inode: &Inode) -> Result<File, Outcome> {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK;
    let opened = match migrator.inodes.open(inode, flags | libc::O_NOATIME) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            migrator.inodes.open(inode, flags)
        }
        other => other,
    };
    opened.map_err(|error| match error.raw_os_error() {
        Some(libc::EAGAIN) => Skip::Open.into(),
        Some(libc::ESTALE) => Skip::Gone.into(),
        Some(libc::EACCES) if migrator.tenant.is_rootless() => Skip::Unwritable.into(),
        _ => failed("open", error),
    })
}

/// Whether the head is, or has a sector of, a stub: after a crash nobody could tell it from one
/// that a release left torn.
fn looks_like_stub(file: &File) -> io::Result<bool> {
    let mut head = [0; STUB_BYTES];
    let filled = sys::read_up_to(file, &mut head, 0)?;
    let head = &head[..filled];
    Ok(stub::looks_like_stub(head) || stub::holds_stub_sector(head))
}

fn is_settled(stat: &FileStat) -> bool {
    let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) else { return true };
    let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
    let settled = i64::try_from(quiet_time(SETTLED_AFTER).as_nanos()).unwrap_or(i64::MAX);
    [(stat.st_mtime, stat.st_mtime_nsec), (stat.st_ctime, stat.st_ctime_nsec)].into_iter().all(
        |(seconds, nanoseconds)| match TimeNs::from_parts(seconds, nanoseconds) {
            // A time in the future is no change of just now.
            Some(time) => time.0 > now || now - time.0 >= settled,
            None => true,
        },
    )
}

fn times(stat: &FileStat) -> Option<(TimeNs, TimeNs, TimeNs)> {
    Some((
        TimeNs::mtime_of(stat)?,
        TimeNs::ctime_of(stat)?,
        TimeNs::from_parts(stat.st_atime, stat.st_atime_nsec)?,
    ))
}

/// What the index says of the file.
pub(super) fn meta_of(candidate: &Candidate, taken: &Taken) -> Result<EntryMeta, Outcome> {
    let stat = &taken.stat;
    let (mtime, ctime, atime) = times(stat).ok_or(Outcome::Skipped(Skip::OutOfRange))?;
    let size_bytes = stat.st_size.cast_unsigned();
    let extents = sys::extent::data(&*taken.file, size_bytes, MAX_EXTENTS)
        .map_err(|error| failed("find extents", error))?
        .ok_or(Outcome::Skipped(Skip::Fragmented))?;
    let xattrs = xattrs_of(&taken.file).map_err(|error| failed("read attributes", error))?;
    Ok(EntryMeta {
        path: candidate.path.clone(),
        ino: candidate.inode.ino,
        handle: candidate.inode.handle.clone(),
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        size_bytes,
        mtime,
        ctime,
        atime,
        blocks_512: stat.st_blocks.cast_unsigned(),
        xattrs,
        extents,
        aliases: Vec::new(),
    })
}

fn xattrs_of(file: &File) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut xattrs = Vec::new();
    for name in sys::xattr::list(file)?.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = std::ffi::CStr::from_bytes_with_nul(name) else { continue };
        let bytes = name.to_bytes();
        if bytes.starts_with(b"trusted.coldfs") || bytes.starts_with(b"user.coldfs") {
            continue;
        }
        if let Some(value) = sys::xattr::value(file, name)? {
            xattrs.push((bytes.to_vec(), value));
        }
    }
    Ok(xattrs)
}

/// Stores and proves the segment, then sets the records of the files that are still as they
/// were read.
async fn conclude(
    migrator: &Arc<Migrator>,
    builder: SegmentBuilder,
    upload: Upload,
    pending: Vec<Pending>,
    cancel: &CancellationToken,
) -> Outcomes {
    reach(CrashPoint::ArchiveBeforeUpload);
    let proven = tokio::select! {
        proven = stored::store(&migrator.tenant, builder) => proven,
        () = cancel.cancelled() => {
            return give_up_all(migrator, pending, |_| Skip::Cancelled.into());
        }
    };
    match proven {
        Ok(segment) => record_all(migrator, segment, upload, pending).await,
        Err(error) => {
            let error = Arc::new(error);
            give_up_all(migrator, pending, |_| {
                Outcome::Failed(MigrateError::Unproven(Arc::clone(&error)))
            })
        }
    }
}

pub(super) async fn record_all(
    migrator: &Arc<Migrator>,
    segment: VerifiedSegment,
    upload: Upload,
    pending: Vec<Pending>,
) -> Outcomes {
    reach(CrashPoint::ArchiveAfterVerify);
    let recording = Arc::clone(migrator);
    let work = move || {
        let outcomes = set_records(&recording, &segment, pending);
        drop(upload);
        outcomes
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(outcomes) => outcomes,
        Err(error) => {
            tracing::error!(%error, "an archive batch ended by a fault");
            Vec::new()
        }
    }
}

/// I5: the segment is proven, so records may name it.
fn set_records(migrator: &Migrator, segment: &VerifiedSegment, pending: Vec<Pending>) -> Outcomes {
    let mut outcomes = Vec::with_capacity(pending.len());
    let mut last = None;
    for file in pending {
        let outcome = match segment.entry(file.at.entry) {
            Some(entry) => set_record(migrator, entry, &file),
            None => Err(Outcome::Skipped(Skip::Changed)),
        };
        give_up(migrator, &file.candidate.inode, &file.lease);
        match outcome {
            Ok(()) => {
                outcomes.push((file.candidate, Outcome::Done(file.packed_bytes)));
                last = Some(file.file);
            }
            Err(outcome) => outcomes.push((file.candidate, outcome)),
        }
    }
    reach(CrashPoint::ArchiveAfterRecord);
    if let Some(last) = last
        && let Err(error) = migrator.tenant.barrier(&*last)
    {
        // Without it a power cut may bring the files back as resident: nothing is lost.
        tracing::warn!(%error, "archived records are not durable yet");
    }
    outcomes
}

fn set_record(migrator: &Migrator, entry: &IndexEntry, file: &Pending) -> Result<(), Outcome> {
    let tenant: &Tenant = &migrator.tenant;
    let inode = &file.candidate.inode;
    let Some(held) = inode.try_tier() else { return Err(Skip::Open.into()) };
    let ours = held.archiving.as_ref().is_some_and(|reading| reading.is_under(&file.lease));
    if !ours || !is_closed(inode) || !file.lease.is_unbroken() {
        return Err(Skip::Open.into());
    }
    let now = fstat(&*file.file).map_err(|error| failed("stat", error.into()))?;
    if now.st_size != file.seen.st_size
        || times(&now).map(|t| (t.0, t.1)) != times(&file.seen).map(|t| (t.0, t.1))
    {
        return Err(Skip::Changed.into());
    }
    if now.st_nlink == 0 {
        return Err(Skip::Gone.into());
    }
    let record = Record {
        state: State::Archived,
        at: entry.place.at(),
        size_bytes: entry.meta.size_bytes,
        mtime: entry.meta.mtime,
        ctime_shown: entry.meta.ctime,
        blocks_512: entry.meta.blocks_512,
    };
    tenant.set_record(&*file.file, inode, &record).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => Outcome::Skipped(Skip::Immutable),
        _ => failed("set record", error),
    })?;
    let after = fstat(&*file.file).map_err(|error| failed("stat", error.into()))?;
    // Whoever took the lease away meanwhile may have moved that ctime.
    if let Some((_, ctime, _)) = times(&after)
        && file.lease.is_unbroken()
    {
        tenant.known.remember(inode.ino, &inode.handle, ctime);
    }
    Ok(())
}

fn give_up_all(
    migrator: &Migrator,
    pending: Vec<Pending>,
    outcome: impl Fn(&Pending) -> Outcome,
) -> Outcomes {
    pending
        .into_iter()
        .map(|file| {
            give_up(migrator, &file.candidate.inode, &file.lease);
            let outcome = outcome(&file);
            (file.candidate, outcome)
        })
        .collect()
}

/// Gives a file's lease back.
pub(super) fn give_up(migrator: &Migrator, inode: &Inode, lease: &Arc<Lease>) {
    lease.give_up();
    let mut leased = migrator.leased();
    if leased.get(&inode.ino).is_some_and(|reading| reading.is_under(lease)) {
        leased.remove(&inode.ino);
    }
}

impl Pending {
    /// A large file that is packed alone.
    pub(super) fn alone(candidate: Candidate, taken: Taken, entry: &EntryPlaceOf) -> Self {
        let Taken { file, lease, stat: seen } = taken;
        Self { candidate, file, lease, seen, at: entry.0, packed_bytes: entry.1 }
    }
}

/// Where a file was packed, and how many bytes.
pub(super) struct EntryPlaceOf(pub(super) EntryRef, pub(super) u64);

pub(super) fn failed(action: &'static str, source: io::Error) -> Outcome {
    Outcome::Failed(MigrateError::Local { action, source })
}

pub(super) fn refused(error: WriteError) -> Outcome {
    match error {
        WriteError::Changed { .. } => Skip::Changed.into(),
        WriteError::Entry(_) | WriteError::Place(_) => Skip::OutOfRange.into(),
        WriteError::IndexFull => Skip::Changed.into(),
        WriteError::Spoilt => {
            Outcome::Failed(MigrateError::Unproven(Arc::new(Unproven::Built(error))))
        }
    }
}

/// Feeds a large file's bytes to its entry a buffer at a time.
pub(super) fn push(
    writer: &mut EntryWriter<'_>,
    hasher: &mut ContentHasher,
    offset: u64,
    bytes: &[u8],
) -> Result<(), Outcome> {
    hasher.push_zeros(offset - hasher.offset());
    hasher.push(bytes);
    writer.push(bytes).map_err(refused)
}
