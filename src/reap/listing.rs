//! The segments of a tenant, as the store lists them: so many at once, from a cursor.

use crate::file_id::SegmentId;
use crate::segment::segment_key;
use crate::store::{LIST_LIMIT, ObjectInfo, ObjectKey, ObjectStore, StoreError};

/// Segments that are judged by one read of the directory: some 40 MiB of what is known of them,
/// and 4 TiB of small files. For more the directory is read again.
pub const SEGMENTS_AT_ONCE: usize = 65_536;

/// An object in a segment's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its key.
    pub key: ObjectKey,
    /// The segment; none: its key is not one that coldfs gives.
    pub id: Option<SegmentId>,
    /// Its size.
    pub size_bytes: u64,
}

/// Some of a tenant's segments.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// In the order of their keys.
    pub segments: Vec<Stored>,
    /// Where the next ones are; none: these were the last.
    pub next: Option<ObjectKey>,
}

/// Lists up to `limit` segments behind `after`.
pub async fn list(
    store: &dyn ObjectStore,
    tenant_name: &str,
    after: Option<ObjectKey>,
    limit: usize,
) -> Result<Listed, StoreError> {
    let prefix = format!("{tenant_name}/seg/");
    let (mut listed, mut after) = (Listed::default(), after);
    loop {
        let page = store.list(&prefix, after.as_ref()).await?;
        let is_last = page.len() < LIST_LIMIT;
        let last = page.last().map(|object| object.key.clone());
        if last.is_some() && last <= after {
            return Err(StoreError::Corrupt {
                action: "list",
                key: ObjectKey::new(prefix),
                store: store.url().to_owned(),
                reason: "it does not list what comes after a key".to_owned(),
            });
        }
        listed.segments.extend(page.into_iter().map(|object| stored(tenant_name, object)));
        if is_last {
            return Ok(listed);
        }
        if listed.segments.len() >= limit {
            return Ok(Listed { next: last, ..listed });
        }
        after = last;
    }
}

fn stored(tenant_name: &str, object: ObjectInfo) -> Stored {
    let ObjectInfo { key, size_bytes } = object;
    let id = key.as_str().rsplit('/').next().and_then(|name| name.parse().ok());
    let id = id.filter(|id| segment_key(tenant_name, *id) == key);
    Stored { key, id, size_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn all_segments_come_once_in_passes_and_strangers_have_no_name() {
        let store = MemoryStore::new();
        let mut ids: Vec<SegmentId> = (0..2_500).map(|_| SegmentId::generate()).collect();
        for id in &ids {
            store.put(&segment_key("t", *id), "abc".into()).await.unwrap();
        }
        for stranger in ["t/seg/readme", "t/seg/00/01ARZ3NDEKTSV4RRFFQ69G5FAV"] {
            store.put(&ObjectKey::new(stranger), "x".into()).await.unwrap();
        }
        // Another's, and what is no segment.
        for other in ["t/owner", "t2/seg/aa/1", "t/guests/1"] {
            store.put(&ObjectKey::new(other), "x".into()).await.unwrap();
        }
        let (mut found, mut strangers, mut after, mut passes) = (Vec::new(), 0, None, 0);
        loop {
            let listed = list(&store, "t", after, 1_000).await.unwrap();
            passes += 1;
            for segment in listed.segments {
                match segment.id {
                    Some(id) => {
                        assert_eq!(segment.size_bytes, 3);
                        found.push(id);
                    }
                    None => strangers += 1,
                }
            }
            let Some(next) = listed.next else { break };
            after = Some(next);
        }
        found.sort_unstable();
        ids.sort_unstable();
        assert_eq!((passes, strangers), (3, 2));
        assert!(found == ids);
    }
}
