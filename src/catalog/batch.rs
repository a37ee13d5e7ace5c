//! How looks change the tables: one transaction, which keeps the catalog's rules.

use std::collections::BTreeSet;

use redb::{ReadableTable, Table, WriteTransaction};

use super::CatalogError;
use super::keys::{self, TenantNumber};
use super::offers::{self, Offer};
use super::row::Row;
use super::seen::{Kind, Seen, Standing};
use super::tables;
use super::totals::Totals;
use crate::file_id::Ino;
use crate::heat::Touch;
use crate::temperature::{Evidence, HalfLife, Heat, Second};
use crate::tier::State;

type Rows<'t, V> = Table<'t, &'static [u8], V>;

/// Changes to one tenant's part.
pub(super) struct Batch<'t> {
    tenant: TenantNumber,
    files: Rows<'t, &'static [u8]>,
    names: Rows<'t, u64>,
    segment_files: Rows<'t, u64>,
    todo: Rows<'t, u8>,
    offers: Rows<'t, &'static [u8]>,
    all_totals: Table<'t, u32, &'static [u8]>,
    totals: Totals,
    /// May have lost their last name: judged at the end, when all that came is known.
    unnamed: BTreeSet<Ino>,
}

impl<'t> Batch<'t> {
    pub(super) fn new(
        write: &'t WriteTransaction,
        tenant: TenantNumber,
    ) -> Result<Self, CatalogError> {
        let all_totals = write.open_table(tables::TOTALS)?;
        let totals = match all_totals.get(tenant.0)? {
            Some(bytes) => Totals::decode(bytes.value())?,
            None => Totals::default(),
        };
        Ok(Self {
            tenant,
            files: write.open_table(tables::FILES)?,
            names: write.open_table(tables::NAMES)?,
            segment_files: write.open_table(tables::SEGMENT_FILES)?,
            todo: write.open_table(tables::TODO)?,
            offers: write.open_table(tables::OFFERS)?,
            all_totals,
            totals,
            unnamed: BTreeSet::new(),
        })
    }

    /// What a name was seen to be. `deep`: a directory is to be listed also where it is known.
    pub(super) fn name_is(
        &mut self,
        dir: Ino,
        name: &[u8],
        seen: &Seen,
        deep: bool,
    ) -> Result<(), CatalogError> {
        let key = keys::name(self.tenant, dir, name);
        let before = self.names.insert(key.as_slice(), seen.ino.0)?.map(|ino| Ino(ino.value()));
        let old = self.row(seen.ino)?;
        let mut names = old.as_ref().map_or(0, |row| row.names);
        if before != Some(seen.ino) {
            names += 1;
            if let Some(other) = before {
                self.unref(other, dir, name)?;
            }
        }
        let heat = heat_after(old.as_ref(), seen);
        let recalled = recalled_after(old.as_ref(), seen);
        let named = Some((dir, name.into()));
        let row = Row { seen: seen.clone(), names, named, heat, recalled };
        self.put(old, row)?;
        if deep && seen.kind == Kind::Directory {
            self.list(seen.ino, true)?;
        }
        Ok(())
    }

    /// A name was seen to be nothing, or nothing that the catalog keeps.
    pub(super) fn name_is_gone(&mut self, dir: Ino, name: &[u8]) -> Result<(), CatalogError> {
        let key = keys::name(self.tenant, dir, name);
        let before = self.names.remove(key.as_slice())?.map(|ino| Ino(ino.value()));
        match before {
            Some(ino) => self.unref(ino, dir, name),
            None => Ok(()),
        }
    }

    /// What a file that has a row was seen to be.
    pub(super) fn file_is(&mut self, seen: &Seen) -> Result<(), CatalogError> {
        let Some(old) = self.row(seen.ino)? else { return Ok(()) };
        let heat = heat_after(Some(&old), seen);
        let recalled = recalled_after(Some(&old), seen);
        let row = Row { seen: seen.clone(), heat, recalled, ..old.clone() };
        self.put(Some(old), row)
    }

    /// The tenant's root, which has no name.
    pub(super) fn root_is(&mut self, seen: &Seen) -> Result<(), CatalogError> {
        let old = self.row(seen.ino)?;
        let heat = heat_after(old.as_ref(), seen);
        let recalled = Second::default();
        self.put(old, Row { seen: seen.clone(), names: 1, named: None, heat, recalled })
    }

