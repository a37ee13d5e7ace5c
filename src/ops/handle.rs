//! Open file descriptions of the mount.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Errno, Ops};
use crate::guard::Visit;
use crate::inode::Inode;

/// FUSE's number of an open file description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fh(pub u64);

/// One open file description. How it is served is the inode's to say: it is the same for all.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) inode: Arc<Inode>,
    pub(super) writable: bool,
    /// As what the guard knows this open, if the file was cold then.
    pub(super) visit: Option<Arc<Visit>>,
}

impl Ops {
    pub(super) fn add_open_file(
        &self,
        inode: &Arc<Inode>,
        writable: bool,
        visit: Option<Arc<Visit>>,
    ) -> Fh {
        let fh = Fh(self.next_fh.fetch_add(1, Ordering::Relaxed));
        let inode = Arc::clone(inode);
        self.open_files.insert(fh, Arc::new(OpenFile { inode, writable, visit }));
        fh
    }

    pub(super) fn open_file(&self, fh: Fh) -> Result<Arc<OpenFile>, Errno> {
        self.open_files.get(&fh).map(|open| Arc::clone(&open)).ok_or(Errno(libc::EBADF))
    }
}
