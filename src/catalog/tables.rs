//! The tables, by name. Names are the format's: never reuse one with another meaning.

use redb::{TableDefinition, WriteTransaction};

use super::CatalogError;

type Bytes = &'static [u8];

/// Who wrote the catalog: `format`, `machine`.
pub(super) const META: TableDefinition<'_, &str, Bytes> = TableDefinition::new("meta");
/// Tenant UUID to its number, whether it was ever walked whole, and its root.
pub(super) const TENANTS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("tenants");
/// Tenant, inode to [`super::row::Row`].
pub(super) const FILES: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("files");
/// Tenant, directory, name to inode.
pub(super) const NAMES: TableDefinition<'_, Bytes, u64> = TableDefinition::new("names");
/// Tenant, segment, inode to the bytes of it that the segment has.
pub(super) const SEGMENT_FILES: TableDefinition<'_, Bytes, u64> =
    TableDefinition::new("segment_files");
/// Tenant, directory that is to be listed; 1: with all directories in it, 0: with new ones.
pub(super) const TODO: TableDefinition<'_, Bytes, u8> = TableDefinition::new("todo");
/// Tenant number to [`super::totals::Totals`].
pub(super) const TOTALS: TableDefinition<'_, u32, Bytes> = TableDefinition::new("totals");

/// Tenant, class, step of temperature, inode to [`super::offers::Offer`].
pub(super) const OFFERS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("offers");

/// Makes all tables, so that readers find them.
pub(super) fn make(write: &WriteTransaction) -> Result<(), CatalogError> {
    write.open_table(TENANTS)?;
    write.open_table(FILES)?;
    write.open_table(NAMES)?;
    write.open_table(SEGMENT_FILES)?;
    write.open_table(TODO)?;
    write.open_table(TOTALS)?;
    write.open_table(OFFERS)?;
    Ok(())
}
