//! What an S3 engine can be relied on for: a property a check, each tried on objects of its own
//! below `.coldfs-doctor/`, all gone afterwards. A check whose ground another found missing is
//! left out, so that one fault has one name.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use super::{Check, Grade};
use crate::file_id::SegmentId;
use crate::store::s3::{PROBE_PREFIX, Page, S3Store};
use crate::store::{Denial, ObjectKey, ObjectStore, StoreError, Verify};

/// Bytes of a small object.
const SMALL_BYTES: usize = 4096;
/// S3's smallest part that is not the last.
const PART_BYTES: usize = 5 << 20;
/// Requests whose median is the latency.
const SAMPLES: usize = 5;
/// A small request that takes longer makes a cold open felt.
const SLOW: Duration = Duration::from_secs(1);
/// S3 refuses requests of clocks that differ by more.
const SKEW_REFUSED: Duration = Duration::from_secs(15 * 60);
/// A clock that is off by so much will be off by more.
const SKEW_SEEN: Duration = Duration::from_secs(60);

/// What another examination put is removed once it is so old.
const LEFT_ALONE: Duration = Duration::from_secs(24 * 3600);

const REACH: &str = "store_reach";
const BUCKET: &str = "store_bucket";
const CLOCK: &str = "store_clock";
const WRITE: &str = "store_write";
const READS: &str = "store_reads_own";
const RANGE: &str = "store_range";
const CHECKSUM: &str = "store_checksum";
const CREATE_ONLY: &str = "store_create_only";
const MULTIPART: &str = "store_multipart";
const LIST: &str = "store_list";
const DELETE: &str = "store_delete";
const LATENCY: &str = "store_latency";
const VERIFY: &str = "store_verify";

/// Where one examination puts its objects.
struct Place {
    dir: String,
}

impl Place {
    fn key(&self, name: &str) -> ObjectKey {
        ObjectKey::new(format!("{}/{name}", self.dir))
    }
}

/// Looks at an engine.
pub async fn examine(store: &S3Store) -> Vec<Check> {
    let mut checks = Vec::new();
    let place = Place { dir: format!("{PROBE_PREFIX}/{}", SegmentId::generate()) };
    let page = match store.page(&place.dir, None, 1).await {
        Ok(page) => page,
        Err(error) => return unreached(&error),
    };
    checks.push(Check::ok(REACH, format!("{} answers", store.url())));
    checks.push(Check::ok(BUCKET, "it is there and can be listed"));
    checks.push(clock(page.date, SystemTime::now()));
    let written = write(store, &place).await;
    let is_writable = written.grade == Grade::Ok;
    checks.push(written);
    if is_writable {
        let reads = reads_own(store, &place).await;
        let reads_own = reads.grade == Grade::Ok;
        checks.push(reads);
        let mut is_honest = false;
        if reads_own {
            let checksum = checksum(store, &place).await;
            is_honest = checksum.grade == Grade::Ok;
            checks.push(checksum);
        }
        checks.push(create_only(store, &place).await);
        if reads_own {
            checks.push(range(store, &place).await);
            checks.push(multipart(store, &place).await);
            checks.push(list(store, &place).await);
            checks.push(latency(store, &place).await);
        }
        sweep(store).await;
        checks.push(delete(store, &place, reads_own).await);
        checks.push(verify(store, is_honest));
    }
    checks
}

fn fail(name: &'static str, error: &StoreError) -> Check {
    Check::new(name, Grade::Fail, error.to_string(), error.next_step())
}

/// The first request's failure, under the name of what it is about.
fn unreached(error: &StoreError) -> Vec<Check> {
    let reached = || Check::ok(REACH, "the endpoint answers");
    let about = |name| vec![reached(), fail(name, error)];
    match error {
        StoreError::Denied { why, .. } => match why {
            Denial::Credentials => vec![fail(REACH, error)],
            Denial::Permission | Denial::Bucket | Denial::Region => about(BUCKET),
            Denial::Clock => about(CLOCK),
            Denial::Request => vec![fail(REACH, error)],
        },
        StoreError::NotFound { .. } => about(BUCKET),
        _ => vec![fail(REACH, error)],
    }
}

