//! Bodies on their way in, with the checksums they came with, and out, exactly as far as asked.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use hyper::HeaderMap;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::{Checksum, StreamingBlob};
use s3s::stream::{ByteStream, RemainingLength};
use s3s::{S3Error, S3ErrorCode, S3Result, TrailingHeaders};

use super::workers::Kept;
use super::{DiskStore, s3_error};

/// A body is handed to a file operation in lots of at least this size, bytes (but for the last):
/// the frames of a socket are small, and each operation costs a change of threads.
const WRITE_BYTES: usize = 1 << 20;
/// A body is read from disk in pieces of at most this size, bytes.
const READ_BYTES: u64 = 1 << 20;

/// What a request says its body is.
#[derive(Debug, Default)]
pub struct Claim {
    /// Its length, where the request says so.
    pub length: Option<u64>,
    content_md5: Option<String>,
    checksum: Checksum,
    algorithm: Option<String>,
    trailers: Option<TrailingHeaders>,
}

impl Claim {
    /// Reads the headers of a request.
    pub fn new(headers: &HeaderMap, trailers: Option<TrailingHeaders>) -> Self {
        let text = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(|text| text.trim().to_owned())
        };
        let trailer = text("x-amz-trailer").and_then(|name| {
            name.to_ascii_lowercase().strip_prefix("x-amz-checksum-").map(str::to_owned)
        });
        Self {
            length: text("x-amz-decoded-content-length")
                .or_else(|| text("content-length"))
                .and_then(|text| text.parse().ok()),
            content_md5: text("content-md5"),
            checksum: checksum_of(headers),
            algorithm: trailer.or_else(|| text("x-amz-sdk-checksum-algorithm")),
            trailers,
        }
    }

    fn hasher(&self) -> ChecksumHasher {
        let named = self.algorithm.as_deref().unwrap_or_default().to_ascii_lowercase();
        let claimed = &self.checksum;
        ChecksumHasher {
            crc32: wanted(claimed.checksum_crc32.is_some() || named == "crc32"),
            crc32c: wanted(claimed.checksum_crc32c.is_some() || named == "crc32c"),
            sha1: wanted(claimed.checksum_sha1.is_some() || named == "sha1"),
            sha256: wanted(claimed.checksum_sha256.is_some() || named == "sha256"),
            // Always: it is nearly free, and makes the entity tags of parts.
            crc64nvme: wanted(true),
        }
    }

    /// Compares all that was claimed, before or after the body, with what arrived.
    fn check(&self, arrived: &Checksum, md5: Option<String>, length: u64) -> S3Result<()> {
        if self.length.is_some_and(|claimed| claimed != length) {
            return Err(S3Error::new(S3ErrorCode::IncompleteBody));
        }
        let after = self.trailers.as_ref().and_then(|trailers| trailers.read(checksum_of));
        let agree = |claimed: &Checksum| {
            let same = |claimed: &Option<String>, arrived: &Option<String>| {
                claimed.is_none() || claimed == arrived
            };
            same(&claimed.checksum_crc32, &arrived.checksum_crc32)
                && same(&claimed.checksum_crc32c, &arrived.checksum_crc32c)
                && same(&claimed.checksum_crc64nvme, &arrived.checksum_crc64nvme)
                && same(&claimed.checksum_sha1, &arrived.checksum_sha1)
                && same(&claimed.checksum_sha256, &arrived.checksum_sha256)
        };
        if self.content_md5.is_some() && self.content_md5 != md5
            || !agree(&self.checksum)
            || after.is_some_and(|after| !agree(&after))
        {
            return Err(S3Error::with_message(
                S3ErrorCode::BadDigest,
                "the body does not match the checksum sent with it",
            ));
        }
        Ok(())
    }
}

fn wanted<T: Default>(wanted: bool) -> Option<T> {
    wanted.then(T::default)
}

fn checksum_of(headers: &HeaderMap) -> Checksum {
    let text = |name: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).map(|text| text.trim().to_owned())
    };
    Checksum {
        checksum_crc32: text("x-amz-checksum-crc32"),
        checksum_crc32c: text("x-amz-checksum-crc32c"),
        checksum_crc64nvme: text("x-amz-checksum-crc64nvme"),
        checksum_sha1: text("x-amz-checksum-sha1"),
        checksum_sha256: text("x-amz-checksum-sha256"),
        checksum_type: None,
    }
}

