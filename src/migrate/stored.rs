//! Putting segments into the store: in one request, or in parts for a file that is larger than
//! what memory should hold.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::archive::{
    EntryPlaceOf, Pending, Taken, failed, give_up, hasher_end, meta_of, push, read_some,
    record_all, refused, take,
};
use super::{Candidate, MigrateError, Migrator, Outcome, Skip, Unproven};
use crate::file_id::SegmentId;
use crate::segment::write::part_bytes_for;
use crate::segment::{
    ContentHasher, EntryMeta, FinishedSegment, SegmentBuilder, VerifiedSegment, segment_key, verify,
};
use crate::store::Upload;
use crate::tenant::{Tenant, Upload as Begun};

/// Stores a segment of small files and proves it.
pub(super) async fn store(
    tenant: &Tenant,
    builder: SegmentBuilder,
) -> Result<VerifiedSegment, Unproven> {
    let finished = builder.finish()?;
    let key = segment_key(&tenant.name, finished.id);
    tenant.store.put_new(&key, finished.bytes.clone()).await?;
    Ok(verify(&*tenant.store, &key, &finished).await?)
}

/// Archives one large file in a segment of its own.
pub(super) async fn large(
    migrator: &Arc<Migrator>,
    candidate: Candidate,
    cancel: &CancellationToken,
) -> (Candidate, Outcome) {
    let taking = Arc::clone(migrator);
    let inode = Arc::clone(&candidate.inode);
    let taken = match tokio::task::spawn_blocking(move || take(&taking, &inode)).await {
        Ok(Ok(taken)) => taken,
        Ok(Err(outcome)) => return (candidate, outcome),
        Err(_panic) => return (candidate, Outcome::Skipped(Skip::Cancelled)),
    };
    let lease = Arc::clone(&taken.lease);
    let sent = tokio::select! {
        sent = send(migrator, &candidate, &taken) => sent,
        () = cancel.cancelled() => Err(Outcome::Skipped(Skip::Cancelled)),
    };
    match sent {
        Ok((segment, upload, place)) => {
            let pending = Pending::alone(candidate.clone(), taken, &place);
            let mut outcomes = record_all(migrator, segment, upload, vec![pending]).await;
            outcomes.pop().unwrap_or((candidate, Outcome::Skipped(Skip::Cancelled)))
        }
        Err(outcome) => {
            give_up(migrator, &candidate.inode, &lease);
            (candidate, outcome)
        }
    }
}

async fn send(
    migrator: &Migrator,
    candidate: &Candidate,
    taken: &Taken,
) -> Result<(VerifiedSegment, Begun, EntryPlaceOf), Outcome> {
    let tenant = &migrator.tenant;
    let begun = tenant.uploads.begin();
    let id = begun.id();
    let key = segment_key(&tenant.name, id);
    let meta = meta_of(candidate, taken)?;
    let mut upload = tenant.store.upload(&key).await.map_err(unproven)?;
    match send_parts(tenant, id, meta, taken, &mut *upload).await {
        Ok((finished, place)) => {
            upload.finish().await.map_err(unproven)?;
            let segment = verify(&*tenant.store, &key, &finished).await.map_err(unproven)?;
            Ok((segment, begun, place))
        }
        Err(outcome) => {
            upload.abort().await;
            Err(outcome)
        }
    }
}

async fn send_parts(
    tenant: &Tenant,
    id: SegmentId,
    meta: EntryMeta,
    taken: &Taken,
    upload: &mut dyn Upload,
) -> Result<(FinishedSegment, EntryPlaceOf), Outcome> {
    let part_bytes = part_bytes_for(meta.size_bytes);
    let mut builder = SegmentBuilder::new(tenant.seal.tenant(), id);
    let mut hasher = ContentHasher::new();
    let mut writer = builder.begin_entry(meta.clone()).map_err(refused)?;
    for extent in &meta.extents {
        let mut at = extent.offset;
        while at < extent.end() {
            let (file, end) = (Arc::clone(&taken.file), extent.end());
            let read = tokio::task::spawn_blocking(move || {
                let mut buffer = vec![0; 1 << 20];
                let count = read_some(&file, &mut buffer, at, end)?;
                buffer.truncate(count);
                Ok::<_, Outcome>(buffer)
            });
            let bytes =
                read.await.map_err(|error| failed("read", std::io::Error::other(error)))??;
            push(&mut writer, &mut hasher, at, &bytes)?;
            at += bytes.len() as u64;
            while let Some(part) = writer.drain_ready(part_bytes) {
                upload.part(part).await.map_err(unproven)?;
            }
            if !taken.lease.is_unbroken() {
                return Err(Outcome::Skipped(Skip::Open));
            }
        }
    }
    let place = writer.finish(hasher_end(hasher, meta.size_bytes)).map_err(refused)?;
    let mut finished = builder.finish().map_err(refused)?;
    let mut tail = std::mem::take(&mut finished.bytes);
    while tail.len() > part_bytes {
        upload.part(tail.split_to(part_bytes)).await.map_err(unproven)?;
    }
    upload.part(tail).await.map_err(unproven)?;
    Ok((finished, EntryPlaceOf(place.at(), place.packed_bytes())))
}

fn unproven(error: impl Into<Unproven>) -> Outcome {
    Outcome::Failed(MigrateError::Unproven(Arc::new(error.into())))
}
