//! Keys: big-endian, so that they sort as what they name, and the tenant first, so that one
//! tenant's rows are neighbours.

use std::ops::RangeInclusive;

use crate::file_id::{Ino, SegmentId};

/// A tenant's number in this catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantNumber(pub u32);

/// A directory and a name in it.
pub(super) type NameIn = (Ino, Box<[u8]>);

/// Key of a file, and of a directory that is to be listed.
pub(super) fn file(tenant: TenantNumber, ino: Ino) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&tenant.0.to_be_bytes());
    key[4..].copy_from_slice(&ino.0.to_be_bytes());
    key
}

/// The file of a file's key, the directory of a name's; none: it is no such key.
pub(super) fn ino_of(key: &[u8]) -> Option<Ino> {
    let (ino, _) = key.get(4..)?.split_first_chunk()?;
    Some(Ino(u64::from_be_bytes(*ino)))
}

/// Key of a name.
pub(super) fn name(tenant: TenantNumber, dir: Ino, name: &[u8]) -> Vec<u8> {
    let mut key = file(tenant, dir).to_vec();
    key.extend_from_slice(name);
    key
}

/// The name of a name's key.
pub(super) fn name_of(key: &[u8]) -> &[u8] {
    key.get(12..).unwrap_or_default()
}

/// Key of a file in a segment.
pub(super) fn segment_file(tenant: TenantNumber, segment: SegmentId, ino: Ino) -> [u8; 28] {
    let mut key = [0; 28];
    key[..4].copy_from_slice(&tenant.0.to_be_bytes());
    key[4..20].copy_from_slice(&segment.0);
    key[20..].copy_from_slice(&ino.0.to_be_bytes());
    key
}

/// All keys that begin so: no key is longer than a name's.
pub(super) fn below(prefix: &[u8]) -> RangeInclusive<Vec<u8>> {
    /// Longer than any name (`NAME_MAX`), and sorted behind all of them.
    const BEHIND: [u8; 256] = [0xff; 256];
    prefix.to_vec()..=[prefix, &BEHIND].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_tenant_then_inode_then_name() {
        let (one, two) = (TenantNumber(1), TenantNumber(2));
        let keys = [
            name(one, Ino(1), b"b"),
            name(one, Ino(2), b"a"),
            name(one, Ino(256), b""),
            name(two, Ino(0), &[0xff; 255]),
        ];
        assert!(keys.is_sorted());
        assert_eq!(ino_of(&file(one, Ino(77))), Some(Ino(77)));
        assert_eq!(ino_of(b"short"), None);
        assert_eq!(name_of(&keys[3]), [0xff; 255]);
        let below = below(&file(two, Ino(0)));
        assert!(below.contains(&keys[3]) && !below.contains(&keys[2]));
        assert!(!below.contains(&name(two, Ino(1), b"")));
    }
}
