//! Which threads may wait for a store: all but those that serve the kernel (I8).

use std::cell::Cell;

thread_local! {
    static IS_FUSE: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread as one that serves the kernel. Every handler calls it: it is a store.
pub fn enter() {
    IS_FUSE.set(true);
}

/// Panics on a thread that serves the kernel: a wait for a store here could hang the mount.
pub fn assert_may_wait() {
    assert!(!IS_FUSE.get(), "I8: a FUSE thread waits for the store");
}
