//! The stub: what stands in the place of a released file's bytes, in words.
//!
//! Exactly 4,096 bytes of printable ASCII, newlines and spaces. Eight sectors of 512 bytes, each
//! 504 bytes of text and the mark `#coldfs` with a newline: a sector that a power cut left
//! behind is known for a stub's without asking anybody. The texts, end to end:
//!
//! ```text
//! #!/bin/false coldfs stub 1        a program that cannot be run; the version
//! exit 1                            a shell that runs the lines anyway stops here
//! note mount with coldfs to read    for people
//! store s3://bucket/prefix          percent-escaped outside printable ASCII
//! tenant mail 0f3a...               name (escaped), UUID in hex
//! segment 01JD...                   ULID
//! entry 7                           number of the entry in the segment
//! size 123456                       size of the file
//! content 3b8c...                   content hash in hex
//! offset 64                         of the entry's data in the segment
//! chunk 1048576                     packed bytes in a chunk
//! extents 0+1a 3+=77                gap and length of each data extent; - where there are none
//! key 91d2...                       id of the key
//! mac 5e01...                       keyed hash of all text up to and including "mac "
//! ```
//!
//! and spaces up to the end. Numbers of `extents` are base 36, in units of 4 KiB, or of bytes
//! behind a `=`. There is one way to write a stub: anything else is damaged.

mod text;
mod torn;

pub use torn::{holds_stub_sector, torn};

use crate::file_id::{EntryRef, Extent, TenantUuid};
use crate::seal::{self, KeyId, MAC_BYTES, Seal};
use crate::segment::content::ContentHash;
use crate::segment::entry::IndexEntry;
use crate::segment::layout::{self, EntryPlace};

/// Length of a stub; a file of this size or less is never migrated.
pub const STUB_BYTES: usize = 4096;
/// The same, as offsets of a file are counted.
pub const STUB_LENGTH: u64 = 4096;
/// The version this code writes.
pub const VERSION: u32 = 1;
/// The least of a file that [`looks_like_stub`] needs.
pub const GLANCE_BYTES: usize = 32;

const MAGIC: &[u8] = b"#!/bin/false coldfs stub ";
const SECTOR_BYTES: usize = 512;
const MARK: &[u8; 8] = b"#coldfs\n";
const TEXT_BYTES: usize = STUB_BYTES - STUB_BYTES / SECTOR_BYTES * MARK.len();

/// What a stub says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stub {
    /// URL of the store.
    pub store: String,
    /// The tenant's name, part of the object's key.
    pub tenant_name: String,
    /// The tenant.
    pub tenant: TenantUuid,
    /// Where the bytes are.
    pub at: EntryRef,
    /// Size of the file.
    pub size_bytes: u64,
    /// What its bytes are.
    pub content: ContentHash,
    /// Offset of the entry's data in the segment.
    pub data_offset: u64,
    /// Packed bytes in a chunk.
    pub chunk_bytes: u32,
    /// The file's data extents.
    pub extents: Vec<Extent>,
}

/// What a file's first 4,096 bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StubHead {
    /// Something else.
    NotAStub,
    /// Begins as a stub and is not one that coldfs wrote.
    Damaged(&'static str),
    /// A stub of a later coldfs.
    Newer(u32),
    /// A stub of this tenant, its MAC checked.
    Sealed(Stub),
    /// Reads as a stub; of another tenant or key, or forged.
    Unsealed(Stub),
}

/// The stub would be longer than 4,096 bytes (or its extents are not in order): the file is
/// archived, never released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{extents} extents need {needed_bytes} bytes of a stub that holds {TEXT_BYTES}")]
pub struct TooManyExtents {
    /// Number of extents.
    pub extents: usize,
    /// Text bytes that the stub would have.
    pub needed_bytes: usize,
}

/// Whether a file that begins so may be a stub; at least [`GLANCE_BYTES`] of it are needed.
pub fn looks_like_stub(head: &[u8]) -> bool {
    head.starts_with(MAGIC)
}

