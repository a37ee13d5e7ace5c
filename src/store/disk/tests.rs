//! The service as an S3 client meets it, where an [`super::super::ObjectStore`] would not go.

use std::fs;
use std::path::Path;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{BehaviorVersion, Region, RequestChecksumCalculation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, Delete, ObjectIdentifier,
};
use s3s::service::S3ServiceBuilder;

use super::*;

const MIB: usize = 1 << 20;

fn client(disk: DiskStore) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .endpoint_url("http://embedded.invalid")
        .force_path_style(true)
        .allow_no_auth()
        .retry_config(RetryConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .http_client(s3s_aws::Client::from(S3ServiceBuilder::new(disk).build()));
    Client::from_conf(config.build())
}

fn open(dir: &Path) -> Client {
    let disk = DiskStore::open(dir).unwrap();
    disk.create_bucket_if_missing("bucket").unwrap();
    client(disk)
}

fn code<T: std::fmt::Debug, E, R>(outcome: Result<T, SdkError<E, R>>) -> String
where
    E: ProvideErrorMetadata + std::fmt::Debug,
    R: std::fmt::Debug,
{
    let error = outcome.unwrap_err();
    error.code().unwrap_or("none").to_owned()
}

/// Files below `dir`, but for the store's own two and the locks.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path.file_name().unwrap().to_str().unwrap().to_owned()),
        }
    }
    found.retain(|name| ![layout::MARKER, ".lock", "alive"].contains(&name.as_str()));
    found
}

/// Waits until nothing but `expected` is below `dir`: a worker removes a draft, and a request
/// that was refused or given up does not wait for it.
async fn settles_to(dir: &Path, expected: &[&str]) {
    for _ in 0..1000 {
        if files(dir) == expected {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(files(dir), expected);
}

#[tokio::test]
async fn a_body_that_does_not_match_its_checksum_is_never_seen() {
    let dir = tempfile::tempdir().unwrap();
    let client = open(dir.path());
    let put = || {
        let body = ByteStream::from_static(b"abc");
        client.put_object().bucket("bucket").key("k").body(body)
    };
    assert_eq!(code(put().checksum_crc32("AAAAAA==").send().await), "BadDigest");
    assert_eq!(code(put().checksum_crc64_nvme("AAAAAAAAAAA=").send().await), "BadDigest");
    assert_eq!(code(put().content_md5("1B2M2Y8AsgTpgAmY7PhCfg==").send().await), "BadDigest");
    settles_to(dir.path(), &[]).await;

    put().content_md5("kAFQmDzST7DWlj99KOF/cg==").send().await.unwrap();
    for algorithm in [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32C,
        ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
    ] {
        put().checksum_algorithm(algorithm).send().await.unwrap();
    }
    settles_to(dir.path(), &["k.obj"]).await;
}

/// Everything below `dir` that is not as closed as a store is.
fn open_to_others(dir: &Path) -> Vec<(std::path::PathBuf, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let expected = if metadata.is_dir() { 0o700 } else { 0o600 };
        if !metadata.is_symlink() && metadata.mode() & 0o7777 != expected {
            found.push((path.clone(), metadata.mode()));
        }
        if metadata.is_dir() {
            found.extend(open_to_others(&path));
        }
    }
    found
}

#[tokio::test]
async fn nobody_else_reads_a_store_whatever_the_umask() {
    // This thread's alone, and that of threads that it starts.
    crate::sys::unshare_thread_fs().unwrap();
    crate::sys::set_umask(0);
    let above = tempfile::tempdir().unwrap();
    let root = above.path().join("new/store");
    let client = open(&root);
    let put = client.put_object().bucket("bucket").key("t1/owner");
    put.body(ByteStream::from_static(b"a key")).send().await.unwrap();
    let copy = client.copy_object().bucket("bucket").key("t1/copy");
    copy.copy_source("bucket/t1/owner").send().await.unwrap();
    let mut parts = Parts::begin(&client).await;
    parts.send(1, vec![0; 5 * MIB]).await;
    parts.send(2, vec![1; 6 * MIB]).await;
    assert_eq!(open_to_others(above.path()), []);
    parts.complete().await.unwrap();
    assert_eq!(open_to_others(above.path()), []);

    // A root that was made open, and holds a store already.
    drop(client);
    let open_mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&root, open_mode).unwrap();
    drop(DiskStore::open(&root).unwrap());
    assert_eq!(open_to_others(above.path()), []);
}

