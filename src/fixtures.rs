//! Bytes of every released version, good and damaged, opened or refused by name forever.
//!
//! `fixtures/formats/v1/` was written once by [`write_version_one`] and is never written again:
//! a change that needs other bytes is a new version, with a directory of its own.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::file_id::{EntryRef, FileHandle, SegmentId, TenantUuid, TimeNs};
use crate::intents::{self, End, Intent, Line, Subject};
use crate::record::{Foreign, Reading, Record};
use crate::seal::Seal;
use crate::segment::tests::support::{self, ID, Shelf, TENANT, block_on, key, noise};
use crate::segment::{
    ContentHasher, FinishedSegment, SegmentBuilder, fetch_chunks, read_header, read_index,
};
use crate::stub::{Stub, StubHead};
use crate::tier::State;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats/v1")
}

fn fixture(name: &str) -> Vec<u8> {
    let path = directory().join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

fn seal() -> Seal {
    Seal::new(TENANT, [9; 32])
}

fn handle() -> FileHandle {
    FileHandle { kind: 1, bytes: [1, 2, 3, 4, 5, 6, 7, 8].into() }
}

fn record() -> Record {
    Record {
        state: State::Released,
        at: EntryRef { segment: ID, entry: 1 },
        size_bytes: 50_000,
        mtime: TimeNs(1_700_000_000_000_000_001),
        ctime_shown: TimeNs(1_700_000_000_000_000_002),
        blocks_512: 98,
    }
}

fn segment() -> FinishedSegment {
    let mut builder = SegmentBuilder::new(TENANT, ID);
    let data = noise(5000, 1);
    let mut content = ContentHasher::new();
    content.push(&data);
    let mut writer = builder.begin_entry(support::whole("a/one", 5000)).unwrap();
    writer.push(&data).unwrap();
    writer.finish(content.finish(5000)).unwrap();
    let data = noise(4096 + 1000, 2);
    let mut content = ContentHasher::new();
    content.push_zeros(8192);
    content.push(&data[..4096]);
    content.push_zeros(20_000 - 12_288);
    content.push(&data[4096..]);
    let mut writer = builder.begin_entry(support::sparse()).unwrap();
    writer.push(&data).unwrap();
    writer.finish(content.finish(50_000)).unwrap();
    builder.finish().unwrap()
}

fn stub() -> Stub {
    let segment = segment();
    Stub::of_entry(segment.index.entry(1).unwrap(), "s3://bucket/prefix", "mail", TENANT)
}

fn lines() -> Vec<Line> {
    let subject = |path: &str| Subject { handle: handle(), path: path.into() };
    let intents =
        [Intent::Release(subject("old")), Intent::Clear, Intent::Recall(subject("a/one"))];
    let number = |(intent, sequence)| Line { sequence, intent };
    intents.into_iter().zip(7..).map(number).collect()
}

fn good_files() -> [(&'static str, Vec<u8>); 4] {
    let mut work = Vec::new();
    for line in lines() {
        line.encode(&mut work).unwrap();
    }
    [
        ("record", record().encode(&seal(), &handle()).to_vec()),
        ("stub", stub().encode(&seal()).unwrap().to_vec()),
        ("segment", segment().bytes.to_vec()),
        ("intents", work),
    ]
}

/// Damaged files: name, the good one, and what was done to it.
type Damage = (&'static str, &'static str, fn(&mut Vec<u8>));
const DAMAGED: [Damage; 14] = [
    ("record-flipped", "record", |bytes| bytes[30] ^= 1),
    ("record-newer", "record", |bytes| bytes[0] = 2),
    ("record-other-tenant", "record", |bytes| bytes[52] ^= 1),
    ("record-cut", "record", |bytes| bytes.truncate(63)),
    ("stub-flipped", "stub", |bytes| bytes[4000] ^= 1),
    ("stub-forged-size", "stub", |bytes| {
        let at = bytes.windows(10).position(|window| window == b"size 50000").unwrap();
        bytes[at + 5] = b'6';
    }),
    ("stub-newer", "stub", |bytes| bytes[25] = b'2'),
    ("stub-cut", "stub", |bytes| bytes.truncate(4000)),
    ("segment-chunk-flipped", "segment", |bytes| bytes[70] ^= 1),
    ("segment-footer-flipped", "segment", |bytes| {
        let at = bytes.len() - 100;
        bytes[at] ^= 1;
    }),
    ("segment-header-newer", "segment", |bytes| bytes[8] = 2),
    ("segment-cut", "segment", |bytes| bytes.truncate(bytes.len() - 1)),
    ("intents-torn", "intents", |bytes| bytes.truncate(bytes.len() - 3)),
    ("intents-flipped", "intents", |bytes| bytes[20] ^= 1),
];

#[test]
#[ignore = "writes the fixtures of a version, once, when it is released"]
fn write_version_one() {
    std::fs::create_dir_all(directory()).unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = directory().join(name);
        assert!(!path.exists(), "{} is there, and stays as it is", path.display());
        std::fs::write(path, bytes).unwrap();
    };
    let good = good_files();
    for (name, bytes) in &good {
        put(name, bytes);
    }
    for (name, of, damage) in DAMAGED {
        let mut bytes = good.iter().find(|(name, _)| *name == of).unwrap().1.clone();
        damage(&mut bytes);
        put(name, &bytes);
    }
}

#[test]
fn what_is_written_today_is_version_one_byte_by_byte() {
    for (name, bytes) in good_files() {
        assert!(fixture(name) == bytes, "{name} is written differently: that is a new version");
    }
}

#[test]
fn a_record_of_version_one_opens_forever_and_damaged_ones_are_refused() {
    let read = |name: &str| Record::decode(&fixture(name), &seal(), &handle());
    assert_eq!(read("record"), Reading::Trusted(record()));
    assert_eq!(read("record-flipped"), Reading::Misfit);
    assert_eq!(read("record-cut"), Reading::Misfit);
    assert_eq!(read("record-newer"), Reading::Foreign(Foreign::Newer(2)));
    let other = TenantUuid([6, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).number();
    assert_eq!(read("record-other-tenant"), Reading::Foreign(Foreign::OtherTenant(other)));
}

#[test]
fn a_stub_of_version_one_opens_forever_and_damaged_ones_are_refused() {
    let read = |name: &str| Stub::parse(&fixture(name), &seal());
    assert_eq!(read("stub"), StubHead::Sealed(stub()));
    assert_eq!(read("stub-flipped"), StubHead::Damaged("padding"));
    assert_eq!(read("stub-cut"), StubHead::Damaged("cut short"));
    assert_eq!(read("stub-newer"), StubHead::Newer(2));
    let forged = Stub { size_bytes: 60_000, ..stub() };
    assert_eq!(read("stub-forged-size"), StubHead::Unsealed(forged));
}

#[test]
fn a_segment_of_version_one_opens_forever_and_damaged_ones_are_refused() {
    let open = |name: &str| {
        let shelf = Shelf::with(Bytes::from(fixture(name)));
        block_on(async {
            read_header(&shelf, &key()).await?;
            let index = read_index(&shelf, &key(), TENANT, ID).await?;
            for entry in &index.entries {
                let chunks = 0..entry.place.chunk_count();
                fetch_chunks(&shelf, &key(), &entry.place, chunks).await?;
            }
            Ok(index)
        })
        .map_err(|error: crate::segment::ReadError| error.to_string())
    };
    assert_eq!(open("segment").unwrap(), *segment().index);
    let key = key();
    let at = EntryRef { segment: SegmentId([3; 16]), entry: 0 };
    let refused = [
        (
            "segment-chunk-flipped",
            format!("damaged: chunk 0 of entry {at} does not fit its checksum"),
        ),
        ("segment-footer-flipped", "damaged: footer: checksum".to_owned()),
        ("segment-header-newer", "header of version 2, newer than this coldfs".to_owned()),
        ("segment-cut", "damaged: trailer: magic".to_owned()),
    ];
    for (name, why) in refused {
        assert_eq!(open(name).unwrap_err(), format!("{key}: {why}"));
    }
}

#[test]
fn a_work_list_of_version_one_opens_forever_and_damaged_ones_end_early() {
    let whole = intents::decode(&fixture("intents"));
    assert_eq!((&whole.lines, whole.end), (&lines(), End::Clean));
    let torn = intents::decode(&fixture("intents-torn"));
    assert_eq!((&torn.lines[..], torn.end), (&lines()[..2], End::Torn("line")));
    let flipped = intents::decode(&fixture("intents-flipped"));
    assert_eq!((flipped.good_bytes, flipped.end), (0, End::Torn("check")));
}
