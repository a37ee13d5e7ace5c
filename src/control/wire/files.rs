//! `state`, `find` and `du`: what is known of files.

use serde::{Deserialize, Serialize};

use super::{Bytes, Files, WirePath};
use crate::tier::State;
use crate::tier::standing::Standing;

/// Asks for the state of some files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRequest {
    /// Absolute paths, as the mount shows them.
    pub paths: Vec<WirePath>,
}

/// A file's state: a record's, or that of a file without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// Not a regular file: never moves.
    None,
    /// Bytes local, no valid remote copy.
    Resident,
    /// Bytes local, and a verified remote copy of exactly this version.
    Archived,
    /// Archived, and open for writing since.
    Suspect,
    /// About to become a stub.
    Releasing,
    /// Stub; the bytes are remote only.
    Released,
    /// Stub being filled.
    Recalling,
    /// The bytes are proven missing.
    Lost,
    /// A stub without its record (copied or restored here): `coldfs fsck --adopt`.
    Orphan,
    /// A record that is not ours to judge: of a newer version or another tenant.
    Foreign,
    /// Bytes that nobody can account for: `coldfs fsck --keep`.
    Conflict,
}

impl From<Standing> for FileState {
    fn from(standing: Standing) -> Self {
        let state = match standing {
            Standing::Unmoved => return FileState::None,
            Standing::Resident => return FileState::Resident,
            Standing::Orphan => return FileState::Orphan,
            Standing::Foreign => return FileState::Foreign,
            Standing::Conflict => return FileState::Conflict,
            Standing::Recorded(state) => state,
        };
        match state {
            State::Archived => FileState::Archived,
            State::Suspect => FileState::Suspect,
            State::Releasing => FileState::Releasing,
            State::Released => FileState::Released,
            State::Recalling => FileState::Recalling,
            State::Lost => FileState::Lost,
        }
    }
}

impl FileState {
    /// Every state, in the order in which a file meets them.
    pub const ALL: [FileState; 11] = [
        FileState::None,
        FileState::Resident,
        FileState::Archived,
        FileState::Suspect,
        FileState::Releasing,
        FileState::Released,
        FileState::Recalling,
        FileState::Lost,
        FileState::Orphan,
        FileState::Foreign,
        FileState::Conflict,
    ];

    /// The word shown to people and scripts.
    pub fn word(self) -> &'static str {
        match self {
            FileState::None => Standing::Unmoved.word(),
            FileState::Resident => Standing::Resident.word(),
            FileState::Archived => State::Archived.word(),
            FileState::Suspect => State::Suspect.word(),
            FileState::Releasing => State::Releasing.word(),
            FileState::Released => State::Released.word(),
            FileState::Recalling => State::Recalling.word(),
            FileState::Lost => State::Lost.word(),
            FileState::Orphan => Standing::Orphan.word(),
            FileState::Foreign => Standing::Foreign.word(),
            FileState::Conflict => Standing::Conflict.word(),
        }
    }

    /// The state with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

/// The flags word of Lustre's `lfs hsm_state`, because scripts know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HsmFlags(pub u32);

impl HsmFlags {
    const EXISTS: u32 = 0x1;
    const DIRTY: u32 = 0x2;
    const RELEASED: u32 = 0x4;
    const ARCHIVED: u32 = 0x8;
    const NEVER_RELEASE: u32 = 0x10;
    const LOST: u32 = 0x40;

    const WORDS: [(u32, &'static str); 6] = [
        (Self::RELEASED, "released"),
        (Self::EXISTS, "exists"),
        (Self::DIRTY, "dirty"),
        (Self::ARCHIVED, "archived"),
        (Self::NEVER_RELEASE, "never_release"),
        (Self::LOST, "lost_from_hsm"),
    ];

    /// The flags of a file in this state.
    pub fn of(state: FileState, pinned: bool) -> Self {
        let flags = match state {
            FileState::None | FileState::Resident | FileState::Foreign => 0,
            FileState::Archived | FileState::Releasing => Self::EXISTS | Self::ARCHIVED,
            FileState::Suspect | FileState::Conflict => Self::EXISTS | Self::ARCHIVED | Self::DIRTY,
            FileState::Released | FileState::Recalling => {
                Self::EXISTS | Self::ARCHIVED | Self::RELEASED
            }
            FileState::Lost => Self::EXISTS | Self::ARCHIVED | Self::RELEASED | Self::LOST,
            FileState::Orphan => Self::RELEASED,
        };
        Self(if pinned { flags | Self::NEVER_RELEASE } else { flags })
    }

    /// The words, in the order in which `lfs` prints them.
    pub fn words(self) -> Vec<&'static str> {
        Self::WORDS.iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, word)| *word).collect()
    }
}

