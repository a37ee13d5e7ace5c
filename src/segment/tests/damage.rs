//! Every flipped bit and every cut of a segment is refused by whoever reads it; hostile bytes
//! neither panic nor pass.

use bytes::Bytes;

use super::support::*;
use crate::fuzzing;
use crate::segment::index::{Header, Trailer};
use crate::segment::*;

/// Everything that a scrub reads: header, index, all chunks of all entries.
fn scrub(bytes: &Bytes) -> Result<(), ReadError> {
    let shelf = Shelf::with(bytes.clone());
    block_on(async {
        read::read_header(&shelf, &key()).await?;
        let index = read_index(&shelf, &key(), TENANT, ID).await?;
        for entry in &index.entries {
            let count = entry.place.chunk_count();
            fetch_chunks(&shelf, &key(), &entry.place, 0..count).await?;
        }
        Ok(())
    })
}

#[test]
fn no_flipped_bit_anywhere_in_a_segment_passes() {
    let good = segment().bytes;
    assert!(scrub(&good).is_ok());
    for bit in 0..good.len() * 8 {
        let mut bytes = good.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let error = scrub(&Bytes::from(bytes)).expect_err("a flipped bit passed");
        assert!(!matches!(error, ReadError::Store(_)), "bit {bit}: {error}");
    }
}

#[test]
fn a_segment_cut_at_any_length_is_refused() {
    let good = segment().bytes;
    for length in 0..good.len() {
        assert!(scrub(&good.slice(..length)).is_err(), "{length}");
    }
}

#[test]
fn a_chunk_proves_itself_only_in_its_own_place() {
    let finished = segment();
    let place = finished.index.entry(1).unwrap().place;
    let run = |chunks: std::ops::Range<u32>| {
        let range = place.object_range(chunks);
        let start = usize::try_from(range.start).unwrap();
        finished.bytes.slice(start..usize::try_from(range.end).unwrap())
    };
    assert!(verify_chunks(&place, 1..3, &run(1..3)).is_ok());
    assert!(verify_chunks(&place, 2..4, &run(1..3)).is_err());
    let mut at = place.at();
    at.entry += 1;
    let (offset, packed, chunk) = (place.data_offset(), place.packed_bytes(), place.chunk_bytes());
    let other = EntryPlace::new(at, offset, packed, chunk).unwrap();
    assert!(verify_chunks(&other, 1..3, &run(1..3)).is_err());
    at = place.at();
    at.segment.0[0] ^= 1;
    let other = EntryPlace::new(at, offset, packed, chunk).unwrap();
    assert!(verify_chunks(&other, 1..3, &run(1..3)).is_err());
    for length in 0..run(1..3).len() {
        let cut = run(1..3).slice(..length);
        let error = verify_chunks(&place, 1..3, &cut).unwrap_err();
        assert!(matches!(error, read::ChunkError::Length { .. }));
    }
    let beyond = place.chunk_count()..place.chunk_count() + 1;
    assert!(verify_chunks(&place, beyond, &Bytes::new()).is_err());
}

#[test]
fn a_newer_segment_is_named_and_not_called_damaged() {
    let good = segment().bytes;
    let mut bytes = good.to_vec();
    bytes[8] = 2;
    let error = scrub(&Bytes::from(bytes)).unwrap_err();
    assert!(matches!(error, ReadError::Newer { .. }), "{error}");
    let mut bytes = good.to_vec();
    let version = bytes.len() - 16;
    bytes[version] = 2;
    let error = scrub(&Bytes::from(bytes)).unwrap_err();
    assert!(matches!(error, ReadError::Newer { .. }), "{error}");
}

/// A footer with a checksum that fits, as an attacker with write access to the store makes it.
fn with_footer(footer: &[u8]) -> Result<Index, index::BadFrame> {
    let data_end = segment().index.data_end();
    Index::decode(footer, &Trailer::of(ID, data_end, footer), TENANT, ID)
}

#[test]
fn decoding_a_footer_with_a_fitting_checksum_never_panics() {
    let good = segment().index.encode();
    assert_eq!(with_footer(&good).unwrap(), *segment().index);
    fuzzing::run(|dice| {
        let bytes = dice.mangled(&good);
        if let Ok(index) = with_footer(&bytes) {
            assert_eq!(index.encode(), bytes, "one way to write a footer");
            assert!(index.entries.iter().all(|entry| entry.meta.check().is_ok()));
        }
    });
}

#[test]
fn decoding_a_header_or_trailer_never_panics() {
    let good = segment().bytes;
    let (header, trailer) = (&good[..64], &good[good.len() - 64..]);
    let object_bytes = good.len() as u64;
    fuzzing::run(|dice| {
        let bytes = dice.mangled(header);
        assert!(bytes == header || Header::decode(&bytes).is_err());
        let bytes = dice.mangled(trailer);
        assert!(bytes == trailer || Trailer::decode(&bytes, ID, object_bytes).is_err());
    });
}

#[test]
fn reading_a_mangled_segment_never_panics() {
    let good = segment().bytes;
    fuzzing::run(|dice| {
        let bytes = Bytes::from(dice.mangled(&good));
        assert!(bytes == good || scrub(&bytes).is_err());
    });
}
