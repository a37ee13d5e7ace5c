//! `gc`: which segments in the store nobody names any more.

use serde::{Deserialize, Serialize};

use super::{Failure, WirePath};

/// Asks what a tenant's segments are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcRequest {
    /// A path on its mount. None: of the daemon's only tenant.
    pub path: Option<WirePath>,
    /// How old a segment has to be that nobody names.
    pub grace_seconds: u64,
}

/// What comes of it, bit by bit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GcNews {
    /// How far it is; for display only.
    Progress(GcProgress),
    /// One segment.
    Segment(GcSegment),
}

/// How far the read of the directory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcProgress {
    /// Segments listed so far.
    pub segments: u64,
    /// Files looked at so far.
    pub files: u64,
    /// Directories read so far.
    pub directories: u64,
}

/// What a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GcVerdict {
    /// All of it is named.
    Live,
    /// Some of its entries are named by nobody.
    PartlyDead,
    /// Nobody names it.
    Dead,
    /// Nobody names it, and it is too young to say so.
    Young,
    /// Nobody can say.
    Held,
}

impl GcVerdict {
    /// All of them, as they are summed up.
    pub const ALL: [Self; 5] = [
        GcVerdict::Live,
        GcVerdict::PartlyDead,
        GcVerdict::Dead,
        GcVerdict::Young,
        GcVerdict::Held,
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            GcVerdict::Live => "live",
            GcVerdict::PartlyDead => "partly-dead",
            GcVerdict::Dead => "dead",
            GcVerdict::Young => "young",
            GcVerdict::Held => "held",
        }
    }
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcSegment {
    /// Its key in the store.
    pub key: String,
    /// Its name; none: the key is not one that coldfs gives.
    pub segment: Option<String>,
    /// The object's size.
    pub size_bytes: u64,
    /// Its entries; none: its index was not read.
    pub entries: Option<u32>,
    /// Those of them that are named.
    pub live_entries: Option<u32>,
    /// Their bytes.
    pub live_bytes: Option<u64>,
    /// The bytes of the others: as far as is known, dead.
    pub dead_bytes: Option<u64>,
    /// How long ago it was made; none: nobody can say.
    pub age_seconds: Option<u64>,
    /// What it is.
    pub verdict: GcVerdict,
    /// Why.
    pub why: String,
}

/// Segments of one verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcTotal {
    /// The verdict.
    pub verdict: GcVerdict,
    /// How many.
    pub segments: u64,
    /// Their sizes.
    pub size_bytes: u64,
    /// What of that is named.
    pub live_bytes: u64,
    /// What of that is not, as far as is known.
    pub dead_bytes: u64,
}

/// How it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcReport {
    /// Whether everything could be read that may name a segment.
    pub complete: bool,
    /// By verdict, those that there are.
    pub totals: Vec<GcTotal>,
    /// Segments in all.
    pub segments: u64,
    /// Files looked at; one that was looked at again counts again.
    pub files: u64,
    /// Directories read, likewise.
    pub directories: u64,
    /// Times that the tree was gone over.
    pub passes: u32,
    /// Why nothing may be deleted just now, besides what could not be read; none: nothing says so.
    pub forbidden: Option<String>,
    /// What could not be read, at most [`super::FAILURES_NAMED`].
    pub failed: Vec<Failure>,
    /// How much could not be read in all.
    pub failed_total: u64,
    /// Whether it was cancelled before its end.
    pub cancelled: bool,
}
