//! Waiting for somebody else's lease on the file below.

use std::time::Duration;

/// How long a call waits, before EBUSY: Linux's own lease-break-time, 45 s, and some.
const LEASE_PATIENCE: Duration = Duration::from_secs(50);
const LEASE_POLL: Duration = Duration::from_millis(20);

/// What is left of one call's patience.
pub(super) struct Patience(Duration);

impl Patience {
    pub(super) fn new() -> Self {
        Self(LEASE_PATIENCE)
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.is_zero()
    }

    /// Waits a moment.
    pub(super) async fn wait(&mut self) {
        self.0 = self.0.saturating_sub(LEASE_POLL);
        tokio::time::sleep(LEASE_POLL).await;
    }
}
