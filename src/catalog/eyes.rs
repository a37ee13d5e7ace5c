//! Looking: at the places where something changed, as they are now.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, fstat};

use super::CatalogError;
use super::batch::Batch;
use super::keys::NameIn;
use super::part::Reader;
use super::row::Row;
use super::seen::{Kind, Seen};
use crate::file_id::{FileHandle, Ino};
use crate::inode::Inodes;
use crate::sys;
use crate::tenant::{Places, Tenant};

/// The daemon's private directory at the root.
const HOME: &[u8] = b".coldfs";

/// What looks saw.
#[derive(Debug, Default)]
pub(super) struct Looks {
    there: Vec<(Ino, Box<[u8]>, Seen)>,
    gone: Vec<NameIn>,
    files: Vec<Seen>,
    /// Places that could not be looked at; what is known of them stays.
    pub(super) unread: u64,
    /// Places that were not where they were known to be: to be looked at again once what was
    /// seen on the way is written down.
    pub(super) astray: Places,
}

impl Looks {
    /// Writes down what was seen: what is there first, so that what moved is never nowhere.
    pub(super) fn write(&self, batch: &mut Batch<'_>, deep: bool) -> Result<(), CatalogError> {
        for (dir, name, seen) in &self.there {
            batch.name_is(*dir, name, seen, deep)?;
        }
        for (dir, name) in &self.gone {
            batch.name_is_gone(*dir, name)?;
        }
        for seen in &self.files {
            batch.file_is(seen)?;
        }
        Ok(())
    }

    /// Says whose the files are that were seen: their uses come here then.
    pub(super) fn own(&self, eyes: &Eyes) {
        let seen = self.there.iter().map(|(_, _, seen)| seen).chain(&self.files);
        let files = seen.filter(|seen| seen.kind == Kind::Regular).map(|seen| seen.ino);
        eyes.tenant.heat.owns(files);
    }

    /// Looks at a name in an open directory; says what is there if that is to be kept.
    pub(super) fn look(&mut self, eyes: &Eyes, dir: Ino, fd: BorrowedFd<'_>, name: Box<[u8]>) {
        match eyes.name(dir, fd, &name) {
            Ok(Some(seen)) => self.there.push((dir, name, seen)),
            Ok(None) => self.gone.push((dir, name)),
            Err(error) => {
                self.unread += 1;
                tracing::debug!(dir = %dir, %error, "a name cannot be looked at");
            }
        }
    }
}

/// A directory, found again.
enum Found {
    Open(OwnedFd),
    /// It is not where it was: look at the name that it had.
    Gone,
}

/// What came of looking at a file.
enum Sight {
    Done,
    /// It is not where it was: look at its names.
    Gone,
}

/// What looking needs.
#[derive(Debug)]
pub(super) struct Eyes {
    pub(super) tenant: Arc<Tenant>,
    pub(super) inodes: Arc<Inodes>,
    pub(super) root: Ino,
    /// Whether this process may open by handle.
    pub(super) by_handle: bool,
}

impl Eyes {
    /// Looks at the tenant's root.
    pub(super) fn root_of(tenant: &Tenant) -> io::Result<Seen> {
        Seen::of(tenant, tenant.root(), &fstat(tenant.root())?)
    }

    /// Looks at all these places, and at where the files among them were if they are gone.
    pub(super) fn look(&self, reader: &Reader, places: Places) -> Result<Looks, CatalogError> {
        let mut looks = Looks::default();
        let mut files: BTreeSet<Ino> = places.files.into_iter().collect();
        // A directory's size and time change with its names.
        files.extend(places.names.keys());
        let mut waiting: BTreeMap<Ino, BTreeSet<Box<[u8]>>> = places.names.into_iter().collect();
        let mut asked: HashSet<NameIn> = HashSet::new();
        // Directories that came in this very batch have no row yet.
        let mut new: HashMap<Ino, FileHandle> = HashMap::new();
        // Not where they were, and known by other names too.
        let mut lost = BTreeSet::new();
        loop {
            let mut again = BTreeMap::new();
            let mut more: Vec<NameIn> = Vec::new();
            let before = waiting.len();
            for (dir, names) in std::mem::take(&mut waiting) {
                let row = reader.row(dir)?;
                let found = match (new.get(&dir), &row) {
                    (Some(handle), _) => self.by_handle(dir, handle),
                    (None, Some(row)) => self.find(reader, row),
                    (None, None) => {
                        again.insert(dir, names);
                        continue;
                    }
                };
                let fd = match found {
                    Ok(Found::Open(fd)) => fd,
                    Ok(Found::Gone) => {
                        if let Some(row) = row {
                            lost.extend(self.has_other_names(&row).then_some(dir));
                            more.extend(row.named);
                        }
                        names.iter().for_each(|name| looks.astray.add_name(dir, name));
                        continue;
                    }
                    Err(error) => {
                        looks.unread += 1;
                        tracing::debug!(dir = %dir, %error, "a directory cannot be opened");
                        continue;
                    }
                };
                for name in names {
                    asked.insert((dir, name.clone()));
                    looks.look(self, dir, fd.as_fd(), name);
                    if let Some((_, _, seen)) = looks.there.last()
                        && seen.kind == Kind::Directory
                    {
                        new.insert(seen.ino, seen.handle.clone());
                    }
                }
            }
            for ino in std::mem::take(&mut files) {
                let Some(row) = reader.row(ino)? else { continue };
                match self.file(reader, &row, &mut looks) {
                    Sight::Done => {}
                    Sight::Gone => {
                        lost.extend(self.has_other_names(&row).then_some(ino));
                        more.extend(row.named);
                        looks.astray.add_file(ino);
                    }
                }
            }
            let mut progress = again.len() < before;
            waiting = again;
            let mut ask = |more: Vec<NameIn>| {
                let mut any = false;
                for (dir, name) in more {
                    if asked.insert((dir, name.clone())) {
                        waiting.entry(dir).or_default().insert(name);
                        any = true;
                    }
                }
                any
            };
            progress |= ask(more);
            if !progress && !lost.is_empty() {
                progress = ask(reader.names_of(&std::mem::take(&mut lost))?);
            }
            // What waits is in no directory that is known: listing its directory will find it.
            if !progress {
                return Ok(looks);
            }
        }
    }

