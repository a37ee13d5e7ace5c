//! `tenant`: which tenants a daemon has, and which of them are mounted.

use serde::{Deserialize, Serialize};

use super::WirePath;

/// What a tenant of a daemon is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TenantState {
    /// It is being mounted, or waits for its turn.
    Attaching,
    /// Its mount answers.
    Mounted,
    /// Its mount is being taken away, or is gone and files of it are still open.
    Detaching,
    /// Somebody detached it.
    Detached,
    /// It could not be mounted.
    Failed,
    /// The configuration has it in another's way.
    Refused,
}

impl TenantState {
    /// The word shown to people and scripts.
    pub fn word(self) -> &'static str {
        match self {
            TenantState::Attaching => "attaching",
            TenantState::Mounted => "mounted",
            TenantState::Detaching => "detaching",
            TenantState::Detached => "detached",
            TenantState::Failed => "failed",
            TenantState::Refused => "refused",
        }
    }
}

/// A tenant of a daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantEntry {
    /// Its name.
    pub name: String,
    /// What it is at.
    pub state: TenantState,
    /// Since when, seconds since the epoch.
    pub since: u64,
    /// Its directory.
    pub data_dir: WirePath,
    /// Where it is mounted, or is to be.
    pub mountpoint: WirePath,
    /// The configuration that names it; none: it is `coldfs mount` that serves it.
    pub config: Option<WirePath>,
    /// Why it is not mounted.
    pub cause: Option<String>,
    /// What a person can do.
    pub next_step: Option<String>,
    /// Whether the configuration says something else of it by now, which takes a detach and an attach.
    pub changed: bool,
}

/// What is to become of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TenantVerb {
    /// Mount it.
    Attach,
    /// Take its mount away.
    Detach,
}

/// Asks for a tenant to be mounted, or for its mount to be taken away; answered once that is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRequest {
    /// Which.
    pub name: String,
    /// What.
    pub verb: TenantVerb,
}

/// Asks how one tenant fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRequest {
    /// Its mountpoint, or a path below it.
    pub path: WirePath,
}
