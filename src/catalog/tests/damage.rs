//! A catalog that is lost, damaged, newer, another machine's or in use: nothing is lost.

use std::os::unix::fs::{FileExt, PermissionsExt};

use redb::{Database, ReadableDatabase};

use super::super::{FORMAT, tables};
use super::{CatalogError, World, finish};

#[test]
fn a_lost_catalog_is_rebuilt_equal() {
    let world = World::new();
    world.plant();
    let (part, mut work) = world.attach().unwrap();
    finish(&mut work);
    drop((part, work));
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&world.catalog()), 0o600);
    assert_eq!(mode(world.catalog().parent().unwrap()), 0o700);
    std::fs::remove_file(world.catalog()).unwrap();
    let (part, mut work) = world.attach().unwrap();
    finish(&mut work);
    world.agrees(&part);
}

#[test]
fn a_catalog_that_was_cut_off_in_the_middle_of_a_batch_is_finished() {
    for steps in 0..12 {
        let world = World::new();
        world.plant();
        let (part, mut work) = world.attach().unwrap();
        for _ in 0..steps {
            work.step(5).unwrap();
        }
        // What is in the file while it is open is what a kill leaves.
        let left = std::fs::read(world.catalog()).unwrap();
        work.step(5).unwrap();
        drop((part, work));
        std::fs::write(world.catalog(), left).unwrap();
        std::fs::write(world.data("a/since"), b"x").unwrap();
        let (part, mut work) = world.attach().unwrap();
        finish(&mut work);
        world.agrees(&part);
    }
}

/// Does something to the bytes of a good catalog; it is rebuilt equal.
fn rebuilt_after(damage: impl FnOnce(&std::fs::File, u64)) {
    let world = World::new();
    world.plant();
    let (part, mut work) = world.attach().unwrap();
    finish(&mut work);
    part.write(true, |_| Ok(())).unwrap();
    drop((part, work));
    let file = std::fs::OpenOptions::new().read(true).write(true).open(world.catalog()).unwrap();
    damage(&file, file.metadata().unwrap().len());
    drop(file);
    let (part, mut work) = world.attach().unwrap();
    finish(&mut work);
    world.agrees(&part);
}

#[test]
fn a_damaged_catalog_is_made_anew() {
    for part in 0..24 {
        rebuilt_after(|file, bytes| {
            let at = bytes / 24 * part + part * 131 % 4_096;
            let mut byte = [0; 64];
            let read = file.read_at(&mut byte, at).unwrap();
            byte.iter_mut().for_each(|byte| *byte ^= 0x55);
            file.write_all_at(&byte[..read], at).unwrap();
        });
    }
}

#[test]
fn a_catalog_that_was_cut_short_or_is_something_else_is_made_anew() {
    for keep in [1, 100, 4_096, 10_000] {
        rebuilt_after(|file, bytes| file.set_len(keep.min(bytes - 1)).unwrap());
    }
    rebuilt_after(|file, _| file.set_len(0).unwrap());
    rebuilt_after(|file, bytes| {
        file.write_all_at(&vec![7; usize::try_from(bytes).unwrap()], 0).unwrap()
    });
}

#[test]
fn a_newer_catalog_is_left_alone() {
    let world = World::new();
    drop(world.attach().unwrap());
    let sign = |format: &[u8]| {
        let database = Database::create(world.catalog()).unwrap();
        let write = database.begin_write().unwrap();
        write.open_table(tables::META).unwrap().insert("format", format).unwrap();
        write.commit().unwrap();
    };
    let next = (FORMAT + 1).to_string();
    sign(next.as_bytes());
    assert!(matches!(world.attach(), Err(CatalogError::Newer(newer)) if newer == FORMAT + 1));
    let database = Database::create(world.catalog()).unwrap();
    let read = database.begin_read().unwrap();
    let meta = read.open_table(tables::META).unwrap();
    assert_eq!(meta.get("format").unwrap().unwrap().value(), next.as_bytes(), "still there");
    drop((meta, read, database));
    // An older one is made anew, and so is what nobody wrote.
    for format in [(FORMAT - 1).to_string(), "what".to_owned()] {
        sign(format.as_bytes());
        world.attach().unwrap();
    }
}

#[test]
fn a_catalog_in_use_is_left_alone() {
    let world = World::new();
    world.plant();
    let (part, mut work) = world.attach().unwrap();
    assert!(matches!(world.attach(), Err(CatalogError::Locked)));
    finish(&mut work);
    world.agrees(&part);
}

#[test]
fn another_machines_catalog_is_made_anew() {
    let world = World::new();
    world.plant();
    let (part, mut work) = world.attach_on("another machine").unwrap();
    finish(&mut work);
    drop((part, work));
    let (part, mut work) = world.attach().unwrap();
    assert_eq!(part.totals().unwrap().files(), 0);
    finish(&mut work);
    world.agrees(&part);
}

#[test]
fn a_catalog_of_a_machine_without_a_name_is_made_anew() {
    let world = World::new();
    world.plant();
    for _ in 0..2 {
        let (part, mut work) = world.attach_on("").unwrap();
        assert_eq!(part.totals().unwrap().files(), 0, "maybe another's, without a name as well");
        finish(&mut work);
        world.agrees(&part);
    }
}

#[test]
fn why_a_catalog_is_done_without_says_what_to_do() {
    let (locked, newer) = (CatalogError::Locked.to_string(), CatalogError::Newer(9).to_string());
    assert!(locked.contains("coldfs status") && locked.contains("[catalog] dir"), "{locked}");
    assert!(newer.contains("use the coldfs that wrote it"), "{newer}");
}
