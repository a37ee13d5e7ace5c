//! A tenant: its directory, its key, its store, and the records on its files.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::sys::stat::{FileStat, fstat};

use crate::file_id::{FileHandle, Ino};
use crate::heat::Ledger;
use crate::inode::Inode;
use crate::inode::known::KnownCtimes;
use crate::record::{self, RECORD_BYTES, Record};
use crate::seal::Seal;
use crate::store::ObjectStore;
use crate::sys;

mod aside;
mod barrier;
mod conflicts;
mod head;
mod header;
mod home;
mod kept;
mod moved;
mod named;
mod notebook;
mod noticed;
mod pin;
mod plain;
mod private;
mod right;
mod standing;
mod uploads;
mod worklist;

pub use conflicts::Conflict;
use conflicts::{Conflicts, Noted};
pub use head::Head;
pub use header::{HeaderError, Unknown};
pub use home::{Home, HomeError};
pub use kept::Unreadable;
pub use moved::{Listening, Moved, Moving, Taken};
pub use named::{NamedByHead, NamedByRecord};
pub use notebook::{Lines, Notebook};
pub use noticed::{NOTICED, Noticed, Places, Watch};
pub use pin::Pin;
pub use right::NoRight;
pub use standing::{StandError, Standing, Succession, may_reap};
pub use uploads::{Upload, Uploads};
pub use worklist::{Ticket, WorkList};

/// How often a file is looked at that changes whenever it is looked at.
const ONE_MOMENT_TRIES: u32 = 8;

/// What stands on a file in the place of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// Nothing.
    Nothing,
    /// A record of ours, of this inode.
    Trusted(Record),
    /// A record that was copied here.
    Misfit,
    /// A record that is not ours to judge.
    Foreign(record::Foreign),
}

fn is_unmoved(before: &FileStat, after: &FileStat) -> bool {
    let moment = |stat: &FileStat| {
        (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec)
    };
    moment(before) == moment(after)
}

/// One tenant, while it is served.
pub struct Tenant {
    /// Its name: the first part of its keys in the store.
    pub name: String,
    /// Its key.
    pub seal: Seal,
    /// Where its cold bytes go.
    pub store: Arc<dyn ObjectStore>,
    /// What the daemon is about to replace or fill.
    pub work: Arc<WorkList>,
    /// The ctimes that archiving gave to files in this run.
    pub known: KnownCtimes,
    /// Where something changed that the catalog should look at.
    pub noticed: Noticed,
    /// What changes its name or its place while somebody reads the whole directory.
    pub moved: Moved,
    /// Segments that no record names yet.
    pub uploads: Arc<Uploads>,
    conflicts: Conflicts,
    still: bool,
    /// What was seen of uses of its files.
    pub heat: Arc<Ledger>,
    home: Home,
    standing: Standing,
    xattr: &'static CStr,
    device: u64,
    commits_together: bool,
}

impl Tenant {
    /// The tenant whose home this is.
    pub fn new(home: Home, store: Arc<dyn ObjectStore>) -> io::Result<Self> {
        let stat = fstat(home.root())?;
        let commits_together = barrier::commits_together(home.root())?;
        Ok(Self {
            name: home.identity().name.clone(),
            seal: home.identity().seal(),
            store,
            work: Arc::new(WorkList::open(
                home.open_file(worklist::FILE_NAME)?,
                home.is_read_only(),
                commits_together,
            )?),
            known: KnownCtimes::new(barrier::ctimes_prove(home.root())?),
            noticed: Noticed::default(),
            moved: Moved::default(),
            uploads: Arc::default(),
            conflicts: Conflicts::default(),
            still: false,
            heat: Arc::default(),
            xattr: home.xattr(),
            device: stat.st_dev,
            commits_together,
            home,
            standing: Standing::Unknown,
        })
    }

    /// As it stands towards what its store has of it.
    #[must_use]
    pub fn standing_as(self, standing: Standing) -> Self {
        Self { standing, ..self }
    }

    /// A small note in `.coldfs`; none: there is none.
    pub fn small_note(&self, name: &str) -> Option<io::Result<String>> {
        self.home.small_note(name)
    }

    /// Writes one whole or not at all, durable when it returns; not on a read-only filesystem.
    pub fn note(&self, name: &str, text: &str) -> io::Result<()> {
        self.home.note(name, text)
    }

    /// Removes one, durably.
    pub fn forget_note(&self, name: &str) -> io::Result<()> {
        self.home.forget_note(name)
    }

