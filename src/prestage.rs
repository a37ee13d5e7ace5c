//! Recalling files because a person asked, not because somebody reads them.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::stat::fstat;

use crate::failpoint::{CrashPoint, reach};
use crate::inode::{Cold, Inode, Inodes, Serving};
use crate::recall::{Recall, RecallError};
use crate::record::Record;
use crate::recover::{Finding, Ordered, find, put_in_order};
use crate::store::governor::{Class, ranked};
use crate::stub::STUB_LENGTH;
use crate::tenant::Tenant;

/// Whoever was answered about a file a moment ago may still have to close it: so often, so long
/// after each other, a recall looks whether they have.
const CLOSING_LOOKS: u32 = 20;
const CLOSING_LOOK: Duration = Duration::from_millis(10);

/// What became of a file that was to be recalled.
#[derive(Debug)]
pub enum Recalled {
    /// It came home; so many bytes.
    Done(u64),
    /// Its bytes were here already.
    Already,
}

/// Recalls a whole file, whoever else has it open.
pub async fn recall_file(
    tenant: &Arc<Tenant>,
    inodes: &Inodes,
    recall: &Arc<Recall>,
    inode: &Arc<Inode>,
) -> Result<Recalled, RecallError> {
    if !inode.is_regular {
        return Ok(Recalled::Already);
    }
    let mut came = None;
    let mut looks = 0..CLOSING_LOOKS;
    while let Some(cold) = cold(tenant, inodes, recall, inode).await? {
        came = Some(cold.place.size_bytes);
        match ranked(Class::Bulk, recall.whole(inode, &cold)).await {
            Ok(()) if cold.is_home() => break,
            Ok(()) => {}
            Err(RecallError::Busy) if looks.next().is_some() => {
                drop(cold);
                tokio::time::sleep(CLOSING_LOOK).await;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(came.map_or(Recalled::Already, Recalled::Done))
}

/// Where a file's bytes are in the store, for whoever orders files by it. None: they are here, or
/// nobody can say.
pub fn remote_copy(tenant: &Tenant, inodes: &Inodes, inode: &Inode) -> Option<Record> {
    tenant.record(inodes.path_fd(inode).ok()?, inode).ok().flatten()
}

/// Makes a plain file of one that is at home and has a copy in the store, which it forgets:
/// durable after the next barrier. The file; none: it was a plain file.
pub async fn forget_copy(
    tenant: &Arc<Tenant>,
    inodes: &Inodes,
    inode: &Arc<Inode>,
) -> Result<Option<File>, RecallError> {
    let mut held = inode.tier().await;
    if matches!(inode.serving(), Serving::Cold(_)) {
        return Err(RecallError::Busy);
    }
    if !inode.is_regular || !tenant.has_record(inodes.path_fd(inode)?)? {
        return Ok(None);
    }
    if let Some(lease) = held.archiving.take() {
        lease.give_up();
    }
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOATIME;
    let file = match inodes.open(inode, flags) {
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return Err(RecallError::Busy),
        other => other?,
    };
    match find(tenant, inode, &file)? {
        Finding::Local => {}
        Finding::Refused(error) => return Err(error),
        // It went again since it was recalled.
        Finding::Remote { .. } | Finding::InFlight => return Err(RecallError::Busy),
    }
    held.suspect = None;
    tenant.drop_record(&file, inode)?;
    reach(CrashPoint::DrainAfterRecord);
    Ok(Some(file))
}

/// The file as it is served while its bytes are remote; none: they are here.
async fn cold(
    tenant: &Arc<Tenant>,
    inodes: &Inodes,
    recall: &Arc<Recall>,
    inode: &Arc<Inode>,
) -> Result<Option<Arc<Cold>>, RecallError> {
    let mut held = inode.tier().await;
    match inode.serving() {
        Serving::Cold(cold) => return Ok(Some(cold)),
        Serving::Passthrough { .. } | Serving::Local { .. } => return Ok(None),
        Serving::Closed => {}
    }
    // Most files of a tree are at home: those are not even opened.
    let fd = inodes.path_fd(inode)?;
    let stat = fstat(&fd).map_err(std::io::Error::from)?;
    let of_a_stub = stat.st_size == STUB_LENGTH.cast_signed();
    if !of_a_stub && !tenant.has_record(fd)? {
        return Ok(None);
    }
    let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_NOATIME;
    let file = match inodes.open(inode, flags) {
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return Err(RecallError::Busy),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => {
            return Err(RecallError::Unwritable);
        }
        other => Arc::new(other?),
    };
    match ordered(tenant, recall, inode, &file).await? {
        Finding::Local => Ok(None),
        Finding::Refused(error) => Err(error),
        Finding::InFlight => Err(RecallError::Busy),
        Finding::Remote { record, stub } => {
            let cold = recall.cold(record, stub, file)?;
            inode.serve(&mut held, Serving::Cold(Arc::clone(&cold)));
            Ok(Some(cold))
        }
    }
}

async fn ordered(
    tenant: &Arc<Tenant>,
    recall: &Recall,
    inode: &Inode,
    file: &Arc<File>,
) -> Result<Finding, RecallError> {
    match find(tenant, inode, file)? {
        Finding::InFlight => {
            match put_in_order(tenant, inode, file, recall.options().deadline).await? {
                Ordered::Done => Ok(find(tenant, inode, file)?),
                Ordered::Unrecorded => Ok(Finding::Local),
                Ordered::Waits(error) => Err(error),
            }
        }
        other => Ok(other),
    }
}
