//! Anything may happen, and be told in any order, some of it late: the catalog agrees with a
//! walk.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use super::{World, finish};
use crate::file_id::Ino;
use crate::tenant::{Pin, Places};
use crate::tier::State;

const ROUNDS: u32 = 12;
const OPERATIONS: u32 = 25;

/// All paths now, directories apart.
fn paths(root: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut dirs, mut files) = (vec![root.to_owned()], Vec::new());
    let mut at = 0;
    while let Some(dir) = dirs.get(at).cloned() {
        at += 1;
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name() == Some(".coldfs".as_ref()) {
                continue;
            }
            match path.symlink_metadata().unwrap().is_dir() {
                true => dirs.push(path),
                false => files.push(path),
            }
        }
    }
    (dirs, files)
}

/// Does one thing to the tree, and notes it as the verbs do.
fn operate(world: &World, dice: &mut StdRng) {
    let (dirs, files) = paths(&world.data(""));
    let dir = dirs.choose(dice).unwrap().clone();
    let fresh = dir.join(format!("n{}", dice.random_range(0..12)));
    let name = |path: &Path| {
        let dir = Ino(fs::metadata(path.parent().unwrap()).unwrap().ino());
        use std::os::unix::ffi::OsStrExt;
        world.tenant.noticed.name(dir, path.file_name().unwrap().as_bytes());
    };
    let file = |path: &Path| {
        world.tenant.noticed.file(Ino(fs::symlink_metadata(path).unwrap().ino()));
    };
    let some = files.choose(dice).cloned();
    let regular = some.clone().filter(|path| path.symlink_metadata().unwrap().is_file());
    match (dice.random_range(0..13), some, regular) {
        (0 | 1, _, _) if !fresh.exists() => {
            fs::write(&fresh, vec![1; dice.random_range(0..9_000)]).unwrap();
            name(&fresh);
        }
        (2 | 3, _, _) if fs::create_dir(&fresh).is_ok() => name(&fresh),
        (4, Some(old), _) => {
            fs::remove_file(&old).unwrap();
            name(&old);
        }
        (5, _, Some(old)) if fs::hard_link(&old, &fresh).is_ok() => {
            name(&fresh);
            file(&fresh);
        }
        (6, _, Some(old)) => {
            let mut open = OpenOptions::new().append(true).open(&old).unwrap();
            open.write_all(&vec![2; dice.random_range(1..5_000)]).unwrap();
            file(&old);
        }
        (7, Some(old), _) if !fresh.is_dir() && fs::rename(&old, &fresh).is_ok() => {
            name(&old);
            name(&fresh);
        }
        (8 | 9, _, _) => {
            let old = dirs.choose(dice).unwrap();
            if fs::rename(old, &fresh).is_ok() {
                name(old);
                name(&fresh);
            }
        }
        (10, _, _) if dirs.len() > 1 && fs::remove_dir(&dir).is_ok() => name(&dir),
        (11, _, Some(old)) => {
            let state = State::ALL[dice.random_range(0..State::ALL.len())];
            world.record(&old, state, dice.random_range(0..4));
        }
        (12, _, Some(old)) => {
            let pin = Some(Pin::NeverRelease).filter(|_| dice.random());
            world.tenant.set_pin(fs::File::open(&old).unwrap(), pin).unwrap();
        }
        _ => {}
    }
}

/// What was noticed, in parts of no order at all.
fn shuffled(places: Places, dice: &mut StdRng) -> Vec<Places> {
    let mut parts: Vec<Places> = Vec::new();
    parts.resize_with(dice.random_range(1..5), Places::default);
    for ino in places.files {
        parts.choose_mut(dice).unwrap().add_file(ino);
    }
    for (dir, names) in places.names {
        for name in names {
            parts.choose_mut(dice).unwrap().add_name(dir, &name);
        }
    }
    parts.shuffle(dice);
    parts
}

use rand::seq::IndexedMutRandom;

fn agrees_whatever_happens(seed: u64, by_handle: bool) {
    let world = World::finding(by_handle);
    world.plant();
    let mut dice = StdRng::seed_from_u64(seed);
    let (mut part, mut work) = world.attach().unwrap();
    for round in 0..ROUNDS {
        for _ in 0..OPERATIONS {
            operate(&world, &mut dice);
            if dice.random_ratio(1, 4) {
                work.step(dice.random_range(1..9)).unwrap();
            }
            if dice.random_ratio(1, 10) {
                let noticed = world.tenant.noticed.take();
                for places in shuffled(noticed, &mut dice) {
                    work.look(places).unwrap();
                }
            }
        }
        if round % 5 == 3 {
            // Detached, edited, attached.
            drop((part, work));
            operate(&world, &mut dice);
            drop(world.tenant.noticed.take());
            (part, work) = world.attach().unwrap();
        }
        for places in shuffled(world.tenant.noticed.take(), &mut dice) {
            work.look(places).unwrap();
        }
        finish(&mut work);
        world.agrees(&part);
    }
}

#[test]
fn the_catalog_agrees_with_a_walk_whatever_happens() {
    for seed in 0..14 {
        eprintln!("seed {seed}");
        agrees_whatever_happens(seed, true);
    }
}

#[test]
fn it_agrees_where_files_are_found_by_path_too() {
    for seed in 100..108 {
        eprintln!("seed {seed}");
        agrees_whatever_happens(seed, false);
    }
}
