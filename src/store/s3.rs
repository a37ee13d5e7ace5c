//! An S3 engine as an [`ObjectStore`]: over the network, or the one inside this process.
//!
//! Every call is a few attempts (see [`super::retry`]) of one request, each with a time limit that
//! grows with what it moves. What a failure means is decided in [`fault`].

mod connect;
mod fault;
mod line;
mod meter;
mod probe;
#[cfg(test)]
mod tests;
mod upload;

pub use connect::{Dial, EMBEDDED_BUCKET};
pub use probe::{PROBE_PREFIX, Page};

use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, StorageClass};
use bytes::{Bytes, BytesMut};

use self::fault::{BUCKET_REGION, Context, Kind, classify};
use self::line::Line;
use super::call::Call;
use super::fuse_thread::assert_may_wait;
use super::governor::{Class, Governor, Limits, Sign, Traffic, ranked};
use super::retry::{self, retry};
use super::{
    Denial, LIST_LIMIT, ObjectInfo, ObjectKey, ObjectStore, StoreError, Told, Upload, Verify,
};

/// Time limits.
#[derive(Clone, Debug)]
pub struct Options {
    /// For a connection to stand. The SDK's own default.
    pub connect: Duration,
    /// For one attempt, and in addition what its bytes take at `slowest_bytes_per_second`. S3
    /// answers within 1 s almost always; a disk's fsync under load takes several.
    pub attempt: Duration,
    /// For all attempts of a call and the pauses between, and in addition twice what its bytes
    /// take. Below the 60 s after which a recall gives up, so that the reader gets our reason.
    pub total: Duration,
    /// A transfer slower than this is taken for stuck. A home uplink has ten times that.
    pub slowest_bytes_per_second: u32,
    /// Attempts and pauses.
    pub retry: retry::Options,
    /// Of segments; the bucket's own where there is none.
    pub storage_class: Option<StorageClass>,
    /// Of segments, as a URL's query has them.
    pub tagging: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect: Duration::from_millis(3100),
            attempt: Duration::from_secs(15),
            total: Duration::from_secs(45),
            slowest_bytes_per_second: 128 << 10,
            retry: retry::Options::default(),
            storage_class: None,
            tagging: None,
        }
    }
}

/// Longest body that is looked at for an error, bytes.
const ERROR_BYTES: usize = 4096;

/// A bucket, and a prefix in it, of an S3 engine. Clones share it.
#[derive(Clone, Debug)]
pub struct S3Store(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    line: Line,
    governor: Arc<Governor>,
    bucket: String,
    /// Empty, or ends in `/`.
    prefix: String,
    url: String,
    options: Options,
    /// Unset: by reading back.
    verify: OnceLock<Verify>,
}

impl S3Store {
    /// A store below `prefix` in `bucket`, with a limit of its own. The client's own retries must
    /// be off.
    pub fn new(
        client: Client,
        bucket: impl Into<String>,
        prefix: &str,
        url: impl Into<String>,
        options: Options,
    ) -> Self {
        let governor = Governor::new(Limits::default());
        Self::with(Line::new(client, None), governor, bucket, prefix, url, options)
    }

