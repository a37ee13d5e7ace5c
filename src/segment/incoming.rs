//! A run of chunks on its way: bytes come in whatever pieces the line makes of them, and each
//! chunk leaves, proven, as soon as its last byte is here. Hashing goes along with the line, so
//! that whoever waits for a chunk does not wait for its hash as well.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::layout::{CHECK_BYTES, EntryPlace};
use super::read::{ChunkError, chunk_check};
use crate::wire;

const CHECK_LENGTH: usize = 16;
const _: () = assert!(CHECK_LENGTH as u64 == CHECK_BYTES);

/// A piece that holds a whole chunk is kept as it is, not copied, if it holds no more than this
/// many times as much: a small chunk must not keep a large piece in memory.
const KEPT_TIMES: usize = 2;

/// The chunks of a run that are still to come.
#[derive(Debug)]
pub struct Incoming {
    place: EntryPlace,
    chunks: Range<u32>,
    first: u32,
    arrived_bytes: u64,
    data: Data,
    hasher: blake3::Hasher,
    check: [u8; CHECK_LENGTH],
    check_filled: usize,
}

/// What is here of the chunk that is coming.
#[derive(Debug)]
enum Data {
    Part(BytesMut),
    Whole(Bytes),
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Data::Part(part) => part.len(),
            Data::Whole(whole) => whole.len(),
        }
    }
}

impl Incoming {
    /// Waits for these chunks of an entry, from the first byte of the first.
    pub fn new(place: &EntryPlace, chunks: Range<u32>) -> Self {
        Self {
            place: *place,
            first: chunks.start,
            chunks,
            arrived_bytes: 0,
            data: Data::Part(BytesMut::new()),
            hasher: blake3::Hasher::new(),
            check: [0; CHECK_LENGTH],
            check_filled: 0,
        }
    }

    /// Takes the next piece; hands on every chunk that it completes and that fits its check.
    /// After an error nothing more may be used.
    pub fn push(
        &mut self,
        mut piece: Bytes,
        mut proven: impl FnMut(u32, Bytes),
    ) -> Result<(), ChunkError> {
        self.arrived_bytes += wire::u64_of(piece.len());
        while !piece.is_empty() {
            if self.chunks.is_empty() {
                return Err(self.wrong_length());
            }
            let length = self.length()?;
            let missing = length - self.data.len();
            if missing > 0 {
                let count = missing.min(piece.len());
                self.take(&mut piece, count, length);
                continue;
            }
            let count = (CHECK_LENGTH - self.check_filled).min(piece.len());
            let check = piece.split_to(count);
            self.check[self.check_filled..self.check_filled + count].copy_from_slice(&check);
            self.check_filled += count;
            if self.check_filled == CHECK_LENGTH {
                let (number, chunk) = self.complete(length)?;
                proven(number, chunk);
            }
        }
        Ok(())
    }

    /// Nothing more comes: an error where something is missing.
    pub fn finish(self) -> Result<(), ChunkError> {
        if self.chunks.is_empty() { Ok(()) } else { Err(self.wrong_length()) }
    }

    /// Packed bytes of the chunk that is coming.
    fn length(&self) -> Result<usize, ChunkError> {
        let chunk = self.chunks.start;
        let packed = self.place.packed_range(chunk..chunk.saturating_add(1));
        let length = usize::try_from(packed.end - packed.start).unwrap_or(0);
        // No chunk that there is has no bytes.
        if length == 0 { Err(self.wrong_length()) } else { Ok(length) }
    }

    fn take(&mut self, piece: &mut Bytes, count: usize, length: usize) {
        let begins = self.data.len() == 0;
        if begins && count == length && piece.len() <= length * KEPT_TIMES {
            let whole = piece.split_to(count);
            self.hasher.update(&whole);
            self.data = Data::Whole(whole);
            return;
        }
        if let Data::Part(part) = &mut self.data {
            part.reserve(length - part.len());
            part.extend_from_slice(&piece[..count]);
            // From where it was copied to: it is in the processor's cache now.
            let copied = part.len() - count;
            self.hasher.update(&part[copied..]);
        }
        *piece = piece.split_off(count);
    }

