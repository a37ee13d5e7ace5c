//! Indexes of segments, for stubs of files that were archived earlier.

use std::num::NonZeroUsize;
use std::sync::{Arc, PoisonError};

use super::{MigrateError, Migrator};
use crate::file_id::SegmentId;
use crate::segment::{Index, read_index, segment_key};

/// Indexes kept in memory: files of a directory tend to share few segments.
pub(super) const REMEMBERED: NonZeroUsize = NonZeroUsize::new(8).expect("not zero");

impl Migrator {
    /// The index of a segment, from memory or from the store.
    pub(super) async fn index(&self, id: SegmentId) -> Result<Arc<Index>, MigrateError> {
        if let Some(index) = self.lock_indexes().get(&id) {
            return Ok(Arc::clone(index));
        }
        let key = segment_key(&self.tenant.name, id);
        let tenant = self.tenant.seal.tenant();
        let index = read_index(&*self.tenant.store, &key, tenant, id)
            .await
            .map_err(|error| MigrateError::Segment(Arc::new(error)))?;
        let index = Arc::new(index);
        self.lock_indexes().put(id, Arc::clone(&index));
        Ok(index)
    }

    fn lock_indexes(&self) -> std::sync::MutexGuard<'_, lru::LruCache<SegmentId, Arc<Index>>> {
        self.indexes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
