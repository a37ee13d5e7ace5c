//! Reading from a segment: a run of chunks in one request that proves itself, and the index.

use std::ops::Range;

use bytes::Bytes;

use crate::file_id::{EntryRef, SegmentId, TenantUuid};
use crate::segment::incoming::Incoming;
use crate::segment::index::{BadFrame, Header, Index, Trailer};
use crate::segment::layout::{CHECK_BYTES, EntryPlace, HEADER_BYTES, TRAILER_BYTES};
use crate::store::{ObjectKey, ObjectStore, StoreError};
use crate::wire;

/// Bytes that are fetched with the trailer in the hope that the footer is among them.
pub const TAIL_BYTES: u64 = 64 << 10;

/// Why bytes of a segment are not there, named for what the caller does about it.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store did not give them: its own error says whether to try again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store gave other bytes than were written. Read once more; then EIO.
    #[error("{key}: damaged: {what}")]
    Damaged {
        /// The object.
        key: ObjectKey,
        /// The part of it.
        what: String,
    },
    /// Written by a later coldfs: not damaged, and not for this one.
    #[error("{key}: {what}")]
    Newer {
        /// The object.
        key: ObjectKey,
        /// What is newer.
        what: String,
    },
}

impl ReadError {
    fn frame(key: &ObjectKey, bad: BadFrame) -> Self {
        let (key, what) = (key.clone(), bad.to_string());
        let newer = match bad {
            BadFrame::Newer { .. } => true,
            BadFrame::Entry { bad, .. } => matches!(bad, super::entry::BadEntry::Newer(_)),
            BadFrame::Damaged { .. } => false,
        };
        if newer { Self::Newer { key, what } } else { Self::Damaged { key, what } }
    }
}

/// Why a run of chunks is refused. Nothing of it may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// Not the length that these chunks have.
    #[error("chunks {first}.. of entry {at} have {expected_bytes} bytes, not {bytes}")]
    Length {
        /// The entry.
        at: EntryRef,
        /// First chunk of the run.
        first: u32,
        /// What they have.
        expected_bytes: u64,
        /// What came.
        bytes: u64,
    },
    /// A chunk's bytes do not fit its check.
    #[error("chunk {chunk} of entry {at} does not fit its checksum")]
    Check {
        /// The entry.
        at: EntryRef,
        /// The chunk.
        chunk: u32,
    },
}

/// The check that follows a chunk: over its bytes, then where it belongs. The place comes last,
/// and has a fixed length, so that the bytes are hashed at full speed and nothing is ambiguous.
pub(crate) fn chunk_check(
    bytes_hasher: &blake3::Hasher,
    at: EntryRef,
    chunk: u32,
    length_bytes: usize,
) -> [u8; 16] {
    let mut hasher = bytes_hasher.clone();
    hasher.update(b"coldfs chunk v1\0");
    hasher.update(&at.segment.0);
    hasher.update(&at.entry.to_le_bytes());
    hasher.update(&chunk.to_le_bytes());
    hasher.update(&wire::u64_of(length_bytes).to_le_bytes());
    wire::truncated(&hasher.finalize())
}

/// Cuts a run of chunks, as it lies in the object, into their packed bytes (no copies), each
/// checked. All or nothing.
pub fn verify_chunks(
    place: &EntryPlace,
    chunks: Range<u32>,
    run: &Bytes,
) -> Result<Vec<Bytes>, ChunkError> {
    let expected = place.object_range(chunks.clone());
    let expected_bytes = expected.end - expected.start;
    let bytes = wire::u64_of(run.len());
    let wrong_length =
        ChunkError::Length { at: place.at(), first: chunks.start, expected_bytes, bytes };
    if bytes != expected_bytes || chunks.end > place.chunk_count() {
        return Err(wrong_length);
    }
    let mut rest = run.clone();
    let mut verified = Vec::new();
    for chunk in chunks {
        let packed = place.packed_range(chunk..chunk.saturating_add(1));
        let length = usize::try_from(packed.end - packed.start).ok().ok_or(wrong_length)?;
        let check_bytes = usize::try_from(CHECK_BYTES).ok().ok_or(wrong_length)?;
        if rest.len() < length + check_bytes {
            return Err(wrong_length);
        }
        let data = rest.split_to(length);
        let check = rest.split_to(check_bytes);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&data);
        if chunk_check(&hasher, place.at(), chunk, length)[..] != check[..] {
            return Err(ChunkError::Check { at: place.at(), chunk });
        }
        verified.push(data);
    }
    Ok(verified)
}

