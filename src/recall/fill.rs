//! Filling a stub in place.
//!
//! ```text
//! work list -> record recalling -> lease, extend -> chunks, where its reader is first, block 0
//!   kept back -> fdatasync
//!   -> block 0 -> fdatasync -> mtime -> record archived
//! ```
//!
//! Until block 0 is written the head is the stub, so whoever looks at the raw file, or comes
//! after a kill, sees a pointer. A fill that cannot go on cuts the file back to that stub.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use nix::sys::stat::fstat;
use nix::sys::time::TimeSpec;
use tokio::sync::SemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::order::Order;
use super::privileges::Privileges;
use super::room::{Room, Share};
use super::{FILL_CHUNKS_AT_ONCE, RUN_CHUNKS, Recall, RecallError, is_served};
use crate::failpoint::{CrashPoint, reach};
use crate::file_id::TimeNs;
use crate::inode::{Body, Cold, Inode, Suspect};
use crate::intents::{Intent, Subject};
use crate::record::Record;
use crate::segment::Piece;
use crate::stub::{STUB_BYTES, STUB_LENGTH, Stub, StubHead};
use crate::sys::lease::{Lease, LeaseKind};
use crate::temperature::Second;
use crate::tenant::{Tenant, Ticket};
use crate::tier::State;

/// How often a fill looks whether somebody behind the mount wants the file.
const LEASE_LOOK: Duration = Duration::from_secs(1);

/// The first block, kept back until all else is on disk.
type Head = Box<[u8; STUB_BYTES]>;

pub(super) async fn run(
    recall: &Recall,
    inode: &Arc<Inode>,
    cold: &Arc<Cold>,
    stop: &CancellationToken,
) -> Result<(), RecallError> {
    let _turn = turn(recall, cold, stop).await?;
    let (tenant, on_inode, on_cold) =
        (Arc::clone(&recall.tenant), Arc::clone(inode), Arc::clone(cold));
    let mut held = inode.tier().await;
    // It was asked for outside the lock: the file may be another by now.
    if !is_served(inode, cold) {
        return Err(RecallError::Superseded);
    }
    let room = recall.room.clone();
    let begun = blocking(move || begin(&tenant, &on_inode, &mut held, &on_cold, &room));
    let (begun, mut share) = begun.await?;
    let filled = fill(recall, cold, &begun.lease, &mut share, stop).await;
    let (tenant, on_inode, on_cold) =
        (Arc::clone(&recall.tenant), Arc::clone(inode), Arc::clone(cold));
    let mut held = inode.tier().await;
    blocking(move || {
        held.filling = false;
        end(&tenant, &on_inode, &mut held, &on_cold, begun, filled)
    })
    .await
}

/// Waits until this fill may hold its chunks in memory.
async fn turn<'recall>(
    recall: &'recall Recall,
    cold: &Cold,
    stop: &CancellationToken,
) -> Result<SemaphorePermit<'recall>, RecallError> {
    let chunks = cold.place.entry.chunk_count().clamp(1, FILL_CHUNKS_AT_ONCE);
    let deadline = recall.options.deadline;
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(RecallError::Cancelled),
        () = recall.stop.cancelled() => Err(RecallError::Detaching),
        turn = recall.filling.acquire_many(chunks) => turn.map_err(|_closed| RecallError::Detaching),
        () = tokio::time::sleep(deadline) => {
            let last = "other recalls are before it".to_owned();
            Err(RecallError::Deadline { at: cold.record.at, deadline, last })
        }
    }
}

/// A fill under way.
struct Begun {
    ticket: Ticket,
    lease: Arc<Lease>,
    privileges: Privileges,
}

