//! An S3 engine that lies and fails as it is told to, the same way each time: a real service
//! over a disk store, and between it and the client somebody who changes requests and answers.
//!
//! ```text
//! liar.script(Rule::new(Lie::Truncates(9)).on(Op::Get).below("t/seg/").skipping(2).times(1))
//! ```
//! cuts the third answer to a GET below `t/seg/`. The first rule that fits a request decides; each
//! rule counts the requests that reach it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use aws_smithy_types::base64;
use bytes::{Bytes, BytesMut};
use coldfs::store::disk::DiskStore;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt};
use s3s::service::{S3Service, S3ServiceBuilder};
use sha2::Digest;

use super::mount::Start;

#[path = "liar/script.rs"]
mod script;
use script::Answer;
pub use script::{Asked, Lie, Op, Rule};

/// The bucket that is there.
pub const BUCKET: &str = "coldfs";
/// The keys that are good, unless a rule says otherwise.
pub const ACCESS_KEY: &str = "test";

/// The server. It ends with its test.
pub struct Liar {
    port: u16,
    shared: Arc<Shared>,
    _runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
}

struct Shared {
    engine: S3Service,
    started: Instant,
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<Asked>>,
    /// What each object was before its last change.
    before: Mutex<HashMap<String, Option<Bytes>>>,
}

type Body = BoxBody<Bytes, std::io::Error>;

impl Liar {
    /// An honest one, until a rule says otherwise.
    pub fn start() -> Self {
        let dir = super::site::scratch();
        let disk = DiskStore::open(&dir.path().join("store")).unwrap();
        disk.create_bucket_if_missing(BUCKET).unwrap();
        let shared = Arc::new(Shared {
            engine: S3ServiceBuilder::new(disk).build(),
            started: Instant::now(),
            rules: Mutex::default(),
            seen: Mutex::default(),
            before: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let theirs = Arc::clone(&shared);
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, line) =
                    (Arc::clone(&theirs), Arc::new(stream.as_fd().try_clone_to_owned().unwrap()));
                let service = hyper::service::service_fn(move |request| {
                    answer(Arc::clone(&shared), Arc::clone(&line), request)
                });
                let mut builder = hyper::server::conn::http1::Builder::new();
                let connection = builder.auto_date_header(true);
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { port, shared, _runtime: runtime, _dir: dir }
    }

    /// Adds a rule.
    pub fn script(&self, rule: Rule) {
        self.shared.rules.lock().unwrap().push(rule);
    }

    /// From now on it is honest.
    pub fn heal(&self) {
        self.shared.rules.lock().unwrap().clear();
    }

    /// The requests since this was asked last.
    pub fn take_seen(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.seen())
    }

