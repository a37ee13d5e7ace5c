//! What a failure of the SDK means to us: decided here and nowhere else.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use super::super::call::Call;
use super::super::{Denial, ObjectKey, StoreError};

/// The header in which an engine names a bucket's region.
pub(super) const BUCKET_REGION: &str = "x-amz-bucket-region";

/// The variants of [`StoreError`], without their context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// See [`StoreError::NotFound`]; and so on.
    NotFound,
    AlreadyExists,
    Offline,
    Denied(Denial),
    Full,
    Corrupt,
    Unavailable,
}

/// The call that failed.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// What was asked.
    pub call: Call,
    /// The key without the store's prefix.
    pub key: &'a ObjectKey,
    /// The store's URL.
    pub store: &'a str,
}

impl Context<'_> {
    /// `put`, `get`, ...
    pub fn action(&self) -> &'static str {
        self.call.name()
    }

    /// The error of this call.
    pub fn error(&self, kind: Kind, reason: impl Into<String>) -> StoreError {
        let (action, key, store) = (self.action(), self.key.clone(), self.store.to_owned());
        let reason = reason.into();
        match kind {
            Kind::NotFound => StoreError::NotFound { key, store },
            Kind::AlreadyExists => StoreError::AlreadyExists { key, store },
            Kind::Offline => StoreError::Offline { key, store },
            Kind::Denied(why) => StoreError::Denied { action, key, store, why, reason },
            Kind::Full => StoreError::Full { key, store, reason },
            Kind::Corrupt => StoreError::Corrupt { action, key, store, reason },
            Kind::Unavailable => StoreError::Unavailable { action, key, store, reason },
        }
    }

    /// The error that the SDK's failure amounts to.
    pub fn sdk_error<E>(&self, error: &SdkError<E, HttpResponse>) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match error {
            SdkError::ServiceError(answer) => {
                let (code, status) = (answer.err().code(), answer.raw().status().as_u16());
                let message = answer.err().message().unwrap_or_default();
                let mut reason = match code {
                    Some(code) => format!("{status} {code}: {message}"),
                    None => format!("{status}"),
                };
                if let Some(region) = answer.raw().headers().get(BUCKET_REGION)
                    && matches!(classify(status, code), Kind::Denied(Denial::Region))
                {
                    reason += &format!(" (the bucket is in the region {region})");
                }
                self.error(classify(status, code), reason)
            }
            // Before anything was sent: the request or the configuration makes no sense.
            SdkError::ConstructionFailure(_) => {
                self.error(Kind::Denied(Denial::Request), words(error))
            }
            SdkError::DispatchFailure(_) => {
                let reason = words(error);
                // The one failure before sending that waiting does not cure. It has no type.
                let all = DisplayErrorContext(error).to_string();
                let kind = match all.contains("no providers in chain provided credentials") {
                    true => Kind::Denied(Denial::Credentials),
                    false => Kind::Unavailable,
                };
                self.error(kind, reason)
            }
            SdkError::TimeoutError(_) | SdkError::ResponseError(_) => {
                self.error(Kind::Unavailable, words(error))
            }
            // The SDK may add variants.
            _ => self.error(Kind::Unavailable, words(error)),
        }
    }
}

/// The failure and its causes, for people: the SDK's own display ends in its debug form.
fn words<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let text = cause.to_string();
        // Layers repeat what is below them.
        if !words.ends_with(&text) {
            words = format!("{words}: {text}");
        }
        source = cause.source();
    }
    words
}

/// What an answer means. The engine's code decides where we know it, the HTTP status otherwise.
pub fn classify(status: u16, code: Option<&str>) -> Kind {
    match code.unwrap_or_default() {
        "NoSuchKey" | "NotFound" => Kind::NotFound,
        "PreconditionFailed" => Kind::AlreadyExists,
        "InvalidObjectState" => Kind::Offline,
        // Not NotFound: a bucket that is gone says nothing about an object's bytes.
        "NoSuchBucket" => Kind::Denied(Denial::Bucket),
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "NotSignedUp" => {
            Kind::Denied(Denial::Permission)
        }
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "TokenRefreshRequired" => Kind::Denied(Denial::Credentials),
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => Kind::Denied(Denial::Region),
        "RequestTimeTooSkewed" | "RequestExpired" => Kind::Denied(Denial::Clock),
        "NotImplemented" => Kind::Denied(Denial::Request),
        "StorageFull"
        | "XMinioStorageFull"
        | "QuotaExceeded"
        | "XMinioAdminBucketQuotaExceeded"
        | "InsufficientStorage" => Kind::Full,
        "InvalidRange" => Kind::Corrupt,
        // Damaged or cut on the way, taken up elsewhere at the same time, or asked to be slower.
        "BadDigest"
        | "XAmzContentSHA256Mismatch"
        | "XAmzContentChecksumMismatch"
        | "IncompleteBody"
        | "ConditionalRequestConflict"
        | "OperationAborted"
        | "RequestTimeout"
        | "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "BandwidthLimitExceeded"
        | "ServiceUnavailable"
        | "InternalError"
        | "NoSuchUpload" => Kind::Unavailable,
        _ => match status {
            404 => Kind::NotFound,
            412 => Kind::AlreadyExists,
            416 => Kind::Corrupt,
            507 => Kind::Full,
            408 | 409 | 425 | 429 | 500 | 502..=504 => Kind::Unavailable,
            505.. => Kind::Unavailable,
            301 | 302 | 307 | 308 => Kind::Denied(Denial::Region),
            401 | 403 => Kind::Denied(Denial::Permission),
            // The other 4xx: the same call meets the same answer.
            _ => Kind::Denied(Denial::Request),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart_by_what_to_do_next() {
        let table = [
            (404, Some("NoSuchKey"), Kind::NotFound),
            (404, None, Kind::NotFound),
            (404, Some("NoSuchBucket"), Kind::Denied(Denial::Bucket)),
            (404, Some("NoSuchUpload"), Kind::Unavailable),
            (412, Some("PreconditionFailed"), Kind::AlreadyExists),
            (409, Some("ConditionalRequestConflict"), Kind::Unavailable),
            (403, Some("AccessDenied"), Kind::Denied(Denial::Permission)),
            (403, None, Kind::Denied(Denial::Permission)),
            (400, Some("ExpiredToken"), Kind::Denied(Denial::Credentials)),
            (403, Some("RequestTimeTooSkewed"), Kind::Denied(Denial::Clock)),
            (403, Some("InvalidObjectState"), Kind::Offline),
            (403, Some("QuotaExceeded"), Kind::Full),
            (416, Some("InvalidRange"), Kind::Corrupt),
            (507, Some("XMinioStorageFull"), Kind::Full),
            (507, None, Kind::Full),
            (503, Some("SlowDown"), Kind::Unavailable),
            (429, None, Kind::Unavailable),
            (500, None, Kind::Unavailable),
            (501, Some("NotImplemented"), Kind::Denied(Denial::Request)),
            (400, Some("BadDigest"), Kind::Unavailable),
            (400, Some("RequestTimeout"), Kind::Unavailable),
            (400, Some("InvalidArgument"), Kind::Denied(Denial::Request)),
            (301, Some("PermanentRedirect"), Kind::Denied(Denial::Region)),
        ];
        for (status, code, kind) in table {
            assert_eq!(classify(status, code), kind, "{status} {code:?}");
        }
    }
}
