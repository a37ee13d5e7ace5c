//! Threads that serve the kernel.

use crate::store::fuse_thread;

/// Makes this thread one that serves the kernel: with a umask of its own, and never waiting for
/// a store.
pub(super) fn own() {
    thread_local! {
        static READY: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }
    if !READY.replace(true) {
        fuse_thread::enter();
        if let Err(error) = crate::sys::unshare_thread_fs() {
            tracing::error!(%error, "a FUSE thread shares its umask with the others");
        }
    }
}
