//! Why a recall failed, named for what a reader is told.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::file_id::EntryRef;
use crate::segment::ReadError;
use crate::store::StoreError;

/// What a person can do about bytes that nobody can account for.
const CHOOSE: &str = "`coldfs fsck PATH` says what stands there; then choose: `coldfs fsck --keep \
                      remote PATH`, or `--keep local PATH`; `coldfs conflicts MOUNTPOINT` has all";

/// Why a recall failed. Cloned to everybody who waited for it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RecallError {
    /// No byte came for the deadline.
    #[error("{at}: no byte from the store in {} s: {last}", deadline.as_secs())]
    Deadline {
        /// What was asked for.
        at: EntryRef,
        /// The deadline.
        deadline: Duration,
        /// What the last attempt met.
        last: String,
    },
    /// Its turn did not come for the deadline.
    #[error(
        "{at}: its turn to be filled did not come in {} s: other recalls are before it, or the data \
         filesystem does not answer them",
        deadline.as_secs()
    )]
    Queued {
        /// What was asked for.
        at: EntryRef,
        /// The deadline.
        deadline: Duration,
    },
    /// Verified reads prove the bytes missing.
    #[error("{at}: its segment is not in the store any more: the file is lost there: {source}")]
    Lost {
        /// What was asked for.
        at: EntryRef,
        /// The store's answer.
        source: Arc<StoreError>,
    },
    /// The bytes are there and not what was stored.
    #[error("{at}: the store holds other bytes than were put there: {what}")]
    Damaged {
        /// What was asked for.
        at: EntryRef,
        /// Which check failed.
        what: String,
    },
    /// Written by a later coldfs.
    #[error("{at}: {what}: use the coldfs that wrote it")]
    Newer {
        /// What was asked for.
        at: EntryRef,
        /// What is newer.
        what: String,
    },
    /// The object is in an offline storage class.
    #[error("{at}: its segment is in an offline storage class: {source}")]
    Offline {
        /// What was asked for.
        at: EntryRef,
        /// The store's answer.
        source: Arc<StoreError>,
    },
    /// The store refuses; waiting does not help.
    #[error("{at}: the store refuses: {source}")]
    Refused {
        /// What was asked for.
        at: EntryRef,
        /// The store's answer.
        source: Arc<StoreError>,
    },
    /// The body is a stub that no record of this tenant names.
    #[error("a stub without its record; run `coldfs fsck --adopt`")]
    Orphan,
    /// The body is a stub that this tenant or this coldfs did not write.
    #[error("{what}")]
    Stranger {
        /// Whose it is.
        what: String,
    },
    /// The body is neither what the record says nor anything that could be explained.
    #[error("changed behind our back: {what}")]
    Conflict {
        /// What was found.
        what: String,
    },
    /// No room to recall into.
    #[error("no room {} to recall into (errno {errno})", place(*errno))]
    NoSpace {
        /// ENOSPC or EDQUOT.
        errno: i32,
    },
    /// The stub cannot be filled: its owner may not write it, or nobody may.
    #[error("read-only or immutable below: it is read from the store, and stays there")]
    Unwritable,
    /// Somebody else has the stub open behind the mount.
    #[error("somebody has the stub open behind the mount")]
    Busy,
    /// A person cancelled the recall.
    #[error("the recall was cancelled")]
    Cancelled,
    /// The file became another meanwhile: whoever waited looks at it again.
    #[error("the file was changed before it was recalled")]
    Superseded,
    /// The tenant is being detached.
    #[error("the mount is being detached")]
    Detaching,
    /// A local system call failed.
    #[error("{0}")]
    Local(Arc<io::Error>),
}

