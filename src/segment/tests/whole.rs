//! Written, stored, verified, read.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::support::*;
use crate::file_id::{Extent, SegmentId, TenantUuid};
use crate::segment::entry::{BadEntry, MAX_XATTR_VALUE_BYTES};
use crate::segment::write::part_bytes_for;
use crate::segment::*;

#[test]
fn a_segment_is_written_verified_and_read_back() {
    let finished = segment();
    let shelf = Shelf::with(finished.bytes.clone());
    let verified = block_on(verify(&shelf, &key(), &finished)).unwrap();
    assert_eq!((verified.id(), verified.entries().len()), (ID, 3));
    let index = block_on(read_index(&shelf, &key(), TENANT, ID)).unwrap();
    assert_eq!(index, *finished.index);
    let header = block_on(read_header(&shelf, &key())).unwrap();
    assert_eq!((header.tenant, header.id, header.chunk_bytes), (TENANT, ID, CHUNK));
    let entry = index.entry(1).unwrap();
    let count = entry.place.chunk_count();
    let chunks = block_on(fetch_chunks(&shelf, &key(), &entry.place, 0..count)).unwrap();
    assert_eq!(chunks.concat(), noise(4096 + 1000, 2));
}

#[test]
fn a_first_read_is_one_request() {
    let finished = segment();
    let shelf = Shelf::with(finished.bytes);
    let place = finished.index.entry(0).unwrap().place;
    let chunks = block_on(fetch_chunks(&shelf, &key(), &place, 1..3)).unwrap();
    assert_eq!(chunks.concat(), noise(1300, 1)[512..]);
    assert_eq!(shelf.gets.load(Ordering::Relaxed), 1); // P5
}

#[test]
fn the_length_is_known_before_the_segment_is_finished() {
    let mut builder = SegmentBuilder::with_chunk_bytes(TENANT, ID, CHUNK);
    add(&mut builder, whole("a", 5000), &noise(5000, 1));
    let length = builder.len_bytes();
    assert_eq!(builder.finish().unwrap().size_bytes, length);
}

#[test]
fn an_entry_that_is_taken_back_leaves_no_trace() {
    let mut builder = SegmentBuilder::with_chunk_bytes(TENANT, ID, CHUNK);
    add(&mut builder, whole("a/one", 1300), &noise(1300, 1));
    let mut writer = builder.begin_entry(whole("changing", 4000)).unwrap();
    writer.push(&noise(3000, 9)).unwrap();
    writer.abandon();
    let mut writer = builder.begin_entry(whole("short", 4000)).unwrap();
    writer.push(&noise(3999, 9)).unwrap();
    let changed = WriteError::Changed { read_bytes: 3999, extent_bytes: 4000 };
    assert_eq!(writer.finish(ContentHash([0; 32])).unwrap_err(), changed);
    let mut writer = builder.begin_entry(whole("long", 10)).unwrap();
    let changed = WriteError::Changed { read_bytes: 11, extent_bytes: 10 };
    assert_eq!(writer.push(&[0; 11]).unwrap_err(), changed);
    drop(writer);
    add(&mut builder, sparse(), &noise(4096 + 1000, 2));
    add(&mut builder, meta("empty", 65_536, Vec::new()), &[]);
    assert_eq!(builder.finish().unwrap().bytes, segment().bytes);
}

#[test]
fn a_segment_handed_out_in_parts_is_the_same_segment() {
    let mut builder = SegmentBuilder::with_chunk_bytes(TENANT, ID, CHUNK);
    let mut object = Vec::new();
    let parts = [
        (whole("a/one", 1300), noise(1300, 1)),
        (sparse(), noise(4096 + 1000, 2)),
        (meta("empty", 65_536, Vec::new()), Vec::new()),
    ];
    for (meta, packed) in parts {
        let mut writer = builder.begin_entry(meta).unwrap();
        for bytes in packed.chunks(333) {
            writer.push(bytes).unwrap();
            while let Some(part) = writer.drain_ready(700) {
                assert_eq!(part.len(), 700);
                object.extend_from_slice(&part);
            }
        }
        writer.finish(ContentHash([0xcd; 32])).unwrap();
    }
    let finished = builder.finish().unwrap();
    object.extend_from_slice(&finished.bytes);
    assert_eq!(object, segment().bytes);
    assert_eq!(finished.digest, segment().digest);
    let shelf = Shelf::with(object);
    assert!(block_on(verify(&shelf, &key(), &finished)).is_ok());
}

