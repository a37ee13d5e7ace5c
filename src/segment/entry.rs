//! One entry of the footer index: everything that is needed to make the file again.

use crate::file_id::{EntryRef, Extent, FileHandle, Ino, MAX_HANDLE_BYTES, SegmentId, TimeNs};
use crate::segment::content::ContentHash;
use crate::segment::layout::{self, EntryPlace};
use crate::wire::{self, Cut, Fields};

/// Longest path, tenant-relative: what 16 bits count. By a path from its root nobody opens one of
/// more than 4,096 bytes, by `cd` and `openat` they do.
pub const MAX_PATH_BYTES: usize = u16::MAX as usize;
/// Longest name of an xattr (`XATTR_NAME_MAX`).
pub const MAX_XATTR_NAME_BYTES: usize = 255;
/// Largest value of an xattr (`XATTR_SIZE_MAX`).
pub const MAX_XATTR_VALUE_BYTES: usize = 64 << 10;
/// Most xattrs of a file.
pub const MAX_XATTRS: usize = 4096;
/// Most data extents of a file; a file with more is not archived.
pub const MAX_EXTENTS: usize = 1 << 20;
/// Most aliases of an entry.
pub const MAX_ALIASES: usize = 1 << 16;

/// Flag word of an entry whose chunks are stored as they are; nothing else is version 1.
const STORED: u16 = 0;

/// Name and value of an extended attribute.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// What is known of a file when it is archived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryMeta {
    /// Path below the tenant's root, without a leading slash.
    pub path: Vec<u8>,
    /// Inode number.
    pub ino: Ino,
    /// File handle.
    pub handle: FileHandle,
    /// `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// Size.
    pub size_bytes: u64,
    /// Modification time.
    pub mtime: TimeNs,
    /// Change time.
    pub ctime: TimeNs,
    /// Access time.
    pub atime: TimeNs,
    /// `st_blocks`.
    pub blocks_512: u64,
    /// Extended attributes (ACLs and labels among them), ours left out.
    pub xattrs: Vec<Xattr>,
    /// Data extents, in order.
    pub extents: Vec<Extent>,
    /// Entries of other segments that this one took over in a compaction.
    pub aliases: Vec<EntryRef>,
}

/// What the index says of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The file.
    pub meta: EntryMeta,
    /// What its bytes are.
    pub content: ContentHash,
    /// Where they are.
    pub place: EntryPlace,
}

/// Why an entry is not one that coldfs writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// A field holds what no file has, or more than is written.
    #[error("impossible {0}")]
    Field(&'static str),
    /// The bytes end inside a field.
    #[error(transparent)]
    Cut(#[from] Cut),
    /// Chunks stored in a way of a later version.
    #[error("chunks stored in the unknown way {0:#06x}, of a newer coldfs")]
    Newer(u16),
}

impl EntryMeta {
    /// Checks every bound and invariant that a reader will check again.
    pub fn check(&self) -> Result<(), BadEntry> {
        let bounds = [
            (self.handle.bytes.len() <= MAX_HANDLE_BYTES, "handle"),
            (self.xattrs.len() <= MAX_XATTRS, "xattrs"),
            (self.xattrs.iter().all(|(name, _)| name.len() <= MAX_XATTR_NAME_BYTES), "xattr name"),
            (self.xattrs.iter().all(|(_, v)| v.len() <= MAX_XATTR_VALUE_BYTES), "xattr value"),
            (self.extents.len() <= MAX_EXTENTS, "extents"),
            (self.aliases.len() <= MAX_ALIASES, "aliases"),
            (self.size_bytes <= layout::MAX_OFFSET, "size"),
            (path_is_sound(&self.path), "path"),
            (layout::packed_bytes(self.size_bytes, &self.extents).is_ok(), "extents"),
        ];
        match bounds.iter().find(|(holds, _)| !holds) {
            Some((_, field)) => Err(BadEntry::Field(field)),
            None => Ok(()),
        }
    }
}

/// Whether a rebuild may make this path below its root: no way up, nothing absolute.
fn path_is_sound(path: &[u8]) -> bool {
    path.len() <= MAX_PATH_BYTES
        && !path.contains(&0)
        && path.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b".."))
}

