//! Registering files for kernel passthrough, and the replies that name them (Linux 6.9).

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fuser::{BackingId, FileHandle, Generation, ReplyCreate, ReplyOpen};

use super::attr;
use super::reply::{errno, opened_flags};
use crate::inode::Backing;
use crate::ops::{Entry, Errno, How, Opened, RegisterBacking};

/// A reply through which a file can be registered.
pub(super) trait CanRegister: Send + Sync {
    fn open_backing(&self, file: &File) -> io::Result<BackingId>;
}

impl CanRegister for ReplyOpen {
    fn open_backing(&self, file: &File) -> io::Result<BackingId> {
        ReplyOpen::open_backing(self, file.as_fd())
    }
}

impl CanRegister for ReplyCreate {
    fn open_backing(&self, file: &File) -> io::Result<BackingId> {
        ReplyCreate::open_backing(self, file.as_fd())
    }
}

/// A reply that waits for its open, and registers files until it is sent. It may be sent before
/// the open has ended: to a process that is being killed.
pub(super) struct Registrar<R> {
    reply: Mutex<Option<R>>,
    passthrough: bool,
}

impl<R> Registrar<R> {
    pub(super) fn new(reply: R, passthrough: bool) -> Self {
        Self { reply: Mutex::new(Some(reply)), passthrough }
    }

    fn take(&self) -> Option<R> {
        self.reply.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<R: CanRegister> RegisterBacking for Registrar<R> {
    fn register(&self, file: &File) -> io::Result<Backing> {
        let reply = self.reply.lock().unwrap_or_else(PoisonError::into_inner);
        match &*reply {
            Some(reply) if self.passthrough => Ok(Arc::new(reply.open_backing(file)?)),
            Some(_) | None => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

pub(super) fn reply_open(registrar: &Registrar<ReplyOpen>, opened: Result<Opened, Errno>) {
    let Some(reply) = registrar.take() else { return };
    match opened {
        Err(error) => reply.error(errno(error)),
        Ok(opened) => {
            let (fh, how) = opened.hand_over();
            let (fh, flags) = (FileHandle(fh.0), opened_flags(&how));
            match registered(&how) {
                Some(id) => reply.opened_passthrough(fh, flags, id),
                None => reply.opened(fh, flags),
            }
        }
    }
}

pub(super) fn reply_create(
    registrar: &Registrar<ReplyCreate>,
    created: Result<(Entry, Opened), Errno>,
    ttl: Duration,
) {
    let Some(reply) = registrar.take() else { return };
    let (entry, opened) = match created {
        Err(error) => return reply.error(errno(error)),
        Ok(created) => created,
    };
    let (attr, generation) =
        (attr::file_attr(&entry.attr.stat), Generation(entry.generation.into()));
    let (fh, how) = opened.hand_over();
    let (fh, flags) = (FileHandle(fh.0), opened_flags(&how));
    match registered(&how) {
        Some(id) => reply.created_passthrough(&ttl, &attr, generation, fh, flags, id),
        None => reply.created(&ttl, &attr, generation, fh, flags),
    }
}

fn registered(how: &How) -> Option<&BackingId> {
    match how {
        How::Passthrough(backing) => backing.downcast_ref(),
        How::Daemon => None,
    }
}
