//! Listings as S3 spells them: limits, tokens, encodings.

use s3s::dto::{CommonPrefix, EncodingType, Object, Timestamp};
use s3s::{S3Error, S3ErrorCode, S3Result};

use super::list::{self, Page, Question};
use super::{DiskStore, as_i64, etag, s3_error};

/// Most keys in an answer (S3's rule).
const MAX_KEYS: i32 = 1000;

/// Lists a page.
pub async fn ask(
    store: &DiskStore,
    bucket: &str,
    prefix: &Option<String>,
    after: String,
    delimiter: &Option<String>,
    limit: i32,
) -> S3Result<Page> {
    let root = store.bucket_dir(bucket);
    let question = Question {
        prefix: prefix.clone().unwrap_or_default(),
        after,
        delimiter: delimiter.clone().unwrap_or_default(),
        limit: usize::try_from(limit).map_err(S3Error::internal_error)?,
    };
    store
        .blocking(move |_| {
            list::list(&root, question).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => S3Error::new(S3ErrorCode::NoSuchBucket),
                _ => s3_error("list objects", error),
            })
        })
        .await
}

/// The limit of a page that was asked for.
pub fn limit(asked: Option<i32>) -> S3Result<i32> {
    match asked.unwrap_or(MAX_KEYS) {
        limit @ 0.. => Ok(limit.min(MAX_KEYS)),
        _ => Err(S3Error::with_message(S3ErrorCode::InvalidArgument, "a negative limit")),
    }
}

/// Tokens are the key to go on after, in Base64: XML cannot hold every key.
pub fn decode_token(token: &str) -> S3Result<String> {
    aws_smithy_types::base64::decode(token)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| S3Error::with_message(S3ErrorCode::InvalidArgument, "continuation token"))
}

/// How many keys and common prefixes are in `page`.
pub fn count(page: &Page) -> S3Result<i32> {
    let count = page.objects.len() + page.common_prefixes.len();
    i32::try_from(count).map_err(S3Error::internal_error)
}

/// Its keys.
pub fn contents(page: &Page, text: &Encoding) -> S3Result<Vec<Object>> {
    let object = |(key, metadata): &(String, std::fs::Metadata)| {
        Ok(Object {
            key: Some(text.encode(key.clone())),
            size: Some(as_i64(metadata.len())?),
            e_tag: Some(etag(metadata)),
            last_modified: metadata.modified().ok().map(Timestamp::from),
            ..Object::default()
        })
    };
    page.objects.iter().map(object).collect()
}

/// Its common prefixes.
pub fn common_prefixes(page: &Page, text: &Encoding) -> Vec<CommonPrefix> {
    let common = |prefix: &String| CommonPrefix { prefix: Some(text.encode(prefix.clone())) };
    page.common_prefixes.iter().map(common).collect()
}

/// How a listing writes keys: XML cannot hold every character that a key can.
pub struct Encoding {
    url: bool,
}

impl Encoding {
    /// As the request asks.
    pub fn new(asked: Option<&EncodingType>) -> Self {
        Self { url: asked.is_some_and(|kind| kind.as_str() == EncodingType::URL) }
    }

    /// `text`, encoded.
    pub fn encode(&self, text: String) -> String {
        if !self.url {
            return text;
        }
        let mut encoded = String::with_capacity(text.len());
        for byte in text.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                    encoded.push(char::from(byte));
                }
                _ => encoded.push_str(&format!("%{byte:02X}")),
            }
        }
        encoded
    }
}