    /// A file was used. Whether it is known: a use that is told before its file is met waits.
    pub(super) fn used(
        &mut self,
        ino: Ino,
        touch: &Touch,
        half_life: HalfLife,
    ) -> Result<bool, CatalogError> {
        let Some(old) = self.row(ino)? else { return Ok(false) };
        if touch.is_of(&old.seen.handle) {
            let mut row = old.clone();
            row.heat.touch(touch.count, touch.last, touch.evidence, half_life);
            self.put(Some(old), row)?;
        }
        Ok(true)
    }

    /// A file came home. Whether it is known.
    pub(super) fn came_home(&mut self, ino: Ino, at: Second) -> Result<bool, CatalogError> {
        let Some(old) = self.row(ino)? else { return Ok(false) };
        let recalled = old.recalled.max(at);
        self.put(Some(old.clone()), Row { recalled, ..old })?;
        Ok(true)
    }

    /// A directory is to be listed; `deep`: and all directories in it.
    pub(super) fn list(&mut self, dir: Ino, deep: bool) -> Result<(), CatalogError> {
        let key = keys::file(self.tenant, dir);
        let known = self.todo.get(&key[..])?.map(|deep| deep.value());
        if known.is_none_or(|known| known < u8::from(deep)) {
            self.todo.insert(&key[..], u8::from(deep))?;
        }
        Ok(())
    }

    /// A directory is listed, or cannot be.
    pub(super) fn listed(&mut self, dir: Ino) -> Result<(), CatalogError> {
        self.todo.remove(&keys::file(self.tenant, dir)[..])?;
        Ok(())
    }

    /// No directory is to be listed.
    pub(super) fn list_nothing(&mut self) -> Result<(), CatalogError> {
        let all = keys::below(&self.tenant.0.to_be_bytes());
        Ok(self.todo.retain_in(range(&all), |_, _| false)?)
    }

    /// Forgets all of the tenant.
    pub(super) fn clear(&mut self) -> Result<(), CatalogError> {
        let all = keys::below(&self.tenant.0.to_be_bytes());
        self.files.retain_in(range(&all), |_, _| false)?;
        self.names.retain_in(range(&all), |_, _| false)?;
        self.segment_files.retain_in(range(&all), |_, _| false)?;
        self.offers.retain_in(range(&offers::all_of(self.tenant)), |_, _| false)?;
        self.totals = Totals::default();
        self.unnamed.clear();
        self.list_nothing()
    }

    pub(super) fn row(&self, ino: Ino) -> Result<Option<Row>, CatalogError> {
        let key = keys::file(self.tenant, ino);
        Ok(match self.files.get(&key[..])? {
            Some(bytes) => Some(Row::decode(&key, ino, bytes.value())?),
            None => None,
        })
    }

    /// Removes what has no name left, with all that is only in there.
    pub(super) fn finish(mut self) -> Result<(), CatalogError> {
        while let Some(ino) = self.unnamed.pop_first() {
            let Some(row) = self.row(ino)? else { continue };
            if row.names > 0 {
                continue;
            }
            self.files.remove(&keys::file(self.tenant, ino)[..])?;
            self.account(Some(&row.seen), None)?;
            self.offer(Some(&row), None)?;
            if row.seen.kind == Kind::Directory {
                self.empty(ino)?;
            }
        }
        self.all_totals.insert(self.tenant.0, self.totals.encode().as_slice())?;
        Ok(())
    }

    fn put(&mut self, old: Option<Row>, row: Row) -> Result<(), CatalogError> {
        if old.as_ref() == Some(&row) {
            return Ok(());
        }
        let ino = row.seen.ino;
        let key = keys::file(self.tenant, ino);
        self.files.insert(&key[..], row.encode(&key).as_slice())?;
        self.offer(old.as_ref(), Some(&row))?;
        let old = old.as_ref().map(|old| &old.seen);
        self.account(old, Some(&row.seen))?;
        let same = old.is_some_and(|old| old.handle == row.seen.handle);
        let deep = self.todo.get(&key[..])?.is_some_and(|deep| deep.value() > 0);
        // The number is another's now: what was in it was in the directory that is gone.
        if old.is_some_and(|old| old.kind == Kind::Directory) && !same {
            self.empty(ino)?;
        }
        if row.seen.kind == Kind::Directory && !same {
            self.list(ino, deep)?;
        }
        Ok(())
    }

