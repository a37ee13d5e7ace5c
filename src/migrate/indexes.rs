//! Indexes of segments, for stubs of files that were archived earlier.

use std::num::NonZeroUsize;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{MigrateError, Migrator};
use crate::file_id::{EntryRef, SegmentId};
use crate::recall::remote_index;
use crate::segment::Index;

/// Indexes kept in memory: files of a directory tend to share few segments.
pub(super) const REMEMBERED: NonZeroUsize = NonZeroUsize::new(8).expect("not zero");

/// How long an index is waited for: a store that has to be retried, and no more.
const PATIENCE: Duration = Duration::from_secs(60);

impl Migrator {
    /// The index of a segment, from memory or from the store.
    pub(super) async fn index(&self, at: EntryRef) -> Result<Arc<Index>, MigrateError> {
        if let Some(index) = self.lock_indexes().get(&at.segment) {
            return Ok(Arc::clone(index));
        }
        let index = remote_index(&self.tenant, at, PATIENCE).await.map_err(MigrateError::Index)?;
        let index = Arc::new(index);
        self.lock_indexes().put(at.segment, Arc::clone(&index));
        Ok(index)
    }

    fn lock_indexes(&self) -> std::sync::MutexGuard<'_, lru::LruCache<SegmentId, Arc<Index>>> {
        self.indexes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
