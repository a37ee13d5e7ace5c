//! Reading and writing through the daemon. Passthrough files only come here for what the
//! kernel does not pass through: fsync, lseek, fallocate, copy_file_range.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use super::handle::OpenFile;
use super::open::blocking;
use super::open_wait::{CloseUnused, stop_fill};
use super::patience::Patience;
use super::{Answer, Caller, Errno, Fh, Ops};
use crate::failpoint::{CrashPoint, reach};
use crate::guard::{Visit, Why};
use crate::inode::{Cold, Inode, Serving, TierGuard};
use crate::recall::{Recall, RecallError};
use crate::recover::{Finding, Ordered, find, put_in_order};
use crate::sys;
use crate::sys::cred::WithoutFsetid;

impl Ops {
    /// Reads up to `size` bytes at `offset`; fewer only at the end of the file.
    pub fn read(&self, fh: Fh, offset: u64, size: u32) -> Answer<Bytes> {
        let open = match self.open_file(fh) {
            Ok(open) => open,
            Err(error) => return Answer::Now(Err(error)),
        };
        match open.inode.serving() {
            Serving::Passthrough { file, .. } | Serving::Local { file } => {
                Answer::Now(read_local(&file, offset, size).map_err(Errno::from))
            }
            Serving::Cold(cold) => {
                // Whoever had it fetched has paid for all of it.
                if let Some(read) = Recall::read_held(&cold, offset, size) {
                    return Answer::Now(Ok(read));
                }
                let recall = Arc::clone(&self.recall);
                Answer::later(async move {
                    let Some(visit) = &open.visit else {
                        return Ok(recall.read(&open.inode, &cold, offset, size, true).await?);
                    };
                    let wanted = offset..offset.saturating_add(size.into());
                    if let Some(remote) = cold.place.packing.packed_range(wanted) {
                        let paid = visit.pay(remote.end - remote.start).await;
                        paid.map_err(|denied| Errno::at_read(&denied))?;
                    }
                    let stayed = !cold.comes_home();
                    let read = recall.read(&open.inode, &cold, offset, size, visit.keeps());
                    let read = visit.waiting(read).await;
                    if stayed && cold.comes_home() {
                        visit.owe_the_rest();
                    }
                    let read = read.map_err(|denied| Errno::at_read(&denied))?;
                    if let Err(error) = &read {
                        visit.failed(error);
                    }
                    Ok(read?)
                })
            }
            Serving::Closed => Answer::Now(Err(Errno(libc::EBADF))),
        }
    }

    /// Writes at `offset`; all of it.
    pub fn write(
        self: &Arc<Self>,
        caller: Caller,
        fh: Fh,
        offset: u64,
        data: &[u8],
    ) -> Answer<u32> {
        let written = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let open = match self.open_file(fh) {
            Ok(open) if open.writable => open,
            Ok(_) => return Answer::Now(Err(Errno(libc::EBADF))),
            Err(error) => return Answer::Now(Err(error)),
        };
        match open.inode.serving() {
            Serving::Passthrough { file, .. } | Serving::Local { file } => {
                Answer::Now(write_local(caller, &file, offset, data).map(|()| written))
            }
            Serving::Cold(_) => {
                let data = Bytes::copy_from_slice(data);
                let ops = Arc::clone(self);
                Answer::later(async move {
                    let file = ops.bring_home(&open).await?;
                    blocking(move || write_local(caller, &file, offset, &data)).await?;
                    Ok(written)
                })
            }
            Serving::Closed => Answer::Now(Err(Errno(libc::EBADF))),
        }
    }

    /// Makes a file's data (and, unless `data_only`, its attributes) durable.
    pub fn fsync(self: &Arc<Self>, fh: Fh, data_only: bool) -> Answer<()> {
        let file = match self.open_file(fh).map(|open| open.inode.serving()) {
            // No byte of it was written here, and its fill is durable before it counts.
            Ok(Serving::Cold(_)) if data_only => return Answer::Now(Ok(())),
            Ok(serving) => serving.file().ok_or(Errno(libc::EBADF)),
            Err(error) => Err(error),
        };
        match file {
            Ok(file) => Answer::later(blocking(move || {
                Ok(if data_only { file.sync_data() } else { file.sync_all() }?)
            })),
            Err(error) => Answer::Now(Err(error)),
        }
    }

    /// `lseek(2)` with SEEK_DATA or SEEK_HOLE.
    pub fn lseek(&self, fh: Fh, offset: i64, whence: i32) -> Result<i64, Errno> {
        let open = self.open_file(fh)?;
        match open.inode.serving() {
            Serving::Passthrough { file, .. } | Serving::Local { file } => {
                // The position of the shared descriptor is nobody's: all I/O is by offset.
                Ok(sys::extent::lseek(&*file, offset, whence)?)
            }
            Serving::Cold(cold) => {
                let at = u64::try_from(offset).map_err(|_negative| Errno(libc::ENXIO))?;
                let found = cold.place.seek(at, whence == libc::SEEK_DATA);
                let found = found.ok_or(Errno(libc::ENXIO))?;
                i64::try_from(found).map_err(|_far| Errno(libc::EOVERFLOW))
            }
            Serving::Closed => Err(Errno(libc::EBADF)),
        }
    }

