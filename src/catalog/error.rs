//! Why there is no catalog; never a reason to serve nothing.

use std::io;

use crate::wire::Cut;

/// Why a catalog cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Another process has it.
    #[error(
        "another process has it open; `coldfs status` names the daemons here: detach the mount of a \
         copy, or give this one a [catalog] dir of its own"
    )]
    Locked,
    /// A newer coldfs wrote it.
    #[error("it is of format {0}, newer than this coldfs; use the coldfs that wrote it")]
    Newer(u32),
    /// Its inode numbers mean other files.
    #[error("it was written on another machine")]
    Elsewhere,
    /// Its bytes are not what was written.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// It cannot be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl CatalogError {
    /// A row that another row says is there.
    pub(super) fn missing(what: impl std::fmt::Display) -> Self {
        CatalogError::Damaged(format!("no row for {what}"))
    }
}

impl From<Cut> for CatalogError {
    fn from(cut: Cut) -> Self {
        CatalogError::Damaged(cut.to_string())
    }
}

impl From<redb::Error> for CatalogError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
                CatalogError::Locked
            }
            // How it says that a file is none of its own, or cut short.
            redb::Error::Io(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                ) =>
            {
                CatalogError::Damaged(error.to_string())
            }
            redb::Error::Io(error) => CatalogError::Io(error),
            redb::Error::PreviousIo | redb::Error::Backend(_) => {
                CatalogError::Io(io::Error::other(error.to_string()))
            }
            other => CatalogError::Damaged(other.to_string()),
        }
    }
}

macro_rules! as_redb {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for CatalogError {
            fn from(error: redb::$error) -> Self {
                redb::Error::from(error).into()
            }
        })*
    };
}

as_redb!(
    DatabaseError,
    TransactionError,
    TableError,
    StorageError,
    CommitError,
    SetDurabilityError
);
