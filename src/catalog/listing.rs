//! The walk's next step: a directory that is to be listed, some names at a time.
//!
//! Names that are known are looked at together with names that are listed: whatever came or
//! went in between, each is written down as it is when it is looked at.

use std::os::fd::{AsFd, OwnedFd};
use std::vec::IntoIter;

use super::CatalogError;
use super::eyes::{Eyes, Looks};
use super::part::Part;
use crate::file_id::{FileHandle, Ino};
use crate::sys::dirents;
use crate::tenant::Places;

/// A directory that is being listed.
pub(super) struct Listing {
    dir: Ino,
    handle: FileHandle,
    fd: OwnedFd,
    deep: bool,
    names: IntoIter<Box<[u8]>>,
}

/// What a step did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// Names and directories that it looked at.
    pub(super) looked_at: u64,
    /// Those that could not be.
    pub(super) unread: u64,
    /// There was nothing to list.
    pub(super) nothing_left: bool,
}

/// Lists up to `limit` more names.
pub(super) fn step(
    part: &Part,
    eyes: &Eyes,
    listing: &mut Option<Listing>,
    limit: usize,
    durable: bool,
) -> Result<Step, CatalogError> {
    let mut step = Step::default();
    let mut looks: Vec<(Looks, bool)> = Vec::new();
    let mut done: Vec<(Ino, FileHandle)> = Vec::new();
    let mut passed: Vec<Ino> = Vec::new();
    let mut last = None;
    let mut room = limit;
    while room > 0 {
        let Some(open) = listing else {
            room -= 1;
            match begin(part, eyes, last)? {
                Begun::Listing(begun) => {
                    last = Some(begun.dir);
                    *listing = Some(begun);
                }
                Begun::Passed(dir, seen, deep) => {
                    last = Some(dir);
                    step.looked_at += 1;
                    step.unread += seen.unread;
                    looks.push((seen, deep));
                    passed.push(dir);
                }
                Begun::NothingLeft => {
                    step.nothing_left = last.is_none();
                    break;
                }
            }
            continue;
        };
        let mut seen = Looks::default();
        for name in open.names.by_ref().take(room) {
            room -= 1;
            step.looked_at += 1;
            seen.look(eyes, open.dir, open.fd.as_fd(), name);
        }
        step.unread += seen.unread;
        looks.push((seen, open.deep));
        if open.names.len() == 0 {
            done.push((open.dir, open.handle.clone()));
            step.looked_at += 1;
            *listing = None;
        }
    }
    if looks.is_empty() {
        return Ok(step);
    }
    looks.iter().for_each(|(seen, _)| seen.own(eyes));
    part.write(durable, |batch| {
        for dir in &passed {
            batch.listed(*dir)?;
        }
        for (seen, deep) in &looks {
            seen.write(batch, *deep)?;
        }
        for (dir, handle) in &done {
            // Its number may have gone to another, which is to be listed.
            if batch.row(*dir)?.is_none_or(|row| row.seen.handle == *handle) {
                batch.listed(*dir)?;
            }
        }
        Ok(())
    })?;
    Ok(step)
}

enum Begun {
    Listing(Listing),
    /// It cannot be listed, and what that showed.
    Passed(Ino, Looks, bool),
    NothingLeft,
}

/// Opens the next directory that is to be listed behind `last`, in the order of their numbers.
fn begin(part: &Part, eyes: &Eyes, last: Option<Ino>) -> Result<Begun, CatalogError> {
    let reader = part.read()?;
    let Some((dir, deep)) = reader.next_to_list(last)? else { return Ok(Begun::NothingLeft) };
    let mut looks = Looks::default();
    let Some(row) = reader.row(dir)? else { return Ok(Begun::Passed(dir, looks, deep)) };
    let opened = eyes.directory(&reader, &row).and_then(|fd| {
        let Some(fd) = fd else { return Ok(None) };
        let mut names: Vec<Box<[u8]>> = Vec::new();
        dirents::read(&fd, 0, &mut |entry| {
            if entry.name != b"." && entry.name != b".." && entry.kind != libc::DT_LNK {
                names.push(entry.name.into());
            }
            true
        })?;
        Ok(Some((fd, names)))
    });
    match opened {
        Ok(Some((fd, mut names))) => {
            names.extend(reader.names(dir)?);
            names.sort_unstable();
            names.dedup();
            let (handle, names) = (row.seen.handle, names.into_iter());
            return Ok(Begun::Listing(Listing { dir, handle, fd, deep, names }));
        }
        Ok(None) => {
            let mut places = Places::default();
            if let Some((above, name)) = row.named {
                places.add_name(above, &name);
            }
            looks = eyes.look(&reader, places)?;
        }
        Err(error) => {
            looks.unread += 1;
            tracing::debug!(%dir, %error, "a directory cannot be listed");
        }
    }
    Ok(Begun::Passed(dir, looks, deep))
}