#[tokio::test]
async fn what_was_put_is_read_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let on = nix::sys::statfs::statfs(dir.path()).unwrap().filesystem_type();
    if on == nix::sys::statfs::TMPFS_MAGIC {
        eprintln!("skipped: a tmpfs has no disk below its pages");
        return;
    }
    let client = open(dir.path());
    let put = client.put_object().bucket("bucket").key("k");
    put.body(ByteStream::from(vec![7; 8 * MIB])).send().await.unwrap();
    let file = File::open(dir.path().join("bucket/k.obj")).unwrap();
    let cached = crate::sys::pages::cached(&file).unwrap();
    assert!(matches!(cached, None | Some(0)), "{cached:?} pages in memory");
}

#[tokio::test]
async fn a_refused_put_leaves_the_old_version() {
    let dir = tempfile::tempdir().unwrap();
    let client = open(dir.path());
    let put =
        |body| client.put_object().bucket("bucket").key("k").body(ByteStream::from_static(body));
    put(b"old").send().await.unwrap();
    assert_eq!(code(put(b"new").if_none_match("*").send().await), "PreconditionFailed");
    assert_eq!(code(put(b"new").checksum_crc32("AAAAAA==").send().await), "BadDigest");
    assert_eq!(code(put(b"new").if_match("\"x\"").send().await), "NotImplemented");
    let got = client.get_object().bucket("bucket").key("k").send().await.unwrap();
    assert_eq!(got.body.collect().await.unwrap().into_bytes(), "old");
}

#[tokio::test]
async fn what_a_killed_process_left_is_not_an_object_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    // As a kill leaves it between writing and naming: a draft whose process holds no lock.
    let dead = dir.path().join(".tmp/01JDEAD");
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join("alive"), "").unwrap();
    fs::write(dead.join("0"), "half an object").unwrap();
    // And between naming and removing the draft: two names of one file.
    fs::write(dead.join("1"), "whole").unwrap();
    fs::hard_link(dead.join("1"), dir.path().join("bucket/whole.obj")).unwrap();

    let client = open(dir.path());
    let listed = client.list_objects_v2().bucket("bucket").send().await.unwrap();
    let keys: Vec<_> = listed.contents().iter().filter_map(|object| object.key()).collect();
    assert_eq!(keys, ["whole"]);
    assert_eq!(files(dir.path()), ["whole.obj"]);
}

#[test]
fn a_store_opens_whatever_the_dead_left_in_it() {
    let dir = tempfile::tempdir().unwrap();
    drop(DiskStore::open(dir.path()).unwrap());
    let long_ago = SystemTime::now() - std::time::Duration::from_secs(30 * 24 * 3600);
    for within in [".uploads", ".tmp"] {
        let at = |name: &str| dir.path().join(within).join(name);
        // It vanishes between the listing and the look at it, as far as a look can tell.
        std::os::unix::fs::symlink("nowhere", at("gone")).unwrap();
        // It is no directory, so it cannot be cleared as one.
        fs::write(at("file"), "x").unwrap();
        File::options().write(true).open(at("file")).unwrap().set_modified(long_ago).unwrap();
    }
    let abandoned = dir.path().join(".uploads/old");
    fs::create_dir(&abandoned).unwrap();
    File::open(&abandoned).unwrap().set_modified(long_ago).unwrap();
    drop(DiskStore::open(dir.path()).unwrap());
    assert!(!abandoned.exists());
}

#[tokio::test]
async fn a_put_that_is_given_up_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let client = open(dir.path());
    let put = client.put_object().bucket("bucket").key("k");
    let put = put.body(ByteStream::from(vec![7; 32 * MIB])).send();
    let limit = std::time::Duration::from_millis(3);
    let given_up = tokio::time::timeout(limit, put).await.is_err();
    drop(client);
    if given_up {
        settles_to(dir.path(), &[]).await;
    }
}

