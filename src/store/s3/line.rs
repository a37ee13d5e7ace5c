//! The client of a store, made anew where its credentials turn out to be of yesterday, or its
//! region another's.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use aws_sdk_s3::Client;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::connect::Maker;

/// Credentials that are refused are not looked for again sooner.
const RENEW_PAUSE: Duration = Duration::from_secs(2);

/// A client, and how to make another.
#[derive(Debug)]
pub(super) struct Line {
    current: RwLock<(Client, u64)>,
    /// None: its client is all there is.
    maker: Option<Maker>,
    renewed: Mutex<Option<Instant>>,
}

impl Line {
    pub(super) fn new(client: Client, maker: Option<Maker>) -> Self {
        Self { current: RwLock::new((client, 0)), maker, renewed: Mutex::default() }
    }

    pub(super) fn client(&self) -> Client {
        self.current.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Which client it is.
    pub(super) fn number(&self) -> u64 {
        self.current.read().unwrap_or_else(PoisonError::into_inner).1
    }

    /// The credentials of client `number` were refused: looks for others, by the standard chain
    /// from its beginning. Whether a request may be made with another client now.
    pub(super) async fn renew(&self, number: u64) -> bool {
        let Some(maker) = &self.maker else { return false };
        let mut renewed = self.renewed.lock().await;
        if self.number() != number {
            return true;
        }
        if renewed.is_some_and(|at| at.elapsed() < RENEW_PAUSE) {
            return false;
        }
        let client = maker.client().await;
        *renewed = Some(Instant::now());
        match client {
            Ok(client) => {
                tracing::info!("credentials were refused: looked for anew");
                self.replace(client, number);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "credentials were refused, and none can be looked for");
                false
            }
        }
    }

    /// The engine says to client `number` that the bucket is in `region`: goes there, where nobody
    /// named another. Whether a request may be made with another client now.
    pub(super) async fn follow(&self, number: u64, region: &str) -> bool {
        let Some(maker) = &self.maker else { return false };
        let _one_at_a_time = self.renewed.lock().await;
        if self.number() != number {
            return true;
        }
        let client = match maker.follow(region).await {
            Ok(false) => return false,
            Ok(true) => maker.client().await,
            Err(error) => Err(error),
        };
        match client {
            Ok(client) => {
                tracing::warn!(
                    region,
                    "no region was named: the bucket is in this one, says the engine; name it \
                     (AWS_REGION)"
                );
                self.replace(client, number);
                true
            }
            Err(error) => {
                tracing::warn!(%error, region, "cannot go to the bucket's region");
                false
            }
        }
    }

    fn replace(&self, client: Client, number: u64) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = (client, number + 1);
    }
}
