//! Recovery at a start: the files that were in flight when the last daemon ended.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::stat::{Mode, fstat};

use super::{Ordered, put_in_order, unmark};
use crate::failpoint::{CrashPoint, reach};
use crate::file_id::FileHandle;
use crate::inode::Inodes;
use crate::intents::{Intent, Subject};
use crate::recall::RecallError;
use crate::sys;
use crate::tenant::Tenant;
use crate::walk;

/// What a recovery did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recovered {
    /// Files that were on the work list.
    pub looked_at: u64,
    /// Files that have to wait for the store.
    pub waiting: u64,
}

/// How long a start waits for the store. A file that needs more is put in order when it is
/// opened: what is resident can be used at once (P8).
const START_PATIENCE: Duration = Duration::from_secs(5);

/// Puts in order what was in flight when the last daemon ended. A file with which that fails
/// waits, and no other with it (P8).
pub async fn recover(tenant: &Arc<Tenant>, inodes: &Inodes) -> io::Result<Recovered> {
    let mut done = Recovered::default();
    let left_behind = tenant.work.left_behind().iter().map(|line| line.intent.clone());
    if tenant.is_read_only() {
        done.waiting = left_behind.len() as u64;
        return Ok(done);
    }
    // A copy's list is the original's: its handles lead there, where another daemon may be at work.
    let by_handle = tenant.is_in_its_place();
    let (mut last, mut waiting) = (None, Vec::new());
    let mut patience = START_PATIENCE;
    let mut next: Vec<Intent> = left_behind.collect();
    let mut walked = false;
    loop {
        let mut elsewhere = Vec::new();
        for intent in next {
            let (Intent::Release(subject) | Intent::Recall(subject)) = &intent else { continue };
            let file = match open_in_flight(tenant, subject, by_handle || walked) {
                Ok(InFlight::Here(file)) => Arc::new(file),
                Ok(InFlight::Gone) => continue,
                Ok(InFlight::Elsewhere) => {
                    elsewhere.push(intent);
                    continue;
                }
                Err(error) => {
                    fails(subject, &error);
                    waiting.push(intent);
                    continue;
                }
            };
            done.looked_at += 1;
            match recover_file(tenant, inodes, subject, &file, patience).await {
                Ok(Ordered::Done) => {}
                Ok(Ordered::Unrecorded) => waiting.push(intent),
                Ok(Ordered::Waits(error)) => {
                    if matches!(error, RecallError::Deadline { .. }) {
                        // One is enough to know that it does not answer.
                        patience = Duration::ZERO;
                    }
                    waiting.push(intent);
                }
                Err(error) => {
                    fails(subject, &error);
                    waiting.push(intent);
                }
            }
            last = Some(file);
        }
        if elsewhere.is_empty() || walked {
            // Moved once more since the walk: whoever opens it puts it in order.
            break;
        }
        walked = true;
        next = find_by_walk(tenant, elsewhere, &mut waiting)?;
    }
    if let Some(last) = last
        && let Err(error) = tenant.barrier(&*last)
    {
        tracing::error!(%error, "a recovery is not durable yet: its files stay on the work list");
        done.waiting = tenant.work.left_behind().len() as u64;
        return Ok(done);
    }
    reach(CrashPoint::RecoverBeforeClear);
    done.waiting = waiting.len() as u64;
    tenant.work.keep(&waiting)?;
    if waiting.is_empty()
        && let Err(error) = tenant.note_place()
    {
        // A full disk, mostly. Until it is noted, handles are not followed: files are found by a walk.
        tracing::warn!(%error, "cannot note in .coldfs/place where the work list was written");
    }
    Ok(done)
}

fn fails(subject: &Subject, error: &io::Error) {
    let path = String::from_utf8_lossy(&subject.path);
    tracing::error!(%path, %error, "cannot put a file in order that was in flight: it waits");
}

