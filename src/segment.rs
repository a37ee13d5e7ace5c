//! Segments: immutable objects that carry cold files' bytes, written once, verified, and read
//! by ranges that prove themselves (`docs/format.md`, "Segment").
//!
//! ```text
//! header 64 | entry 0: chunk check chunk check ... | entry 1 ... | footer index | trailer 64
//! ```
//!
//! [`layout`] is the arithmetic, [`content`] the hash of a file's logical bytes, [`entry`] and
//! [`index`] what the footer says of each file, [`write`] fills a segment, [`verify`] reads it
//! back and alone makes the proof that lets a record name it, [`read`] fetches from it, and
//! [`incoming`] proves what is still coming.

pub mod content;
pub mod entry;
pub mod incoming;
pub mod index;
pub mod layout;
pub mod read;
pub mod verify;
pub mod write;

pub use content::{ContentHash, ContentHasher};
pub use entry::{EntryMeta, IndexEntry};
pub use incoming::Incoming;
pub use index::Index;
pub use layout::{EntryPlace, Packing, Piece};
pub use read::{ReadError, fetch_chunks, fetch_run, read_header, read_index, verify_chunks};
pub use verify::{VerifiedSegment, verify};
pub use write::{EntryWriter, FinishedSegment, SegmentBuilder, WriteError};

use crate::file_id::SegmentId;
use crate::store::ObjectKey;

/// The version this code writes.
pub const VERSION: u32 = 1;

/// The key of a segment below the store's prefix: `TENANT/seg/SHARD/ULID`. The shard is the
/// first byte of a hash of the id, because ULIDs of one hour share their beginning and engines
/// split load by prefix.
pub fn segment_key(tenant_name: &str, id: SegmentId) -> ObjectKey {
    let shard = blake3::hash(&id.0).as_bytes()[0];
    ObjectKey::new(format!("{tenant_name}/seg/{shard:02x}/{id}"))
}

#[cfg(test)]
pub(crate) mod tests;
