//! The work list's lines: which bodies the daemon is about to replace or to fill. It makes
//! recovery cost what was in flight; records and bodies decide, never a line of this.
//!
//! ```text
//! u16 length of the line | u8 version = 1 | u8 kind | u64 sequence |
//! i32 handle kind, u8 length, handle | u16 length, path |            (not in a clear marker)
//! [u8;16] check over everything before it
//! ```
//!
//! Sequences rise by one, over clearing and over the life of the file: where the file is begun
//! again, what an earlier round left behind the new lines has a lower sequence and ends the
//! reading. Preallocated zeros end it too (a line has no length 0). What was torn by a power
//! cut ends it, and nothing behind a line that is not whole is believed.

use crate::file_id::{FileHandle, MAX_HANDLE_BYTES};
use crate::wire::{self, Cut, Fields};

/// The version this code writes.
pub const VERSION: u8 = 1;
/// Longest path in a line; a file with a longer one is never migrated.
pub const MAX_PATH_BYTES: usize = 4096;
/// Longest line.
pub const MAX_LINE_BYTES: usize = FIXED_BYTES + 7 + MAX_HANDLE_BYTES + MAX_PATH_BYTES;

const CHECK_BYTES: usize = 16;
/// Length, version, kind, sequence, check: a clear marker.
const FIXED_BYTES: usize = 2 + 1 + 1 + 8 + CHECK_BYTES;
const CONTEXT: &str = "coldfs 2026 v1 work list";

const RELEASE: u8 = 1;
const RECALL: u8 = 2;
const CLEAR: u8 = 3;

/// The file that a line is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// Opens it, whatever its path is now.
    pub handle: FileHandle,
    /// Path below the tenant's root when the line was written; for people, and where handles
    /// cannot be opened.
    pub path: Vec<u8>,
}

/// What is about to happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Intent {
    /// The body is about to be replaced by its stub.
    Release(Subject),
    /// The stub is about to be filled.
    Recall(Subject),
    /// Everything before is settled, behind a barrier.
    Clear,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// One more than the line's before.
    pub sequence: u64,
    /// What it says.
    pub intent: Intent,
}

/// A handle or path longer than a line holds: the file is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} too long for the work list")]
pub struct TooLong(pub &'static str);

/// Where reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At the end of the bytes or at preallocated zeros.
    Clean,
    /// At a line of an earlier round.
    Stale,
    /// At a line that is not whole: the power went while it was written.
    Torn(&'static str),
    /// At a line of a later coldfs: recovery must not go on.
    Newer(u8),
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The whole lines, in order.
    pub lines: Vec<Line>,
    /// How many bytes they are.
    pub good_bytes: usize,
    /// Why there are no more.
    pub end: End,
}

impl Decoded {
    /// What was in flight: the lines behind the last clear marker.
    pub fn pending(&self) -> &[Line] {
        let cleared = self.lines.iter().rposition(|line| line.intent == Intent::Clear);
        &self.lines[cleared.map_or(0, |at| at + 1)..]
    }

    /// The sequence of the next line.
    pub fn next_sequence(&self) -> u64 {
        self.lines.last().map_or(0, |line| line.sequence.wrapping_add(1))
    }
}

impl Line {
    /// Appends the line's bytes to a batch that is written at once.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let (kind, subject) = match &self.intent {
            Intent::Release(subject) => (RELEASE, Some(subject)),
            Intent::Recall(subject) => (RECALL, Some(subject)),
            Intent::Clear => (CLEAR, None),
        };
        let mut line = vec![0, 0, VERSION, kind];
        line.extend_from_slice(&self.sequence.to_le_bytes());
        if let Some(Subject { handle, path }) = subject {
            if handle.bytes.len() > MAX_HANDLE_BYTES {
                return Err(TooLong("handle"));
            }
            if path.len() > MAX_PATH_BYTES {
                return Err(TooLong("path"));
            }
            line.extend_from_slice(&handle.kind.to_le_bytes());
            line.push(wire::u8_of(handle.bytes.len()));
            line.extend_from_slice(&handle.bytes);
            line.extend_from_slice(&wire::u16_of(path.len()).to_le_bytes());
            line.extend_from_slice(path);
        }
        let length = wire::u16_of(line.len() + CHECK_BYTES);
        line[..2].copy_from_slice(&length.to_le_bytes());
        let check = check(&line);
        out.extend_from_slice(&line);
        out.extend_from_slice(&check);
        Ok(())
    }
}

