//! The one word that commands, attributes and checks have for a file: from its verdict, in one
//! exhaustive match.

use super::State;
use super::verdict::Verdict;

/// Whose the stub at a head is, where one stands that is not the record's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Author {
    /// This tenant's: its MAC fits.
    Ours,
    /// Another tenant's, or a newer coldfs's.
    Stranger,
    /// Nobody's: damaged, forged, or no stub at all.
    Nobody,
}

/// Where a file's bytes are, as its record and, where these do not go together, its head say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Not a regular file: never moves.
    Unmoved,
    /// No record that means anything.
    Resident,
    /// A stub without its record.
    Orphan,
    /// A record, or a stub, that is not ours to judge.
    Foreign,
    /// Bytes that nobody can account for: a person chooses.
    Conflict,
    /// A record of ours.
    Recorded(State),
}

impl Standing {
    /// What a verdict comes to. `state`: the record's, if it is ours; `author`: of the stub.
    pub fn of(verdict: Verdict, state: Option<State>, author: Author) -> Self {
        let recorded = state.map_or(Standing::Resident, Standing::Recorded);
        match verdict {
            // Until its last close, or a hash, a suspect file is that.
            Verdict::ResidentDropRecord if state == Some(State::Suspect) => recorded,
            Verdict::Resident | Verdict::ResidentDropRecord | Verdict::ResidentEmpty => {
                Standing::Resident
            }
            Verdict::OrphanStub | Verdict::OrphanOverRecord => match author {
                Author::Ours => Standing::Orphan,
                Author::Stranger => Standing::Foreign,
                Author::Nobody => Standing::Conflict,
            },
            Verdict::Archived
            | Verdict::ArchivedProven
            | Verdict::NeedsHash { .. }
            | Verdict::FinishRelease
            | Verdict::RewriteStub
            | Verdict::CutBack
            | Verdict::Released
            | Verdict::Lost => recorded,
            Verdict::Conflict { .. } => Standing::Conflict,
            Verdict::ForeignKept { .. } => Standing::Foreign,
        }
    }

    /// The word shown to people and scripts.
    pub fn word(self) -> &'static str {
        match self {
            Standing::Unmoved => "none",
            Standing::Resident => "resident",
            Standing::Orphan => "orphan",
            Standing::Foreign => "foreign",
            Standing::Conflict => "conflict",
            Standing::Recorded(state) => state.word(),
        }
    }
}
