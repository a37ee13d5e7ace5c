//! A tenant's key: what makes a record ours and a stub genuine.
//!
//! One secret of 32 bytes a tenant. From it and the tenant's UUID come four values that do
//! not reveal each other: the key of record tags, the key of stub MACs, and a public id by
//! which a wrong key is told from a wrong tag (`docs/format.md`, "Seal").

use std::fmt;

use crate::file_id::{FileHandle, TenantUuid};
use crate::wire;

/// Bytes of a record's tag.
pub const TAG_BYTES: usize = 8;
/// Bytes of a stub's MAC.
pub const MAC_BYTES: usize = 16;

// Contexts are part of the format: another string is another key.
const RECORD_CONTEXT: &str = "coldfs 2026 v1 record tag";
const STUB_CONTEXT: &str = "coldfs 2026 v1 stub mac";
const PLAIN_CONTEXT: &str = "coldfs 2026 v1 plain mark";
const ID_CONTEXT: &str = "coldfs 2026 v1 key id";

/// Names a key without revealing it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A tenant and its key.
#[derive(Clone)]
pub struct Seal {
    tenant: TenantUuid,
    key: [u8; 32],
    record_key: [u8; 32],
    stub_key: [u8; 32],
    plain_key: [u8; 32],
    id: KeyId,
}

impl Seal {
    /// Derives what is needed from the tenant's secret (32 random bytes, made once).
    pub fn new(tenant: TenantUuid, key: [u8; 32]) -> Self {
        let mut material = [0; 48];
        material[..32].copy_from_slice(&key);
        material[32..].copy_from_slice(&tenant.0);
        let id = blake3::Hash::from_bytes(blake3::derive_key(ID_CONTEXT, &material));
        Self {
            tenant,
            key,
            record_key: blake3::derive_key(RECORD_CONTEXT, &material),
            stub_key: blake3::derive_key(STUB_CONTEXT, &material),
            plain_key: blake3::derive_key(PLAIN_CONTEXT, &material),
            id: KeyId(wire::truncated(&id)),
        }
    }

    /// Whose key it is.
    pub fn tenant(&self) -> TenantUuid {
        self.tenant
    }

    /// The secret, to be kept in `.coldfs/` and the tenant's header object; nowhere else.
    pub fn secret(&self) -> &[u8; 32] {
        &self.key
    }

    /// Public: stored beside whatever was sealed, so that a wrong key is told from a forgery.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The tag that binds a record's first 56 bytes to this tenant and to one inode.
    pub(crate) fn record_tag(&self, body: &[u8; 56], handle: &FileHandle) -> [u8; TAG_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.record_key);
        hasher.update(body);
        hasher.update(&self.tenant.0);
        hasher.update(&handle.kind.to_le_bytes());
        // The handle is last and everything before it has a fixed length.
        hasher.update(&handle.bytes);
        wire::truncated(&hasher.finalize())
    }

    /// The mark that binds these bytes, as an application's own, to one inode.
    pub(crate) fn plain_mark(&self, body: &[u8], handle: &FileHandle) -> [u8; MAC_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.plain_key);
        hasher.update(&(body.len() as u64).to_le_bytes());
        hasher.update(body);
        hasher.update(&handle.kind.to_le_bytes());
        hasher.update(&handle.bytes);
        wire::truncated(&hasher.finalize())
    }

    /// The MAC over a stub's text.
    pub(crate) fn stub_mac(&self, text: &[u8]) -> [u8; MAC_BYTES] {
        wire::truncated(&blake3::keyed_hash(&self.stub_key, text))
    }
}

impl fmt::Debug for Seal {
    /// Never shows the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").field("tenant", &self.tenant).field("id", &self.id).finish()
    }
}

/// Whether two tags are equal, in a time that does not depend on where they differ.
pub(crate) fn fits<const N: usize>(left: &[u8; N], right: &[u8; N]) -> bool {
    left.iter().zip(right).fold(0, |difference, (l, r)| difference | (l ^ r)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_keys_differ_from_each_other_and_from_the_secret() {
        let seal = Seal::new(TenantUuid([1; 16]), [2; 32]);
        assert_ne!(seal.record_key, seal.stub_key);
        assert_ne!(seal.plain_key, seal.stub_key);
        assert_ne!(seal.record_key, seal.key);
        assert_ne!(seal.id.0[..], seal.key[..8]);
    }

    #[test]
    fn another_tenant_with_the_same_secret_has_another_key_id() {
        let here = Seal::new(TenantUuid([1; 16]), [2; 32]);
        let there = Seal::new(TenantUuid([3; 16]), [2; 32]);
        assert_ne!(here.id(), there.id());
    }

    #[test]
    fn debug_output_never_shows_the_secret() {
        let seal = Seal::new(TenantUuid([1; 16]), [0xab; 32]);
        let shown = format!("{seal:?}");
        assert!(!shown.contains("171") && !shown.contains("abab"), "{shown}");
    }
}
