//! The record: 64 bytes in an xattr on the file itself, the authority on where its bytes are.
//!
//! ```text
//!  0 u8 version = 1      8 [u8;16] segment     40 i64 ctime ns to show
//!  1 u8 state           24 u64 size            48 u32 blocks
//!  2 u16 flags          32 i64 mtime ns        52 u32 tenant
//!  4 u32 entry                                 56 [u8;8] tag
//! ```
//!
//! Never more than 64 bytes in any version: a larger value leaves ext4's default inode. The
//! tag binds all of it to the tenant and the inode, so that a record that `cp -a` or a restore
//! brought here is told from our own.

use nix::sys::stat::FileStat;

use crate::file_id::{EntryRef, FileHandle, SegmentId, TimeNs};
use crate::seal::{self, Seal};
use crate::tier::State;
use crate::wire::{Cut, Fields};

/// Where the record lives; only root sees `trusted.*`.
pub const XATTR_NAME: &str = "trusted.coldfs";
/// Where it lives in a rootless mount, which hides it.
pub const XATTR_NAME_ROOTLESS: &str = "user.coldfs";
/// Length of a record of this version, and the most that any version may have.
pub const RECORD_BYTES: usize = 64;
/// The version this code writes.
pub const VERSION: u8 = 1;
/// The most blocks that a record can show (16 TiB); a file with more is never migrated.
pub const MAX_BLOCKS_512: u64 = u32::MAX as u64 * 8;

const TAGGED_BYTES: usize = 56;

/// Flag: `blocks` counts 4 KiB, because the number of 512-byte units needs more than 32 bits.
const BLOCKS_OF_4K: u16 = 1;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What is true of the file's bytes.
    pub state: State,
    /// Where the remote copy is.
    pub at: EntryRef,
    /// Size of the version that the remote copy is of.
    pub size_bytes: u64,
    /// Modification time of that version.
    pub mtime: TimeNs,
    /// The ctime that the mount shows.
    pub ctime_shown: TimeNs,
    /// The blocks that the mount shows, in units of 512 bytes; at most [`MAX_BLOCKS_512`].
    pub blocks_512: u64,
}

/// What the bytes under the xattr's name turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Ours, of this inode.
    Trusted(Record),
    /// Its tag does not fit this inode, or no version ever wrote such bytes. The caller has
    /// made sure that the key is the right one ([`Seal::id`]).
    Misfit,
    /// Not ours to judge: kept, and the file is never migrated.
    Foreign(Foreign),
}

/// What a record's bytes name, wherever they stand and whoever wrote them there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// An entry, with all that is said of the file; it may be void here.
    Entry(Record),
    /// Nothing: no version ever wrote such bytes.
    Nothing,
    /// Nobody can say: a newer coldfs wrote it.
    Unknown(Foreign),
}

/// Why a record is not ours to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Foreign {
    /// Written by a later coldfs.
    #[error("a record of version {0}, of a newer coldfs")]
    Newer(u8),
    /// A state of a later coldfs, under a tag that fits.
    #[error("a record with the unknown state {0}, of a newer coldfs")]
    UnknownState(u8),
    /// Flags of a later coldfs, under a tag that fits.
    #[error("a record with the unknown flags {0:#06x}, of a newer coldfs")]
    UnknownFlags(u16),
    /// Another tenant's.
    #[error("a record of the tenant numbered {0:08x}")]
    OtherTenant(u32),
}

impl Record {
    /// Whether a file that looks so has the recorded size and modification time.
    pub fn fits(&self, stat: &FileStat) -> bool {
        u64::try_from(stat.st_size) == Ok(self.size_bytes)
            && TimeNs::mtime_of(stat) == Some(self.mtime)
    }

