//! Files that lie beside each other in a segment cost few requests, in whatever order they are
//! read; and what came along is believed no more than what was asked for.

use coldfs::migrate::Outcome;
use coldfs::store::call::Call;
use coldfs::store::faulty::{Fault, Rule};
use tokio_util::sync::CancellationToken;

use super::world::{World, content, run};

/// Small enough to have one chunk.
const FILES: usize = 200;

fn names() -> Vec<String> {
    (0..FILES).map(|number| format!("small-{number:03}")).collect()
}

async fn released(names: &[&str]) -> World {
    let mut world = World::new(names).await;
    let cancel = CancellationToken::new();
    world.life().archive(names, &cancel).await;
    let released = world.life().release(names, &cancel).await;
    assert!(released.iter().all(|outcome| matches!(outcome, Outcome::Done(_))), "{released:?}");
    assert_eq!(world.segments().len(), 1);
    world.restart().await;
    world
}

/// As a shell sorts them, or a hash: not as they lie.
fn mixed<'a>(names: &[&'a str]) -> Vec<&'a str> {
    (0..names.len()).map(|number| names[number * 37 % names.len()]).collect()
}

fn gets(world: &World) -> usize {
    world.store.take_seen().iter().filter(|call| **call == Call::Get).count()
}

#[test]
fn files_of_a_segment_are_fetched_together_in_whatever_order() {
    run(async {
        let names = names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let world = released(&names).await;
        world.store.take_seen();
        for name in mixed(&names) {
            assert!(world.life().read_all(name).await == Ok(content(name)), "{name}");
        }
        let requests = gets(&world);
        // Two by themselves, then blocks of a segment of some MiB.
        assert!((3..=FILES / 8).contains(&requests), "{requests} requests for {FILES} files");
    });
}

#[test]
fn a_block_that_came_wrong_is_not_believed_and_not_kept() {
    run(async {
        let names = names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let world = released(&names).await;
        // The third get is the first of a block.
        let bit = Fault::FlipBit(8 * 100_000);
        world.store.script(Rule::new(Call::Get, bit).skipping(2).times(2));
        for name in mixed(&names) {
            assert!(world.life().read_all(name).await == Ok(content(name)), "{name}");
        }
    });
}

#[test]
fn readers_of_many_files_at_once_share_what_is_fetched() {
    run(async {
        let names = names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let world = released(&names).await;
        world.store.take_seen();
        let life = world.life();
        let all = futures::future::join_all(names.iter().map(|name| life.read_all(name))).await;
        for (name, read) in names.iter().zip(all) {
            assert!(read == Ok(content(name)), "{name}");
        }
        let requests = gets(&world);
        assert!(requests <= FILES / 8, "{requests} requests for {FILES} files");
    });
}
