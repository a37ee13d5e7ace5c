//! Filling a segment: entries one after the other, checks as they go, parts handed out as they
//! are full, so that a terabyte is written with one part in memory.
//!
//! An entry that is being written is a guard: dropped before [`EntryWriter::finish`], it takes
//! its bytes back and the next entry gets its number. Once a part with its bytes has left, that
//! is impossible: the segment is spoilt, and its upload is to be aborted.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::file_id::{EntryRef, SegmentId, TenantUuid};
use crate::segment::content::ContentHash;
use crate::segment::entry::{BadEntry, EntryMeta, IndexEntry};
use crate::segment::index::{Header, Index, MAX_FOOTER_BYTES, Trailer};
use crate::segment::layout::{self, BadPlace, CHUNK_BYTES, EntryPlace, TRAILER_BYTES};
use crate::segment::read::chunk_check;
use crate::wire;

/// Size of a part of an upload, unless the object is too large for it.
pub const PART_BYTES: usize = 8 << 20;
/// The most parts of one upload (S3's rule).
pub const MAX_PARTS: u64 = 10_000;

/// Why an entry or a segment cannot be written; the file stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The file's metadata is more than an entry holds: it is never archived.
    #[error("not archivable: {0}")]
    Entry(#[from] BadEntry),
    /// The entry would lie where no object reaches.
    #[error("not archivable: {0}")]
    Place(#[from] BadPlace),
    /// The index is full: finish this segment and begin another.
    #[error("the segment's index is full")]
    IndexFull,
    /// The file gave another number of bytes than its extents: it changed while it was read.
    #[error("read {read_bytes} bytes of {extent_bytes}: the file changed while it was read")]
    Changed {
        /// What was pushed.
        read_bytes: u64,
        /// What the extents have.
        extent_bytes: u64,
    },
    /// An entry was taken back after a part of it had left: abort the upload.
    #[error("an entry was taken back after a part of it was sent; abort the upload")]
    Spoilt,
}

/// The part size with which an object of about `object_bytes` fits [`MAX_PARTS`].
pub fn part_bytes_for(object_bytes: u64) -> usize {
    const MIB: u64 = 1 << 20;
    // One more MiB a part than needed leaves room for checks and the footer.
    let least = (object_bytes.div_ceil(MAX_PARTS).div_ceil(MIB) + 1).saturating_mul(MIB);
    usize::try_from(least).unwrap_or(usize::MAX).max(PART_BYTES)
}

/// A segment being filled.
pub struct SegmentBuilder {
    index: Index,
    /// Written and not handed out: the object's bytes from `drained_bytes` on.
    buffer: BytesMut,
    drained_bytes: u64,
    /// Over what was handed out.
    digest: blake3::Hasher,
    footer_bytes: u64,
    spoilt: bool,
}

impl SegmentBuilder {
    /// Begins with the header.
    pub fn new(tenant: TenantUuid, id: SegmentId) -> Self {
        Self::with_chunk_bytes(tenant, id, CHUNK_BYTES)
    }

    /// With smaller chunks, so that a test crosses many of them cheaply.
    pub(crate) fn with_chunk_bytes(tenant: TenantUuid, id: SegmentId, chunk_bytes: u32) -> Self {
        let header = Header { tenant, id, chunk_bytes };
        let index = Index { tenant, segment: id, chunk_bytes, entries: Vec::new() };
        let footer_bytes = wire::u64_of(index.encode().len());
        Self {
            index,
            buffer: BytesMut::from(&header.encode()[..]),
            drained_bytes: 0,
            digest: blake3::Hasher::new(),
            footer_bytes,
            spoilt: false,
        }
    }

    /// The segment's name.
    pub fn id(&self) -> SegmentId {
        self.index.segment
    }

    /// Number of finished entries.
    pub fn entry_count(&self) -> usize {
        self.index.entries.len()
    }

    /// Length of the object so far, the footer that it would get included.
    pub fn len_bytes(&self) -> u64 {
        self.offset() + self.footer_bytes + TRAILER_BYTES
    }

    /// Begins the next entry. Nothing is written before its first byte is pushed.
    pub fn begin_entry(&mut self, meta: EntryMeta) -> Result<EntryWriter<'_>, WriteError> {
        if self.spoilt {
            return Err(WriteError::Spoilt);
        }
        meta.check()?;
        let extent_bytes = layout::packed_bytes(meta.size_bytes, &meta.extents)
            .ok()
            .ok_or(BadEntry::Field("extents"))?;
        let number = wire::u32_of(self.index.entries.len());
        let at = EntryRef { segment: self.index.segment, entry: number };
        let place = EntryPlace::new(at, self.offset(), extent_bytes, self.index.chunk_bytes)?;
        let entry = IndexEntry { meta, content: ContentHash([0; 32]), place };
        let mut bytes = Vec::new();
        entry.encode(&mut bytes);
        let entry_footer_bytes = 4 + wire::u64_of(bytes.len());
        if self.footer_bytes + entry_footer_bytes > MAX_FOOTER_BYTES {
            return Err(WriteError::IndexFull);
        }
        Ok(EntryWriter {
            builder: self,
            entry: Some(entry),
            place,
            entry_footer_bytes,
            check: blake3::Hasher::new(),
            chunk: 0,
            chunk_filled: 0,
            pushed_bytes: 0,
        })
    }

    /// The next part of the object, once `part_bytes` of it are written.
    pub fn drain_ready(&mut self, part_bytes: usize) -> Option<Bytes> {
        if part_bytes == 0 || self.buffer.len() < part_bytes {
            return None;
        }
        let part = self.buffer.split_to(part_bytes).freeze();
        self.digest.update(&part);
        self.drained_bytes += wire::u64_of(part.len());
        Some(part)
    }

    /// Writes footer and trailer. What was not drained is in the result's `bytes`: all of the
    /// object where nothing was.
    pub fn finish(mut self) -> Result<FinishedSegment, WriteError> {
        if self.spoilt {
            return Err(WriteError::Spoilt);
        }
        let footer = self.index.encode();
        let trailer = Trailer::of(self.index.segment, self.offset(), &footer);
        self.buffer.extend_from_slice(&footer);
        self.buffer.extend_from_slice(&trailer.encode(self.index.segment));
        let size_bytes = self.offset();
        let bytes = self.buffer.freeze();
        self.digest.update(&bytes);
        Ok(FinishedSegment {
            id: self.index.segment,
            size_bytes,
            digest: *self.digest.finalize().as_bytes(),
            bytes,
            index: Arc::new(self.index),
        })
    }

    /// Offset in the object of the next byte.
    fn offset(&self) -> u64 {
        self.drained_bytes + wire::u64_of(self.buffer.len())
    }
}

