//! Filling one stub in place: what is done to its body, step by step.
//!
//! Until block 0 is written the head is the stub, so whoever looks at the raw file, or comes
//! after a kill, sees a pointer. A fill that cannot go on cuts the file back to that stub.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use nix::sys::stat::fstat;
use nix::sys::time::TimeSpec;

use super::RecallError;
use super::privileges::Privileges;
use super::room::{Room, Share};
use crate::failpoint::{CrashPoint, reach};
use crate::file_id::TimeNs;
use crate::inode::{Body, Cold, Inode, Suspect};
use crate::intents::{Intent, Subject};
use crate::record::Record;
use crate::segment::Piece;
use crate::stub::{STUB_BYTES, STUB_LENGTH, Stub, StubHead};
use crate::sys;
use crate::sys::lease::{Lease, LeaseKind};
use crate::temperature::Second;
use crate::tenant::Tenant;
use crate::tier::State;

/// The first block, kept back until all else is on disk.
pub(super) type Head = Box<[u8; STUB_BYTES]>;

/// What the work list says of a file that is about to be filled.
pub(super) fn intent(inode: &Inode) -> Intent {
    Intent::Recall(Subject { handle: inode.handle.clone(), path: Vec::new() })
}

/// A body that is being filled, under its lease.
#[derive(Debug)]
pub(super) struct Filling {
    inode: Arc<Inode>,
    cold: Arc<Cold>,
    /// As it was when the file was taken.
    record: Record,
    lease: Arc<Lease>,
    privileges: Privileges,
    head_is_written: bool,
}

impl Filling {
    /// Takes the file, and makes room for its bytes. Nothing of it is changed yet.
    pub(super) fn take(
        tenant: &Tenant,
        inode: &Arc<Inode>,
        cold: &Arc<Cold>,
        room: &Room,
    ) -> Result<(Self, Share), RecallError> {
        let record = recorded(tenant, inode, cold)?;
        if !is_writable(&cold.file)? {
            return Err(RecallError::Unwritable);
        }
        let privileges = Privileges::of(&cold.file)?;
        let share = room.share(&cold.file, cold.place.packing.packed_bytes())?;
        let lease = match Lease::take(Arc::clone(&cold.file), LeaseKind::Write) {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                return Err(RecallError::Busy);
            }
            other => Arc::new(other?),
        };
        check_stub(tenant, inode, cold, &record)?;
        let (inode, cold) = (Arc::clone(inode), Arc::clone(cold));
        Ok((Self { inode, cold, record, lease, privileges, head_is_written: false }, share))
    }

    /// released -> recalling, and the file has its size again. It is on the work list, and its tier
    /// lock was held since it was taken.
    pub(super) fn begin(&self, tenant: &Tenant, held: &mut Body) -> Result<(), RecallError> {
        let Self { inode, cold, record, .. } = self;
        let recalling = Record { state: State::Recalling, ..*record };
        tenant.set_record(&*cold.file, inode, &recalling)?;
        reach(CrashPoint::RecallAfterRecord);
        if let Err(error) = cold.file.set_len(cold.place.size_bytes) {
            cut_back(tenant, inode, cold)?;
            return Err(error.into());
        }
        reach(CrashPoint::RecallAfterExtend);
        held.filling = true;
        Ok(())
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.cold.file
    }

    pub(super) fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// An error where somebody behind the mount wants the file.
    pub(super) fn check_lease(&self) -> Result<(), RecallError> {
        if self.lease.is_unbroken() { Ok(()) } else { Err(RecallError::Busy) }
    }

    /// All but block 0 is on disk: now block 0.
    pub(super) fn put_head(&mut self, head: Option<&[u8; STUB_BYTES]>) -> Result<(), RecallError> {
        self.check_lease()?;
        self.head_is_written = true;
        write_head(&self.cold.file, head)?;
        reach(CrashPoint::RecallAfterHead);
        Ok(())
    }

    /// All of it is on disk: makes the file what it was. Once its record says so it is at home,
    /// whatever fails after.
    pub(super) fn finish(&self, tenant: &Tenant, held: &mut Body) -> Result<(), RecallError> {
        let Self { inode, cold, lease, .. } = self;
        let file = &cold.file;
        held.filling = false;
        let mut record = tenant.record(&**file, inode)?.unwrap_or(cold.record);
        used_now(file, record.mtime)?;
        reach(CrashPoint::RecallAfterTimes);
        // I7: all bytes are on disk.
        record.state = if held.writers > 0 { State::Suspect } else { State::Archived };
        tenant.set_record(&**file, inode, &record)?;
        tenant.heat.came_home(inode.ino, Second::now());
        match note_version(tenant, inode, held, file, lease, record) {
            Ok(()) => {}
            // Whoever writes to it makes its record durable again first.
            Err(error) => {
                tracing::warn!(ino = %inode.ino, %error, "a recall's version is not known");
            }
        }
        reach(CrashPoint::RecallBeforeClear);
        self.put_back_privileges(&record);
        inode.serve_at_home(held, file);
        Ok(())
    }

    /// Makes the body the stub that it was. False: it could not; the next start decides, by what
    /// is there then.
    #[must_use = "what is not undone stays on the work list"]
    pub(super) fn undo(&self, tenant: &Tenant, held: &mut Body) -> bool {
        held.filling = false;
        let undone = self.try_undo(tenant);
        match &undone {
            Ok(record) => self.put_back_privileges(record),
            Err(error) => {
                tracing::error!(ino = %self.inode.ino, %error, "cannot cut a recall back");
            }
        }
        undone.is_ok()
    }

    /// The record of the stub.
    fn try_undo(&self, tenant: &Tenant) -> io::Result<Record> {
        if !self.lease.keeps_out() {
            return Err(io::Error::other("somebody has it open behind the mount by now"));
        }
        let cold = &self.cold;
        if self.head_is_written {
            let stub = cold.stub.encode(&tenant.seal).map_err(io::Error::other)?;
            cold.file.write_all_at(&stub, 0)?;
            cold.file.sync_data()?;
        }
        cut_back(tenant, &self.inode, cold)?;
        Ok(tenant.record(&*cold.file, &self.inode)?.unwrap_or(self.record))
    }

    /// Gives back what writing took away. What somebody changed meanwhile stays as it was changed: a
    /// set-ID bit that was taken off does not come back.
    fn put_back_privileges(&self, now: &Record) {
        if now.ctime_shown != self.record.ctime_shown {
            return;
        }
        if let Err(error) = self.privileges.restore(&self.cold.file) {
            let ino = self.inode.ino;
            tracing::error!(%ino, %error, "a recall lost set-ID bits or capabilities");
        }
    }
}

