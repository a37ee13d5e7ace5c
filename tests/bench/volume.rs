//! A small filesystem of its own in an image file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Volume {
    pub root: PathBuf,
}

impl Volume {
    /// None: no image can be mounted here.
    pub fn make(dir: &Path) -> Option<Self> {
        let (image, root) = (dir.join("other.img"), dir.join("other"));
        fs::create_dir_all(&root).ok()?;
        fs::File::create(&image).ok()?.set_len(64 << 20).ok()?;
        let done = |command: &mut Command| command.status().is_ok_and(|status| status.success());
        let made = done(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))
            && done(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&root));
        if !made {
            eprintln!("bench: no image can be mounted here: another device is left out");
        }
        made.then_some(Self { root })
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.root).status().ok();
    }
}
