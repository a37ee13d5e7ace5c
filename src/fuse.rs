//! The door to the kernel: decodes FUSE requests, calls `ops`, and replies, now or later.
//!
//! No handler waits on a store: what may have to is a future that takes the reply along (I8).

use std::ffi::{CString, OsStr};
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, CopyFileRangeFlags, FileHandle, Filesystem, Generation, INodeNo, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio_util::sync::CancellationToken;

use crate::file_id::Ino;
use crate::ops::{Answer, Caller, Errno, Fh, Name, Ops, RegisterBacking, SetAttr, SetTime};
use reply::{errno, reply_empty, reply_statfs, reply_xattr, xattr_name};

mod attr;
mod caching;
mod forgetting;
mod init;
mod killable;
mod passthrough;
mod reply;
pub mod session;
mod thread;

pub use caching::Caching;
use caching::UNSETTLED_TTL;

/// The filesystem as fuser calls it.
pub struct Door {
    ops: Arc<Ops>,
    runtime: tokio::runtime::Handle,
    caching: Caching,
    passthrough: bool,
    /// Told at INIT whether the kernel grants passthrough.
    granted: Arc<OnceLock<bool>>,
    forgetting: forgetting::Forgetting,
    /// Told when the kernel has let go of the mount.
    ended: CancellationToken,
}

impl Door {
    fn caller(&self, request: &Request, umask: u32) -> Caller {
        thread::own();
        Caller { uid: request.uid(), gid: request.gid(), pid: request.pid(), umask }
    }

