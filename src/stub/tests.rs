//! A stub is recognised, genuine or refused, and never believed by mistake.

use super::*;
use crate::file_id::SegmentId;
use crate::fuzzing;
use proptest::prelude::*;

fn seal() -> Seal {
    Seal::new(TenantUuid([7; 16]), [9; 32])
}

fn stub() -> Stub {
    Stub {
        store: "s3://cold bucket/pr\u{e4}%fix".to_owned(),
        tenant_name: "mail two".to_owned(),
        tenant: TenantUuid([7; 16]),
        at: EntryRef { segment: SegmentId([3; 16]), entry: 17 },
        size_bytes: 1_000_000,
        content: ContentHash([0xcd; 32]),
        data_offset: 4160,
        chunk_bytes: 1 << 20,
        extents: vec![
            Extent { offset: 0, length: 8192 },
            Extent { offset: 40_960, length: 4096 },
            Extent { offset: 999_000, length: 1000 },
        ],
    }
}

/// Extents of a scattered file: `count` runs of one to eight blocks, some way apart.
fn scattered(count: u64) -> Stub {
    let extent = |n: u64| Extent { offset: n * 1_000 * 4096, length: (n % 8 + 1) * 4096 };
    let extents: Vec<_> = (0..count).map(extent).collect();
    let size_bytes = extents.last().map_or(0, Extent::end);
    Stub { store: "s3://bucket/prefix".to_owned(), extents, size_bytes, ..stub() }
}

#[test]
fn a_stub_comes_back_from_a_head_with_anything_behind_it() {
    let body = stub().encode(&seal()).unwrap();
    assert_eq!(Stub::parse(&body, &seal()), StubHead::Sealed(stub()));
    let mut longer = body.to_vec();
    longer.extend_from_slice(&[0; 100]);
    assert_eq!(Stub::parse(&longer, &seal()), StubHead::Sealed(stub()));
}

#[test]
fn a_person_can_read_it_and_a_shell_stops_at_its_second_line() {
    let body = stub().encode(&seal()).unwrap();
    let text = std::str::from_utf8(&body).unwrap();
    let lines: Vec<_> = text.lines().take(4).collect();
    assert_eq!(lines[0], "#!/bin/false coldfs stub 1");
    assert_eq!(lines[1], "exit 1");
    assert_eq!(lines[2], "note mount with coldfs to read");
    assert_eq!(lines[3], "store s3://cold%20bucket/pr%C3%A4%25fix");
    assert!(text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)));
    assert!(looks_like_stub(&body[..GLANCE_BYTES]));
}

