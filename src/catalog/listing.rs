//! The walk's next step: a directory that is to be listed, some names at a time.
//!
//! Names that are known are looked at together with names that are listed: whatever came or
//! went in between, each is written down as it is when it is looked at.

use std::os::fd::{AsFd, OwnedFd};
use std::vec::IntoIter;

use super::CatalogError;
use super::batch::Batch;
use super::eyes::{Eyes, Looks};
use super::part::Part;
use super::syncs::Syncs;
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
    syncs: &mut Syncs,
) -> Result<Step, CatalogError> {
    let mut step = Step::default();
    let mut events: Vec<Event> = Vec::new();
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
                    events.push(Event::Passed(dir));
                    events.push(Event::Looked(seen, deep));
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
        events.push(Event::Looked(seen, open.deep));
        if open.names.len() == 0 {
            events.push(Event::Listed(open.dir, open.handle.clone()));
            step.looked_at += 1;
            *listing = None;
        }
    }
    if events.is_empty() {
        return Ok(step);
    }
    for event in &events {
        if let Event::Looked(seen, _) = event {
            seen.own(eyes);
        }
    }
    // In the order in which it happened: what is to be listed again since stays so.
    let durable = syncs.next_is_durable();
    part.write(durable, |batch| events.iter().try_for_each(|event| event.write(batch)))?;
    abandon(part, listing)?;
    Ok(step)
}

/// Gives a listing up whose directory is known no more: what it wrote down so far went with the
/// row, and its end is not that of a listing of what may come back.
pub(super) fn abandon(part: &Part, listing: &mut Option<Listing>) -> Result<(), CatalogError> {
    let Some(open) = listing else { return Ok(()) };
    let row = part.read()?.row(open.dir)?;
    if row.is_none_or(|row| row.seen.handle != open.handle) {
        *listing = None;
    }
    Ok(())
}

/// What happened in a step.
enum Event {
    Looked(Looks, bool),
    /// All names of a directory were looked at.
    Listed(Ino, FileHandle),
    /// A directory cannot be listed.
    Passed(Ino),
}

impl Event {
    fn write(&self, batch: &mut Batch<'_>) -> Result<(), CatalogError> {
        match self {
            Event::Looked(seen, deep) => seen.write(batch, *deep),
            // Its number may have gone to another, which is to be listed.
            Event::Listed(dir, handle) => match batch.row(*dir)? {
                Some(row) if row.seen.handle != *handle => Ok(()),
                Some(_) | None => batch.listed(*dir),
            },
            Event::Passed(dir) => batch.listed(*dir),
        }
    }
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
