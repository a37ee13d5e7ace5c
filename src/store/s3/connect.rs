//! From a URL or a directory to a client.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use s3s::service::S3ServiceBuilder;

use super::super::disk::DiskStore;
use super::super::disk::workers::Workers;
use super::super::open::OpenError;
use super::{Options, S3Store};

/// The bucket that an embedded store keeps its objects in.
pub const EMBEDDED_BUCKET: &str = "coldfs";

/// How long a store's disk may take to open it, sync of what a dead process left included.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

/// Where the standard chain takes an endpoint other than AWS's from.
const ENDPOINT_VARIABLES: [&str; 2] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];

impl S3Store {
    /// The store in `dir`: this client, against an S3 service in this process, without TCP. Made
    /// if `dir` is empty or missing. Blocks.
    pub fn embedded(dir: &Path) -> Result<Self, OpenError> {
        Self::embedded_with(dir, Options::default())
    }

    /// As [`S3Store::embedded`], where nothing may block: a disk that hangs is an error.
    pub async fn embedded_in_time(dir: PathBuf) -> Result<Self, OpenError> {
        let failed = OpenError::io("open store", dir.clone());
        let workers = Workers::default();
        let opening = workers.run(move || Self::embedded(&dir));
        match tokio::time::timeout(OPEN_LIMIT, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => Err(failed(error)),
            Err(_elapsed) => Err(failed(std::io::Error::other("its disk does not answer"))),
        }
    }

    /// As [`S3Store::embedded`], with other time limits.
    pub fn embedded_with(dir: &Path, options: Options) -> Result<Self, OpenError> {
        let disk = DiskStore::open(dir)?;
        disk.create_bucket_if_missing(EMBEDDED_BUCKET)?;
        let service = S3ServiceBuilder::new(disk).build();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("us-east-1"))
            // Never resolved: there is no network below.
            .endpoint_url("http://embedded.invalid")
            .force_path_style(true)
            .allow_no_auth()
            .http_client(s3s_aws::Client::from(service));
        let client = Client::from_conf(with_our_rules(config, &options).build());
        let url = format!("disk:{}", dir.display());
        Ok(Self::new(client, EMBEDDED_BUCKET, "", url, options))
    }

    /// The store at `s3://BUCKET/PREFIX`, by AWS's standard chain of credentials, profile, region
    /// and endpoint.
    pub async fn connect(url: &str, options: Options) -> Result<Self, OpenError> {
        let (bucket, prefix) = parse(url)?;
        let shared = aws_config::defaults(BehaviorVersion::latest()).load().await;
        let endpoint_is_custom = shared.endpoint_url().is_some()
            || ENDPOINT_VARIABLES.iter().any(|name| std::env::var_os(name).is_some());
        let mut config = Builder::from(&shared);
        if shared.region().is_none() {
            // AWS redirects to the bucket's region by an error that names it; engines of one's
            // own do not look at it.
            config = config.region(Region::from_static("us-east-1"));
        }
        // Other engines seldom have a DNS name for each bucket.
        let config = config.force_path_style(endpoint_is_custom);
        let client = Client::from_conf(with_our_rules(config, &options).build());
        Ok(Self::new(client, bucket, prefix, url.trim_end_matches('/'), options))
    }
}

/// One attempt a call (ours are in [`super::retry`]), our time limits, and checksums only where
/// S3 or we ask for them: engines differ in what else they bear.
fn with_our_rules(config: Builder, options: &Options) -> Builder {
    config
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(options.connect).build())
        // It would take a slow fsync for a stalled upload; each attempt has a limit of ours.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
}

fn parse(url: &str) -> Result<(&str, &str), OpenError> {
    let wrong = |reason| OpenError::Url { url: url.to_owned(), reason };
    let rest = url.strip_prefix("s3://").ok_or_else(|| wrong("not an s3:// URL"))?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(wrong("no bucket"));
    }
    Ok((bucket, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_bucket_and_maybe_a_prefix() {
        assert_eq!(parse("s3://b").unwrap(), ("b", ""));
        assert_eq!(parse("s3://b/p/q").unwrap(), ("b", "p/q"));
        for wrong in ["s3://", "s3:///p", "http://b", "b"] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(error.contains(wrong) && error.contains("disk:DIR"), "{error}");
        }
    }
}
