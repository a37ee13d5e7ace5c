//! Names for files, tenants and segments: values without I/O.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use nix::sys::stat::FileStat;

/// Inode number of a file on the filesystem below the mount, and of the same file in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Longest file handle that Linux makes (`MAX_HANDLE_SZ`), bytes.
pub const MAX_HANDLE_BYTES: usize = 128;

/// What `name_to_handle_at(2)` says of an inode: it names this inode and never a later one
/// that got the same number, because the generation is in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileHandle {
    /// `handle_type` as the filesystem gave it; opaque.
    pub kind: i32,
    /// `f_handle`, at most [`MAX_HANDLE_BYTES`] bytes.
    pub bytes: Box<[u8]>,
}

impl FileHandle {
    /// What FUSE calls the generation: differs between two files that had one inode number.
    pub fn generation(&self) -> u32 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.kind.to_le_bytes());
        hasher.update(&self.bytes);
        let mut word = [0; 4];
        word.copy_from_slice(&hasher.finalize().as_bytes()[..4]);
        u32::from_le_bytes(word)
    }

    /// The kernel's `i_generation` of the inode, where this kind of handle tells it
    /// (`enum fid_type` of exportfs.h): ext4's, XFS' and btrfs' do, as little-endian machines
    /// write them.
    pub fn inode_generation(&self) -> Option<u32> {
        let (at, length) = match self.kind {
            // FILEID_INO32_GEN: u32 inode, u32 generation.
            0x01 => (4, 8),
            // XFS: u64 inode, u32 generation.
            0x81 => (8, 12),
            // FILEID_BTRFS_WITHOUT_PARENT: u64 object, u64 root, u32 generation.
            0x4d => (16, 20),
            _ => return None,
        };
        let word = self.bytes.get(at..at + 4).filter(|_| self.bytes.len() == length)?;
        Some(u32::from_le_bytes(word.try_into().ok()?))
    }
}

/// Who a data directory belongs to; made once, kept in `.coldfs/tenant` and in the
/// tenant's header object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TenantUuid(pub [u8; 16]);

impl TenantUuid {
    /// The short form that records carry: the UUID's first four bytes, little-endian.
    pub fn number(&self) -> u32 {
        let mut word = [0; 4];
        word.copy_from_slice(&self.0[..4]);
        u32::from_le_bytes(word)
    }
}

impl fmt::Display for TenantUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// A segment's name: a ULID, so that names sort by the time they were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub [u8; 16]);

impl SegmentId {
    /// A new name; unique without asking anybody (80 random bits a millisecond).
    pub fn generate() -> Self {
        Self(ulid::Ulid::new().to_bytes())
    }

    /// When the name was made, by the clock of whoever made it.
    pub fn made(self) -> SystemTime {
        ulid::Ulid::from_bytes(self.0).datetime()
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&ulid::Ulid::from_bytes(self.0).to_string())
    }
}

impl FromStr for SegmentId {
    type Err = ulid::DecodeError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(ulid::Ulid::from_string(text)?.to_bytes()))
    }
}

/// Where one file's bytes are: a segment and the entry's number in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryRef {
    /// The segment.
    pub segment: SegmentId,
    /// Number of the entry in the segment, from 0.
    pub entry: u32,
}

impl fmt::Display for EntryRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.segment, self.entry)
    }
}

impl FromStr for EntryRef {
    type Err = NotAnEntry;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (segment, entry) = text.split_once('/').ok_or(NotAnEntry)?;
        let (segment, entry) = (segment.parse().ok(), entry.parse().ok());
        segment.zip(entry).map(|(segment, entry)| Self { segment, entry }).ok_or(NotAnEntry)
    }
}

/// A text that is no segment with an entry's number behind a slash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not SEGMENT/ENTRY")]
pub struct NotAnEntry;

/// A point in time as a file carries it: nanoseconds since the Unix epoch, negative before
/// it. 64 bits reach from 1677 to 2262; a file with a time outside is never migrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TimeNs(pub i64);

impl TimeNs {
    /// From `stat`'s seconds and nanoseconds; none where 64 bits do not hold it.
    pub fn from_parts(seconds: i64, nanoseconds: i64) -> Option<Self> {
        seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds).map(Self)
    }

    /// The modification time of a `stat`.
    pub fn mtime_of(stat: &FileStat) -> Option<Self> {
        Self::from_parts(stat.st_mtime, stat.st_mtime_nsec)
    }

    /// The same; of a time that 64 bits do not hold the nearest that they do: what is younger than
    /// any must not read as old.
    pub fn nearest_mtime(stat: &FileStat) -> Self {
        let bound = if stat.st_mtime < 0 { i64::MIN } else { i64::MAX };
        Self::mtime_of(stat).unwrap_or(Self(bound))
    }

    /// The change time of a `stat`.
    pub fn ctime_of(stat: &FileStat) -> Option<Self> {
        Self::from_parts(stat.st_ctime, stat.st_ctime_nsec)
    }

    /// Seconds and nanoseconds, the latter within `0..1_000_000_000`.
    pub fn parts(self) -> (i64, i64) {
        (self.0.div_euclid(1_000_000_000), self.0.rem_euclid(1_000_000_000))
    }
}

/// Bytes `offset..offset + length` of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Offset of the first byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

impl Extent {
    /// First offset behind the extent.
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }
}
