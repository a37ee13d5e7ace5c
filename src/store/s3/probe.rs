//! Questions that tell what an engine can be relied on for: one request each, not tried again.
//! `coldfs doctor` asks them all, a mount the cheap ones.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode};
use aws_smithy_types::base64;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::super::call::Call;
use super::super::{Denial, ObjectKey, ObjectStore, StoreError, Verify};
use super::fault::Kind;
use super::{S3Store, collect, whole_sha256};

/// Where probes put what they put; nothing of it stays.
pub const PROBE_PREFIX: &str = ".coldfs-doctor";

/// How long a mount waits for an answer that only says how uploads are proven.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// One page of a listing.
#[derive(Clone, Debug)]
pub struct Page {
    /// The keys, as they came.
    pub keys: Vec<ObjectKey>,
    /// Whether the engine says that there are more.
    pub is_truncated: bool,
    /// When the engine says that it answered; none where it does not say.
    pub date: Option<SystemTime>,
}

impl S3Store {
    /// Proves segments so from now on. The first word counts.
    pub fn prove_by(&self, verify: Verify) {
        self.0.verify.get_or_init(|| verify);
    }

    /// How segments can be proven: by checksum only where the engine was just seen to refuse a
    /// wrong one and to tell the right one; by reading back where there is any doubt.
    pub async fn probe_verify(&self) -> Verify {
        let honest = async {
            let dir = format!("{PROBE_PREFIX}/{}", crate::file_id::SegmentId::generate());
            let (wrong, right) =
                (ObjectKey::new(format!("{dir}/wrong")), ObjectKey::new(format!("{dir}/right")));
            let honest = match self.refuses_wrong_checksum(&wrong).await {
                Ok(true) => self.tells_checksum(&right).await,
                other => other,
            };
            for key in [&wrong, &right] {
                if let Err(error) = self.delete(key).await {
                    tracing::warn!(%error, "an object of a probe is left in the store");
                }
            }
            honest
        };
        match tokio::time::timeout(PROBE_LIMIT, honest).await {
            Ok(Ok(true)) => Verify::Checksum,
            Ok(Ok(false)) | Err(_) => Verify::Readback,
            Ok(Err(error)) => {
                tracing::debug!(%error, "uploads are read back");
                Verify::Readback
            }
        }
    }

    /// Whether a body that comes with another's checksum is refused, whichever of ours it is.
    pub async fn refuses_wrong_checksum(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        let context = self.context(Call::Put, key);
        let (body, other) = (Bytes::from_static(b"coldfs"), b"another body");
        for algorithm in [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Sha256] {
            let put = self.client().put_object().bucket(&self.0.bucket).key(self.full_key(key));
            let put = put.body(ByteStream::from(body.clone()));
            let put = match algorithm {
                ChecksumAlgorithm::Sha256 => {
                    put.checksum_sha256(base64::encode(Sha256::digest(other)))
                }
                // Of no body of ours.
                _ => put.checksum_crc32("AAAAAQ=="),
            };
            let sent = put.customize().disable_payload_signing().send();
            let answer = match self.once(context, sent).await? {
                Ok(_) => return Ok(false),
                Err(error) => error,
            };
            // Only a refusal that is about the body says that the body was looked at.
            if !is_about_the_body(&answer) {
                return Err(context.sdk_error(&answer));
            }
        }
        Ok(true)
    }

    /// Whether the engine tells the SHA-256 of what it was sent.
    pub async fn tells_checksum(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        let context = self.context(Call::Put, key);
        let body = Bytes::from_static(b"coldfs probes");
        let put = self.client().put_object().bucket(&self.0.bucket).key(self.full_key(key));
        let put = put.checksum_algorithm(ChecksumAlgorithm::Sha256);
        let sent = put.body(ByteStream::from(body.clone())).customize().disable_payload_signing();
        self.once(context, sent.send()).await?.map_err(|error| context.sdk_error(&error))?;
        let head = self.client().head_object().bucket(&self.0.bucket).key(self.full_key(key));
        let asked = head.checksum_mode(ChecksumMode::Enabled).send();
        let told = self.once(context, asked).await?.map_err(|error| context.sdk_error(&error))?;
        let ours: [u8; 32] = Sha256::digest(&body).into();
        Ok(whole_sha256(told.checksum_sha256()) == Some(ours))
    }