/// Puts the file on the work list, takes it, and makes room for its bytes.
fn begin(
    tenant: &Tenant,
    inode: &Inode,
    held: &mut Body,
    cold: &Cold,
    room: &Room,
) -> Result<(Begun, Share), RecallError> {
    let mut record = match tenant.record(&*cold.file, inode)? {
        Some(record)
            if record.at == cold.record.at
                && matches!(record.state, State::Released | State::Lost | State::Recalling) =>
        {
            record
        }
        // Another record would say that other bytes are the file's.
        _ => {
            let what = "its record is gone while its stub is open".to_owned();
            return Err(RecallError::Conflict { what });
        }
    };
    if !is_writable(&cold.file)? {
        return Err(RecallError::Unwritable);
    }
    let privileges = Privileges::of(&cold.file)?;
    let share = room.share(&cold.file, cold.place.packing.packed_bytes())?;
    let lease = match Lease::take(Arc::clone(&cold.file), LeaseKind::Write) {
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return Err(RecallError::Busy),
        other => Arc::new(other?),
    };
    let subject = Subject { handle: inode.handle.clone(), path: Vec::new() };
    let intent = Intent::Recall(subject);
    let ticket = tenant.work.begin(&[intent])?;
    reach(CrashPoint::RecallAfterIntent);
    record.state = State::Recalling;
    tenant.set_record(&*cold.file, inode, &record)?;
    reach(CrashPoint::RecallAfterRecord);
    if let Err(error) = cold.file.set_len(cold.place.size_bytes) {
        cut_back(tenant, inode, cold)?;
        return Err(error.into());
    }
    reach(CrashPoint::RecallAfterExtend);
    held.filling = true;
    Ok((Begun { ticket, lease, privileges }, share))
}

fn is_writable(file: &File) -> io::Result<bool> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    Ok(flags & OFlag::O_ACCMODE == OFlag::O_RDWR)
}

/// Ends a fill: the file is whole, or its stub again.
fn end(
    tenant: &Tenant,
    inode: &Inode,
    held: &mut Body,
    cold: &Cold,
    begun: Begun,
    filled: Result<Option<Head>, RecallError>,
) -> Result<(), RecallError> {
    let Begun { ticket, lease, privileges } = begun;
    let mut head_is_written = false;
    let whole = filled.and_then(|head| {
        sync_tail(cold, &lease)?;
        head_is_written = true;
        finish(tenant, inode, held, cold, &lease, head.as_deref())
    });
    let put_back = || {
        if let Err(error) = privileges.restore(&cold.file) {
            tracing::error!(ino = %inode.ino, %error, "a recall lost set-ID bits or capabilities");
        }
    };
    let Err(error) = whole else {
        put_back();
        inode.serve_at_home(held, &cold.file);
        drop(lease);
        drop(ticket);
        return Ok(());
    };
    match undo(tenant, inode, cold, &lease, head_is_written) {
        Ok(()) => {
            put_back();
            drop(ticket);
        }
        Err(second) => {
            // The next start decides, by what is there then.
            ticket.leave();
            tracing::error!(ino = %inode.ino, error = %second, "cannot cut a recall back");
        }
    }
    Err(error)
}

/// Makes the body the stub that it was.
fn undo(
    tenant: &Tenant,
    inode: &Inode,
    cold: &Cold,
    lease: &Lease,
    head_is_written: bool,
) -> io::Result<()> {
    if !lease.keeps_out() {
        return Err(io::Error::other("somebody has it open behind the mount by now"));
    }
    if head_is_written {
        let stub = cold.stub.encode(&tenant.seal).map_err(io::Error::other)?;
        cold.file.write_all_at(&stub, 0)?;
        cold.file.sync_data()?;
    }
    cut_back(tenant, inode, cold)
}

