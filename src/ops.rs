//! POSIX verbs over a tenant's files, hot and cold: a filesystem without FUSE in it.
//!
//! Verbs that only touch the local filesystem return their result. Verbs that may have to wait
//! for a store return an [`Answer`]: either the result, now, or a future for it. Nothing here
//! waits by itself, because FUSE threads call it (I8).

use std::ffi::CStr;
use std::ffi::CString;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::pin::Pin;
use std::sync::Arc;

use dashmap::DashMap;

use crate::catalog::Keeper;
use crate::file_id::Ino;
use crate::guard::Guard;
use crate::inode::{Inode, Inodes};
use crate::recall::Recall;
use crate::tenant::Tenant;
use crate::tiering::Tiering;

mod attr;
mod close;
mod create;
mod dir;
mod error;
mod handle;
mod io;
mod lookup;
mod names;
mod open;
mod open_wait;
mod patience;
mod setattr;
mod space;
mod virtual_xattr;
mod visit;
mod xattr;

pub use attr::Attr;
pub use dir::{DirEntry, Listing};
pub use error::Errno;
pub use handle::Fh;
pub use lookup::Entry;
pub use open::{How, Opened, RegisterBacking};
pub use setattr::{SetAttr, SetTime};

/// The number that FUSE gives the root directory, whatever it is below.
pub const FUSE_ROOT: Ino = Ino(1);

/// The daemon's private directory at the root of a tenant's directory, invisible here.
pub const HOME_NAME: &[u8] = b".coldfs";

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Filesystem user.
    pub uid: u32,
    /// Filesystem group.
    pub gid: u32,
    /// Thread id; 0 for the kernel itself.
    pub pid: u32,
    /// The caller's umask, for what it creates.
    pub umask: u32,
}

/// One name in a directory: 1 to 255 bytes, neither `/` nor NUL in it.
#[derive(Debug)]
pub struct Name(CString);

impl Name {
    /// Takes a name as FUSE gives it.
    pub fn new(name: &std::ffi::OsStr) -> Result<Self, Errno> {
        CString::new(name.as_bytes()).map(Self).map_err(|_nul| Errno(libc::EINVAL))
    }

    fn as_cstr(&self) -> &CStr {
        &self.0
    }

    fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// What a verb answers that may have to wait.
pub enum Answer<T> {
    /// The result.
    Now(Result<T, Errno>),
    /// The result, later; not to be awaited on a FUSE thread.
    Later(Pin<Box<dyn Future<Output = Result<T, Errno>> + Send>>),
}

impl<T> Answer<T> {
    fn later(future: impl Future<Output = Result<T, Errno>> + Send + 'static) -> Self {
        Answer::Later(Box::pin(future))
    }
}

/// A tenant's filesystem.
pub struct Ops {
    tenant: Arc<Tenant>,
    inodes: Arc<Inodes>,
    recall: Arc<Recall>,
    guard: Arc<Guard>,
    keeper: Arc<Keeper>,
    tiering: Option<Arc<Tiering>>,
    open_files: DashMap<Fh, Arc<handle::OpenFile>>,
    next_fh: std::sync::atomic::AtomicU64,
    root: Arc<Inode>,
}

impl Ops {
    /// The filesystem over a tenant's directory.
    pub fn new(
        tenant: Arc<Tenant>,
        inodes: Arc<Inodes>,
        recall: Arc<Recall>,
        guard: Arc<Guard>,
        keeper: Arc<Keeper>,
    ) -> Result<Self, Errno> {
        let fd = tenant.root().try_clone_to_owned()?;
        let stat = nix::sys::stat::fstat(&fd)?;
        let handle = crate::sys::handle::of(&fd, c"")?;
        let root = inodes.enter_looked_up(fd, handle, &stat);
        Ok(Self {
            tenant,
            inodes,
            recall,
            guard,
            keeper,
            tiering: None,
            open_files: DashMap::new(),
            next_fh: std::sync::atomic::AtomicU64::new(1),
            root,
        })
    }

    /// Whose rules are shown as attributes.
    pub fn tiered_by(self, tiering: Arc<Tiering>) -> Self {
        Self { tiering: Some(tiering), ..self }
    }

    /// The tenant that is served.
    pub fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }

    /// Open file descriptions now.
    pub fn open_count(&self) -> usize {
        self.open_files.len()
    }

    /// How the kernel of the mount is told of what it did not do itself.
    pub fn on_change(&self, tell: impl Fn(Ino) + Send + Sync + 'static) {
        self.inodes.on_change(tell);
    }

    /// Descriptors that inodes keep open; none where they are found by handle instead.
    pub fn descriptors_kept(&self) -> Option<usize> {
        self.inodes.descriptors_kept()
    }

    fn inode(&self, ino: Ino) -> Result<Arc<Inode>, Errno> {
        if ino == FUSE_ROOT {
            return Ok(Arc::clone(&self.root));
        }
        self.inodes.get(ino).ok_or(Errno(libc::ESTALE))
    }
}
