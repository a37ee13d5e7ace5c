//! What the catalog keeps of a file, as bytes.
//!
//! ```text
//!  0 u8 kind       4 u32 names      24 i64 mtime ns        .. u64 parent, u16 length, name
//!  1 u8 standing   8 u64 size       32 u32 atime, recalled .. [u8;16] segment, u32 entry,
//!  2 u8 pin       16 u64 local      40 i32 handle kind        u64 remote bytes
//!  3 u8 has: 1 a name, 2 a copy     44 u8 length, handle   .. [u8;4] check
//! .. after the handle: heat: u32 since, u32 last (seconds), u32 accesses, f32 score, u8 evidence
//! ```
//!
//! The check is over the row's key and all before it: a row that a stray write moved or changed
//! is refused, and the catalog is made anew.

use super::seen::{Kind, Seen, Standing};
use crate::file_id::{EntryRef, FileHandle, Ino, MAX_HANDLE_BYTES, SegmentId, TimeNs};
use crate::temperature::{Heat, Second};
use crate::tenant::Pin;
use crate::tier::State;
use crate::wire::{self, Cut, Fields, u8_of, u16_of};

/// Standings of records begin here; below are those without one.
const RECORDED: u8 = 16;
/// Bytes of the check at a row's end.
const CHECK_BYTES: usize = 4;

/// A file in the catalog.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What the last look at it said.
    pub seen: Seen,
    /// How many names the catalog has for it; the root has one.
    pub names: u32,
    /// The directory and name under which it was met last; none: that name went since.
    pub named: Option<(Ino, Box<[u8]>)>,
    /// How warm it is. Looks do not tell; it is of this handle, and goes with it.
    pub heat: Heat,
    /// When it came home last; 0: never. Looks do not tell this either.
    pub recalled: Second,
}

impl Row {
    pub(super) fn encode(&self, key: &[u8]) -> Vec<u8> {
        let seen = &self.seen;
        let mut bytes = Vec::with_capacity(128);
        bytes.push(match seen.kind {
            Kind::Regular => 0,
            Kind::Directory => 1,
            Kind::Other => 2,
        });
        bytes.push(match seen.standing {
            Standing::Unmoved => 0,
            Standing::Resident => 1,
            Standing::Orphan => 2,
            Standing::Foreign => 3,
            Standing::Conflict => 4,
            Standing::Recorded(state) => RECORDED + state as u8,
        });
        bytes.push(pin_byte(seen.pin));
        bytes.push(u8::from(self.named.is_some()) | u8::from(seen.remote.is_some()) << 1);
        bytes.extend_from_slice(&self.names.to_le_bytes());
        bytes.extend_from_slice(&seen.size_bytes.to_le_bytes());
        bytes.extend_from_slice(&seen.local_bytes.to_le_bytes());
        bytes.extend_from_slice(&seen.mtime.0.to_le_bytes());
        bytes.extend_from_slice(&seen.atime.0.to_le_bytes());
        bytes.extend_from_slice(&self.recalled.0.to_le_bytes());
        bytes.extend_from_slice(&seen.handle.kind.to_le_bytes());
        bytes.push(u8_of(seen.handle.bytes.len()));
        bytes.extend_from_slice(&seen.handle.bytes);
        put_heat(&mut bytes, &self.heat);
        if let Some((dir, name)) = &self.named {
            bytes.extend_from_slice(&dir.0.to_le_bytes());
            bytes.extend_from_slice(&u16_of(name.len()).to_le_bytes());
            bytes.extend_from_slice(name);
        }
        if let Some((at, remote_bytes)) = &seen.remote {
            bytes.extend_from_slice(&at.segment.0);
            bytes.extend_from_slice(&at.entry.to_le_bytes());
            bytes.extend_from_slice(&remote_bytes.to_le_bytes());
        }
        let check = check(key, &bytes);
        bytes.extend_from_slice(&check);
        bytes
    }

    pub(super) fn decode(key: &[u8], ino: Ino, bytes: &[u8]) -> Result<Self, Cut> {
        let (body, stored) =
            bytes.split_last_chunk::<CHECK_BYTES>().ok_or(Cut { field: "check" })?;
        if check(key, body) != *stored {
            return Err(Cut { field: "check" });
        }
        let mut fields = Fields::new(body);
        let kind = match fields.u8("kind")? {
            0 => Kind::Regular,
            1 => Kind::Directory,
            2 => Kind::Other,
            _ => return Err(Cut { field: "kind" }),
        };
        let standing = match fields.u8("standing")? {
            0 => Standing::Unmoved,
            1 => Standing::Resident,
            2 => Standing::Orphan,
            3 => Standing::Foreign,
            4 => Standing::Conflict,
            byte => byte
                .checked_sub(RECORDED)
                .and_then(State::from_byte)
                .map(Standing::Recorded)
                .ok_or(Cut { field: "standing" })?,
        };
        let pin = pin_of(&mut fields)?;
        let has = fields.u8("has")?;
        if has > 3 {
            return Err(Cut { field: "has" });
        }
        let names = fields.u32("names")?;
        let size_bytes = fields.u64("size")?;
        let local_bytes = fields.u64("local")?;
        let mtime = TimeNs(fields.i64("mtime")?);
        let (atime, recalled) = (Second(fields.u32("atime")?), Second(fields.u32("recalled")?));
        let handle_kind = fields.i32("handle kind")?;
        let length = usize::from(fields.u8("handle length")?);
        if length > MAX_HANDLE_BYTES {
            return Err(Cut { field: "handle length" });
        }
        let handle = FileHandle { kind: handle_kind, bytes: fields.take("handle", length)?.into() };
        let heat = heat_of(&mut fields)?;
        let named = if has & 1 == 0 {
            None
        } else {
            let dir = Ino(fields.u64("parent")?);
            let length = usize::from(fields.u16("name length")?);
            Some((dir, fields.take("name", length)?.into()))
        };
        let remote = if has & 2 == 0 {
            None
        } else {
            let segment = SegmentId(fields.array("segment")?);
            let entry = fields.u32("entry")?;
            Some((EntryRef { segment, entry }, fields.u64("remote")?))
        };
        fields.end()?;
        let seen = Seen {
            ino,
            handle,
            kind,
            standing,
            remote,
            pin,
            size_bytes,
            local_bytes,
            mtime,
            atime,
        };
        Ok(Self { seen, names, named, heat, recalled })
    }
}

