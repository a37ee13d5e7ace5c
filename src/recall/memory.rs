//! Bytes of cold files that are remembered: one bound for all tenants of a daemon. What was used
//! longest ago goes first, whoever's it is; nobody is given what another put there.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use lru::LruCache;
use tokio::time::Instant;

use super::ahead::Readers;
use crate::file_id::{EntryRef, SegmentId};

/// A chunk of an entry of a segment.
pub(super) type Key = (SegmentId, u32, u32);
/// A block of a segment.
type BlockKey = (SegmentId, u64);
/// Whose it is: a number that is not given twice.
pub(super) type Owner = u64;

/// Segments are looked at in blocks of this size.
pub(super) const BLOCK_BYTES: u64 = 1 << 20;

/// What is remembered.
pub struct Memory {
    chunks: Mutex<Remembered>,
    /// None: there is no memory for any.
    blocks: Option<Mutex<LruCache<(Owner, BlockKey), Bytes>>>,
    readers: Mutex<Readers>,
    capacity_bytes: usize,
    owners: AtomicU64,
}

struct Remembered {
    cache: LruCache<(Owner, Key), Bytes>,
    bytes: usize,
}

impl Memory {
    /// Room for so many bytes of chunks, and as much of what lies beside small ones.
    pub fn new(capacity_bytes: usize) -> Self {
        // Bounded by bytes, below.
        let chunks = Remembered { cache: LruCache::unbounded(), bytes: 0 };
        let block = usize::try_from(BLOCK_BYTES).unwrap_or(usize::MAX);
        let blocks = NonZeroUsize::new(capacity_bytes / block);
        let blocks = blocks.map(|blocks| Mutex::new(LruCache::new(blocks)));
        // The other half is for what was read, and for whoever does not read in order.
        let readers = Readers::new(u64::try_from(capacity_bytes / 2).unwrap_or(u64::MAX));
        Self {
            chunks: Mutex::new(chunks),
            blocks,
            readers: Mutex::new(readers),
            capacity_bytes,
            owners: AtomicU64::new(0),
        }
    }

    /// A share in it for one who sees nothing of the others.
    pub(super) fn share(self: &Arc<Self>) -> Share {
        let owner = self.owners.fetch_add(1, Ordering::Relaxed);
        Share { memory: Arc::clone(self), owner }
    }
}

/// What one tenant put into a memory. Forgotten when it is dropped.
pub(super) struct Share {
    memory: Arc<Memory>,
    owner: Owner,
}

impl Share {
    pub(super) fn chunk(&self, key: Key) -> Option<Bytes> {
        lock(&self.memory.chunks).cache.get(&(self.owner, key)).cloned()
    }

    pub(super) fn has_chunk(&self, key: Key) -> bool {
        lock(&self.memory.chunks).cache.contains(&(self.owner, key))
    }

    pub(super) fn keep_chunk(&self, key: Key, chunk: Bytes) {
        let mut chunks = lock(&self.memory.chunks);
        chunks.bytes += chunk.len();
        if let Some(replaced) = chunks.cache.put((self.owner, key), chunk) {
            chunks.bytes -= replaced.len();
        }
        while chunks.bytes > self.memory.capacity_bytes
            && let Some((_, oldest)) = chunks.cache.pop_lru()
        {
            chunks.bytes -= oldest.len();
        }
    }

    pub(super) fn keeps_blocks(&self) -> bool {
        self.memory.blocks.is_some()
    }

    pub(super) fn block(&self, id: SegmentId, number: u64) -> Option<Bytes> {
        lock(self.memory.blocks.as_ref()?).get(&(self.owner, (id, number))).cloned()
    }

    pub(super) fn has_block(&self, id: SegmentId, number: u64) -> bool {
        let key = (self.owner, (id, number));
        self.memory.blocks.as_ref().is_some_and(|blocks| lock(blocks).contains(&key))
    }

    pub(super) fn keep_block(&self, id: SegmentId, number: u64, block: Bytes) {
        if let Some(blocks) = &self.memory.blocks {
            lock(blocks).put((self.owner, (id, number)), block);
        }
    }

