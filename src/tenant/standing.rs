//! Whose a tenant's objects are where a data directory was copied: of all the copies that know
//! the key, one owns them, and the others are its guests.
//!
//! The owner object carries a term: a number, a token, and the place of the directory whose it is.
//! Each mount of the owner begins a new one, in the store and in `.coldfs/terms`. A directory that
//! knows another term (a backup was restored), or stands elsewhere (a clone), is a guest: it says
//! so under `TENANT/guests/`, works, and may delete nothing, because others' stubs name the same
//! objects.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::header::HeaderError;
use super::home::{Home, Identity};
use crate::file_id::SegmentId;
use crate::store::{ObjectKey, ObjectStore, StoreError};

/// One mount's ownership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Term {
    epoch: u64,
    token: String,
    place: String,
}

/// What a directory knows of one store's terms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Known {
    /// Begun, and known to be in the store.
    held: Option<Term>,
    /// Begun; a crash may have come before it was in the store, or after.
    begun: Option<Term>,
}

/// Of each store, by URL.
pub(super) type Terms = BTreeMap<String, Known>;

/// Whether a directory is the owner of what its tenant has in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is.
    Owner,
    /// Another directory is.
    Guest,
    /// The store did not say.
    Unknown,
}

/// What a person wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Succession {
    /// The owner stays the owner.
    Keep,
    /// This directory becomes the owner: the one that was is gone.
    TakeOver,
}

/// Whether a directory may delete objects of its tenant: only the owner, and only while there is
/// nobody else whose stubs may name them. What is not known is no permission.
pub fn may_reap(standing: &Standing, guests: Option<usize>) -> bool {
    match standing {
        Standing::Owner => guests == Some(0),
        Standing::Guest | Standing::Unknown => false,
    }
}

/// Who a directory at `place` is, that knows `known`, where the store says `stored`.
fn judge(stored: Option<&Term>, known: &Known, place: &str) -> Standing {
    // Nobody has begun a term: whoever knows the key comes first.
    let Some(stored) = stored else { return Standing::Owner };
    let is_ours = [&known.held, &known.begun].into_iter().flatten().any(|term| term == stored);
    if is_ours && stored.place == place { Standing::Owner } else { Standing::Guest }
}

/// The objects under which guests say that they are there.
fn guests_prefix(name: &str) -> String {
    format!("{name}/guests/")
}

#[derive(Serialize)]
struct Guest<'a> {
    format: u32,
    uuid: &'a str,
    place: &'a str,
    host: String,
}

impl Home {
    /// Finds out whose the objects are; the owner begins a term, a guest says that it is there.
    /// `owner` is the owner object as it was just read.
    pub async fn stand(
        &self,
        store: &dyn ObjectStore,
        owner: &Identity,
        succession: Succession,
    ) -> Result<Standing, StandError> {
        let (name, place) = (self.identity().name.as_str(), self.place()?);
        let mut terms = self.terms()?;
        let known = terms.entry(store.url().to_owned()).or_default();
        let standing = match succession {
            Succession::Keep => judge(owner.term(), known, &place),
            Succession::TakeOver => Standing::Owner,
        };
        let guest = ObjectKey::new(format!("{}{place}", guests_prefix(name)));
        if standing == Standing::Guest {
            let (uuid, place, host) = (owner.uuid(), place.as_str(), host());
            let body = serde_json::to_vec_pretty(&Guest { format: 1, uuid, place, host });
            store.put(&guest, Bytes::from(body.unwrap_or_default())).await?;
            return Ok(standing);
        }
        if self.is_read_only() {
            // A term that cannot be noted here would make a guest of it.
            return Ok(standing);
        }
        let last = [owner.term(), known.held.as_ref()];
        let last = last.into_iter().flatten().map(|term| term.epoch).max().unwrap_or(0);
        let (epoch, token) = (last.saturating_add(1), SegmentId::generate().to_string());
        let term = Term { epoch, token, place };
        known.begun = Some(term.clone());
        self.note_terms(&terms)?;
        let body = serde_json::to_vec_pretty(&owner.with_term(term.clone())).unwrap_or_default();
        store.put(&owner_key(name), Bytes::from(body)).await?;
        let known = terms.entry(store.url().to_owned()).or_default();
        *known = Known { held: Some(term), begun: None };
        self.note_terms(&terms)?;
        if succession == Succession::TakeOver {
            store.delete(&guest).await?;
        }
        Ok(standing)
    }

    /// Whose the objects are now, asked anew: another directory may have taken over since the mount.
    pub async fn stands(&self, store: &dyn ObjectStore) -> Result<Standing, HeaderError> {
        let size = store.size_bytes(&owner_key(&self.identity().name)).await?;
        let owner = self.owner(store, size).await?;
        let known = self.terms()?.remove(store.url()).unwrap_or_default();
        Ok(match owner.term() {
            // Whoever was the owner began a term.
            None => Standing::Guest,
            stored => judge(stored, &known, &self.place()?),
        })
    }