#[tokio::test]
async fn an_object_is_seen_only_once_its_name_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let client = open(dir.path());
    let bucket = dir.path().canonicalize().unwrap().join("bucket");
    let put = || {
        let put = client.put_object().bucket("bucket").key("a/k").if_none_match("*");
        put.body(ByteStream::from_static(b"x")).send()
    };
    let mut parts = Parts::begin(&client).await;
    parts.send(1, vec![1; 9]).await;
    let get = |key| client.get_object().bucket("bucket").key(key).send();
    let head = |key| client.head_object().bucket("bucket").key(key).send();
    durable::broken::break_dir(&bucket);
    for _ in 0..2 {
        assert_eq!(code(put().await), "InternalError");
        assert!(parts.complete().await.is_err());
        assert_eq!(code(get("a/k").await), "InternalError");
        assert!(head("a/k").await.is_err() && head("k").await.is_err());
    }
    durable::broken::mend_dir(&bucket);
    assert_eq!(code(put().await), "PreconditionFailed");
    assert!(get("a/k").await.is_ok() && head("a/k").await.is_ok() && head("k").await.is_ok());

    // A bucket likewise: what is put into it is as lost as it is.
    durable::broken::break_dir(bucket.parent().unwrap());
    client.create_bucket().bucket("other").send().await.unwrap_err();
    let put = || {
        let put = client.put_object().bucket("other").key("k");
        put.body(ByteStream::from_static(b"x")).send()
    };
    assert_eq!(code(put().await), "InternalError");
    durable::broken::mend_dir(bucket.parent().unwrap());
    put().await.unwrap();

    // Whoever ends in doubt says so to the next.
    let workshops = || fs::read_dir(dir.path().join(".tmp")).unwrap().count();
    drop(client);
    assert_eq!(workshops(), 1);
    drop(open(dir.path()));
    assert_eq!(workshops(), 0);
}

#[tokio::test]
async fn an_object_on_a_disk_that_hangs_stops_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let client = open(dir.path());
    // Opening a pipe that nobody writes to waits, as a file of a server that is away.
    let hung = dir.path().join("bucket/hung.obj");
    nix::unistd::mkfifo(&hung, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let get = |key: &'static str| client.get_object().bucket("bucket").key(key).send();
    let soon = std::time::Duration::from_millis(50);
    for _ in 0..workers::MAX_THREADS {
        assert!(tokio::time::timeout(soon, get("hung")).await.is_err());
    }
    assert!(tokio::time::timeout(soon, get("none")).await.is_err(), "it waits for its turn");
    let other = tokio::task::spawn_blocking(|| 7);
    assert_eq!(other.await.unwrap(), 7);
    // The server is back: whoever was given up ends, and the turns go round again. A pipe that
    // is open for both is open for either.
    let _back = File::options().read(true).write(true).open(&hung).unwrap();
    assert_eq!(code(get("none").await), "NoSuchKey");
}

#[tokio::test]
async fn longest_keys_and_metadata_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let client = open(dir.path());
    for key in ["k".repeat(1024), "k/".repeat(512), "\u{e9}".repeat(512)] {
        let put =
            client.put_object().bucket("bucket").key(&key).body(ByteStream::from_static(b"x"));
        put.content_type("text/plain").metadata("mtime", "12.5").send().await.unwrap();
        let head = client.head_object().bucket("bucket").key(&key).send().await.unwrap();
        assert_eq!(head.content_type(), Some("text/plain"));
        assert_eq!(head.metadata().unwrap()["mtime"], "12.5");
        let listed = client.list_objects_v2().bucket("bucket").prefix(&key).send().await.unwrap();
        assert_eq!(listed.contents()[0].key(), Some(key.as_str()));
        client.delete_object().bucket("bucket").key(&key).send().await.unwrap();
    }
    let too_long = client.put_object().bucket("bucket").key("k".repeat(1025));
    assert!(too_long.body(ByteStream::from_static(b"x")).send().await.is_err());
}

