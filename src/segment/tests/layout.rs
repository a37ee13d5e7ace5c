//! Logical, packed and stored places agree, whatever the extents.

use proptest::prelude::*;

use super::support::ID;
use crate::file_id::{EntryRef, Extent};
use crate::segment::layout::{CHECK_BYTES, MAX_OFFSET};
use crate::segment::{EntryPlace, Packing, Piece};

fn place(packed_bytes: u64, chunk_bytes: u32) -> EntryPlace {
    EntryPlace::new(EntryRef { segment: ID, entry: 0 }, 64, packed_bytes, chunk_bytes).unwrap()
}

#[test]
fn impossible_places_are_refused_by_name() {
    let at = EntryRef { segment: ID, entry: 0 };
    let refused = |offset, packed, chunk| EntryPlace::new(at, offset, packed, chunk).unwrap_err().0;
    assert_eq!(refused(63, 1, 1 << 20), "data offset");
    assert_eq!(refused(64, 1, 0), "chunk size");
    assert_eq!(refused(64, 1, (1 << 20) + 1), "chunk size");
    assert_eq!(refused(64, u64::MAX, 1 << 20), "packed length");
    assert_eq!(refused(u64::MAX, 1 << 30, 1 << 20), "end of data");
    assert_eq!(refused(MAX_OFFSET, 1, 1 << 20), "end of data");
}

#[test]
fn impossible_extents_are_refused_by_number() {
    let extent = |offset, length| Extent { offset, length };
    let refused = |extents: &[Extent]| Packing::new(100, extents).unwrap_err().number;
    assert_eq!(refused(&[extent(0, 0)]), 0);
    assert_eq!(refused(&[extent(0, 50), extent(49, 1)]), 1);
    assert_eq!(refused(&[extent(0, 50), extent(90, 11)]), 1);
    assert_eq!(refused(&[extent(u64::MAX, 2)]), 0);
}

#[test]
fn a_small_read_of_a_large_file_needs_one_chunk() {
    let ten_gib = 10 << 30;
    let packing = Packing::new(ten_gib, &[Extent { offset: 0, length: ten_gib }]).unwrap();
    let place = place(ten_gib, 1 << 20);
    let packed = packing.packed_range(5 << 30..(5 << 30) + 4096).unwrap();
    let chunks = place.chunks_of(packed);
    assert_eq!(chunks, 5120..5121);
    let range = place.object_range(chunks);
    assert_eq!(range.end - range.start, (1 << 20) + CHECK_BYTES); // P5
}

#[test]
fn ranges_beyond_the_end_are_empty() {
    let place = place(1000, 512);
    assert_eq!(place.chunks_of(1000..2000), 0..0);
    assert_eq!(place.object_range(2..9), place.end_offset()..place.end_offset());
    let packing = Packing::new(5000, &[Extent { offset: 0, length: 1000 }]).unwrap();
    assert_eq!(packing.packed_range(1000..5000), None);
    assert!(packing.pieces(5000..6000).is_empty());
    let backwards = std::ops::Range { start: 10, end: 5 };
    assert!(packing.pieces(backwards.clone()).is_empty());
    assert_eq!(packing.packed_range(backwards), None);
}

fn any_extents() -> impl Strategy<Value = (u64, Vec<Extent>)> {
    (proptest::collection::vec((0u64..50, 1u64..50), 0..12), 0u64..50).prop_map(|(runs, tail)| {
        let mut end = 0;
        let extents = runs.into_iter().map(|(gap, length)| {
            let extent = Extent { offset: end + gap, length };
            end = extent.end();
            extent
        });
        let extents = extents.collect();
        (end + tail, extents)
    })
}

proptest! {
    #[test]
    fn pieces_are_the_file_byte_by_byte(
        (size, extents) in any_extents(), from in 0u64..600, length in 0u64..200,
    ) {
        let packing = Packing::new(size, &extents).unwrap();
        // For each byte of the file, its packed offset; the slow and obvious way.
        let mut packed_of = vec![None; usize::try_from(size).unwrap()];
        let mut next = 0;
        for extent in &extents {
            for offset in extent.offset..extent.end() {
                packed_of[usize::try_from(offset).unwrap()] = Some(next);
                next += 1;
            }
        }
        prop_assert_eq!(packing.packed_bytes(), next);
        let mut offset = from;
        let mut data = Vec::new();
        for piece in packing.pieces(from..from + length) {
            let (at, first) = match piece {
                Piece::Hole(at) => (at, None),
                Piece::Data { at, packed_offset } => (at, Some(packed_offset)),
            };
            prop_assert_eq!(at.offset, offset);
            for n in 0..at.length {
                let packed = packed_of[usize::try_from(offset + n).unwrap()];
                prop_assert_eq!(packed, first.map(|first| first + n));
                data.extend(packed);
            }
            offset = at.end();
        }
        prop_assert_eq!(offset, (from + length).min(size).max(from));
        let run = packing.packed_range(from..from + length);
        let hull = data.first().zip(data.last()).map(|(first, last)| *first..*last + 1);
        prop_assert_eq!(run.clone(), hull);
        if let Some(run) = run {
            let back: u64 = packing.data_of(run.clone()).iter().map(|piece| match piece {
                Piece::Hole(_) => 0,
                Piece::Data { at, packed_offset } => {
                    let index = usize::try_from(at.offset).unwrap();
                    assert_eq!(packed_of[index], Some(*packed_offset));
                    at.length
                }
            }).sum();
            prop_assert_eq!(back, run.end - run.start);
        }
    }

    #[test]
    fn chunks_tile_the_packed_stream_and_the_object(packed in 0u64..100_000, chunk in 512u32..9000) {
        let place = place(packed, chunk);
        let (mut at, mut stored) = (0, 64);
        for n in 0..place.chunk_count() {
            let range = place.packed_range(n..n + 1);
            let object = place.object_range(n..n + 1);
            prop_assert_eq!((range.start, object.start), (at, stored));
            prop_assert_eq!(object.end - object.start, range.end - range.start + CHECK_BYTES);
            prop_assert_eq!(place.chunks_of(range.clone()), n..n + 1);
            (at, stored) = (range.end, object.end);
        }
        prop_assert_eq!((at, stored), (packed, place.end_offset()));
    }
}
