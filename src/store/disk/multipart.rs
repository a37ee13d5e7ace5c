//! Uploads in parts.
//!
//! ```text
//! .uploads/ID/upload.json    bucket, key, attributes; locked shared by a part, alone by the end
//! .uploads/ID/part-bytes     a symlink whose text is the size of the part that came first
//! .uploads/ID/body           part N at (N - 1) * part-bytes, unless it is larger than that
//! .uploads/ID/N.part         a part that does not fit there
//! .uploads/ID/N.json         part N is whole, checked and on disk; where, and its tag
//! ```
//!
//! Parts of equal size, all but the last, as every client sends them, lie in `body` as the object
//! will: completing it gives `body` its name and writes nothing again. Others are copied.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use s3s::dto::{Checksum, CompletedPart};
use s3s::{S3Error, S3ErrorCode, S3Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::attributes::Attributes;
use super::body::Received;
use super::durable::{self, Draft};
use super::{DiskStore, layout, private, s3_error};

/// Smallest part but for the last, bytes (S3's rule).
const MIN_PART_BYTES: u64 = 5 << 20;
/// Highest number of a part (S3's rule).
pub const MAX_PARTS: i32 = 10_000;
/// An upload that nobody touched for this long is given up at the next open. As the lifecycle
/// rule that AWS recommends.
const ABANDONED_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Debug, Serialize, Deserialize)]
struct Upload {
    bucket: String,
    key: String,
    attributes: Attributes,
}

/// A part that is on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartRecord {
    /// Its number, from 1.
    pub number: i32,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its entity tag, unquoted.
    pub etag: String,
    in_body: bool,
    checksums: Vec<Option<String>>,
}

impl PartRecord {
    /// What was read under this number may have been damaged.
    fn is_of(&self, number: i32) -> bool {
        self.number == number && number > 0
    }

    /// Where it lies among parts of this size.
    fn offset(&self, part_bytes: u64) -> Option<u64> {
        u64::from(self.number.unsigned_abs()).checked_sub(1)?.checked_mul(part_bytes)
    }
}

/// A place for a part, and the lock that keeps the upload from ending meanwhile.
#[derive(Debug)]
pub struct Slot {
    dir: PathBuf,
    number: i32,
    /// Where its bytes go.
    pub file: Arc<File>,
    /// From where on.
    pub offset: u64,
    in_body: bool,
    _lock: File,
}

/// Begins an upload; its ID. Blocks.
pub fn create(
    store: &DiskStore,
    bucket: &str,
    key: &str,
    attributes: Attributes,
) -> S3Result<String> {
    super::check_key(key)?;
    if !store.bucket_dir(bucket).is_dir() {
        return Err(S3Error::new(S3ErrorCode::NoSuchBucket));
    }
    let id = ulid::Ulid::new().to_string();
    let upload = Upload { bucket: bucket.to_owned(), key: key.to_owned(), attributes };
    let make = || {
        let dir = store.uploads_dir().join(&id);
        private::create_dir(&dir)?;
        private::options().create_new(true).open(dir.join("body"))?;
        write_json(&dir, "upload.json", &upload)?;
        durable::sync_dir(&store.uploads_dir())
    };
    make().map_err(|error| s3_error("begin upload", error))?;
    Ok(id)
}

/// Finds a place for part `number` of `length` bytes (if known). Blocks.
pub fn slot(
    store: &DiskStore,
    upload: &UploadId<'_>,
    number: i32,
    length: Option<u64>,
) -> S3Result<Slot> {
    if !(1..=MAX_PARTS).contains(&number) {
        return Err(S3Error::with_message(S3ErrorCode::InvalidArgument, "part number"));
    }
    let dir = upload.dir(store)?;
    let (lock, _) = upload.open(store)?;
    let place = || {
        lock.lock_shared()?;
        // It may have ended while we waited.
        fs::metadata(dir.join("upload.json"))?;
        remove_if_there(&dir, &format!("{number}.json"))?;
        let part_bytes = length.map(|length| claim_part_bytes(&dir, length)).transpose()?;
        let (path, offset) = match (part_bytes, length) {
            (Some(part_bytes), Some(length)) if length <= part_bytes => {
                (dir.join("body"), u64::from(number.unsigned_abs() - 1) * part_bytes)
            }
            _ => (dir.join(format!("{number}.part")), 0),
        };
        let in_body = path.ends_with("body");
        let file = private::options().create(!in_body).truncate(!in_body).open(path)?;
        Ok((Arc::new(file), offset, in_body))
    };
    let (file, offset, in_body) = place().map_err(|error| upload_error("place part", error))?;
    Ok(Slot { dir, number, file, offset, in_body, _lock: lock })
}

