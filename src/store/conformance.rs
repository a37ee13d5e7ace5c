//! What every store does, tried on each of them.

use std::net::Ipv4Addr;
use std::sync::Arc;

use aws_sdk_s3::config::{BehaviorVersion, Region, retry::RetryConfig};
use bytes::Bytes;

use super::memory::MemoryStore;
use super::s3::{Dial, Options, S3Store};
use super::serve::{Credentials, Server};
use super::{ObjectKey, ObjectStore, StoreError};

const PART: usize = 5 << 20;

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text)
}

fn pattern(length: usize) -> Bytes {
    // Neither a part's nor a piece's length is a multiple of 251.
    (0..=250_u8).cycle().take(length).collect()
}

async fn does_what_a_store_does(store: Arc<dyn ObjectStore>) {
    let body = pattern(3 << 20);
    store.put_new(&key("t/a"), body.clone()).await.unwrap();
    assert_eq!(store.size_bytes(&key("t/a")).await.unwrap(), 3 << 20);
    for range in [0..1_u64, 5..4096, (1 << 20)..(2 << 20), (3 << 20) - 1..3 << 20, 0..3 << 20] {
        let got = store.get(&key("t/a"), range.clone()).await.unwrap();
        let (start, end) = (usize::try_from(range.start), usize::try_from(range.end));
        assert!(got == body[start.unwrap()..end.unwrap()], "{range:?}");
    }
    assert!(store.get(&key("t/a"), 7..7).await.unwrap().is_empty());
    for beyond in [0..(3 << 20) + 1, 9 << 20..10 << 20] {
        let error = store.get(&key("t/a"), beyond).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    }

    store.put(&key("t/a"), Bytes::from_static(b"new")).await.unwrap();
    assert_eq!(store.get(&key("t/a"), 0..3).await.unwrap(), "new");
    store.put_new(&key("t/empty"), Bytes::new()).await.unwrap();
    assert_eq!(store.size_bytes(&key("t/empty")).await.unwrap(), 0);

    for absent in ["t", "t/b", "t/a/b", "t/"] {
        let error = store.get(&key(absent), 0..1).await.unwrap_err();
        assert!(matches!(error, StoreError::NotFound { .. }), "{absent}: {error}");
        let error = store.size_bytes(&key(absent)).await.unwrap_err();
        assert!(matches!(error, StoreError::NotFound { .. }), "{absent}: {error}");
        store.delete(&key(absent)).await.unwrap();
    }

    let long = "l".repeat(500);
    let awkward = ["t/a/b", "t/..", "t//x", "t/.h", "t/a.obj", "t/sp ace+&?%41", "t/\u{e9}", &long];
    for text in awkward {
        store.put_new(&key(text), Bytes::copy_from_slice(text.as_bytes())).await.unwrap();
    }
    for text in awkward {
        assert_eq!(store.get(&key(text), 0..text.len() as u64).await.unwrap(), text);
    }
    let mut expected: Vec<&str> = awkward[..7].iter().copied().chain(["t/a", "t/empty"]).collect();
    expected.sort_unstable();
    let listed = store.list("t/", None).await.unwrap();
    assert_eq!(listed.iter().map(|o| o.key.as_str()).collect::<Vec<_>>(), expected);
    let rest = store.list("t/", Some(&key(expected[3]))).await.unwrap();
    assert_eq!(rest, listed[4..]);
    assert!(store.list("nothing", None).await.unwrap().is_empty());

    store.delete(&key("t/a")).await.unwrap();
    assert!(store.size_bytes(&key("t/a")).await.is_err());
    assert!(store.get(&key("t/a/b"), 0..1).await.is_ok());
}

async fn uploads_in_parts(store: Arc<dyn ObjectStore>) {
    let big = key("u/big");
    let whole = pattern(2 * PART + 77);
    let mut upload = store.upload(&big).await.unwrap();
    for part in [0..PART, PART..2 * PART, 2 * PART..whole.len()] {
        upload.part(whole.slice(part)).await.unwrap();
        assert!(store.size_bytes(&big).await.is_err(), "not there before it is finished");
    }
    upload.finish().await.unwrap();
    assert!(store.get(&big, 0..whole.len() as u64).await.unwrap() == whole);

    // Parts of unequal size.
    let odd = key("u/odd");
    let mut upload = store.upload(&odd).await.unwrap();
    for part in [0..PART, PART..2 * PART + 7, 2 * PART + 7..whole.len()] {
        upload.part(whole.slice(part)).await.unwrap();
    }
    upload.finish().await.unwrap();
    assert!(store.get(&odd, 0..whole.len() as u64).await.unwrap() == whole);

    let nothing = store.upload(&key("u/nothing")).await.unwrap();
    nothing.finish().await.unwrap();
    assert_eq!(store.size_bytes(&key("u/nothing")).await.unwrap(), 0);

    let mut upload = store.upload(&key("u/given-up")).await.unwrap();
    upload.part(pattern(9)).await.unwrap();
    upload.abort().await;
    drop(store.upload(&key("u/dropped")).await.unwrap());
    assert_eq!(store.list("u/", None).await.unwrap().len(), 3);
}

