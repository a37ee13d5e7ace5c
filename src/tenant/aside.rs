//! `.coldfs/conflicts.d`: bodies that a person chose against, kept.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::Tenant;
use super::conflicts::seconds_now;
use crate::file_id::Ino;
use crate::sys;

/// Name of the directory.
pub(super) const DIRECTORY: &str = "conflicts.d";
/// Bytes copied at once.
const COPY_BYTES: usize = 1 << 20;
/// Extents asked for at once; a body with more is not one that anybody wrote over a stub.
const EXTENTS: usize = 1 << 20;
/// Choices about one file within one second.
const NAMES_TRIED: u32 = 100;

impl Tenant {
    /// Copies a body, its holes as holes, to where nothing takes it away again, and waits until
    /// it is on disk. Its name below the data directory.
    pub fn keep_aside(&self, ino: Ino, body: &File) -> io::Result<String> {
        let dir = self.home.private_directory(DIRECTORY)?;
        let now = seconds_now();
        for attempt in 0..NAMES_TRIED {
            let name = match attempt {
                0 => format!("{ino}-{now}"),
                _ => format!("{ino}-{now}-{attempt}"),
            };
            let file = match dir.create(&name) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                other => other?,
            };
            let copied = copy(body, &file).and_then(|()| dir.sync());
            if let Err(error) = copied {
                // What was copied of it is of no use, and may fill the disk.
                drop(dir.remove(&name));
                return Err(error);
            }
            return Ok(format!(".coldfs/{DIRECTORY}/{name}"));
        }
        Err(ErrorKind::AlreadyExists.into())
    }
}

fn copy(from: &File, to: &File) -> io::Result<()> {
    let size = from.metadata()?.len();
    let extents = sys::extent::data(from.as_fd(), size, EXTENTS)?
        .ok_or_else(|| io::Error::other("more extents than are copied"))?;
    let mut buffer = vec![0; COPY_BYTES];
    for extent in extents {
        let mut at = extent.offset;
        while at < extent.end() {
            let room = usize::try_from(extent.end() - at).unwrap_or(COPY_BYTES).min(COPY_BYTES);
            let count = sys::read_up_to(from, &mut buffer[..room], at)?;
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            to.write_all_at(&buffer[..count], at)?;
            at += count as u64;
        }
    }
    to.set_len(size)?;
    to.sync_all()
}
