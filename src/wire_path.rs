//! A path on the wire, whatever its bytes.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::printable::printable;

/// A path whose name may be anything but NUL. In JSON it is a plain string where it is UTF-8
/// (so that `jq -r .path` works), and `{"hex": "2f61ff"}` where it is not: no escape in a
/// string could be told from a name that contains it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WirePath(pub PathBuf);

impl WirePath {
    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl<P: Into<PathBuf>> From<P> for WirePath {
    fn from(path: P) -> Self {
        Self(path.into())
    }
}

/// For people; see [`printable`].
impl fmt::Display for WirePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&printable(self.0.as_os_str().as_bytes()))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Spelling<'a> {
    Text(std::borrow::Cow<'a, str>),
    Hex { hex: String },
}

impl Serialize for WirePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => Spelling::Text(text.into()),
            None => {
                let bytes = self.0.as_os_str().as_bytes();
                Spelling::Hex { hex: bytes.iter().map(|byte| format!("{byte:02x}")).collect() }
            }
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for WirePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = match Spelling::deserialize(deserializer)? {
            Spelling::Text(text) => text.into_owned().into_bytes(),
            Spelling::Hex { hex } => from_hex(&hex)
                .ok_or_else(|| de::Error::custom(format!("path {hex:?} is not hexadecimal")))?,
        };
        if bytes.contains(&0) {
            return Err(de::Error::custom("path contains a NUL byte"));
        }
        Ok(Self(OsString::from_vec(bytes).into()))
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_survives_the_wire() {
        for name in [&b"/srv/plain"[..], b"/srv/with %41 and \\x41", b"/srv/\xff\x01\n", b""] {
            let path = WirePath::from(OsString::from_vec(name.to_vec()));
            let text = serde_json::to_string(&path).unwrap();
            assert_eq!(serde_json::from_str::<WirePath>(&text).unwrap(), path, "{text}");
        }
        assert_eq!(serde_json::to_string(&WirePath::from("/a b")).unwrap(), r#""/a b""#);
    }

    #[test]
    fn a_path_that_is_none_is_refused() {
        for text in [r#""a\u0000b""#, r#"{"hex":"0"}"#, r#"{"hex":"zz"}"#, r#"{"hex":"00"}"#, "1"] {
            assert!(serde_json::from_str::<WirePath>(text).is_err(), "{text}");
        }
    }
}
