//! The `[s3]` table: how a store's engine is reached and used, where the standard AWS chain
//! (environment, profile) does not say it, or says it for more than this mount.
//!
//! ```toml
//! [s3]
//! endpoint = "https://s3.example.org"
//! region = "eu-central-1"
//! path_style = true                 # the bucket in the path, not in the host's name
//! ca_bundle = "/etc/ssl/ours.pem"   # trusted besides the system's certificates
//! profile = "cold"                  # of ~/.aws/config and ~/.aws/credentials
//! role_arn = "arn:aws:iam::123456789012:role/cold"
//! storage_class = "STANDARD_IA"     # of segments
//! tags = { owner = "t1" }           # of segments
//! verify = "readback"               # or "checksum"; by a probe at the mount otherwise
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::store::Verify;
use crate::store::s3::{Dial, Options};

/// S3's own bounds of tags.
const MOST_TAGS: usize = 10;
const TAG_NAME_CHARS: usize = 128;
const TAG_VALUE_CHARS: usize = 256;

/// Classes whose objects cannot be read before they are restored.
const OFFLINE: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

/// What the table says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3Options {
    endpoint: Option<String>,
    region: Option<String>,
    path_style: Option<bool>,
    ca_bundle: Option<PathBuf>,
    profile: Option<String>,
    role_arn: Option<String>,
    storage_class: Option<String>,
    tags: BTreeMap<String, String>,
    #[serde(deserialize_with = "super::file::parsed")]
    verify: Option<Verify>,
}

impl S3Options {
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        if let Some(endpoint) = &self.endpoint
            && !["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme))
        {
            return Err(format!("s3.endpoint is no URL: {endpoint:?}; write https://HOST"));
        }
        if let Some(class) = &self.storage_class {
            if OFFLINE.contains(&class.as_str()) {
                return Err(format!(
                    "s3.storage_class {class} cannot be read before it is restored: cold files \
                     could not be opened; GLACIER_IR and STANDARD_IA can be read at once"
                ));
            }
            let is_word = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            if class.is_empty() || !class.chars().all(is_word) {
                return Err(format!("s3.storage_class is no class: {class:?}"));
            }
        }
        if self.tags.len() > MOST_TAGS {
            return Err(format!("s3.tags has more than {MOST_TAGS} tags"));
        }
        let is_unfit = |(name, value): &(&String, &String)| {
            name.is_empty()
                || name.chars().count() > TAG_NAME_CHARS
                || value.chars().count() > TAG_VALUE_CHARS
        };
        if let Some((name, _)) = self.tags.iter().find(is_unfit) {
            return Err(format!(
                "s3.tags: {name:?}: a name has 1 to {TAG_NAME_CHARS} characters, a value at most \
                 {TAG_VALUE_CHARS}"
            ));
        }
        Ok(())
    }

    /// How segments are to be proven; none: as a probe says.
    pub fn verify(&self) -> Option<Verify> {
        self.verify
    }

    /// How the engine is reached.
    pub fn dial(&self) -> Dial {
        Dial {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            path_style: self.path_style,
            ca_bundle: self.ca_bundle.clone(),
            profile: self.profile.clone(),
            role_arn: self.role_arn.clone(),
        }
    }

    /// How it is used.
    pub fn options(&self) -> Options {
        let tags = self.tags.iter().map(|(name, value)| format!("{}={}", url(name), url(value)));
        let tags: Vec<String> = tags.collect();
        Options {
            storage_class: self.storage_class.as_deref().map(Into::into),
            tagging: (!tags.is_empty()).then(|| tags.join("&")),
            ..Options::default()
        }
    }
}

/// As a URL's query has it.
fn url(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<S3Options, String> {
        let options: S3Options = toml::from_str(text).map_err(|error| error.to_string())?;
        options.check().map(|()| options)
    }

    #[test]
    fn every_key_is_read() {
        let options = parse(
            "endpoint = 'http://e'\nregion = 'r'\npath_style = false\nca_bundle = '/c.pem'\n\
             profile = 'p'\nrole_arn = 'a'\nstorage_class = 'STANDARD_IA'\nverify = 'checksum'\n\
             tags = { 'a b' = 'c&d', e = '' }\n",
        )
        .unwrap();
        assert_eq!(options.verify(), Some(Verify::Checksum));
        let dial = options.dial();
        assert_eq!(
            (dial.endpoint.as_deref(), dial.region.as_deref()),
            (Some("http://e"), Some("r"))
        );
        assert_eq!((dial.path_style, dial.profile.as_deref()), (Some(false), Some("p")));
        let used = options.options();
        assert_eq!(used.tagging.as_deref(), Some("a%20b=c%26d&e="));
        assert_eq!(used.storage_class.unwrap().as_str(), "STANDARD_IA");
        assert_eq!(S3Options::default().options().tagging, None);
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (text, word) in [
            ("endpoint = 's3.example.org'", "no URL"),
            ("storage_class = 'DEEP_ARCHIVE'", "restored"),
            ("storage_class = 'cold'", "no class"),
            ("verify = 'never'", "readback"),
            ("tags = { '' = 'x' }", "s3.tags"),
            ("endpiont = 'x'", "endpiont"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