#[tokio::test]
async fn a_missing_bucket_is_not_a_missing_object() {
    let dir = tempfile::tempdir().unwrap();
    let client = open(dir.path());
    let get = client.get_object().bucket("nowhere").key("k").send().await;
    assert_eq!(code(get), "NoSuchBucket");
    let put = client.put_object().bucket("nowhere").key("k/l").body(ByteStream::from_static(b"x"));
    assert_eq!(code(put.send().await), "NoSuchBucket");
    assert_eq!(code(client.list_objects_v2().bucket("nowhere").send().await), "NoSuchBucket");
    assert_eq!(
        code(client.delete_object().bucket("nowhere").key("k").send().await),
        "NoSuchBucket"
    );
    assert_eq!(
        code(client.create_multipart_upload().bucket("nowhere").key("k").send().await),
        "NoSuchBucket"
    );
    assert!(!dir.path().join("nowhere").exists());
}

#[tokio::test]
async fn buckets_copies_and_bulk_deletes() {
    let dir = tempfile::tempdir().unwrap();
    let client = open(dir.path());
    client.create_bucket().bucket("other").send().await.unwrap();
    assert_eq!(
        code(client.create_bucket().bucket("other").send().await),
        "BucketAlreadyOwnedByYou"
    );
    let put = client.put_object().bucket("bucket").key("a b").metadata("m", "1");
    put.body(ByteStream::from_static(b"x")).send().await.unwrap();
    let copy = client.copy_object().bucket("other").key("c").copy_source("bucket/a%20b");
    copy.send().await.unwrap();
    let head = client.head_object().bucket("other").key("c").send().await.unwrap();
    assert_eq!(head.metadata().unwrap()["m"], "1");
    assert_eq!(code(client.delete_bucket().bucket("other").send().await), "BucketNotEmpty");
    let objects =
        ["c", "not there"].map(|key| ObjectIdentifier::builder().key(key).build().unwrap());
    let delete = Delete::builder().set_objects(Some(objects.to_vec())).build().unwrap();
    let deleted = client.delete_objects().bucket("other").delete(delete).send().await.unwrap();
    assert_eq!(deleted.deleted().len(), 2);
    client.delete_bucket().bucket("other").send().await.unwrap();
    let buckets = client.list_buckets().send().await.unwrap();
    let names: Vec<_> = buckets.buckets().iter().filter_map(|bucket| bucket.name()).collect();
    assert_eq!(names, ["bucket"]);
}

struct Parts<'a> {
    client: &'a Client,
    id: String,
    done: Vec<CompletedPart>,
}

impl<'a> Parts<'a> {
    async fn begin(client: &'a Client) -> Self {
        let begin =
            client.create_multipart_upload().bucket("bucket").key("k").send().await.unwrap();
        Self { client, id: begin.upload_id().unwrap().to_owned(), done: Vec::new() }
    }

    async fn send(&mut self, number: i32, body: Vec<u8>) {
        let part = self.client.upload_part().bucket("bucket").key("k").upload_id(&self.id);
        let part = part.part_number(number).body(ByteStream::from(body)).send().await.unwrap();
        let done = CompletedPart::builder().part_number(number).set_e_tag(part.e_tag);
        self.done.push(done.build());
    }

    async fn complete(&self) -> Result<(), String> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(self.done.clone())).build();
        let complete = self.client.complete_multipart_upload().bucket("bucket").key("k");
        let outcome = complete.upload_id(&self.id).multipart_upload(parts).send().await;
        match outcome {
            Ok(_) => Ok(()),
            Err(_) => Err(code(outcome)),
        }
    }
}

