//! A filesystem of its own in an image file: to lose power on, to fill, to be of a kind.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{must, run};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsKind {
    Ext4,
    Xfs,
    Btrfs,
}

impl FsKind {
    pub fn word(self) -> &'static str {
        match self {
            FsKind::Ext4 => "ext4",
            FsKind::Xfs => "xfs",
            FsKind::Btrfs => "btrfs",
        }
    }

    pub fn from_word(word: &str) -> Option<Self> {
        [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs].into_iter().find(|kind| kind.word() == word)
    }
}

/// How power is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The filesystem stops where it is, nothing more is written (ext4, xfs).
    Shutdown,
    /// What the device has been given by now is what is found afterwards.
    ImageCopy,
}

/// A mounted image; unmounted when dropped.
pub struct Volume {
    pub kind: FsKind,
    image: PathBuf,
    root: PathBuf,
    mounted: bool,
    cuts: u32,
}

impl Volume {
    /// Makes an image of `mib` MiB in `dir` and mounts it there.
    pub fn create(dir: &Path, kind: FsKind, mib: u64) -> Self {
        let image = dir.join(format!("{}.img", kind.word()));
        let root = dir.join("volume");
        std::fs::create_dir_all(&root).unwrap();
        std::fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let mut mkfs = Command::new(format!("mkfs.{}", kind.word()));
        match kind {
            // Inode tables now: a lazy init thread would write during the test.
            FsKind::Ext4 => mkfs.args(["-q", "-F", "-E", "lazy_itable_init=0"]),
            FsKind::Xfs | FsKind::Btrfs => mkfs.args(["-q", "-f"]),
        };
        must(mkfs.arg(&image));
        let mut volume = Self { kind, image, root, mounted: false, cuts: 0 };
        volume.mount();
        volume
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file that it is in.
    pub fn image(&self) -> &Path {
        &self.image
    }

    pub fn mount(&mut self) {
        must(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.root));
        self.mounted = true;
    }

    /// Unmounts; somebody may still be letting go of it, so it tries for a while.
    pub fn unmount(&mut self) {
        if !self.mounted {
            return;
        }
        let done = super::wait_for(std::time::Duration::from_secs(20), || {
            run(Command::new("umount").arg(&self.root)).status.success().then_some(())
        });
        if done.is_none() {
            let users = run(Command::new("fuser").arg("-vm").arg(&self.root));
            // Last resort, so that the next test is not disturbed as well.
            run(Command::new("umount").arg("-l").arg(&self.root));
            self.mounted = false;
            assert!(
                std::thread::panicking(),
                "umount {}: busy: {}",
                self.root.display(),
                String::from_utf8_lossy(&users.stderr)
            );
        }
        self.mounted = false;
    }

    /// Stops the filesystem where it is: everything fails until it is mounted again.
    pub fn shutdown(&self) {
        must(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.root));
    }

    /// Makes files of this volume (ext4) ones that were made so many days ago, which only somebody can
    /// do who has the filesystem to himself.
    pub fn age_births(&mut self, names: &[String], days: u64) {
        assert_eq!(self.kind, FsKind::Ext4);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let then = now.as_secs() - days * 86_400;
        let wishes: String =
            names.iter().map(|name| format!("set_inode_field {name} crtime @{then}\n")).collect();
        let script = self.image.with_extension("births");
        std::fs::write(&script, wishes).unwrap();
        self.unmount();
        must(Command::new("debugfs").args(["-w", "-f"]).arg(&script).arg(&self.image));
        self.mount();
    }

    /// Loses power: first half, at the instant. `restore` is the second.
    pub fn cut(&mut self, how: Cut) {
        self.cuts += 1;
        match how {
            Cut::Shutdown => self.shutdown(),
            Cut::ImageCopy => {
                let copy = self.image.with_extension(format!("cut{}.img", self.cuts));
                must(Command::new("cp").arg("--sparse=always").arg(&self.image).arg(&copy));
                let old = std::mem::replace(&mut self.image, copy);
                // Still mounted; the name may go.
                std::fs::remove_file(old).unwrap();
            }
        }
    }

    /// Power is back: what was on the device is mounted again, its journal replayed.
    pub fn restore(&mut self) {
        self.unmount();
        self.mount();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.unmount();
    }
}