async fn recover_file(
    tenant: &Tenant,
    inodes: &Inodes,
    subject: &Subject,
    file: &Arc<File>,
    patience: Duration,
) -> io::Result<Ordered> {
    let stat = fstat(&**file)?;
    let anchor = file.try_clone()?.into();
    let inode = inodes.enter(anchor, subject.handle.clone(), &stat);
    let ordered = put_in_order(tenant, &inode, file, patience).await;
    let ordered = ordered.and_then(|ordered| unmark(tenant, &inode, file).map(|_| ordered));
    reach(CrashPoint::RecoverAfterFile);
    inodes.let_go(inode);
    ordered
}

/// A file of the work list.
enum InFlight {
    Here(File),
    Gone,
    /// It may not be opened by handle, and is not where it was, if that is known at all.
    Elsewhere,
}

/// Opens a file of the work list; by its path where it is not to be opened by handle, or may not,
/// if that is still the same file.
fn open_in_flight(tenant: &Tenant, subject: &Subject, by_handle: bool) -> io::Result<InFlight> {
    let flags = libc::O_RDWR | libc::O_NONBLOCK;
    let opened = match by_handle {
        true => sys::handle::open(tenant.root(), &subject.handle, flags),
        false => Err(Errno::EPERM.into()),
    };
    let refused = match opened {
        Ok(file) => return Ok(InFlight::Here(File::from(file))),
        Err(error) => error,
    };
    match refused.raw_os_error() {
        Some(libc::ESTALE | libc::ENOENT) => return Ok(InFlight::Gone),
        // Not the handle is refused, but the file: it is immutable.
        Some(libc::EPERM)
            if by_handle
                && sys::handle::open(tenant.root(), &subject.handle, libc::O_PATH).is_ok() =>
        {
            return Err(refused);
        }
        Some(libc::EPERM) if subject.path.is_empty() => return Ok(InFlight::Elsewhere),
        Some(libc::EPERM) => {}
        _ => return Err(refused),
    }
    let path = std::ffi::OsStr::from_bytes(&subject.path);
    let flags = nix::fcntl::OFlag::from_bits_retain(flags | libc::O_NOFOLLOW);
    match nix::fcntl::openat(tenant.root(), path, flags, Mode::empty()) {
        Ok(file) if sys::handle::of(&file, c"")? == subject.handle => {
            Ok(InFlight::Here(File::from(file)))
        }
        Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EISDIR) => {
            Ok(InFlight::Elsewhere)
        }
        Err(error) => Err(error.into()),
    }
}

/// Where files are that only a walk finds. Those that it does not find are gone, or wait where
/// it could not look everywhere.
fn find_by_walk(
    tenant: &Tenant,
    wanted: Vec<Intent>,
    waiting: &mut Vec<Intent>,
) -> io::Result<Vec<Intent>> {
    let mut wanted: HashMap<FileHandle, Intent> = wanted
        .into_iter()
        .filter_map(|intent| match &intent {
            Intent::Release(subject) | Intent::Recall(subject) => {
                Some((subject.handle.clone(), intent))
            }
            Intent::Clear => None,
        })
        .collect();
    let mut found = Vec::new();
    let mut visit = |file: walk::Found| {
        if file.is_regular()
            && let Ok(handle) = sys::handle::of(&file.fd, c"")
            && let Some(intent) = wanted.remove(&handle)
        {
            let subject = Subject { handle, path: file.path };
            found.push(match intent {
                Intent::Release(_) => Intent::Release(subject),
                Intent::Recall(_) | Intent::Clear => Intent::Recall(subject),
            });
        }
        if wanted.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let mut everywhere = true;
    let mut unread = |_: &[u8], error: io::Error| {
        tracing::warn!(%error, "a directory cannot be searched for a file that was in flight");
        everywhere = false;
    };
    let _all_or_found = walk::walk(tenant, walk::find(tenant, b"")?, &mut visit, &mut unread);
    if !everywhere {
        waiting.extend(wanted.into_values());
    }
    Ok(found)
}
