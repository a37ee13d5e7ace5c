//! Where cold bytes go, as a URL.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::usage;
use crate::control::wire::Problem;

const FORMS: &str = "a store is disk:DIR or s3://bucket/prefix";

/// A store's URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// `disk:DIR`: an S3 service inside the daemon, over a directory.
    Disk(PathBuf),
    /// `s3://bucket/prefix`, found by the standard AWS chain.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// What every key begins with, without slashes at its ends; may be empty.
        prefix: String,
    },
}

impl StoreUrl {
    /// The default: `disk:` under the data home, or `/var/lib/coldfs` for root.
    pub fn from_env() -> Result<Self, Problem> {
        default_dir(
            nix::unistd::geteuid().is_root(),
            std::env::var_os("XDG_DATA_HOME").map(PathBuf::from),
            std::env::var_os("HOME").map(PathBuf::from),
        )
        .map(StoreUrl::Disk)
        .ok_or_else(|| usage("neither XDG_DATA_HOME nor HOME is set", "name a store: --store URL"))
    }
}

fn default_dir(root: bool, data_home: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    if root {
        return Some("/var/lib/coldfs/store".into());
    }
    data_home
        .filter(|path| path.is_absolute())
        .or_else(|| home.map(|home| home.join(".local/share")))
        .map(|data_home| data_home.join("coldfs/store"))
}

impl FromStr for StoreUrl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(dir) = text.strip_prefix("disk:") {
            if dir.is_empty() {
                return Err(format!("{text:?} names no directory; {FORMS}"));
            }
            let dir = std::path::absolute(Path::new(dir))
                .map_err(|error| format!("{text:?}: {error}; {FORMS}"))?;
            return Ok(StoreUrl::Disk(dir));
        }
        let Some(rest) = text.strip_prefix("s3://") else {
            return Err(format!("{text:?} is no store; {FORMS}"));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() || bucket.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(format!("{text:?} names no bucket; {FORMS}"));
        }
        Ok(StoreUrl::S3 { bucket: bucket.into(), prefix: prefix.trim_matches('/').into() })
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreUrl::Disk(dir) => write!(f, "disk:{}", dir.display()),
            StoreUrl::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            StoreUrl::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_read_back() {
        for text in ["disk:/srv/cold", "s3://bucket", "s3://bucket/a/b"] {
            assert_eq!(text.parse::<StoreUrl>().unwrap().to_string(), text);
        }
        assert_eq!("s3://b//a/".parse::<StoreUrl>().unwrap().to_string(), "s3://b/a");
        for text in ["", "disk:", "s3://", "s3:///x", "/srv/cold", "http://x", "s3://a b/c"] {
            assert!(text.parse::<StoreUrl>().is_err(), "{text}");
        }
    }

    /// The one that a tenant's directory notes is read back by every mount.
    #[test]
    fn reading_a_store_url_never_panics() {
        crate::fuzzing::run(|dice| {
            for good in ["disk:/srv/cold/../warm", "s3://bucket/a//b/"] {
                let mangled = dice.mangled(good.as_bytes());
                let Ok(url) = String::from_utf8_lossy(&mangled).parse::<StoreUrl>() else {
                    continue;
                };
                assert_eq!(url.to_string().parse(), Ok(url));
            }
        });
    }

    #[test]
    fn the_default_is_under_the_data_home() {
        let at = |root, data: Option<&str>, home: Option<&str>| {
            default_dir(root, data.map(Into::into), home.map(Into::into))
        };
        assert_eq!(at(true, Some("/d"), None), Some("/var/lib/coldfs/store".into()));
        assert_eq!(at(false, Some("/d"), Some("/h")), Some("/d/coldfs/store".into()));
        assert_eq!(at(false, Some("d"), Some("/h")), Some("/h/.local/share/coldfs/store".into()));
        assert_eq!(at(false, None, None), None);
    }
}
