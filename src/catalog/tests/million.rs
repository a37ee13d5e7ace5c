//! A million files: `scripts/bench catalog`.

use std::ops::ControlFlow;
use std::time::Instant;

use super::World;
use crate::catalog::offers::{Class, Cursor};
use crate::catalog::seen::{Kind, Seen, Standing};
use crate::file_id::{EntryRef, FileHandle, Ino, SegmentId, TimeNs};
use crate::temperature::Second;
use crate::tier::State;

const DIRS: u64 = 1_000;
const FILES_A_DIR: u64 = 1_000;
const DURABLE_DIRS: u64 = 64;

fn seen(ino: u64, kind: Kind) -> Seen {
    let regular = kind == Kind::Regular;
    let segment = SegmentId([7; 16]);
    Seen {
        ino: Ino(ino),
        handle: FileHandle { kind: 1, bytes: ino.to_le_bytes().into() },
        kind,
        standing: if regular { Standing::Recorded(State::Released) } else { Standing::Unmoved },
        remote: regular.then_some((EntryRef { segment, entry: 5 }, 70_000)),
        pin: None,
        size_bytes: 70_000,
        local_bytes: 4_096,
        mtime: TimeNs(1_700_000_000_000_000_000),
        atime: Second(1_700_000_000),
    }
}

#[test]
#[ignore = "a bench: scripts/bench catalog"]
fn a_million_files() {
    let world = World::new();
    let (part, _work) = world.attach().unwrap();
    let root = part.root();
    let began = Instant::now();
    for dir in 0..DIRS {
        let number = 1_000_000_000 + dir * (FILES_A_DIR + 1);
        let name = format!("directory-{dir:04}");
        let durable = dir % DURABLE_DIRS == DURABLE_DIRS - 1;
        part.write(durable, |batch| {
            batch.name_is(root, name.as_bytes(), &seen(number, Kind::Directory), false)?;
            batch.listed(Ino(number))?;
            for file in 1..=FILES_A_DIR {
                let name = format!("some file {file:05}.dat");
                batch.name_is(
                    Ino(number),
                    name.as_bytes(),
                    &seen(number + file, Kind::Regular),
                    false,
                )?;
            }
            Ok(())
        })
        .unwrap();
    }
    part.write(true, |_| Ok(())).unwrap();
    let inserted = began.elapsed();
    let files = DIRS * FILES_A_DIR;
    let began = Instant::now();
    let mut met = 0;
    let mut visit = |_: crate::catalog::Met<'_>| {
        met += 1;
        ControlFlow::Continue(())
    };
    part.visit(b"", root, None, &mut visit).unwrap();
    let scanned = began.elapsed();
    assert_eq!(met, files + DIRS + 1);
    let (mut cursor, mut offered) = (Cursor::coldest(Class::Released), 0);
    let began = Instant::now();
    loop {
        let offers = part.offers(&mut cursor, Second(u32::MAX), 1_024).unwrap();
        if offers.is_empty() {
            break;
        }
        offered += offers.len() as u64;
    }
    let in_order = began.elapsed();
    assert_eq!(offered, files);
    let began = Instant::now();
    assert_eq!(part.totals().unwrap().files(), files);
    let summed = began.elapsed();
    let bytes = world.catalog().metadata().unwrap().len();
    let rate =
        |took: std::time::Duration| files * 1_000_000 / u64::try_from(took.as_micros()).unwrap();
    println!("catalog_insert      {:>10} files/s", rate(inserted));
    println!("catalog_scan        {:>10} files/s", rate(scanned));
    println!("catalog_candidates  {:>10} files/s", rate(in_order));
    println!("catalog_totals      {:>10} us", summed.as_micros());
    println!("catalog_bytes       {:>10} bytes/file", bytes / files);
    drop((part, _work));
    let began = Instant::now();
    drop(world.attach().unwrap());
    println!("catalog_open        {:>10} ms", began.elapsed().as_millis());
}
