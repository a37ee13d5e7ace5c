//! A tenant's candidates, from the catalog: coldest first, none younger than any rule moves.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use lru::LruCache;
use nix::sys::stat::FileStat;

use super::clock::Reading;
use super::facts::Moment;
use super::{Tiering, now};
use crate::bounded;
use crate::catalog::offers::{Class, Cursor, Offer};
use crate::catalog::{CatalogError, Part};
use crate::file_id::Ino;
use crate::policy::Offers;
use crate::policy::contract::{Candidate, Owner, Rulebook, Wants};
use crate::temperature::Second;
use crate::tenant::Pin;
use crate::walk::find;

/// Directories whose pins are remembered in a pass.
const DIRECTORIES: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");

/// Candidates of one pass.
pub(super) struct CatalogOffers {
    tiering: Arc<Tiering>,
    part: Part,
    moment: Moment,
    wants: Wants,
    /// What is still to be read: a class up to a time.
    left: VecDeque<(Cursor, Second)>,
    pins: LruCache<Ino, Option<Pin>>,
}

impl CatalogOffers {
    pub(super) fn new(
        tiering: &Arc<Tiering>,
        part: Part,
        moment: Moment,
        rulebook: &Rulebook,
    ) -> Self {
        let before = |seconds: u32| Second(moment.now.0.saturating_sub(seconds));
        // What makes room comes first.
        let mut left = VecDeque::from([
            (Cursor::coldest(Class::Archived), before(rulebook.release_after_seconds)),
            (Cursor::coldest(Class::Resident), before(rulebook.archive_after_seconds)),
        ]);
        if rulebook.recalls {
            left.push_back((Cursor::coldest(Class::Released), moment.now));
        }
        let tiering = Arc::clone(tiering);
        let pins = bounded::lru(DIRECTORIES);
        Self { tiering, part, moment, wants: rulebook.wants, left, pins }
    }

    /// The next offers of the catalog; none: that were all.
    fn read(&mut self, limit: usize) -> Result<Vec<Offer>, CatalogError> {
        while let Some((cursor, before)) = self.left.front_mut() {
            let offers = self.part.offers(cursor, *before, limit)?;
            if !offers.is_empty() {
                return Ok(offers);
            }
            self.left.pop_front();
        }
        Ok(Vec::new())
    }

    fn candidate(&mut self, offer: &Offer) -> Result<Candidate, CatalogError> {
        let above = match offer.dir.filter(|_| self.wants.contains(Wants::PIN)) {
            Some(dir) => self.part.pin_below(dir, &mut self.pins)?,
            None => None,
        };
        let pin = Pin::harder(offer.pin, above);
        let mut candidate = self.tiering.candidate(&self.moment, offer, pin);
        if self.wants.intersects(Wants::PATH | Wants::OWNER) {
            let path = self.part.path(offer.ino)?;
            if self.wants.contains(Wants::OWNER) {
                let found = path.as_deref().and_then(|path| find(&self.tiering.tenant, path).ok());
                candidate.owner = found.map(|found| owner(&found.stat));
            }
            candidate.path = path.map(|path| String::from_utf8_lossy(&path).into_owned());
        }
        Ok(candidate)
    }
}

pub(super) fn owner(stat: &FileStat) -> Owner {
    Owner { uid: stat.st_uid, gid: stat.st_gid }
}

impl Offers for CatalogOffers {
    fn next(&mut self, limit: usize) -> Result<Vec<Candidate>, String> {
        // The store below panics where it meets bytes that it never wrote.
        let read = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let offers = self.read(limit)?;
                if offers.is_empty() {
                    return Ok(Vec::new());
                }
                let now = now();
                let mut fit = offers;
                let state = self.tiering.state();
                fit.retain(|offer| !state.quarantine.has(offer.ino, now));
                drop(state);
                if !fit.is_empty() {
                    return fit.iter().map(|offer| self.candidate(offer)).collect();
                }
            }
        }));
        match read {
            Ok(Ok(candidates)) => Ok(candidates),
            Ok(Err(error)) => {
                let error: CatalogError = error;
                self.tiering.keeper.found_damaged(&error);
                Err(error.to_string())
            }
            Err(_panic) => Err("the catalog cannot be read".to_owned()),
        }
    }
}

impl Tiering {
    pub(super) fn moment(&self) -> Moment {
        let Reading { now, since } = self.clock.read();
        Moment {
            now,
            since,
            sight: self.tenant.heat.sight(),
            keeps_atime: self.keeps_atime,
            half_life: self.options.half_life,
        }
    }

    /// A file as its row has it, with what is not in its row yet: for one file, not for a pass over
    /// all.
    pub(super) fn offer(&self, part: &Part, ino: Ino) -> Result<Option<Offer>, CatalogError> {
        let ledger = &self.tenant.heat;
        // In this order: what leaves the ledger meanwhile is in the row.
        let (waiting, home) = (ledger.waiting(ino), ledger.home_since(ino).unwrap_or_default());
        let Some(mut offer) = part.offer(ino)? else { return Ok(None) };
        for touch in waiting {
            offer.heat.touch(touch.count, touch.last, touch.evidence, self.options.half_life);
        }
        offer.recalled = offer.recalled.max(home);
        Ok(Some(offer))
    }

    pub(super) fn candidate(&self, moment: &Moment, offer: &Offer, pin: Option<Pin>) -> Candidate {
        moment.candidate(offer, self.opens(offer.ino), pin)
    }

    /// Open file descriptions; one that is being opened or moved counts as open.
    pub(super) fn opens(&self, ino: Ino) -> u32 {
        let Some(inode) = self.inodes.get(ino) else { return 0 };
        inode.try_tier().map_or(1, |held| held.opens)
    }
}
