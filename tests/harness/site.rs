//! Where one test lives: a data directory, a mountpoint, a store, a runtime directory.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::raw;
use super::volume::{FsKind, Volume};

/// Directories of one test. `COLDFS_TEST_STORE` (`s3://BUCKET`) puts cold files into an engine. Fields drop in order: the volume is unmounted before the
/// directory that holds its image goes.
pub struct Site {
    pub volume: Option<Volume>,
    /// What coldfs fronts.
    pub data: PathBuf,
    /// Where it is mounted.
    pub mnt: PathBuf,
    /// Where a `disk:` store keeps its objects.
    pub store: PathBuf,
    /// What is mounted with, unless a test says otherwise.
    pub store_url: String,
    /// Sockets of this test's daemons, so that tests do not meet.
    pub runtime: PathBuf,
    /// A directory beside `data`, on the same filesystem, with nothing between.
    pub plain: PathBuf,
    pub dir: TempDir,
}

impl Site {
    /// On the filesystem that `COLDFS_TEST_FS` names (ext4, xfs, btrfs, a fresh image), else
    /// below the target directory, else (no `trusted.` attributes there) on ext4.
    pub fn new() -> Self {
        if let Ok(word) = std::env::var("COLDFS_TEST_FS") {
            let kind = FsKind::from_word(&word)
                .unwrap_or_else(|| panic!("COLDFS_TEST_FS={word}: not one of ext4, xfs, btrfs"));
            return Self::on(kind, 2_048);
        }
        let dir = scratch();
        let probe = dir.path().join("probe");
        std::fs::write(&probe, "").unwrap();
        if raw::set_xattr(&probe, b"trusted.probe", b"1", 0).is_err() {
            return Self::on(FsKind::Ext4, 2_048);
        }
        std::fs::remove_file(probe).unwrap();
        let root = dir.path().to_owned();
        Self::lay_out(dir, &root, None)
    }

    /// On a filesystem of its own of this kind. The store is outside, as a store usually is.
    pub fn on(kind: FsKind, mib: u64) -> Self {
        let dir = scratch();
        let volume = Volume::create(dir.path(), kind, mib);
        let root = volume.root().to_owned();
        Self::lay_out(dir, &root, Some(volume))
    }

    /// The same, mounted over the data directory itself.
    pub fn over_itself(self) -> Self {
        Self { mnt: self.data.clone(), ..self }
    }

    fn lay_out(dir: TempDir, root: &Path, volume: Option<Volume>) -> Self {
        let make = |path: PathBuf| {
            std::fs::create_dir(&path).unwrap();
            path
        };
        let store = make(dir.path().join("store"));
        // A bucket of an engine is shared by all tests of a run: each has a prefix of its own.
        let name = dir.path().file_name().unwrap().to_str().unwrap();
        let store_url = match std::env::var("COLDFS_TEST_STORE") {
            Ok(bucket) => format!("{bucket}/{name}"),
            Err(_) => format!("disk:{}", store.display()),
        };
        let site = Self {
            data: make(root.join("data")),
            plain: make(root.join("plain")),
            mnt: make(dir.path().join("mnt")),
            store,
            store_url,
            runtime: make(dir.path().join("run")),
            volume,
            dir,
        };
        raw::chmod(&site.runtime, 0o700);
        site
    }

    /// With the store in `store`, whatever is tested with: for tests that look into it.
    pub fn with_disk_store(mut self) -> Self {
        self.store_url = format!("disk:{}", self.store.display());
        self
    }

    /// Lets other users come as far as this site's directories.
    pub fn open_way(&self) {
        let mut dir = Some(self.dir.path());
        while let Some(path) = dir {
            if std::fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o001 == 0) {
                raw::chmod(path, 0o711);
            }
            dir = path.parent();
        }
    }

    pub fn volume(&mut self) -> &mut Volume {
        self.volume.as_mut().expect("this site has a volume")
    }
}

/// A directory below the target directory: on a disk, and swept with it.
pub fn scratch() -> TempDir {
    let parent = std::env::var_os("COLDFS_TEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    tempfile::Builder::new().prefix("t").tempdir_in(parent).unwrap()
}
