//! Calls whose answers are lost on the way, though the engine did what was asked.

use std::sync::atomic::{AtomicU32, Ordering};

use aws_sdk_s3::config::{BehaviorVersion, HttpClient, Region, RuntimeComponents};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use s3s::service::S3ServiceBuilder;

use super::super::disk::DiskStore;
use super::*;

/// Carries requests to the engine and loses the answers of the next few that `method` names.
#[derive(Clone, Debug)]
struct LossyLine {
    engine: s3s_aws::Connector,
    method: &'static str,
    lose: Arc<AtomicU32>,
}

impl HttpConnector for LossyLine {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let lost = request.method() == self.method
            && self
                .lose
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                .is_ok();
        let answer = self.engine.call(request);
        HttpConnectorFuture::new(async move {
            let answer = answer.await?;
            match lost {
                true => Err(ConnectorError::io("connection reset".into())),
                false => Ok(answer),
            }
        })
    }
}

impl HttpClient for LossyLine {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

fn store(dir: &std::path::Path, method: &'static str, lose: u32) -> S3Store {
    store_over(dir, method, Arc::new(lose.into()))
}

fn store_over(dir: &std::path::Path, method: &'static str, lose: Arc<AtomicU32>) -> S3Store {
    let disk = DiskStore::open(dir).unwrap();
    disk.create_bucket_if_missing(EMBEDDED_BUCKET).unwrap();
    let engine = S3ServiceBuilder::new(disk).build().into();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .endpoint_url("http://embedded.invalid")
        .force_path_style(true)
        .allow_no_auth()
        .retry_config(aws_sdk_s3::config::retry::RetryConfig::disabled())
        .http_client(LossyLine { engine, method, lose });
    let pause = Duration::from_millis(1);
    let retry = retry::Options { first_pause: pause, longest_pause: pause, attempts: 3 };
    let options = Options { retry, ..Options::default() };
    S3Store::new(Client::from_conf(config.build()), EMBEDDED_BUCKET, "", "lossy:", options)
}

#[tokio::test]
async fn a_put_whose_answer_was_lost_is_no_conflict_with_itself() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), "PUT", 1);
    let key = ObjectKey::new("k");
    store.put_new(&key, Bytes::from_static(b"ours")).await.unwrap();
    // Now nothing is lost, and an object is an object, even one of the same bytes.
    let again = store.put_new(&key, Bytes::from_static(b"ours")).await;
    assert!(matches!(again, Err(StoreError::AlreadyExists { .. })));
}

#[tokio::test]
async fn a_lost_answer_does_not_hide_another_s_object() {
    let dir = tempfile::tempdir().unwrap();
    let key = ObjectKey::new("k");
    let other = store(dir.path(), "PUT", 0);
    other.put_new(&key, Bytes::from_static(b"theirs")).await.unwrap();
    let lossy = store(dir.path(), "PUT", 1);
    let put = lossy.put_new(&key, Bytes::from_static(b"ours.."));
    assert!(matches!(put.await, Err(StoreError::AlreadyExists { .. })));
    assert_eq!(other.get(&key, 0..6).await.unwrap(), "theirs");
}

#[tokio::test]
async fn an_upload_whose_end_was_answered_to_nobody_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let key = ObjectKey::new("k");
    let lose = Arc::new(AtomicU32::new(0));
    let store = store_over(dir.path(), "POST", Arc::clone(&lose));
    let mut upload = store.upload(&key).await.unwrap();
    lose.store(1, Ordering::Relaxed);
    upload.part(Bytes::from_static(b"part")).await.unwrap();
    upload.finish().await.unwrap();
    assert_eq!(store.get(&key, 0..4).await.unwrap(), "part");
}

#[tokio::test]
async fn a_line_that_stays_dead_is_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    let get = store(dir.path(), "GET", u32::MAX);
    let error = get.get(&ObjectKey::new("k"), 0..1).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("connection reset"), "{error}");
}
