//! Files in order of temperature: what a pass of the policy is offered, coldest first, without a
//! scan. Kept in the transaction that writes a file's row, so that both always agree.
//!
//! ```text
//! key:   u32 tenant, u8 class, u32 step, u64 inode (big-endian)
//! value:  0 u64 size     24 u32 atime     36 u32 last use   48 u8 evidence
//!         8 u64 local    28 u32 recalled  40 u32 accesses   49 u8 pin
//!        16 i64 mtime s  32 u32 since     44 f32 score      50 u64 directory, 0: not known
//! ```
//!
//! A step is an hour: of the last change for resident files, which are archived by age; of the last
//! use that is known for those that have a copy.

use super::CatalogError;
use super::batch::range;
use super::keys::{self, TenantNumber};
use super::part::Part;
use super::row::{Row, heat_of, pin_byte, pin_of, put_heat};
use super::seen::{Kind, Standing};
use crate::file_id::Ino;
use crate::stub::STUB_LENGTH;
use crate::temperature::{Heat, Second};
use crate::tenant::Pin;
use crate::tier::State;
use crate::wire::{Cut, Fields};

/// Seconds of a step.
const STEP_SECONDS: u32 = 3_600;

/// Where a file's bytes are, for files that may be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Here only.
    Resident,
    /// Here, with a copy.
    Archived,
    /// In the store only.
    Released,
}

impl Class {
    fn of(standing: Standing) -> Option<Self> {
        match standing {
            Standing::Resident => Some(Class::Resident),
            Standing::Recorded(State::Archived | State::Suspect) => Some(Class::Archived),
            Standing::Recorded(State::Released) => Some(Class::Released),
            Standing::Recorded(State::Releasing | State::Recalling | State::Lost)
            | Standing::Unmoved
            | Standing::Orphan
            | Standing::Foreign
            | Standing::Conflict => None,
        }
    }
}

/// A file that may be moved, as it was seen last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Offer {
    /// Its number.
    pub ino: Ino,
    /// Where its bytes are.
    pub class: Class,
    /// Its size as applications see it.
    pub size_bytes: u64,
    /// What it takes here.
    pub local_bytes: u64,
    /// Last modification, seconds since 1970.
    pub mtime_seconds: i64,
    /// Its atime when it was looked at.
    pub atime: Second,
    /// When it came home last; 0: never.
    pub recalled: Second,
    /// How warm it is.
    pub heat: Heat,
    /// The pin on it, not those above it.
    pub pin: Option<Pin>,
    /// The directory in which it was met.
    pub dir: Option<Ino>,
}

/// How far a reading of offers has come.
#[derive(Clone, Debug)]
pub struct Cursor {
    class: Class,
    /// The key behind which it goes on.
    behind: Vec<u8>,
}

impl Cursor {
    /// Before the coldest of a class.
    pub fn coldest(class: Class) -> Self {
        Self { class, behind: Vec::new() }
    }
}

impl Offer {
    /// What a row offers; none: nothing that is ever moved.
    pub(super) fn of(row: &Row) -> Option<Self> {
        let seen = &row.seen;
        let class = Class::of(seen.standing)?;
        if seen.kind != Kind::Regular || seen.size_bytes <= STUB_LENGTH {
            return None;
        }
        Some(Self {
            ino: seen.ino,
            class,
            size_bytes: seen.size_bytes,
            local_bytes: seen.local_bytes,
            mtime_seconds: seen.mtime.0.div_euclid(1_000_000_000),
            atime: seen.atime,
            recalled: row.recalled,
            heat: row.heat,
            pin: seen.pin,
            dir: row.named.as_ref().map(|(dir, _)| *dir),
        })
    }

    fn changed(&self) -> Second {
        let seconds = self.mtime_seconds.clamp(0, u32::MAX.into());
        Second(u32::try_from(seconds).unwrap_or(u32::MAX))
    }

    /// Since when it may have cooled down, as its class goes by.
    fn cooling_since(&self) -> Second {
        match self.class {
            Class::Resident => self.changed(),
            Class::Archived | Class::Released => self.changed().max(self.atime).max(self.heat.last),
        }
    }

    fn step(&self) -> u32 {
        self.cooling_since().0 / STEP_SECONDS
    }

    pub(super) fn key(&self, tenant: TenantNumber) -> Vec<u8> {
        let mut key = prefix(tenant, self.class);
        key.extend_from_slice(&self.step().to_be_bytes());
        key.extend_from_slice(&self.ino.0.to_be_bytes());
        key
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(58);
        bytes.extend_from_slice(&self.size_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.local_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.mtime_seconds.to_le_bytes());
        bytes.extend_from_slice(&self.atime.0.to_le_bytes());
        bytes.extend_from_slice(&self.recalled.0.to_le_bytes());
        put_heat(&mut bytes, &self.heat);
        bytes.push(pin_byte(self.pin));
        bytes.extend_from_slice(&self.dir.map_or(0, |dir| dir.0).to_le_bytes());
        bytes
    }