impl IndexEntry {
    /// Appends the entry's bytes. The metadata was checked by [`EntryMeta::check`].
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let meta = &self.meta;
        let mut put = |bytes: &[u8]| out.extend_from_slice(bytes);
        put(&STORED.to_le_bytes());
        put(&wire::u16_of(meta.path.len()).to_le_bytes());
        put(&meta.path);
        put(&meta.ino.0.to_le_bytes());
        put(&meta.handle.kind.to_le_bytes());
        put(&[wire::u8_of(meta.handle.bytes.len())]);
        put(&meta.handle.bytes);
        for word in [meta.mode, meta.uid, meta.gid, meta.nlink] {
            put(&word.to_le_bytes());
        }
        put(&meta.size_bytes.to_le_bytes());
        for time in [meta.mtime, meta.ctime, meta.atime] {
            put(&time.0.to_le_bytes());
        }
        put(&meta.blocks_512.to_le_bytes());
        put(&self.content.0);
        put(&self.place.data_offset().to_le_bytes());
        put(&self.place.packed_bytes().to_le_bytes());
        put(&wire::u32_of(meta.xattrs.len()).to_le_bytes());
        for (name, value) in &meta.xattrs {
            put(&wire::u16_of(name.len()).to_le_bytes());
            put(name);
            put(&wire::u32_of(value.len()).to_le_bytes());
            put(value);
        }
        put(&wire::u32_of(meta.extents.len()).to_le_bytes());
        for extent in &meta.extents {
            put(&extent.offset.to_le_bytes());
            put(&extent.length.to_le_bytes());
        }
        put(&wire::u32_of(meta.aliases.len()).to_le_bytes());
        for alias in &meta.aliases {
            put(&alias.segment.0);
            put(&alias.entry.to_le_bytes());
        }
    }

    /// Reads one entry, which must fill `bytes`.
    pub(crate) fn decode(bytes: &[u8], at: EntryRef, chunk_bytes: u32) -> Result<Self, BadEntry> {
        let mut fields = Fields::new(bytes);
        let flags = fields.u16("flags")?;
        if flags != STORED {
            return Err(BadEntry::Newer(flags));
        }
        let path_bytes = usize::from(fields.u16("path length")?);
        let path = fields.take("path", path_bytes)?.to_vec();
        let ino = Ino(fields.u64("ino")?);
        let kind = fields.i32("handle kind")?;
        let handle_bytes = usize::from(fields.u8("handle length")?);
        let handle = FileHandle { kind, bytes: fields.take("handle", handle_bytes)?.into() };
        let mode = fields.u32("mode")?;
        let uid = fields.u32("uid")?;
        let gid = fields.u32("gid")?;
        let nlink = fields.u32("nlink")?;
        let size_bytes = fields.u64("size")?;
        let mtime = TimeNs(fields.i64("mtime")?);
        let ctime = TimeNs(fields.i64("ctime")?);
        let atime = TimeNs(fields.i64("atime")?);
        let blocks_512 = fields.u64("blocks")?;
        let content = ContentHash(fields.array("content")?);
        let data_offset = fields.u64("data offset")?;
        let packed_bytes = fields.u64("packed length")?;
        let xattrs = decode_xattrs(&mut fields)?;
        let extents = decode_extents(&mut fields)?;
        let aliases = decode_aliases(&mut fields)?;
        if !fields.rest().is_empty() {
            return Err(BadEntry::Field("length"));
        }
        let meta = EntryMeta {
            path,
            ino,
            handle,
            mode,
            uid,
            gid,
            nlink,
            size_bytes,
            mtime,
            ctime,
            atime,
            blocks_512,
            xattrs,
            extents,
            aliases,
        };
        meta.check()?;
        if layout::packed_bytes(size_bytes, &meta.extents) != Ok(packed_bytes) {
            return Err(BadEntry::Field("packed length"));
        }
        let place = EntryPlace::new(at, data_offset, packed_bytes, chunk_bytes)
            .map_err(|bad| BadEntry::Field(bad.0))?;
        Ok(Self { meta, content, place })
    }
}

fn decode_xattrs(fields: &mut Fields<'_>) -> Result<Vec<Xattr>, BadEntry> {
    let count = fields.count("xattr count", 6)?;
    let mut xattrs = Vec::with_capacity(count.min(MAX_XATTRS));
    for _ in 0..count {
        let name_bytes = usize::from(fields.u16("xattr name length")?);
        let name = fields.take("xattr name", name_bytes)?.to_vec();
        let value_bytes = fields.count("xattr value length", 1)?;
        xattrs.push((name, fields.take("xattr value", value_bytes)?.to_vec()));
    }
    Ok(xattrs)
}

fn decode_extents(fields: &mut Fields<'_>) -> Result<Vec<Extent>, BadEntry> {
    let count = fields.count("extent count", 16)?;
    let mut extents = Vec::with_capacity(count.min(MAX_EXTENTS));
    for _ in 0..count {
        let offset = fields.u64("extent offset")?;
        extents.push(Extent { offset, length: fields.u64("extent length")? });
    }
    Ok(extents)
}

fn decode_aliases(fields: &mut Fields<'_>) -> Result<Vec<EntryRef>, BadEntry> {
    let count = fields.count("alias count", 20)?;
    let mut aliases = Vec::with_capacity(count.min(MAX_ALIASES));
    for _ in 0..count {
        let segment = SegmentId(fields.array("alias segment")?);
        aliases.push(EntryRef { segment, entry: fields.u32("alias entry")? });
    }
    Ok(aliases)
}
