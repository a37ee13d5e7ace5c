//! Tells the governor of every answer.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::config::interceptors::FinalizerInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use aws_smithy_runtime_api::client::orchestrator::Metadata;

use super::super::governor::{Governor, Sign};

/// Sees each request's end, but not that of one whose caller stopped waiting.
#[derive(Debug)]
pub(super) struct Meter(pub(super) Arc<Governor>);

/// The word that a request of the SDK is counted under.
fn word(operation: &str) -> &str {
    match operation {
        "PutObject" => "put",
        "GetObject" => "get",
        "HeadObject" => "size",
        "ListObjectsV2" => "list",
        "DeleteObject" => "delete",
        "CreateMultipartUpload" => "begin-upload",
        "UploadPart" => "put-part",
        "CompleteMultipartUpload" => "finish-upload",
        "AbortMultipartUpload" => "abort-upload",
        "HeadBucket" => "bucket",
        other => other,
    }
}

#[dyn_dispatch_hint]
impl Intercept for Meter {
    fn name(&self) -> &'static str {
        "coldfs meter"
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let operation = config.load::<Metadata>().map_or("other", |of| word(of.name()));
        let Some(answer) = context.response() else {
            let broken = matches!(context.output_or_error(), Some(Err(error))
                if error.as_connector_error().is_some_and(|error| error.is_io()));
            let (code, sign) = if broken { ("reset", Sign::Reset) } else { ("unsent", Sign::None) };
            self.0.observe(operation, code, sign);
            return Ok(());
        };
        let status = answer.status().as_u16();
        let sign = match status {
            429 | 503 => Sign::Throttled(retry_after(answer.headers().get("retry-after"))),
            200..=499 => Sign::Good,
            _ => Sign::None,
        };
        self.0.observe(operation, &status.to_string(), sign);
        Ok(())
    }
}

/// Seconds; a date, which HTTP allows as well, no engine was seen to send.
fn retry_after(text: Option<&str>) -> Option<Duration> {
    text?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_read_in_seconds() {
        assert_eq!(retry_after(Some(" 7 ")), Some(Duration::from_secs(7)));
        for text in [None, Some(""), Some("-1"), Some("Fri, 31 Dec 1999 23:59:59 GMT")] {
            assert_eq!(retry_after(text), None);
        }
    }
}