/// A pin as rows and offers have it.
pub(super) fn pin_byte(pin: Option<Pin>) -> u8 {
    match pin {
        None => 0,
        Some(Pin::NeverArchive) => 1,
        Some(Pin::NeverRelease) => 2,
    }
}

pub(super) fn pin_of(fields: &mut Fields<'_>) -> Result<Option<Pin>, Cut> {
    match fields.u8("pin")? {
        0 => Ok(None),
        1 => Ok(Some(Pin::NeverArchive)),
        2 => Ok(Some(Pin::NeverRelease)),
        _ => Err(Cut { field: "pin" }),
    }
}

/// Heat as rows and offers have it: 17 bytes.
pub(super) fn put_heat(bytes: &mut Vec<u8>, heat: &Heat) {
    bytes.extend_from_slice(&heat.since.0.to_le_bytes());
    bytes.extend_from_slice(&heat.last.0.to_le_bytes());
    bytes.extend_from_slice(&heat.accesses.to_le_bytes());
    bytes.extend_from_slice(&heat.score_at_last().to_le_bytes());
    bytes.push(heat.evidence.byte());
}

pub(super) fn heat_of(fields: &mut Fields<'_>) -> Result<Heat, Cut> {
    let (since, last) = (Second(fields.u32("since")?), Second(fields.u32("last")?));
    let accesses = fields.u32("accesses")?;
    let score = f32::from_bits(fields.u32("score")?);
    let heat = Heat::kept(since, last, accesses, score, fields.u8("evidence")?);
    heat.ok_or(Cut { field: "heat" })
}

fn check(key: &[u8], body: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key);
    hasher.update(body);
    wire::truncated(&hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing;
    use crate::temperature::{Evidence, HalfLife};

    fn rows() -> [Row; 2] {
        let mut heat = Heat::met(Second(1_700_000_000));
        heat.touch(5, Second(1_700_000_100), Evidence::Probe, HalfLife::default());
        let seen = Seen {
            ino: Ino(12),
            handle: FileHandle { kind: 1, bytes: [1, 2, 3, 4, 5, 6, 7, 8].into() },
            kind: Kind::Regular,
            standing: Standing::Recorded(State::Released),
            remote: Some((EntryRef { segment: SegmentId([3; 16]), entry: 17 }, 123_456)),
            pin: Some(Pin::NeverRelease),
            size_bytes: 123_456,
            local_bytes: 4_096,
            mtime: TimeNs(-5),
            atime: Second(1_700_000_050),
        };
        let bare = Seen {
            kind: Kind::Directory,
            standing: Standing::Unmoved,
            remote: None,
            pin: None,
            ..seen.clone()
        };
        [
            Row {
                seen,
                names: 2,
                named: Some((Ino(2), b"a name"[..].into())),
                heat,
                recalled: Second(9),
            },
            Row { seen: bare, names: 1, named: None, heat: Heat::default(), recalled: Second(0) },
        ]
    }

    #[test]
    fn a_row_comes_back_under_its_own_key() {
        for row in rows() {
            let bytes = row.encode(b"key");
            assert_eq!(Row::decode(b"key", Ino(12), &bytes), Ok(row));
            assert_eq!(Row::decode(b"kez", Ino(12), &bytes), Err(Cut { field: "check" }));
        }
    }

    #[test]
    fn decoding_a_row_never_panics() {
        let good = rows().map(|row| row.encode(b"key"));
        fuzzing::run(|dice| {
            for good in &good {
                let mut bytes = dice.mangled(good);
                assert!(bytes == *good || Row::decode(b"key", Ino(12), &bytes).is_err());
                // As if somebody had made the check fit.
                let check = check(b"key", &bytes);
                bytes.extend_from_slice(&check);
                if let Ok(row) = Row::decode(b"key", Ino(12), &bytes) {
                    assert_eq!(row.encode(b"key"), bytes);
                }
            }
        });
    }
}
