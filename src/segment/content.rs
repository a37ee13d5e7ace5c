//! The hash of a file's logical bytes, whatever its layout.
//!
//! blake3 (with a context) over the blake3 of each logical MiB, the last one short, and then
//! the size. A MiB of zeros hashes the same whether it was read from disk or lies in a hole,
//! and in a hole it costs a lookup, so that a terabyte of nothing takes a fraction of a second.

use std::fmt;
use std::sync::OnceLock;

/// Logical bytes under one leaf.
pub const LEAF_BYTES: usize = 1 << 20;

const CONTEXT: &str = "coldfs 2026 v1 content";
static ZEROS: [u8; 4096] = [0; 4096];

/// Names what a file's bytes are, whatever holes it has.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentHash(pub [u8; 32]);

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({self})")
    }
}

/// Hashes a file from its first byte to its last.
#[derive(Clone)]
pub struct ContentHasher {
    root: blake3::Hasher,
    leaf: blake3::Hasher,
    leaf_bytes: usize,
    pushed_bytes: u64,
}

impl Default for ContentHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl ContentHasher {
    /// Begins at offset 0.
    pub fn new() -> Self {
        Self {
            root: blake3::Hasher::new_derive_key(CONTEXT),
            leaf: blake3::Hasher::new(),
            leaf_bytes: 0,
            pushed_bytes: 0,
        }
    }

    /// Offset of the next byte.
    pub fn offset(&self) -> u64 {
        self.pushed_bytes
    }

    /// The next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(LEAF_BYTES - self.leaf_bytes));
            self.leaf.update(head);
            self.advance(head.len());
            bytes = rest;
        }
    }

    /// The next `length_bytes` bytes are zeros: a hole, or known without reading.
    pub fn push_zeros(&mut self, mut length_bytes: u64) {
        while length_bytes > 0 {
            let room = LEAF_BYTES - self.leaf_bytes;
            let step = usize::try_from(length_bytes).unwrap_or(usize::MAX).min(room);
            if step == LEAF_BYTES {
                self.root.update(zero_leaf().as_bytes());
                self.pushed_bytes += LEAF_BYTES as u64;
            } else {
                self.push_short_zeros(step);
            }
            length_bytes -= step as u64;
        }
    }

    /// The hash of a file of `size_bytes`; what was not pushed of it is zeros. Pushing more
    /// than the size gives a hash that no file has.
    pub fn finish(mut self, size_bytes: u64) -> ContentHash {
        self.push_zeros(size_bytes.saturating_sub(self.pushed_bytes));
        if self.leaf_bytes > 0 {
            self.close_leaf();
        }
        self.root.update(&size_bytes.to_le_bytes());
        ContentHash(*self.root.finalize().as_bytes())
    }

    fn push_short_zeros(&mut self, mut length_bytes: usize) {
        while length_bytes > 0 {
            let zeros = &ZEROS[..length_bytes.min(ZEROS.len())];
            self.leaf.update(zeros);
            self.advance(zeros.len());
            length_bytes -= zeros.len();
        }
    }

    fn advance(&mut self, length_bytes: usize) {
        self.leaf_bytes += length_bytes;
        self.pushed_bytes += length_bytes as u64;
        if self.leaf_bytes == LEAF_BYTES {
            self.close_leaf();
        }
    }

    fn close_leaf(&mut self) {
        self.root.update(self.leaf.finalize().as_bytes());
        self.leaf.reset();
        self.leaf_bytes = 0;
    }
}

fn zero_leaf() -> &'static blake3::Hash {
    static LEAF: OnceLock<blake3::Hash> = OnceLock::new();
    LEAF.get_or_init(|| {
        let mut hasher = blake3::Hasher::new();
        for _ in 0..LEAF_BYTES / ZEROS.len() {
            hasher.update(&ZEROS);
        }
        hasher.finalize()
    })
}
