//! The catalog: what is known of every file of a tenant, kept, so that `find`, `du` and
//! `status` need not walk.
//!
//! It is a copy of what stands in the directory itself: losing it loses nothing. Verbs note
//! *where* something changed ([`crate::tenant::Noticed`]), one thread ([`Keeper`]) looks there
//! and writes down what it sees, and one walk of the whole tree, at every attach, finds what
//! nobody noted. Because only looks are written, notes need no order and no promise.
//!
//! - [`seen`] is what one look says, `row` the same as bytes, `keys` and `tables` where they lie
//! - `eyes` look, `batch` writes down, `part` reads one tenant's part
//! - `uses` brings heat from the ledger into the rows, [`offers`] keeps files in order of it
//! - `keep` is the thread, `listing` the walk's next step, [`totals`] are sums
//!
//! Rules that hold between two transactions: a file has a row if and only if a name of it is
//! known; a directory that has a row is listed, or is to be listed; totals are the sum over rows.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Builder, Database, ReadableDatabase};

mod batch;
mod error;
mod eyes;
mod keep;
mod keys;
mod listing;
pub mod offers;
mod part;
mod row;
pub mod seen;
mod syncs;
mod tables;
#[cfg(test)]
mod tests;
pub mod totals;
mod uses;

pub use error::CatalogError;
pub use keep::{Keeper, Options, Phase, Report};
pub use part::{Met, Part};
pub use uses::Weighing;

/// Version of the tables, in the catalog's first row.
const FORMAT: u32 = 3;
/// Memory for pages of the catalog, a daemon.
const CACHE_BYTES: usize = 16 << 20;

/// An open catalog: one file, one process.
#[derive(Debug)]
pub struct Catalog {
    database: Database,
}

impl Catalog {
    /// Opens the catalog of this machine, making it where there is none. One that is damaged or
    /// another machine's is made anew; a newer one, or one in use, is left alone.
    pub fn open(path: &Path, machine: &str) -> Result<Self, CatalogError> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        match Self::open_as_found(path, machine) {
            Err(error @ (CatalogError::Damaged(_) | CatalogError::Elsewhere)) => {
                tracing::warn!(catalog = %path.display(), %error, "the catalog is made anew");
                std::fs::remove_file(path)?;
                Self::open_as_found(path, machine)
            }
            other => other,
        }
    }

    fn open_as_found(path: &Path, machine: &str) -> Result<Self, CatalogError> {
        let file = open_private(path)?;
        // Where bytes are damaged, the store below may panic rather than say so.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let mut builder = Builder::new();
            builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
            let database = builder.create_with_backend(FileBackend::new(file)?)?;
            let catalog = Self { database };
            catalog.check(machine)?;
            Ok(catalog)
        }));
        opened.unwrap_or_else(|_panic| Err(CatalogError::Damaged("it cannot be read".into())))
    }

    /// Reads who wrote it; a new one is signed.
    fn check(&self, machine: &str) -> Result<(), CatalogError> {
        let read = self.database.begin_read()?;
        match read.open_table(tables::META) {
            Err(redb::TableError::TableDoesNotExist(_)) => return self.sign(machine),
            Err(error) => return Err(error.into()),
            Ok(meta) => {
                let word = |name: &str| -> Result<String, CatalogError> {
                    let value = meta.get(name)?.ok_or_else(|| CatalogError::missing(name))?;
                    Ok(String::from_utf8_lossy(value.value()).into_owned())
                };
                let format = word("format")?;
                match format.parse::<u32>() {
                    Ok(FORMAT) => {}
                    Ok(newer) if newer > FORMAT => return Err(CatalogError::Newer(newer)),
                    _ => return Err(CatalogError::Damaged(format!("format {format:?}"))),
                }
                // Two machines without a name are not one.
                if machine.is_empty() || word("machine")? != machine {
                    return Err(CatalogError::Elsewhere);
                }
            }
        }
        Ok(())
    }

    fn sign(&self, machine: &str) -> Result<(), CatalogError> {
        let write = self.database.begin_write()?;
        {
            let mut meta = write.open_table(tables::META)?;
            meta.insert("format", FORMAT.to_string().as_bytes())?;
            meta.insert("machine", machine.as_bytes())?;
            tables::make(&write)?;
        }
        write.commit()?;
        Ok(())
    }
}

fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// What tells this machine from others; empty where it has no name for itself: no catalog is then
/// known to be its own.
pub fn this_machine() -> String {
    std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned()
}

/// The catalog's file of one tenant.
pub fn file_of(dir: &Path, tenant: crate::file_id::TenantUuid) -> PathBuf {
    dir.join(format!("{tenant}.redb"))
}
