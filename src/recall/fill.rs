//! Filling a stub in place.
//!
//! ```text
//! work list -> record recalling -> lease, extend -> chunks, block 0 kept back -> fdatasync
//!   -> block 0 -> fdatasync -> mtime -> record archived
//! ```
//!
//! Until block 0 is written the head is the stub, so whoever looks at the raw file, or comes
//! after a kill, sees a pointer. A fill that cannot go on cuts the file back to that stub.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use nix::sys::stat::fstat;
use nix::sys::time::TimeSpec;
use tokio_util::sync::CancellationToken;

use super::privileges::Privileges;
use super::room::Share;
use super::{FILL_CHUNKS_AT_ONCE, Recall, RecallError};
use crate::failpoint::{CrashPoint, reach};
use crate::file_id::TimeNs;
use crate::inode::{Body, Cold, Inode, Serving, Suspect};
use crate::intents::{Intent, Subject};
use crate::record::Record;
use crate::segment::Piece;
use crate::stub::{STUB_BYTES, STUB_LENGTH, Stub, StubHead};
use crate::sys::lease::{Lease, LeaseKind};
use crate::tenant::{Tenant, Ticket};
use crate::tier::State;

/// The first block, kept back until all else is on disk.
type Head = Box<[u8; STUB_BYTES]>;

pub(super) async fn run(
    recall: &Recall,
    inode: &Arc<Inode>,
    cold: &Arc<Cold>,
    stop: &CancellationToken,
) -> Result<(), RecallError> {
    let (tenant, on_inode, on_cold) =
        (Arc::clone(&recall.tenant), Arc::clone(inode), Arc::clone(cold));
    let room = recall.room.clone();
    let held = inode.tier().await;
    let (privileges, mut share, (ticket, lease)) = blocking(move || {
        let _held = held;
        let privileges = Privileges::of(&on_cold.file)?;
        let share = room.share(&on_cold.file, on_cold.place.packing.packed_bytes())?;
        Ok((privileges, share, begin(&tenant, &on_inode, &on_cold)?))
    })
    .await?;
    let filled = fill(recall, cold, &lease, &mut share, stop).await;
    let (tenant, on_inode, on_cold) =
        (Arc::clone(&recall.tenant), Arc::clone(inode), Arc::clone(cold));
    let mut held = inode.tier().await;
    blocking(move || {
        let finished = match &filled {
            Ok(head) => finish(&tenant, &on_inode, &mut held, &on_cold, &lease, head),
            Err(error) => Err(error.clone()),
        };
        let put_back = || {
            if let Err(error) = privileges.restore(&on_cold.file) {
                tracing::error!(ino = %on_inode.ino, %error, "a recall lost set-ID bits or capabilities");
            }
        };
        match finished {
            Ok(()) => {
                put_back();
                let serving = if held.opens == 0 {
                    Serving::Closed
                } else {
                    Serving::Local { file: Arc::clone(&on_cold.file) }
                };
                on_inode.serve(&mut held, serving);
                drop(lease);
                drop(ticket);
                Ok(())
            }
            Err(error) => match undo(&tenant, &on_inode, &on_cold, &lease, filled) {
                Ok(()) => {
                    put_back();
                    drop(ticket);
                    Err(error)
                }
                Err(second) => {
                    ticket.leave();
                    tracing::error!(ino = %on_inode.ino, error = %second, "cannot cut a recall back");
                    Err(error)
                }
            },
        }
    })
    .await
}

/// Puts the file on the work list, takes it, and makes it as long as it was.
fn begin(tenant: &Tenant, inode: &Inode, cold: &Cold) -> Result<(Ticket, Arc<Lease>), RecallError> {
    if !is_writable(&cold.file)? {
        return Err(RecallError::Unwritable);
    }
    let lease = match Lease::take(Arc::clone(&cold.file), LeaseKind::Write) {
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return Err(RecallError::Busy),
        other => Arc::new(other?),
    };
    let subject = Subject { handle: inode.handle.clone(), path: Vec::new() };
    let intent = Intent::Recall(subject);
    let ticket = tenant.work.begin(&[intent])?;
    reach(CrashPoint::RecallAfterIntent);
    let mut record = tenant.record(&*cold.file, inode)?.unwrap_or(cold.record);
    record.state = State::Recalling;
    tenant.set_record(&*cold.file, inode, &record)?;
    reach(CrashPoint::RecallAfterRecord);
    if let Err(error) = cold.file.set_len(cold.place.size_bytes) {
        cut_back(tenant, inode, cold)?;
        return Err(error.into());
    }
    reach(CrashPoint::RecallAfterExtend);
    Ok((ticket, lease))
}

