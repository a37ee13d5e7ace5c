//! A segment's frame: header, footer index and trailer.
//!
//! Each carries a checksum bound to the segment's id, so that a frame moved to another object
//! is refused; each begins or ends with a magic and a version, so that a newer one is named.

use crate::file_id::{EntryRef, SegmentId, TenantUuid};
use crate::segment::VERSION;
use crate::segment::entry::{BadEntry, IndexEntry};
use crate::segment::layout::{
    CHUNK_BYTES, HEADER_BYTES, LEAST_CHUNK_BYTES, MAX_OFFSET, TRAILER_BYTES,
};
use crate::wire::{self, Cut, Fields};

/// Largest footer that is written or read.
pub const MAX_FOOTER_BYTES: u64 = 64 << 20;
/// Least bytes of an entry in the footer, its length included.
const LEAST_ENTRY_BYTES: usize = 4 + 134;

const HEADER_MAGIC: &[u8; 8] = b"coldfsSG";
const FOOTER_MAGIC: &[u8; 8] = b"coldfsIX";
const TRAILER_MAGIC: &[u8; 8] = b"coldfsTR";
const HEADER_CONTEXT: &str = "coldfs 2026 v1 segment header";
const FOOTER_CONTEXT: &str = "coldfs 2026 v1 segment footer";
const TRAILER_CONTEXT: &str = "coldfs 2026 v1 segment trailer";

/// Why a part of a segment is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// Written by a later coldfs.
    #[error("{part} of version {version}, newer than this coldfs")]
    Newer {
        /// Header, footer or trailer.
        part: &'static str,
        /// Its version.
        version: u32,
    },
    /// Not what was written.
    #[error("{part}: {what}")]
    Damaged {
        /// Header, footer or trailer.
        part: &'static str,
        /// The field.
        what: &'static str,
    },
    /// An entry of the index is not what was written.
    #[error("footer: entry {number}: {bad}")]
    Entry {
        /// The entry's number.
        number: u32,
        /// What is wrong with it.
        bad: BadEntry,
    },
}

fn check(context: &str, id: SegmentId, parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(&id.0);
    for part in parts {
        hasher.update(part);
    }
    wire::truncated(&hasher.finalize())
}

/// The first 64 bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose segment it is.
    pub tenant: TenantUuid,
    /// Its name.
    pub id: SegmentId,
    /// Packed bytes in a chunk.
    pub chunk_bytes: u32,
}

impl Header {
    /// The bytes of a header.
    pub fn encode(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..8].copy_from_slice(HEADER_MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.chunk_bytes.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.tenant.0);
        bytes[32..48].copy_from_slice(&self.id.0);
        let checksum = check(HEADER_CONTEXT, self.id, &[&bytes[..48]]);
        bytes[48..].copy_from_slice(&checksum);
        bytes
    }

    /// Reads a header.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadFrame> {
        let part = "header";
        let damaged = |what| BadFrame::Damaged { part, what };
        let cut = |cut: Cut| damaged(cut.field);
        let mut fields = Fields::new(bytes);
        if fields.array("magic").map_err(cut)? != *HEADER_MAGIC {
            return Err(damaged("magic"));
        }
        let version = fields.u32("version").map_err(cut)?;
        refuse_newer(part, version)?;
        let chunk_bytes = fields.u32("chunk size").map_err(cut)?;
        let tenant = TenantUuid(fields.array("tenant").map_err(cut)?);
        let id = SegmentId(fields.array("segment id").map_err(cut)?);
        let checksum: [u8; 16] = fields.array("checksum").map_err(cut)?;
        if !fields.rest().is_empty() {
            return Err(damaged("length"));
        }
        if checksum != check(HEADER_CONTEXT, id, &[&bytes[..48]]) {
            return Err(damaged("checksum"));
        }
        if !(LEAST_CHUNK_BYTES..=CHUNK_BYTES).contains(&chunk_bytes) {
            return Err(damaged("chunk size"));
        }
        Ok(Self { tenant, id, chunk_bytes })
    }
}

/// The last 64 bytes of a segment: where the footer is, and its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Offset of the footer in the object; the entries' data ends here.
    pub footer_offset: u64,
    /// Length of the footer.
    pub footer_bytes: u64,
    /// Checksum of the footer.
    pub footer_check: [u8; 16],
}

impl Trailer {
    /// The trailer of a footer that begins at `footer_offset`.
    pub fn of(id: SegmentId, footer_offset: u64, footer: &[u8]) -> Self {
        let footer_check = check(FOOTER_CONTEXT, id, &[footer]);
        Self { footer_offset, footer_bytes: wire::u64_of(footer.len()), footer_check }
    }

