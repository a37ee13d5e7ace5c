//! What a client says about an object beside its bytes: kept for its tools, never read by coldfs.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io;

use serde::{Deserialize, Serialize};

use crate::sys::xattr;

/// Where they are kept, as JSON. Absent where there is nothing to say.
const NAME: &CStr = c"user.coldfs.object";
/// What the SDKs send when they are told nothing.
const DEFAULT_CONTENT_TYPE: &str = "application/octet-stream";

/// Content type and user metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// `Content-Type`, unless it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// `Content-Encoding`, without `aws-chunked`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    /// `x-amz-meta-*`.
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub metadata: HashMap<String, String>,
}

impl Attributes {
    /// Those of a request.
    pub fn new(
        content_type: Option<String>,
        content_encoding: Option<String>,
        metadata: Option<HashMap<String, String>>,
    ) -> Self {
        Self {
            content_type: content_type.filter(|text| text != DEFAULT_CONTENT_TYPE),
            content_encoding: content_encoding.and_then(|text| without_aws_chunked(&text)),
            metadata: metadata.unwrap_or_default(),
        }
    }

    /// Keeps them with `file`.
    ///
    /// A filesystem without user attributes keeps none: an error if there is user metadata,
    /// whose loss a tool would not notice; a content type is not worth a refusal.
    pub fn save(&self, file: &File) -> io::Result<()> {
        if *self == Self::default() {
            return Ok(());
        }
        let text = serde_json::to_vec(self)?;
        match xattr::set(file, NAME, &text, 0) {
            Err(error)
                if error.kind() == io::ErrorKind::Unsupported && self.metadata.is_empty() =>
            {
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Those of `file`; none where they cannot be read.
    pub fn load(file: &File) -> Self {
        match xattr::value(file, NAME) {
            Ok(Some(text)) => serde_json::from_slice(&text).unwrap_or_default(),
            Ok(None) | Err(_) => Self::default(),
        }
    }
}

/// `aws-chunked` is how the request travelled, not what was stored.
fn without_aws_chunked(text: &str) -> Option<String> {
    let kept: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("aws-chunked"))
        .collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing;

    #[test]
    fn decoding_attributes_never_panics() {
        let metadata = HashMap::from([("colour".to_owned(), "blue".to_owned())]);
        let good = Attributes::new(Some("text/plain".into()), Some("gzip".into()), Some(metadata));
        fuzzing::run(|dice| drop(fuzzing::read_json(dice, &good)));
    }

    #[test]
    fn how_a_request_travelled_is_forgotten() {
        assert_eq!(without_aws_chunked("aws-chunked"), None);
        assert_eq!(without_aws_chunked("gzip, aws-chunked").as_deref(), Some("gzip"));
    }
}