fn is_writable(file: &File) -> io::Result<bool> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    Ok(flags & OFlag::O_ACCMODE == OFlag::O_RDWR)
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
    let entry = &cold.place.entry;
    let mut head = None;
    let mut chunks = futures::stream::iter(0..entry.chunk_count())
        .map(|number| async move {
            let deadline = recall.options.deadline;
            (number, recall.chunks.get(&cold.place, number, deadline).await)
        })
        .buffered(FILL_CHUNKS_AT_ONCE);
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(RecallError::Cancelled),
            () = recall.stop.cancelled() => return Err(RecallError::Detaching),
            next = chunks.next() => next,
        };
        let Some((number, chunk)) = next else { return Ok(head) };
        let chunk = chunk?;
        let (cold, lease) = (Arc::clone(cold), Arc::clone(lease));
        let kept = head.take();
        let length = chunk.len() as u64;
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

/// Makes the file what it was, durably, block 0 last.
fn finish(
    tenant: &Tenant,
    inode: &Inode,
    held: &mut Body,
    cold: &Cold,
    lease: &Lease,
    head: &Option<Head>,
) -> Result<(), RecallError> {
    let file = &cold.file;
    file.sync_data()?;
    reach(CrashPoint::RecallAfterTail);
    if !lease.is_unbroken() {
        return Err(RecallError::Busy);
    }
    put_head(file, head.as_deref())?;
    reach(CrashPoint::RecallAfterHead);
    file.sync_data()?;
    reach(CrashPoint::RecallAfterSync);
    let mut record = tenant.record(&**file, inode)?.unwrap_or(cold.record);
    restore_mtime(file, record.mtime)?;
    reach(CrashPoint::RecallAfterTimes);
    // I7: all bytes are on disk.
    record.state = if held.writers > 0 { State::Suspect } else { State::Archived };
    tenant.set_record(&**file, inode, &record)?;
    if held.writers > 0 {
        file.sync_all()?;
    }
    let stat = fstat(&**file).map_err(io::Error::from)?;
    if let Some(ctime) = TimeNs::from_parts(stat.st_ctime, stat.st_ctime_nsec) {
        if held.writers > 0 {
            let archived = Record { state: State::Archived, ..record };
            held.suspect = Some(Suspect { archived, ctime });
        } else {
            tenant.known.remember(inode.ino, &inode.handle, ctime);
        }
    }
    reach(CrashPoint::RecallBeforeClear);
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

/// Takes a recall back that could not be finished, also where its block 0 is written already.
fn undo(
    tenant: &Tenant,
    inode: &Inode,
    cold: &Cold,
    lease: &Lease,
    filled: Result<Option<Head>, RecallError>,
) -> io::Result<()> {
    if let Ok(Some(head)) = filled
        && lease.is_unbroken()
        && head_of(&cold.file)? == *head
    {
        let stub = cold.stub.encode(&tenant.seal).map_err(io::Error::other)?;
        cold.file.write_all_at(&stub, 0)?;
        cold.file.sync_data()?;
    }
    cut_back(tenant, inode, cold)
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

/// Closes a file that was only opened to be filled.
pub(super) async fn close_if_unused(inode: &Arc<Inode>) {
    let mut held = inode.tier().await;
    if held.opens == 0 && matches!(inode.serving(), Serving::Cold(cold) if cold.is_idle()) {
        inode.serve(&mut held, Serving::Closed);
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RecallError> + Send + 'static,
) -> Result<T, RecallError> {
    tokio::task::spawn_blocking(work).await.map_err(|_panic| RecallError::Detaching)?
}
