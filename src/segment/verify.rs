//! The proof that a segment is stored: read back whole and found equal. Only this makes a
//! [`VerifiedSegment`], and only with one may a record name the segment (I5).

use std::sync::Arc;

use crate::file_id::{SegmentId, TenantUuid};
use crate::segment::entry::IndexEntry;
use crate::segment::index::Index;
use crate::segment::write::FinishedSegment;
use crate::store::{ObjectKey, ObjectStore, StoreError};
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
        /// Size or bytes.
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

/// Reads the stored object back, in bounded pieces, and compares it with what was written.
pub async fn verify(
    store: &dyn ObjectStore,
    key: &ObjectKey,
    written: &FinishedSegment,
) -> Result<VerifiedSegment, VerifyError> {
    let failed = |source| VerifyError::Store { key: key.clone(), source };
    let differs = |what| VerifyError::Differs { key: key.clone(), what };
    if store.size_bytes(key).await.map_err(failed)? != written.size_bytes {
        return Err(differs("size"));
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
    let (size_bytes, index) = (written.size_bytes, Arc::clone(&written.index));
    Ok(VerifiedSegment { key: key.clone(), size_bytes, index })
}
