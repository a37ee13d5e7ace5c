//! Opening the store that a URL names.

use std::sync::Arc;

use crate::config::StoreUrl;
use crate::control::wire::{Problem, ProblemKind};
use crate::store::ObjectStore;
use crate::store::s3::{Options, S3Store};

/// Opens the store.
pub async fn open(url: &StoreUrl) -> Result<Arc<dyn ObjectStore>, Problem> {
    let opened = match url {
        StoreUrl::Disk(dir) => S3Store::embedded_in_time(dir.clone()).await,
        StoreUrl::S3 { .. } => S3Store::connect(&url.to_string(), Options::default()).await,
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