/// Fetches everything and writes it but for block 0, which it returns. It stops between two
/// chunks only: once it has returned, nothing writes to the file any more.
async fn fill(
    recall: &Recall,
    cold: &Arc<Cold>,
    lease: &Arc<Lease>,
    share: &mut Share,
    stop: &CancellationToken,
) -> Result<Option<Head>, RecallError> {
    let chunk_count = cold.place.entry.chunk_count();
    let mut head = None;
    let mut order = Order::new(chunk_count, reader_at(cold));
    let order = std::iter::from_fn(|| order.take(reader_at(cold)));
    let mut chunks = futures::stream::iter(order)
        .map(|number| async move {
            let deadline = recall.options.deadline;
            // A single chunk may come with its neighbours instead.
            if chunk_count > 1 {
                let run_end = number.saturating_add(1).next_multiple_of(RUN_CHUNKS);
                let run = number..run_end.min(chunk_count);
                recall.chunks.fetch_runs(&cold.place, run, deadline);
            }
            (number, recall.chunks.get(&cold.place, number, deadline).await)
        })
        .buffered(FILL_CHUNKS_AT_ONCE as usize);
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(RecallError::Cancelled),
            () = recall.stop.cancelled() => return Err(RecallError::Detaching),
            next = chunks.next() => next,
            () = tokio::time::sleep(LEASE_LOOK) => {
                if lease.is_unbroken() {
                    continue;
                }
                return Err(RecallError::Busy);
            }
        };
        let Some((number, chunk)) = next else { return Ok(head) };
        let chunk = chunk?;
        let (cold, lease) = (Arc::clone(cold), Arc::clone(lease));
        let (kept, length) = (head.take(), chunk.len() as u64);
        head = blocking(move || {
            if !lease.is_unbroken() {
                return Err(RecallError::Busy);
            }
            let head = put_chunk(&cold, number, &chunk, kept)?;
            reach(CrashPoint::RecallAfterChunk);
            Ok(head)
        })
        .await?;
        share.written(length);
    }
}

/// The chunk that a reader of the file will want next; one too far where it wants none any more.
fn reader_at(cold: &Cold) -> u32 {
    let next = cold.progress(|progress| progress.next_offset);
    let (entry, packing) = (&cold.place.entry, &cold.place.packing);
    let packed = packing.packed_range(next..cold.place.size_bytes);
    packed.map_or(entry.chunk_count(), |packed| entry.chunks_of(packed).start)
}

fn put_chunk(
    cold: &Cold,
    number: u32,
    chunk: &Bytes,
    mut head: Option<Head>,
) -> Result<Option<Head>, RecallError> {
    let packed = cold.place.entry.packed_range(number..number + 1);
    for piece in cold.place.packing.data_of(packed.clone()) {
        let Piece::Data { at, packed_offset } = piece else { continue };
        let within = |offset: u64| {
            usize::try_from(offset - packed.start).unwrap_or(usize::MAX).min(chunk.len())
        };
        let mut data = &chunk[within(packed_offset)..within(packed_offset + at.length)];
        let mut offset = at.offset;
        if let Some(room) = (STUB_LENGTH).checked_sub(offset).filter(|room| *room > 0) {
            let head = head.get_or_insert_with(|| Box::new([0; STUB_BYTES]));
            let count = data.len().min(usize::try_from(room).unwrap_or(0));
            let start = STUB_BYTES - usize::try_from(room).unwrap_or(0);
            head[start..start + count].copy_from_slice(&data[..count]);
            data = &data[count..];
            offset += count as u64;
        }
        if !data.is_empty() {
            cold.file.write_all_at(data, offset)?;
        }
    }
    Ok(head)
}

/// Makes all but block 0 durable.
fn sync_tail(cold: &Cold, lease: &Lease) -> Result<(), RecallError> {
    cold.file.sync_data()?;
    reach(CrashPoint::RecallAfterTail);
    if lease.is_unbroken() { Ok(()) } else { Err(RecallError::Busy) }
}