/// The engine's clock and ours.
fn clock(theirs: Option<SystemTime>, ours: SystemTime) -> Check {
    let Some(theirs) = theirs else {
        return Check::ok(CLOCK, "the engine does not say what time it has");
    };
    let (skew, word) = match theirs.duration_since(ours) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(error) => (error.duration(), "behind"),
    };
    let what = format!("the engine's clock is {} s {word} this machine's", skew.as_secs());
    if skew < SKEW_SEEN {
        return Check::ok(CLOCK, what);
    }
    let grade = if skew > SKEW_REFUSED { Grade::Fail } else { Grade::Warn };
    Check::new(CLOCK, grade, what, Denial::Clock.next_step())
}

async fn write(store: &S3Store, place: &Place) -> Check {
    match store.put(&place.key("write"), small(1)).await {
        Ok(()) => Check::ok(WRITE, "objects can be put"),
        Err(error) => fail(WRITE, &error),
    }
}

/// GET, HEAD and LIST tell of a put that was answered, and of one over it.
async fn reads_own(store: &S3Store, place: &Place) -> Check {
    let key = place.key("own");
    for body in [small(2), small(3).slice(..SMALL_BYTES - 1)] {
        if let Err(error) = store.put(&key, body.clone()).await {
            return fail(READS, &error);
        }
        let seen = async {
            let got = store.whole(&key, SMALL_BYTES as u64).await?;
            let told = store.size_bytes(&key).await?;
            let listed = store.page(key.as_str(), None, 1).await?;
            Ok::<_, StoreError>((got, told, listed))
        };
        let wrong = match seen.await {
            Err(StoreError::NotFound { .. }) => "what was just put is not there".to_owned(),
            Err(error) => return fail(READS, &error),
            Ok((got, ..)) if got != body => "a GET answers other bytes than were put".to_owned(),
            Ok((_, told, _)) if told != body.len() as u64 => {
                format!("a HEAD tells of {told} bytes where {} were put", body.len())
            }
            Ok((_, _, Page { keys, .. })) if keys != [key.clone()] => {
                "a LIST does not tell of what was just put".to_owned()
            }
            Ok(_) => continue,
        };
        let next = "use an engine, or its settings, with read-after-write consistency";
        return Check::new(READS, Grade::Fail, wrong, next);
    }
    Check::ok(READS, "GET, HEAD and LIST tell of what was put before")
}

async fn checksum(store: &S3Store, place: &Place) -> Check {
    let next = "nothing to do: uploads are read back";
    match store.refuses_wrong_checksum(&place.key("wrong")).await {
        Ok(false) => {
            let what = "a body with a wrong checksum is stored";
            return Check::new(CHECKSUM, Grade::Warn, what, next);
        }
        Ok(true) => {}
        Err(error) => return Check::new(CHECKSUM, Grade::Warn, error.to_string(), next),
    }
    match store.tells_checksum(&place.key("right")).await {
        Ok(true) => Check::ok(CHECKSUM, "a wrong checksum is refused, and the right one told"),
        // Its uploads are read back past the page cache, whatever it could tell.
        Ok(false) if is_disk(store) => Check::ok(CHECKSUM, "a wrong checksum is refused"),
        Ok(false) => {
            let what =
                "a wrong checksum is refused, but no right SHA-256 is told of what is stored";
            Check::new(CHECKSUM, Grade::Warn, what, next)
        }
        Err(error) => Check::new(CHECKSUM, Grade::Warn, error.to_string(), next),
    }
}

async fn create_only(store: &S3Store, place: &Place) -> Check {
    let key = place.key("once");
    if let Err(error) = store.put_new(&key, small(4)).await {
        return fail(CREATE_ONLY, &error);
    }
    match store.put_new(&key, small(5)).await {
        Err(StoreError::AlreadyExists { .. }) => {
            Check::ok(CREATE_ONLY, "If-None-Match keeps an object from being replaced")
        }
        Err(error) => fail(CREATE_ONLY, &error),
        Ok(()) => Check::new(
            CREATE_ONLY,
            Grade::Warn,
            "If-None-Match is ignored: an object can be replaced by another of its name",
            "let nothing but coldfs write below this prefix; its own names are never used twice",
        ),
    }
}

async fn range(store: &S3Store, place: &Place) -> Check {
    let key = place.key("range");
    let body = small(6);
    if let Err(error) = store.put(&key, body.clone()).await {
        return fail(RANGE, &error);
    }
    let length = body.len();
    for range in [0..1, 1..100, 1000..3000, length - 1..length, 0..length] {
        let asked = range.start as u64..range.end as u64;
        match store.get(&key, asked.clone()).await {
            Ok(got) if got == body[range] => {}
            Ok(_) => {
                return Check::new(
                    RANGE,
                    Grade::Fail,
                    format!("a GET of the bytes {asked:?} answers others"),
                    "use another engine, or take away what stands between",
                );
            }
            Err(error) => return fail(RANGE, &error),
        }
    }
    Check::ok(RANGE, "a GET of a range answers exactly that")
}