/// Where a file's remote bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// The segment's name.
    pub segment: String,
    /// The entry's number in it.
    pub entry: u32,
    /// Offset of the entry's first chunk in the segment, where known without a request.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub offset: Option<u64>,
    /// Bytes of the entry in the segment, where known without a request.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub length: Option<u64>,
}

/// How warm a file is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileHeat {
    /// Uses, each counting half after a half-life.
    pub score: f32,
    /// Uses since it is known.
    pub accesses: u32,
    /// The last use, seconds since the epoch; absent: none since it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_access: Option<u32>,
    /// What told of it: `probe`, `write`, `open`, `held`; or `none`.
    pub evidence: String,
    /// Since when it is known, seconds since the epoch.
    pub known_since: u32,
    /// Since when nothing was missed, seconds since the epoch.
    pub watched_since: u32,
    /// For how long it is proven that nobody used it; absent: that is not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub idle_seconds: Option<u32>,
}

/// What is known of one file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileReport {
    /// The path that was asked for.
    pub path: WirePath,
    /// Its state.
    pub state: FileState,
    /// The same as `lfs hsm_state`'s flags word.
    pub flags: HsmFlags,
    /// Its inode number.
    pub ino: u64,
    /// Its size as applications see it.
    pub size_bytes: u64,
    /// What it takes on the local filesystem.
    pub local_bytes: u64,
    /// Last modification, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Where its remote bytes are, if it has any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub remote: Option<Remote>,
    /// Whether a person said that its bytes stay here.
    pub pinned: bool,
    /// How many handles are open on it through the mount.
    pub open_count: u64,
    /// How warm it is; `state` alone tells.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub heat: Option<FileHeat>,
    /// What is wrong with it, a sentence each with its next step: conflicts, errors.
    pub notes: Vec<String>,
}

/// Which files `find` means. All conditions hold together; see [`crate::control::filter`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindRequest {
    /// Where to begin, absolute.
    pub root: WirePath,
    /// Any of these states; empty is any state of a regular file.
    pub states: Vec<FileState>,
    /// Larger than this many bytes.
    pub larger_bytes: Option<u64>,
    /// Last modified longer ago than this.
    pub older_seconds: Option<u64>,
    /// The last component matches this shell pattern.
    pub name: Option<String>,
    /// Ask the filesystem itself, not the catalog.
    #[serde(default)]
    pub walk: bool,
}

/// Who answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The filesystem, by a walk.
    #[default]
    Walk,
    /// The catalog.
    Catalog,
}

/// How a `find` ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindSummary {
    /// Files looked at.
    pub examined: u64,
    /// Files that matched.
    pub matched: u64,
    /// Who answered.
    #[serde(default)]
    pub source: Source,
    /// Files or directories that could not be looked at, at most [`super::FAILURES_NAMED`].
    pub failed: Vec<super::Failure>,
    /// How many of those there were in all.
    pub failed_total: u64,
}

/// Asks how much a directory or file takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DuRequest {
    /// Absolute path.
    pub path: WirePath,
    /// Ask the filesystem itself, not the catalog.
    #[serde(default)]
    pub walk: bool,
}

/// How much a directory or file takes, where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DuReport {
    /// The path asked for.
    pub path: WirePath,
    /// Bytes seen, here and in the store.
    pub bytes: Bytes,
    /// Regular files by state.
    pub files: Files,
    /// Who counted.
    #[serde(default)]
    pub source: Source,
    /// Files or directories that could not be looked at, at most [`super::FAILURES_NAMED`].
    #[serde(default)]
    pub failed: Vec<super::Failure>,
    /// How many of those there were in all; they are not in the sums.
    #[serde(default)]
    pub failed_total: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_read_as_lustre_prints_them() {
        let flags = HsmFlags::of(FileState::Released, false);
        assert_eq!(flags.0, 0xd);
        assert_eq!(flags.words().join(" "), "released exists archived");
        assert_eq!(HsmFlags::of(FileState::Suspect, true).0, 0x1b);
    }

    #[test]
    fn every_word_names_its_state() {
        for state in FileState::ALL {
            assert_eq!(FileState::from_word(state.word()), Some(state));
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("{:?}", state.word()));
        }
    }
}