    /// The chunk that is coming is all here.
    fn complete(&mut self, length: usize) -> Result<(u32, Bytes), ChunkError> {
        let (chunk, at) = (self.chunks.start, self.place.at());
        if chunk_check(&self.hasher, at, chunk, length) != self.check {
            return Err(ChunkError::Check { at, chunk });
        }
        self.hasher.reset();
        self.check_filled = 0;
        self.chunks.start += 1;
        let data = std::mem::replace(&mut self.data, Data::Part(BytesMut::new()));
        let data = match data {
            Data::Part(part) => part.freeze(),
            Data::Whole(whole) => whole,
        };
        Ok((chunk, data))
    }

    fn wrong_length(&self) -> ChunkError {
        let expected = self.place.object_range(self.first..self.chunks.end);
        ChunkError::Length {
            at: self.place.at(),
            first: self.first,
            expected_bytes: expected.end - expected.start,
            bytes: self.arrived_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_id::{EntryRef, SegmentId};

    const CHUNK_BYTES: u32 = 512;

    /// Three chunks, the last one short, as they lie in an object.
    fn run() -> (EntryPlace, Vec<u8>, Bytes) {
        let at = EntryRef { segment: SegmentId([7; 16]), entry: 3 };
        let packed: Vec<u8> = (0..=250).cycle().take(1_100).collect();
        let place = EntryPlace::new(at, 64, 1_100, CHUNK_BYTES).unwrap();
        let mut run = Vec::new();
        for (chunk, data) in (0..).zip(packed.chunks(CHUNK_BYTES as usize)) {
            let mut hasher = blake3::Hasher::new();
            hasher.update(data);
            run.extend_from_slice(data);
            run.extend_from_slice(&chunk_check(&hasher, at, chunk, data.len()));
        }
        (place, packed, run.into())
    }

    fn arrive(
        place: &EntryPlace,
        run: &Bytes,
        piece_bytes: usize,
    ) -> (Vec<(u32, Bytes)>, Result<(), ChunkError>) {
        let mut incoming = Incoming::new(place, 0..place.chunk_count());
        let mut proven = Vec::new();
        for at in (0..run.len()).step_by(piece_bytes) {
            let piece = run.slice(at..run.len().min(at + piece_bytes));
            if let Err(error) = incoming.push(piece, |number, chunk| proven.push((number, chunk))) {
                return (proven, Err(error));
            }
        }
        (proven, incoming.finish())
    }

    #[test]
    fn chunks_leave_whole_in_whatever_pieces_they_come() {
        let (place, packed, run) = run();
        for piece_bytes in [1, 15, 16, 17, 511, 512, 513, 528, 600, 5_000] {
            let (proven, outcome) = arrive(&place, &run, piece_bytes);
            assert_eq!(outcome, Ok(()), "{piece_bytes}");
            let numbers: Vec<u32> = proven.iter().map(|(number, _)| *number).collect();
            assert_eq!(numbers, [0, 1, 2]);
            let joined: Vec<u8> = proven.into_iter().flat_map(|(_, chunk)| chunk).collect();
            assert!(joined == packed, "{piece_bytes}");
        }
    }

    #[test]
    fn a_chunk_leaves_before_the_next_begins() {
        let (place, _, run) = run();
        let mut incoming = Incoming::new(&place, 0..3);
        let mut left = 0;
        incoming.push(run.slice(..527), |_, _| left += 1).unwrap();
        assert_eq!(left, 0, "its check is not all here");
        incoming.push(run.slice(527..528), |_, _| left += 1).unwrap();
        assert_eq!(left, 1);
    }

    #[test]
    fn a_wrong_byte_anywhere_stops_its_chunk_and_what_follows() {
        let (place, _, run) = run();
        for wrong in [0, 511, 512, 527, 528, 1_000, run.len() - 1] {
            let mut bytes = run.to_vec();
            bytes[wrong] ^= 1;
            let (proven, outcome) = arrive(&place, &bytes.into(), 100);
            let chunk = u32::try_from(wrong / 528).unwrap();
            assert_eq!(outcome, Err(ChunkError::Check { at: place.at(), chunk }));
            assert_eq!(proven.len(), wrong / 528, "{wrong}");
        }
    }

    #[test]
    fn too_few_bytes_and_too_many_are_no_run() {
        let (place, _, run) = run();
        let short = run.slice(..run.len() - 1);
        assert!(matches!(arrive(&place, &short, 64).1, Err(ChunkError::Length { .. })));
        let mut long = run.to_vec();
        long.push(0);
        assert!(matches!(arrive(&place, &long.into(), 64).1, Err(ChunkError::Length { .. })));
    }
}