#[test]
fn a_shell_that_runs_a_stub_does_nothing_but_fail() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), stub().encode(&seal()).unwrap()).unwrap();
    let output = std::process::Command::new("sh").arg(file.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn no_flipped_bit_is_ever_sealed() {
    let body = stub().encode(&seal()).unwrap();
    for bit in 0..STUB_BYTES * 8 {
        let mut flipped = body;
        flipped[bit / 8] ^= 1 << (bit % 8);
        let head = Stub::parse(&flipped, &seal());
        assert!(!matches!(head, StubHead::Sealed(_)), "bit {bit}: {head:?}");
    }
}

#[test]
fn cut_at_any_length_it_is_no_stub_or_damaged() {
    let body = stub().encode(&seal()).unwrap();
    for length in 0..STUB_BYTES {
        let head = Stub::parse(&body[..length], &seal());
        let refused = matches!(head, StubHead::NotAStub | StubHead::Damaged(_));
        assert!(refused, "{length}: {head:?}");
    }
}

#[test]
fn another_key_or_tenant_reads_it_and_does_not_believe_it() {
    let body = stub().encode(&seal()).unwrap();
    let other_key = Seal::new(TenantUuid([7; 16]), [1; 32]);
    assert_eq!(Stub::parse(&body, &other_key), StubHead::Unsealed(stub()));
    let other_tenant = Seal::new(TenantUuid([8; 16]), [9; 32]);
    assert_eq!(Stub::parse(&body, &other_tenant), StubHead::Unsealed(stub()));
}

#[test]
fn a_later_version_is_named() {
    assert_eq!(Stub::parse(b"#!/bin/false coldfs stub 12\nx", &seal()), StubHead::Newer(12));
    for damaged in ["", "x\n", "0\n", "+1\n", "99999999999\n"] {
        let head = format!("#!/bin/false coldfs stub {damaged}");
        assert_eq!(Stub::parse(head.as_bytes(), &seal()), StubHead::Damaged("version"));
    }
    assert_eq!(Stub::parse(b"#!/bin/sh\n", &seal()), StubHead::NotAStub);
}

#[test]
fn at_least_two_hundred_scattered_extents_fit_and_too_many_are_refused() {
    let most = (1..4000).take_while(|n| scattered(*n).encode(&seal()).is_ok()).last();
    println!("scattered extents of whole blocks that fit: {most:?}");
    assert!(most > Some(200), "{most:?}");
    let refused = scattered(4000).encode(&seal()).unwrap_err();
    assert_eq!(refused.extents, 4000);
}

#[test]
fn a_hundred_extents_fit_however_odd_they_are() {
    let extent = |n: u64| Extent { offset: n << 56 | 1, length: (1 << 55) - 1 };
    let extents: Vec<_> = (0..100).map(extent).collect();
    let size_bytes = extents.last().map_or(0, Extent::end);
    let odd = Stub { store: format!("s3://{}", "b".repeat(200)), extents, size_bytes, ..stub() };
    let length = super::text::render(&odd, seal().id()).len();
    assert!(length < TEXT_BYTES, "{length}");
    println!("100 extents of 13 and 12 digits: {length} bytes of text");
}

#[test]
fn extents_out_of_order_make_no_stub() {
    let mut bad = stub();
    bad.extents.reverse();
    assert!(bad.encode(&seal()).is_err());
}

#[test]
fn a_torn_head_is_known_by_its_sectors_and_by_their_marks() {
    let body = stub().encode(&seal()).unwrap();
    let original = [0x5a; STUB_BYTES];
    for mask in 0u32..256 {
        let mut head = original;
        for sector in (0..8).filter(|n| mask & (1 << n) != 0) {
            let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
            head[range.clone()].copy_from_slice(&body[range]);
        }
        assert!(torn(&original, &body, &head));
        assert_eq!(holds_stub_sector(&head), mask != 0);
        head[4000] ^= 1;
        assert!(!torn(&original, &body, &head));
    }
    assert!(!torn(&original[..100], &body, &original));
    assert!(!torn(&original, &body, &original[..4095]));
}

#[test]
fn parsing_a_stub_never_panics() {
    let good = stub().encode(&seal()).unwrap();
    fuzzing::run(|dice| {
        let bytes = dice.mangled(&good);
        let head = Stub::parse(&bytes, &seal());
        let same = bytes.get(..STUB_BYTES) == Some(&good[..]);
        assert!(same || !matches!(head, StubHead::Sealed(_)), "{head:?}");
        if let StubHead::Unsealed(stub) = head {
            let place = stub.place().unwrap();
            assert!(place.object_range(0..place.chunk_count()).end <= layout::MAX_OFFSET);
        }
    });
}

proptest! {
    #[test]
    fn any_stub_comes_back(
        store in "\\PC{0,40}",
        tenant_name in "\\PC{0,40}",
        runs in proptest::collection::vec((0u64..1 << 40, 1u64..1 << 30), 0..60),
        data_offset in 64u64..1 << 40,
    ) {
        let mut end = 0;
        let extents: Vec<_> = runs.into_iter().map(|(gap, length)| {
            let extent = Extent { offset: end + gap, length };
            end = extent.end();
            extent
        }).collect();
        let stub = Stub { store, tenant_name, extents, size_bytes: end, data_offset, ..stub() };
        if let Ok(body) = stub.encode(&seal()) {
            prop_assert_eq!(Stub::parse(&body, &seal()), StubHead::Sealed(stub));
        }
    }
}
