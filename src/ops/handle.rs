//! Open file descriptions of the mount.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Errno, Ops};
use crate::inode::Inode;

/// FUSE's number of an open file description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fh(pub u64);

/// One open file description. How it is served is the inode's to say: it is the same for all.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) inode: Arc<Inode>,
    pub(super) writable: bool,
}

impl Ops {
    pub(super) fn add_open_file(&self, inode: &Arc<Inode>, writable: bool) -> Fh {
        let fh = Fh(self.next_fh.fetch_add(1, Ordering::Relaxed));
        self.open_files.insert(fh, Arc::new(OpenFile { inode: Arc::clone(inode), writable }));
        fh
    }

    pub(super) fn open_file(&self, fh: Fh) -> Result<Arc<OpenFile>, Errno> {
        self.open_files.get(&fh).map(|open| Arc::clone(&open)).ok_or(Errno(libc::EBADF))
    }
}