    /// `fallocate(2)`.
    pub fn fallocate(
        self: &Arc<Self>,
        caller: Caller,
        fh: Fh,
        mode: i32,
        offset: u64,
        length: u64,
    ) -> Answer<()> {
        let open = match self.open_file(fh) {
            Ok(open) => open,
            Err(error) => return Answer::Now(Err(error)),
        };
        match open.inode.serving() {
            Serving::Passthrough { file, .. } | Serving::Local { file } => {
                Answer::Now(fallocate_local(caller, &file, mode, offset, length))
            }
            Serving::Cold(_) => {
                let ops = Arc::clone(self);
                Answer::later(async move {
                    let file = ops.bring_home(&open).await?;
                    blocking(move || fallocate_local(caller, &file, mode, offset, length)).await
                })
            }
            Serving::Closed => Answer::Now(Err(Errno(libc::EBADF))),
        }
    }

    /// `copy_file_range(2)` between local files; the kernel copies what is cold by itself.
    pub fn copy_file_range(&self, from: (Fh, u64), to: (Fh, u64), length: u64) -> Answer<u32> {
        let local = |fh| match self.open_file(fh)?.inode.serving() {
            Serving::Passthrough { file, .. } | Serving::Local { file } => Ok(file),
            Serving::Cold(_) => Err(Errno(libc::EOPNOTSUPP)),
            Serving::Closed => Err(Errno(libc::EBADF)),
        };
        match (local(from.0), local(to.0)) {
            (Ok(source), Ok(target)) => Answer::later(blocking(move || {
                // FUSE carries the count in 32 bits, and the caller asks again for the rest.
                let length = usize::try_from(length.min(1 << 30)).unwrap_or(1 << 30);
                let copied = sys::copy_file_range((&*source, from.1), (&*target, to.1), length)?;
                u32::try_from(copied).map_err(|_large| Errno(libc::EIO))
            })),
            (Err(error), _) | (_, Err(error)) => Answer::Now(Err(error)),
        }
    }

    /// Changes a file's size.
    pub(super) fn truncate(
        self: &Arc<Self>,
        caller: Caller,
        inode: &Arc<Inode>,
        size: u64,
    ) -> Answer<()> {
        if !inode.is_regular {
            return Answer::Now(Err(Errno(libc::EISDIR)));
        }
        let open = match inode.serving() {
            Serving::Passthrough { file, .. } | Serving::Local { file } => Some(file),
            Serving::Closed | Serving::Cold(_) => None,
        };
        if let (Some(file), Some(mut held)) = (open, inode.try_tier()) {
            if let Some(lease) = held.archiving.take() {
                lease.give_up();
            }
            match self.tenant.has_record(&file) {
                Ok(false) => return Answer::Now(set_size(caller, &file, size)),
                // A suspect record is settled at the last close.
                Ok(true) if held.suspect.is_some() => {
                    return Answer::Now(set_size(caller, &file, size));
                }
                Ok(true) => {}
                Err(error) => return Answer::Now(Err(error.into())),
            }
        }
        let (ops, inode) = (Arc::clone(self), Arc::clone(inode));
        Answer::later(async move { ops.truncate_later(caller, inode, size).await })
    }

    async fn truncate_later(
        self: Arc<Self>,
        caller: Caller,
        inode: Arc<Inode>,
        size: u64,
    ) -> Result<(), Errno> {
        let (mut held, file) = self.at_home(caller, &inode, size != 0).await?;
        blocking(move || {
            set_size(caller, &file, size)?;
            if matches!(inode.serving(), Serving::Cold(_)) {
                inode.serve_at_home(&mut held, &file);
            }
            if self.tenant.has_record(&file)? {
                self.tenant.drop_record(&file, &inode)?;
                reach(CrashPoint::TruncateAfterRecord);
                file.sync_all()?;
            }
            Ok(())
        })
        .await
    }

