//! Where bytes are: logical offsets of a file, offsets in its packed stream, chunks of that
//! stream, ranges of the object. Pure arithmetic, and total: what the constructors let through
//! never overflows.
//!
//! ```text
//! logical   0 ....[==A==]..........[=====B=====]....size
//! packed    [==A==][=====B=====]                 holes are left out
//! chunks    |  0  |  1  |  2  |3|                chunk_bytes each, the last one short
//! object    | 0 |c| 1 |c| 2 |c|3|c               each followed by its 16-byte check
//! ```

use std::ops::Range;

use crate::file_id::{EntryRef, Extent};

/// The most packed bytes in a chunk, and what this code writes.
pub const CHUNK_BYTES: u32 = 1 << 20;
/// The least that a reader accepts as chunk size.
pub const LEAST_CHUNK_BYTES: u32 = 512;
/// Bytes of the check that follows each chunk.
pub const CHECK_BYTES: u64 = 16;
/// Bytes of a segment's header.
pub const HEADER_BYTES: u64 = 64;
/// Bytes of a segment's trailer.
pub const TRAILER_BYTES: u64 = 64;
/// The largest offset that a file or an object has.
pub const MAX_OFFSET: u64 = i64::MAX as u64;

/// A place that no segment can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("impossible place of an entry: {0}")]
pub struct BadPlace(pub &'static str);

/// Where an entry's packed stream lies in its segment. Enough, with the segment's key, to read
/// any part of it in one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryPlace {
    at: EntryRef,
    data_offset: u64,
    packed_bytes: u64,
    chunk_bytes: u32,
}

impl EntryPlace {
    /// Refuses what would not fit an object or a chunk number of 32 bits.
    pub fn new(
        at: EntryRef,
        data_offset: u64,
        packed_bytes: u64,
        chunk_bytes: u32,
    ) -> Result<Self, BadPlace> {
        if !(LEAST_CHUNK_BYTES..=CHUNK_BYTES).contains(&chunk_bytes) {
            return Err(BadPlace("chunk size"));
        }
        if data_offset < HEADER_BYTES {
            return Err(BadPlace("data offset"));
        }
        let chunks = packed_bytes.div_ceil(u64::from(chunk_bytes));
        if u32::try_from(chunks).is_err() {
            return Err(BadPlace("packed length"));
        }
        let end = (chunks * CHECK_BYTES)
            .checked_add(packed_bytes)
            .and_then(|stored| stored.checked_add(data_offset));
        match end {
            Some(end) if end <= MAX_OFFSET => {
                Ok(Self { at, data_offset, packed_bytes, chunk_bytes })
            }
            _ => Err(BadPlace("end of data")),
        }
    }

    /// The segment and the entry's number in it.
    pub fn at(&self) -> EntryRef {
        self.at
    }

    /// Offset of chunk 0 in the object.
    pub fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// Length of the packed stream.
    pub fn packed_bytes(&self) -> u64 {
        self.packed_bytes
    }

    /// Packed bytes in every chunk but the last.
    pub fn chunk_bytes(&self) -> u32 {
        self.chunk_bytes
    }

    /// Number of chunks.
    pub fn chunk_count(&self) -> u32 {
        let chunks = self.packed_bytes.div_ceil(u64::from(self.chunk_bytes));
        u32::try_from(chunks).unwrap_or(u32::MAX) // the constructor refused more
    }

    /// Length of the entry's data in the object, checks included.
    pub fn stored_bytes(&self) -> u64 {
        self.packed_bytes + u64::from(self.chunk_count()) * CHECK_BYTES
    }

    /// First offset in the object behind the entry's data.
    pub fn end_offset(&self) -> u64 {
        self.data_offset + self.stored_bytes()
    }

    /// The chunks that hold these packed bytes; beyond the stream there are none.
    pub fn chunks_of(&self, packed: Range<u64>) -> Range<u32> {
        let end = packed.end.min(self.packed_bytes);
        if packed.start >= end {
            return 0..0;
        }
        let chunk = u64::from(self.chunk_bytes);
        let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        number(packed.start / chunk)..number(end.div_ceil(chunk))
    }

    /// The packed bytes in these chunks.
    pub fn packed_range(&self, chunks: Range<u32>) -> Range<u64> {
        let at =
            |chunk: u32| (u64::from(chunk) * u64::from(self.chunk_bytes)).min(self.packed_bytes);
        at(chunks.start)..at(chunks.end).max(at(chunks.start))
    }

