//! One tenant's part of the catalog: reading and asking it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use redb::{Durability, ReadOnlyTable, ReadableDatabase, ReadableTable};

use super::batch::{Batch, range};
use super::keys::{self, NameIn, TenantNumber};
use super::row::Row;
use super::seen::{Kind, Seen};
use super::totals::Totals;
use super::{Catalog, CatalogError, tables};
use crate::file_id::{FileHandle, Ino, TenantUuid};
use crate::temperature::Heat;
use crate::tenant::Pin;
use crate::wire::{Cut, Fields};

/// What is known of a tenant as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    number: TenantNumber,
    /// Every directory was listed once.
    filled: bool,
    root: Ino,
}

impl Entry {
    fn encode(self) -> Vec<u8> {
        let mut bytes = self.number.0.to_le_bytes().to_vec();
        bytes.push(u8::from(self.filled));
        bytes.extend_from_slice(&self.root.0.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, CatalogError> {
        let mut fields = Fields::new(bytes);
        let number = TenantNumber(fields.u32("number")?);
        let filled = match fields.u8("filled")? {
            0 => false,
            1 => true,
            _ => return Err(Cut { field: "filled" }.into()),
        };
        let root = Ino(fields.u64("root")?);
        fields.end()?;
        Ok(Self { number, filled, root })
    }
}

/// One tenant's part of the catalog.
#[derive(Clone, Debug)]
pub struct Part {
    catalog: Arc<Catalog>,
    tenant: TenantUuid,
    number: TenantNumber,
    root: Ino,
}

/// A file that a visit meets.
#[derive(Debug)]
pub struct Met<'a> {
    /// Below the tenant's root.
    pub path: &'a [u8],
    /// What is known of it.
    pub seen: &'a Seen,
    /// The hardest pin on it or on a directory above it.
    pub pin: Option<Pin>,
    /// How many names of it are known.
    pub names: u32,
    /// What is known of its uses; what waits in the ledger is not in it.
    pub heat: Heat,
}

impl Part {
    /// The part of a tenant whose root is this, made where there is none. What is known of
    /// another root is forgotten. The walk goes on where it ended if it never came to an end.
    /// Says whether it goes on: what was listed before may have changed since.
    pub(super) fn attach(
        catalog: Arc<Catalog>,
        tenant: TenantUuid,
        root: &Seen,
    ) -> Result<(Self, bool), CatalogError> {
        let write = catalog.database.begin_write()?;
        let mut goes_on = false;
        let entry = {
            let mut tenants = write.open_table(tables::TENANTS)?;
            let known = match tenants.get(&tenant.0[..])? {
                Some(bytes) => Some(Entry::decode(bytes.value())?),
                None => None,
            };
            let number = match known {
                Some(entry) => entry.number,
                None => {
                    let mut last = 0;
                    for entry in tenants.iter()? {
                        last = last.max(Entry::decode(entry?.1.value())?.number.0);
                    }
                    TenantNumber(last + 1)
                }
            };
            let mut batch = Batch::new(&write, number)?;
            let row = known.map(|entry| batch.row(entry.root)).transpose()?.flatten();
            let same_root = row.is_some_and(|row| row.seen.handle == root.handle);
            if !same_root {
                batch.clear()?;
            }
            let filled = same_root && known.is_some_and(|entry| entry.filled);
            batch.root_is(root)?;
            goes_on |= same_root && !filled;
            if !goes_on {
                batch.list_nothing()?;
                batch.list(root.ino, true)?;
            }
            batch.finish()?;
            let entry = Entry { number, filled, root: root.ino };
            tenants.insert(&tenant.0[..], entry.encode().as_slice())?;
            entry
        };
        write.commit()?;
        Ok((Self { catalog, tenant, number: entry.number, root: root.ino }, goes_on))
    }

    /// The tenant's root.
    pub(super) fn root(&self) -> Ino {
        self.root
    }

    /// Every directory was listed: says so for later.
    pub(super) fn note_filled(&self) -> Result<(), CatalogError> {
        let write = self.catalog.database.begin_write()?;
        {
            let entry = Entry { number: self.number, filled: true, root: self.root };
            let mut tenants = write.open_table(tables::TENANTS)?;
            tenants.insert(&self.tenant.0[..], entry.encode().as_slice())?;
        }
        write.commit()?;
        Ok(())
    }