async fn multipart(store: &S3Store, place: &Place) -> Check {
    let key = place.key("parts");
    let (first, last) = (Bytes::from(vec![7; PART_BYTES]), small(8));
    let stored = async {
        let mut upload = store.upload(&key).await?;
        for part in [first.clone(), last.clone()] {
            if let Err(error) = upload.part(part).await {
                upload.abort().await;
                return Err(error);
            }
        }
        upload.finish().await?;
        let told = store.size_bytes(&key).await?;
        let limit = (PART_BYTES + SMALL_BYTES) as u64;
        Ok((told, store.whole(&key, limit).await?))
    };
    match stored.await {
        Err(error) => fail(MULTIPART, &error),
        Ok((told, got))
            if told == got.len() as u64
                && got.starts_with(&first)
                && got.len() == PART_BYTES + SMALL_BYTES
                && got.ends_with(&last) =>
        {
            Check::ok(MULTIPART, "an object put in parts is their sum")
        }
        Ok((told, got)) => Check::new(
            MULTIPART,
            Grade::Fail,
            format!("an object of two parts reads as {} bytes, or others ({told} told)", got.len()),
            "use another engine: files of more than 64 MiB are put in parts",
        ),
    }
}

/// Names whose order is another by bytes, by letters and by directories.
const LISTED: [&str; 6] = ["list/A", "list/a", "list/a-", "list/a/b", "list/a0", "list/b"];

async fn list(store: &S3Store, place: &Place) -> Check {
    let put: Vec<ObjectKey> = LISTED.iter().map(|name| place.key(name)).collect();
    for key in &put {
        if let Err(error) = store.put(key, small(9)).await {
            return fail(LIST, &error);
        }
    }
    let next = "use another engine, or its settings: nothing is deleted by a listing like this";
    let wrong = |what: String| Check::new(LIST, Grade::Fail, what, next);
    let prefix = format!("{}/list/", place.dir);
    let mut found: Vec<ObjectKey> = Vec::new();
    loop {
        let page = match store.page(&prefix, found.last(), 2).await {
            Ok(page) => page,
            Err(error) => return fail(LIST, &error),
        };
        if page.keys.len() > 2 {
            return wrong(format!("a page of 2 keys has {}", page.keys.len()));
        }
        if !page.keys.is_sorted() {
            return wrong("keys are not listed in the order of their bytes".to_owned());
        }
        if page.keys.is_empty() || !put.contains(&page.keys[0]) {
            break;
        }
        found.extend(page.keys);
        if found.len() > put.len() || (!page.is_truncated && found.len() >= put.len()) {
            break;
        }
    }
    if found == put {
        return Check::ok(LIST, "keys are listed in the order of their bytes, page after page");
    }
    let mut sorted = found.clone();
    sorted.sort();
    sorted.dedup();
    wrong(match () {
        () if sorted.len() < found.len() => "keys are listed twice, page after page".to_owned(),
        () if sorted != put => format!("of {} keys {} are listed", put.len(), sorted.len()),
        () => "keys are not listed in the order of their bytes".to_owned(),
    })
}

async fn latency(store: &S3Store, place: &Place) -> Check {
    let key = place.key("latency");
    let (mut puts, mut gets) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        let begun = Instant::now();
        if let Err(error) = store.put(&key, small(10)).await {
            return fail(LATENCY, &error);
        }
        puts.push(begun.elapsed());
        let begun = Instant::now();
        if let Err(error) = store.whole(&key, SMALL_BYTES as u64).await {
            return fail(LATENCY, &error);
        }
        gets.push(begun.elapsed());
    }
    let (put, get) = (median(puts), median(gets));
    let what = format!(
        "4 KiB: put in {} ms, got in {} ms (median of {SAMPLES})",
        put.as_millis(),
        get.as_millis()
    );
    if put.max(get) <= SLOW {
        return Check::ok(LATENCY, what);
    }
    let next = "use an endpoint that is nearer; a cold open waits for a GET or two";
    Check::new(LATENCY, Grade::Warn, what, next)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Deletes all that was put, and looks whether it is gone.