    fn seen(&self) -> MutexGuard<'_, Vec<Asked>> {
        self.shared.seen.lock().unwrap()
    }

    /// Its age, by which [`Rule::during`] goes.
    pub fn age(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// Stores an object behind everybody's back.
    pub fn store(&self, key: &str, body: impl Into<Bytes>) {
        let request = Request::put(format!("/{BUCKET}/{key}")).body(body.into()).unwrap();
        let (status, _, body) = self._runtime.block_on(forward(&self.shared, request));
        assert!(status.is_success(), "{status} {body:?}");
    }

    /// Every key that is stored.
    pub fn keys(&self) -> Vec<String> {
        let uri = format!("/{BUCKET}?list-type=2");
        let request = Request::get(uri).body(Bytes::new()).unwrap();
        let (_, _, body) = self._runtime.block_on(forward(&self.shared, request));
        let text = String::from_utf8(body.to_vec()).unwrap();
        text.split("<Key>").skip(1).map(|rest| rest.split('<').next().unwrap().into()).collect()
    }

    /// Its URL for `AWS_ENDPOINT_URL`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The store in it.
    pub fn store_url(&self) -> String {
        format!("s3://{BUCKET}/prefix")
    }

    /// What a client needs in its environment.
    pub fn env(&self) -> Vec<(String, String)> {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        vec![
            pair("AWS_ENDPOINT_URL", &self.endpoint()),
            pair("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            pair("AWS_SECRET_ACCESS_KEY", "testtest"),
            pair("AWS_REGION", "us-east-1"),
            pair("AWS_EC2_METADATA_DISABLED", "true"),
        ]
    }

    /// How to mount with it.
    pub fn mount_options(&self) -> Start {
        Start { store: Some(self.store_url()), env: self.env(), ..Start::default() }
    }
}

impl Shared {
    fn next(&self, asked: &Asked) -> Option<Lie> {
        let mut rules = self.rules.lock().unwrap();
        let age = self.started.elapsed();
        rules.iter_mut().find(|rule| rule.fits(asked, age))?.next()
    }

    /// Whether anybody will ask what was before.
    fn is_stale(&self) -> bool {
        self.rules.lock().unwrap().iter().any(|rule| matches!(rule.lie(), Lie::Stale))
    }
}

/// Asks the engine.
async fn forward(shared: &Shared, request: Request<Bytes>) -> (StatusCode, HeaderMap, Bytes) {
    let (mut parts, body) = request.into_parts();
    // Who asks is looked at here; the engine is told of nobody.
    parts.headers.remove("authorization");
    parts.headers.remove("x-amz-security-token");
    let answer = shared.engine.call(Request::from_parts(parts, s3s::Body::from(body))).await;
    let (parts, body) = answer.unwrap().into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    (parts.status, parts.headers, body)
}

/// The stored bytes of a key.
async fn stored(shared: &Shared, key: &str) -> Option<Bytes> {
    let request = Request::get(format!("/{BUCKET}/{key}")).body(Bytes::new()).unwrap();
    let (status, _, body) = forward(shared, request).await;
    status.is_success().then_some(body)
}

async fn answer(
    shared: Arc<Shared>,
    line: Arc<OwnedFd>,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::io::Error> {
    let (mut parts, body) = request.into_parts();
    let asked = Asked::of(&parts);
    shared.seen.lock().unwrap().push(asked.clone());
    let lie = shared.next(&asked);
    let taken = match lie {
        Some(Lie::Drips(bytes, apart)) => sip(body, bytes, apart).await,
        _ => body.collect().await.ok().map(|body| body.to_bytes()),
    };
    let Some(mut body) = taken else { return Err(std::io::Error::other("gone")) };
    if matches!(asked.op, Op::Put | Op::Delete | Op::Complete) && shared.is_stale() {
        let before = stored(&shared, &asked.key).await;
        shared.before.lock().unwrap().insert(asked.key.clone(), before);
    }

    // What becomes of the request.
    match &lie {
        Some(Lie::TakesAnyChecksum) => drop_checksums(&mut parts.headers),
        Some(Lie::IgnoresIfNoneMatch) => drop(parts.headers.remove("if-none-match")),
        Some(Lie::IgnoresRange) => drop(parts.headers.remove("range")),
        Some(Lie::ShiftsRange) => shift_range(&mut parts.headers),
        Some(Lie::FlipsStored) => {
            drop_checksums(&mut parts.headers);
            let mut flipped = body.to_vec();
            let middle = flipped.len() / 2;
            flipped[middle] ^= 1;
            body = flipped.into();
        }
        Some(Lie::Swaps(other)) => {
            parts.uri = format!("/{BUCKET}/{other}").parse().unwrap();
        }
        Some(Lie::IgnoresStartAfter) => {
            let query = parts.uri.query().unwrap_or_default().to_owned();
            let kept: Vec<&str> =
                query.split('&').filter(|pair| !pair.starts_with("start-after=")).collect();
            parts.uri = format!("{}?{}", parts.uri.path(), kept.join("&")).parse().unwrap();
        }
        Some(Lie::Answers(answer)) => return Ok(error(answer, asked.op)),
        Some(Lie::Pretends) => return Ok(Response::new(full(Bytes::new()))),
        Some(Lie::Delays(delay)) => tokio::time::sleep(*delay).await,
        Some(Lie::Resets) => {
            reset_at_close(&line);
            return Err(std::io::Error::other("reset"));
        }
        _ => {}
    }
    let asked_range = asked.headers.get("range").cloned();
    let (mut status, mut headers, mut body) =
        forward(&shared, Request::from_parts(parts, body)).await;
    if asked.op == Op::Head && status.is_success() && asked.headers.contains_key(CHECKSUM_MODE) {
        let of = stored(&shared, &asked.key).await.unwrap_or_default();
        let sum = base64::encode(sha2::Sha256::digest(&of));
        headers.insert("x-amz-checksum-sha256", sum.parse().unwrap());
        headers.insert("x-amz-checksum-type", HeaderValue::from_static("FULL_OBJECT"));
    }

    // What becomes of the answer.
    match lie {
        Some(Lie::TellsWrongChecksum) => {
            let sum = base64::encode(sha2::Sha256::digest(b"another"));
            headers.insert("x-amz-checksum-sha256", sum.parse().unwrap());
        }
        Some(Lie::ShiftsRange) => {
            if let (Some(range), Some(told)) = (asked_range, headers.get("content-range").cloned())
            {
                let total = told.to_str().unwrap().split('/').nth(1).unwrap().to_owned();
                let range = range.to_str().unwrap().replace('=', " ");
                headers.insert("content-range", format!("{range}/{total}").parse().unwrap());
            }
        }
        Some(Lie::Stale) => return Ok(stale(&shared, &asked, status, headers, body)),
        Some(Lie::Truncates(length)) => body = body.slice(..length.min(body.len())),
        Some(Lie::ErrorIn200(code)) => {
            status = StatusCode::OK;
            headers = HeaderMap::new();
            body = error_text(code).into();
        }
        Some(Lie::Half) => return Ok(half(&line, status, headers, body)),
        Some(Lie::Drips(bytes, apart)) => return Ok(drip(bytes, apart, status, headers, body)),
        Some(Lie::Backwards) => body = edit_listing(&body, |found| found.reverse()),
        Some(Lie::Drops(part)) => {
            body = edit_listing(&body, |found| found.retain(|entry| !entry.contains(part)));
        }
        Some(Lie::Clock(seconds)) => {
            headers.insert("date", http_date(seconds).parse().unwrap());
        }
        _ => {}
    }
    Ok(respond(asked.op, status, headers, body))
}

const CHECKSUM_MODE: &str = "x-amz-checksum-mode";

fn full(body: Bytes) -> Body {
    Full::new(body).map_err(|never: Infallible| match never {}).boxed()
}

fn respond(op: Op, status: StatusCode, mut headers: HeaderMap, body: Bytes) -> Response<Body> {
    headers.remove("transfer-encoding");
    if !matches!(op, Op::Head | Op::HeadBucket) {
        headers.insert("content-length", body.len().into());
    }
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn error_text(code: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
         <Message>scripted</Message></Error>"
    )
}

fn error(answer: &Answer, op: Op) -> Response<Body> {
    let mut headers = HeaderMap::new();
    for (name, value) in &answer.headers {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers.insert("content-type", HeaderValue::from_static("application/xml"));
    let has_body = !matches!(op, Op::Head | Op::HeadBucket);
    let body = if has_body { error_text(answer.code) } else { String::new() };
    respond(op, StatusCode::from_u16(answer.status).unwrap(), headers, body.into())
}

/// A client's body, as slowly as it is wanted; none where the client gave up.
async fn sip(mut body: Incoming, bytes: usize, apart: Duration) -> Option<Bytes> {
    let mut taken = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let data = frame.ok()?.into_data().unwrap_or_default();
        let times = u32::try_from(data.len().div_ceil(bytes)).unwrap();
        tokio::time::sleep(apart * times).await;
        taken.extend_from_slice(&data);
    }
    Some(taken.freeze())
}

/// A body piece by piece.
fn drip(
    bytes: usize,
    apart: Duration,
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let length = body.len();
    let pieces = futures::stream::unfold(body, move |mut left| async move {
        if left.is_empty() {
            return None;
        }
        tokio::time::sleep(apart).await;
        let piece = left.split_to(bytes.min(left.len()));
        Some((Ok(Frame::data(piece)), left))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(pieces)));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response.headers_mut().insert("content-length", length.into());
    response
}

/// Half of a body, then the line is reset.
fn half(line: &OwnedFd, status: StatusCode, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let length = body.len();
    let line = line.try_clone().unwrap();
    let first = body.slice(..length / 2);
    let frames = futures::stream::once(async move { Ok(Frame::data(first)) });
    let end = futures::stream::once(async move {
        // What was sent is to arrive first.
        tokio::time::sleep(Duration::from_millis(50)).await;
        reset_at_close(&line);
        Err(std::io::Error::other("reset"))
    });
    let frames = futures::StreamExt::chain(frames, end);
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response.headers_mut().insert("content-length", length.into());
    response
}

fn reset_at_close(line: &OwnedFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(line, sockopt::Linger, &linger).unwrap();
    // The duplicate that is kept for this holds the line open: it is shut down by hand.
    nix::sys::socket::shutdown(
        std::os::fd::AsRawFd::as_raw_fd(line),
        nix::sys::socket::Shutdown::Both,
    )
    .ok();
}

fn drop_checksums(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            name.as_str().starts_with("x-amz-checksum-") || name.as_str() == "content-md5"
        })
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

fn shift_range(headers: &mut HeaderMap) {
    let Some(range) = headers.get("range").and_then(|range| range.to_str().ok()) else { return };
    let (first, last) = range.trim_start_matches("bytes=").split_once('-').unwrap();
    let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
    let shifted = format!("bytes={}-{}", first + 1, last + 1);
    headers.insert("range", shifted.parse().unwrap());
}

/// As it was before the last change.
fn stale(
    shared: &Shared,
    asked: &Asked,
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let before = shared.before.lock().unwrap();
    if asked.op == Op::List {
        let is_new = |entry: &String| {
            before
                .iter()
                .any(|(key, was)| was.is_none() && entry.contains(&format!("<Key>{key}</Key>")))
        };
        let body = edit_listing(&body, |found| found.retain(|entry| !is_new(entry)));
        return respond(asked.op, status, headers, body);
    }
    match before.get(&asked.key) {
        None => respond(asked.op, status, headers, body),
        Some(None) => {
            let code = "NoSuchKey";
            error(&Answer { status: 404, code, headers: Vec::new() }, asked.op)
        }
        Some(Some(was)) => {
            let mut old = HeaderMap::new();
            old.insert("content-length", was.len().into());
            let body = if asked.op == Op::Get { was.clone() } else { Bytes::new() };
            respond(asked.op, StatusCode::OK, old, body)
        }
    }
}

/// Changes the entries of a listing, which is XML without whitespace between.
fn edit_listing(body: &Bytes, edit: impl FnOnce(&mut Vec<String>)) -> Bytes {
    const END: &str = "</Contents>";
    let text = String::from_utf8(body.to_vec()).unwrap();
    let Some(begin) = text.find("<Contents>") else { return body.clone() };
    let end = text.rfind(END).unwrap() + END.len();
    let mut entries: Vec<String> =
        text[begin..end].split_inclusive(END).map(str::to_owned).collect();
    edit(&mut entries);
    format!("{}{}{}", &text[..begin], entries.concat(), &text[end..]).into()
}

/// Now, off by so many seconds, as HTTP writes it.
fn http_date(off: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    let at = aws_smithy_types::DateTime::from_secs(now + off);
    at.fmt(aws_smithy_types::date_time::Format::HttpDate).unwrap()
}
