//! `top` and `brake`: who brings cold files home.

use serde::{Deserialize, Serialize};

use super::{HeatReport, WirePath};

/// What an application asked of a tenant's cold files since the mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Application {
    /// The name of its processes; empty: all that are not told apart any more.
    pub name: String,
    /// Its user.
    pub user: u32,
    /// The recall class it is in.
    pub class: String,
    /// Opens of cold files that were let through.
    pub files: u64,
    /// Bytes that it asked for.
    pub bytes: u64,
    /// Opens that were refused.
    pub denied: u64,
    /// Opens and reads that wait now.
    pub waiting: u64,
    /// How long it waited for its budget, in all.
    pub waited_ms: u64,
}

/// Who brings cold files home, by bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopReport {
    /// The tenant's name.
    pub tenant: String,
    /// Where it is mounted.
    pub mountpoint: WirePath,
    /// Applications that asked for cold files since the mount.
    pub applications: Vec<Application>,
    /// Whether the recall brake is on.
    pub alarm: Option<Alarm>,
    /// How warm its files are; the command asks for it apart.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub heat: Option<HeatReport>,
}

/// Why and since when the recall brake is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// Cold files that were opened within the window.
    pub files: u64,
    /// Bytes that were asked for within the window.
    pub bytes: u64,
    /// The window, seconds.
    pub window_seconds: u64,
    /// Since when, seconds since 1970.
    pub since: u64,
    /// What is wrong with the note of it that an earlier run left: it counts nothing then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

/// Asks for the recall brake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrakeRequest {
    /// Whether to let it go.
    pub release: bool,
    /// Of whom: a path on its mount. None: of the daemon's only tenant.
    #[serde(default)]
    pub path: Option<WirePath>,
}

/// What the recall brake is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrakeReport {
    /// The tenant's name.
    pub tenant: String,
    /// Where it is mounted.
    pub mountpoint: WirePath,
    /// The alarm, as it was before this request; none: the brake was not on.
    pub alarm: Option<Alarm>,
    /// Whether this request let it go.
    pub released: bool,
}