    /// Replies with the answer, now or when it is there; a caller that is being killed gets
    /// EINTR instead of waiting on.
    fn answer<T: Send + 'static>(
        &self,
        pid: u32,
        answer: Answer<T>,
        reply: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        match answer {
            Answer::Now(result) => reply(result),
            Answer::Later(future) => self.later(pid, future, reply),
        }
    }

    fn later<T: Send + 'static>(
        &self,
        pid: u32,
        future: impl Future<Output = Result<T, Errno>> + Send + 'static,
        reply: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        self.runtime.spawn(async move { reply(killable::wait(pid, future).await) });
    }

    fn reply_entry(&self, entry: Result<crate::ops::Entry, Errno>, reply: ReplyEntry) {
        self.caching.reply_lookup(entry.map(Some), reply);
    }

    /// What `readdirplus` asks for, less the attributes: the kernel learns no inode by it.
    fn plain_entries(&self, ino: INodeNo, offset: u64, mut reply: ReplyDirectoryPlus) {
        let result = self.ops.readdir(Ino(ino.0), offset, &mut |entry| {
            let attr = attr::only(entry.ino, entry.kind);
            let (zero, generation) = (Duration::ZERO, Generation(0));
            !reply.add(INodeNo(0), entry.cookie, &entry.name, &zero, &attr, generation)
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    /// The name of an entry that the kernel is about to learn.
    fn entry_name(&self, parent: INodeNo, name: &OsStr) -> Result<Name, Errno> {
        self.forgetting.note(parent, name);
        Self::name(name)
    }

    fn name(name: &OsStr) -> Result<Name, Errno> {
        Name::new(name)
    }
}

impl Filesystem for Door {
    fn destroy(&mut self) {
        self.ended.cancel();
    }

    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.passthrough = init::negotiate(config, self.passthrough);
        if self.granted.set(self.passthrough).is_err() {
            tracing::debug!("INIT came twice");
        }
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.caller(request, 0);
        let name = match self.entry_name(parent, name) {
            Ok(name) => name,
            Err(error) => return reply.error(errno(error)),
        };
        if self.forgetting.is_crowded(&self.ops) {
            let (ops, caching) = (Arc::clone(&self.ops), self.caching);
            self.runtime.spawn(async move {
                forgetting::room(&ops).await;
                caching.reply_lookup(ops.lookup(Ino(parent.0), &name), reply);
            });
            return;
        }
        self.caching.reply_lookup(self.ops.lookup(Ino(parent.0), &name), reply);
    }

    fn forget(&self, _request: &Request, ino: INodeNo, nlookup: u64) {
        self.ops.forget(Ino(ino.0), nlookup);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.caller(request, 0);
        match self.ops.getattr(Ino(ino.0)) {
            Ok(attr) => reply.attr(&self.caching.ttl_of(&attr), &attr::file_attr(&attr.stat)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let caller = self.caller(request, 0);
        let time = |time| match time {
            TimeOrNow::Now => SetTime::Now,
            TimeOrNow::SpecificTime(time) => {
                let (seconds, nanoseconds) = attr::time_parts(time);
                SetTime::At(seconds, nanoseconds)
            }
        };
        let change =
            SetAttr { mode, uid, gid, size, atime: atime.map(time), mtime: mtime.map(time) };
        let caching = self.caching;
        self.answer(request.pid(), self.ops.setattr(caller, Ino(ino.0), change), move |attr| {
            match attr {
                Ok(attr) => {
                    reply.attr(&caching.ttl_of(&attr), &attr::file_attr(&attr.stat));
                }
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        self.caller(request, 0);
        match self.ops.readlink(Ino(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let caller = self.caller(request, umask);
        let entry = self
            .entry_name(parent, name)
            .and_then(|name| self.ops.mknod(caller, Ino(parent.0), &name, mode, rdev));
        self.reply_entry(entry, reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let caller = self.caller(request, umask);
        let entry = self
            .entry_name(parent, name)
            .and_then(|name| self.ops.mkdir(caller, Ino(parent.0), &name, mode));
        self.reply_entry(entry, reply);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.caller(request, 0);
        let result = Self::name(name).and_then(|name| self.ops.unlink(Ino(parent.0), &name));
        reply_empty(result, reply);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.caller(request, 0);
        let result = Self::name(name).and_then(|name| self.ops.rmdir(Ino(parent.0), &name));
        reply_empty(result, reply);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let caller = self.caller(request, 0);
        let entry = self.entry_name(parent, name).and_then(|name| {
            let target =
                CString::new(target.as_os_str().as_bytes()).map_err(|_nul| Errno(libc::EINVAL))?;
            self.ops.symlink(caller, Ino(parent.0), &name, &target)
        });
        self.reply_entry(entry, reply);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.caller(request, 0);
        let result = Self::name(name).and_then(|name| {
            let newname = Self::name(newname)?;
            self.ops.rename(Ino(parent.0), &name, Ino(newparent.0), &newname, flags.bits())
        });
        reply_empty(result, reply);
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        self.caller(request, 0);
        let entry = self
            .entry_name(newparent, newname)
            .and_then(|name| self.ops.link(Ino(ino.0), Ino(newparent.0), &name));
        self.reply_entry(entry, reply);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let caller = self.caller(request, 0);
        let reply = Arc::new(passthrough::Registrar::new(reply, self.passthrough));
        let door: Arc<dyn RegisterBacking> = reply.clone();
        let answer = self.ops.open(caller, Ino(ino.0), flags.0, door);
        self.answer(request.pid(), answer, move |opened| passthrough::reply_open(&reply, opened));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let caller = self.caller(request, umask);
        let name = match self.entry_name(parent, name) {
            Ok(name) => name,
            Err(error) => return reply.error(errno(error)),
        };
        let reply = Arc::new(passthrough::Registrar::new(reply, self.passthrough));
        let door: Arc<dyn RegisterBacking> = reply.clone();
        let ttl = self.caching.ttl;
        let answer = self.ops.create(caller, Ino(parent.0), &name, mode, flags, door);
        self.answer(request.pid(), answer, move |created| {
            passthrough::reply_create(&reply, created, ttl.min(UNSETTLED_TTL));
        });
    }

    fn read(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.caller(request, 0);
        let answer = self.ops.read(Fh(fh.0), offset, size);
        self.answer(request.pid(), answer, move |read| match read {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn write(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let caller = self.caller(request, 0);
        let answer = self.ops.write(caller, Fh(fh.0), offset, data);
        self.answer(request.pid(), answer, move |written| match written {
            Ok(count) => reply.written(count),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // The kernel stops asking: what it has to write at a close, it writes by itself.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn release(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.caller(request, 0);
        self.ops.release(Fh(fh.0));
        reply.ok();
    }

    fn fsync(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.caller(request, 0);
        let answer = self.ops.fsync(Fh(fh.0), datasync);
        self.answer(request.pid(), answer, move |done| reply_empty(done, reply));
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // The kernel stops asking, and keeps directories cached.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.caller(request, 0);
        let result = self.ops.readdir(Ino(ino.0), offset, &mut |entry| {
            let kind = attr::kind_of_dirent(entry.kind);
            !reply.add(INodeNo(entry.ino.0), entry.cookie, kind, &entry.name)
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.caller(request, 0);
        if self.forgetting.is_crowded(&self.ops) {
            return self.plain_entries(ino, offset, reply);
        }
        let result = self.ops.readdirplus(Ino(ino.0), offset, &mut |entry, found| match found {
            Some(found) => {
                self.forgetting.note(ino, &entry.name);
                !reply.add(
                    INodeNo(found.attr.stat.st_ino),
                    entry.cookie,
                    &entry.name,
                    &self.caching.ttl_of(&found.attr),
                    &attr::file_attr(&found.attr.stat),
                    Generation(found.generation.into()),
                )
            }
            None => !reply.add(
                INodeNo(0),
                entry.cookie,
                &entry.name,
                &Duration::ZERO,
                &attr::only(entry.ino, entry.kind),
                Generation(0),
            ),
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn fsyncdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.caller(request, 0);
        let answer = self.ops.fsyncdir(Ino(ino.0));
        self.answer(request.pid(), answer, move |done| reply_empty(done, reply));
    }

    fn statfs(&self, request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.caller(request, 0);
        match self.ops.statfs() {
            Ok(fs) => reply_statfs(&fs, reply),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.caller(request, 0);
        let result =
            xattr_name(name).and_then(|name| self.ops.setxattr(Ino(ino.0), &name, value, flags));
        reply_empty(result, reply);
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        self.caller(request, 0);
        let answer = match xattr_name(name) {
            Ok(name) => self.ops.getxattr(Ino(ino.0), &name),
            Err(error) => Answer::Now(Err(error)),
        };
        self.answer(request.pid(), answer, move |result| reply_xattr(result, size, reply));
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.caller(request, 0);
        reply_xattr(self.ops.listxattr(Ino(ino.0)), size, reply);
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.caller(request, 0);
        let result = xattr_name(name).and_then(|name| self.ops.removexattr(Ino(ino.0), &name));
        reply_empty(result, reply);
    }

    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks permissions itself (default_permissions).
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let caller = self.caller(request, 0);
        let answer = self.ops.fallocate(caller, Fh(fh.0), mode, offset, length);
        self.answer(request.pid(), answer, move |done| reply_empty(done, reply));
    }

    fn lseek(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.caller(request, 0);
        match self.ops.lseek(Fh(fh.0), offset, whence) {
            Ok(found) => reply.offset(found),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.caller(request, 0);
        let answer =
            self.ops.copy_file_range((Fh(fh_in.0), offset_in), (Fh(fh_out.0), offset_out), len);
        self.answer(request.pid(), answer, move |copied| match copied {
            Ok(count) => reply.written(count),
            Err(error) => reply.error(errno(error)),
        });
    }
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("caching", &self.caching).finish_non_exhaustive()
    }
}
