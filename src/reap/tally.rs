//! What was named of the segments that are being judged.

use std::collections::HashMap;

use crate::file_id::{EntryRef, SegmentId};

/// Entries of a segment that are told apart: as many as a segment of small files has. One beyond
/// makes the whole segment count as named.
pub const ENTRIES: u32 = 4_096;
const BITS: u32 = u64::BITS;

/// What names an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A record or a stub.
    File,
    /// A note of a conflict, or a body set aside.
    Note,
}

/// What is named of one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refs {
    /// A bit an entry, as far as any is named: up to 512 bytes.
    entries: Vec<u64>,
    beyond: bool,
    by_file: bool,
    by_note: bool,
}

/// What is named of all of them. What is named of others is nobody's question here.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    segments: HashMap<SegmentId, Refs>,
}

impl Tally {
    /// Nothing was named of these yet.
    pub fn of(segments: impl IntoIterator<Item = SegmentId>) -> Self {
        let segments = segments.into_iter().map(|id| (id, Refs::default()));
        Self { segments: segments.collect() }
    }

    /// Somebody names this entry.
    pub fn add(&mut self, at: EntryRef, by: By) {
        let Some(refs) = self.segments.get_mut(&at.segment) else { return };
        match by {
            By::File => refs.by_file = true,
            By::Note => refs.by_note = true,
        }
        if at.entry >= ENTRIES {
            refs.beyond = true;
            return;
        }
        let (word, bit) = ((at.entry / BITS) as usize, at.entry % BITS);
        if refs.entries.len() <= word {
            refs.entries.resize(word + 1, 0);
        }
        refs.entries[word] |= 1 << bit;
    }

    /// What is named of a segment.
    pub fn refs(&self, id: SegmentId) -> Refs {
        self.segments.get(&id).cloned().unwrap_or_default()
    }
}

impl Refs {
    /// Whether anything is.
    pub fn is_named(&self) -> bool {
        self.by_file || self.by_note
    }

    /// Whether only notes name it: it holds no file's bytes, but what a person may look for.
    pub fn is_named_by_notes_alone(&self) -> bool {
        self.by_note && !self.by_file
    }

    /// Whether this entry is, of a segment that has so many.
    pub fn has(&self, entry: u32, entries: u32) -> bool {
        self.has_beyond(entries) || self.bit(entry)
    }

    /// Whether something is named that the segment does not have, or that is not told apart: it
    /// counts as a name of all of it.
    fn has_beyond(&self, entries: u32) -> bool {
        let behind = (self.entries.len() as u64) * u64::from(BITS);
        let behind = u32::try_from(behind).unwrap_or(u32::MAX);
        self.beyond || (entries..behind).any(|entry| self.bit(entry))
    }

    fn bit(&self, entry: u32) -> bool {
        let word = self.entries.get((entry / BITS) as usize);
        word.is_some_and(|word| word >> (entry % BITS) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SegmentId = SegmentId([1; 16]);

    fn at(entry: u32) -> EntryRef {
        EntryRef { segment: ID, entry }
    }

    #[test]
    fn entries_are_named_one_by_one_and_others_segments_are_not_asked_about() {
        let mut tally = Tally::of([ID]);
        assert!(!tally.refs(ID).is_named());
        tally.add(EntryRef { segment: SegmentId([2; 16]), entry: 0 }, By::File);
        assert!(!tally.refs(ID).is_named() && !tally.refs(SegmentId([2; 16])).is_named());
        for entry in [0, 63, 64, 70, 64] {
            tally.add(at(entry), By::File);
        }
        let refs = tally.refs(ID);
        let named: Vec<u32> = (0..100).filter(|entry| refs.has(*entry, 100)).collect();
        assert_eq!(named, [0, 63, 64, 70]);
        assert!(refs.is_named() && !refs.is_named_by_notes_alone());
    }

    #[test]
    fn an_entry_that_the_segment_has_not_names_all_of_it() {
        for entry in [10, ENTRIES - 1, ENTRIES, u32::MAX] {
            let mut tally = Tally::of([ID]);
            tally.add(at(entry), By::Note);
            let refs = tally.refs(ID);
            assert!((0..10).all(|entry| refs.has(entry, 10)), "{entry}");
            assert!(refs.entries.len() <= 64 && refs.is_named_by_notes_alone());
        }
    }
}
