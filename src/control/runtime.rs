//! The runtime directory: where daemons put their sockets and logs, and where commands look.
//!
//! `COLDFS_RUNTIME_DIR`, else `/run/coldfs` for root, else `$XDG_RUNTIME_DIR/coldfs`, else
//! `/tmp/coldfs-UID`. Anybody may create a name in `/tmp`, so the directory is used only
//! where it is ours and closed to others.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::dial::try_dial;
use super::wire::{Problem, ProblemKind};

/// Environment variable that names the runtime directory.
pub const RUNTIME_DIR: &str = "COLDFS_RUNTIME_DIR";

/// Longest socket path that Linux takes (`sun_path` less its NUL).
const SOCKET_PATH_BYTES: usize = 107;

/// A runtime directory that is ours.
#[derive(Clone, Debug)]
pub struct RuntimeDir(PathBuf);

impl RuntimeDir {
    /// The directory the environment asks for, made if it is missing.
    pub fn from_env() -> Result<Self, Problem> {
        Self::open(choose(
            std::env::var_os(RUNTIME_DIR).map(PathBuf::from),
            std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
            nix::unistd::geteuid().as_raw(),
        ))
    }

    /// Opens a directory, made if it is missing, refused unless it is ours.
    pub fn open(path: PathBuf) -> Result<Self, Problem> {
        let usage = |cause: String| {
            Problem::new(
                ProblemKind::Usage,
                format!("runtime directory {}: {cause}", path.display()),
                format!("name another in {RUNTIME_DIR}"),
            )
        };
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(usage(error.to_string())),
        }
        let meta = path.symlink_metadata().map_err(|error| usage(error.to_string()))?;
        if !meta.is_dir() {
            return Err(usage("not a directory".into()));
        }
        if meta.uid() != nix::unistd::geteuid().as_raw() {
            return Err(usage(format!("belongs to user {}", meta.uid())));
        }
        if meta.mode() & 0o022 != 0 {
            return Err(usage(format!("others may write to it (mode {:o})", meta.mode() & 0o7777)));
        }
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The log of the background daemon that serves a tenant.
    pub fn log_path(&self, tenant: &str) -> PathBuf {
        self.0.join(format!("{tenant}.log"))
    }

    /// Sockets somebody listens on. Stale ones, left by a daemon that was killed, are removed
    /// on the way.
    pub fn live_sockets(&self) -> io::Result<Vec<PathBuf>> {
        let mut live = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            let path = entry?.path();
            if !is_socket_name(&path) {
                continue;
            }
            match try_dial(&path) {
                Ok(_) => live.push(path),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    // Another command may have removed it first.
                    std::fs::remove_file(&path).or_else(absent_is_fine)?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Its queue is full: somebody does listen.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => live.push(path),
                Err(error) => return Err(error),
            }
        }
        live.sort();
        Ok(live)
    }

    /// This process's socket, listening, mode 0600. It gets its name only once it listens, so
    /// that nobody takes it for a stale one.
    pub fn listen(&self) -> Result<(UnixListener, PathBuf), Problem> {
        let pid = std::process::id();
        let path = self.0.join(format!("{pid}.sock"));
        self.bind(pid, &path).map(|listener| (listener, path.clone())).map_err(|error| {
            Problem::new(
                ProblemKind::Failed,
                format!("control socket {}: {error}", path.display()),
                format!("name another runtime directory in {RUNTIME_DIR}"),
            )
        })
    }

    fn bind(&self, pid: u32, path: &Path) -> io::Result<UnixListener> {
        let new = self.0.join(format!(".{pid}.new"));
        if new.as_os_str().len() > SOCKET_PATH_BYTES {
            return Err(io::Error::other(format!("longer than {SOCKET_PATH_BYTES} bytes")));
        }
        std::fs::remove_file(&new).or_else(absent_is_fine)?;
        let listener = UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, Permissions::from_mode(0o600))?;
        std::fs::rename(&new, path)?;
        Ok(listener)
    }
}

fn choose(own: Option<PathBuf>, xdg: Option<PathBuf>, uid: u32) -> PathBuf {
    match (own, xdg) {
        (Some(own), _) => own,
        (None, _) if uid == 0 => "/run/coldfs".into(),
        (None, Some(xdg)) if xdg.is_absolute() => xdg.join("coldfs"),
        (None, _) => format!("/tmp/coldfs-{uid}").into(),
    }
}

fn is_socket_name(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "sock")
        && path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .is_some_and(|stem| !stem.is_empty() && stem.bytes().all(|byte| byte.is_ascii_digit()))
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_chooses_the_directory() {
        let own = || Some(PathBuf::from("/own"));
        let xdg = || Some(PathBuf::from("/run/user/7"));
        assert_eq!(choose(own(), xdg(), 0), Path::new("/own"));
        assert_eq!(choose(None, xdg(), 0), Path::new("/run/coldfs"));
        assert_eq!(choose(None, xdg(), 7), Path::new("/run/user/7/coldfs"));
        assert_eq!(choose(None, Some("relative".into()), 7), Path::new("/tmp/coldfs-7"));
        assert_eq!(choose(None, None, 7), Path::new("/tmp/coldfs-7"));
    }

    #[test]
    fn a_directory_others_may_write_to_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("run");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        let problem = RuntimeDir::open(path.clone()).unwrap_err();
        assert!(problem.to_string().contains("others may write"), "{problem}");
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let problem = RuntimeDir::open(link).unwrap_err();
        assert!(problem.to_string().contains("not a directory"), "{problem}");
    }

    #[test]
    fn stale_sockets_are_removed_and_live_ones_found() {
        let parent = tempfile::tempdir().unwrap();
        let runtime = RuntimeDir::open(parent.path().join("run")).unwrap();
        let stale = runtime.path().join("1.sock");
        drop(UnixListener::bind(&stale).unwrap());
        std::fs::write(runtime.path().join("notes.sock"), "not ours").unwrap();
        let (_listener, path) = runtime.listen().unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(runtime.live_sockets().unwrap(), vec![path]);
        assert!(!stale.exists());
        assert!(runtime.path().join("notes.sock").exists());
    }
}
