//! Asking the store again, until it answers, is proven not to have it, or time is up.

use std::future::Future;
use std::time::Duration;

use super::RecallError;
use super::error::Next;
use crate::file_id::EntryRef;
use crate::segment::{EntryPlace, Index, ReadError, fetch_chunks, read_index, segment_key};
use crate::tenant::Tenant;

/// First pause before a failed request is made again; it doubles up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// How often a request whose answer would mean a loss is made again before that is believed:
/// once the line or the engine may have erred, not three times in the same way.
const DOUBTS: u32 = 2;
/// Chunks of one request of a proof, 1 MiB each at most.
const CHUNKS_AT_ONCE: u32 = 8;

/// What is said where not even one attempt ended.
pub(super) const UNANSWERED: &str = "the store does not answer";

/// Makes a request until it succeeds or fails for good; at most for `deadline`.
pub(super) async fn insist<T, F>(
    at: EntryRef,
    deadline: Duration,
    mut attempt: impl FnMut() -> F,
) -> Result<T, RecallError>
where
    F: Future<Output = Result<T, ReadError>>,
{
    let ends = tokio::time::Instant::now() + deadline;
    let mut last = UNANSWERED.to_owned();
    let mut pause = FIRST_PAUSE;
    let mut doubts = DOUBTS;
    loop {
        match tokio::time::timeout_at(ends, attempt()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => match Next::after(at, error) {
                Next::Retry(what) => last = what,
                Next::Fail(error) if error.is_loss() && doubts > 0 => {
                    doubts -= 1;
                    last = error.to_string();
                }
                Next::Fail(error) => return Err(error),
            },
            Err(_elapsed) => return Err(RecallError::Deadline { at, deadline, last }),
        }
        if tokio::time::Instant::now() + pause >= ends {
            return Err(RecallError::Deadline { at, deadline, last });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Reads an entry's bytes and proves them, and keeps none: whether a file that was lost is there
/// again. `deadline` is that of each request.
pub async fn prove_remote(
    tenant: &Tenant,
    place: &EntryPlace,
    deadline: Duration,
) -> Result<(), RecallError> {
    let (at, key) = (place.at(), segment_key(&tenant.name, place.at().segment));
    let mut first = 0;
    while first < place.chunk_count() {
        let run = first..place.chunk_count().min(first.saturating_add(CHUNKS_AT_ONCE));
        first = run.end;
        let ask = || fetch_chunks(&*tenant.store, &key, place, run.clone());
        insist(at, deadline, ask).await?;
    }
    Ok(())
}

/// The index of the segment that a record or stub of this tenant names.
pub async fn remote_index(
    tenant: &Tenant,
    at: EntryRef,
    deadline: Duration,
) -> Result<Index, RecallError> {
    if deadline.is_zero() {
        let last = "it did not answer before".to_owned();
        return Err(RecallError::Deadline { at, deadline, last });
    }
    let key = segment_key(&tenant.name, at.segment);
    let uuid = tenant.seal.tenant();
    let ask = || read_index(&*tenant.store, &key, uuid, at.segment);
    insist(at, deadline, ask).await
}
