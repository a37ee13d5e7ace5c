//! A store that forgets: for tests of everything above a store.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::call::Call;
use super::fuse_thread::assert_may_wait;
use super::{LIST_LIMIT, ObjectInfo, ObjectKey, ObjectStore, StoreError, Upload};

const URL: &str = "memory:";

/// A store in memory. Clones share it. Counts its calls.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<ObjectKey, Bytes>,
    calls: [u64; Call::COUNT],
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// How often `call` was made.
    pub fn calls(&self, call: Call) -> u64 {
        self.state().calls[call as usize]
    }

    /// Every key, in order.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.state().objects.keys().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves a map that is still a map.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, call: Call) -> MutexGuard<'_, State> {
        assert_may_wait();
        let mut state = self.state();
        state.calls[call as usize] += 1;
        state
    }
}

fn not_found(key: &ObjectKey) -> StoreError {
    StoreError::NotFound { key: key.clone(), store: URL.to_owned() }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    fn url(&self) -> &str {
        URL
    }

    async fn put_new(&self, key: &ObjectKey, body: Bytes) -> Result<(), StoreError> {
        let mut state = self.enter(Call::PutNew);
        if state.objects.contains_key(key) {
            return Err(StoreError::AlreadyExists { key: key.clone(), store: URL.to_owned() });
        }
        state.objects.insert(key.clone(), body);
        Ok(())
    }

    async fn put(&self, key: &ObjectKey, body: Bytes) -> Result<(), StoreError> {
        self.enter(Call::Put).objects.insert(key.clone(), body);
        Ok(())
    }

    async fn upload(&self, key: &ObjectKey) -> Result<Box<dyn Upload>, StoreError> {
        drop(self.enter(Call::Upload));
        Ok(Box::new(MemoryUpload { store: self.clone(), key: key.clone(), body: BytesMut::new() }))
    }

    async fn get(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        let state = self.enter(Call::Get);
        let body = state.objects.get(key).ok_or_else(|| not_found(key))?;
        let part = usize::try_from(range.start)
            .ok()
            .zip(usize::try_from(range.end).ok())
            .and_then(|(start, end)| (end <= body.len()).then(|| body.slice(start..end)));
        part.ok_or_else(|| StoreError::Corrupt {
            action: Call::Get.name(),
            key: key.clone(),
            store: URL.to_owned(),
            reason: format!("bytes {range:?} of an object of {} bytes", body.len()),
        })
    }

    async fn size_bytes(&self, key: &ObjectKey) -> Result<u64, StoreError> {
        let state = self.enter(Call::Size);
        state.objects.get(key).map(|body| body.len() as u64).ok_or_else(|| not_found(key))
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> Result<Vec<ObjectInfo>, StoreError> {
        let state = self.enter(Call::List);
        let prefix = ObjectKey::new(prefix);
        let first = after.map_or(&prefix, |after| after.max(&prefix));
        let found = state.objects.range(first..).filter(|(key, _)| Some(*key) != after);
        let found = found.take_while(|(key, _)| key.as_str().starts_with(prefix.as_str()));
        Ok(found
            .take(LIST_LIMIT)
            .map(|(key, body)| ObjectInfo { key: key.clone(), size_bytes: body.len() as u64 })
            .collect())
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.enter(Call::Delete).objects.remove(key);
        Ok(())
    }
}

struct MemoryUpload {
    store: MemoryStore,
    key: ObjectKey,
    body: BytesMut,
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn part(&mut self, body: Bytes) -> Result<(), StoreError> {
        drop(self.store.enter(Call::Part));
        self.body.extend_from_slice(&body);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), StoreError> {
        self.store.enter(Call::Finish).objects.insert(self.key, self.body.freeze());
        Ok(())
    }

    async fn abort(self: Box<Self>) {}
}
