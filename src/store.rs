//! Where bytes go when they are cold: an S3 engine, seen through the few calls that coldfs
//! needs of one.
//!
//! Correctness never rests on the engine: keys are unique and immutable, checksums are ours.

pub mod call;
#[cfg(test)]
mod conformance;
pub mod disk;
pub mod faulty;
pub mod fuse_thread;
pub mod governor;
pub mod memory;
pub mod open;
pub mod retry;
pub mod s3;
pub mod serve;

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

/// Most objects that one call of [`ObjectStore::list`] answers: S3's page.
pub const LIST_LIMIT: usize = 1000;

/// A key below the store's prefix, `/`-separated, UTF-8, at most 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Takes a key as it is.
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a call to a store failed, named for what the caller does about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing is stored under the key.
    #[error("{key}: no such object in {store}")]
    NotFound {
        /// The key asked for.
        key: ObjectKey,
        /// The store's URL.
        store: String,
    },
    /// A create-only put met an object.
    #[error("{key}: already in {store}")]
    AlreadyExists {
        /// The key asked for.
        key: ObjectKey,
        /// The store's URL.
        store: String,
    },
    /// The object is in an offline storage class and must be restored first.
    #[error("{key}: in an offline storage class of {store}; restore it there first")]
    Offline {
        /// The key asked for.
        key: ObjectKey,
        /// The store's URL.
        store: String,
    },
    /// Credentials or permissions; trying again does not help.
    #[error("{action} {key}: {store} denies it: {reason}")]
    Denied {
        /// `put`, `get`, ...
        action: &'static str,
        /// The key asked for.
        key: ObjectKey,
        /// The store's URL.
        store: String,
        /// What it is about.
        why: Denial,
        /// The engine's words.
        reason: String,
    },
    /// No space or quota left in the store.
    #[error("put {key}: {store} is full: {reason}")]
    Full {
        /// The key asked for.
        key: ObjectKey,
        /// The store's URL.
        store: String,
        /// The engine's words.
        reason: String,
    },
    /// The store answered with other bytes than were asked for or sent.
    #[error("{action} {key}: {store} answered wrongly: {reason}")]
    Corrupt {
        /// `put`, `get`, ...
        action: &'static str,
        /// The key asked for.
        key: ObjectKey,
        /// The store's URL.
        store: String,
        /// What was wrong.
        reason: String,
    },
    /// Unreachable, slow, throttled or failing: the same call may succeed later.
    #[error("{action} {key}: {store} does not answer: {reason}")]
    Unavailable {
        /// `put`, `get`, ...
        action: &'static str,
        /// The key asked for.
        key: ObjectKey,
        /// The store's URL.
        store: String,
        /// What happened.
        reason: String,
    },
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, StoreError::Unavailable { .. })
    }

    /// What a person can do.
    pub fn next_step(&self) -> &'static str {
        match self {
            StoreError::Denied { why, .. } => why.next_step(),
            StoreError::Full { .. } => "make room in the store",
            StoreError::Unavailable { .. } => {
                "check the endpoint, the region and the network (`coldfs doctor --store URL`)"
            }
            StoreError::Corrupt { .. } => {
                "run the command again; if it stays so, do not use this engine (`coldfs doctor \
                 --store URL`)"
            }
            StoreError::NotFound { .. } => "check that the bucket exists and reads its own writes",
            StoreError::AlreadyExists { .. } => {
                "run the command again; if it stays so, check what else writes to this prefix"
            }
            StoreError::Offline { .. } => "restore it in the store, or check its lifecycle rules",
        }
    }
}

/// What a refusal is about, named for what a person does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// Wrong, expired or missing keys.
    Credentials,
    /// The keys are good and may not do this.
    Permission,
    /// There is no such bucket.
    Bucket,
    /// The bucket is in another region, or the endpoint is another's.
    Region,
    /// This machine's clock and the engine's differ too much.
    Clock,
    /// The engine does not do such a thing.
    Request,
}

