//! A few attempts within a deadline.
//!
//! The SDK's own retries are off: its retry bucket is one a process and it knows nothing of our
//! deadlines. How many are made at once is for [`super::governor`].

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::StoreError;

/// How often and how fast.
#[derive(Clone, Debug)]
pub struct Options {
    /// Attempts in all. Four with these pauses bridge the hiccups of S3 (503 for under a second);
    /// longer ones are for the caller, who knows whether anybody waits.
    pub attempts: u32,
    /// Longest pause after the first failure; doubled after each.
    pub first_pause: Duration,
    /// Longest pause at all.
    pub longest_pause: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            attempts: 4,
            // The SDKs' base is 1 s with jitter; a reader is waiting here.
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(2),
        }
    }
}

/// Time limits of a call.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For one attempt.
    pub attempt: Duration,
    /// For all of them and the pauses.
    pub total: Duration,
}

/// Calls until it succeeds, fails for good, or time is up. `call` is told how many attempts were
/// made before; each has leave by `admit`, and its time begins then. `timed_out` makes the error of
/// one that did not end.
pub async fn retry<T, F, A, P, L>(
    options: &Options,
    limits: Limits,
    timed_out: impl Fn(Duration) -> StoreError,
    admit: impl Fn() -> L,
    mut call: F,
) -> Result<T, StoreError>
where
    F: FnMut(u32) -> A,
    A: Future<Output = Result<T, StoreError>>,
    L: Future<Output = Result<P, StoreError>>,
{
    let end = tokio::time::Instant::now() + limits.total;
    let mut before = 0;
    loop {
        let attempt = async {
            let permit = tokio::time::timeout_at(end, admit());
            let _permit = permit.await.map_err(|_elapsed| timed_out(limits.total))??;
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            let limit = limits.attempt.min(left);
            let answer = tokio::time::timeout(limit, call(before)).await;
            answer.map_err(|_elapsed| timed_out(limit))?
        };
        let error = match attempt.await {
            Ok(value) => return Ok(value),
            Err(error) if !error.is_transient() => return Err(error),
            Err(error) => error,
        };
        before += 1;
        let pause = pause(options, before);
        if before >= options.attempts || tokio::time::Instant::now() + pause >= end {
            return Err(error);
        }
        tracing::debug!(%error, ?pause, "try again");
        tokio::time::sleep(pause).await;
    }
}

/// Anything from nothing to a limit that doubles: many clients that failed together shall not
/// come back together.
fn pause(options: &Options, failures: u32) -> Duration {
    let doubled = options.first_pause.saturating_mul(1 << (failures - 1).min(16));
    let longest = doubled.min(options.longest_pause);
    // A fresh RandomState is the standard library's source of randomness.
    let random = RandomState::new().hash_one(failures);
    longest
        .mul_f64(f64::from(u16::try_from(random >> 48).unwrap_or(u16::MAX)) / f64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::super::ObjectKey;
    use super::*;

    fn unavailable() -> StoreError {
        StoreError::Unavailable {
            action: "get",
            key: ObjectKey::new("k"),
            store: "s".into(),
            reason: "busy".into(),
        }
    }

    fn quick() -> Options {
        let pause = Duration::from_millis(1);
        Options { first_pause: pause, longest_pause: pause, ..Options::default() }
    }

    async fn free() -> Result<(), StoreError> {
        Ok(())
    }

    fn limits(total: u64) -> Limits {
        Limits { attempt: Duration::from_secs(10), total: Duration::from_secs(total) }
    }

    #[tokio::test]
    async fn a_hiccup_is_bridged_and_a_refusal_is_final() {
        let options = quick();
        let answer = retry(
            &options,
            limits(60),
            |_| unavailable(),
            free,
            async |before| match before {
                0..3 => Err(unavailable()),
                _ => Ok(before),
            },
        );
        assert_eq!(answer.await.unwrap(), 3);

        let refused = || StoreError::NotFound { key: ObjectKey::new("k"), store: "s".into() };
        let answer = retry(
            &options,
            limits(60),
            |_| unavailable(),
            free,
            async |before| {
                assert_eq!(before, 0);
                Err::<(), _>(refused())
            },
        );
        assert!(matches!(answer.await, Err(StoreError::NotFound { .. })));
    }

    #[tokio::test]
    async fn a_call_that_hangs_ends_at_the_deadline() {
        let began = tokio::time::Instant::now();
        let answer: Result<(), _> =
            retry(&quick(), limits(1), |_| unavailable(), free, |_| std::future::pending()).await;
        assert!(answer.is_err_and(|error| error.is_transient()));
        assert!(began.elapsed() >= Duration::from_millis(900));
    }

    #[test]
    fn pauses_stay_below_their_limit() {
        let options = Options::default();
        for failures in 1..40 {
            assert!(pause(&options, failures) <= options.longest_pause);
        }
    }
}
