//! `status`: what a daemon serves and how it fares.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::WirePath;

/// One place a daemon serves; the cheap question a command asks to find its daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// The tenant's name.
    pub tenant: String,
    /// The fronted directory, absolute.
    pub data_dir: WirePath,
    /// Where it is mounted, absolute, without symlinks.
    pub mountpoint: WirePath,
}

/// What a daemon serves and how it fares.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Each tenant it serves.
    pub tenants: Vec<TenantStatus>,
    /// Totals since the daemon started.
    pub counters: Counters,
    /// Mounts whose daemons died; only of a command that asks for all mounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dead: Vec<WirePath>,
}

/// One tenant of a daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TenantStatus {
    /// The tenant's name.
    pub name: String,
    /// Whether its mountpoint answers.
    pub mounted: bool,
    /// The fronted directory.
    pub data_dir: WirePath,
    /// Where it is mounted.
    pub mountpoint: WirePath,
    /// The store's URL.
    pub store: String,
    /// Whether another directory, which this is a copy of, owns what is there.
    #[serde(default)]
    pub guest: bool,
    /// How what is put there is proven: `readback` or `checksum`.
    #[serde(default)]
    pub verify: String,
    /// Where heat comes from; `none` where nothing counts accesses.
    pub probe: String,
    /// For what heat vouches.
    #[serde(default)]
    pub heat: HeatStatus,
    /// The policy that judges; `none` where only commands move files.
    pub policy: String,
    /// How files move by themselves.
    #[serde(default)]
    pub tiering: super::TieringReport,
    /// Whether resident files are read at native speed.
    pub passthrough: bool,
    /// Number of files by state.
    pub files: Files,
    /// Bytes of its files.
    pub bytes: Bytes,
    /// How the catalog fares.
    #[serde(default)]
    pub catalog: CatalogStatus,
    /// Files or directories that could not be counted, at most [`super::FAILURES_NAMED`].
    #[serde(default)]
    pub failed: Vec<super::Failure>,
    /// How many of those there were in all.
    #[serde(default)]
    pub failed_total: u64,
    /// What is missing here and what would enable it, a sentence each.
    pub notes: Vec<String>,
}

/// For what a tenant's heat vouches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeatStatus {
    /// Since when nothing was missed, seconds since the epoch: idleness is proven from there on.
    pub since: u64,
    /// Until when what happened has been taken, seconds since the epoch.
    pub until: u64,
    /// How often something was missed.
    pub gaps: u64,
    /// Uses that are known to be lost.
    pub lost: u64,
    /// Drains of the probe, and those that came late.
    pub drains: u64,
    /// Drains that came late.
    pub missed_drains: u64,
    /// Entries taken in drains.
    pub entries: u64,
    /// Time that drains took, microseconds.
    pub drain_us: u64,
    /// Drains at which the probe did not see what the daemon read: somebody detached it.
    #[serde(default)]
    pub blind_drains: u64,
    /// How often it was loaded anew because of that.
    #[serde(default)]
    pub reloads: u64,
}

/// How far the catalog of a tenant is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CatalogState {
    /// There is none: `find`, `du` and `status` walk.
    #[default]
    None,
    /// It is being filled or checked: until then they walk.
    Walking,
    /// They answer from it.
    Complete,
}

impl CatalogState {
    /// The word shown to people and scripts.
    pub fn word(self) -> &'static str {
        match self {
            CatalogState::None => "none",
            CatalogState::Walking => "walking",
            CatalogState::Complete => "complete",
        }
    }
}

/// How the catalog of a tenant fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogStatus {
    /// How far it is.
    pub state: CatalogState,
    /// Regular files in it.
    pub files: u64,
    /// Since when it is in this state, seconds since the epoch.
    pub since: u64,
}

/// Number of files by state; those in between count as where they come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// Bytes local, no remote copy; absent while the first walk has not counted them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub resident: Option<u64>,
    /// Bytes local and remote.
    pub archived: u64,
    /// Bytes remote only.
    pub released: u64,
    /// Being filled.
    pub recalling: u64,
    /// Bytes proven missing.
    pub lost: u64,
}

/// Bytes of a tenant's files or of a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// What applications see.
    pub logical: u64,
    /// What the local filesystem holds.
    pub local: u64,
    /// What the store holds.
    pub remote: u64,
}

/// Totals since a daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Bytes brought back from the store.
    pub recall_bytes_total: u64,
    /// Requests to the store by operation, then by code (`200`, `503`, `timeout`).
    pub s3_requests_total: BTreeMap<String, BTreeMap<String, u64>>,
    /// Answers of the store that asked for less.
    pub s3_throttled_total: u64,
    /// Accesses that heat was told of.
    pub heat_events_total: u64,
    /// Accesses that were lost on the way.
    pub heat_dropped_total: u64,
    /// Policy passes that trapped.
    pub policy_traps_total: u64,
    /// Files archived, released or recalled.
    pub migrate_files_total: u64,
}

impl Counters {
    /// Adds another daemon's totals to these.
    pub fn add(&mut self, other: &Counters) {
        self.recall_bytes_total += other.recall_bytes_total;
        self.s3_throttled_total += other.s3_throttled_total;
        self.heat_events_total += other.heat_events_total;
        self.heat_dropped_total += other.heat_dropped_total;
        self.policy_traps_total += other.policy_traps_total;
        self.migrate_files_total += other.migrate_files_total;
        for (operation, codes) in &other.s3_requests_total {
            let mine = self.s3_requests_total.entry(operation.clone()).or_default();
            for (code, count) in codes {
                *mine.entry(code.clone()).or_default() += count;
            }
        }
    }
}
