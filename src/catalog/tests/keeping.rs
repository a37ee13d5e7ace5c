//! The thread.

use std::sync::Arc;
use std::time::Duration;

use super::World;
use crate::catalog::{CatalogError, Keeper, Options, Phase};
use crate::file_id::Ino;

const PATIENCE: Duration = Duration::from_secs(60);

fn start(world: &World) -> Keeper {
    let options = Options {
        path: world.catalog(),
        by_handle: true,
        half_life: crate::temperature::HalfLife::default(),
    };
    Keeper::start(Arc::clone(&world.tenant), Arc::clone(&world.inodes), options).unwrap()
}

#[test]
fn what_happened_before_a_question_is_in_the_answer() {
    let world = World::new();
    world.plant();
    let keeper = start(&world);
    assert_eq!(keeper.settled(PATIENCE).phase, Phase::Complete);
    let root = Ino(std::os::unix::fs::MetadataExt::ino(&world.data("").metadata().unwrap()));
    for number in 0..20 {
        let name = format!("later{number}");
        std::fs::write(world.data(&name), b"x").unwrap();
        world.tenant.noticed.name(root, name.as_bytes());
        let report = keeper.settled(PATIENCE);
        world.agrees(report.answers().unwrap());
    }
    keeper.stop();
    world.tenant.noticed.file(Ino(1));
    assert!(world.tenant.noticed.take().is_empty(), "nobody listens");
    let keeper = start(&world);
    world.agrees(keeper.settled(PATIENCE).answers().unwrap());
}

#[test]
fn a_catalog_that_cannot_be_kept_is_done_without() {
    let world = World::new();
    let blocked = world.dir.path().join("state");
    std::fs::write(&blocked, b"a file where a directory should be").unwrap();
    let keeper = start(&world);
    let report = keeper.settled(PATIENCE);
    assert!(matches!(&report.phase, Phase::Without(why) if why.contains("catalog.redb")));
    assert!(report.answers().is_none());
    drop(keeper);
    let keeper = Keeper::without(Arc::clone(&world.tenant), "a reason".into());
    assert_eq!(keeper.settled(PATIENCE).phase, Phase::Without("a reason".into()));
}

#[test]
fn one_that_a_reader_finds_damaged_is_made_anew() {
    let world = World::new();
    world.plant();
    let keeper = start(&world);
    let before = keeper.settled(PATIENCE).part.unwrap();
    keeper.found_damaged(&CatalogError::Damaged("a row".into()));
    drop(before);
    world.agrees(keeper.settled(PATIENCE).answers().unwrap());
    // Whatever is wrong is wrong again: it is done without.
    keeper.found_damaged(&CatalogError::Damaged("a row".into()));
    let report = keeper.settled(PATIENCE);
    assert!(matches!(&report.phase, Phase::Without(why) if why.contains("a row")));
}

#[test]
fn one_that_is_damaged_while_it_is_kept_is_made_anew() {
    let world = World::new();
    world.plant();
    drop(world.attach().unwrap());
    // Rows that no walk writes, under checksums that fit.
    {
        use super::super::tables;
        let database = redb::Database::create(world.catalog()).unwrap();
        let machine = crate::catalog::this_machine();
        let write = database.begin_write().unwrap();
        write.open_table(tables::META).unwrap().insert("machine", machine.as_bytes()).unwrap();
        let mut files = write.open_table(tables::FILES).unwrap();
        files.retain(|_, _| false).unwrap();
        let ino = Ino(std::os::unix::fs::MetadataExt::ino(&world.data("a").metadata().unwrap()));
        let key = super::super::keys::file(super::super::keys::TenantNumber(1), ino);
        files.insert(&key[..], &b"no row"[..]).unwrap();
        drop(files);
        write.commit().unwrap();
    }
    let keeper = start(&world);
    world.agrees(keeper.settled(PATIENCE).answers().unwrap());
}