#[test]
fn taking_an_entry_back_after_a_part_of_it_left_spoils_the_segment() {
    let mut builder = SegmentBuilder::with_chunk_bytes(TENANT, ID, CHUNK);
    let mut writer = builder.begin_entry(whole("large", 5000)).unwrap();
    writer.push(&noise(3000, 1)).unwrap();
    assert!(writer.drain_ready(1000).is_some());
    drop(writer);
    assert!(matches!(builder.begin_entry(whole("next", 1)), Err(WriteError::Spoilt)));
    assert_eq!(builder.finish().unwrap_err(), WriteError::Spoilt);
}

#[test]
fn what_an_entry_cannot_hold_is_refused_by_name_before_a_byte_is_read() {
    let mut builder = SegmentBuilder::new(TENANT, ID);
    let mut refused = |meta| match builder.begin_entry(meta) {
        Err(WriteError::Entry(BadEntry::Field(field))) => field,
        other => panic!("{:?}", other.err()),
    };
    for path in ["", "/etc/passwd", "a/../../b", "a//b", "./a", "a\0b", &"a".repeat(1 << 16)] {
        assert_eq!(refused(whole(path, 10)), "path", "{path:?}");
    }
    let value = vec![0; MAX_XATTR_VALUE_BYTES + 1];
    assert_eq!(
        refused(EntryMeta { xattrs: vec![(vec![], value)], ..whole("a", 1) }),
        "xattr value"
    );
    let beyond = vec![Extent { offset: 0, length: 11 }];
    assert_eq!(refused(meta("a", 10, beyond)), "extents");
}

#[test]
fn a_terabyte_fits_the_parts_of_an_upload() {
    assert_eq!(part_bytes_for(64 << 20), 8 << 20);
    for object_bytes in [80u64 << 30, 1 << 40, 5 << 40] {
        let part = part_bytes_for(object_bytes) as u64;
        assert!(object_bytes.div_ceil(part) < 10_000 && part < 600 << 20, "{object_bytes}");
    }
}

#[test]
fn a_large_footer_is_fetched_in_a_second_request() {
    let mut builder = SegmentBuilder::with_chunk_bytes(TENANT, ID, CHUNK);
    for n in 0..600 {
        add(&mut builder, whole(&format!("many/{n:0100}"), 30), &noise(30, n));
    }
    let finished = builder.finish().unwrap();
    let shelf = Shelf::with(finished.bytes.clone());
    let index = block_on(read_index(&shelf, &key(), TENANT, ID)).unwrap();
    assert_eq!((index.entries.len(), shelf.gets.load(Ordering::Relaxed)), (600, 2));
}

#[test]
fn a_segment_of_another_tenant_or_name_is_refused() {
    let shelf = Shelf::with(segment().bytes);
    let other_tenant = TenantUuid([8; 16]);
    let error = block_on(read_index(&shelf, &key(), other_tenant, ID)).unwrap_err();
    assert!(error.to_string().ends_with("damaged: footer: tenant"), "{error}");
    let error = block_on(read_index(&shelf, &key(), TENANT, SegmentId([4; 16]))).unwrap_err();
    assert!(error.to_string().ends_with("damaged: trailer: checksum"), "{error}");
}

#[test]
fn a_store_that_kept_other_bytes_is_not_verified() {
    let finished = segment();
    let mut bytes = finished.bytes.to_vec();
    bytes[100] ^= 1;
    let shelf = Shelf::with(bytes.clone());
    let error = block_on(verify(&shelf, &key(), &finished)).unwrap_err();
    assert!(matches!(error, verify::VerifyError::Differs { what: "bytes", .. }), "{error}");
    bytes.pop();
    let shelf = Shelf::with(Bytes::from(bytes));
    let error = block_on(verify(&shelf, &key(), &finished)).unwrap_err();
    assert!(matches!(error, verify::VerifyError::Differs { what: "size", .. }), "{error}");
    let error = block_on(verify(&Shelf::default(), &key(), &finished)).unwrap_err();
    assert!(matches!(error, verify::VerifyError::Store { .. }), "{error}");
}

#[test]
fn keys_are_sharded_by_a_hash_of_the_name() {
    let key = key();
    let parts: Vec<_> = key.as_str().split('/').collect();
    assert_eq!((parts[0], parts[1], parts[2].len()), ("mail", "seg", 2));
    assert_eq!(parts[3], ID.to_string());
}
