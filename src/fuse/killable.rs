//! Waits that end when the waiting process is killed. The kernel does not let go of a process
//! that waits for a FUSE answer, so the daemon has to look.

use std::future::Future;
use std::time::Duration;

use crate::ops::Errno;
use crate::sys::killed::is_being_killed;

/// How often a waiting process is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The future's result, or EINTR once `pid` is being killed. `pid` 0 is the kernel.
pub(super) async fn wait<T>(
    pid: u32,
    future: impl Future<Output = Result<T, Errno>>,
) -> Result<T, Errno> {
    tokio::pin!(future);
    loop {
        tokio::select! {
            biased;
            result = &mut future => return result,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if pid != 0 && is_being_killed(pid) {
            return Err(Errno(libc::EINTR));
        }
    }
}