/// Reads lines up to the first that is not whole.
pub fn decode(bytes: &[u8]) -> Decoded {
    let mut decoded = Decoded { lines: Vec::new(), good_bytes: 0, end: End::Clean };
    loop {
        let rest = &bytes[decoded.good_bytes..];
        match decode_line(rest) {
            Ok((line, length)) => {
                if !decoded.lines.is_empty() && line.sequence != decoded.next_sequence() {
                    decoded.end = End::Stale;
                    return decoded;
                }
                decoded.lines.push(line);
                decoded.good_bytes += length;
            }
            Err(end) => {
                decoded.end = end;
                return decoded;
            }
        }
    }
}

/// One line and its length.
fn decode_line(bytes: &[u8]) -> Result<(Line, usize), End> {
    let torn = |cut: Cut| End::Torn(cut.field);
    if bytes.is_empty() {
        return Err(End::Clean);
    }
    let length = usize::from(Fields::new(bytes).u16("length").map_err(torn)?);
    if length == 0 {
        return Err(End::Clean);
    }
    if !(FIXED_BYTES..=MAX_LINE_BYTES).contains(&length) {
        return Err(End::Torn("length"));
    }
    let line = Fields::new(bytes).take("line", length).map_err(torn)?;
    let (body, stored) = line.split_at(length - CHECK_BYTES);
    // The check is the same in every version: a newer line is told from a torn one.
    if stored != check(body) {
        return Err(End::Torn("check"));
    }
    let mut fields = Fields::new(body);
    fields.u16("length").map_err(torn)?;
    let version = fields.u8("version").map_err(torn)?;
    if version != VERSION {
        return Err(End::Newer(version));
    }
    let kind = fields.u8("kind").map_err(torn)?;
    let sequence = fields.u64("sequence").map_err(torn)?;
    let intent = match kind {
        RELEASE => Intent::Release(decode_subject(&mut fields).map_err(torn)?),
        RECALL => Intent::Recall(decode_subject(&mut fields).map_err(torn)?),
        CLEAR => Intent::Clear,
        _ => return Err(End::Newer(version)),
    };
    if !fields.rest().is_empty() {
        return Err(End::Torn("length"));
    }
    Ok((Line { sequence, intent }, length))
}

fn decode_subject(fields: &mut Fields<'_>) -> Result<Subject, Cut> {
    let kind = fields.i32("handle kind")?;
    let handle_bytes = usize::from(fields.u8("handle length")?);
    if handle_bytes > MAX_HANDLE_BYTES {
        return Err(Cut { field: "handle length" });
    }
    let handle = FileHandle { kind, bytes: fields.take("handle", handle_bytes)?.into() };
    let path_bytes = usize::from(fields.u16("path length")?);
    let path = fields.take("path", path_bytes)?.to_vec();
    Ok(Subject { handle, path })
}

