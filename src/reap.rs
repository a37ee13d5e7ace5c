//! Reaping: which segments of a tenant nobody names any more.
//!
//! ```text
//! segments of the store, so many at once -> those being uploaded -> one complete read of the
//! directory -> each segment's own index -> a verdict each
//! ```
//!
//! In this order: a segment that comes later is not judged, and one whose records are set
//! meanwhile is either among the uploads or met by the read. What cannot be read is a doubt. A
//! doubt about the directory is one about every segment that nobody was seen to name, and a doubt
//! about a segment is one about that segment alone (P12).
//!
//! - [`list`] takes segments from the store, in the order of their keys
//! - [`read`] is the read of the directory, `look` one file of it, [`Doubts`] what it could not read
//! - [`Tally`] has what was named of these segments
//! - [`weigh`] asks a segment's own index, [`verdict`] decides, and does nothing

mod doubts;
mod listing;
mod look;
mod read;
mod tally;
#[cfg(test)]
mod tests;
mod tree;
mod verdict;
mod weigh;

pub use doubts::{DOUBTS_NAMED, Doubt, Doubts};
pub use listing::{Listed, SEGMENTS_AT_ONCE, Stored, list};
pub use read::{Reading, Told, read};
pub use tally::{By, ENTRIES, Refs, Tally};
pub use verdict::{Facts, Hold, IndexFact, Verdict, Youth, verdict};
pub use weigh::{Weighed, weigh};
