//! Bytes of cold files that are remembered: one bound for all tenants of a daemon. What was used
//! longest ago goes first, whoever's it is.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use lru::LruCache;

use crate::file_id::SegmentId;

/// A chunk of an entry of a segment.
pub(super) type Key = (SegmentId, u32, u32);
/// A block of a segment.
type BlockKey = (SegmentId, u64);

/// Segments are looked at in blocks of this size.
pub(super) const BLOCK_BYTES: u64 = 1 << 20;
/// Most blocks that are kept: as much as a segment of small files has.
const BLOCKS: usize = 64;

/// What is remembered.
pub struct Memory {
    chunks: Mutex<Remembered>,
    /// None: there is no memory for any.
    blocks: Option<Mutex<LruCache<BlockKey, Bytes>>>,
    capacity_bytes: usize,
}

struct Remembered {
    cache: LruCache<Key, Bytes>,
    bytes: usize,
}

impl Memory {
    /// Room for so many bytes of chunks, and as much of what lies beside small ones.
    pub fn new(capacity_bytes: usize) -> Self {
        // Bounded by bytes, below.
        let chunks = Remembered { cache: LruCache::unbounded(), bytes: 0 };
        let block = usize::try_from(BLOCK_BYTES).unwrap_or(usize::MAX);
        let blocks = NonZeroUsize::new((capacity_bytes / block).min(BLOCKS));
        let blocks = blocks.map(|blocks| Mutex::new(LruCache::new(blocks)));
        Self { chunks: Mutex::new(chunks), blocks, capacity_bytes }
    }

    /// Bytes of chunks that there is room for.
    pub(super) fn capacity_bytes(&self) -> usize {
        self.capacity_bytes
    }

    pub(super) fn chunk(&self, key: Key) -> Option<Bytes> {
        lock(&self.chunks).cache.get(&key).cloned()
    }

    pub(super) fn has_chunk(&self, key: Key) -> bool {
        lock(&self.chunks).cache.contains(&key)
    }

    pub(super) fn keep_chunk(&self, key: Key, chunk: Bytes) {
        let mut chunks = lock(&self.chunks);
        chunks.bytes += chunk.len();
        if let Some(replaced) = chunks.cache.put(key, chunk) {
            chunks.bytes -= replaced.len();
        }
        while chunks.bytes > self.capacity_bytes
            && let Some((_, oldest)) = chunks.cache.pop_lru()
        {
            chunks.bytes -= oldest.len();
        }
    }

    pub(super) fn keeps_blocks(&self) -> bool {
        self.blocks.is_some()
    }

    pub(super) fn block(&self, id: SegmentId, number: u64) -> Option<Bytes> {
        lock(self.blocks.as_ref()?).get(&(id, number)).cloned()
    }

    pub(super) fn has_block(&self, id: SegmentId, number: u64) -> bool {
        self.blocks.as_ref().is_some_and(|blocks| lock(blocks).contains(&(id, number)))
    }

    pub(super) fn keep_block(&self, id: SegmentId, number: u64, block: Bytes) {
        if let Some(blocks) = &self.blocks {
            lock(blocks).put((id, number), block);
        }
    }

    pub(super) fn forget_blocks(&self, id: SegmentId) {
        let Some(blocks) = &self.blocks else { return };
        let mut blocks = lock(blocks);
        let wrong: Vec<_> = blocks.iter().map(|(key, _)| *key).filter(|key| key.0 == id).collect();
        for key in wrong {
            blocks.pop(&key);
        }
    }
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
        let memory = Memory::new(30);
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
}