    /// The bytes to store on the inode that `handle` names.
    pub fn encode(&self, seal: &Seal, handle: &FileHandle) -> [u8; RECORD_BYTES] {
        let (flags, blocks) = pack_blocks(self.blocks_512);
        let mut body = [0; TAGGED_BYTES];
        body[0] = VERSION;
        body[1] = self.state as u8;
        body[2..4].copy_from_slice(&flags.to_le_bytes());
        body[4..8].copy_from_slice(&self.at.entry.to_le_bytes());
        body[8..24].copy_from_slice(&self.at.segment.0);
        body[24..32].copy_from_slice(&self.size_bytes.to_le_bytes());
        body[32..40].copy_from_slice(&self.mtime.0.to_le_bytes());
        body[40..48].copy_from_slice(&self.ctime_shown.0.to_le_bytes());
        body[48..52].copy_from_slice(&blocks.to_le_bytes());
        body[52..56].copy_from_slice(&seal.tenant().number().to_le_bytes());
        let mut bytes = [0; RECORD_BYTES];
        bytes[..TAGGED_BYTES].copy_from_slice(&body);
        bytes[TAGGED_BYTES..].copy_from_slice(&seal.record_tag(&body, handle));
        bytes
    }

    /// Reads what stands on the inode that `handle` names.
    ///
    /// The order of the checks is the meaning: a version or tenant that is not ours is kept
    /// without asking for a tag that we could not check, and an unknown state or flag counts
    /// as a newer coldfs's only under a tag that fits, because otherwise it is a copy.
    pub fn decode(bytes: &[u8], seal: &Seal, handle: &FileHandle) -> Reading {
        match bytes.first() {
            None | Some(0) => return Reading::Misfit,
            Some(_) if bytes.len() > RECORD_BYTES => return Reading::Misfit,
            Some(&VERSION) => {}
            Some(&newer) => return Reading::Foreign(Foreign::Newer(newer)),
        }
        let Ok(bytes) = <&[u8; RECORD_BYTES]>::try_from(bytes) else {
            return Reading::Misfit;
        };
        // Cannot be cut: the length was checked. No panic where it were.
        decode_whole(bytes, seal, handle).unwrap_or(Reading::Misfit)
    }

    /// What these bytes name, also where they mean nothing: a record that was copied to another
    /// file, or is another tenant's. For whoever must not miss a reference.
    pub fn named(bytes: &[u8]) -> Names {
        match bytes.first() {
            None | Some(0) => return Names::Nothing,
            Some(_) if bytes.len() > RECORD_BYTES => return Names::Nothing,
            Some(&VERSION) => {}
            Some(&newer) => return Names::Unknown(Foreign::Newer(newer)),
        }
        let Ok(bytes) = <&[u8; RECORD_BYTES]>::try_from(bytes) else { return Names::Nothing };
        match Parts::read(bytes).map(Parts::record) {
            Ok(Ok(record)) => Names::Entry(record),
            Ok(Err(newer)) => Names::Unknown(newer),
            Err(_cut) => Names::Nothing,
        }
    }
}

fn decode_whole(
    bytes: &[u8; RECORD_BYTES],
    seal: &Seal,
    handle: &FileHandle,
) -> Result<Reading, Cut> {
    let body: [u8; TAGGED_BYTES] = Fields::new(bytes).array("tagged")?;
    let parts = Parts::read(bytes)?;
    if parts.tenant != seal.tenant().number() {
        return Ok(Reading::Foreign(Foreign::OtherTenant(parts.tenant)));
    }
    if !seal::fits(&parts.tag, &seal.record_tag(&body, handle)) {
        return Ok(Reading::Misfit);
    }
    Ok(parts.record().map_or_else(Reading::Foreign, Reading::Trusted))
}

/// The fields, as they stand there.
struct Parts {
    state: u8,
    flags: u16,
    at: EntryRef,
    size_bytes: u64,
    mtime: TimeNs,
    ctime_shown: TimeNs,
    blocks: u32,
    tenant: u32,
    tag: [u8; 8],
}

impl Parts {
    fn read(bytes: &[u8; RECORD_BYTES]) -> Result<Self, Cut> {
        let mut fields = Fields::new(bytes);
        fields.u8("version")?;
        let (state, flags) = (fields.u8("state")?, fields.u16("flags")?);
        let entry = fields.u32("entry")?;
        let at = EntryRef { segment: SegmentId(fields.array("segment")?), entry };
        Ok(Self {
            state,
            flags,
            at,
            size_bytes: fields.u64("size")?,
            mtime: TimeNs(fields.i64("mtime")?),
            ctime_shown: TimeNs(fields.i64("ctime")?),
            blocks: fields.u32("blocks")?,
            tenant: fields.u32("tenant")?,
            tag: fields.array("tag")?,
        })
    }