/// The record of a file that may be filled: of the very version that its stub stands for.
fn recorded(tenant: &Tenant, inode: &Inode, cold: &Cold) -> Result<Record, RecallError> {
    match tenant.record(&*cold.file, inode)? {
        Some(record)
            if record.at == cold.record.at
                && matches!(record.state, State::Released | State::Lost | State::Recalling) =>
        {
            Ok(record)
        }
        // Another record would say that other bytes are the file's.
        _ => {
            let what = "its record is gone while its stub is open".to_owned();
            Err(RecallError::Conflict { what })
        }
    }
}

/// An error where the body is not the stub any more that it was opened as: whoever wrote to it behind
/// the mount since wrote bytes that are nowhere else (I10). Asked under the lease: nobody can now.
fn check_stub(
    tenant: &Tenant,
    inode: &Inode,
    cold: &Cold,
    record: &Record,
) -> Result<(), RecallError> {
    let stat = fstat(&*cold.file).map_err(io::Error::from)?;
    let size_bytes = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    // One that could not be cut back is filled again, over its stub.
    let is_begun = record.state == State::Recalling && size_bytes == cold.place.size_bytes;
    if (is_begun || size_bytes == STUB_LENGTH) && has_its_stub(tenant, cold)? {
        return Ok(());
    }
    let what = "somebody wrote to its stub behind the mount while it was open here";
    tenant.note_conflict(inode, &cold.file, Some(record), what);
    Err(RecallError::Conflict { what: what.to_owned() })
}

fn has_its_stub(tenant: &Tenant, cold: &Cold) -> io::Result<bool> {
    let mut head = [0; STUB_BYTES];
    let filled = sys::read_up_to(&cold.file, &mut head, 0)?;
    let found = Stub::parse(&head[..filled], &tenant.seal);
    Ok(matches!(found, StubHead::Sealed(stub) if stub == cold.stub))
}

fn is_writable(file: &File) -> io::Result<bool> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    Ok(flags & OFlag::O_ACCMODE == OFlag::O_RDWR)
}

/// Writes a chunk where it belongs, but for what of it is of block 0: that is added to `head`.
pub(super) fn put_chunk(
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

fn write_head(file: &File, head: Option<&[u8; STUB_BYTES]>) -> io::Result<()> {
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
    if !has_its_stub(tenant, cold)? {
        return Err(io::Error::other("its head is not its stub; the next open looks at it"));
    }
    cut_to_stub(tenant, inode, &cold.file, &mut record)
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

/// Gives a body its modification time back. It came home because somebody read it, which moved no
/// access time: this is that access, P9's proof where there is no probe.
fn used_now(file: &File, mtime: TimeNs) -> io::Result<()> {
    let (seconds, nanoseconds) = mtime.parts();
    let mtime = TimeSpec::new(seconds, nanoseconds);
    Ok(nix::sys::stat::futimens(file, &TimeSpec::UTIME_NOW, &mtime)?)
}

/// Gives a body its modification time back.
pub(crate) fn restore_mtime(file: &File, mtime: TimeNs) -> io::Result<()> {
    let (seconds, nanoseconds) = mtime.parts();
    let mtime = TimeSpec::new(seconds, nanoseconds);
    Ok(nix::sys::stat::futimens(file, &TimeSpec::UTIME_OMIT, &mtime)?)
}
