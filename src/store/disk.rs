//! An S3 service over a directory: durable, and looked at with ordinary tools.
//!
//! ```text
//! DIR/.coldfs-store        the layout's version; makes DIR a store
//! DIR/.lock                held while a store is opened
//! DIR/.tmp/PROCESS/        drafts of a living process; the dead's are cleared away at open
//! DIR/.uploads/ID/         a multipart upload under way
//! DIR/BUCKET/.../NAME.obj  objects; see [`name`] for how a key becomes a path
//! ```
//!
//! An object is written to a draft, its checksums are compared, it is synced, and only then gets
//! its name: by `link` where it must be new (one of several creators wins, in this process or
//! another), by `rename` otherwise. Then every directory up to the bucket is synced. So a kill
//! leaves an object whole or absent, and an answered put survives a power cut.
//!
//! Nobody but its owner gets into a store; see [`private`].
//!
//! The pages of what was written are dropped: a read that verifies it reads the disk.
//! `ETag` is made of inode, size and time, not of the bytes: tools do not take it for an MD5 sum.

mod attributes;
mod body;
mod doubt;
mod durable;
mod layout;
mod list;
mod listing;
mod multipart;
mod name;
mod private;
mod service;
#[cfg(test)]
mod tests;
pub mod workers;

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use self::workers::Workers;
use super::open::OpenError;
pub use private::Access;
use s3s::dto::ETag;
use s3s::{S3Error, S3ErrorCode, S3Result};

/// Longest key, bytes (S3's rule).
const MAX_KEY_BYTES: usize = 1024;

/// An S3 service over a directory. Clones share it.
#[derive(Clone, Debug)]
pub struct DiskStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    workshop: layout::Workshop,
    drafts: AtomicU64,
    workers: Workers,
}

