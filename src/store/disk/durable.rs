//! Files that appear whole, under their name, on disk: or not at all.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::doubt::Doubts;
use super::private;

/// How often a directory may vanish under our hands (a delete beside us tidies up empty ones)
/// before we believe something else is wrong.
const VANISHING_DIRECTORIES: u32 = 64;

/// A file without a name in the tree yet; removed when dropped.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    /// Open for reading and writing.
    pub file: Arc<File>,
    /// Somebody else's: not ours to remove.
    borrowed: bool,
}

impl Draft {
    /// Makes an empty one at `path`.
    pub fn create(path: PathBuf) -> io::Result<Self> {
        let file = private::options().read(true).create_new(true).open(&path)?;
        Ok(Self { path, file: Arc::new(file), borrowed: false })
    }

    /// Publishes a file that exists; its old name stays, unless it is renamed.
    pub fn borrow(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        Ok(Self { path, file: Arc::new(file), borrowed: true })
    }

    /// Makes it durable and gives it the name `target` below `root`, which must not exist
    /// (exactly one of several wins). Durable when it returns: also what is there, where the
    /// answer is `AlreadyExists`.
    pub fn publish_new(self, root: &Path, target: &Path, doubts: &Doubts) -> io::Result<()> {
        match self.publish(root, target, doubts, |draft, target| fs::hard_link(draft, target)) {
            // Its maker may have failed, or died, between naming and syncing it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                sync_object(root, target)?;
                Err(error)
            }
            outcome => outcome,
        }
    }

    /// As [`Draft::publish_new`], in the place of what may be there.
    pub fn publish_over(self, root: &Path, target: &Path, doubts: &Doubts) -> io::Result<()> {
        self.publish(root, target, doubts, |draft, target| fs::rename(draft, target))
    }

    fn publish(
        self,
        root: &Path,
        target: &Path,
        doubts: &Doubts,
        name: impl Fn(&Path, &Path) -> io::Result<()>,
    ) -> io::Result<()> {
        self.file.sync_all()?;
        // Whoever reads it next, to verify it, shall read the disk. Pages that are clean go.
        posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        let parent = target.parent().unwrap_or(root);
        let mut attempt = 0;
        let doubt = loop {
            // Not the root: a bucket that was deleted stays so.
            fs::metadata(root)?;
            let vanished = match make_dirs(parent) {
                Ok(()) => {
                    let doubt = doubts.begin(target);
                    match name(&self.path, target) {
                        Ok(()) => break doubt,
                        Err(error) => match error.kind() {
                            io::ErrorKind::NotFound => {
                                doubt.settle();
                                error
                            }
                            io::ErrorKind::AlreadyExists => {
                                doubt.settle();
                                return Err(error);
                            }
                            // Over a network it may have been done all the same.
                            _ => return Err(error),
                        },
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => error,
                Err(error) => return Err(error),
            };
            attempt += 1;
            if attempt == VANISHING_DIRECTORIES {
                return Err(vanished);
            }
        };
        sync_up_to(root, parent)?;
        doubt.settle();
        Ok(())
    }
}

/// As [`fs::create_dir_all`], but a directory that vanishes meanwhile is `NotFound`. There it is
/// `AlreadyExists`, which to a put means that its key does.
fn make_dirs(dir: &Path) -> io::Result<()> {
    match private::create_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            match fs::symlink_metadata(dir) {
                Ok(other) if !other.is_dir() => Err(io::Error::other(error)),
                Ok(_) | Err(_) => Err(io::ErrorKind::NotFound.into()),
            }
        }
        outcome => outcome,
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.borrowed {
            return;
        }
        // It is gone already where it was renamed. Otherwise the next open clears it away.
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(path = %self.path.display(), %error, "leave a draft");
        }
    }
}

/// Makes a directory's entries durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    #[cfg(test)]
    broken::check(dir)?;
    File::open(dir)?.sync_all()
}

