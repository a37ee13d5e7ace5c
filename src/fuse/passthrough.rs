//! Registering files for kernel passthrough, and the replies that name them (Linux 6.9).

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
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

/// A reply that waits for its open, and registers files meanwhile.
pub(super) struct Registrar<R> {
    reply: R,
    passthrough: bool,
}

impl<R> Registrar<R> {
    pub(super) fn new(reply: R, passthrough: bool) -> Self {
        Self { reply, passthrough }
    }
}

impl<R: CanRegister> RegisterBacking for Registrar<R> {
    fn register(&self, file: &File) -> io::Result<Backing> {
        if !self.passthrough {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Arc::new(self.reply.open_backing(file)?))
    }
}

pub(super) fn reply_open(reply: Arc<Registrar<ReplyOpen>>, opened: Result<Opened, Errno>) {
    let Some(registrar) = Arc::into_inner(reply) else {
        tracing::error!("an open's reply is held elsewhere: it is never sent");
        return;
    };
    let reply = registrar.reply;
    match opened {
        Err(error) => reply.error(errno(error)),
        Ok(opened) => {
            let flags = opened_flags(&opened.how);
            match registered(&opened.how) {
                Some(id) => reply.opened_passthrough(FileHandle(opened.fh.0), flags, id),
                None => reply.opened(FileHandle(opened.fh.0), flags),
            }
        }
    }
}

pub(super) fn reply_create(
    reply: Arc<Registrar<ReplyCreate>>,
    created: Result<(Entry, Opened), Errno>,
    ttl: Duration,
) {
    let Some(registrar) = Arc::into_inner(reply) else {
        tracing::error!("a create's reply is held elsewhere: it is never sent");
        return;
    };
    let reply = registrar.reply;
    let (entry, opened) = match created {
        Err(error) => return reply.error(errno(error)),
        Ok(created) => created,
    };
    let (attr, generation) =
        (attr::file_attr(&entry.attr.stat), Generation(entry.generation.into()));
    let (fh, flags) = (FileHandle(opened.fh.0), opened_flags(&opened.how));
    match registered(&opened.how) {
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