impl DiskStore {
    /// Opens the store in `root`, or makes one there if it is empty or missing. Blocks.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        let workshop = layout::open(root)?;
        let root = root.canonicalize().map_err(OpenError::io("find", root))?;
        let store = Self(Arc::new(Shared {
            root,
            workshop,
            drafts: AtomicU64::new(0),
            workers: Workers::default(),
        }));
        multipart::clear_abandoned(&store, SystemTime::now());
        Ok(store)
    }

    /// Makes a bucket, durably; one that is there stays. Blocks.
    pub fn create_bucket_if_missing(&self, bucket: &str) -> Result<(), OpenError> {
        let path = self.bucket_dir(bucket);
        match self.make_bucket(bucket) {
            Ok(_) => Ok(()),
            Err(error) => Err(OpenError::io("create bucket", path)(error)),
        }
    }

    /// Whether it is new. Synced even where it is not: its maker may not have got so far.
    fn make_bucket(&self, bucket: &str) -> io::Result<bool> {
        let dir = self.bucket_dir(bucket);
        let doubt = self.0.workshop.doubts.begin(&dir);
        let new = match private::create_dir(&dir) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error),
        };
        durable::sync_dir(&self.0.root)?;
        doubt.settle();
        Ok(new)
    }

    /// Makes a bucket that is there durable, where there is any doubt that it is.
    fn settle_bucket(&self, bucket: &str) -> io::Result<()> {
        let in_doubt = self.0.workshop.doubts.has(&self.bucket_dir(bucket));
        if in_doubt { durable::sync_dir(&self.0.root) } else { Ok(()) }
    }

    /// As [`DiskStore::settle_bucket`], an object in it.
    fn settle_object(&self, bucket: &str, object: &Path) -> io::Result<()> {
        let in_doubt = self.0.workshop.doubts.has(object);
        if in_doubt {
            durable::sync_object(&self.bucket_dir(bucket), object)?;
        }
        self.settle_bucket(bucket)
    }

    fn bucket_dir(&self, bucket: &str) -> PathBuf {
        // s3s admits names of [a-z0-9.-] that begin with a letter or digit: not `.tmp`, not `..`.
        self.0.root.join(bucket)
    }

    fn object_path(&self, bucket: &str, key: &str) -> PathBuf {
        self.bucket_dir(bucket).join(name::path_of(key))
    }

    fn uploads_dir(&self) -> PathBuf {
        self.0.root.join(layout::UPLOADS)
    }

    /// An empty draft. Blocks.
    fn draft(&self) -> io::Result<durable::Draft> {
        let number = self.0.drafts.fetch_add(1, Ordering::Relaxed);
        durable::Draft::create(self.0.workshop.path().join(number.to_string()))
    }

    /// Runs file operations where they may block. What they answer is [`Workers::keep`]'s where
    /// its drop is a file operation too: nobody may be left to take it.
    async fn blocking<T, F>(&self, work: F) -> S3Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&DiskStore) -> S3Result<T> + Send + 'static,
    {
        let store = self.clone();
        self.0.workers.run(move || work(&store)).await.map_err(S3Error::internal_error)?
    }

    /// What "no such file" means under `bucket`.
    fn absent(&self, bucket: &str) -> S3Error {
        if self.bucket_dir(bucket).is_dir() {
            S3Error::new(S3ErrorCode::NoSuchKey)
        } else {
            S3Error::new(S3ErrorCode::NoSuchBucket)
        }
    }

    /// Opens an object; durable when it returns.
    fn open_object(&self, bucket: &str, key: &str) -> S3Result<(File, Metadata)> {
        let path = self.object_path(bucket, key);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if durable::is_absent(&error) => return Err(self.absent(bucket)),
            Err(error) => return Err(s3_error("open object", error)),
        };
        // After it was seen: a name is in doubt from before it appears.
        self.settle_object(bucket, &path).map_err(|error| s3_error("sync object", error))?;
        let metadata = file.metadata().map_err(|error| s3_error("stat object", error))?;
        Ok((file, metadata))
    }

    /// Gives a finished draft its key.
    fn publish(&self, draft: durable::Draft, bucket: &str, key: &str, new: bool) -> S3Result<()> {
        check_key(key)?;
        let (root, target) = (self.bucket_dir(bucket), self.object_path(bucket, key));
        let doubts = &self.0.workshop.doubts;
        let outcome = match new {
            true => draft.publish_new(&root, &target, doubts),
            false => draft.publish_over(&root, &target, doubts),
        };
        self.settle_bucket(bucket).and(outcome).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => S3Error::with_message(
                S3ErrorCode::PreconditionFailed,
                "the key exists and If-None-Match: * was asked for",
            ),
            io::ErrorKind::NotFound if !root.is_dir() => S3Error::new(S3ErrorCode::NoSuchBucket),
            _ => s3_error("publish object", error),
        })
    }
}

fn check_key(key: &str) -> S3Result<()> {
    match key.len() {
        1..=MAX_KEY_BYTES => Ok(()),
        _ => Err(S3Error::new(S3ErrorCode::KeyTooLongError)),
    }
}

/// Changes whenever the object does: a new version is a new inode.
fn etag(metadata: &Metadata) -> ETag {
    ETag::Strong(format!(
        "{:x}-{:x}-{:x}{:08x}",
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec()
    ))
}

/// The S3 error for a failure of the filesystem. The one place where that is decided.
fn s3_error(action: &'static str, error: io::Error) -> S3Error {
    use io::ErrorKind as Kind;
    let (code, status) = match error.kind() {
        Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => {
            (S3ErrorCode::Custom("StorageFull".into()), http_status(507))
        }
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => (S3ErrorCode::AccessDenied, None),
        Kind::InvalidFilename => (S3ErrorCode::KeyTooLongError, None),
        _ if error.raw_os_error() == Some(nix::libc::EMFILE) => (S3ErrorCode::SlowDown, None),
        _ => (S3ErrorCode::InternalError, None),
    };
    let mut answer = S3Error::with_message(code, format!("{action}: {error}"));
    if let Some(status) = status {
        answer.set_status_code(status);
    }
    tracing::debug!(action, %error, "refuse a request");
    answer.set_source(Box::new(error));
    answer
}

/// A length as S3's types have it.
fn as_i64(length: u64) -> S3Result<i64> {
    i64::try_from(length).map_err(S3Error::internal_error)
}

fn http_status(code: u16) -> Option<hyper::StatusCode> {
    hyper::StatusCode::from_u16(code).ok()
}