/// What arrived.
#[derive(Debug)]
pub struct Received {
    /// Its length in bytes.
    pub length: u64,
    /// Its checksums: CRC-64/NVME and whatever was claimed.
    pub checksum: Checksum,
}

struct Sums {
    hasher: ChecksumHasher,
    md5: Option<Md5>,
}

/// Writes a body into `file` from `offset` on and checks what was claimed. Not synced. Where it
/// fails, the file holds rubbish.
pub async fn receive(
    store: &DiskStore,
    body: Option<StreamingBlob>,
    claim: &Claim,
    file: &Arc<File>,
    offset: u64,
) -> S3Result<Received> {
    let md5 = claim.content_md5.is_some().then(Md5::default);
    let mut sums = Sums { hasher: claim.hasher(), md5 };
    let mut length = 0;
    let mut lot: Vec<Bytes> = Vec::new();
    let mut lot_bytes = 0;
    let mut frames = body.map(StreamExt::fuse);
    loop {
        let frame = match &mut frames {
            Some(frames) => frames.next().await.transpose().map_err(broken_body)?,
            None => None,
        };
        let end = frame.is_none();
        if let Some(frame) = frame {
            lot_bytes += frame.len();
            lot.push(frame);
        }
        if lot_bytes >= WRITE_BYTES || (end && lot_bytes > 0) {
            let (lot, file, at) = (std::mem::take(&mut lot), Arc::clone(file), offset + length);
            sums = store.blocking(move |_| write_lot(&file, at, &lot, sums)).await?;
            length += lot_bytes as u64;
            lot_bytes = 0;
            if claim.length.is_some_and(|claimed| length > claimed) {
                return Err(S3Error::new(S3ErrorCode::IncompleteBody));
            }
        }
        if end {
            break;
        }
    }
    let checksum = sums.hasher.finalize();
    let md5 = sums.md5.map(|md5| aws_smithy_types::base64::encode(md5.finalize()));
    claim.check(&checksum, md5, length)?;
    Ok(Received { length, checksum })
}

fn write_lot(file: &File, mut at: u64, lot: &[Bytes], mut sums: Sums) -> S3Result<Sums> {
    for frame in lot {
        sums.hasher.update(frame);
        if let Some(md5) = &mut sums.md5 {
            md5.update(frame);
        }
        file.write_all_at(frame, at).map_err(|error| s3_error("write object", error))?;
        at += frame.len() as u64;
    }
    Ok(sums)
}

/// The client went away, or its signature of a chunk is wrong.
fn broken_body(error: Box<dyn std::error::Error + Send + Sync>) -> S3Error {
    let mut answer = S3Error::with_message(S3ErrorCode::IncompleteBody, error.to_string());
    answer.set_source(error);
    answer
}

/// A body that reads `range` of `file`, a piece at a time, as it is asked for.
pub fn send(store: &DiskStore, file: Kept<File>, range: Range<u64>) -> StreamingBlob {
    let remaining = range.end - range.start;
    let start = (store.clone(), Arc::new(file), range);
    let pieces = futures::stream::try_unfold(start, |(store, file, range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let end = range.end.min(range.start + READ_BYTES);
        let (piece, source) = (range.start..end, Arc::clone(&file));
        let bytes = store.blocking(move |_| read_piece(&source, piece)).await?;
        Ok::<_, S3Error>(Some((bytes, (store, file, end..range.end))))
    });
    StreamingBlob::new(Outgoing { pieces: Box::pin(pieces), remaining })
}

fn read_piece(file: &File, piece: Range<u64>) -> S3Result<Bytes> {
    let length = usize::try_from(piece.end - piece.start).map_err(S3Error::internal_error)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, piece.start).map_err(|error| s3_error("read object", error))?;
    Ok(bytes.into())
}

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, S3Error>> + Send + Sync>>;

struct Outgoing {
    pieces: Pieces,
    remaining: u64,
}

impl Stream for Outgoing {
    type Item = Result<Bytes, Box<dyn std::error::Error + Send + Sync>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = std::task::ready!(self.pieces.as_mut().poll_next(context));
        if let Some(Ok(piece)) = &next {
            self.remaining -= piece.len() as u64;
        }
        Poll::Ready(next.map(|piece| piece.map_err(Into::into)))
    }
}

impl ByteStream for Outgoing {
    fn remaining_length(&self) -> RemainingLength {
        match usize::try_from(self.remaining) {
            Ok(length) => RemainingLength::new_exact(length),
            Err(_) => RemainingLength::unknown(),
        }
    }
}