    /// The range of the object that holds these chunks and their checks.
    pub fn object_range(&self, chunks: Range<u32>) -> Range<u64> {
        let at = |chunk: u32| {
            let chunk = chunk.min(self.chunk_count());
            let packed = self.packed_range(0..chunk).end;
            self.data_offset + packed + u64::from(chunk) * CHECK_BYTES
        };
        at(chunks.start)..at(chunks.end).max(at(chunks.start))
    }
}

/// Extents that are empty, out of order, overlapping or beyond the file's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("extent {number} is empty, out of order or beyond the file's size")]
pub struct BadExtents {
    /// Number of the first bad one, from 0.
    pub number: usize,
}

/// A part of a logical range: a hole, or data and where it is in the packed stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Reads as zeros.
    Hole(Extent),
    /// Lies in the packed stream.
    Data {
        /// Where in the file.
        at: Extent,
        /// Where in the packed stream.
        packed_offset: u64,
    },
}

/// How a file's extents are laid end to end in its packed stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packing {
    size_bytes: u64,
    /// Each extent with the packed offset of its first byte.
    spans: Vec<(Extent, u64)>,
    packed_bytes: u64,
}

impl Packing {
    /// From a file's size and its data extents in order.
    pub fn new(size_bytes: u64, extents: &[Extent]) -> Result<Self, BadExtents> {
        let packed_bytes = packed_bytes(size_bytes, extents)?;
        let mut packed_offset = 0;
        let spans = extents.iter().map(|extent| {
            let span = (*extent, packed_offset);
            packed_offset += extent.length;
            span
        });
        Ok(Self { size_bytes, spans: spans.collect(), packed_bytes })
    }

    /// Length of the packed stream.
    pub fn packed_bytes(&self) -> u64 {
        self.packed_bytes
    }

    /// What the file's bytes in `logical` are, in order, cut at the file's end.
    pub fn pieces(&self, logical: Range<u64>) -> Vec<Piece> {
        let end = logical.end.min(self.size_bytes);
        let mut pieces = Vec::new();
        let mut offset = logical.start;
        let first = self.spans.partition_point(|(extent, _)| extent.end() <= offset);
        for (extent, packed_offset) in &self.spans[first..] {
            if extent.offset >= end || offset >= end {
                break;
            }
            if extent.offset > offset {
                pieces.push(Piece::Hole(Extent { offset, length: extent.offset - offset }));
                offset = extent.offset;
            }
            let length = extent.end().min(end) - offset;
            let packed_offset = packed_offset + (offset - extent.offset);
            pieces.push(Piece::Data { at: Extent { offset, length }, packed_offset });
            offset += length;
        }
        if offset < end {
            pieces.push(Piece::Hole(Extent { offset, length: end - offset }));
        }
        pieces
    }

    /// The shortest run of the packed stream that holds all data of `logical`; none where it
    /// is all hole.
    pub fn packed_range(&self, logical: Range<u64>) -> Option<Range<u64>> {
        let first = self.spans.partition_point(|(extent, _)| extent.end() <= logical.start);
        let last = self.spans.partition_point(|(extent, _)| extent.offset < logical.end);
        let (head, head_packed) = self.spans.get(first)?;
        let (tail, tail_packed) = self.spans.get(last.checked_sub(1)?)?;
        let start = head_packed + logical.start.saturating_sub(head.offset);
        let end = tail_packed + logical.end.min(tail.end()).checked_sub(tail.offset)?;
        (start < end).then_some(start..end)
    }

    /// Where the bytes in `packed` belong in the file, in order: only [`Piece::Data`].
    pub fn data_of(&self, packed: Range<u64>) -> Vec<Piece> {
        let end = packed.end.min(self.packed_bytes);
        let first =
            self.spans.partition_point(|(extent, start)| start + extent.length <= packed.start);
        let mut pieces = Vec::new();
        for (extent, start) in &self.spans[first..] {
            let from = packed.start.max(*start);
            let to = end.min(start + extent.length);
            if from >= to {
                break;
            }
            let at = Extent { offset: extent.offset + (from - start), length: to - from };
            pieces.push(Piece::Data { at, packed_offset: from });
        }
        pieces
    }
}

/// Length of the packed stream of these extents, which are checked.
pub fn packed_bytes(size_bytes: u64, extents: &[Extent]) -> Result<u64, BadExtents> {
    let mut at = 0;
    let mut total = 0;
    for (number, extent) in extents.iter().enumerate() {
        let bad = BadExtents { number };
        let end = extent.offset.checked_add(extent.length).ok_or(bad)?;
        if extent.length == 0 || extent.offset < at || end > size_bytes || end > MAX_OFFSET {
            return Err(bad);
        }
        at = end;
        total += extent.length; // disjoint and below 2^63
    }
    Ok(total)
}
