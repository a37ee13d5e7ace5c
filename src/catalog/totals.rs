//! Sums over files: what `du` and `status` say, of a walk and of the catalog alike.

use super::seen::{Kind, Seen, Standing};
use crate::tier::State;
use crate::wire::{Cut, Fields};

/// Files by state and their bytes; each file once, whatever the number of its names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Regular files without a valid remote copy.
    pub resident: u64,
    /// Bytes local and remote.
    pub archived: u64,
    /// Bytes remote only.
    pub released: u64,
    /// Being filled.
    pub recalling: u64,
    /// Bytes proven missing.
    pub lost: u64,
    /// What applications see, of regular files.
    pub logical_bytes: u64,
    /// What the local filesystem holds, of files of every kind.
    pub local_bytes: u64,
    /// What the store holds.
    pub remote_bytes: u64,
}

impl Totals {
    /// Regular files.
    pub fn files(&self) -> u64 {
        self.resident + self.archived + self.released + self.recalling + self.lost
    }

    /// One file more.
    pub fn add(&mut self, seen: &Seen) {
        self.change(seen, u64::wrapping_add);
    }

    /// One file less; it was added before, as it is said to be.
    pub fn subtract(&mut self, seen: &Seen) {
        self.change(seen, u64::wrapping_sub);
    }

    fn change(&mut self, seen: &Seen, by: fn(u64, u64) -> u64) {
        self.local_bytes = by(self.local_bytes, seen.local_bytes);
        if seen.kind != Kind::Regular {
            return;
        }
        self.logical_bytes = by(self.logical_bytes, seen.size_bytes);
        let remote = seen.remote.map_or(0, |(_, bytes)| bytes);
        self.remote_bytes = by(self.remote_bytes, remote);
        let files = match seen.standing {
            Standing::Recorded(State::Archived | State::Suspect | State::Releasing) => {
                &mut self.archived
            }
            Standing::Recorded(State::Released) => &mut self.released,
            Standing::Recorded(State::Recalling) => &mut self.recalling,
            Standing::Recorded(State::Lost) => &mut self.lost,
            Standing::Unmoved
            | Standing::Resident
            | Standing::Orphan
            | Standing::Foreign
            | Standing::Conflict => &mut self.resident,
        };
        *files = by(*files, 1);
    }

    fn words(&mut self) -> [&mut u64; 8] {
        [
            &mut self.resident,
            &mut self.archived,
            &mut self.released,
            &mut self.recalling,
            &mut self.lost,
            &mut self.logical_bytes,
            &mut self.local_bytes,
            &mut self.remote_bytes,
        ]
    }

    pub(super) fn encode(mut self) -> Vec<u8> {
        self.words().into_iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Cut> {
        let mut fields = Fields::new(bytes);
        let mut totals = Self::default();
        for word in totals.words() {
            *word = fields.u64("total")?;
        }
        fields.end()?;
        Ok(totals)
    }
}
