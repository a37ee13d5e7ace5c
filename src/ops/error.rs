//! Which errno an application gets, in one place.

use std::io;

use crate::guard::Denied;
use crate::recall::RecallError;

/// An errno as applications see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// What the guard's refusal is to an open. Tools know EACCES, name the file and go on.
    pub(super) fn at_open(denied: &Denied) -> Self {
        Self(match denied {
            Denied::Brake | Denied::Class { .. } | Denied::Budget { .. } => libc::EACCES,
            Denied::Cancelled => libc::ECANCELED,
        })
    }

    /// What it is to a read or a write of an open file: bytes that did not come.
    pub(super) fn at_read(denied: &Denied) -> Self {
        Self(match denied {
            Denied::Brake | Denied::Class { .. } | Denied::Budget { .. } => libc::ETIMEDOUT,
            Denied::Cancelled => libc::ECANCELED,
        })
    }
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<nix::errno::Errno> for Errno {
    fn from(error: nix::errno::Errno) -> Self {
        Self(error as i32)
    }
}

impl From<&RecallError> for Errno {
    fn from(error: &RecallError) -> Self {
        Self(match error {
            RecallError::Deadline { .. } => libc::ETIMEDOUT,
            // The same to an application: what it waited for did not come in time.
            RecallError::Queued { .. } => libc::ETIMEDOUT,
            RecallError::Lost { .. }
            | RecallError::Damaged { .. }
            | RecallError::Offline { .. } => libc::EIO,
            RecallError::Refused { .. } | RecallError::Newer { .. } => libc::EIO,
            RecallError::Orphan | RecallError::Stranger { .. } | RecallError::Conflict { .. } => {
                libc::EIO
            }
            RecallError::NoSpace { errno } => *errno,
            RecallError::Unwritable => libc::EACCES,
            RecallError::Busy => libc::EBUSY,
            RecallError::Cancelled | RecallError::Superseded => libc::ECANCELED,
            RecallError::Detaching => libc::ENODEV,
            RecallError::Local(error) => error.raw_os_error().unwrap_or(libc::EIO),
        })
    }
}

impl From<RecallError> for Errno {
    fn from(error: RecallError) -> Self {
        Self::from(&error)
    }
}
