//! Files in order of temperature.

use std::num::NonZeroUsize;
use std::process::Command;

use super::{World, finish};
use crate::catalog::offers::{Class, Cursor};
use crate::file_id::Ino;
use crate::heat::{Touch, Via};
use crate::temperature::{Evidence, HalfLife, Second};
use crate::tenant::Pin;
use crate::tier::State;

fn age(world: &World, name: &str, days: u32) {
    let when = format!("{days} days ago");
    let path = world.data(name);
    let touched = Command::new("touch").args(["-a", "-m", "-d", &when]).arg(path).status().unwrap();
    assert!(touched.success());
}

fn ino(world: &World, name: &str) -> Ino {
    Ino(std::os::unix::fs::MetadataExt::ino(&world.data(name).metadata().unwrap()))
}

#[test]
fn the_coldest_come_first_in_parts_and_nothing_younger_than_asked() {
    let world = World::new();
    std::fs::create_dir(world.data("d")).unwrap();
    for (name, days) in [("d/warm", 3), ("d/old", 90), ("d/older", 365), ("new", 0)] {
        std::fs::write(world.data(name), vec![1; 9_000]).unwrap();
        age(&world, name, days);
    }
    std::fs::write(world.data("small"), vec![1; 4_096]).unwrap();
    age(&world, "small", 365);
    let (part, mut work) = world.attach().unwrap();
    finish(&mut work);
    let now = Second::now();
    let before = Second(now.0 - 86_400);
    let mut cursor = Cursor::coldest(Class::Resident);
    let mut met = Vec::new();
    loop {
        let offers = part.offers(&mut cursor, before, 2).unwrap();
        if offers.is_empty() {
            break;
        }
        assert!(offers.len() <= 2);
        met.extend(offers.iter().map(|offer| offer.ino));
    }
    assert_eq!(met, ["d/older", "d/old", "d/warm"].map(|name| ino(&world, name)));
    assert_eq!(part.path(met[0]).unwrap().unwrap(), b"d/older");
    let none = part.offers(&mut Cursor::coldest(Class::Archived), now, 10).unwrap();
    assert!(none.is_empty());
    part.is_consistent();
}

#[test]
fn a_use_a_move_and_a_recall_put_a_file_where_it_belongs() {
    let world = World::new();
    for (name, days) in [("used", 90), ("idle", 60)] {
        std::fs::write(world.data(name), vec![1; 9_000]).unwrap();
        world.record(&world.data(name), State::Archived, 1);
        age(&world, name, days);
        world.record(&world.data(name), State::Archived, 1);
    }
    let (part, mut work) = world.attach().unwrap();
    finish(&mut work);
    let now = Second::now();
    let (later, before) = (Second(now.0 + 7_200), Second(now.0 + 86_400));
    let archived = || {
        let offers = part.offers(&mut Cursor::coldest(Class::Archived), before, 10).unwrap();
        offers.iter().map(|offer| offer.ino).collect::<Vec<_>>()
    };
    let (used, idle) = (ino(&world, "used"), ino(&world, "idle"));
    // Whatever their atimes say, both were made just now: in the order of their numbers.
    let mut both = [used, idle];
    both.sort();
    assert_eq!(archived(), both);
    let touch =
        Touch { via: Via::Below, generation: 0, count: 1, last: later, evidence: Evidence::Probe };
    part.write(false, |batch| {
        batch.used(used, &touch, HalfLife::default())?;
        batch.came_home(idle, now).map(drop)
    })
    .unwrap();
    assert_eq!(archived(), [idle, used], "the one that was used is the warmer now");
    assert_eq!(part.offer(idle).unwrap().unwrap().recalled, now);
    std::fs::remove_file(world.data("idle")).unwrap();
    world.tenant.noticed.name(part.root(), b"idle");
    work.look(world.tenant.noticed.take()).unwrap();
    assert_eq!(archived(), [used]);
    part.is_consistent();
}

#[test]
fn a_pin_above_counts() {
    let world = World::new();
    std::fs::create_dir_all(world.data("a/b")).unwrap();
    std::fs::write(world.data("a/b/f"), vec![1; 9_000]).unwrap();
    let dir = std::fs::File::open(world.data("a")).unwrap();
    world.tenant.set_pin(&dir, Some(Pin::NeverRelease)).unwrap();
    let (part, mut work) = world.attach().unwrap();
    finish(&mut work);
    let mut known = lru::LruCache::new(NonZeroUsize::new(8).unwrap());
    for _ in 0..2 {
        let pin = part.pin_below(ino(&world, "a/b"), &mut known).unwrap();
        assert_eq!(pin, Some(Pin::NeverRelease));
    }
    assert_eq!(part.pin_below(part.root(), &mut known).unwrap(), None);
}