/// Makes a new root durable, with the directories above it that may be as new. Where one may not
/// be read it was not made for us, and another filesystem's were there before.
pub fn sync_above(root: &Path) -> io::Result<()> {
    let root = root.canonicalize()?;
    let device = fs::metadata(&root)?.dev();
    for dir in root.ancestors().skip(1) {
        if fs::metadata(dir)?.dev() != device {
            break;
        }
        match sync_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Makes an object that is there durable, with its name.
pub fn sync_object(root: &Path, target: &Path) -> io::Result<()> {
    match File::open(target).and_then(|file| file.sync_all()) {
        // Deleted beside us: nobody is told that it is there.
        Err(error) if is_absent(&error) => return Ok(()),
        outcome => outcome?,
    }
    sync_up_to(root, target.parent().unwrap_or(root))
}

/// Syncs `dir` and every directory above it, `root` included.
///
/// All of them, each time: a neighbour may have made a directory and not synced it yet. A clean
/// directory costs no I/O.
fn sync_up_to(root: &Path, dir: &Path) -> io::Result<()> {
    for dir in dir.ancestors().take_while(|dir| dir.starts_with(root)) {
        match sync_dir(dir) {
            Ok(()) => {}
            // Deleted again beside us, and tidied up.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Removes `target` durably, then the directories below `root` that it leaves empty.
/// Whether it was there.
pub fn remove(root: &Path, target: &Path) -> io::Result<bool> {
    match fs::remove_file(target) {
        Ok(()) => {}
        Err(error) if is_absent(&error) => return Ok(false),
        Err(error) => return Err(error),
    }
    let Some(parent) = target.parent() else { return Ok(true) };
    match sync_dir(parent) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    }
    for dir in parent.ancestors().take_while(|dir| dir.starts_with(root) && *dir != root) {
        // Not empty, mostly. An empty directory that stays costs nobody anything.
        if fs::remove_dir(dir).is_err() {
            break;
        }
    }
    Ok(true)
}

/// Nothing has that name.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Directories whose sync fails, for tests.
#[cfg(test)]
pub mod broken {
    use super::*;

    static DIRS: std::sync::Mutex<Vec<PathBuf>> = std::sync::Mutex::new(Vec::new());

    /// Breaks a directory.
    pub fn break_dir(dir: &Path) {
        DIRS.lock().unwrap().push(dir.to_owned());
    }

    /// Mends it.
    pub fn mend_dir(dir: &Path) {
        DIRS.lock().unwrap().retain(|broken| broken != dir);
    }

    pub(super) fn check(dir: &Path) -> io::Result<()> {
        match DIRS.lock().unwrap().iter().any(|broken| broken == dir) {
            true => Err(io::Error::from_raw_os_error(nix::libc::EIO)),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn draft(dir: &Path, name: &str, bytes: &[u8]) -> Draft {
        let mut draft = Draft::create(dir.join(name)).unwrap();
        draft.file.write_all(bytes).unwrap();
        draft
    }

    #[test]
    fn one_of_two_creators_wins_and_drafts_go() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let (target, doubts) = (root.join("a/b"), Doubts::default());
        draft(dir.path(), "1", b"first").publish_new(&root, &target, &doubts).unwrap();
        let error =
            draft(dir.path(), "2", b"second").publish_new(&root, &target, &doubts).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&target).unwrap(), b"first");
        draft(dir.path(), "3", b"third").publish_over(&root, &target, &doubts).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"third");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_exists_is_told_of_only_once_it_is_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let (target, doubts) = (root.join("a/b/c"), Doubts::default());
        // The last of the chain: a retry finds all three directories made.
        broken::break_dir(&root);
        for name in ["1", "2"] {
            let put = draft(dir.path(), name, b"x").publish_new(&root, &target, &doubts);
            assert_eq!(put.unwrap_err().raw_os_error(), Some(nix::libc::EIO));
        }
        assert!(target.exists() && doubts.has(&target));
        broken::mend_dir(&root);
        let put = draft(dir.path(), "3", b"x").publish_new(&root, &target, &doubts);
        assert_eq!(put.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let other = root.join("a/b/d");
        draft(dir.path(), "4", b"x").publish_new(&root, &other, &doubts).unwrap();
        assert!(!doubts.has(&other));
    }

    #[test]
    fn a_new_root_is_durable_up_to_its_filesystem_s_top() {
        let dir = tempfile::tempdir().unwrap();
        let above = dir.path().canonicalize().unwrap();
        let root = above.join("a/b");
        fs::create_dir_all(&root).unwrap();
        sync_above(&root).unwrap();
        // As it is typed: relative to where the tests run.
        sync_above(Path::new("src")).unwrap();
        broken::break_dir(&above);
        assert_eq!(sync_above(&root).unwrap_err().raw_os_error(), Some(nix::libc::EIO));
        broken::mend_dir(&above);
    }

    #[test]
    fn removing_tidies_up_empty_directories() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a/b/c");
        draft(dir.path(), "1", b"x").publish_new(dir.path(), &target, &Doubts::default()).unwrap();
        assert!(remove(dir.path(), &target).unwrap());
        assert!(!remove(dir.path(), &target).unwrap());
        assert!(!dir.path().join("a").exists());
        assert!(dir.path().exists());
    }

    #[test]
    fn a_deleter_beside_a_creator_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        std::thread::scope(|scope| {
            for name in ["1", "2"] {
                let (root, dir) = (&root, dir.path());
                scope.spawn(move || {
                    for _ in 0..200 {
                        let target = root.join("a/b").join(name);
                        draft(dir, name, b"x")
                            .publish_new(root, &target, &Doubts::default())
                            .unwrap();
                        assert!(remove(root, &target).unwrap());
                    }
                });
            }
        });
    }
}
