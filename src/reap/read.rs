//! One complete read of a tenant's directory: who names which segment.
//!
//! ```text
//! .coldfs -> the whole tree -> what moved meanwhile -> the tree again, where it changed
//!   ^                                                     | until nothing did
//!   +-- files that are open, in flight, or were busy  <---+
//! (twice: what it notes may stand for a record that went in between)
//! ```
//!
//! A file that goes from where nobody has looked to where somebody has would be missed. Through the
//! mount nothing moves unseen ([`crate::tenant::Moved`]): what moved is looked at where it is
//! now, a directory with all below it. Behind the mount, a directory shows by its ctime that
//! names in it changed; the tree is gone over until no directory does that verbs of the mount do
//! not account for.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::doubts::Doubts;
use super::look::{Eyes, Look};
use super::tally::{By, Tally};
use super::tree::Trees;
use crate::file_id::{EntryRef, Ino};
use crate::inode::{Inode, Inodes, Serving};
use crate::intents::Intent;
use crate::sys;
use crate::tenant::{Listening, NamedByRecord, Tenant, Watch};

/// Times that the tree is gone over before a directory that keeps changing is a doubt.
const PASSES: u32 = 8;
/// Rounds of directories that move for the first time while others are read.
const ROUNDS: u32 = 256;
/// Files that are in use whenever they are looked at.
const BUSY: usize = 4_096;
/// How long one may be: an open that waits for its bytes has the recall's deadline.
const BUSY_PATIENCE: Duration = Duration::from_secs(90);
const BUSY_LOOK: Duration = Duration::from_millis(50);
/// How long a rename may be under way: a disk that hangs is a doubt.
const RENAME_PATIENCE: Duration = Duration::from_secs(30);
/// Files between two looks at what moved.
const MOVED_EVERY: u64 = 1_024;

const AGAIN: &str = "run the command again";
const LOOK_AT_IT: &str = "`coldfs fsck` says what it is, and what can be done";
const PERMISSIONS: &str = "check its permissions and the disk, then run the command again";

/// What a read came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Files looked at; one that was looked at again counts again.
    pub files: u64,
    /// Directories read, likewise.
    pub directories: u64,
    /// Times that the tree was gone over.
    pub passes: u32,
    /// What it could not read; none: it was complete.
    pub doubts: Doubts,
}

/// How far a read is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Files looked at.
    pub files: u64,
    /// Directories read.
    pub directories: u64,
}

/// Reads the whole directory, and adds what it names. Breaks where `go_on` does; it is asked at
/// every file. One read of a tenant at a time. Takes the disk's time.
pub fn read(
    tenant: &Tenant,
    inodes: &Inodes,
    tally: &mut Tally,
    go_on: &mut dyn FnMut(Told) -> ControlFlow<()>,
) -> ControlFlow<(), Reading> {
    let mut reader = Reader {
        eyes: Eyes { tenant, inodes },
        tally,
        go_on,
        told: Told::default(),
        doubts: Doubts::default(),
        busy: HashMap::new(),
        watch: tenant.noticed.watch(),
        _listening: tenant.moved.listen(),
        trees: Trees::default(),
        moved_at: 0,
    };
    let passes = reader.whole();
    // Nobody else forgets what was entered for a note.
    let busy = std::mem::take(&mut reader.busy).into_values();
    let moved = tenant.moved.take().moved.into_iter().chain(reader.trees.take_put_off());
    busy.chain(moved).for_each(|inode| inodes.let_go(inode));
    let Told { files, directories } = reader.told;
    ControlFlow::Continue(Reading { files, directories, passes: passes?, doubts: reader.doubts })
}

/// A read under way.
pub(super) struct Reader<'a> {
    pub(super) eyes: Eyes<'a>,
    tally: &'a mut Tally,
    go_on: &'a mut dyn FnMut(Told) -> ControlFlow<()>,
    pub(super) told: Told,
    pub(super) doubts: Doubts,
    busy: HashMap<Ino, Arc<Inode>>,
    pub(super) watch: Watch<'a>,
    _listening: Listening<'a>,
    pub(super) trees: Trees,
    /// Files looked at when it was last asked what moved.
    moved_at: u64,
}