impl Stub {
    /// The stub of an entry of an index.
    pub fn of_entry(
        entry: &IndexEntry,
        store: &str,
        tenant_name: &str,
        tenant: TenantUuid,
    ) -> Self {
        Self {
            store: store.to_owned(),
            tenant_name: tenant_name.to_owned(),
            tenant,
            at: entry.place.at(),
            size_bytes: entry.meta.size_bytes,
            content: entry.content,
            data_offset: entry.place.data_offset(),
            chunk_bytes: entry.place.chunk_bytes(),
            extents: entry.meta.extents.clone(),
        }
    }

    /// Where the packed stream is; none where the stub's own numbers are impossible, which
    /// [`Stub::parse`] lets nobody see.
    pub fn place(&self) -> Option<EntryPlace> {
        let packed_bytes = layout::packed_bytes(self.size_bytes, &self.extents).ok()?;
        EntryPlace::new(self.at, self.data_offset, packed_bytes, self.chunk_bytes).ok()
    }

    /// The body of the stub. `seal` is the stub's tenant's.
    pub fn encode(&self, seal: &Seal) -> Result<[u8; STUB_BYTES], TooManyExtents> {
        debug_assert_eq!(self.tenant, seal.tenant(), "a stub is sealed by its own tenant");
        let mut text = text::render(self, seal.id()).into_bytes();
        let mac = seal.stub_mac(&text);
        text.extend_from_slice(text::hex(&mac).as_bytes());
        text.push(b'\n');
        if text.len() > TEXT_BYTES || self.place().is_none() {
            let (extents, needed_bytes) = (self.extents.len(), text.len());
            return Err(TooManyExtents { extents, needed_bytes });
        }
        text.resize(TEXT_BYTES, b' ');
        let mut body = [b' '; STUB_BYTES];
        let sectors = body.chunks_exact_mut(SECTOR_BYTES);
        for (sector, part) in sectors.zip(text.chunks(SECTOR_BYTES - MARK.len())) {
            let (words, mark) = sector.split_at_mut(part.len());
            words.copy_from_slice(part);
            mark.copy_from_slice(MARK);
        }
        Ok(body)
    }

    /// Reads a file's head; what follows the first 4,096 bytes is ignored.
    pub fn parse(head: &[u8], seal: &Seal) -> StubHead {
        if !looks_like_stub(head) {
            return StubHead::NotAStub;
        }
        match text::version(&head[MAGIC.len()..]) {
            Some(VERSION) => {}
            None | Some(0) => return StubHead::Damaged("version"),
            Some(newer) => return StubHead::Newer(newer),
        }
        let Some(body) = head.first_chunk::<STUB_BYTES>() else {
            return StubHead::Damaged("cut short");
        };
        match parse_body(body) {
            Err(what) => StubHead::Damaged(what),
            Ok(Parsed { stub, key, mac, sealed_text }) => {
                let ours = key == seal.id()
                    && stub.tenant == seal.tenant()
                    && seal::fits(&mac, &seal.stub_mac(&sealed_text));
                if ours { StubHead::Sealed(stub) } else { StubHead::Unsealed(stub) }
            }
        }
    }
}

struct Parsed {
    stub: Stub,
    key: KeyId,
    mac: [u8; MAC_BYTES],
    /// What the MAC is over.
    sealed_text: Vec<u8>,
}

fn parse_body(body: &[u8; STUB_BYTES]) -> Result<Parsed, &'static str> {
    let mut bytes = Vec::with_capacity(TEXT_BYTES);
    for sector in body.chunks_exact(SECTOR_BYTES) {
        let (part, mark) = sector.split_at(SECTOR_BYTES - MARK.len());
        if mark != MARK {
            return Err("sector mark");
        }
        bytes.extend_from_slice(part);
    }
    let all = std::str::from_utf8(&bytes).ok().ok_or("text")?;
    let (stub, key, mac, rest) = text::read(all)?;
    if rest.bytes().any(|byte| byte != b' ') {
        return Err("padding");
    }
    // One way to write a stub: what we would write of this is what stands there.
    let rendered = text::render(&stub, key);
    let ending = format!("{}\n", text::hex(&mac));
    if !all.starts_with(&rendered) || all[rendered.len()..] != format!("{ending}{rest}") {
        return Err("not written by coldfs");
    }
    if stub.place().is_none() || stub.size_bytes > layout::MAX_OFFSET {
        return Err("impossible numbers");
    }
    Ok(Parsed { stub, key, mac, sealed_text: rendered.into_bytes() })
}

#[cfg(test)]
mod tests;
