//! From a URL or a directory to a client.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use s3s::service::S3ServiceBuilder;

use super::super::disk::DiskStore;
use super::super::disk::workers::Workers;
use super::super::governor::{Governor, Limits};
use super::super::open::OpenError;
use super::line::Line;
use super::meter::Meter;
use super::{Options, S3Store};

/// The bucket that an embedded store keeps its objects in.
pub const EMBEDDED_BUCKET: &str = "coldfs";

/// How long a store's disk may take to open it, sync of what a dead process left included.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

/// Where the standard chain takes an endpoint other than AWS's from.
const ENDPOINT_VARIABLES: [&str; 2] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];

/// Where other S3 tools look for certificates to trust; the SDK for Rust does not.
const CA_BUNDLE_VARIABLE: &str = "AWS_CA_BUNDLE";

/// The region of a bucket that nobody named one for. AWS refuses it by an error that names the
/// right one; engines of one's own do not look at it.
const DEFAULT_REGION: &str = "us-east-1";

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
        let governor = Governor::new(Limits::embedded());
        let client = Client::from_conf(with_our_rules(config, &options, &governor).build());
        let url = format!("disk:{}", dir.display());
        let line = Line::new(client, None);
        Ok(Self::with(line, governor, EMBEDDED_BUCKET, "", url, options))
    }

    /// The store at `s3://BUCKET/PREFIX`, by AWS's standard chain of credentials, profile, region
    /// and endpoint, with what `dial` says laid over it.
    pub async fn connect(url: &str, dial: Dial, options: Options) -> Result<Self, OpenError> {
        let (bucket, prefix) = parse(url)?;
        let shared = dial.shared().await?;
        let governor = Governor::of_endpoint(&dial.endpoint_name(&shared));
        let maker = Maker {
            dial,
            options: options.clone(),
            governor: Arc::clone(&governor),
            found_region: OnceLock::new(),
        };
        let line = Line::new(maker.client_of(&shared), Some(maker));
        Ok(Self::with(line, governor, bucket, prefix, url.trim_end_matches('/'), options))
    }
}

/// What is laid over the standard chain; none: as the chain has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dial {
    /// The engine's URL.
    pub endpoint: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// Whether the bucket is in the path, not in the host's name.
    pub path_style: Option<bool>,
    /// Certificates that are trusted besides the system's, PEM.
    pub ca_bundle: Option<PathBuf>,
    /// The profile of the shared files.
    pub profile: Option<String>,
    /// A role that is assumed with the chain's credentials.
    pub role_arn: Option<String>,
}

impl Dial {
    /// The chain, walked from its beginning.
    async fn shared(&self) -> Result<SdkConfig, OpenError> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(profile) = &self.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(path) = self.ca_bundle.clone().or_else(ca_bundle_of_the_environment) {
            loader = loader.http_client(trusting(&path)?);
        }
        let shared = loader.load().await;
        let (Some(role), Some(credentials)) = (&self.role_arn, shared.credentials_provider())
        else {
            return Ok(shared);
        };
        let assumed = AssumeRoleProvider::builder(role).session_name("coldfs").configure(&shared);
        let assumed =
            SharedCredentialsProvider::new(assumed.build_from_provider(credentials).await);
        Ok(shared.into_builder().credentials_provider(assumed).build())
    }

    fn custom_endpoint(&self, shared: &SdkConfig) -> Option<String> {
        self.endpoint
            .clone()
            .or_else(|| ENDPOINT_VARIABLES.iter().find_map(|name| std::env::var(name).ok()))
            .or_else(|| shared.endpoint_url().map(str::to_owned))
    }

    /// Whose limit of requests it is.
    fn endpoint_name(&self, shared: &SdkConfig) -> String {
        self.custom_endpoint(shared).unwrap_or_else(|| {
            let region = shared.region().map_or(DEFAULT_REGION, Region::as_ref);
            format!("s3.{region}")
        })
    }
}

/// Makes the clients of a store.
#[derive(Debug)]
pub(super) struct Maker {
    dial: Dial,
    options: Options,
    governor: Arc<Governor>,
    /// The region that the engine named, where nobody else did.
    found_region: OnceLock<Region>,
}

impl Maker {
    /// From now on clients are of this region. False: one was named, by a person, by the chain, or
    /// by the engine before.
    pub(super) async fn follow(&self, region: &str) -> Result<bool, OpenError> {
        let is_named = self.dial.shared().await?.region().is_some();
        Ok(!is_named && self.found_region.set(Region::new(region.to_owned())).is_ok())
    }

    pub(super) async fn client(&self) -> Result<Client, OpenError> {
        Ok(self.client_of(&self.dial.shared().await?))
    }

    fn client_of(&self, shared: &SdkConfig) -> Client {
        let mut config = Builder::from(shared);
        if shared.region().is_none() {
            let found = self.found_region.get().cloned();
            config = config.region(found.unwrap_or(Region::from_static(DEFAULT_REGION)));
        }
        if let Some(endpoint) = &self.dial.endpoint {
            config = config.endpoint_url(endpoint);
        }
        // Other engines seldom have a DNS name for each bucket.
        let is_custom = self.dial.custom_endpoint(shared).is_some();
        let config = config.force_path_style(self.dial.path_style.unwrap_or(is_custom));
        let config = with_our_rules(config, &self.options, &self.governor);
        Client::from_conf(config.build())
    }
}

fn ca_bundle_of_the_environment() -> Option<PathBuf> {
    std::env::var_os(CA_BUNDLE_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// A client that trusts these certificates as well as the system's.
fn trusting(path: &Path) -> Result<SharedHttpClient, OpenError> {
    let read = || OpenError::io("read certificates", path);
    let pem = std::fs::read(path).map_err(read())?;
    if !pem.windows(PEM_BEGIN.len()).any(|part| part == PEM_BEGIN) {
        return Err(read()(std::io::Error::other("holds no PEM certificate")));
    }
    let trusted = TrustStore::default().with_pem_certificate(pem);
    let context = TlsContext::builder().with_trust_store(trusted).build();
    let context = context.map_err(|error| read()(std::io::Error::other(error)))?;
    let builder = aws_smithy_http_client::Builder::new();
    let builder = builder.tls_provider(Provider::Rustls(CryptoMode::AwsLc));
    Ok(builder.tls_context(context).build_https())
}

const PEM_BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// One attempt a call (ours are in [`super::retry`]), our time limits, a checksum of every body
/// that is sent, and of answers only those that we ask for: engines differ in what else they bear.
fn with_our_rules(config: Builder, options: &Options, governor: &Arc<Governor>) -> Builder {
    config
        .interceptor(Meter(Arc::clone(governor)))
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(options.connect).build())
        // It would take a slow fsync for a stalled upload; each attempt has a limit of ours.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        // "When required" would ignore the algorithm that a request names.
        .request_checksum_calculation(RequestChecksumCalculation::WhenSupported)
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
