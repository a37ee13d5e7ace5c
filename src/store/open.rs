//! Why a store could not be opened.

use std::io;
use std::path::PathBuf;

/// Why a store could not be opened, named for what the operator does about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is none of the forms that are understood.
    #[error("{url}: {reason}; a store is s3://BUCKET/PREFIX or disk:DIR")]
    Url {
        /// The URL as given.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A directory holds other things than a store.
    #[error("{dir}: not empty and not a coldfs store; choose an empty or a new directory")]
    NotAStore {
        /// The directory.
        dir: PathBuf,
    },
    /// A newer coldfs made the store.
    #[error("{dir}: store format {found:?}, this coldfs knows up to {known}; use a newer coldfs")]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// The marker's words.
        found: String,
        /// The newest version that is understood.
        known: u32,
    },
    /// The filesystem said no.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl OpenError {
    /// Names what was being done when the system failed.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
