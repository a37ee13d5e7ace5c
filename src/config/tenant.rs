//! A tenant's name: part of every key in the store, and of a log's name.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::usage;
use crate::control::wire::Problem;

/// Longest name, bytes: keys are at most 512, and the prefix and the segment need theirs.
pub const NAME_BYTES: usize = 128;

/// A tenant's name, fit to be one component of a key and of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantName(String);

impl TenantName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The default: the data directory's last component.
    pub fn of(data_dir: &Path) -> Result<Self, Problem> {
        let unfit = |cause: &str| {
            usage(
                format!("{}: {cause}", data_dir.display()),
                "give the tenant a name with --tenant NAME",
            )
        };
        let name = data_dir.file_name().ok_or_else(|| unfit("has no last component"))?;
        let name = name.to_str().ok_or_else(|| unfit("its name is not UTF-8"))?;
        name.parse().map_err(|cause: String| unfit(&cause))
    }
}

impl FromStr for TenantName {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        if name.is_empty() || name.len() > NAME_BYTES {
            return Err(format!("a tenant's name has 1 to {NAME_BYTES} bytes, not {}", name.len()));
        }
        if name.starts_with('.') || name.contains('/') || name.chars().any(char::is_control) {
            return Err(format!(
                "a tenant's name has no slash, no control character and no leading dot: {name:?}"
            ));
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn the_default_is_the_last_component() {
        assert_eq!(TenantName::of(Path::new("/srv/data/t1")).unwrap().as_str(), "t1");
        for path in ["/".as_bytes(), b"/srv/\xff", b"/srv/.hidden", b"/srv/a\nb"] {
            let problem = TenantName::of(Path::new(OsStr::from_bytes(path))).unwrap_err();
            assert!(problem.next_step.contains("--tenant"), "{problem}");
        }
    }

    #[test]
    fn names_that_cannot_be_a_key_are_refused() {
        for name in ["", ".", "..", "a/b", "a\0", &"x".repeat(129)] {
            assert!(name.parse::<TenantName>().is_err(), "{name:?}");
        }
        assert!("Mail 2026 (old)".parse::<TenantName>().is_ok());
    }
}