    /// The body of a file under its tier lock; whole, if its bytes are `wanted`.
    pub(super) async fn at_home(
        self: &Arc<Self>,
        caller: Caller,
        inode: &Arc<Inode>,
        wanted: bool,
    ) -> Result<(TierGuard, Arc<File>), Errno> {
        // Refused, or killed while it waits: the stub does not stay open.
        let _unused = CloseUnused::of(self, inode);
        let mut patience = Patience::new();
        loop {
            let mut held = inode.tier().await;
            if let Some(lease) = held.archiving.take() {
                lease.give_up();
            }
            match inode.serving() {
                Serving::Passthrough { file, .. } | Serving::Local { file } => {
                    return Ok((held, file));
                }
                Serving::Cold(cold) if !wanted && held.filling => {
                    drop(held);
                    stop_fill(&cold).await;
                }
                Serving::Cold(cold) if !wanted => return Ok((held, Arc::clone(&cold.file))),
                Serving::Cold(cold) => {
                    drop(held);
                    let bytes = cold.place.packing.packed_bytes();
                    let visit = self.visit(caller, inode, &cold, Why::Write, bytes);
                    visit.admit().await.map_err(|denied| Errno::at_open(&denied))?;
                    self.whole_for_change(inode, &cold, Some(&visit)).await?;
                }
                Serving::Closed => {
                    let file = match self.inodes.open(inode, libc::O_RDWR | libc::O_NONBLOCK) {
                        Err(error)
                            if error.raw_os_error() == Some(libc::EAGAIN)
                                && !patience.is_over() =>
                        {
                            drop(held);
                            patience.wait().await;
                            continue;
                        }
                        other => Arc::new(other?),
                    };
                    match find(&self.tenant, inode, &file)? {
                        Finding::Local => return Ok((held, file)),
                        Finding::InFlight | Finding::Remote { .. } if !wanted => {
                            return Ok((held, file));
                        }
                        Finding::InFlight => {
                            let patience = self.recall.options().deadline;
                            match put_in_order(&self.tenant, inode, &file, patience).await? {
                                Ordered::Done => {}
                                Ordered::Unrecorded => return Ok((held, file)),
                                Ordered::Waits(error) => return Err(error.into()),
                            }
                        }
                        Finding::Remote { record, stub } => {
                            let cold = self.recall.cold(record, stub, file)?;
                            inode.serve(&mut held, Serving::Cold(cold));
                        }
                        Finding::Refused(error) => return Err(error.into()),
                    }
                }
            }
        }
    }

    /// Recalls an open cold file whole and lets writers at it.
    async fn bring_home(&self, open: &OpenFile) -> Result<Arc<File>, Errno> {
        let (inode, visit) = (&open.inode, open.visit.as_deref());
        loop {
            match inode.serving() {
                Serving::Cold(cold) => {
                    if let Some(visit) = visit {
                        let paid = visit.pay(cold.place.packing.packed_bytes()).await;
                        paid.map_err(|denied| Errno::at_read(&denied))?;
                    }
                    self.whole_for_change(inode, &cold, visit).await?;
                }
                Serving::Passthrough { file, .. } | Serving::Local { file } => return Ok(file),
                Serving::Closed => return Err(Errno(libc::EBADF)),
            }
        }
    }

    /// The whole file, for a change to it: whoever has its stub open behind the mount goes soon,
    /// and a change cannot be served by chunks.
    async fn whole_for_change(
        &self,
        inode: &Arc<Inode>,
        cold: &Arc<Cold>,
        visit: Option<&Visit>,
    ) -> Result<(), Errno> {
        let mut patience = Patience::new();
        loop {
            let whole = self.recall.whole(inode, cold);
            let whole = match visit {
                Some(visit) => visit.waiting(whole).await,
                None => Ok(whole.await),
            };
            match whole.map_err(|denied| Errno::at_read(&denied))? {
                Err(RecallError::Busy) if !patience.is_over() => {
                    patience.wait().await;
                }
                other => return Ok(other?),
            }
        }
    }
}

/// Reads until the buffer is full or the file ends.
pub(super) fn read_local(file: &File, offset: u64, size: u32) -> io::Result<Bytes> {
    let mut buffer = vec![0; usize::try_from(size).unwrap_or(0)];
    let filled = sys::read_up_to(file, &mut buffer, offset)?;
    buffer.truncate(filled);
    Ok(buffer.into())
}

fn write_local(caller: Caller, file: &File, offset: u64, data: &[u8]) -> Result<(), Errno> {
    let _as_caller = (caller.uid != 0).then(WithoutFsetid::enter).transpose()?;
    Ok(file.write_all_at(data, offset)?)
}

fn fallocate_local(
    caller: Caller,
    file: &File,
    mode: i32,
    offset: u64,
    length: u64,
) -> Result<(), Errno> {
    let _as_caller = (caller.uid != 0).then(WithoutFsetid::enter).transpose()?;
    let offset = i64::try_from(offset).map_err(|_far| Errno(libc::EFBIG))?;
    let length = i64::try_from(length).map_err(|_far| Errno(libc::EFBIG))?;
    let mode = nix::fcntl::FallocateFlags::from_bits(mode).ok_or(Errno(libc::EOPNOTSUPP))?;
    Ok(nix::fcntl::fallocate(file, mode, offset, length)?)
}

/// Truncates as the caller: set-ID bits go where it is not root.
pub(super) fn set_size(caller: Caller, file: &File, size: u64) -> Result<(), Errno> {
    let _as_caller = (caller.uid != 0).then(WithoutFsetid::enter).transpose()?;
    Ok(file.set_len(size)?)
}
