//! What the liar is told to do to which requests.

use std::ops::Range;
use std::time::Duration;

use hyper::Method;
use hyper::header::HeaderMap;
use hyper::http::request::Parts;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Put,
    Get,
    Head,
    List,
    Delete,
    CreateUpload,
    Part,
    Complete,
    Abort,
    HeadBucket,
    Other,
}

/// What is done to a request or its answer.
#[derive(Clone, Debug)]
pub enum Lie {
    /// A body is stored whatever its checksum.
    TakesAnyChecksum,
    /// HEAD tells another checksum than the body's.
    TellsWrongChecksum,
    /// An object is replaced though only a new one was to be made.
    IgnoresIfNoneMatch,
    /// Answers as if the last change had not been made.
    Stale,
    /// The whole body, whatever range was asked for.
    IgnoresRange,
    /// The bytes one further on, said to be those that were asked for.
    ShiftsRange,
    /// So many bytes, said to be all.
    Truncates(usize),
    /// A bit in the middle of what is stored is another.
    FlipsStored,
    /// 200, with an error for a body.
    ErrorIn200(&'static str),
    /// Half of the body, then the line is reset.
    Half,
    /// The line is reset before any answer.
    Resets,
    /// Another object's answer.
    Swaps(String),
    /// This answer, and nothing is done.
    Answers(Answer),
    /// 200, and nothing is done.
    Pretends,
    /// A listing is told backwards.
    Backwards,
    /// Keys with this in them are left out of a listing.
    Drops(&'static str),
    /// A listing begins at its beginning, whatever it was to begin after.
    IgnoresStartAfter,
    /// Its clock is off by so many seconds.
    Clock(i64),
    /// It takes so long.
    Delays(Duration),
    /// The body, its own or the client's, moves so many bytes at a time, and so long apart.
    Drips(usize, Duration),
}

/// An error that an engine answers with.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub code: &'static str,
    pub headers: Vec<(&'static str, &'static str)>,
}

impl Lie {
    /// An error's answer.
    pub fn answers(status: u16, code: &'static str) -> Self {
        Lie::Answers(Answer { status, code, headers: Vec::new() })
    }

    /// An error's answer with a header.
    pub fn answers_with(
        status: u16,
        code: &'static str,
        header: (&'static str, &'static str),
    ) -> Self {
        Lie::Answers(Answer { status, code, headers: vec![header] })
    }
}

/// When.
#[derive(Clone, Debug)]
pub struct Rule {
    lie: Lie,
    ops: Vec<Op>,
    prefix: String,
    part: String,
    access_key: Option<String>,
    region: Option<String>,
    skip: u32,
    times: u32,
    during: Range<Duration>,
}

impl Rule {
    /// Always.
    pub fn new(lie: Lie) -> Self {
        Self {
            lie,
            ops: Vec::new(),
            prefix: String::new(),
            part: String::new(),
            access_key: None,
            region: None,
            skip: 0,
            times: u32::MAX,
            during: Duration::ZERO..Duration::MAX,
        }
    }

    /// Only this operation; said again, that one too.
    pub fn on(mut self, op: Op) -> Self {
        self.ops.push(op);
        self
    }

    /// Only keys that begin so.
    pub fn below(self, prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..self }
    }

    /// Only keys with this in them.
    pub fn with(self, part: impl Into<String>) -> Self {
        Self { part: part.into(), ..self }
    }

    /// Only requests signed with this key.
    pub fn signed_by(self, access_key: impl Into<String>) -> Self {
        Self { access_key: Some(access_key.into()), ..self }
    }

    /// Only requests signed for this region.
    pub fn signed_for(self, region: impl Into<String>) -> Self {
        Self { region: Some(region.into()), ..self }
    }

    /// Not the first so many of them.
    pub fn skipping(self, skip: u32) -> Self {
        Self { skip, ..self }
    }

    /// Only so many after those.
    pub fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }

    /// Only so long after the server's start.
    pub fn during(self, during: Range<Duration>) -> Self {
        Self { during, ..self }
    }

    pub(super) fn fits(&self, asked: &Asked, age: Duration) -> bool {
        (self.ops.is_empty() || self.ops.contains(&asked.op))
            && self.times > 0
            && asked.key.starts_with(&self.prefix)
            && asked.key.contains(&self.part)
            && self.access_key.as_ref().is_none_or(|key| *key == asked.access_key)
            && self.region.as_ref().is_none_or(|region| *region == asked.region)
            && self.during.contains(&age)
    }

    pub(super) fn lie(&self) -> &Lie {
        &self.lie
    }

    /// Counts a request that fits; what is done to it.
    pub(super) fn next(&mut self) -> Option<Lie> {
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.times = if self.times == u32::MAX { u32::MAX } else { self.times - 1 };
        Some(self.lie.clone())
    }
}

/// A request, as far as rules look at it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub op: Op,
    /// Below the bucket; of a listing, its prefix.
    pub key: String,
    pub access_key: String,
    /// What the request was signed for.
    pub region: String,
    pub headers: HeaderMap,
}

impl Asked {
    pub(super) fn of(parts: &Parts) -> Self {
        let query = parts.uri.query().unwrap_or_default();
        let value = |name: &str| {
            query.split('&').find_map(|pair| {
                let (found, value) = pair.split_once('=').unwrap_or((pair, ""));
                (found == name).then(|| plain(value))
            })
        };
        let path = plain(parts.uri.path());
        let path = path.trim_start_matches('/');
        let (_, key) = path.split_once('/').unwrap_or((path, ""));
        let is_upload = value("uploadId").is_some();
        let op = match (&parts.method, key.is_empty()) {
            (&Method::HEAD, true) => Op::HeadBucket,
            (&Method::GET, true) if value("list-type").is_some() => Op::List,
            (_, true) => Op::Other,
            (&Method::PUT, _) if is_upload => Op::Part,
            (&Method::PUT, _) => Op::Put,
            (&Method::HEAD, _) => Op::Head,
            (&Method::GET, _) => Op::Get,
            (&Method::DELETE, _) if is_upload => Op::Abort,
            (&Method::DELETE, _) => Op::Delete,
            (&Method::POST, _) if is_upload => Op::Complete,
            (&Method::POST, _) => Op::CreateUpload,
            _ => Op::Other,
        };
        let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let signed = text("authorization").unwrap_or_default();
        // KEY/DATE/REGION/s3/aws4_request
        let mut scope = signed.split_once("Credential=").map_or("", |(_, rest)| rest).split('/');
        let access_key = scope.next().unwrap_or_default().to_owned();
        let region = scope.nth(1).unwrap_or_default().to_owned();
        Self {
            op,
            key: if op == Op::List { value("prefix").unwrap_or_default() } else { key.to_owned() },
            access_key,
            region,
            headers: parts.headers.clone(),
        }
    }
}

/// Percent signs undone.
fn plain(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        bytes.push(u8::from_str_radix(digits, 16).unwrap_or(b'?'));
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