    fn with(
        line: Line,
        governor: Arc<Governor>,
        bucket: impl Into<String>,
        prefix: &str,
        url: impl Into<String>,
        options: Options,
    ) -> Self {
        let prefix = match prefix.trim_matches('/') {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        let (bucket, url, verify) = (bucket.into(), url.into(), OnceLock::new());
        Self(Arc::new(Shared { line, governor, bucket, prefix, url, options, verify }))
    }

    /// The limit of requests that it shares with others of its endpoint, and who counts them.
    pub fn governor(&self) -> Arc<Governor> {
        Arc::clone(&self.0.governor)
    }

    fn client(&self) -> Client {
        self.0.line.client()
    }

    fn full_key(&self, key: &ObjectKey) -> String {
        format!("{}{key}", self.0.prefix)
    }

    fn context<'a>(&'a self, call: Call, key: &'a ObjectKey) -> Context<'a> {
        Context { call, key, store: &self.0.url }
    }

    /// Attempts `call`, which moves so many bytes, until it succeeds or time is up; once more
    /// where its credentials were refused and there are others, or the bucket is in a region that
    /// nobody named.
    async fn attempt<T, F, A>(
        &self,
        context: Context<'_>,
        moved_bytes: u64,
        mut call: F,
    ) -> Result<T, StoreError>
    where
        F: FnMut(u32) -> A,
        A: Future<Output = Result<T, StoreError>>,
    {
        assert_may_wait();
        let options = &self.0.options;
        let slowest = u64::from(options.slowest_bytes_per_second.max(1));
        let transfer = Duration::from_secs(moved_bytes / slowest);
        let limits = retry::Limits {
            attempt: options.attempt + transfer,
            total: options.total + 2 * transfer,
        };
        let (class, governor) = (Class::of(context.call), &self.0.governor);
        let timed_out = |limit: Duration| {
            governor.observe(context.action(), "timeout", Sign::None);
            context.error(Kind::Unavailable, format!("no answer within {} s", limit.as_secs()))
        };
        let admit = || {
            let crowded = "too many requests wait for it";
            let admitted = governor.admit(class);
            async move { admitted.await.map_err(|_crowded| context.error(Kind::Unavailable, crowded)) }
        };
        let number = self.0.line.number();
        let first = retry(&options.retry, limits, timed_out, admit, &mut call).await;
        match first {
            Err(StoreError::Denied { why: Denial::Credentials, .. })
                if self.0.line.renew(number).await =>
            {
                retry(&options.retry, limits, timed_out, admit, &mut call).await
            }
            Err(StoreError::Denied { why: Denial::Region, .. })
                if self.follow_region(number).await =>
            {
                retry(&options.retry, limits, timed_out, admit, &mut call).await
            }
            outcome => outcome,
        }
    }

    /// Asks which region the bucket is in, and goes there. Whether there is another client now.
    async fn follow_region(&self, number: u64) -> bool {
        let asked = self.client().head_bucket().bucket(&self.0.bucket).send();
        let Ok(answer) = tokio::time::timeout(self.0.options.attempt, asked).await else {
            return false;
        };
        let region = match &answer {
            Ok(told) => told.bucket_region(),
            Err(error) => error.raw_response().and_then(|raw| raw.headers().get(BUCKET_REGION)),
        };
        match region {
            Some(region) => self.0.line.follow(number, region).await,
            None => false,
        }
    }

    async fn put_once(
        &self,
        context: Context<'_>,
        body: Bytes,
        new: bool,
    ) -> Result<(), StoreError> {
        let put = self.client().put_object();
        let put = put.bucket(&self.0.bucket).key(self.full_key(context.key));
        let put = put.checksum_algorithm(match self.verify() {
            Verify::Readback => ChecksumAlgorithm::Crc32,
            Verify::Checksum => ChecksumAlgorithm::Sha256,
        });
        let put = put.body(ByteStream::from(body));
        let put = match new {
            true => put
                .if_none_match("*")
                .set_storage_class(self.0.options.storage_class.clone())
                .set_tagging(self.0.options.tagging.clone()),
            false => put,
        };
        // The checksum covers the body; hashing it again with SHA-256 to sign it costs more than
        // all the rest of a put.
        let answer = put.customize().disable_payload_signing().send().await;
        answer.map(drop).map_err(|error| context.sdk_error(&error))
    }

    async fn get_once(&self, context: Context<'_>, range: Range<u64>) -> Result<Bytes, StoreError> {
        let mut collected = Collected::new(range.end - range.start);
        self.get_pieces_once(context, range, |piece| collected.add(piece)).await?;
        Ok(collected.into_bytes())
    }

    /// One request for `range`; its bytes as they come.
    async fn get_pieces_once(
        &self,
        context: Context<'_>,
        range: Range<u64>,
        piece: impl FnMut(Bytes),
    ) -> Result<(), StoreError> {
        let get = self.client().get_object();
        let get = get.bucket(&self.0.bucket).key(self.full_key(context.key));
        let get = get.range(format!("bytes={}-{}", range.start, range.end - 1));
        let answer = get.send().await.map_err(|error| context.sdk_error(&error))?;
        let expected = range.end - range.start;
        if let Err(wrong) = check_range(&answer, &range) {
            return Err(match said_instead(answer).await {
                Some(code) => {
                    let reason = format!("200 with an error for a body: {code}");
                    context.error(classify(500, Some(&code)), reason)
                }
                None => context.error(Kind::Corrupt, wrong),
            });
        }
        let received = receive(context, answer.body, expected, piece).await;
        if received.as_ref().is_err_and(StoreError::is_transient) {
            self.0.governor.observe(context.action(), "cut", Sign::Reset);
        }
        received
    }

    /// Whether what is stored is `body`.
    async fn holds(&self, key: &ObjectKey, body: &Bytes) -> Result<bool, StoreError> {
        let length = body.len() as u64;
        if self.size_bytes(key).await? != length {
            return Ok(false);
        }
        Ok(self.get(key, 0..length).await? == *body)
    }

    async fn told_once(&self, context: Context<'_>) -> Result<Told, StoreError> {
        let head = self.client().head_object();
        let head = head.bucket(&self.0.bucket).key(self.full_key(context.key));
        // Only an engine that is believed is asked.
        let asked = (self.verify() == Verify::Checksum).then_some(ChecksumMode::Enabled);
        let head = head.set_checksum_mode(asked);
        let answer = head.send().await.map_err(|error| context.sdk_error(&error));
        let answer = match answer {
            Ok(answer) => answer,
            // A HEAD's answer has no body that could say whether it is the bucket that is gone.
            Err(StoreError::NotFound { .. }) => return Err(self.object_or_bucket(context).await),
            // Or why it is denied: keys, permissions, a clock.
            Err(denied @ StoreError::Denied { .. }) => {
                return Err(self.get_once(context, 0..1).await.err().unwrap_or(denied));
            }
            Err(error) => return Err(error),
        };
        let size_bytes = answer
            .content_length()
            .and_then(|length| u64::try_from(length).ok())
            .ok_or_else(|| context.error(Kind::Corrupt, "no length in the answer"))?;
        Ok(Told { size_bytes, sha256: whole_sha256(answer.checksum_sha256()) })
    }

    async fn object_or_bucket(&self, context: Context<'_>) -> StoreError {
        let answer = self.client().head_bucket().bucket(&self.0.bucket).send().await;
        match answer.map_err(|error| context.sdk_error(&error)) {
            Ok(_) => context.error(Kind::NotFound, "no such object"),
            Err(StoreError::NotFound { .. }) => {
                let reason = format!("there is no bucket {}", self.0.bucket);
                context.error(Kind::Denied(Denial::Bucket), reason)
            }
            Err(error) => error,
        }
    }

    async fn list_once(
        &self,
        context: Context<'_>,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> Result<Vec<ObjectInfo>, StoreError> {
        let ours = &self.0.prefix;
        let mut found = Vec::new();
        let mut token = None;
        // An engine may answer less than was asked for, and even nothing, before the end.
        while found.len() < LIST_LIMIT {
            let list = self.client().list_objects_v2().bucket(&self.0.bucket);
            let list = list.prefix(format!("{ours}{prefix}"));
            let list = list.set_start_after(after.map(|after| self.full_key(after)));
            let list = list.set_continuation_token(token);
            let answer = list.send().await.map_err(|error| context.sdk_error(&error))?;
            for object in answer.contents() {
                let key = object.key().and_then(|key| key.strip_prefix(ours.as_str()));
                let size = object.size().and_then(|size| u64::try_from(size).ok());
                let (Some(key), Some(size_bytes)) = (key, size) else {
                    return Err(context.error(Kind::Corrupt, "a listing without key or size"));
                };
                found.push(ObjectInfo { key: ObjectKey::new(key), size_bytes });
            }
            token = answer.next_continuation_token().map(str::to_owned);
            if token.is_none() || !answer.is_truncated().unwrap_or(false) {
                break;
            }
        }
        found.truncate(LIST_LIMIT);
        Ok(found)
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    fn url(&self) -> &str {
        &self.0.url
    }

    async fn put_new(&self, key: &ObjectKey, body: Bytes) -> Result<(), StoreError> {
        let context = self.context(Call::PutNew, key);
        let mut tried_before = false;
        let put = self.attempt(context, body.len() as u64, |before| {
            tried_before |= before > 0;
            self.put_once(context, body.clone(), true)
        });
        match put.await {
            // An attempt whose answer we did not get may have done it.
            Err(StoreError::AlreadyExists { .. })
                if tried_before && ranked(Class::Archive, self.holds(key, &body)).await? =>
            {
                Ok(())
            }
            outcome => outcome,
        }
    }

    async fn put(&self, key: &ObjectKey, body: Bytes) -> Result<(), StoreError> {
        let context = self.context(Call::Put, key);
        let put = |_| self.put_once(context, body.clone(), false);
        self.attempt(context, body.len() as u64, put).await
    }

    async fn upload(&self, key: &ObjectKey) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(upload::S3Upload::begin(self, key).await?))
    }