    /// Puts a file where its temperature belongs.
    fn offer(&mut self, old: Option<&Row>, new: Option<&Row>) -> Result<(), CatalogError> {
        let (old, new) = (old.and_then(Offer::of), new.and_then(Offer::of));
        let key = |offer: Option<Offer>| offer.map(|offer| offer.key(self.tenant));
        let (old_key, new_key) = (key(old), key(new));
        if let Some(key) = old_key.filter(|key| new_key.as_ref() != Some(key)) {
            self.offers.remove(key.as_slice())?;
        }
        if let (Some(key), Some(offer)) = (new_key, new.filter(|_| old != new)) {
            self.offers.insert(key.as_slice(), offer.encode().as_slice())?;
        }
        Ok(())
    }

    /// Forgets what is in a directory.
    fn empty(&mut self, dir: Ino) -> Result<(), CatalogError> {
        let below = keys::below(&keys::file(self.tenant, dir));
        let mut children = Vec::new();
        for entry in self.names.range::<&[u8]>(range(&below))? {
            let (key, child) = entry?;
            children.push((keys::name_of(key.value()).to_vec(), Ino(child.value())));
        }
        self.names.retain_in::<&[u8], _>(range(&below), |_, _| false)?;
        for (name, child) in children {
            self.unref(child, dir, &name)?;
        }
        self.listed(dir)
    }

    /// A name of a file went.
    fn unref(&mut self, ino: Ino, dir: Ino, name: &[u8]) -> Result<(), CatalogError> {
        let row = self.row(ino)?.ok_or_else(|| CatalogError::missing(format!("inode {ino}")))?;
        let names = row.names.saturating_sub(1);
        let named = row.named.clone().filter(|(at, known)| *at != dir || **known != *name);
        if names == 0 {
            self.unnamed.insert(ino);
        }
        self.put(Some(row.clone()), Row { names, named, ..row })
    }

    fn account(&mut self, old: Option<&Seen>, new: Option<&Seen>) -> Result<(), CatalogError> {
        if let Some(old) = old {
            self.totals.subtract(old);
        }
        if let Some(new) = new {
            self.totals.add(new);
        }
        let ino = old.or(new).map(|seen| seen.ino);
        let place = |seen: Option<&Seen>| seen.and_then(|seen| seen.remote);
        let (Some(ino), false) = (ino, place(old) == place(new)) else { return Ok(()) };
        if let Some((at, _)) = place(old) {
            let key = keys::segment_file(self.tenant, at.segment, ino);
            self.segment_files.remove(&key[..])?;
        }
        if let Some((at, bytes)) = place(new) {
            let key = keys::segment_file(self.tenant, at.segment, ino);
            self.segment_files.insert(&key[..], bytes)?;
        }
        Ok(())
    }
}

/// The heat of a file that is seen so now. Another file's with the same number is not its own. A
/// change of its bytes is a use, but for those of the daemon, which change neither size nor time.
fn heat_after(old: Option<&Row>, seen: &Seen) -> Heat {
    let now = Second::now();
    let Some(old) = old.filter(|old| old.seen.handle == seen.handle) else {
        return Heat::met(now);
    };
    let mut heat = old.heat;
    let is_written = old.seen.mtime != seen.mtime || old.seen.size_bytes != seen.size_bytes;
    if is_written && is_at_rest(old.seen.standing) && is_at_rest(seen.standing) {
        // The time alone: how often it was written is not known.
        heat.touch(1, now, Evidence::Write, HalfLife::default());
    }
    heat
}

/// When a file that is seen so now came home last. The recall tells as well; this is for one that
/// another daemon made.
fn recalled_after(old: Option<&Row>, seen: &Seen) -> Second {
    let Some(old) = old.filter(|old| old.seen.handle == seen.handle) else {
        return Second::default();
    };
    let was_away =
        matches!(old.seen.standing, Standing::Recorded(State::Released | State::Recalling));
    let is_home = matches!(
        seen.standing,
        Standing::Resident | Standing::Recorded(State::Archived | State::Suspect)
    );
    if was_away && is_home { Second::now() } else { old.recalled }
}

/// Whether size and time are the file's own: while bytes come or go they are the daemon's.
fn is_at_rest(standing: Standing) -> bool {
    match standing {
        Standing::Resident => true,
        Standing::Recorded(state) => match state {
            State::Archived | State::Suspect | State::Released | State::Lost => true,
            State::Releasing | State::Recalling => false,
        },
        Standing::Unmoved | Standing::Orphan | Standing::Foreign | Standing::Conflict => false,
    }
}

/// A range as the tables take it.
pub(super) fn range(of: &std::ops::RangeInclusive<Vec<u8>>) -> std::ops::RangeInclusive<&[u8]> {
    of.start().as_slice()..=of.end().as_slice()
}
