//! Stores: opened once, however many tenants have their cold files in one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use crate::config::{S3Options, StoreUrl};
use crate::control::wire::{Counters, Problem, ProblemKind};
use crate::store::Verify;
use crate::store::governor::Governor;
use crate::store::s3::S3Store;

/// Opens the store.
pub async fn open(url: &StoreUrl, options: &S3Options) -> Result<Arc<S3Store>, Problem> {
    let opened = match url {
        StoreUrl::Disk(dir) => S3Store::embedded_in_time(dir.clone()).await,
        StoreUrl::S3 { .. } => {
            S3Store::connect(&url.to_string(), options.dial(), options.options()).await
        }
    };
    match opened {
        Ok(store) => Ok(Arc::new(store)),
        Err(error) => Err(Problem::new(
            ProblemKind::Store,
            format!("open {url}: {error}"),
            "check the URL and its permissions, or see `coldfs doctor --store URL`",
        )),
    }
}

/// The stores that tenants have open.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    stores: Mutex<Vec<Arc<Shelved>>>,
    traffic: Mutex<Traffic>,
}

/// A store that is open, or was.
#[derive(Debug)]
struct Shelved {
    url: StoreUrl,
    options: S3Options,
    store: tokio::sync::Mutex<Opened>,
    /// Whether it is settled how segments in it are proven.
    settled: tokio::sync::Mutex<bool>,
}

/// How it went when it was opened last.
#[derive(Debug, Default)]
struct Opened {
    store: Weak<S3Store>,
    failed: Option<(Instant, Problem)>,
}

/// What went to stores and came back.
#[derive(Debug, Default)]
struct Traffic {
    governors: Vec<Arc<Governor>>,
    /// Of those that nobody uses any more.
    ended: Counters,
}

impl Shelf {
    /// The store, opened unless another tenant has it open.
    pub(super) async fn open(
        &self,
        url: &StoreUrl,
        options: &S3Options,
    ) -> Result<Arc<S3Store>, Problem> {
        let (shelved, asked) = (self.shelved(url, options), Instant::now());
        let mut known = shelved.store.lock().await;
        if let Some(store) = known.store.upgrade() {
            return Ok(store);
        }
        // Whoever waited while another found that it cannot be opened need not find out again: a
        // disk that hangs would keep each of them for as long.
        if let Some((at, problem)) = &known.failed
            && *at > asked
        {
            return Err(problem.clone());
        }
        let opened = open(url, options).await;
        known.failed = opened.as_ref().err().map(|problem| (Instant::now(), problem.clone()));
        let store = opened?;
        known.store = Arc::downgrade(&store);
        *shelved.settled.lock().await = false;
        self.count(store.governor());
        Ok(store)
    }

    /// Settles how segments in it are proven: as the configuration says, else as the engine shows
    /// itself, where it can be asked. A store that did not answer, and one in this process, which
    /// reads past the page cache, are read back.
    pub(super) async fn settle_verify(
        &self,
        store: &S3Store,
        url: &StoreUrl,
        options: &S3Options,
        can_ask: bool,
    ) {
        let shelved = self.shelved(url, options);
        let mut settled = shelved.settled.lock().await;
        let verify = match (options.verify(), url) {
            (Some(asked), _) => asked,
            (None, StoreUrl::S3 { .. }) if can_ask => match *settled {
                true => return,
                false => store.probe_verify().await,
            },
            // Whoever may ask, later, settles it.
            (None, StoreUrl::S3 { .. }) => return,
            (None, StoreUrl::Disk(_)) => Verify::Readback,
        };
        store.prove_by(verify);
        *settled = true;
    }

    fn shelved(&self, url: &StoreUrl, options: &S3Options) -> Arc<Shelved> {
        let mut stores = lock(&self.stores);
        let is_it = |shelved: &&Arc<Shelved>| shelved.url == *url && shelved.options == *options;
        if let Some(shelved) = stores.iter().find(is_it) {
            return Arc::clone(shelved);
        }
        // Whoever has it in hand keeps it.
        let is_open = |opened: &Opened| opened.store.strong_count() > 0;
        stores.retain(|shelved| {
            Arc::strong_count(shelved) > 1
                || shelved.store.try_lock().is_ok_and(|store| is_open(&store))
        });
        let (url, options) = (url.clone(), options.clone());
        let (store, settled) = (tokio::sync::Mutex::default(), tokio::sync::Mutex::default());
        stores.push(Arc::new(Shelved { url, options, store, settled }));
        Arc::clone(&stores[stores.len() - 1])
    }

    fn count(&self, governor: Arc<Governor>) {
        let mut traffic = lock(&self.traffic);
        let Traffic { governors, ended } = &mut *traffic;
        governors.retain(|known| {
            let is_used = Arc::strong_count(known) > 1;
            if !is_used {
                ended.add(&counters(known));
            }
            is_used
        });
        if !governors.iter().any(|known| Arc::ptr_eq(known, &governor)) {
            governors.push(governor);
        }
    }

    /// What went to all of them since the start.
    pub(super) fn traffic(&self) -> Counters {
        let traffic = lock(&self.traffic);
        let mut sum = traffic.ended.clone();
        traffic.governors.iter().for_each(|governor| sum.add(&counters(governor)));
        sum
    }
}

fn counters(governor: &Governor) -> Counters {
    let traffic = governor.traffic();
    let requests: BTreeMap<_, _> = traffic.requests;
    Counters {
        s3_requests_total: requests,
        s3_throttled_total: traffic.throttled,
        ..Counters::default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
