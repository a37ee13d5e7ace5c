//! Whether a directory may delete objects of its tenant now, asked of the store anew: a clone of it,
//! or one that took over, may have come since it was mounted.

use super::{HeaderError, Standing, Tenant, may_reap};
use crate::store::StoreError;

/// Why nothing of a tenant may be deleted.
#[derive(Debug, thiserror::Error)]
pub enum NoRight {
    /// Another directory owns what is in the store.
    #[error("another directory owns what is in the store")]
    Guest,
    /// When it was mounted the store did not say.
    #[error("whose it is was not known when it was mounted")]
    Unknown,
    /// Others' stubs may name the same objects.
    #[error("{0} copies of the directory say that they are there")]
    Guests(usize),
    /// Nothing can be noted where nothing can be written.
    #[error("the mount, or the filesystem below, is read-only")]
    ReadOnly,
    /// The store does not say now.
    #[error("whose it is cannot be asked: {0}")]
    Owner(#[from] HeaderError),
    /// The store does not say now.
    #[error("whether there are copies cannot be asked: {0}")]
    Store(#[from] StoreError),
}

impl NoRight {
    /// What a person can do.
    pub fn next_step(&self) -> &'static str {
        match self {
            NoRight::Guest => "run it on the other, or, where that is gone, mount with --take-over",
            NoRight::Unknown => "detach and mount again, with the store reachable",
            NoRight::Guests(_) => {
                "detach them for good and delete their objects under TENANT/guests/ in the store"
            }
            NoRight::ReadOnly => "mount it read-write",
            NoRight::Owner(_) | NoRight::Store(_) => {
                "check the store (`coldfs doctor --store URL`)"
            }
        }
    }
}

impl Tenant {
    /// Asks the store whether this directory may delete anything there.
    pub async fn right_to_reap(&self) -> Result<(), NoRight> {
        if !self.may_move() {
            return Err(NoRight::ReadOnly);
        }
        if self.standing == Standing::Unknown {
            return Err(NoRight::Unknown);
        }
        let standing = match self.standing {
            Standing::Guest => Standing::Guest,
            Standing::Owner | Standing::Unknown => self.home.stands(&*self.store).await?,
        };
        let guests = match standing {
            Standing::Owner => self.home.guests(&*self.store).await?,
            Standing::Guest | Standing::Unknown => return Err(NoRight::Guest),
        };
        if may_reap(&standing, Some(guests)) { Ok(()) } else { Err(NoRight::Guests(guests)) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::{ObjectKey, ObjectStore};
    use crate::tenant::{Home, Succession, Unknown};

    #[tokio::test]
    async fn the_right_goes_with_the_owner_object_and_with_any_guest() {
        let target = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
        let dir = tempfile::tempdir_in(target).unwrap();
        let store = MemoryStore::new();
        let home = Home::open(dir.path(), None, "t").unwrap();
        let owner = home.claim(&store, Unknown::Refuse).await.unwrap();
        let standing = home.stand(&store, &owner, Succession::Keep).await.unwrap();
        let tenant = Tenant::new(home, Arc::new(store.clone())).unwrap();
        let no_standing = tenant.right_to_reap().await;
        assert!(matches!(no_standing, Err(NoRight::Unknown)), "{no_standing:?}");
        let tenant = tenant.standing_as(standing);
        tenant.right_to_reap().await.unwrap();

        let guest = ObjectKey::new("t/guests/0123");
        store.put(&guest, "{}".into()).await.unwrap();
        let with_a_guest = tenant.right_to_reap().await;
        assert!(matches!(with_a_guest, Err(NoRight::Guests(1))), "{with_a_guest:?}");
        store.delete(&guest).await.unwrap();
        tenant.right_to_reap().await.unwrap();

        // Somebody else began a term: it is in the store, and not known here.
        let key = ObjectKey::new("t/owner");
        let size = store.size_bytes(&key).await.unwrap();
        let body = store.get(&key, 0..size).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        let displaced = text.replace("\"epoch\": 1", "\"epoch\": 2");
        assert_ne!(displaced, text);
        store.put(&key, displaced.into()).await.unwrap();
        let displaced = tenant.right_to_reap().await;
        assert!(matches!(displaced, Err(NoRight::Guest)), "{displaced:?}");
        store.delete(&key).await.unwrap();
        let unanswered = tenant.right_to_reap().await;
        assert!(matches!(unanswered, Err(NoRight::Store(_) | NoRight::Owner(_))), "{unanswered:?}");

        let still = tenant.mounted_read_only(true).right_to_reap().await;
        assert!(matches!(still, Err(NoRight::ReadOnly)), "{still:?}");
    }
}
