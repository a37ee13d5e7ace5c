//! From paths as typed to the daemon that serves them.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::checks::{FS_TYPE, after_a_death, mount_of};
use crate::control::client::{Client, Daemon, daemons, serving};
use crate::control::runtime::RuntimeDir;
use crate::control::wire::{Problem, ProblemKind, WirePath};
use crate::glance::in_time;
use crate::sys::mount::answers;
use crate::sys::mount_table::MountTable;

/// Paths on one mount.
#[derive(Debug)]
pub struct Share {
    /// The daemon.
    pub client: Client,
    /// The mount: of a daemon's tenants a request is about one.
    pub mountpoint: WirePath,
    /// Its paths, absolute, in the order in which they were typed.
    pub paths: Vec<WirePath>,
}

/// How long a mount may take to say that it lives. Where it does not, the kernel answers, at once.
const LIVES_WITHIN: Duration = Duration::from_secs(1);

/// Every daemon of this user.
pub async fn all_daemons() -> Result<Vec<Daemon>, Problem> {
    daemons(&RuntimeDir::from_env()?).await
}

/// A path that no daemon serves, and why.
#[derive(Debug)]
pub struct Unserved {
    /// As it was typed, or absolute.
    pub path: PathBuf,
    kind: ProblemKind,
    /// Why, without the path.
    pub cause: String,
    /// What the person can do.
    pub next_step: String,
}

impl From<Unserved> for Problem {
    fn from(path: Unserved) -> Self {
        let what = format!("{}: {}", path.path.display(), path.cause);
        Problem::new(path.kind, what, path.next_step)
    }
}

/// Deals paths out to the mounts that they are on; one that nobody serves is a problem before
/// anything is done to the others.
pub async fn shares(typed: &[PathBuf]) -> Result<Vec<Share>, Problem> {
    let (shares, mut unserved) = deal(typed).await?;
    if unserved.is_empty() { Ok(shares) } else { Err(unserved.swap_remove(0).into()) }
}

/// Deals paths out to the mounts that they are on, and names those that nobody serves.
pub async fn deal(typed: &[PathBuf]) -> Result<(Vec<Share>, Vec<Unserved>), Problem> {
    let runtime = RuntimeDir::from_env()?;
    let daemons = daemons(&runtime).await?;
    let mut shares: Vec<Share> = Vec::new();
    let mut nobodys = Vec::new();
    for path in typed {
        let path = match absolute(path) {
            Ok(path) => path,
            Err(problem) => {
                nobodys.push(problem);
                continue;
            }
        };
        let Some((daemon, mount)) = serving(&daemons, &path) else {
            nobodys.push(unserved(path, &daemons, &runtime));
            continue;
        };
        match shares.iter_mut().find(|share| share.mountpoint == mount.mountpoint) {
            Some(share) => share.paths.push(path.into()),
            None => shares.push(Share {
                client: daemon.client.clone(),
                mountpoint: mount.mountpoint.clone(),
                paths: vec![path.into()],
            }),
        }
    }
    Ok((shares, nobodys))
}

/// The daemon of one path, and the path made absolute.
pub async fn served(typed: &Path) -> Result<(Client, WirePath), Problem> {
    let mut shares = shares(&[typed.to_owned()]).await?;
    match shares.pop().map(|mut share| (share.client, share.paths.pop())) {
        Some((client, Some(path))) => Ok((client, path)),
        _ => Err(Problem::new(ProblemKind::Usage, "no path", "name one")),
    }
}

/// A path made absolute, symlinks on the way resolved, its last component left alone: a
/// command on a symlink means the symlink, as `rm` does.
fn absolute(path: &Path) -> Result<PathBuf, Unserved> {
    let bytes = path.as_os_str().as_bytes();
    let is_whole = bytes.ends_with(b"/") || bytes.ends_with(b"/.");
    let resolved = match (path.file_name(), path.parent()) {
        (Some(name), Some(parent)) if !is_whole => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            parent.canonicalize().map(|parent| parent.join(name))
        }
        _ => path.canonicalize(),
    };
    resolved.map_err(|error| {
        let (kind, next_step) = match error.raw_os_error() {
            Some(libc::ENOTCONN) => {
                let table = MountTable::read().unwrap_or_default();
                (ProblemKind::NotMounted, after_a_death(&mount_of(path, &table)))
            }
            _ => (ProblemKind::Failed, "check the path".to_owned()),
        };
        Unserved { path: path.to_owned(), kind, cause: error.to_string(), next_step }
    })
}

/// Says why nobody serves a path, as exactly as can be told from here.
fn unserved(path: PathBuf, daemons: &[Daemon], runtime: &RuntimeDir) -> Unserved {
    let raw = daemons
        .iter()
        .flat_map(|daemon| &daemon.mounts)
        .find(|mount| path.starts_with(mount.data_dir.as_path()));
    let table = MountTable::read().unwrap_or_default();
    let (cause, next_step) = match (raw, table.holding(&path)) {
        (Some(mount), _) => (
            format!("in the data directory of {}, behind its mount", mount.tenant),
            format!("name it below {}", mount.mountpoint),
        ),
        (None, Some((at, FS_TYPE))) if !dead_among(std::iter::once(at)).is_empty() => {
            (std::io::Error::from_raw_os_error(libc::ENOTCONN).to_string(), after_a_death(at))
        }
        (None, Some((at, FS_TYPE))) => (
            format!("no daemon in {} serves {}", runtime.path().display(), at.display()),
            "run this as the user who mounted it, with the same COLDFS_RUNTIME_DIR".into(),
        ),
        (None, _) => (
            "not on a coldfs mount".into(),
            "see `coldfs status` for what is mounted, or mount it: coldfs mount DATA_DIR MOUNTPOINT"
                .into(),
        ),
    };
    Unserved { path, kind: ProblemKind::NotMounted, cause, next_step }
}

/// Mounts that daemons left behind when they died; not among those of these, which live.
pub fn dead_mounts(living: &[Daemon]) -> Vec<WirePath> {
    let table = MountTable::read().unwrap_or_default();
    let serves = |at: &&Path| !living.iter().any(|daemon| daemon.serves(at));
    dead_among(table.places_of(FS_TYPE).filter(serves)).into_iter().map(WirePath::from).collect()
}

/// Those of these mounts that have no daemon any more.
fn dead_among<'a>(mounts: impl Iterator<Item = &'a Path>) -> Vec<PathBuf> {
    let died =
        |at: &Path| answers(at).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN));
    let seen = in_time(mounts.map(Path::to_owned), LIVES_WITHIN, died);
    let mut dead: Vec<_> =
        seen.into_iter().filter_map(|(at, died)| (died == Some(true)).then_some(at)).collect();
    dead.sort_unstable();
    dead
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_symlink_is_kept_and_others_are_resolved() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("dir")).unwrap();
        std::os::unix::fs::symlink("dir", root.join("link")).unwrap();
        let at = |path: &str| absolute(&root.join(path)).unwrap();
        assert_eq!(at("link"), root.join("link"));
        assert_eq!(at("link/"), root.join("dir"));
        assert_eq!(at("link/file"), root.join("dir/file"));
        assert_eq!(at("link/."), root.join("dir"));
        assert_eq!(at("link/.."), root);
        assert_eq!(absolute(Path::new("/")).unwrap(), Path::new("/"));
        assert!(absolute(&root.join("gone/file")).is_err());
        assert_eq!(at("gone"), root.join("gone"));
    }
}
