//! Segments that are being uploaded: no record names them yet, and one may at any moment.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::file_id::SegmentId;

/// Those of a tenant. Their bound is that of the migrations under way.
#[derive(Debug, Default)]
pub struct Uploads(Mutex<HashSet<SegmentId>>);

/// One segment, from before its first byte is sent until the records that name it are set, or
/// never will be.
#[derive(Debug)]
#[must_use = "the segment is known only while this lives"]
pub struct Upload {
    uploads: Arc<Uploads>,
    id: SegmentId,
}

impl Uploads {
    /// A new segment.
    pub fn begin(self: &Arc<Self>) -> Upload {
        let id = SegmentId::generate();
        self.lock().insert(id);
        Upload { uploads: Arc::clone(self), id }
    }

    /// Those that are under way.
    pub fn under_way(&self) -> HashSet<SegmentId> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<SegmentId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upload {
    /// The segment's name.
    pub fn id(&self) -> SegmentId {
        self.id
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.uploads.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_known_from_its_beginning_to_its_end() {
        let uploads = Arc::new(Uploads::default());
        let (one, other) = (uploads.begin(), uploads.begin());
        assert_eq!(uploads.under_way(), HashSet::from([one.id(), other.id()]));
        let id = other.id();
        drop(one);
        assert_eq!(uploads.under_way(), HashSet::from([id]));
        drop(other);
        assert!(uploads.under_way().is_empty());
    }
}
