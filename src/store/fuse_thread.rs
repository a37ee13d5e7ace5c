//! I8: no FUSE thread waits on a store.
//!
//! A thread that answers FUSE requests marks itself; every store call asks. In a debug build a
//! call from such a thread panics, so that a test meets it. In release it is counted and logged
//! as an error: a slow answer is better than a dead mount.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

thread_local! {
    static ANSWERS_FUSE: Cell<bool> = const { Cell::new(false) };
}

static WAITED: AtomicU64 = AtomicU64::new(0);

/// Marks the calling thread as one that answers FUSE requests. Each handler may: it is a store.
pub fn enter() {
    ANSWERS_FUSE.set(true);
}

/// Asserts that the calling thread may wait for a store.
pub fn assert_may_wait() {
    if ANSWERS_FUSE.get() {
        WAITED.fetch_add(1, Ordering::Relaxed);
        debug_assert!(false, "I8: a FUSE thread called a store");
        tracing::error!("a FUSE thread called a store: the mount may stall; please report this");
    }
}

/// How often a FUSE thread called a store: 0 in a daemon without faults.
pub fn violations() -> u64 {
    WAITED.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fuse_thread_that_calls_a_store_is_caught() {
        assert_may_wait();
        let caught = std::thread::spawn(|| {
            enter();
            assert_may_wait();
        })
        .join();
        assert!(caught.is_err());
        assert!(violations() >= 1);
        assert_may_wait();
    }
}