/// Fetches chunks of an entry in one request and proves them: the packed bytes of each, in
/// order. The caller bounds the run, which is held in memory.
pub async fn fetch_chunks(
    store: &dyn ObjectStore,
    key: &ObjectKey,
    place: &EntryPlace,
    chunks: Range<u32>,
) -> Result<Vec<Bytes>, ReadError> {
    if chunks.is_empty() {
        return Ok(Vec::new());
    }
    let mut fetched = Vec::with_capacity(chunks.len());
    fetch_run(store, key, place, chunks, &mut |_, chunk| fetched.push(chunk)).await?;
    Ok(fetched)
}

/// Fetches chunks of an entry in one request, and hands on each as soon as it is proven, in
/// order. After an error the others are not there; those that were handed on are good.
pub async fn fetch_run(
    store: &dyn ObjectStore,
    key: &ObjectKey,
    place: &EntryPlace,
    chunks: Range<u32>,
    proven: &mut (dyn FnMut(u32, Bytes) + Send),
) -> Result<(), ReadError> {
    let range = place.object_range(chunks.clone());
    let mut incoming = Incoming::new(place, chunks);
    let mut bad = None;
    let mut take = |piece| {
        if bad.is_none() {
            bad = incoming.push(piece, &mut *proven).err();
        }
    };
    store.get_in_pieces(key, range, &mut take).await?;
    let outcome = bad.map_or_else(|| incoming.finish(), Err);
    outcome.map_err(|bad| ReadError::Damaged { key: key.clone(), what: bad.to_string() })
}

/// Reads and checks a segment's header.
pub async fn read_header(store: &dyn ObjectStore, key: &ObjectKey) -> Result<Header, ReadError> {
    let bytes = store.get(key, 0..HEADER_BYTES).await?;
    Header::decode(&bytes).map_err(|bad| ReadError::frame(key, bad))
}

/// Reads a segment's index and checks that it is the segment and the tenant's that are
/// expected.
pub async fn read_index(
    store: &dyn ObjectStore,
    key: &ObjectKey,
    tenant: TenantUuid,
    id: SegmentId,
) -> Result<Index, ReadError> {
    let size_bytes = store.size_bytes(key).await?;
    read_index_of(store, key, tenant, id, size_bytes).await
}

/// The same, of an object whose size is known.
pub async fn read_index_of(
    store: &dyn ObjectStore,
    key: &ObjectKey,
    tenant: TenantUuid,
    id: SegmentId,
    size_bytes: u64,
) -> Result<Index, ReadError> {
    let damaged = |what: &str| ReadError::Damaged { key: key.clone(), what: what.to_owned() };
    if size_bytes < HEADER_BYTES + TRAILER_BYTES {
        return Err(damaged("shorter than header and trailer"));
    }
    let tail_offset = size_bytes.saturating_sub(TAIL_BYTES);
    let tail = store.get(key, tail_offset..size_bytes).await?;
    let trailer_bytes = usize::try_from(TRAILER_BYTES).unwrap_or(usize::MAX);
    let Some((before, trailer)) = tail.len().checked_sub(trailer_bytes).map(|n| tail.split_at(n))
    else {
        return Err(damaged("trailer: cut short"));
    };
    let trailer =
        Trailer::decode(trailer, id, size_bytes).map_err(|bad| ReadError::frame(key, bad))?;
    let footer_end = trailer.footer_offset + trailer.footer_bytes;
    let decode = |footer: &[u8]| {
        Index::decode(footer, &trailer, tenant, id).map_err(|bad| ReadError::frame(key, bad))
    };
    match trailer.footer_offset.checked_sub(tail_offset) {
        Some(skip) => {
            let skip = usize::try_from(skip).unwrap_or(usize::MAX);
            decode(before.get(skip..).ok_or_else(|| damaged("footer: cut short"))?)
        }
        None => decode(&store.get(key, trailer.footer_offset..footer_end).await?),
    }
}