impl RecallError {
    /// The same, of another entry of the same segment.
    #[must_use]
    pub fn said_of(mut self, entry: EntryRef) -> Self {
        match &mut self {
            RecallError::Deadline { at, .. }
            | RecallError::Queued { at, .. }
            | RecallError::Lost { at, .. }
            | RecallError::Damaged { at, .. }
            | RecallError::Newer { at, .. }
            | RecallError::Offline { at, .. }
            | RecallError::Refused { at, .. } => *at = entry,
            RecallError::Orphan
            | RecallError::Stranger { .. }
            | RecallError::Conflict { .. }
            | RecallError::NoSpace { .. }
            | RecallError::Unwritable
            | RecallError::Busy
            | RecallError::Cancelled
            | RecallError::Superseded
            | RecallError::Detaching
            | RecallError::Local(_) => {}
        }
        self
    }

    /// Whether the store answered, and has not what was put there.
    pub fn is_loss(&self) -> bool {
        matches!(self, RecallError::Lost { .. } | RecallError::Damaged { .. })
    }

    /// What a person can do.
    pub fn next_step(&self) -> &'static str {
        match self {
            RecallError::Deadline { .. } => {
                "check the store (`coldfs doctor --store URL`), then run the command again"
            }
            RecallError::Queued { .. } => {
                "check the data filesystem, then run the command again; `coldfs top` shows what is \
                 under way"
            }
            RecallError::Lost { .. } | RecallError::Damaged { .. } => {
                "look for the object in the store's versions or its backup; `coldfs fsck` lists \
                 what else is concerned"
            }
            RecallError::Newer { .. } => "mount with the newer coldfs",
            RecallError::Offline { .. } => "restore it in the store, then run the command again",
            RecallError::Refused { source, .. } => source.next_step(),
            RecallError::Orphan => "`coldfs fsck --adopt`, if it is this tenant's",
            RecallError::Stranger { .. } => {
                "use the coldfs or the tenant that wrote it: copy the file there, through its mount"
            }
            RecallError::Conflict { .. } => CHOOSE,
            RecallError::NoSpace { errno: libc::EDQUOT } => {
                "make room in the quota (`coldfs release`), or have it raised, then run the \
                 command again"
            }
            RecallError::NoSpace { .. } => {
                "make room on the data filesystem (`coldfs release`), then run the command again"
            }
            RecallError::Unwritable => {
                "make it writable (chmod u+rw, chattr -i), then run the command again"
            }
            RecallError::Busy => "close it there, or add --wait",
            RecallError::Cancelled | RecallError::Superseded => "run the command again to go on",
            RecallError::Detaching => "mount again, then run the command again",
            RecallError::Local(_) => "check the data filesystem, then run the command again",
        }
    }
}

impl From<io::Error> for RecallError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno @ (libc::ENOSPC | libc::EDQUOT)) => RecallError::NoSpace { errno },
            _ => RecallError::Local(Arc::new(error)),
        }
    }
}

/// Where there is no room.
fn place(errno: i32) -> &'static str {
    if errno == libc::EDQUOT { "in the quota" } else { "on the data filesystem" }
}

/// What to do about a failed fetch.
pub(super) enum Next {
    /// Try again until the deadline; this is what happened.
    Retry(String),
    /// Give up.
    Fail(RecallError),
}

impl Next {
    pub(super) fn after(at: EntryRef, error: ReadError) -> Self {
        match error {
            ReadError::Store(error) => match error {
                StoreError::Unavailable { .. } => Next::Retry(error.to_string()),
                StoreError::Corrupt { .. } => {
                    Next::Fail(RecallError::Damaged { at, what: error.to_string() })
                }
                StoreError::NotFound { .. } => {
                    Next::Fail(RecallError::Lost { at, source: Arc::new(error) })
                }
                StoreError::Offline { .. } => {
                    Next::Fail(RecallError::Offline { at, source: Arc::new(error) })
                }
                StoreError::Denied { .. }
                | StoreError::Full { .. }
                | StoreError::AlreadyExists { .. } => {
                    Next::Fail(RecallError::Refused { at, source: Arc::new(error) })
                }
            },
            ReadError::Damaged { .. } => {
                Next::Fail(RecallError::Damaged { at, what: error.to_string() })
            }
            ReadError::Newer { .. } => {
                Next::Fail(RecallError::Newer { at, what: error.to_string() })
            }
        }
    }
}