/// An entry being written; dropping it takes it back.
#[must_use = "an entry that is not finished is taken back"]
pub struct EntryWriter<'a> {
    builder: &'a mut SegmentBuilder,
    /// Taken by `finish`.
    entry: Option<IndexEntry>,
    place: EntryPlace,
    entry_footer_bytes: u64,
    check: blake3::Hasher,
    chunk: u32,
    chunk_filled: usize,
    pushed_bytes: u64,
}

impl EntryWriter<'_> {
    /// The next bytes of the packed stream: the file's data extents, in order.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        let read_bytes = self.pushed_bytes + wire::u64_of(bytes.len());
        let extent_bytes = self.place.packed_bytes();
        if read_bytes > extent_bytes {
            return Err(WriteError::Changed { read_bytes, extent_bytes });
        }
        self.pushed_bytes = read_bytes;
        let chunk_bytes = usize::try_from(self.place.chunk_bytes()).unwrap_or(usize::MAX);
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(chunk_bytes - self.chunk_filled));
            self.check.update(head);
            self.builder.buffer.extend_from_slice(head);
            self.chunk_filled += head.len();
            if self.chunk_filled == chunk_bytes {
                self.close_chunk();
            }
            bytes = rest;
        }
        Ok(())
    }

    /// As [`SegmentBuilder::drain_ready`], in the middle of a large file.
    pub fn drain_ready(&mut self, part_bytes: usize) -> Option<Bytes> {
        self.builder.drain_ready(part_bytes)
    }

    /// Makes the entry part of the segment.
    pub fn finish(mut self, content: ContentHash) -> Result<EntryPlace, WriteError> {
        let (read_bytes, extent_bytes) = (self.pushed_bytes, self.place.packed_bytes());
        if read_bytes != extent_bytes {
            return Err(WriteError::Changed { read_bytes, extent_bytes });
        }
        if self.chunk_filled > 0 {
            self.close_chunk();
        }
        if let Some(mut entry) = self.entry.take() {
            entry.content = content;
            self.builder.index.entries.push(entry);
            self.builder.footer_bytes += self.entry_footer_bytes;
        }
        debug_assert_eq!(self.builder.offset(), self.place.end_offset());
        Ok(self.place)
    }

    /// Takes the entry back by name: the file changed while it was read.
    pub fn abandon(self) {}

    fn close_chunk(&mut self) {
        let check = chunk_check(&self.check, self.place.at(), self.chunk, self.chunk_filled);
        self.builder.buffer.extend_from_slice(&check);
        self.check.reset();
        self.chunk += 1;
        self.chunk_filled = 0;
    }
}

impl Drop for EntryWriter<'_> {
    fn drop(&mut self) {
        if self.entry.is_none() {
            return;
        }
        let kept = self.place.data_offset().checked_sub(self.builder.drained_bytes);
        match kept.and_then(|kept| usize::try_from(kept).ok()) {
            Some(kept) => self.builder.buffer.truncate(kept),
            None => self.builder.spoilt = true,
        }
    }
}

/// A whole segment, to be stored and then verified.
#[derive(Clone, Debug)]
pub struct FinishedSegment {
    /// Its name.
    pub id: SegmentId,
    /// Length of the object.
    pub size_bytes: u64,
    /// blake3 of the whole object.
    pub digest: [u8; 32],
    /// What was not drained: the object's last bytes, or all of them.
    pub bytes: Bytes,
    /// The footer index.
    pub index: Arc<Index>,
}
