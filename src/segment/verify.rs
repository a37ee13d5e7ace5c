//! The proof that a segment is stored: read back whole and found equal, or, where the engine was
//! seen to compute checksums itself, by the one it tells. Only this makes a [`VerifiedSegment`], and
//! only with one may a record name the segment (I5).

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::file_id::{SegmentId, TenantUuid};
use crate::segment::entry::IndexEntry;
use crate::segment::index::Index;
use crate::segment::write::FinishedSegment;
use crate::store::governor::{Class, ranked};
use crate::store::{ObjectKey, ObjectStore, StoreError, Verify};
use crate::wire;

/// Bytes that a verification holds in memory at once.
pub const VERIFY_PART_BYTES: u64 = 8 << 20;

/// Why a stored segment is not proven.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The store did not answer: nothing is known; try again.
    #[error("verify: {source}")]
    Store {
        /// The object.
        key: ObjectKey,
        /// The store's error.
        #[source]
        source: StoreError,
    },
    /// The store holds something else: delete it, and archive the files again.
    #[error("{key}: the store does not hold what was sent: {what}")]
    Differs {
        /// The object.
        key: ObjectKey,
        /// Size, checksum or bytes.
        what: &'static str,
    },
}

/// A segment that is stored, durable, and was read back as it was written.
#[derive(Clone, Debug)]
#[must_use = "only a verified segment may replace a file's bytes"]
pub struct VerifiedSegment {
    key: ObjectKey,
    size_bytes: u64,
    index: Arc<Index>,
}

impl VerifiedSegment {
    /// The segment's name.
    pub fn id(&self) -> SegmentId {
        self.index.segment
    }

    /// Whose it is.
    pub fn tenant(&self) -> TenantUuid {
        self.index.tenant
    }

    /// Its key in the store.
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// Length of the object.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The entry with this number.
    pub fn entry(&self, number: u32) -> Option<&IndexEntry> {
        self.index.entry(number)
    }

    /// All entries, in order.
    pub fn entries(&self) -> &[IndexEntry] {
        &self.index.entries
    }
}

/// Compares what is stored with what was written: by the engine's own checksum where the store is
/// proven so and the whole segment is at hand, else by reading it back in bounded pieces. Whoever
/// waits for a cold file's bytes goes first.
pub async fn verify(
    store: &dyn ObjectStore,
    key: &ObjectKey,
    written: &FinishedSegment,
) -> Result<VerifiedSegment, VerifyError> {
    ranked(Class::Archive, compare(store, key, written)).await
}

async fn compare(
    store: &dyn ObjectStore,
    key: &ObjectKey,
    written: &FinishedSegment,
) -> Result<VerifiedSegment, VerifyError> {
    let failed = |source| VerifyError::Store { key: key.clone(), source };
    let differs = |what| VerifyError::Differs { key: key.clone(), what };
    let told = store.told(key).await.map_err(failed)?;
    if told.size_bytes != written.size_bytes {
        return Err(differs("size"));
    }
    let proven = VerifiedSegment {
        key: key.clone(),
        size_bytes: written.size_bytes,
        index: Arc::clone(&written.index),
    };
    // What was sent in parts is not at hand any more.
    let is_whole = wire::u64_of(written.bytes.len()) == written.size_bytes;
    if store.verify() == Verify::Checksum
        && is_whole
        && let Some(told) = told.sha256
    {
        let ours: [u8; 32] = Sha256::digest(&written.bytes).into();
        return if told == ours { Ok(proven) } else { Err(differs("checksum")) };
    }
    let mut digest = blake3::Hasher::new();
    let mut offset = 0;
    while offset < written.size_bytes {
        let end = (offset + VERIFY_PART_BYTES).min(written.size_bytes);
        let part = store.get(key, offset..end).await.map_err(failed)?;
        if wire::u64_of(part.len()) != end - offset {
            return Err(differs("length of a part"));
        }
        digest.update(&part);
        offset = end;
    }
    if *digest.finalize().as_bytes() != written.digest {
        return Err(differs("bytes"));
    }
    Ok(proven)
}
