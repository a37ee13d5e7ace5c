//! Turns: a few at once, and one that takes long makes room for the others.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// How long a turn keeps others waiting.
const TURN: Duration = Duration::from_secs(10);

/// Who does something that takes a turn.
#[derive(Debug)]
pub(super) struct Turns {
    at_once: Semaphore,
    /// For those that have had theirs and are still at it.
    held_up: Semaphore,
    turn: Duration,
}

impl Turns {
    /// So many at once, and so many beside them that take longer than a turn is meant to.
    pub(super) fn new(at_once: usize, held_up: usize) -> Self {
        let (at_once, held_up) = (Semaphore::new(at_once), Semaphore::new(held_up));
        Self { at_once, held_up, turn: TURN }
    }

    /// Waits for a turn and takes it. None: stopped before it came.
    pub(super) async fn run<T>(
        &self,
        stop: &CancellationToken,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        // Never closed, so never refused.
        let turn = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            turn = self.at_once.acquire() => turn,
        };
        let mut work = std::pin::pin!(work);
        let _beside = tokio::select! {
            done = &mut work => return Some(done),
            beside = async {
                tokio::time::sleep(self.turn).await;
                self.held_up.acquire().await
            } => beside,
        };
        drop(turn);
        Some(work.await)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const SOON: Duration = Duration::from_millis(1);
    const NEVER: Duration = Duration::from_secs(3_600);
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Five that never end take their turns; how many have begun.
    fn five(turns: Turns) -> Arc<AtomicU32> {
        let (turns, begun) = (Arc::new(turns), Arc::new(AtomicU32::new(0)));
        for _ in 0..5 {
            let (turns, begun) = (Arc::clone(&turns), Arc::clone(&begun));
            tokio::spawn(async move {
                let work = async {
                    begun.fetch_add(1, Ordering::SeqCst);
                    pending::<()>().await;
                };
                turns.run(&CancellationToken::new(), work).await;
            });
        }
        begun
    }

    /// Whether so many begin, and no more.
    async fn becomes(begun: &AtomicU32, wanted: u32) -> bool {
        let become_so = async {
            while begun.load(Ordering::SeqCst) < wanted {
                tokio::time::sleep(SOON).await;
            }
        };
        let became = tokio::time::timeout(PATIENCE, become_so).await.is_ok();
        tokio::time::sleep(100 * SOON).await;
        became && begun.load(Ordering::SeqCst) == wanted
    }

    #[tokio::test]
    async fn whoever_takes_long_makes_room_up_to_a_bound() {
        let others_wait = five(Turns { turn: NEVER, ..Turns::new(1, 2) });
        assert!(becomes(&others_wait, 1).await);
        let two_are_held_up = five(Turns { turn: SOON, ..Turns::new(1, 2) });
        assert!(becomes(&two_are_held_up, 3).await, "and one has its turn");
    }

    #[tokio::test]
    async fn who_is_done_makes_room_and_who_is_stopped_waits_no_more() {
        let turns = Turns { turn: NEVER, ..Turns::new(1, 0) };
        for _ in 0..100 {
            assert_eq!(turns.run(&CancellationToken::new(), async { 7 }).await, Some(7));
        }
        let stop = CancellationToken::new();
        let waits = turns.run(&stop, pending::<()>());
        let _turn = turns.at_once.acquire().await;
        stop.cancel();
        assert_eq!(waits.await, None);
    }
}