/// The part that `slot` was for is whole: makes it durable. Blocks.
pub fn keep_part(slot: &Slot, received: &Received) -> S3Result<PartRecord> {
    let record = PartRecord {
        number: slot.number,
        size_bytes: received.length,
        etag: format!(
            "{:x}-{}",
            received.length,
            received.checksum.checksum_crc64nvme.as_deref().map(hexadecimal).unwrap_or_default()
        ),
        in_body: slot.in_body,
        checksums: checksums(&received.checksum),
    };
    let keep = || {
        slot.file.sync_all()?;
        write_json(&slot.dir, &format!("{}.json", slot.number), &record)
    };
    keep().map_err(|error| s3_error("keep part", error))?;
    Ok(record)
}

/// The parts that are on disk, by number. Blocks.
pub fn parts(store: &DiskStore, upload: &UploadId<'_>) -> S3Result<Vec<PartRecord>> {
    upload.open(store)?;
    let dir = upload.dir(store)?;
    let read = || {
        let mut parts = Vec::new();
        for entry in fs::read_dir(&dir)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".json"));
            if let Some(Ok(number)) = number.map(str::parse)
                && let Some(part) = read_json::<PartRecord>(&dir.join(&name))?
                && part.is_of(number)
            {
                parts.push(part);
            }
        }
        parts.sort_unstable_by_key(|part| part.number);
        Ok(parts)
    };
    read().map_err(|error| upload_error("list parts", error))
}

/// Makes the object of the parts that `wanted` names. Blocks.
pub fn complete(
    store: &DiskStore,
    upload: &UploadId<'_>,
    wanted: &[CompletedPart],
    new: bool,
) -> S3Result<()> {
    let (lock, about) = upload.open(store)?;
    let dir = upload.dir(store)?;
    if lock.try_lock().is_err() {
        return Err(S3Error::with_message(
            S3ErrorCode::OperationAborted,
            "parts of the upload are still being sent",
        ));
    }
    let known = parts(store, upload)?;
    let chosen = choose(&known, wanted)?;
    let draft = match lies_in_order(&dir, &chosen) {
        Some(length) => Draft::borrow(dir.join("body")).and_then(|draft| {
            draft.file.set_len(length)?;
            Ok(draft)
        }),
        None => copy(store, &dir, &chosen),
    };
    let draft = draft.map_err(|error| upload_error("assemble upload", error))?;
    about.attributes.save(&draft.file).map_err(|error| s3_error("keep attributes", error))?;
    store.publish(draft, upload.bucket, upload.key, new)?;
    clear(&dir)
}

/// Forgets an upload. Blocks.
pub fn abort(store: &DiskStore, upload: &UploadId<'_>) -> S3Result<()> {
    upload.open(store)?;
    clear(&upload.dir(store)?)
}

/// Forgets uploads that nobody touched for long. One that cannot be looked at or cleared stays,
/// and another process may clear it first: neither is a reason not to use the store. Blocks.
pub fn clear_abandoned(store: &DiskStore, now: SystemTime) {
    layout::tidy(&store.uploads_dir(), |path| {
        // A part changes its upload's directory; so does its beginning.
        let touched = fs::symlink_metadata(path)?.modified()?;
        Ok(now.duration_since(touched).is_ok_and(|idle| idle > ABANDONED_AFTER))
    });
}

