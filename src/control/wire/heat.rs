//! `heat`: how warm the files of a tree are.

use serde::{Deserialize, Serialize};

use super::{FileHeat, WirePath};

/// Asks how warm a tree is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeatRequest {
    /// Where it begins, absolute.
    pub path: WirePath,
    /// Levels of directories below it that are told apart.
    pub depth: u32,
    /// How many of the hottest and of the coldest files are named.
    pub named: u32,
    /// Whether every file is sent too.
    pub files: bool,
}

/// How warm one file is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileWarmth {
    /// The path as the mount shows it.
    pub path: WirePath,
    /// Its size as applications see it.
    pub size_bytes: u64,
    /// The rest, as `state` tells it.
    #[serde(flatten)]
    pub heat: FileHeat,
}

/// Files whose last use lies in the same span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Band {
    /// For how long at most nobody used them, as far as that is proven, seconds; absent in the last
    /// but one, of all that are idle for longer, and in the last, of those of which it is not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub idle_below_seconds: Option<u32>,
    /// How many.
    pub files: u64,
    /// Their sizes as applications see them.
    pub bytes: u64,
}

/// How warm a directory is, with all below it that is not in a directory of its own here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DirectoryHeat {
    /// The path as the mount shows it.
    pub path: WirePath,
    /// Regular files.
    pub files: u64,
    /// Their sizes as applications see them.
    pub bytes: u64,
    /// Their scores together.
    pub score: f64,
    /// By last use, the latest first; the last: not known.
    pub bands: Vec<Band>,
}

/// How warm a tree is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeatReport {
    /// Where it begins.
    pub path: WirePath,
    /// Where heat comes from, as in `status`.
    pub probe: String,
    /// Since when nothing was missed, seconds since the epoch.
    pub watched_since: u32,
    /// All of it.
    pub total: DirectoryHeat,
    /// Its directories, the hottest first.
    pub directories: Vec<DirectoryHeat>,
    /// The files with the highest scores, the hottest first.
    pub hottest: Vec<FileWarmth>,
    /// The files of which it is proven for longest that nobody used them, the coldest first.
    pub coldest: Vec<FileWarmth>,
}