    /// A whole object, asked for without a range; at most `limit_bytes`.
    pub async fn whole(&self, key: &ObjectKey, limit_bytes: u64) -> Result<Bytes, StoreError> {
        let context = self.context(Call::Get, key);
        let sent = self.client().get_object().bucket(&self.0.bucket).key(self.full_key(key)).send();
        let answer = self.once(context, sent).await?.map_err(|error| context.sdk_error(&error))?;
        let length = answer.content_length().and_then(|length| u64::try_from(length).ok());
        match length {
            Some(length) if length <= limit_bytes => {
                let read = collect(context, answer.body, length);
                self.once(context, read).await?
            }
            _ => Err(context.error(Kind::Corrupt, format!("{length:?} bytes long"))),
        }
    }

    /// A page of at most `limit` keys.
    pub async fn page(
        &self,
        prefix: &str,
        after: Option<&ObjectKey>,
        limit: i32,
    ) -> Result<Page, StoreError> {
        let number = self.0.line.number();
        match self.page_once(prefix, after, limit).await {
            Err(StoreError::Denied { why: Denial::Region, .. })
                if self.follow_region(number).await =>
            {
                self.page_once(prefix, after, limit).await
            }
            answer => answer,
        }
    }

    async fn page_once(
        &self,
        prefix: &str,
        after: Option<&ObjectKey>,
        limit: i32,
    ) -> Result<Page, StoreError> {
        let key = ObjectKey::new(prefix);
        let context = self.context(Call::List, &key);
        let list = self.client().list_objects_v2().bucket(&self.0.bucket).max_keys(limit);
        let list = list.prefix(format!("{}{prefix}", self.0.prefix));
        let list = list.set_start_after(after.map(|after| self.full_key(after)));
        let date = std::sync::Arc::new(std::sync::Mutex::new(None));
        let seen = std::sync::Arc::clone(&date);
        let sent = list.customize().interceptor(DateSeen(seen)).send();
        let answer = self.once(context, sent).await?.map_err(|error| context.sdk_error(&error))?;
        let date = date.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let ours = self.0.prefix.as_str();
        let keys = answer.contents().iter().filter_map(|object| object.key()?.strip_prefix(ours));
        Ok(Page {
            keys: keys.map(ObjectKey::new).collect(),
            is_truncated: answer.is_truncated().unwrap_or(false),
            date,
        })
    }

    /// One request, in its time.
    async fn once<T>(
        &self,
        context: super::fault::Context<'_>,
        request: impl Future<Output = T>,
    ) -> Result<T, StoreError> {
        super::assert_may_wait();
        let limit = self.0.options.attempt;
        tokio::time::timeout(limit, request).await.map_err(|_elapsed| {
            context.error(Kind::Unavailable, format!("no answer within {} s", limit.as_secs()))
        })
    }
}

/// Whether an engine refused a body for what is in it.
fn is_about_the_body<E>(error: &SdkError<E, aws_sdk_s3::config::http::HttpResponse>) -> bool
where
    E: ProvideErrorMetadata,
{
    const CODES: [&str; 4] =
        ["BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"];
    matches!(error, SdkError::ServiceError(answer) if answer.raw().status().as_u16() == 400
        && answer.err().code().is_some_and(|code| CODES.contains(&code)))
}

/// Takes the date from an answer.
#[derive(Debug)]
struct DateSeen(std::sync::Arc<std::sync::Mutex<Option<SystemTime>>>);

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl aws_sdk_s3::config::Intercept for DateSeen {
    fn name(&self) -> &'static str {
        "coldfs date"
    }

    fn read_before_deserialization(
        &self,
        context: &aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef<'_>,
        _: &aws_sdk_s3::config::RuntimeComponents,
        _: &mut aws_sdk_s3::config::ConfigBag,
    ) -> Result<(), aws_sdk_s3::error::BoxError> {
        let format = aws_smithy_types::date_time::Format::HttpDate;
        let date = context.response().headers().get("date");
        let date = date.and_then(|text| aws_smithy_types::DateTime::from_str(text, format).ok());
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
            date.and_then(|date| SystemTime::try_from(date).ok());
        Ok(())
    }
}