/// An upload as a request names it.
#[derive(Clone, Copy, Debug)]
pub struct UploadId<'a> {
    /// The bucket.
    pub bucket: &'a str,
    /// The key of the object to be.
    pub key: &'a str,
    /// What `create` returned.
    pub id: &'a str,
}

impl UploadId<'_> {
    fn dir(&self, store: &DiskStore) -> S3Result<PathBuf> {
        // Parsed: nothing but an ID becomes part of a path.
        let id = ulid::Ulid::from_string(self.id).map_err(|_not_ours| no_such_upload())?;
        Ok(store.uploads_dir().join(id.to_string()))
    }

    fn open(&self, store: &DiskStore) -> S3Result<(File, Upload)> {
        let path = self.dir(store)?.join("upload.json");
        let file = File::open(&path).map_err(|error| upload_error("open upload", error))?;
        let upload: Option<Upload> =
            read_json(&path).map_err(|error| upload_error("open upload", error))?;
        match upload {
            Some(upload) if upload.bucket == self.bucket && upload.key == self.key => {
                Ok((file, upload))
            }
            Some(_) | None => Err(no_such_upload()),
        }
    }
}

fn no_such_upload() -> S3Error {
    S3Error::new(S3ErrorCode::NoSuchUpload)
}

fn upload_error(action: &'static str, error: io::Error) -> S3Error {
    if durable::is_absent(&error) { no_such_upload() } else { s3_error(action, error) }
}

fn choose<'a>(known: &'a [PartRecord], wanted: &[CompletedPart]) -> S3Result<Vec<&'a PartRecord>> {
    if wanted.is_empty() {
        return Err(S3Error::with_message(S3ErrorCode::MalformedXML, "no part is named"));
    }
    let mut chosen: Vec<&PartRecord> = Vec::with_capacity(wanted.len());
    for part in wanted {
        let number = part.part_number.unwrap_or_default();
        if chosen.last().is_some_and(|last| last.number >= number) {
            return Err(S3Error::new(S3ErrorCode::InvalidPartOrder));
        }
        let record = known
            .binary_search_by_key(&number, |record| record.number)
            .ok()
            .and_then(|at| known.get(at))
            .filter(|record| agrees(record, part))
            .ok_or_else(|| S3Error::new(S3ErrorCode::InvalidPart))?;
        chosen.push(record);
    }
    if chosen.iter().rev().skip(1).any(|part| part.size_bytes < MIN_PART_BYTES) {
        return Err(S3Error::new(S3ErrorCode::EntityTooSmall));
    }
    Ok(chosen)
}

/// The tag that the client saw, and the checksums it kept, are those of what we have.
fn agrees(record: &PartRecord, part: &CompletedPart) -> bool {
    let claimed = [
        &part.checksum_crc32,
        &part.checksum_crc32c,
        &part.checksum_crc64nvme,
        &part.checksum_sha1,
        &part.checksum_sha256,
    ];
    let checksums_agree = claimed
        .iter()
        .zip(&record.checksums)
        .all(|(claimed, have)| claimed.is_none() || have.is_none() || *claimed == have);
    checksums_agree && part.e_tag.as_ref().is_some_and(|tag| tag.value() == record.etag)
}

/// The object's length, if the beginning of `body` is the object.
fn lies_in_order(dir: &std::path::Path, parts: &[&PartRecord]) -> Option<u64> {
    length_in_order(read_part_bytes(dir)?, parts)
}

fn length_in_order(part_bytes: u64, parts: &[&PartRecord]) -> Option<u64> {
    let (last, before) = parts.split_last()?;
    let in_order =
        parts.iter().zip(1..).all(|(part, number)| part.number == number && part.in_body)
            && before.iter().all(|part| part.size_bytes == part_bytes);
    let length = (before.len() as u64).checked_mul(part_bytes)?.checked_add(last.size_bytes)?;
    in_order.then_some(length)
}