    pub(super) fn forget_blocks(&self, id: SegmentId) {
        if let Some(blocks) = &self.memory.blocks {
            forget(&mut lock(blocks), |(owner, key)| *owner == self.owner && key.0 == id);
        }
    }

    /// How many bytes to have ahead of a reader of `at`, who read so many in a row.
    pub(super) fn window(&self, at: EntryRef, in_a_row: u64) -> u64 {
        lock(&self.memory.readers).window((self.owner, at), in_a_row, Instant::now())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut chunks = lock(&self.memory.chunks);
        chunks.bytes -= forget(&mut chunks.cache, |(owner, _)| *owner == self.owner);
        drop(chunks);
        if let Some(blocks) = &self.memory.blocks {
            forget(&mut lock(blocks), |(owner, _)| *owner == self.owner);
        }
    }
}

/// Forgets what is meant; how many bytes that were.
fn forget<K: Copy + Eq + std::hash::Hash>(
    cache: &mut LruCache<K, Bytes>,
    is_meant: impl Fn(&K) -> bool,
) -> usize {
    let meant: Vec<K> = cache.iter().map(|(key, _)| *key).filter(is_meant).collect();
    meant.iter().filter_map(|key| cache.pop(key)).map(|bytes| bytes.len()).sum()
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory")
            .field("capacity_bytes", &self.capacity_bytes)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_goes_first_and_the_bound_holds() {
        let memory = Arc::new(Memory::new(30)).share();
        let key = |number| (SegmentId([7; 16]), 0, number);
        for number in 0..3 {
            memory.keep_chunk(key(number), Bytes::from(vec![1; 10]));
        }
        assert!(memory.chunk(key(0)).is_some());
        memory.keep_chunk(key(3), Bytes::from(vec![1; 10]));
        assert!(memory.has_chunk(key(0)) && !memory.has_chunk(key(1)) && memory.has_chunk(key(3)));
        // Put again, it is counted once.
        memory.keep_chunk(key(3), Bytes::from(vec![2; 10]));
        assert!(memory.has_chunk(key(0)) && memory.has_chunk(key(2)));
        memory.keep_chunk(key(4), Bytes::from(vec![1; 31]));
        assert!((0..5).all(|number| !memory.has_chunk(key(number))), "larger than all of it");
        assert!(!memory.keeps_blocks());
    }

    #[test]
    fn nobody_is_given_what_another_put_there_and_who_leaves_takes_it_along() {
        let memory = Arc::new(Memory::new(4 << 20));
        let (one, other) = (memory.share(), memory.share());
        let (id, key) = (SegmentId([7; 16]), (SegmentId([7; 16]), 0, 0));
        one.keep_chunk(key, Bytes::from_static(b"its own"));
        one.keep_block(id, 3, Bytes::from_static(b"its own"));
        assert!(!other.has_chunk(key) && other.chunk(key).is_none());
        assert!(!other.has_block(id, 3) && other.block(id, 3).is_none());
        other.keep_chunk(key, Bytes::from_static(b"another"));
        other.keep_block(id, 3, Bytes::from_static(b"another"));
        other.forget_blocks(id);
        assert!(one.has_block(id, 3));
        drop(one);
        assert_eq!(lock(&memory.chunks).bytes, 7);
        assert_eq!(lock(memory.blocks.as_ref().unwrap()).len(), 0);
        assert!(other.has_chunk(key));
    }

    #[test]
    fn what_is_fetched_ahead_has_one_bound_for_all() {
        const MIB: u64 = 1 << 20;
        let memory = Arc::new(Memory::new(32 << 20));
        let shares: Vec<_> = (0..8).map(|_| memory.share()).collect();
        let at = EntryRef { segment: SegmentId([7; 16]), entry: 0 };
        let windows: Vec<u64> = shares.iter().map(|share| share.window(at, 900 * MIB)).collect();
        assert_eq!(windows.last(), Some(&(2 * MIB)), "eight readers of the same half");
    }
}