fn check(line: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(line);
    wire::truncated(&hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::{self, Dice};
    use proptest::prelude::*;

    pub(crate) fn subject(name: &str) -> Subject {
        let handle = FileHandle { kind: 1, bytes: name.as_bytes().into() };
        Subject { handle, path: format!("mail/{name}").into_bytes() }
    }

    fn lines() -> Vec<Line> {
        [
            Intent::Release(subject("a")),
            Intent::Recall(subject("b")),
            Intent::Clear,
            Intent::Release(subject("c")),
        ]
        .into_iter()
        .zip(41..)
        .map(|(intent, sequence)| Line { sequence, intent })
        .collect()
    }

    fn encoded(lines: &[Line]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for line in lines {
            line.encode(&mut bytes).unwrap();
        }
        bytes
    }

    #[test]
    fn lines_come_back_and_a_clear_marker_settles_what_is_before_it() {
        let mut bytes = encoded(&lines());
        let good_bytes = bytes.len();
        bytes.resize(8192, 0);
        let decoded = decode(&bytes);
        assert_eq!(decoded.lines, lines());
        assert_eq!((decoded.good_bytes, decoded.end), (good_bytes, End::Clean));
        assert_eq!(decoded.pending(), &lines()[3..]);
        assert_eq!(decoded.next_sequence(), 45);
    }

    #[test]
    fn lines_of_an_earlier_round_behind_new_ones_are_not_read() {
        let mut bytes = encoded(&lines());
        let new = encoded(&[Line { sequence: 45, intent: Intent::Release(subject("a")) }]);
        bytes[..new.len()].copy_from_slice(&new);
        let decoded = decode(&bytes);
        assert_eq!((decoded.lines.len(), decoded.end), (1, End::Stale));
    }

    #[test]
    fn cut_at_every_length_only_whole_lines_are_read() {
        let bytes = encoded(&lines());
        for length in 0..bytes.len() {
            let decoded = decode(&bytes[..length]);
            assert!(decoded.good_bytes <= length);
            assert_eq!(decoded.lines, lines()[..decoded.lines.len()]);
            assert_eq!(decoded.end == End::Clean, decoded.good_bytes == length, "{length}");
        }
    }

    #[test]
    fn no_flipped_bit_changes_what_a_line_says() {
        let bytes = encoded(&lines());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let decoded = decode(&flipped);
            assert!(decoded.lines.len() < 4 && decoded.end != End::Clean, "bit {bit}");
            assert_eq!(decoded.lines, lines()[..decoded.lines.len()], "bit {bit}");
        }
    }

    #[test]
    fn a_line_of_a_later_version_is_named_and_not_taken_for_torn() {
        let mut line = encoded(&lines()[..1]);
        let end = line.len() - CHECK_BYTES;
        line[2] = 2;
        let check = check(&line[..end]);
        line[end..].copy_from_slice(&check);
        assert_eq!(decode(&line).end, End::Newer(2));
    }

    #[test]
    fn a_path_too_long_is_refused_when_written() {
        let subject = Subject { path: vec![b'a'; MAX_PATH_BYTES + 1], ..subject("a") };
        let line = Line { sequence: 0, intent: Intent::Release(subject) };
        assert_eq!(line.encode(&mut Vec::new()), Err(TooLong("path")));
    }

    #[test]
    fn decoding_the_work_list_never_panics() {
        let good = encoded(&lines());
        fuzzing::run(|dice: &mut Dice| {
            let bytes = dice.mangled(&good);
            let decoded = decode(&bytes);
            let again = encoded(&decoded.lines);
            assert_eq!(again, bytes[..decoded.good_bytes], "one way to write a line");
        });
    }

    proptest! {
        #[test]
        fn any_line_comes_back(
            sequence: u64,
            kind: i32,
            handle in proptest::collection::vec(any::<u8>(), 0..=MAX_HANDLE_BYTES),
            path in proptest::collection::vec(any::<u8>(), 0..300),
            recall: bool,
        ) {
            let subject = Subject { handle: FileHandle { kind, bytes: handle.into() }, path };
            let intent = if recall { Intent::Recall(subject) } else { Intent::Release(subject) };
            let line = Line { sequence, intent };
            let decoded = decode(&encoded(std::slice::from_ref(&line)));
            prop_assert_eq!(decoded.lines, vec![line]);
            prop_assert_eq!(decoded.end, End::Clean);
        }
    }
}