    /// Whether a file that is not where it was met last may be found by another name. What a
    /// handle does not find is nowhere.
    fn has_other_names(&self, row: &Row) -> bool {
        !self.by_handle && (row.names > 1 || row.named.is_none())
    }

    /// Looks at a file that has a row.
    fn file(&self, reader: &Reader, row: &Row, looks: &mut Looks) -> Sight {
        let seen = self.find(reader, row).and_then(|found| match found {
            Found::Open(fd) => Seen::of(&self.tenant, &fd, &fstat(&fd)?).map(Some),
            Found::Gone => Ok(None),
        });
        match seen {
            Ok(Some(seen)) => looks.files.push(seen),
            Ok(None) => return Sight::Gone,
            Err(error) => {
                looks.unread += 1;
                tracing::debug!(ino = %row.seen.ino, %error, "a file cannot be looked at");
            }
        }
        Sight::Done
    }

    /// Opens a directory for listing; none: it is not where it was.
    pub(super) fn directory(&self, reader: &Reader, row: &Row) -> io::Result<Option<OwnedFd>> {
        match self.find(reader, row)? {
            Found::Gone => Ok(None),
            Found::Open(fd) => {
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                Ok(Some(openat(fd, c".", flags, Mode::empty())?))
            }
        }
    }

    /// Finds a file again: by its handle, by what the kernel remembers, or by its path.
    fn find(&self, reader: &Reader, row: &Row) -> io::Result<Found> {
        let (ino, handle) = (row.seen.ino, &row.seen.handle);
        match self.by_handle(ino, handle)? {
            Found::Gone if !self.by_handle => {}
            found => return Ok(found),
        }
        let path = reader.path(row, self.root).map_err(io::Error::other)?;
        let Some(path) = path else { return Ok(Found::Gone) };
        let path = CString::new(if path.is_empty() { b".".to_vec() } else { path })?;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        match openat2(self.tenant.root(), path.as_c_str(), how).map_err(io::Error::from) {
            Ok(fd) if sys::handle::of(&fd, c"")? == *handle => Ok(Found::Open(fd)),
            Ok(_) => Ok(Found::Gone),
            Err(error) if is_gone(&error) => Ok(Found::Gone),
            Err(error) => Err(error),
        }
    }

    fn by_handle(&self, ino: Ino, handle: &FileHandle) -> io::Result<Found> {
        if self.by_handle {
            return match sys::handle::open(self.tenant.root(), handle, libc::O_PATH) {
                Ok(fd) => Ok(Found::Open(fd)),
                Err(error) if is_gone(&error) => Ok(Found::Gone),
                Err(error) => Err(error),
            };
        }
        match self.inodes.get(ino).filter(|inode| inode.handle == *handle) {
            Some(inode) => {
                let fd = self.inodes.path_fd(&inode)?;
                Ok(Found::Open(fd.as_fd().try_clone_to_owned()?))
            }
            None => Ok(Found::Gone),
        }
    }

    /// Looks at a name; none: nothing is there that the catalog keeps.
    fn name(&self, dir: Ino, fd: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Seen>> {
        if dir == self.root && name == HOME {
            return Ok(None);
        }
        let name = CString::new(name)?;
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let seen = openat(fd, name.as_c_str(), flags, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|fd| {
                let stat = fstat(&fd)?;
                let link = stat.st_mode & libc::S_IFMT == libc::S_IFLNK;
                if link || stat.st_dev != self.tenant.device() {
                    return Ok(None);
                }
                Seen::of(&self.tenant, &fd, &stat).map(Some)
            });
        match seen {
            Err(error) if is_gone(&error) => Ok(None),
            other => other,
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE | libc::ENOTDIR))
}