async fn one_of_many_creators_wins(store: Arc<dyn ObjectStore>) {
    store.put_new(&key("c/first"), Bytes::from_static(b"first")).await.unwrap();
    let error = store.put_new(&key("c/first"), Bytes::new()).await.unwrap_err();
    assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error}");
    assert_eq!(store.get(&key("c/first"), 0..5).await.unwrap(), "first");
    for round in 0..8 {
        let contested = key(&format!("c/{round}"));
        let puts = (0..8_u8).map(|who| {
            let (store, contested) = (Arc::clone(&store), contested.clone());
            tokio::spawn(async move {
                store.put_new(&contested, vec![who; 4096].into()).await.map(|()| who)
            })
        });
        let outcomes = futures::future::join_all(puts).await;
        let won: Vec<u8> = outcomes.into_iter().filter_map(|o| o.unwrap().ok()).collect();
        assert_eq!(won.len(), 1);
        assert!(store.get(&contested, 0..4096).await.unwrap() == vec![won[0]; 4096]);
    }
}

async fn lists_in_pages(store: Arc<dyn ObjectStore>) {
    let puts = (0..1203).map(|n| {
        let store = Arc::clone(&store);
        async move { store.put(&key(&format!("p/{:02x}/{n:04}", n % 7)), Bytes::new()).await }
    });
    use futures::StreamExt;
    let puts: Vec<_> = futures::stream::iter(puts).buffer_unordered(16).collect().await;
    assert!(puts.into_iter().all(|put| put.is_ok()));
    let first = store.list("p/", None).await.unwrap();
    assert_eq!(first.len(), 1000);
    let second = store.list("p/", first.last().map(|last| &last.key)).await.unwrap();
    assert_eq!(second.len(), 203);
    assert!(first.iter().chain(&second).is_sorted_by(|a, b| a.key < b.key));
}

async fn conforms(store: Arc<dyn ObjectStore>) {
    one_of_many_creators_wins(Arc::clone(&store)).await;
    conforms_but_creates(store).await;
}

/// What is relied on where an engine has no create-only: names are never used twice.
async fn conforms_but_creates(store: Arc<dyn ObjectStore>) {
    does_what_a_store_does(Arc::clone(&store)).await;
    uploads_in_parts(Arc::clone(&store)).await;
    lists_in_pages(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_store_conforms() {
    conforms(Arc::new(MemoryStore::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let store = S3Store::embedded(dir.path()).unwrap();
    assert_eq!(store.url(), format!("disk:{}", dir.path().display()));
    let store = Arc::new(store);
    if std::env::var_os("COLDFS_TEST_REPLACES").is_none() {
        return conforms(store).await;
    }
    for body in ["first", "other"] {
        store.put_new(&key("c/first"), Bytes::from(body)).await.unwrap();
    }
    assert_eq!(store.get(&key("c/first"), 0..5).await.unwrap(), "other");
    conforms_but_creates(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_embedded_stores_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let one = S3Store::embedded(dir.path()).unwrap();
    let two = S3Store::embedded(dir.path()).unwrap();
    one.put_new(&key("a"), pattern(10)).await.unwrap();
    assert!(matches!(
        two.put_new(&key("a"), pattern(1)).await,
        Err(StoreError::AlreadyExists { .. })
    ));
    drop(one);
    assert!(two.get(&key("a"), 0..10).await.unwrap() == pattern(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_served_store_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let credentials = Credentials::random();
    let server =
        Server::bind(dir.path(), (Ipv4Addr::LOCALHOST, 0).into(), &credentials).await.unwrap();
    let endpoint = format!("http://{}", server.address());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async { drop(stopped.await) }));
    let store = |secret: &str| {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("us-east-1"))
            .endpoint_url(&endpoint)
            .force_path_style(true)
            .retry_config(RetryConfig::disabled())
            .credentials_provider(aws_sdk_s3::config::Credentials::new(
                credentials.access_key.clone(),
                secret,
                None,
                None,
                "test",
            ));
        let client = aws_sdk_s3::Client::from_conf(config.build());
        S3Store::new(client, "coldfs", "some/prefix", "s3://coldfs/some/prefix", Options::default())
    };
    conforms(Arc::new(store(&credentials.secret_key))).await;
    let error = store("wrong").put(&key("x"), Bytes::new()).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");

    drop(stop);
    running.await.unwrap();
    let error = store(&credentials.secret_key).size_bytes(&key("x")).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
}

/// The engine that `COLDFS_TEST_STORE` names (`scripts/engines`), by the standard chain. One that is
/// known to replace what is there says so by `COLDFS_TEST_REPLACES`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engine_conforms() {
    let Ok(bucket) = std::env::var("COLDFS_TEST_STORE") else { return };
    let url = format!("{bucket}/conformance-{:016x}", rand::random::<u64>());
    let store = S3Store::connect(&url, Dial::default(), Options::default()).await.unwrap();
    let store = Arc::new(store);
    if std::env::var_os("COLDFS_TEST_REPLACES").is_none() {
        return conforms(store).await;
    }
    for body in ["first", "other"] {
        store.put_new(&key("c/first"), Bytes::from(body)).await.unwrap();
    }
    assert_eq!(store.get(&key("c/first"), 0..5).await.unwrap(), "other");
    conforms_but_creates(store).await;
}
