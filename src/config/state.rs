//! Where the daemon keeps what it can lose: the catalog.

use std::path::{Path, PathBuf};

/// Environment variable that names the directory for state.
pub const STATE_DIR: &str = "COLDFS_STATE_DIR";

/// The directory of catalogs that the environment asks for, `/var/lib/coldfs/catalog` for root
/// and below the state home for others; none: nothing says where a home is.
pub fn catalog_dir() -> Option<PathBuf> {
    let path = |name| std::env::var_os(name).map(PathBuf::from);
    choose(path(STATE_DIR), nix::unistd::geteuid().is_root(), path("XDG_STATE_HOME"), path("HOME"))
}

fn choose(
    named: Option<PathBuf>,
    root: bool,
    state_home: Option<PathBuf>,
    home: Option<PathBuf>,
) -> Option<PathBuf> {
    let state = match named {
        Some(named) => named,
        None if root => "/var/lib/coldfs".into(),
        None => state_home
            .filter(|path| path.is_absolute())
            .or_else(|| home.map(|home| home.join(".local/state")))?
            .join("coldfs"),
    };
    Some(state.join("catalog"))
}

/// The directory that a path would be in, without symlinks as far as it exists.
pub fn resolved(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for ancestor in whole.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            let rest = whole.strip_prefix(ancestor).unwrap_or(Path::new(""));
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalog_is_with_the_state() {
        let path = |text: &str| Some(PathBuf::from(text));
        let none = || None;
        assert_eq!(choose(none(), true, none(), none()), path("/var/lib/coldfs/catalog"));
        assert_eq!(choose(path("/s"), true, none(), none()), path("/s/catalog"));
        let home = path("/home/u");
        let below = path("/home/u/.local/state/coldfs/catalog");
        assert_eq!(choose(none(), false, path("relative"), home.clone()), below);
        assert_eq!(choose(none(), false, path("/x"), home), path("/x/coldfs/catalog"));
        assert_eq!(choose(none(), false, none(), none()), none());
    }

    #[test]
    fn a_path_is_resolved_as_far_as_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        assert_eq!(resolved(&real.join("link/not/there")), real.join("not/there"));
        assert_eq!(resolved(&real.join("link")), real);
    }
}
