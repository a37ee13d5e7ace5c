//! What is true of a file's body while the tier lock is held.

use std::any::Any;
use std::fs::File;
use std::sync::{Arc, Weak};

use nix::sys::stat::FileStat;

use super::Cold;
use crate::file_id::TimeNs;
use crate::record::Record;
use crate::sys::lease::Lease;

/// A holder of a file's tier lock.
pub type TierGuard = tokio::sync::OwnedMutexGuard<Body>;

/// What the kernel's registration of a backing file is to the FUSE door; opaque here.
pub type Backing = Arc<dyn Any + Send + Sync>;

/// A file's body, under its tier lock (I3).
#[derive(Debug, Default)]
pub struct Body {
    /// Open file descriptions of this file in the mount.
    pub opens: u32,
    /// Those of them that may write.
    pub writers: u32,
    /// The record is `suspect`, and this is what it looked like then.
    pub suspect: Option<Suspect>,
    /// A migration reads the file, or waits for its segment, under this lease. Whoever opens
    /// the file takes it away: readers and writers win (P3).
    pub archiving: Option<Reading>,
    /// While this lives, a release of this daemon relies on the `releasing` that it wrote.
    pub releasing: Weak<()>,
    /// A recall is filling the body in place.
    pub filling: bool,
}

impl Body {
    /// Whether a release of this daemon relies on the record as it is.
    pub fn is_being_released(&self) -> bool {
        self.releasing.strong_count() > 0
    }
}

/// The read lease of a migration. It is the migration's, and ends with it, whoever has the tier
/// lock just then: what stays in [`Body::archiving`] afterwards says nothing any more.
#[derive(Clone, Debug)]
pub struct Reading(Weak<Lease>);

impl Reading {
    /// A migration's reading under its lease.
    pub fn under(lease: &Arc<Lease>) -> Self {
        Self(Arc::downgrade(lease))
    }

    /// Whether it goes on, and nobody asked for the file since it began.
    pub fn is_unbroken(&self) -> bool {
        self.0.upgrade().is_some_and(|lease| lease.is_unbroken())
    }

    /// Takes the lease away from the migration.
    pub fn give_up(&self) {
        if let Some(lease) = self.0.upgrade() {
            lease.give_up();
        }
    }

    /// Whether it is the reading under this lease.
    pub fn is_under(&self, lease: &Arc<Lease>) -> bool {
        std::ptr::eq(self.0.as_ptr(), Arc::as_ptr(lease))
    }
}

/// An archived file that is open for writing.
#[derive(Clone, Debug)]
pub struct Suspect {
    /// The record as it was when it was archived.
    pub archived: Record,
    /// The inode's ctime right after the record became `suspect`; it moves with any change.
    pub ctime: TimeNs,
    /// Whether the bytes were known to be the archived ones then: else they are hashed before a
    /// release, whatever the times say.
    pub proven: bool,
}

impl Suspect {
    /// Whether a file that looks so has not been changed since.
    pub fn fits(&self, stat: &FileStat) -> bool {
        self.archived.fits(stat) && TimeNs::ctime_of(stat) == Some(self.ctime)
    }
}

/// How opens of a file are served. The first open decides; the kernel allows no other way
/// until the last close, but for [`Serving::Cold`] turning into [`Serving::Local`], of which
/// it sees nothing.
#[derive(Clone, Debug, Default)]
pub enum Serving {
    /// Not open.
    #[default]
    Closed,
    /// By the kernel, from the file below.
    Passthrough {
        /// The file below, open for reading and writing where permitted.
        file: Arc<File>,
        /// Its registration, shared by all opens.
        backing: Backing,
    },
    /// By the daemon, from the file below.
    Local {
        /// The file below.
        file: Arc<File>,
    },
    /// By the daemon, from the store, or from what of it has arrived.
    Cold(Arc<Cold>),
}

impl Serving {
    /// The open file, in any way of serving.
    pub fn file(&self) -> Option<Arc<File>> {
        match self {
            Serving::Closed => None,
            Serving::Passthrough { file, .. } | Serving::Local { file } => Some(Arc::clone(file)),
            Serving::Cold(cold) => Some(Arc::clone(&cold.file)),
        }
    }
}