    /// How many guests say that they are there.
    pub async fn guests(&self, store: &dyn ObjectStore) -> Result<usize, StoreError> {
        Ok(store.list(&guests_prefix(&self.identity().name), None).await?.len())
    }
}

/// Why nobody can say whose the objects are.
#[derive(Debug, thiserror::Error)]
pub enum StandError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The directory.
    #[error("note a term in .coldfs/terms: {0}")]
    Note(#[from] io::Error),
}

/// The key of the owner object.
pub(super) fn owner_key(name: &str) -> ObjectKey {
    ObjectKey::new(format!("{name}/owner"))
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing;
    use crate::store::memory::MemoryStore;
    use crate::tenant::Unknown;

    #[test]
    fn decoding_terms_never_panics() {
        let known = Known { held: Some(term(3, "a", "here")), begun: None };
        let good = Terms::from([("disk:/store".to_owned(), known)]);
        fuzzing::run(|dice| {
            if let Some(terms) = fuzzing::read_json(dice, &good) {
                for known in terms.values() {
                    judge(known.held.as_ref(), known, "here");
                }
            }
        });
    }

    fn term(epoch: u64, token: &str, place: &str) -> Term {
        Term { epoch, token: token.into(), place: place.into() }
    }

    #[test]
    fn the_owner_is_who_began_the_term_that_is_stored_and_stands_where_it_did() {
        let here = term(3, "a", "here");
        let known = |held: &Term| Known { held: Some(held.clone()), begun: None };
        for (stored, known, standing) in [
            (None, Known::default(), Standing::Owner),
            (Some(&here), known(&here), Standing::Owner),
            // A crash between the store's note and ours.
            (
                Some(&here),
                Known { held: Some(term(2, "b", "here")), begun: Some(here.clone()) },
                Standing::Owner,
            ),
            // A restored backup, another's term of that number, a clone, one that knows nothing.
            (Some(&here), known(&term(2, "b", "here")), Standing::Guest),
            (Some(&here), known(&term(3, "b", "here")), Standing::Guest),
            (Some(&term(3, "a", "there")), known(&term(3, "a", "there")), Standing::Guest),
            (Some(&here), Known::default(), Standing::Guest),
        ] {
            assert_eq!(judge(stored, &known, "here"), standing, "{stored:?} {known:?}");
        }
    }

    #[test]
    fn a_guest_may_not_reap_and_an_owner_with_guests_neither() {
        assert!(may_reap(&Standing::Owner, Some(0)));
        for (standing, guests) in [
            (Standing::Owner, Some(1)),
            (Standing::Owner, None),
            (Standing::Guest, Some(0)),
            (Standing::Unknown, Some(0)),
        ] {
            assert!(!may_reap(&standing, guests), "{standing:?} {guests:?}");
        }
    }

    async fn mount(dir: &std::path::Path, store: &MemoryStore, wish: Succession) -> Standing {
        let home = Home::open(dir, None, "t").unwrap();
        let owner = home.claim(store, Unknown::Refuse).await.unwrap();
        home.stand(store, &owner, wish).await.unwrap()
    }

    #[tokio::test]
    async fn a_copy_is_a_guest_until_it_takes_over() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/target").unwrap();
        let (first, copy) = (dir.path().join("first"), dir.path().join("copy"));
        std::fs::create_dir(&first).unwrap();
        let store = MemoryStore::new();
        for _ in 0..3 {
            assert_eq!(mount(&first, &store, Succession::Keep).await, Standing::Owner);
        }
        std::fs::create_dir_all(copy.join(".coldfs")).unwrap();
        for entry in std::fs::read_dir(first.join(".coldfs")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.join(".coldfs").join(entry.file_name())).unwrap();
        }
        assert_eq!(mount(&copy, &store, Succession::Keep).await, Standing::Guest);
        assert_eq!(mount(&first, &store, Succession::Keep).await, Standing::Owner);
        let guests = async || {
            let home = Home::open(&first, None, "t").unwrap();
            home.guests(&store).await.unwrap()
        };
        assert_eq!(guests().await, 1, "once, however often it is mounted");
        let stands = async |dir: &std::path::Path| {
            Home::open(dir, None, "t").unwrap().stands(&store).await.unwrap()
        };
        assert_eq!(stands(&first).await, Standing::Owner);
        assert_eq!(stands(&copy).await, Standing::Guest);
        assert_eq!(mount(&copy, &store, Succession::TakeOver).await, Standing::Owner);
        assert_eq!(guests().await, 0);
        assert_eq!(stands(&first).await, Standing::Guest, "displaced");
        assert_eq!(stands(&copy).await, Standing::Owner);
        assert_eq!(mount(&first, &store, Succession::Keep).await, Standing::Guest);
        assert_eq!(mount(&copy, &store, Succession::Keep).await, Standing::Owner);
    }
}