    /// An empty range is answered without a request.
    async fn get(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let context = self.context(Call::Get, key);
        let length = range.end - range.start;
        self.attempt(context, length, |_| self.get_once(context, range.clone())).await
    }

    /// An attempt after a broken line asks for the rest only.
    async fn get_in_pieces(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        piece: &mut (dyn FnMut(Bytes) + Send),
    ) -> Result<(), StoreError> {
        let context = self.context(Call::Get, key);
        let length = range.end - range.start;
        // Attempts follow each other: the lock is for the compiler alone.
        let coming = Mutex::new((range.start, piece));
        let attempt = |_| async {
            let next = coming.lock().unwrap_or_else(PoisonError::into_inner).0;
            if next >= range.end {
                return Ok(());
            }
            let hand_on = |bytes: Bytes| {
                let mut coming = coming.lock().unwrap_or_else(PoisonError::into_inner);
                coming.0 += bytes.len() as u64;
                (coming.1)(bytes);
            };
            self.get_pieces_once(context, next..range.end, hand_on).await
        };
        self.attempt(context, length, attempt).await
    }

    async fn size_bytes(&self, key: &ObjectKey) -> Result<u64, StoreError> {
        Ok(self.told(key).await?.size_bytes)
    }

    fn verify(&self) -> Verify {
        self.0.verify.get().copied().unwrap_or_default()
    }

