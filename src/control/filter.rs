//! Which files `find` means: decided from values alone, so that the walk and the tests share
//! one answer.

use std::ffi::OsStr;

use globset::{GlobBuilder, GlobMatcher};

use super::wire::{FileState, FindRequest, Problem, ProblemKind};

/// The conditions of a [`FindRequest`], ready to be asked a million times.
#[derive(Clone, Debug)]
pub struct Filter {
    states: Vec<FileState>,
    larger_bytes: Option<u64>,
    mtime_before_ns: Option<i64>,
    name: Option<GlobMatcher>,
}

/// A shell pattern for the last component of a path.
pub fn name_pattern(pattern: &str) -> Result<GlobMatcher, Problem> {
    let glob = GlobBuilder::new(pattern).backslash_escape(true).build();
    let glob = glob.map_err(|error| {
        Problem::new(
            ProblemKind::Usage,
            format!("--name {pattern}: {}", error.kind()),
            "use a shell pattern such as '*.iso'",
        )
    })?;
    Ok(glob.compile_matcher())
}

impl Filter {
    /// Reads a request's conditions; ages count from `now_ns` (nanoseconds since the epoch).
    pub fn new(request: &FindRequest, now_ns: i64) -> Result<Self, Problem> {
        let name = request.name.as_deref().map(name_pattern).transpose()?;
        let mtime_before_ns = request.older_seconds.map(|seconds| {
            let age_ns = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
            now_ns.saturating_sub(age_ns)
        });
        Ok(Self {
            states: request.states.clone(),
            larger_bytes: request.larger_bytes,
            mtime_before_ns,
            name,
        })
    }

    /// Whether a file with this last component, state, size and mtime is meant.
    pub fn accepts(&self, name: &OsStr, state: FileState, size_bytes: u64, mtime_ns: i64) -> bool {
        let state_fits = if self.states.is_empty() {
            state != FileState::None
        } else {
            self.states.contains(&state)
        };
        state_fits
            && self.larger_bytes.is_none_or(|bound| size_bytes > bound)
            && self.mtime_before_ns.is_none_or(|bound| mtime_ns < bound)
            && self.name.as_ref().is_none_or(|glob| glob.is_match(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn request() -> FindRequest {
        FindRequest {
            root: "/m".into(),
            states: vec![],
            larger_bytes: None,
            older_seconds: None,
            name: None,
            walk: false,
        }
    }

    #[test]
    fn all_conditions_hold_together() {
        let day = 86_400 * 1_000_000_000_i64;
        let all = FindRequest {
            states: vec![FileState::Released, FileState::Lost],
            larger_bytes: Some(1_000),
            older_seconds: Some(86_400),
            name: Some("*.is[ox]".into()),
            ..request()
        };
        let filter = Filter::new(&all, 10 * day).unwrap();
        let name = OsStr::new("disk.iso");
        assert!(filter.accepts(name, FileState::Released, 1_001, 8 * day));
        assert!(!filter.accepts(name, FileState::Archived, 1_001, 8 * day), "state");
        assert!(!filter.accepts(name, FileState::Lost, 1_000, 8 * day), "size");
        assert!(!filter.accepts(name, FileState::Lost, 1_001, 9 * day), "age");
        assert!(!filter.accepts(OsStr::new("disk.img"), FileState::Lost, 1_001, 0), "name");
    }

    #[test]
    fn without_conditions_every_regular_file_is_meant() {
        let filter = Filter::new(&request(), 0).unwrap();
        assert!(filter.accepts(OsStr::from_bytes(b"\xff"), FileState::Resident, 0, 1));
        assert!(!filter.accepts(OsStr::new("dir"), FileState::None, 0, 1));
    }

    #[test]
    fn a_pattern_matches_names_that_are_not_utf8() {
        let named = FindRequest { name: Some("a*".into()), ..request() };
        let filter = Filter::new(&named, 0).unwrap();
        assert!(filter.accepts(OsStr::from_bytes(b"a\xff\xfe"), FileState::Resident, 0, 0));
    }

    #[test]
    fn a_broken_pattern_is_a_usage_error() {
        let named = FindRequest { name: Some("a[".into()), ..request() };
        let problem = Filter::new(&named, 0).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::Usage);
        assert!(problem.what.contains("a["), "{problem}");
    }
}