    /// Whether it owns what its store has of it.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// The tenant's directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.home.root()
    }

    /// `st_dev` of the tenant's filesystem: nothing of another is ever migrated.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// Whether records live in `user.coldfs`, because the daemon may not set `trusted.`.
    pub fn is_rootless(&self) -> bool {
        self.home.is_rootless()
    }

    /// Whether a file of this mode can have a record, which it keeps: `user.` attributes are
    /// read and written by the rules for the file's bytes.
    pub fn can_record(&self, mode: u32) -> bool {
        const OWNER: u32 = libc::S_IRUSR | libc::S_IWUSR;
        !self.is_rootless() || mode & OWNER == OWNER
    }

    /// Whether handles that were noted in its directory are of its own files.
    pub fn is_in_its_place(&self) -> bool {
        self.home.is_in_its_place()
    }

    /// Notes that they are from now on.
    pub fn note_place(&self) -> io::Result<()> {
        self.home.note_place()
    }

    /// Whether nothing can be written on the filesystem below: files are served as they are
    /// found, and put in order another time.
    pub fn is_read_only(&self) -> bool {
        self.home.is_read_only()
    }

    /// The same, where the mount is read-only, whatever the filesystem below is.
    #[must_use]
    pub fn mounted_read_only(self, still: bool) -> Self {
        Self { still, ..self }
    }

    /// Whether files may be moved: by a person, or because somebody reads them.
    pub fn may_move(&self) -> bool {
        !self.still && !self.is_read_only()
    }

    /// What stands on a file in the place of a record.
    pub fn recorded(&self, fd: impl AsFd, handle: &FileHandle) -> io::Result<Recorded> {
        let mut bytes = [0; RECORD_BYTES + 1];
        let length = match sys::xattr::get(fd, self.xattr, &mut bytes) {
            Ok(length) => length,
            Err(error) => match error.raw_os_error() {
                Some(libc::ENODATA | libc::EOPNOTSUPP) => return Ok(Recorded::Nothing),
                // Nor may anybody read the bytes.
                Some(libc::EACCES) if self.is_rootless() => return Ok(Recorded::Nothing),
                Some(libc::ERANGE) => return Ok(Recorded::Misfit),
                _ => return Err(error),
            },
        };
        Ok(match Record::decode(&bytes[..length], &self.seal, handle) {
            record::Reading::Trusted(record) => Recorded::Trusted(record),
            record::Reading::Misfit => Recorded::Misfit,
            record::Reading::Foreign(why) => Recorded::Foreign(why),
        })
    }

    /// A file of any kind as it is, with what stands in the place of its record, both of one moment:
    /// a move that ends in between would show the size or the times of the other body. `stat`: as it
    /// was just seen. Only regular files have records.
    pub fn with_record(
        &self,
        fd: impl AsFd,
        handle: &FileHandle,
        mut stat: FileStat,
    ) -> io::Result<(FileStat, Recorded)> {
        if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Ok((stat, Recorded::Nothing));
        }
        let mut tries = ONE_MOMENT_TRIES;
        loop {
            let recorded = self.recorded(&fd, handle)?;
            let now = fstat(&fd)?;
            tries -= 1;
            // Whoever sets or drops a record moves the ctime.
            if tries == 0 || is_unmoved(&stat, &now) {
                return Ok((now, recorded));
            }
            stat = now;
        }
    }

    /// The file's record, if it is ours.
    pub fn record(&self, fd: impl AsFd, inode: &Inode) -> io::Result<Option<Record>> {
        Ok(match self.recorded(fd, &inode.handle)? {
            Recorded::Trusted(record) => Some(record),
            Recorded::Nothing | Recorded::Misfit | Recorded::Foreign(_) => None,
        })
    }

    /// Whether anything stands there.
    pub fn has_record(&self, fd: impl AsFd) -> io::Result<bool> {
        match sys::xattr::get(fd, self.xattr, &mut []) {
            Ok(_) => Ok(true),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENODATA | libc::EOPNOTSUPP) => Ok(false),
                Some(libc::EACCES) if self.is_rootless() => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// Sets the record. Moves the file's ctime, so what was known of it is forgotten.
    pub fn set_record(&self, fd: impl AsFd, inode: &Inode, record: &Record) -> io::Result<()> {
        self.known.forget(inode.ino);
        let bytes = record.encode(&self.seal, &inode.handle);
        let set = sys::xattr::set(fd, self.xattr, &bytes, 0);
        self.noticed.file(inode.ino);
        set
    }

    /// Removes the record; there being none is no error.
    pub fn drop_record(&self, fd: impl AsFd, inode: &Inode) -> io::Result<()> {
        self.known.forget(inode.ino);
        let removed = sys::xattr::remove(fd, self.xattr);
        self.noticed.file(inode.ino);
        match removed {
            Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(()),
            other => other,
        }
    }

    /// Makes every record that was set before it durable; `last` is the file whose record was
    /// set last. Takes the disk's time.
    pub fn barrier(&self, last: impl AsFd) -> io::Result<()> {
        barrier::barrier(last, self.commits_together)
    }

    /// Makes the bodies of these files durable at once, and says what became of each; their mtimes
    /// may move. Takes the disk's time.
    pub fn sync_bodies(&self, files: &[&File]) -> Vec<io::Result<()>> {
        barrier::bodies(files, self.commits_together)
    }

    /// Notes, for a person, bytes that nobody can account for, and where the version is that the
    /// file's record names.
    pub fn note_conflict(&self, inode: &Inode, file: &File, record: Option<&Record>, what: &str) {
        let conflict = Conflict {
            time: conflicts::seconds_now(),
            ino: inode.ino.0,
            path: self.path_of(file).unwrap_or_default(),
            what: what.to_owned(),
            remote: record.map(|record| record.at.to_string()),
            remote_bytes: record.map(|record| record.size_bytes),
            ..Conflict::default()
        };
        let conflict = conflict.with_body(file);
        let noted = self.conflicts.note(&self.home, &conflict);
        let Conflict { ino, path, remote, .. } = &conflict;
        let remote = remote.as_deref().unwrap_or_default();
        match noted {
            Ok(Noted::Known) => {}
            Ok(Noted::New) => tracing::error!(ino, path, remote, "{what}"),
            Ok(Noted::Full) => {
                tracing::error!(
                    ino,
                    path,
                    remote,
                    "{what}; .coldfs/conflicts is full, and has it not"
                );
            }
            Err(error) => {
                tracing::error!(ino, path, remote, %error, "{what}; cannot write .coldfs/conflicts");
            }
        }
    }

    /// What is noted of bytes that nobody can account for, oldest first, and how many notes found
    /// no room since the mount.
    pub fn conflicts(&self) -> io::Result<(Vec<Conflict>, u64)> {
        Ok((conflicts::read(&self.home)?, self.conflicts.unwritten()))
    }

    /// A file's name below the data directory, for a person, where the kernel knows it.
    pub fn path_of(&self, file: impl AsFd) -> Option<String> {
        let name = |fd: BorrowedFd<'_>| {
            std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()
        };
        let (root, path) = (name(self.root())?, name(file.as_fd())?);
        Some(path.strip_prefix(root).ok()?.to_string_lossy().into_owned())
    }

    /// The file's own pin.
    pub fn pin(&self, fd: impl AsFd) -> io::Result<Option<Pin>> {
        pin::read(fd, self.is_rootless())
    }

    /// Pins or unpins a file or directory.
    pub fn set_pin(&self, fd: impl AsFd, pin: Option<Pin>) -> io::Result<()> {
        let ino = Ino(fstat(&fd)?.st_ino);
        pin::write(fd, self.is_rootless(), pin)?;
        self.noticed.file(ino);
        Ok(())
    }

    /// A file of the tenant's home, for others of its private files.
    pub fn clone_root(&self) -> io::Result<OwnedFd> {
        self.home.root().try_clone_to_owned()
    }
}