    /// What they say; an error where a newer coldfs wrote them.
    fn record(self) -> Result<Record, Foreign> {
        let Self { state, flags, at, size_bytes, mtime, ctime_shown, blocks, .. } = self;
        let state = State::from_byte(state).ok_or(Foreign::UnknownState(state))?;
        if flags & !BLOCKS_OF_4K != 0 {
            return Err(Foreign::UnknownFlags(flags));
        }
        let blocks_512 = u64::from(blocks) * if flags & BLOCKS_OF_4K == 0 { 1 } else { 8 };
        Ok(Record { state, at, size_bytes, mtime, ctime_shown, blocks_512 })
    }
}

/// Flags and field for a number of blocks. Rounded up to 4 KiB above 2 TiB, where no
/// filesystem of ours allocates less; the largest field beyond [`MAX_BLOCKS_512`].
fn pack_blocks(blocks_512: u64) -> (u16, u32) {
    match u32::try_from(blocks_512) {
        Ok(blocks) => (0, blocks),
        Err(_) => (BLOCKS_OF_4K, u32::try_from(blocks_512.div_ceil(8)).unwrap_or(u32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_id::TenantUuid;
    use crate::fuzzing;
    use proptest::prelude::*;

    fn seal() -> Seal {
        Seal::new(TenantUuid([7; 16]), [9; 32])
    }

    fn handle() -> FileHandle {
        FileHandle { kind: 1, bytes: [1, 2, 3, 4, 5, 6, 7, 8].into() }
    }

    fn record() -> Record {
        Record {
            state: State::Released,
            at: EntryRef { segment: SegmentId([3; 16]), entry: 17 },
            size_bytes: 123_456,
            mtime: TimeNs(-5),
            ctime_shown: TimeNs(1_700_000_000_000_000_001),
            blocks_512: 248,
        }
    }

    /// A record with one byte changed and the tag made to fit again.
    fn forged(at: usize, byte: u8) -> [u8; RECORD_BYTES] {
        let mut bytes = record().encode(&seal(), &handle());
        bytes[at] = byte;
        let body = *bytes.first_chunk::<TAGGED_BYTES>().unwrap();
        bytes[TAGGED_BYTES..].copy_from_slice(&seal().record_tag(&body, &handle()));
        bytes
    }

    #[test]
    fn a_record_is_trusted_on_its_own_inode() {
        let bytes = record().encode(&seal(), &handle());
        assert_eq!(Record::decode(&bytes, &seal(), &handle()), Reading::Trusted(record()));
    }

    #[test]
    fn a_record_copied_to_another_inode_does_not_fit() {
        let bytes = record().encode(&seal(), &handle());
        let reused = FileHandle { bytes: [1, 2, 3, 4, 9, 6, 7, 8].into(), ..handle() };
        assert_eq!(Record::decode(&bytes, &seal(), &reused), Reading::Misfit);
        let other_kind = FileHandle { kind: 2, ..handle() };
        assert_eq!(Record::decode(&bytes, &seal(), &other_kind), Reading::Misfit);
    }

    #[test]
    fn a_record_of_another_tenant_is_kept_as_foreign() {
        let bytes = record().encode(&seal(), &handle());
        let other = Seal::new(TenantUuid([8; 16]), [9; 32]);
        let number = seal().tenant().number();
        let foreign = Reading::Foreign(Foreign::OtherTenant(number));
        assert_eq!(Record::decode(&bytes, &other, &handle()), foreign);
    }

    #[test]
    fn a_tenant_with_the_same_number_and_another_uuid_does_not_fit() {
        let bytes = record().encode(&seal(), &handle());
        let mut uuid = [7; 16];
        uuid[15] = 8;
        let twin = Seal::new(TenantUuid(uuid), [9; 32]);
        assert_eq!(Record::decode(&bytes, &twin, &handle()), Reading::Misfit);
    }

    #[test]
    fn a_newer_version_is_kept_whatever_follows_it() {
        for length in 1..=RECORD_BYTES {
            let bytes = vec![2; length];
            let newer = Reading::Foreign(Foreign::Newer(2));
            assert_eq!(Record::decode(&bytes, &seal(), &handle()), newer);
        }
        assert_eq!(Record::decode(&[2; 65], &seal(), &handle()), Reading::Misfit);
    }

    #[test]
    fn an_unknown_state_or_flag_is_foreign_only_under_a_tag_that_fits() {
        let reading = |bytes: &[u8]| Record::decode(bytes, &seal(), &handle());
        assert_eq!(reading(&forged(1, 99)), Reading::Foreign(Foreign::UnknownState(99)));
        assert_eq!(reading(&forged(2, 2)), Reading::Foreign(Foreign::UnknownFlags(2)));
        let mut bytes = record().encode(&seal(), &handle());
        bytes[1] = 99;
        assert_eq!(reading(&bytes), Reading::Misfit);
    }

    #[test]
    fn whatever_a_record_means_here_it_names_its_entry() {
        let bytes = record().encode(&seal(), &handle());
        assert_eq!(Record::named(&bytes), Names::Entry(record()));
        // Copied to another file, or another tenant's.
        for at in [52, 60] {
            let mut copied = bytes;
            copied[at] ^= 1;
            assert_eq!(Record::named(&copied), Names::Entry(record()), "{at}");
        }
        assert_eq!(Record::named(&forged(0, 2)), Names::Unknown(Foreign::Newer(2)));
        assert_eq!(Record::named(&forged(1, 99)), Names::Unknown(Foreign::UnknownState(99)));
        assert_eq!(Record::named(&forged(2, 2)), Names::Unknown(Foreign::UnknownFlags(2)));
        for void in [&[][..], &[0; 64], &bytes[..63], &[1; 65]] {
            assert_eq!(Record::named(void), Names::Nothing, "{}", void.len());
        }
    }

    #[test]
    fn no_flipped_bit_is_ever_trusted() {
        let bytes = record().encode(&seal(), &handle());
        for bit in 0..RECORD_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let reading = Record::decode(&flipped, &seal(), &handle());
            assert!(!matches!(reading, Reading::Trusted(_)), "bit {bit}: {reading:?}");
        }
    }

    #[test]
    fn a_record_of_another_length_is_never_trusted() {
        let mut bytes = record().encode(&seal(), &handle()).to_vec();
        for length in 0..RECORD_BYTES {
            assert_eq!(Record::decode(&bytes[..length], &seal(), &handle()), Reading::Misfit);
        }
        bytes.push(0);
        assert_eq!(Record::decode(&bytes, &seal(), &handle()), Reading::Misfit);
    }

    #[test]
    fn more_than_two_terabytes_of_blocks_are_counted_in_four_kilobytes() {
        for (blocks_512, shown) in [
            (u64::from(u32::MAX), u64::from(u32::MAX)),
            (1 << 32, 1 << 32),
            ((1 << 33) + 1, (1 << 33) + 8),
            (MAX_BLOCKS_512, MAX_BLOCKS_512),
        ] {
            let bytes = Record { blocks_512, ..record() }.encode(&seal(), &handle());
            let expected = Record { blocks_512: shown, ..record() };
            assert_eq!(Record::decode(&bytes, &seal(), &handle()), Reading::Trusted(expected));
        }
    }

    #[test]
    fn decoding_a_record_never_panics() {
        let good = record().encode(&seal(), &handle());
        fuzzing::run(|dice| {
            let bytes = dice.mangled(&good);
            let reading = Record::decode(&bytes, &seal(), &handle());
            assert!(bytes == good || !matches!(reading, Reading::Trusted(_)));
            Record::named(&bytes);
        });
    }

    proptest! {
        #[test]
        fn any_record_comes_back(
            state in proptest::sample::select(State::ALL.to_vec()),
            segment: [u8; 16], entry: u32, size_bytes: u64, mtime: i64, ctime: i64, blocks: u32,
        ) {
            let record = Record {
                state,
                at: EntryRef { segment: SegmentId(segment), entry },
                size_bytes,
                mtime: TimeNs(mtime),
                ctime_shown: TimeNs(ctime),
                blocks_512: u64::from(blocks),
            };
            let bytes = record.encode(&seal(), &handle());
            prop_assert_eq!(Record::decode(&bytes, &seal(), &handle()), Reading::Trusted(record));
        }
    }
}
