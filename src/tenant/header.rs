//! The tenant's header object, `TENANT/owner`: whose prefix it is, and the key, so that
//! another node can rebuild the tenant from its store.

use bytes::Bytes;

use super::Home;
use super::home::Identity;
use super::standing::owner_key;
use crate::store::{ObjectKey, ObjectStore, StoreError};

/// Whether a store that does not know the tenant may become its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// Only where the tenant has none yet: its files may be stubs whose bytes lie elsewhere.
    Refuse,
    /// A person said so: what was released to another store can then not be read.
    Take,
}

/// Why a tenant's prefix cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The store does not answer as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is somebody else's.
    #[error(
        "{store} holds another tenant named {name:?}; choose another name with --tenant, or \
         another store"
    )]
    OtherTenant {
        /// The store's URL.
        store: String,
        /// The name both have.
        name: String,
    },
    /// The tenant's cold bytes lie in another store.
    #[error(
        "{store} has no tenant named {name:?}, whose cold files lie in {known}; name that store, \
         or, to leave what was released there behind, give --new-store"
    )]
    ElsewhereStored {
        /// The store's URL.
        store: String,
        /// The tenant.
        name: String,
        /// The URL of the store it used last.
        known: String,
    },
    /// The directory cannot say where its cold bytes lie.
    #[error("note the store in .coldfs/store: {0}")]
    Note(#[from] std::io::Error),
    /// It is this tenant's, with another key.
    #[error(
        "{key} in {store} has another key than .coldfs/tenant: one of them was changed; put the \
         object's text into .coldfs/tenant, or the other way round, whichever reads the stubs"
    )]
    OtherKey {
        /// The object.
        key: ObjectKey,
        /// The store's URL.
        store: String,
    },
    /// A newer coldfs wrote it.
    #[error("{key} in {store} is of {what}: use the coldfs that wrote it")]
    Newer {
        /// The object.
        key: ObjectKey,
        /// The store's URL.
        store: String,
        /// What is newer.
        what: String,
    },
    /// It cannot be read.
    #[error(
        "{key} in {store} is not an owner object of this coldfs: {what}; restore it from the \
         store's versions, or, if no other directory uses this tenant name, delete it and mount \
         again"
    )]
    Damaged {
        /// The object.
        key: ObjectKey,
        /// The store's URL.
        store: String,
        /// What is wrong.
        what: String,
    },
}

/// Largest owner object that is read, bytes.
const MAX_BYTES: u64 = 64 * 1024;

impl Home {
    /// Checks that the prefix in the store is this tenant's, taking it at first use, and notes
    /// the store in `.coldfs/store`. The owner object as it is in the store.
    pub async fn claim(
        &self,
        store: &dyn ObjectStore,
        unknown: Unknown,
    ) -> Result<Identity, HeaderError> {
        let identity = self.identity();
        let known = self.noted_store()?;
        let key = owner_key(&identity.name);
        let size = match store.size_bytes(&key).await {
            Ok(size) => size,
            Err(StoreError::NotFound { .. }) => {
                if let (Some(known), Unknown::Refuse) = (known, unknown) {
                    let (store, name) = (store.url().to_owned(), identity.name.clone());
                    return Err(HeaderError::ElsewhereStored { store, name, known });
                }
                let body = serde_json::to_vec_pretty(identity).unwrap_or_default();
                let size = body.len() as u64;
                match store.put_new(&key, Bytes::from(body)).await {
                    Err(StoreError::AlreadyExists { .. }) => store.size_bytes(&key).await?,
                    // Read back below: whoever rebuilds the tenant needs its key.
                    other => other.map(|()| size)?,
                }
            }
            Err(error) => return Err(error.into()),
        };
        let owner = self.owner(store, size).await?;
        self.note_store(store.url())?;
        Ok(owner)
    }

    /// The owner object, of `size` bytes, as it is in the store now: this tenant's.
    pub(super) async fn owner(
        &self,
        store: &dyn ObjectStore,
        size: u64,
    ) -> Result<Identity, HeaderError> {
        let identity = self.identity();
        let key = owner_key(&identity.name);
        let body = store.get(&key, 0..size.min(MAX_BYTES)).await?;
        if let Some(what) = Identity::newer(&body) {
            let store = store.url().to_owned();
            return Err(HeaderError::Newer { key, store, what });
        }
        let owner = Identity::parse(&body).map_err(|what| {
            let (key, store) = (key.clone(), store.url().to_owned());
            HeaderError::Damaged { key, store, what }
        })?;
        if owner.seal().tenant() != identity.seal().tenant() {
            let (store, name) = (store.url().to_owned(), identity.name.clone());
            return Err(HeaderError::OtherTenant { store, name });
        }
        if !owner.is_same_as(identity) {
            let store = store.url().to_owned();
            return Err(HeaderError::OtherKey { key, store });
        }
        Ok(owner)
    }
}