#[tokio::test]
async fn parts_in_any_order_and_numbering_make_the_object() {
    let dir = tempfile::tempdir().unwrap();
    let client = open(dir.path());
    for numbers in [[3, 1, 2], [9, 2, 5]] {
        let mut parts = Parts::begin(&client).await;
        parts.send(numbers[0], vec![3; 9]).await;
        parts.send(numbers[1], vec![0; 5 * MIB]).await;
        parts.send(numbers[1], vec![1; 5 * MIB]).await;
        parts.done.remove(1);
        parts.send(numbers[2], vec![2; 5 * MIB]).await;
        assert_eq!(parts.complete().await, Err("InvalidPartOrder".to_owned()));
        parts.done.sort_by_key(|part| part.part_number);
        parts.complete().await.unwrap();
        let got = client.get_object().bucket("bucket").key("k").send().await.unwrap();
        let expected = [vec![1; 5 * MIB], vec![2; 5 * MIB], vec![3; 9]].concat();
        assert!(got.body.collect().await.unwrap().into_bytes() == expected);
        assert_eq!(parts.complete().await, Err("NoSuchUpload".to_owned()));
        settles_to(dir.path(), &["k.obj"]).await;
    }
}

#[tokio::test]
async fn an_upload_outlives_a_restart_and_a_refused_end() {
    let dir = tempfile::tempdir().unwrap();
    let before = open(dir.path());
    let mut parts = Parts::begin(&before).await;
    parts.send(1, vec![1; 5 * MIB]).await;
    let (id, done) = (parts.id.clone(), parts.done.clone());
    drop(before);

    let after = open(dir.path());
    let mut parts = Parts { client: &after, id, done };
    parts.send(2, vec![2; 9]).await;
    let mut wrong = Parts { client: &after, id: parts.id.clone(), done: parts.done.clone() };
    wrong.done[0] = CompletedPart::builder().part_number(1).e_tag("\"wrong\"").build();
    assert_eq!(wrong.complete().await, Err("InvalidPart".to_owned()));
    wrong.done.clear();
    assert_eq!(wrong.complete().await, Err("MalformedXML".to_owned()));
    let listed = after.list_parts().bucket("bucket").key("k").upload_id(&parts.id).send().await;
    assert_eq!(listed.unwrap().parts().len(), 2);
    parts.complete().await.unwrap();
    let head = after.head_object().bucket("bucket").key("k").send().await.unwrap();
    assert_eq!(head.content_length(), Some((5 * MIB + 9).try_into().unwrap()));
}

#[tokio::test]
async fn small_parts_wrong_checksums_and_strangers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let client = open(dir.path());
    let mut parts = Parts::begin(&client).await;
    parts.send(1, vec![1; 9]).await;
    parts.send(2, vec![2; 9]).await;
    assert_eq!(parts.complete().await, Err("EntityTooSmall".to_owned()));
    let part = |id: &str, key: &str| {
        let part = client.upload_part().bucket("bucket").key(key).upload_id(id).part_number(1);
        part.body(ByteStream::from_static(b"abc"))
    };
    let damaged = part(&parts.id, "k").checksum_crc32("AAAAAA==").send().await;
    assert_eq!(code(damaged), "BadDigest");
    assert_eq!(parts.complete().await, Err("InvalidPart".to_owned()), "part 1 was overwritten");
    assert_eq!(code(part(&parts.id, "other").send().await), "NoSuchUpload");
    assert_eq!(code(part("../../etc", "k").send().await), "NoSuchUpload");
}

#[test]
fn a_failing_filesystem_is_named_for_what_to_do() {
    use nix::libc;
    let table = [
        (libc::ENOSPC, "StorageFull", Some(507)),
        (libc::EDQUOT, "StorageFull", Some(507)),
        (libc::EROFS, "AccessDenied", Some(403)),
        (libc::EACCES, "AccessDenied", Some(403)),
        (libc::EPERM, "AccessDenied", Some(403)),
        (libc::ENAMETOOLONG, "KeyTooLongError", Some(400)),
        (libc::EMFILE, "SlowDown", Some(503)),
        (libc::EIO, "InternalError", Some(500)),
    ];
    for (errno, code, status) in table {
        let error = s3_error("write", io::Error::from_raw_os_error(errno));
        assert_eq!(error.code().as_str(), code, "{errno}");
        assert_eq!(error.status_code().map(|status| status.as_u16()), status, "{errno}");
    }
}
