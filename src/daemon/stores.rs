//! Opening the store that a URL names.

use std::sync::Arc;

use crate::config::{S3Options, StoreUrl};
use crate::control::wire::{Problem, ProblemKind};
use crate::store::Verify;
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

/// Settles how segments in it are proven: as the configuration says, else as the engine shows
/// itself, where it can be asked. A store that did not answer, and one in this process, which reads past the page cache,
/// are read back.
pub async fn settle_verify(store: &S3Store, url: &StoreUrl, asked: Option<Verify>, can_ask: bool) {
    let verify = match (asked, url) {
        (Some(asked), _) => asked,
        (None, StoreUrl::S3 { .. }) if can_ask => store.probe_verify().await,
        (None, _) => Verify::Readback,
    };
    store.prove_by(verify);
}
