//! Files whose every block says which version it is, and what may be read of each.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::pattern::{BLOCK, Block, Looks, looks};

/// What is known of one file's blocks. One thread writes a block at a time.
pub struct Versions {
    pub file: u32,
    blocks: Vec<Known>,
}

struct Known {
    /// At least this version is there: its write was answered (or, across a crash, synced).
    floor: AtomicU64,
    /// At most this version: its write was begun.
    ceiling: AtomicU64,
}

impl Versions {
    pub fn new(file: u32, blocks: u32) -> Self {
        let known = || Known { floor: AtomicU64::new(1), ceiling: AtomicU64::new(1) };
        Self { file, blocks: (0..blocks).map(|_| known()).collect() }
    }

    pub fn count(&self) -> u32 {
        self.blocks.len() as u32
    }

    pub fn len(&self) -> u64 {
        u64::from(self.count()) * BLOCK as u64
    }

    /// The file in its first version.
    pub fn create(&self, path: &Path) {
        std::fs::write(path, Block::file(self.file, self.count(), 1)).unwrap();
    }

    /// Bytes of the next version of a block, which may be read from now on.
    pub fn next(&self, index: u32) -> (u64, Vec<u8>) {
        let version = self.blocks[index as usize].ceiling.fetch_add(1, Ordering::SeqCst) + 1;
        (version, Block { file: self.file, index, version }.encode())
    }

    /// Older versions than this may not be read from now on.
    pub fn settled(&self, index: u32, version: u64) {
        self.blocks[index as usize].floor.fetch_max(version, Ordering::SeqCst);
    }

    /// Writes the next version of a block; the version once the write is answered.
    pub fn write(&self, file: &File, index: u32) -> io::Result<u64> {
        let (version, bytes) = self.next(index);
        file.write_all_at(&bytes, u64::from(index) * BLOCK as u64)?;
        Ok(version)
    }

    /// The least version that a read which begins now may give.
    pub fn floor(&self, index: u32) -> u64 {
        self.blocks[index as usize].floor.load(Ordering::SeqCst)
    }

    /// Checks a block that was read; `floor` is from before the read began.
    pub fn check(&self, index: u32, floor: u64, bytes: &[u8]) -> Result<u64, String> {
        let wrong = |what: String| Err(format!("file {} block {index}: {what}", self.file));
        let ceiling = self.blocks[index as usize].ceiling.load(Ordering::SeqCst);
        match Block::decode(bytes) {
            Err(what) => wrong(what),
            Ok(block) if block.file != self.file || block.index != index => {
                wrong(format!("holds {block:?}"))
            }
            Ok(block) if block.version < floor || block.version > ceiling => {
                wrong(format!("version {}, allowed {floor}..={ceiling}", block.version))
            }
            Ok(block) => Ok(block.version),
        }
    }

    /// Checks whole blocks read from the file's beginning; floors from before the read.
    pub fn check_all(&self, floors: &[u64], bytes: &[u8]) -> Result<(), String> {
        if bytes.len() as u64 != self.len() {
            return Err(format!("file {}: {} bytes of {}", self.file, bytes.len(), self.len()));
        }
        for (index, block) in bytes.chunks(BLOCK).enumerate() {
            self.check(index as u32, floors[index], block)?;
        }
        Ok(())
    }

    pub fn floors(&self) -> Vec<u64> {
        (0..self.count()).map(|index| self.floor(index)).collect()
    }

    /// After a crash: what is found is what there is.
    pub fn settle_on(&self, bytes: &[u8]) -> Result<(), String> {
        self.check_all(&self.floors(), bytes)?;
        for (known, block) in self.blocks.iter().zip(bytes.chunks(BLOCK)) {
            let version = Block::decode(block)?.version;
            known.floor.store(version, Ordering::SeqCst);
            known.ceiling.store(version, Ordering::SeqCst);
        }
        Ok(())
    }

    /// A raw body: a pointer, or blocks that were written.
    pub fn check_raw(&self, body: &[u8]) -> Result<Looks, String> {
        if looks(body) == Looks::Stub {
            return Ok(Looks::Stub);
        }
        self.check_all(&self.floors(), body).map(|()| Looks::Bytes)
    }
}