impl Denial {
    /// What a person can do.
    pub fn next_step(self) -> &'static str {
        match self {
            Denial::Credentials => {
                "renew the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE, or the profile's file); a \
                 mount reads the file again by itself"
            }
            Denial::Permission => {
                "let these credentials get, put, list and delete objects in the bucket"
            }
            Denial::Bucket => "make the bucket, or name another: --store s3://BUCKET/PREFIX",
            Denial::Region => {
                "name the bucket's own region and endpoint: AWS_REGION, AWS_ENDPOINT_URL"
            }
            Denial::Clock => "set this machine's clock (chronyc tracking, timedatectl)",
            Denial::Request => "see what the engine can do: `coldfs doctor --store URL`",
        }
    }
}

/// How a segment that was put is proven to be stored as it was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// It is read back whole.
    #[default]
    Readback,
    /// The engine, which was seen to refuse a wrong checksum, tells the right one.
    Checksum,
}

impl Verify {
    /// The word in the configuration and in status.
    pub fn word(self) -> &'static str {
        match self {
            Verify::Readback => "readback",
            Verify::Checksum => "checksum",
        }
    }
}

impl std::str::FromStr for Verify {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "readback" => Ok(Verify::Readback),
            "checksum" => Ok(Verify::Checksum),
            _ => Err(format!("{word:?} is not one of \"readback\", \"checksum\"")),
        }
    }
}

/// What an engine says of an object without sending it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its size.
    pub size_bytes: u64,
    /// The SHA-256 of the whole of it, as the engine computed it; none where it did not.
    pub sha256: Option<[u8; 32]>,
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: ObjectKey,
    /// Its size.
    pub size_bytes: u64,
}

/// A store of immutable objects.
///
/// Every call ends by itself: an implementation has its own time limits. No call is made on a
/// FUSE thread.
#[async_trait]
pub trait ObjectStore: Send + Sync + 'static {
    /// The store's URL, as a person would write it.
    fn url(&self) -> &str;

    /// Stores `body` under a new key; durable when it returns. [`StoreError::AlreadyExists`]
    /// where the engine can tell; keys are unique, so that is a fault, not a race.
    async fn put_new(&self, key: &ObjectKey, body: Bytes) -> Result<(), StoreError>;

    /// Stores `body` under a key that may exist (owner and guest objects only).
    async fn put(&self, key: &ObjectKey, body: Bytes) -> Result<(), StoreError>;

    /// Begins an upload in parts, for an object too large to hold in memory.
    async fn upload(&self, key: &ObjectKey) -> Result<Box<dyn Upload>, StoreError>;

    /// Reads exactly `range`; an answer of another length is [`StoreError::Corrupt`].
    async fn get(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError>;

    /// Reads exactly `range` and hands on its bytes as they come, in order. After an error what
    /// was handed on is not all of it, and not proven to be right.
    async fn get_in_pieces(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        piece: &mut (dyn FnMut(Bytes) + Send),
    ) -> Result<(), StoreError> {
        piece(self.get(key, range).await?);
        Ok(())
    }

    /// The object's size in bytes.
    async fn size_bytes(&self, key: &ObjectKey) -> Result<u64, StoreError>;

    /// How a segment that was put into it is proven.
    fn verify(&self) -> Verify {
        Verify::Readback
    }

    /// What went to it and came back, of everybody in this process who uses it.
    fn traffic(&self) -> governor::Traffic {
        governor::Traffic::default()
    }

    /// What the engine says of an object.
    async fn told(&self, key: &ObjectKey) -> Result<Told, StoreError> {
        Ok(Told { size_bytes: self.size_bytes(key).await?, sha256: None })
    }

    /// Up to 1,000 objects whose key begins with `prefix` and is greater than `after`, in key
    /// order. Fewer than 1,000: that was the end.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> Result<Vec<ObjectInfo>, StoreError>;

    /// Removes an object; one that is not there is no error.
    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError>;
}

/// An upload in parts. Dropped without `finish`, it leaves nothing under the key.
#[async_trait]
pub trait Upload: Send {
    /// Sends the next part, in order. All but the last are at least 5 MiB (S3's rule).
    async fn part(&mut self, body: Bytes) -> Result<(), StoreError>;
    /// Makes the object; durable when it returns.
    async fn finish(self: Box<Self>) -> Result<(), StoreError>;
    /// Gives the parts back.
    async fn abort(self: Box<Self>);
}