/// Removes what examinations left that were killed, a day after: none takes so long.
async fn sweep(store: &S3Store) {
    let Ok(left) = store.list(&format!("{PROBE_PREFIX}/"), None).await else { return };
    for object in left {
        let mut parts = object.key.as_str().split('/');
        let made = parts.nth(1).and_then(|dir| dir.parse::<SegmentId>().ok());
        let old = made.and_then(|dir| SystemTime::now().duration_since(dir.made()).ok());
        if old.is_some_and(|age| age > LEFT_ALONE) {
            // The next one comes to what cannot be removed now.
            let _left_again = store.delete(&object.key).await;
        }
    }
}

async fn delete(store: &S3Store, place: &Place, reads_own: bool) -> Check {
    let names = ["write", "own", "wrong", "right", "once", "range", "parts", "latency"];
    for name in names.iter().chain(&LISTED) {
        if let Err(error) = store.delete(&place.key(name)).await {
            let what = format!("{error}; {}/ is left in the store", place.dir);
            return Check::new(DELETE, Grade::Fail, what, error.next_step());
        }
    }
    if !reads_own {
        return Check::ok(DELETE, "deletes are answered");
    }
    let gone = match store.size_bytes(&place.key("write")).await {
        Err(StoreError::NotFound { .. }) => store.page(&place.dir, None, 1).await,
        Err(error) => return fail(DELETE, &error),
        Ok(_) => Ok(Page { keys: vec![place.key("write")], is_truncated: false, date: None }),
    };
    match gone {
        Ok(page) if page.keys.is_empty() => {
            Check::ok(DELETE, "what is deleted is gone; nothing of this is left")
        }
        Ok(_) => Check::new(
            DELETE,
            Grade::Fail,
            format!("what was deleted is still there; {}/ is left in the store", place.dir),
            "look for an object lock or a retention of the bucket, and delete it there",
        ),
        Err(error) => fail(DELETE, &error),
    }
}

/// How a mount with this store proves its uploads.
fn verify(store: &S3Store, is_honest: bool) -> Check {
    let is_disk = is_disk(store);
    let way = if is_honest && !is_disk { Verify::Checksum } else { Verify::Readback };
    let what = match way {
        Verify::Checksum => {
            "checksum: by the one that the engine computes; what is put in parts is read back"
        }
        Verify::Readback if is_disk => "readback: uploads are read back, past the page cache",
        Verify::Readback => "readback: uploads are read back",
    };
    Check::ok(VERIFY, what)
}

fn is_disk(store: &S3Store) -> bool {
    store.url().starts_with("disk:")
}

/// A small object whose bytes say which it is and where they lie.
fn small(seed: u8) -> Bytes {
    (0..=250_u8)
        .cycle()
        .map(|byte| byte.wrapping_mul(3).wrapping_add(seed))
        .take(SMALL_BYTES)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_embedded_store_is_as_it_should_be_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let store = S3Store::embedded(dir.path()).unwrap();
        let checks = examine(&store).await;
        for check in &checks {
            assert_eq!(check.grade, Grade::Ok, "{check:?}");
            assert!(check.next_step.is_empty(), "{check:?}");
        }
        assert_eq!(checks.len(), 13, "{checks:?}");
        assert!(store.list("", None).await.unwrap().is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_a_killed_examination_left_is_removed_a_day_later() {
        let dir = tempfile::tempdir().unwrap();
        let store = S3Store::embedded(dir.path()).unwrap();
        let old = "01JDJDJDJD0000000000000000";
        let keys = [
            ObjectKey::new(format!("{PROBE_PREFIX}/{old}/write")),
            ObjectKey::new(format!("{PROBE_PREFIX}/{}/write", SegmentId::generate())),
            ObjectKey::new(format!("{PROBE_PREFIX}/somebody/else")),
        ];
        for key in &keys {
            store.put(key, Bytes::from_static(b"left")).await.unwrap();
        }
        examine(&store).await;
        let left = store.list("", None).await.unwrap();
        let left: Vec<_> = left.into_iter().map(|object| object.key).collect();
        assert_eq!(left, keys[1..]);
    }

    #[test]
    fn clocks_are_compared_both_ways() {
        let now = SystemTime::now();
        for (off, grade) in [(0, Grade::Ok), (61, Grade::Warn), (1000, Grade::Fail)] {
            let off = Duration::from_secs(off);
            assert_eq!(clock(Some(now + off), now).grade, grade);
            assert_eq!(clock(Some(now - off), now).grade, grade);
        }
        assert_eq!(clock(None, now).grade, Grade::Ok);
    }
}