    /// Changes the part in one step. What is not durable is lost together if the machine stops:
    /// an older state of the same rules.
    pub(super) fn write(
        &self,
        durable: bool,
        change: impl FnOnce(&mut Batch<'_>) -> Result<(), CatalogError>,
    ) -> Result<(), CatalogError> {
        let mut write = self.catalog.database.begin_write()?;
        write.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
        // The cost of an open after a kill, paid ahead.
        write.set_quick_repair(durable);
        let mut batch = Batch::new(&write, self.number)?;
        change(&mut batch)?;
        batch.finish()?;
        write.commit()?;
        Ok(())
    }

    /// The part as it is now, for as long as the reader is held.
    pub(super) fn read(&self) -> Result<Reader, CatalogError> {
        let read = self.catalog.database.begin_read()?;
        Ok(Reader {
            tenant: self.number,
            files: read.open_table(tables::FILES)?,
            names: read.open_table(tables::NAMES)?,
            todo: read.open_table(tables::TODO)?,
            offers: read.open_table(tables::OFFERS)?,
            totals: read.open_table(tables::TOTALS)?,
        })
    }

    /// The sums over all files.
    pub fn totals(&self) -> Result<Totals, CatalogError> {
        self.read()?.totals()
    }

    /// The heat of the file with this handle; none: it is not known.
    pub(super) fn heat(&self, ino: Ino, handle: &FileHandle) -> Result<Option<Heat>, CatalogError> {
        let row = self.read()?.row(ino)?;
        Ok(row.filter(|row| row.seen.handle == *handle).map(|row| row.heat))
    }

    /// Gives `visit` a file and, if it is a directory, all below it. `pin`: the hardest on it or
    /// above. False: the file is not known.
    pub fn visit(
        &self,
        path: &[u8],
        ino: Ino,
        pin: Option<Pin>,
        visit: &mut dyn FnMut(Met<'_>) -> ControlFlow<()>,
    ) -> Result<bool, CatalogError> {
        let reader = self.read()?;
        let Some(row) = reader.row(ino)? else { return Ok(false) };
        if visit(Met { path, seen: &row.seen, pin, names: row.names, heat: row.heat }).is_break() {
            return Ok(true);
        }
        if row.seen.kind != Kind::Directory {
            return Ok(true);
        }
        let mut pending = vec![(path.to_vec(), ino, pin)];
        while let Some((dir_path, dir, above)) = pending.pop() {
            let mut path = dir_path;
            if !path.is_empty() {
                path.push(b'/');
            }
            let stem = path.len();
            let below = keys::below(&keys::file(reader.tenant, dir));
            for entry in reader.names.range::<&[u8]>(range(&below))? {
                let (key, child) = entry?;
                let child = Ino(child.value());
                let row = reader.row(child)?;
                let row = row.ok_or_else(|| CatalogError::missing(format!("inode {child}")))?;
                path.truncate(stem);
                path.extend_from_slice(keys::name_of(key.value()));
                let pin = Pin::harder(above, row.seen.pin);
                let (seen, names, heat) = (&row.seen, row.names, row.heat);
                let met = Met { path: &path, seen, pin, names, heat };
                if visit(met).is_break() {
                    return Ok(true);
                }
                if row.seen.kind == Kind::Directory {
                    pending.push((path.clone(), child, pin));
                }
            }
        }
        Ok(true)
    }
}

/// A tenant's part at one moment.
pub(super) struct Reader {
    pub(super) tenant: TenantNumber,
    pub(super) offers: ReadOnlyTable<&'static [u8], &'static [u8]>,
    files: ReadOnlyTable<&'static [u8], &'static [u8]>,
    names: ReadOnlyTable<&'static [u8], u64>,
    todo: ReadOnlyTable<&'static [u8], u8>,
    totals: ReadOnlyTable<u32, &'static [u8]>,
}

impl Reader {
    pub(super) fn row(&self, ino: Ino) -> Result<Option<Row>, CatalogError> {
        let key = keys::file(self.tenant, ino);
        Ok(match self.files.get(&key[..])? {
            Some(bytes) => Some(Row::decode(&key, ino, bytes.value())?),
            None => None,
        })
    }

    pub(super) fn totals(&self) -> Result<Totals, CatalogError> {
        Ok(match self.totals.get(self.tenant.0)? {
            Some(bytes) => Totals::decode(bytes.value())?,
            None => Totals::default(),
        })
    }

    /// The names that are known in a directory.
    pub(super) fn names(&self, dir: Ino) -> Result<Vec<Box<[u8]>>, CatalogError> {
        let below = keys::below(&keys::file(self.tenant, dir));
        let mut names = Vec::new();
        for entry in self.names.range::<&[u8]>(range(&below))? {
            names.push(keys::name_of(entry?.0.value()).into());
        }
        Ok(names)
    }

    /// All names of these files. Goes over every name of the tenant.
    pub(super) fn names_of(&self, files: &BTreeSet<Ino>) -> Result<Vec<NameIn>, CatalogError> {
        let all = keys::below(&self.tenant.0.to_be_bytes());
        let mut names = Vec::new();
        for entry in self.names.range::<&[u8]>(range(&all))? {
            let (key, ino) = entry?;
            if files.contains(&Ino(ino.value()))
                && let Some(dir) = keys::ino_of(key.value())
            {
                names.push((dir, keys::name_of(key.value()).into()));
            }
        }
        Ok(names)
    }

    /// A directory that is to be listed, behind `last`, and whether with all in it.
    pub(super) fn next_to_list(
        &self,
        last: Option<Ino>,
    ) -> Result<Option<(Ino, bool)>, CatalogError> {
        let first = Ino(last.map_or(0, |last| last.0.saturating_add(1)));
        let all = keys::below(&self.tenant.0.to_be_bytes());
        let behind = keys::file(self.tenant, first).to_vec()..=all.end().clone();
        let Some(entry) = self.todo.range::<&[u8]>(range(&behind))?.next() else {
            return Ok(None);
        };
        let (key, deep) = entry?;
        let ino = keys::ino_of(key.value()).ok_or_else(|| CatalogError::missing("a directory"))?;
        Ok(Some((ino, deep.value() != 0)))
    }

    /// Where a file was met last, below the root; none: that is not known.
    pub(super) fn path(&self, row: &Row, root: Ino) -> Result<Option<Vec<u8>>, CatalogError> {
        /// Deeper than any path that Linux opens (`PATH_MAX` / 2).
        const DEEPEST: usize = 2_048;
        let mut parts = Vec::new();
        let (mut ino, mut named) = (row.seen.ino, row.named.clone());
        while ino != root {
            let Some((dir, name)) = named else { return Ok(None) };
            parts.push(name);
            let Some(above) = self.row(dir)? else { return Ok(None) };
            (ino, named) = (dir, above.named);
            if parts.len() > DEEPEST {
                return Ok(None);
            }
        }
        parts.reverse();
        Ok(Some(parts.join(&b'/')))
    }
}

#[cfg(test)]
impl Part {
    /// Checks the catalog's rules over all rows.
    pub(super) fn is_consistent(&self) {
        use std::collections::BTreeMap;
        let read = self.catalog.database.begin_read().unwrap();
        let mut names: BTreeMap<Ino, u32> = BTreeMap::from([(self.root, 1)]);
        for entry in read.open_table(tables::NAMES).unwrap().iter().unwrap() {
            *names.entry(Ino(entry.unwrap().1.value())).or_default() += 1;
        }
        let (mut totals, mut rows) = (Totals::default(), BTreeMap::new());
        let (mut in_segments, mut on_offer) = (Vec::new(), Vec::new());
        for entry in read.open_table(tables::FILES).unwrap().iter().unwrap() {
            let (key, bytes) = entry.unwrap();
            let ino = keys::ino_of(key.value()).unwrap();
            let row = Row::decode(key.value(), ino, bytes.value()).unwrap();
            totals.add(&row.seen);
            if let Some((at, bytes)) = row.seen.remote {
                in_segments.push((keys::segment_file(self.number, at.segment, ino), bytes));
            }
            let offer = super::offers::Offer::of(&row);
            on_offer.push(offer.map(|offer| (offer.key(self.number), offer.encode())));
            rows.insert(ino, row.names);
        }
        let mut on_offer: Vec<_> = on_offer.into_iter().flatten().collect();
        on_offer.sort_unstable();
        let kept_offers = read.open_table(tables::OFFERS).unwrap();
        let kept_offers = kept_offers.iter().unwrap().map(|entry| {
            let (key, value) = entry.unwrap();
            (key.value().to_vec(), value.value().to_vec())
        });
        assert_eq!(
            kept_offers.collect::<Vec<_>>(),
            on_offer,
            "an offer for each file that may move"
        );
        in_segments.sort_unstable();
        let segment_files = read.open_table(tables::SEGMENT_FILES).unwrap();
        let kept = segment_files.iter().unwrap().map(|entry| {
            let (key, bytes) = entry.unwrap();
            (key.value().try_into().unwrap(), bytes.value())
        });
        assert_eq!(rows, names, "a row for each file that has a name, and its names counted");
        assert_eq!(kept.collect::<Vec<([u8; 28], u64)>>(), in_segments);
        assert_eq!(self.totals().unwrap(), totals);
        assert_eq!(self.read().unwrap().next_to_list(None).unwrap(), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::offers::{Class, Offer};
    use crate::catalog::totals::Totals;
    use crate::fuzzing;
    use crate::temperature::Second;

    #[test]
    fn decoding_entries_offers_and_totals_never_panics() {
        let entry = Entry { number: TenantNumber(7), filled: true, root: Ino(2) }.encode();
        let totals = Totals { resident: 1, remote_bytes: u64::MAX, ..Totals::default() }.encode();
        let offer = Offer {
            ino: Ino(3),
            class: Class::Archived,
            size_bytes: 5_000,
            local_bytes: 8_192,
            mtime_seconds: -1,
            atime: Second(9),
            recalled: Second(0),
            heat: Heat::met(Second(4)),
            pin: Some(Pin::NeverRelease),
            dir: Some(Ino(2)),
        }
        .encode();
        fuzzing::run(|dice| {
            let bytes = dice.mangled(&entry);
            if let Ok(read) = Entry::decode(&bytes) {
                assert_eq!(read.encode(), bytes);
            }
            let bytes = dice.mangled(&totals);
            if let Ok(read) = Totals::decode(&bytes) {
                assert_eq!(read.encode(), bytes);
            }
            let bytes = dice.mangled(&offer);
            if let Ok(read) = Offer::decode(Class::Archived, Ino(3), &bytes) {
                assert_eq!(read.encode(), bytes);
            }
            // Of any key the parts that are there.
            keys::ino_of(&bytes);
            assert!(keys::name_of(&bytes).len() <= bytes.len());
        });
    }
}