    /// The bytes of a trailer.
    pub fn encode(&self, id: SegmentId) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..8].copy_from_slice(&self.footer_offset.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.footer_bytes.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.footer_check);
        bytes[48..52].copy_from_slice(&VERSION.to_le_bytes());
        bytes[56..].copy_from_slice(TRAILER_MAGIC);
        let checksum = check(TRAILER_CONTEXT, id, &[&bytes[..32], &bytes[48..]]);
        bytes[32..48].copy_from_slice(&checksum);
        bytes
    }

    /// Reads the trailer of an object of `object_bytes` that should be segment `id`.
    pub fn decode(bytes: &[u8], id: SegmentId, object_bytes: u64) -> Result<Self, BadFrame> {
        let part = "trailer";
        let damaged = |what| BadFrame::Damaged { part, what };
        let cut = |cut: Cut| damaged(cut.field);
        let mut fields = Fields::new(bytes);
        let footer_offset = fields.u64("footer offset").map_err(cut)?;
        let footer_bytes = fields.u64("footer length").map_err(cut)?;
        let footer_check = fields.array("footer checksum").map_err(cut)?;
        let checksum: [u8; 16] = fields.array("checksum").map_err(cut)?;
        let version = fields.u32("version").map_err(cut)?;
        fields.u32("reserved").map_err(cut)?;
        if fields.array("magic").map_err(cut)? != *TRAILER_MAGIC {
            return Err(damaged("magic"));
        }
        if !fields.rest().is_empty() {
            return Err(damaged("length"));
        }
        refuse_newer(part, version)?;
        if checksum != check(TRAILER_CONTEXT, id, &[&bytes[..32], &bytes[48..]]) {
            return Err(damaged("checksum"));
        }
        if !(HEADER_BYTES..=MAX_OFFSET).contains(&footer_offset) {
            return Err(damaged("footer offset"));
        }
        let end =
            footer_offset.checked_add(footer_bytes).and_then(|n| n.checked_add(TRAILER_BYTES));
        if footer_bytes > MAX_FOOTER_BYTES || end != Some(object_bytes) {
            return Err(damaged("footer length"));
        }
        Ok(Self { footer_offset, footer_bytes, footer_check })
    }
}

/// The footer index: every entry of a segment, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Whose segment it is.
    pub tenant: TenantUuid,
    /// Its name.
    pub segment: SegmentId,
    /// Packed bytes in a chunk.
    pub chunk_bytes: u32,
    /// The entries; an entry's number is its place here.
    pub entries: Vec<IndexEntry>,
}

impl Index {
    /// The entry with this number.
    pub fn entry(&self, number: u32) -> Option<&IndexEntry> {
        self.entries.get(usize::try_from(number).ok()?)
    }

    /// First offset behind the entries' data: where the footer begins.
    pub fn data_end(&self) -> u64 {
        self.entries.last().map_or(HEADER_BYTES, |entry| entry.place.end_offset())
    }

    /// The bytes of the footer.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(FOOTER_MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.chunk_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.tenant.0);
        bytes.extend_from_slice(&self.segment.0);
        bytes.extend_from_slice(&wire::u32_of(self.entries.len()).to_le_bytes());
        let mut one = Vec::new();
        for entry in &self.entries {
            one.clear();
            entry.encode(&mut one);
            bytes.extend_from_slice(&wire::u32_of(one.len()).to_le_bytes());
            bytes.extend_from_slice(&one);
        }
        bytes
    }

    /// Reads the footer that `trailer` describes, of the tenant and segment that are expected.
    pub fn decode(
        footer: &[u8],
        trailer: &Trailer,
        tenant: TenantUuid,
        segment: SegmentId,
    ) -> Result<Self, BadFrame> {
        let damaged = |what| BadFrame::Damaged { part: "footer", what };
        if trailer.footer_bytes != wire::u64_of(footer.len()) {
            return Err(damaged("length"));
        }
        if trailer.footer_check != check(FOOTER_CONTEXT, segment, &[footer]) {
            return Err(damaged("checksum"));
        }
        let index = Self::decode_checked(footer)?;
        if index.tenant != tenant {
            return Err(damaged("tenant"));
        }
        if index.segment != segment {
            return Err(damaged("segment id"));
        }
        if index.data_end() != trailer.footer_offset {
            return Err(damaged("end of data"));
        }
        Ok(index)
    }

    /// Reads a footer whose checksum fits, or whose checksum nobody has. Total all the same.
    fn decode_checked(footer: &[u8]) -> Result<Self, BadFrame> {
        let part = "footer";
        let damaged = |what| BadFrame::Damaged { part, what };
        let cut = |cut: Cut| damaged(cut.field);
        let mut fields = Fields::new(footer);
        if fields.array("magic").map_err(cut)? != *FOOTER_MAGIC {
            return Err(damaged("magic"));
        }
        refuse_newer(part, fields.u32("version").map_err(cut)?)?;
        let chunk_bytes = fields.u32("chunk size").map_err(cut)?;
        let tenant = TenantUuid(fields.array("tenant").map_err(cut)?);
        let segment = SegmentId(fields.array("segment id").map_err(cut)?);
        let count = fields.count("entry count", LEAST_ENTRY_BYTES).map_err(cut)?;
        let mut index = Self { tenant, segment, chunk_bytes, entries: Vec::with_capacity(count) };
        for number in 0..wire::u32_of(count) {
            let length = fields.count("entry length", 1).map_err(cut)?;
            let bytes = fields.take("entry", length).map_err(cut)?;
            let at = EntryRef { segment, entry: number };
            let entry = IndexEntry::decode(bytes, at, chunk_bytes)
                .map_err(|bad| BadFrame::Entry { number, bad })?;
            // Entries lie end to end: no byte belongs to two, none to nobody.
            if entry.place.data_offset() != index.data_end() {
                let bad = BadEntry::Field("data offset");
                return Err(BadFrame::Entry { number, bad });
            }
            index.entries.push(entry);
        }
        if !fields.rest().is_empty() {
            return Err(damaged("length"));
        }
        Ok(index)
    }
}

fn refuse_newer(part: &'static str, version: u32) -> Result<(), BadFrame> {
    match version {
        VERSION => Ok(()),
        0 => Err(BadFrame::Damaged { part, what: "version" }),
        version => Err(BadFrame::Newer { part, version }),
    }
}