    pub(super) fn decode(class: Class, ino: Ino, bytes: &[u8]) -> Result<Self, Cut> {
        let mut fields = Fields::new(bytes);
        let (size_bytes, local_bytes) = (fields.u64("size")?, fields.u64("local")?);
        let mtime_seconds = fields.i64("mtime")?;
        let (atime, recalled) = (Second(fields.u32("atime")?), Second(fields.u32("recalled")?));
        let (heat, pin) = (heat_of(&mut fields)?, pin_of(&mut fields)?);
        let dir = Some(fields.u64("directory")?).filter(|dir| *dir != 0).map(Ino);
        fields.end()?;
        Ok(Self {
            ino,
            class,
            size_bytes,
            local_bytes,
            mtime_seconds,
            atime,
            recalled,
            heat,
            pin,
            dir,
        })
    }
}

fn prefix(tenant: TenantNumber, class: Class) -> Vec<u8> {
    let mut key = tenant.0.to_be_bytes().to_vec();
    key.push(match class {
        Class::Resident => 0,
        Class::Archived => 1,
        Class::Released => 2,
    });
    key
}

/// Whatever a tenant has on offer.
pub(super) fn all_of(tenant: TenantNumber) -> std::ops::RangeInclusive<Vec<u8>> {
    keys::below(&tenant.0.to_be_bytes())
}

impl Part {
    /// The next offers of a class, coldest first, at most `limit`; none that was used or changed
    /// after `before`. What changes between two calls may be met twice or not at all.
    pub fn offers(
        &self,
        cursor: &mut Cursor,
        before: Second,
        limit: usize,
    ) -> Result<Vec<Offer>, CatalogError> {
        let reader = self.read()?;
        let class = prefix(reader.tenant, cursor.class);
        let mut last = class.clone();
        last.extend_from_slice(&(before.0 / STEP_SECONDS).to_be_bytes());
        let from = if cursor.behind.is_empty() { class } else { cursor.behind.clone() };
        let within = from..=keys::below(&last).end().clone();
        let mut offers = Vec::with_capacity(limit.min(4_096));
        if within.start() > within.end() {
            return Ok(offers);
        }
        for entry in reader.offers.range::<&[u8]>(range(&within))? {
            let (key, value) = entry?;
            if offers.len() == limit {
                break;
            }
            if key.value() == cursor.behind {
                continue;
            }
            let ino = key.value().get(9..).and_then(|ino| ino.try_into().ok());
            let ino =
                ino.map(u64::from_be_bytes).ok_or_else(|| CatalogError::missing("an offer"))?;
            cursor.behind = key.value().to_vec();
            let offer = Offer::decode(cursor.class, Ino(ino), value.value())?;
            if offer.cooling_since() <= before {
                offers.push(offer);
            }
        }
        Ok(offers)
    }

    /// Where a file was met last, below the root; none: that is not known.
    pub fn path(&self, ino: Ino) -> Result<Option<Vec<u8>>, CatalogError> {
        let reader = self.read()?;
        match reader.row(ino)? {
            Some(row) => reader.path(&row, self.root()),
            None => Ok(None),
        }
    }

    /// The hardest pin on a directory or above it; `known` remembers those that were asked for.
    pub fn pin_below(
        &self,
        dir: Ino,
        known: &mut lru::LruCache<Ino, Option<Pin>>,
    ) -> Result<Option<Pin>, CatalogError> {
        /// Deeper than any path that Linux opens (`PATH_MAX` / 2).
        const DEEPEST: usize = 2_048;
        let reader = self.read()?;
        let (mut below, mut at, mut pin) = (Vec::new(), Some(dir), None);
        while let Some(dir) = at.filter(|_| below.len() < DEEPEST) {
            if let Some(known) = known.get(&dir) {
                pin = *known;
                break;
            }
            let row = reader.row(dir)?;
            below.push((dir, row.as_ref().and_then(|row| row.seen.pin)));
            at = row.and_then(|row| row.named).map(|(dir, _)| dir);
        }
        for (dir, own) in below.into_iter().rev() {
            pin = Pin::harder(pin, own);
            known.put(dir, pin);
        }
        Ok(pin)
    }

    /// What a file offers; none: nothing.
    pub fn offer(&self, ino: Ino) -> Result<Option<Offer>, CatalogError> {
        Ok(self.read()?.row(ino)?.as_ref().and_then(Offer::of))
    }
}
