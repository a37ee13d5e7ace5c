//! What a file's bytes are: the content hash of a local file (its logical bytes, holes not
//! read), and the head of the original from its segment.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use crate::inode::Place;
use crate::recall::{Chunks, Memory, RecallError};
use crate::segment::{ContentHash, ContentHasher, IndexEntry, Packing, segment_key};
use crate::stub::{STUB_BYTES, STUB_LENGTH};
use crate::sys;
use crate::tenant::Tenant;

/// Bytes read at once.
const BUFFER_BYTES: usize = 1 << 20;
/// Extents asked for at once; a file with more is hashed in as many rounds.
const EXTENTS_AT_ONCE: usize = 1 << 20;

/// Reads a file and hashes it.
pub fn hash_local(file: &File) -> io::Result<ContentHash> {
    hash_while(file, || true)?.ok_or_else(|| io::ErrorKind::Interrupted.into())
}

/// The same, for as long as `go_on` says so before each read; none: it was stopped.
pub fn hash_while(file: &File, go_on: impl Fn() -> bool) -> io::Result<Option<ContentHash>> {
    let size = file.metadata()?.len();
    let mut hasher = ContentHasher::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let extents = sys::extent::data(file, size, EXTENTS_AT_ONCE)?
        .ok_or_else(|| io::Error::other("more extents than a file is hashed with"))?;
    for extent in extents {
        hasher.push_zeros(extent.offset - hasher.offset());
        let mut at = extent.offset;
        while at < extent.end() {
            if !go_on() {
                return Ok(None);
            }
            let room = usize::try_from(extent.end() - at).unwrap_or(BUFFER_BYTES);
            let count = file.read_at(&mut buffer[..room.min(BUFFER_BYTES)], at)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            hasher.push(&buffer[..count]);
            at += count as u64;
        }
    }
    hasher.push_zeros(size - hasher.offset());
    Ok(Some(hasher.finish(size)))
}

/// The first bytes of the file that an entry is of.
pub(super) async fn original_head(
    tenant: &Tenant,
    entry: &IndexEntry,
    patience: Duration,
) -> Result<Box<[u8; STUB_BYTES]>, RecallError> {
    let (meta, at) = (&entry.meta, entry.place.at());
    let damaged = |what: String| RecallError::Damaged { at, what };
    let packing =
        Packing::new(meta.size_bytes, &meta.extents).map_err(|bad| damaged(bad.to_string()))?;
    let key = segment_key(&tenant.name, at.segment);
    let place = Place { key, entry: entry.place, packing, size_bytes: meta.size_bytes };
    let runtime = tokio::runtime::Handle::current();
    let chunks =
        Arc::new(Chunks::new(Arc::clone(&tenant.store), &Arc::new(Memory::new(0)), runtime));
    let read = chunks.read(&place, 0..STUB_LENGTH.min(meta.size_bytes), patience).await?;
    let mut head = Box::new([0; STUB_BYTES]);
    head[..read.len()].copy_from_slice(&read);
    Ok(head)
}
