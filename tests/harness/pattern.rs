//! Contents that tell what they are.
//!
//! [`bytes`] is a file's whole content from a seed. A [`Block`] is 4 KiB that names its file,
//! place and version and carries a checksum, so that zeros, stubs, torn or misplaced bytes
//! are told from any version.

/// Bytes that a seed determines; no run of zeros, no compression.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(len);
    out
}

pub const BLOCK: usize = 4_096;
const MAGIC: &[u8; 8] = b"BLOCKv1\n";

/// One block of one file in one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub file: u32,
    pub index: u32,
    pub version: u64,
}

impl Block {
    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.file.to_le_bytes());
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(&self.version.to_le_bytes());
        let seed = self.version << 24 ^ u64::from(self.file) << 16 ^ u64::from(self.index);
        out.extend_from_slice(&bytes(seed, BLOCK - 24 - 8));
        let sum = blake3::hash(&out);
        out.extend_from_slice(&sum.as_bytes()[..8]);
        out
    }

    /// What a block says it is; an error that describes the bytes where it is none.
    pub fn decode(data: &[u8]) -> Result<Self, String> {
        if data.len() != BLOCK {
            return Err(format!("{} bytes", data.len()));
        }
        if data.iter().all(|byte| *byte == 0) {
            return Err("zeros".into());
        }
        let body = &data[..BLOCK - 8];
        if !body.starts_with(MAGIC) {
            let head = String::from_utf8_lossy(&data[..40]).into_owned();
            return Err(format!("no block, begins {head:?}"));
        }
        if blake3::hash(body).as_bytes()[..8] != data[BLOCK - 8..] {
            return Err("torn".into());
        }
        let word = |at: usize| u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
        Ok(Self {
            file: word(8),
            index: word(12),
            version: u64::from_le_bytes(data[16..24].try_into().unwrap()),
        })
    }

    /// A whole file of `blocks` blocks in one version.
    pub fn file(file: u32, blocks: u32, version: u64) -> Vec<u8> {
        (0..blocks).flat_map(|index| Block { file, index, version }.encode()).collect()
    }
}

/// The first line of every stub.
pub const STUB_HEAD: &[u8] = b"#!/bin/false coldfs stub 1";
/// The size of every stub.
pub const STUB_BYTES: u64 = 4_096;

/// What a raw body looks like to somebody who has only that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looks {
    /// A pointer that a person recognises.
    Stub,
    /// Anything else: must be true bytes.
    Bytes,
}

pub fn looks(body: &[u8]) -> Looks {
    if body.starts_with(STUB_HEAD) { Looks::Stub } else { Looks::Bytes }
}
