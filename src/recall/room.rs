//! Room on the data filesystem for the recalls under way: each sees what the others will take.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::RecallError;

/// Room that a recall leaves free on the data filesystem, bytes: writers come first.
const RESERVE_BYTES: u64 = 64 << 20;

/// Bytes that the recalls under way have still to write.
#[derive(Clone, Debug, Default)]
pub(super) struct Room(Arc<Mutex<u64>>);

/// One recall's part of it, given back as it is written, the rest at the end.
#[derive(Debug)]
pub(super) struct Share {
    room: Room,
    bytes: u64,
}

impl Room {
    /// Sets `bytes` aside on the filesystem of `file`, if there are as many.
    pub(super) fn share(&self, file: &File, bytes: u64) -> Result<Share, RecallError> {
        let mut owed = self.lock();
        let free = nix::sys::statvfs::fstatvfs(file).map_err(io::Error::from)?;
        let free_bytes = free.blocks_available() * free.fragment_size();
        let wanted = owed.saturating_add(bytes);
        if free_bytes < wanted.saturating_add(RESERVE_BYTES) {
            return Err(RecallError::NoSpace { errno: libc::ENOSPC });
        }
        *owed = wanted;
        Ok(Share { room: self.clone(), bytes })
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// So many more bytes are on the filesystem.
    pub(super) fn written(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        *self.room.lock() -= bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.written(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_recall_will_take_another_cannot_have() {
        let file = tempfile::tempfile().unwrap();
        let free = nix::sys::statvfs::fstatvfs(&file).unwrap();
        let free_bytes = free.blocks_available() * free.fragment_size();
        // Others use that filesystem, too: well above half of it, well below all.
        let most = free_bytes / 4 * 3;
        let room = Room::default();
        let mut first = room.share(&file, most).unwrap();
        assert!(matches!(room.share(&file, most), Err(RecallError::NoSpace { .. })));
        first.written(most / 2);
        first.written(most / 2);
        let second = room.share(&file, most / 2).unwrap();
        drop((first, second));
        assert_eq!(*room.lock(), 0);
    }
}