fn copy(store: &DiskStore, dir: &std::path::Path, parts: &[&PartRecord]) -> io::Result<Draft> {
    let draft = store.draft()?;
    let mut target = &*draft.file;
    for part in parts {
        let (path, offset) = match part.in_body {
            true => {
                let part_bytes = read_part_bytes(dir).ok_or(io::ErrorKind::NotFound)?;
                (dir.join("body"), part.offset(part_bytes).ok_or(io::ErrorKind::InvalidData)?)
            }
            false => (dir.join(format!("{}.part", part.number)), 0),
        };
        use io::{Read as _, Seek as _};
        let mut source = File::open(path)?;
        source.seek(io::SeekFrom::Start(offset))?;
        // In the kernel, or by reference where the filesystem can.
        let copied = io::copy(&mut source.take(part.size_bytes), &mut target)?;
        if copied != part.size_bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(draft)
}

/// Without its `upload.json` it does not exist; the rest follows.
fn clear(dir: &std::path::Path) -> S3Result<()> {
    let clear = || {
        fs::remove_file(dir.join("upload.json"))?;
        fs::remove_dir_all(dir)
    };
    clear().map_err(|error| upload_error("clear upload", error))
}

/// The size of the part that came first: `length`, if this is it. A symlink is made with its text
/// or not at all, even by two processes at once.
fn claim_part_bytes(dir: &std::path::Path, length: u64) -> io::Result<u64> {
    match std::os::unix::fs::symlink(length.to_string(), dir.join("part-bytes")) {
        Ok(()) => Ok(length),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            read_part_bytes(dir).ok_or_else(|| io::ErrorKind::InvalidData.into())
        }
        Err(error) => Err(error),
    }
}

fn read_part_bytes(dir: &std::path::Path) -> Option<u64> {
    fs::read_link(dir.join("part-bytes")).ok()?.to_str()?.parse().ok()
}

fn write_json(dir: &std::path::Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let draft = dir.join(format!("{name}.new"));
    let file = private::options().create(true).truncate(true).open(&draft)?;
    file.write_all_at(&serde_json::to_vec(value)?, 0)?;
    file.sync_all()?;
    fs::rename(&draft, dir.join(name))?;
    durable::sync_dir(dir)
}

/// None where it is not there.
fn read_json<T: DeserializeOwned>(path: &std::path::Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove_if_there(dir: &std::path::Path, name: &str) -> io::Result<()> {
    match fs::remove_file(dir.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn checksums(sums: &Checksum) -> Vec<Option<String>> {
    vec![
        sums.checksum_crc32.clone(),
        sums.checksum_crc32c.clone(),
        sums.checksum_crc64nvme.clone(),
        sums.checksum_sha1.clone(),
        sums.checksum_sha256.clone(),
    ]
}

/// Base64 is not for entity tags: some clients take only letters, digits and `-`.
fn hexadecimal(base64: &str) -> String {
    let bytes = aws_smithy_types::base64::decode(base64).unwrap_or_default();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing;

    #[test]
    fn decoding_an_upload_and_its_parts_never_panics() {
        let (bucket, key) = ("coldfs".to_owned(), "t/seg/1".to_owned());
        let upload = Upload { bucket, key, attributes: Attributes::default() };
        let part = |number| PartRecord {
            number,
            size_bytes: MIN_PART_BYTES,
            etag: "5242880-0a".to_owned(),
            in_body: true,
            checksums: vec![None, Some("AAAAAA==".to_owned())],
        };
        let first = part(1);
        assert_eq!(length_in_order(MIN_PART_BYTES, &[&first, &part(2)]), Some(2 * MIN_PART_BYTES));
        fuzzing::run(|dice| {
            fuzzing::read_json(dice, &upload);
            let Some(second) = fuzzing::read_json(dice, &part(2)) else { return };
            if let Some(length) = length_in_order(MIN_PART_BYTES, &[&first, &second]) {
                assert!(second.is_of(2) && length - second.size_bytes == MIN_PART_BYTES);
            }
            for part_bytes in [MIN_PART_BYTES, u64::MAX] {
                length_in_order(part_bytes, &[&second, &second]);
                second.offset(part_bytes);
            }
        });
    }
}