    fn traffic(&self) -> Traffic {
        self.0.governor.traffic()
    }

    async fn told(&self, key: &ObjectKey) -> Result<Told, StoreError> {
        let context = self.context(Call::Size, key);
        self.attempt(context, 0, |_| self.told_once(context)).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> Result<Vec<ObjectInfo>, StoreError> {
        let key = ObjectKey::new(prefix);
        let context = self.context(Call::List, &key);
        self.attempt(context, 0, |_| self.list_once(context, prefix, after)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let context = self.context(Call::Delete, key);
        let delete = async |_| {
            let delete = self.client().delete_object();
            let delete = delete.bucket(&self.0.bucket).key(self.full_key(key));
            delete.send().await.map(drop).map_err(|error| context.sdk_error(&error))
        };
        match self.attempt(context, 0, delete).await {
            // S3 does not say so; engines may.
            Err(StoreError::NotFound { .. }) => Ok(()),
            outcome => outcome,
        }
    }
}

/// A SHA-256 of a whole object; one of parts has their number behind it, and is no such thing.
fn whole_sha256(text: Option<&str>) -> Option<[u8; 32]> {
    aws_smithy_types::base64::decode(text?).ok()?.try_into().ok()
}

/// The engine means to send what was asked for: looked at before the body is read, for one that
/// ignores ranges would send it all.
fn check_range(answer: &GetObjectOutput, asked: &Range<u64>) -> Result<(), String> {
    let expected = asked.end - asked.start;
    if let Some(length) = answer.content_length()
        && u64::try_from(length) != Ok(expected)
    {
        return Err(format!("{length} bytes instead of {expected}"));
    }
    let begins = format!("bytes {}-{}/", asked.start, asked.end - 1);
    match answer.content_range() {
        Some(range) if !range.starts_with(&begins) => {
            Err(format!("range {range:?} instead of {begins:?}"))
        }
        _ => Ok(()),
    }
}

/// The code of an error that stands where the bytes should be: the engine had begun with its 200.
async fn said_instead(answer: GetObjectOutput) -> Option<String> {
    let length = answer.content_length().and_then(|length| usize::try_from(length).ok())?;
    if answer.content_range().is_some() || length > ERROR_BYTES {
        return None;
    }
    let body = answer.body.collect().await.ok()?.to_vec();
    let text = String::from_utf8(body).ok()?;
    let (_, rest) = text.split_once("<Error>")?.1.split_once("<Code>")?;
    rest.split_once("</Code>").map(|(code, _)| code.to_owned())
}

/// Hands on a body as it comes: exactly `expected` bytes of it.
async fn receive(
    context: Context<'_>,
    mut body: ByteStream,
    expected: u64,
    mut piece: impl FnMut(Bytes),
) -> Result<(), StoreError> {
    let mut received = 0;
    loop {
        let frame = match body.try_next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(error) => {
                let reason = aws_sdk_s3::error::DisplayErrorContext(error).to_string();
                return Err(context.error(Kind::Unavailable, reason));
            }
        };
        received += frame.len() as u64;
        if received > expected {
            let reason = format!("more than the {expected} bytes that were asked for");
            return Err(context.error(Kind::Corrupt, reason));
        }
        piece(frame);
    }
    if received != expected {
        let reason = format!("{received} bytes instead of {expected}");
        return Err(context.error(Kind::Corrupt, reason));
    }
    Ok(())
}

/// A body of `expected` bytes, in one piece.
async fn collect(
    context: Context<'_>,
    body: ByteStream,
    expected: u64,
) -> Result<Bytes, StoreError> {
    let mut collected = Collected::new(expected);
    receive(context, body, expected, |piece| collected.add(piece)).await?;
    Ok(collected.into_bytes())
}

/// A body that is wanted in one piece.
struct Collected {
    expected: u64,
    bytes: BytesMut,
    /// All in one, as from the store inside this process: not copied.
    whole: Option<Bytes>,
}

impl Collected {
    fn new(expected: u64) -> Self {
        Self { expected, bytes: BytesMut::new(), whole: None }
    }

    fn add(&mut self, piece: Bytes) {
        if piece.len() as u64 == self.expected {
            self.whole = Some(piece);
            return;
        }
        if self.bytes.is_empty() {
            // The caller chose the length; an object's chunks and segments bound it.
            self.bytes.reserve(usize::try_from(self.expected).unwrap_or_default());
        }
        self.bytes.extend_from_slice(&piece);
    }

    fn into_bytes(self) -> Bytes {
        self.whole.unwrap_or_else(|| self.bytes.freeze())
    }
}
