//! `plan`, `explain` and `policy`: what moves by itself, why, and who says so.

use serde::{Deserialize, Serialize};

use super::WirePath;
pub use crate::tiering::{
    Broken, Explanation, PassSummary, PlanSummary, Planned, Report as TieringReport,
};

/// Asks what would move at or below a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRequest {
    /// Where.
    pub path: WirePath,
}

/// Asks why a file moves, or does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainRequest {
    /// Which.
    pub path: WirePath,
}

/// Why a file moves, or does not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExplainReport {
    /// What is known of it.
    pub file: super::FileReport,
    /// What the policy and the host say; none: it is not judged, and `why_not` says why.
    pub judged: Option<Explanation>,
    /// Why it is not judged.
    pub why_not: Option<String>,
}

/// Asks about the policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRequest {
    /// Whether to read the configuration and the component anew first.
    pub reload: bool,
    /// For whom: a path on its mount. None: for the daemon's only tenant.
    #[serde(default)]
    pub path: Option<WirePath>,
}

/// A setting of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySetting {
    /// Its key in `[policy.settings]`.
    pub key: String,
    /// What it is, as one would write it.
    pub value: String,
    /// What it is where nothing is written.
    pub default: String,
    /// One line on what it means.
    pub doc: String,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyReport {
    /// What it calls itself.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its file; none: it is part of this program.
    pub component: Option<WirePath>,
    /// The component's BLAKE3 hash.
    pub hash: String,
    /// Its settings.
    pub settings: Vec<PolicySetting>,
    /// Names of its rules.
    pub rules: Vec<String>,
    /// What it has to be told besides sizes, times and heat: `path`, `owner`, `pin`.
    pub wants: Vec<String>,
    /// No rule archives what was changed more recently, seconds.
    pub archive_after_seconds: u32,
    /// No rule releases what was used more recently, seconds.
    pub release_after_seconds: u32,
    /// Times that it failed since the mount.
    pub faults: u64,
    /// Whether it failed so often that it is not asked any more.
    pub left_out: bool,
}

impl PolicyReport {
    /// Of a policy that is in force.
    pub fn of(loaded: &crate::policy::Loaded) -> Self {
        use crate::policy::contract::Wants;
        use crate::policy::settings::shown;
        let settings = loaded.description.settings.iter().map(|spec| {
            let given = loaded.settings.iter().find(|setting| setting.key == spec.key);
            PolicySetting {
                key: spec.key.clone(),
                value: shown(given.map_or(&spec.default, |setting| &setting.value)),
                default: shown(&spec.default),
                doc: spec.doc.clone(),
            }
        });
        let rulebook = &loaded.rulebook;
        let wants = [(Wants::PATH, "path"), (Wants::OWNER, "owner"), (Wants::PIN, "pin")];
        let wanted = wants.into_iter().filter(|(flag, _)| rulebook.wants.contains(*flag));
        Self {
            name: loaded.description.name.clone(),
            version: loaded.description.version.clone(),
            component: loaded.component.clone().map(WirePath::from),
            hash: loaded.hash.clone(),
            settings: settings.collect(),
            rules: rulebook.rules.clone(),
            wants: wanted.map(|(_, word)| word.to_owned()).collect(),
            archive_after_seconds: rulebook.archive_after_seconds,
            release_after_seconds: rulebook.release_after_seconds,
            faults: 0,
            left_out: false,
        }
    }
}
