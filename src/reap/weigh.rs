//! What a segment holds, by its own index: how much of it is named.

use super::tally::Refs;
use super::verdict::IndexFact;
use crate::file_id::{SegmentId, TenantUuid};
use crate::segment::ReadError;
use crate::segment::read::read_index_of;
use crate::store::{ObjectKey, ObjectStore};

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weighed {
    /// Its entries.
    pub entries: u32,
    /// Those that are named.
    pub live_entries: u32,
    /// Their bytes in it.
    pub live_bytes: u64,
    /// The bytes of the others.
    pub dead_bytes: u64,
    took_over: bool,
}

impl Weighed {
    /// The same as a fact.
    pub fn fact(&self) -> IndexFact {
        let Self { entries, live_entries: live, took_over, .. } = *self;
        IndexFact::Read { entries, live, took_over }
    }
}

/// Reads a segment's index, of an object of that size, and weighs what is named of it.
pub async fn weigh(
    store: &dyn ObjectStore,
    key: &ObjectKey,
    tenant: TenantUuid,
    id: SegmentId,
    size_bytes: u64,
    refs: &Refs,
) -> Result<Weighed, ReadError> {
    let index = read_index_of(store, key, tenant, id, size_bytes).await?;
    let entries = u32::try_from(index.entries.len()).unwrap_or(u32::MAX);
    let mut weighed =
        Weighed { entries, live_entries: 0, live_bytes: 0, dead_bytes: 0, took_over: false };
    for (number, entry) in (0..).zip(&index.entries) {
        let bytes = entry.place.stored_bytes();
        weighed.took_over |= !entry.meta.aliases.is_empty();
        if refs.has(number, entries) {
            weighed.live_entries += 1;
            weighed.live_bytes += bytes;
        } else {
            weighed.dead_bytes += bytes;
        }
    }
    Ok(weighed)
}
