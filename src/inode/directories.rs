//! Directories in which names were looked up of late, kept open: most requests are about names
//! in the same few.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::Inode;
use crate::file_id::{FileHandle, Ino};

/// Descriptors kept a mount; the one not used for longest goes. Few, because a daemon with a
/// thousand mounts lives with some 20,000 descriptors.
const KEPT: NonZeroUsize = NonZeroUsize::new(8).unwrap();

/// O_PATH descriptors of directories.
#[derive(Debug)]
pub(super) struct Directories(Mutex<LruCache<Ino, (FileHandle, Arc<OwnedFd>)>>);

impl Directories {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(KEPT)))
    }

    /// The directory's descriptor, if it is kept.
    pub(super) fn get(&self, inode: &Inode) -> Option<Arc<OwnedFd>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (handle, fd) = kept.get(&inode.ino)?;
        // Its number may have gone to another file.
        (*handle == inode.handle).then(|| Arc::clone(fd))
    }

    pub(super) fn keep(&self, inode: &Inode, fd: Arc<OwnedFd>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.put(inode.ino, (inode.handle.clone(), fd));
    }

    /// Lets go of a directory that is removed: its space is freed.
    pub(super) fn forget(&self, ino: Ino) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop(&ino);
    }
}
