//! A large file that is read in order: chunks come several in a request, ahead of the reader, and
//! a request that goes wrong costs another, not the file.

use coldfs::migrate::Outcome;
use coldfs::store::call::Call;
use coldfs::store::faulty::{Fault, Rule};
use tokio_util::sync::CancellationToken;

use super::world::{World, content, run};

/// What of it is no hole, chunks of 1 MiB.
const CHUNKS: usize = 11;

async fn released() -> World {
    let mut world = World::new(&["large"]).await;
    let cancel = CancellationToken::new();
    world.life().archive(&["large"], &cancel).await;
    let released = world.life().release(&["large"], &cancel).await;
    assert!(matches!(released[..], [Outcome::Done(_)]), "{released:?}");
    world.restart().await;
    world.store.take_seen();
    world
}

fn gets(world: &World) -> usize {
    world.store.take_seen().iter().filter(|call| **call == Call::Get).count()
}

#[test]
fn a_reader_and_the_fill_beside_it_live_on_few_requests() {
    run(async {
        let world = released().await;
        assert!(world.life().read_all("large").await == Ok(content("large")));
        let requests = gets(&world);
        assert!((3..=CHUNKS * 2 / 3).contains(&requests), "{requests} requests");
    });
}

#[test]
fn many_readers_in_order_share_what_is_fetched() {
    run(async {
        let world = released().await;
        let life = world.life();
        let whole = content("large");
        let readers = futures::future::join_all((0..4).map(|_| life.read_all("large"))).await;
        assert!(readers.into_iter().all(|read| read.as_ref() == Ok(&whole)));
        let requests = gets(&world);
        assert!(requests <= CHUNKS, "{requests} requests");
    });
}

#[test]
fn a_run_that_comes_wrong_is_asked_for_again_chunk_by_chunk() {
    for fault in [Fault::FlipBit(8 * 100_000), Fault::FlipBit(8 * 3_500_000)] {
        run(async {
            let world = released().await;
            world.store.script(Rule::new(Call::Get, fault.clone()).times(2));
            assert!(world.life().read_all("large").await == Ok(content("large")));
        });
    }
}
