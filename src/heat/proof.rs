//! The proof that a probe sees a filesystem: the daemon reads a page of a file of its own that
//! nobody else would read, and the probe must say so. Asked when a filesystem is watched first, and
//! at every drain from then on: what is attached today may be detached tomorrow.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use super::Kind;
use super::probe::{Probe, Seen};
use crate::sys;

/// Pages that are read: far behind what a reader of small files reads at.
const PAGES: std::ops::Range<u64> = 1 << 12..1 << 24;

/// A file for it, without a name.
#[derive(Debug)]
pub(super) struct Proof {
    file: File,
    page: u64,
    number: u64,
}

impl Proof {
    /// Makes the file in a directory below `root` that is the daemon's own.
    pub(super) fn prepare(root: BorrowedFd<'_>, private: &str) -> io::Result<Self> {
        let random = crate::file_id::SegmentId::generate().0[8..].try_into();
        let random = u64::from_le_bytes(random.map_err(io::Error::other)?);
        let page = PAGES.start + random % (PAGES.end - PAGES.start);
        let file = tempfile::tempfile_in(format!("/proc/self/fd/{}/{private}", root.as_raw_fd()))?;
        file.set_len(page * sys::page_bytes() + 1)?;
        let number = file.metadata()?.ino();
        Ok(Self { file, page, number })
    }

    /// Reads it; what the probe saw of that.
    pub(super) fn ask(&self, probe: &mut Probe) -> io::Result<Option<Seen>> {
        // Where a function is called, no page is known.
        let nonce = if probe.kind == Kind::Fentry { self.number } else { self.page };
        let offset = self.page * sys::page_bytes();
        probe.test(nonce, || self.file.read_exact_at(&mut [0], offset))
    }
}
