//! A store in memory that counts requests, and segments to put there.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use crate::file_id::{EntryRef, Extent, FileHandle, Ino, SegmentId, TenantUuid, TimeNs};
use crate::segment::*;
use crate::store::governor::Class;
use crate::store::{ObjectInfo, ObjectKey, ObjectStore, StoreError, Upload};

pub(crate) const TENANT: TenantUuid = TenantUuid([7; 16]);
pub(crate) const ID: SegmentId = SegmentId([3; 16]);
/// Chunks of the tests' segments, small so that a file has many.
pub(crate) const CHUNK: u32 = 512;

#[derive(Default)]
pub(crate) struct Shelf {
    objects: Mutex<HashMap<ObjectKey, Bytes>>,
    pub(crate) gets: AtomicUsize,
    /// GETs of this class are never answered.
    pub(crate) stuck: Option<Class>,
}

impl Shelf {
    pub(crate) fn with(bytes: impl Into<Bytes>) -> Self {
        let shelf = Self::default();
        shelf.objects.lock().unwrap().insert(key(), bytes.into());
        shelf
    }

    fn object(&self, key: &ObjectKey) -> Result<Bytes, StoreError> {
        let missing = || StoreError::NotFound { key: key.clone(), store: "shelf:".to_owned() };
        self.objects.lock().unwrap().get(key).cloned().ok_or_else(missing)
    }
}

#[async_trait]
impl ObjectStore for Shelf {
    fn url(&self) -> &str {
        "shelf:"
    }

    async fn put_new(&self, key: &ObjectKey, body: Bytes) -> Result<(), StoreError> {
        self.objects.lock().unwrap().insert(key.clone(), body);
        Ok(())
    }

    async fn put(&self, key: &ObjectKey, body: Bytes) -> Result<(), StoreError> {
        self.put_new(key, body).await
    }

    async fn upload(&self, key: &ObjectKey) -> Result<Box<dyn Upload>, StoreError> {
        Err(StoreError::NotFound { key: key.clone(), store: "shelf:".to_owned() })
    }

    async fn get(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        if self.stuck == Some(Class::of_reads()) {
            std::future::pending::<()>().await;
        }
        let object = self.object(key)?;
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        object.get(range).map(Bytes::copy_from_slice).ok_or_else(|| StoreError::Corrupt {
            action: "get",
            key: key.clone(),
            store: "shelf:".to_owned(),
            reason: "range beyond the object".to_owned(),
        })
    }

    async fn size_bytes(&self, key: &ObjectKey) -> Result<u64, StoreError> {
        Ok(self.object(key)?.len() as u64)
    }

    async fn list(&self, _: &str, _: Option<&ObjectKey>) -> Result<Vec<ObjectInfo>, StoreError> {
        Ok(Vec::new())
    }

    async fn delete(&self, _: &ObjectKey) -> Result<(), StoreError> {
        Ok(())
    }
}

pub(crate) fn key() -> ObjectKey {
    segment_key("mail", ID)
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    futures::executor::block_on(future)
}

/// Bytes that differ from place to place.
pub(crate) fn noise(length: u64, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(length).unwrap()];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

pub(crate) fn meta(path: &str, size_bytes: u64, extents: Vec<Extent>) -> EntryMeta {
    EntryMeta {
        path: path.as_bytes().to_vec(),
        ino: Ino(12),
        handle: FileHandle { kind: 1, bytes: [1, 2, 3, 4, 5, 6, 7, 8].into() },
        mode: 0o100_644,
        uid: 1000,
        gid: 100,
        nlink: 1,
        size_bytes,
        mtime: TimeNs(1_700_000_000_000_000_001),
        ctime: TimeNs(1_700_000_000_000_000_002),
        atime: TimeNs(-3),
        blocks_512: size_bytes.div_ceil(512),
        xattrs: vec![(b"user.colour".to_vec(), b"blue".to_vec())],
        extents,
        aliases: vec![EntryRef { segment: SegmentId([4; 16]), entry: 9 }],
    }
}

pub(crate) fn whole(path: &str, size_bytes: u64) -> EntryMeta {
    meta(path, size_bytes, vec![Extent { offset: 0, length: size_bytes }])
}

/// Three files: several chunks, a sparse one, an all-hole one.
pub(crate) fn segment() -> FinishedSegment {
    let mut builder = SegmentBuilder::with_chunk_bytes(TENANT, ID, CHUNK);
    add(&mut builder, whole("a/one", 1300), &noise(1300, 1));
    add(&mut builder, sparse(), &noise(4096 + 1000, 2));
    add(&mut builder, meta("empty", 65_536, Vec::new()), &[]);
    builder.finish().unwrap()
}

pub(crate) fn sparse() -> EntryMeta {
    let extents =
        vec![Extent { offset: 8192, length: 4096 }, Extent { offset: 20_000, length: 1000 }];
    meta("a/sparse", 50_000, extents)
}

pub(crate) fn add(builder: &mut SegmentBuilder, meta: EntryMeta, packed: &[u8]) -> EntryPlace {
    let mut writer = builder.begin_entry(meta).unwrap();
    for part in packed.chunks(100) {
        writer.push(part).unwrap();
    }
    writer.finish(ContentHash([0xcd; 32])).unwrap()
}
