//! Whose request goes first where an engine bears few.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::support::*;
use crate::segment::*;
use crate::store::call::Call;
use crate::store::governor::{Class, Governor, Limits};
use crate::store::{ObjectInfo, ObjectKey, ObjectStore, StoreError, Upload};

/// A shelf behind a window of one request, each of which waits for leave to end.
struct Slow {
    shelf: Shelf,
    governor: Arc<Governor>,
    leave: Semaphore,
    served: Mutex<Vec<Class>>,
}

impl Slow {
    async fn turn(&self, call: Call) {
        let class = Class::of(call);
        let _permit = self.governor.admit(class).await.unwrap();
        self.served.lock().unwrap().push(class);
        self.leave.acquire().await.unwrap().forget();
    }
}

#[async_trait]
impl ObjectStore for Slow {
    fn url(&self) -> &str {
        self.shelf.url()
    }

    async fn put_new(&self, key: &ObjectKey, body: Bytes) -> Result<(), StoreError> {
        self.shelf.put_new(key, body).await
    }

    async fn put(&self, key: &ObjectKey, body: Bytes) -> Result<(), StoreError> {
        self.shelf.put(key, body).await
    }

    async fn upload(&self, key: &ObjectKey) -> Result<Box<dyn Upload>, StoreError> {
        self.shelf.upload(key).await
    }

    async fn get(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.turn(Call::Get).await;
        self.shelf.get(key, range).await
    }

    async fn size_bytes(&self, key: &ObjectKey) -> Result<u64, StoreError> {
        self.turn(Call::Size).await;
        self.shelf.size_bytes(key).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> Result<Vec<ObjectInfo>, StoreError> {
        self.shelf.list(prefix, after).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.shelf.delete(key).await
    }
}

#[tokio::test]
async fn a_cold_read_goes_before_an_archives_next_look_at_what_it_stored() {
    let store = Arc::new(Slow {
        shelf: Shelf::with(segment().bytes),
        governor: Governor::new(Limits { least: 1, most: 1, first: 1 }),
        leave: Semaphore::new(0),
        served: Mutex::default(),
    });
    let mut tasks = Vec::new();
    for _ in 0..2 {
        let store = Arc::clone(&store);
        tasks.push(tokio::spawn(async move {
            drop(verify(&*store, &key(), &segment()).await.unwrap());
        }));
        tokio::task::yield_now().await;
    }
    let reader = Arc::clone(&store);
    tasks.push(tokio::spawn(async move {
        let place = segment().index.entry(0).unwrap().place;
        fetch_chunks(&*reader, &key(), &place, 0..1).await.unwrap();
    }));
    tokio::task::yield_now().await;
    assert_eq!(*store.served.lock().unwrap(), [Class::Archive], "the others wait");
    store.leave.add_permits(5);
    for task in tasks {
        task.await.unwrap();
    }
    let [_, second, rest @ ..] = &store.served.lock().unwrap()[..] else { panic!("too few") };
    assert_eq!((*second, rest), (Class::Recall, &[Class::Archive; 3][..]));
}