impl Reader<'_> {
    /// Reads everything; how often the tree was gone over.
    fn whole(&mut self) -> ControlFlow<(), u32> {
        self.private_files();
        let mut passes = 1;
        self.root()?;
        loop {
            self.follow_moved()?;
            self.trees.wait_for_the_clock();
            self.trees.begin_check();
            self.root()?;
            passes += 1;
            let Some(restless) = self.trees.restless() else { break };
            if passes == PASSES {
                let cause = "names in it change behind the mount, however often it is read";
                self.doubts.add(
                    &restless,
                    cause,
                    "mount the directory over itself, or run it when \
                     nobody changes the directory below",
                );
                break;
            }
        }
        self.follow_moved()?;
        self.open_files()?;
        self.files_in_flight();
        self.busy_files()?;
        // A note that came since stands for a record that may have gone before it was looked at.
        self.private_files();
        ControlFlow::Continue(passes)
    }

    pub(super) fn flow(&mut self) -> ControlFlow<()> {
        (self.go_on)(self.told)
    }

    fn private_files(&mut self) {
        let (tally, doubts) = (&mut *self.tally, &mut self.doubts);
        self.eyes.tenant.kept_entries(&mut |at| tally.add(at, By::Note), &mut |what| {
            doubts.add(what.path.as_bytes(), what.cause, what.next_step)
        });
    }

    /// Looks at a regular file and adds what it names. `path`: for a person.
    pub(super) fn look(
        &mut self,
        path: impl Fn() -> Vec<u8>,
        look: impl FnOnce(Eyes<'_>, &mut dyn FnMut(EntryRef)) -> std::io::Result<Look>,
    ) {
        self.told.files += 1;
        let tally = &mut *self.tally;
        match look(self.eyes, &mut |at| tally.add(at, By::File)) {
            Ok(Look::Seen) => {}
            Ok(Look::Busy(inode)) if self.busy.len() < BUSY => {
                self.busy.insert(inode.ino, inode);
            }
            Ok(Look::Busy(inode)) => {
                self.eyes.inodes.let_go(inode);
                self.doubts.add(&path(), "too many files are in use at once", AGAIN);
            }
            Ok(Look::Unknown(why)) => self.doubts.add(&path(), why, LOOK_AT_IT),
            Err(error) if is_gone(&error) => {}
            Err(error) => self.doubts.add(&path(), error.to_string(), PERMISSIONS),
        }
    }

    fn look_at_inode(&mut self, inode: &Arc<Inode>) {
        let Eyes { tenant, inodes } = self.eyes;
        let path = || {
            let found = inodes.path_fd(inode).ok().and_then(|fd| tenant.path_of(fd));
            found.unwrap_or_else(|| format!("inode {}", inode.ino)).into_bytes()
        };
        self.look(path, |eyes, each| eyes.inode(inode, each));
    }

    /// Looks at what moved lately, now and then.
    pub(super) fn follow_now_and_then(&mut self) {
        if self.told.files >= self.moved_at + MOVED_EVERY {
            self.moved_at = self.told.files;
            self.look_at_moved();
        }
    }

    /// Looks at files that moved; directories that did are put off.
    fn look_at_moved(&mut self) {
        let taken = self.eyes.tenant.moved.take();
        if taken.missed {
            self.doubts.add(b"", "more was renamed at once than can be followed", AGAIN);
        }
        for inode in taken.moved {
            if inode.is_regular {
                self.look_at_inode(&inode);
                self.eyes.inodes.let_go(inode);
            } else if let Err(again) = self.trees.put_off(inode) {
                self.eyes.inodes.let_go(again);
            }
        }
    }

    /// Looks at all that moved so far. Where a directory did that was not read for that yet, more
    /// may move while it is read.
    fn follow_moved(&mut self) -> ControlFlow<()> {
        for _ in 0..ROUNDS {
            let mark = self.eyes.tenant.moved.mark();
            let patience = Instant::now() + RENAME_PATIENCE;
            while !self.eyes.tenant.moved.is_settled(mark) {
                self.flow()?;
                if Instant::now() > patience {
                    self.doubts.add(b"", "a rename does not come to its end", PERMISSIONS);
                    return ControlFlow::Continue(());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            self.look_at_moved();
            let directories = self.trees.take_put_off();
            if directories.is_empty() {
                return ControlFlow::Continue(());
            }
            for dir in directories {
                self.moved_directory(&dir)?;
                self.eyes.inodes.let_go(dir);
            }
        }
        self.doubts.add(b"", "directories are renamed faster than they are read", AGAIN);
        ControlFlow::Continue(())
    }

    /// Files that are open in the mount: some have no name any more.
    fn open_files(&mut self) -> ControlFlow<()> {
        for inode in self.eyes.inodes.all() {
            if inode.is_regular && !matches!(inode.serving(), Serving::Closed) {
                self.flow()?;
                self.look_at_inode(&inode);
            }
            self.eyes.inodes.let_go(inode);
        }
        ControlFlow::Continue(())
    }

    /// Files of the work list: what their records name. Where handles cannot be opened, or may lead
    /// into another directory, they are met by their names.
    fn files_in_flight(&mut self) {
        let tenant = self.eyes.tenant;
        if !tenant.is_in_its_place() {
            return;
        }
        for intent in tenant.work.listed() {
            let (Intent::Release(subject) | Intent::Recall(subject)) = intent else { continue };
            let named = sys::handle::open(tenant.root(), &subject.handle, libc::O_PATH)
                .and_then(|file| tenant.named_by_record(&file));
            match named {
                Ok(NamedByRecord::Entry(record)) => self.tally.add(record.at, By::File),
                Ok(NamedByRecord::NoRecord | NamedByRecord::Void) => {}
                Ok(NamedByRecord::Unknown(why)) => self.doubts.add(&subject.path, why, LOOK_AT_IT),
                Err(error) if is_gone(&error) || error.raw_os_error() == Some(libc::EPERM) => {}
                Err(error) => self.doubts.add(&subject.path, error.to_string(), PERMISSIONS),
            }
        }
    }

    /// Files that were in use when they were looked at.
    fn busy_files(&mut self) -> ControlFlow<()> {
        let patience = Instant::now() + BUSY_PATIENCE;
        loop {
            for (_, inode) in std::mem::take(&mut self.busy) {
                self.look_at_inode(&inode);
                self.eyes.inodes.let_go(inode);
            }
            if self.busy.is_empty() {
                return ControlFlow::Continue(());
            }
            if Instant::now() > patience {
                break;
            }
            self.flow()?;
            std::thread::sleep(BUSY_LOOK);
        }
        for (ino, inode) in std::mem::take(&mut self.busy) {
            self.eyes.inodes.let_go(inode);
            let path = format!("inode {ino}");
            self.doubts.add(path.as_bytes(), "in use whenever it was looked at", AGAIN);
        }
        ControlFlow::Continue(())
    }
}

pub(super) fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE))
}