impl std::fmt::Debug for Tenant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tenant").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_id::{EntryRef, SegmentId, TimeNs};
    use crate::inode::Inodes;
    use crate::store::memory::MemoryStore;
    use crate::tier::State;

    #[test]
    fn a_stat_of_before_a_move_is_never_shown_with_the_record_of_after_it() {
        let target = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
        let dir = tempfile::tempdir_in(target).unwrap();
        let home = Home::open(dir.path(), None, "t").unwrap();
        let tenant = Tenant::new(home, Arc::new(MemoryStore::new())).unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![1; 20_000]).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let handle = sys::handle::of(&file, c"").unwrap();
        let resident = fstat(&file).unwrap();

        // A release ends between the two looks of somebody who asks.
        let inodes = Inodes::new(tenant.clone_root().unwrap(), true);
        let inode = inodes.enter(file.try_clone().unwrap().into(), handle.clone(), &resident);
        let record = Record {
            state: State::Released,
            at: EntryRef { segment: SegmentId([1; 16]), entry: 1 },
            size_bytes: 20_000,
            mtime: TimeNs::mtime_of(&resident).unwrap(),
            ctime_shown: TimeNs(2),
            blocks_512: 40,
        };
        file.set_len(crate::stub::STUB_LENGTH).unwrap();
        tenant.set_record(&file, &inode, &record).unwrap();

        let (stat, recorded) = tenant.with_record(&file, &handle, resident).unwrap();
        assert_eq!(recorded, Recorded::Trusted(record));
        assert_eq!(stat.st_size, crate::stub::STUB_LENGTH.cast_signed());
        assert_eq!(stat.st_ctime_nsec, fstat(&file).unwrap().st_ctime_nsec);
    }
}