/// Makes the file what it was, durably, block 0 last. Once its record says so it is at home,
/// whatever fails after.
fn finish(
    tenant: &Tenant,
    inode: &Inode,
    held: &mut Body,
    cold: &Cold,
    lease: &Lease,
    head: Option<&[u8; STUB_BYTES]>,
) -> Result<(), RecallError> {
    let file = &cold.file;
    put_head(file, head)?;
    reach(CrashPoint::RecallAfterHead);
    file.sync_data()?;
    reach(CrashPoint::RecallAfterSync);
    let mut record = tenant.record(&**file, inode)?.unwrap_or(cold.record);
    restore_mtime(file, record.mtime)?;
    reach(CrashPoint::RecallAfterTimes);
    // I7: all bytes are on disk.
    record.state = if held.writers > 0 { State::Suspect } else { State::Archived };
    tenant.set_record(&**file, inode, &record)?;
    tenant.heat.came_home(inode.ino, Second::now());
    match note_version(tenant, inode, held, file, lease, record) {
        Ok(()) => {}
        // Whoever writes to it makes its record durable again first.
        Err(error) => tracing::warn!(ino = %inode.ino, %error, "a recall's version is not known"),
    }
    reach(CrashPoint::RecallBeforeClear);
    Ok(())
}

/// Remembers by which ctime the recalled version is known.
fn note_version(
    tenant: &Tenant,
    inode: &Inode,
    held: &mut Body,
    file: &File,
    lease: &Lease,
    record: Record,
) -> io::Result<()> {
    if held.writers > 0 {
        file.sync_all()?;
    }
    let stat = fstat(file)?;
    let Some(ctime) = TimeNs::ctime_of(&stat) else { return Ok(()) };
    if held.writers > 0 {
        let archived = Record { state: State::Archived, ..record };
        held.suspect = Some(Suspect { archived, ctime, proven: lease.is_unbroken() });
    } else if lease.is_unbroken() {
        // Else somebody may have written before the times were put back.
        tenant.known.remember(inode.ino, &inode.handle, ctime);
    }
    Ok(())
}

fn put_head(file: &File, head: Option<&[u8; STUB_BYTES]>) -> io::Result<()> {
    use nix::fcntl::{FallocateFlags, fallocate};
    match head {
        Some(head) => file.write_all_at(head, 0),
        None => {
            let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            match fallocate(file, punch, 0, STUB_LENGTH.cast_signed()) {
                Err(nix::errno::Errno::EOPNOTSUPP) => file.write_all_at(&[0; STUB_BYTES], 0),
                other => Ok(other?),
            }
        }
    }
}

/// recalling -> released: the head is still the stub, the rest goes.
fn cut_back(tenant: &Tenant, inode: &Inode, cold: &Cold) -> io::Result<()> {
    let Some(mut record) = tenant.record(&*cold.file, inode)? else { return Ok(()) };
    if record.state != State::Recalling {
        return Ok(());
    }
    // P6: cut to anything else, the file would read as its own beginning.
    match Stub::parse(&head_of(&cold.file)?, &tenant.seal) {
        StubHead::Sealed(stub) if stub == cold.stub => {}
        _ => return Err(io::Error::other("its head is not its stub; the next open looks at it")),
    }
    cut_to_stub(tenant, inode, &cold.file, &mut record)
}

fn head_of(file: &File) -> io::Result<[u8; STUB_BYTES]> {
    let mut head = [0; STUB_BYTES];
    file.read_exact_at(&mut head, 0)?;
    Ok(head)
}

/// Cuts a file whose head is its stub to that stub, and says so.
pub(crate) fn cut_to_stub(
    tenant: &Tenant,
    inode: &Inode,
    file: &File,
    record: &mut Record,
) -> io::Result<()> {
    reach(CrashPoint::CutBackAfterStub);
    file.set_len(STUB_LENGTH)?;
    reach(CrashPoint::CutBackAfterCut);
    restore_mtime(file, record.mtime)?;
    record.state = State::Released;
    tenant.set_record(file, inode, record)
}

/// Gives a body its modification time back.
pub(crate) fn restore_mtime(file: &File, mtime: TimeNs) -> io::Result<()> {
    let (seconds, nanoseconds) = mtime.parts();
    let mtime = TimeSpec::new(seconds, nanoseconds);
    Ok(nix::sys::stat::futimens(file, &TimeSpec::UTIME_OMIT, &mtime)?)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RecallError> + Send + 'static,
) -> Result<T, RecallError> {
    tokio::task::spawn_blocking(work).await.map_err(|_panic| RecallError::Detaching)?
}
