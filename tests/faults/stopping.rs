//! A recall that is stopped, at any moment of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coldfs::recall::RecallError;
use coldfs::store::call::Call;
use coldfs::store::faulty::{Fault, Rule};

use super::paths::Path;
use super::world::{DEADLINE, content, run, until};

/// Lives that end while a recall fills the file.
const LIVES: u32 = 250;
/// For whatever a life has left running.
const AFTERWARDS: Duration = Duration::from_millis(15);

#[test]
fn a_recall_that_is_stopped_leaves_a_stub_and_nothing_that_still_writes() {
    // Threads that are kept from running are what a stop can overtake.
    let busy = Busy::new(4);
    run(async {
        let whole = content("range");
        let mut world = Path::ReadByRange.prepare().await;
        let mut stopped = 0;
        for life in 0..LIVES {
            let running = u64::from(life % 50) * 300;
            let middle =
                tokio::time::timeout(Duration::from_micros(running), world.life().recall("range"));
            stopped += u32::from(middle.await.is_err());
            world.stop().await;
            tokio::time::sleep(AFTERWARDS).await;
            assert!(world.is_whole_or_stub("range", &whole), "stopped after {running} us");
            world.start().await;
            assert_eq!(world.life().read_all("range").await.as_ref(), Ok(&whole));
            world.life().recall("range").await.unwrap();
            world.life().release_once_closed("range").await;
        }
        assert!(stopped > LIVES / 10, "hardly any was stopped: no test");
    });
    drop(busy);
}

#[test]
fn whoever_comes_while_a_cancelled_recall_ends_is_not_cancelled() {
    run(async {
        for file in ["a", "range"] {
            let path = if file == "a" { Path::RecallWhole } else { Path::ReadByRange };
            let world = path.prepare().await;
            // It is joined by whoever comes: it has to end within a deadline.
            world.store.script(Rule::new(Call::Get, Fault::Delay(DEADLINE / 3)));
            let life = world.life();
            let comes = async {
                until("a recall is under way", || life.cancel(file)).await;
                life.recall(file).await
            };
            let (cancelled, came) = futures::join!(life.recall(file), comes);
            assert!(matches!(cancelled, Err(RecallError::Cancelled)), "{file}: {cancelled:?}");
            assert!(came.is_ok(), "{file}: {came:?}");
            assert_eq!(life.read_all(file).await.as_ref(), Ok(&content(file)));
        }
    });
}

#[test]
fn a_recall_that_begins_after_its_file_was_replaced_leaves_the_new_bytes() {
    run(async {
        let mut world = Path::ReadByRange.prepare().await;
        let new = content("new");
        assert_eq!(world.life().replace_under_a_recall("range", &new).await, Ok(()));
        assert_eq!(world.life().read_all("range").await.as_ref(), Ok(&new));
        world.restart().await;
        assert_eq!(world.life().read_all("range").await.as_ref(), Ok(&new));
    });
}

/// Threads that only take time, until they are dropped.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn new(threads: usize) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        for _ in 0..threads {
            let over = Arc::clone(&over);
            std::thread::spawn(move || while !over.load(Ordering::Relaxed) {});
        }
        Self(over)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
