//! The ctimes that the daemon itself gave files when it archived them.
//!
//! Setting a record moves the ctime, and nothing sets it back; so an archived file is known
//! to be unchanged only where its ctime is still the one seen then (I2). A file that is not
//! remembered here is hashed before it is released: correct, and slower.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;

use crate::bounded;
use crate::file_id::{FileHandle, Ino, TimeNs};

/// Files remembered at once; the least recently archived are forgotten beyond it. About 60
/// bytes each.
pub const REMEMBERED_FILES: NonZeroUsize = NonZeroUsize::new(262_144).expect("not zero");

/// The ctime of files as archived in this run of the daemon.
#[derive(Debug)]
pub struct KnownCtimes {
    files: Mutex<LruCache<Ino, (u32, TimeNs)>>,
    proves: bool,
}

impl KnownCtimes {
    /// Nothing is known yet. `proves`: whether an unmoved ctime proves that nothing was changed,
    /// on this filesystem; else none is ever known.
    pub fn new(proves: bool) -> Self {
        Self { files: Mutex::new(bounded::lru(REMEMBERED_FILES)), proves }
    }

    /// Remembers what the ctime was right after the daemon's own change.
    pub fn remember(&self, ino: Ino, handle: &FileHandle, ctime: TimeNs) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.put(ino, (handle.generation(), ctime));
    }

    /// Whether an unmoved ctime proves that nothing was changed.
    pub fn proves(&self) -> bool {
        self.proves
    }

    /// Forgets a file.
    pub fn forget(&self, ino: Ino) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).pop(&ino);
    }

    /// Whether the file is known to be as it was archived.
    pub fn is(&self, ino: Ino, handle: &FileHandle, ctime: TimeNs) -> bool {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        self.proves && files.get(&ino) == Some(&(handle.generation(), ctime))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_ctime_proves_nothing_none_is_known() {
        let handle = FileHandle { kind: 1, bytes: [1].into() };
        for proves in [true, false] {
            let known = KnownCtimes::new(proves);
            known.remember(Ino(1), &handle, TimeNs(7));
            assert_eq!(known.is(Ino(1), &handle, TimeNs(7)), proves);
            assert!(!known.is(Ino(1), &handle, TimeNs(8)));
        }
    }
}
