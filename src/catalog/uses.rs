//! Uses of files, from the tenant's ledger into the rows: a round now and then.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::CatalogError;
use super::eyes::Eyes;
use super::part::Part;
use crate::file_id::{FileHandle, Ino};
use crate::heat::{FILES_WAITING, Sight, Source, Touch, Via};
use crate::temperature::{Evidence, HalfLife, Heat, Second, Warmth};

/// How often uses go from the ledger to the rows: often enough that a death of the machine
/// loses little, rarely enough that a file in use costs one row a while.
const USES_EVERY: Duration = Duration::from_secs(30);
/// Rounds for which a use of a file that is not known yet waits, once the walk is over.
const UNKNOWN_ROUNDS: u32 = 2;

/// Uses of files, on their way from the ledger to the rows.
pub(super) struct Uses {
    half_life: HalfLife,
    written: Instant,
    /// Of files that are not known: how many rounds they have waited.
    unknown: Vec<(Ino, Touch, u32)>,
    /// Files that were open at the last round.
    open: HashSet<Ino>,
    /// Files that came home and are not known.
    homecomers: HashMap<Ino, Second>,
}

impl Uses {
    pub(super) fn new(half_life: HalfLife) -> Self {
        let (unknown, open, homecomers) = (Vec::new(), HashSet::new(), HashMap::new());
        Self { half_life, written: Instant::now(), unknown, open, homecomers }
    }

    /// Whether it is time to write them.
    pub(super) fn are_due(&self) -> bool {
        self.written.elapsed() >= USES_EVERY
    }

    /// Writes them into their rows. `walked`: whether every file of the tenant has been met. Says
    /// whether there were any.
    pub(super) fn write(
        &mut self,
        part: &Part,
        eyes: &Eyes,
        walked: bool,
    ) -> Result<bool, CatalogError> {
        self.written = Instant::now();
        let ledger = &eyes.tenant.heat;
        let waited = std::mem::take(&mut self.unknown);
        let mut uses: Vec<_> =
            ledger.take().into_iter().map(|(ino, touch)| (ino, touch, 0)).collect();
        uses.extend(waited);
        uses.extend(self.held(eyes));
        let mut homecomers = std::mem::take(&mut self.homecomers);
        homecomers.extend(ledger.take_recalled());
        if uses.is_empty() && homecomers.is_empty() {
            return Ok(false);
        }
        let mut unknown = Vec::new();
        part.write(false, |batch| {
            for (ino, touch, rounds) in uses {
                if !batch.used(ino, &touch, self.half_life)? {
                    unknown.push((ino, touch, rounds + u32::from(walked)));
                }
            }
            for (ino, at) in homecomers {
                // The walk will meet it; once that is over, it is gone.
                if !batch.came_home(ino, at)? && !walked {
                    self.homecomers.insert(ino, at);
                }
            }
            Ok(())
        })?;
        ledger.written();
        // Of other directories on the same filesystem, once the walk has met all of this one's.
        unknown.retain(|(_, _, rounds)| *rounds < UNKNOWN_ROUNDS);
        if unknown.len() > FILES_WAITING {
            ledger.gap(Second::now(), 0);
            unknown.clear();
        }
        self.unknown = unknown;
        Ok(true)
    }

    /// Files that are open now and were at the last round: whoever has one mapped uses it, and
    /// nobody sees that.
    fn held(&mut self, eyes: &Eyes) -> Vec<(Ino, Touch, u32)> {
        let open = eyes.inodes.open_files();
        let (last, evidence) = (Second::now(), Evidence::Held);
        let touch = Touch { via: Via::Below, generation: 0, count: 0, last, evidence };
        let before = std::mem::replace(&mut self.open, open);
        self.open.intersection(&before).map(|ino| (*ino, touch, UNKNOWN_ROUNDS)).collect()
    }
}

/// What it takes to say how warm files are: for what is vouched, and what is not in the rows yet.
#[derive(Debug)]
pub struct Weighing {
    pub(super) sight: Sight,
    pub(super) waiting: HashMap<Ino, Vec<Touch>>,
    pub(super) half_life: HalfLife,
    pub(super) now: Second,
}

impl Weighing {
    /// How warm a file is whose row says this. `open`: it is in use now.
    pub fn warmth(&self, ino: Ino, handle: &FileHandle, row: Heat, open: bool) -> Warmth {
        let mut heat = row;
        let waiting = self.waiting.get(&ino).into_iter().flatten();
        for touch in waiting.filter(|touch| touch.is_of(handle)) {
            heat.touch(touch.count, touch.last, touch.evidence, self.half_life);
        }
        let sight = &self.sight;
        let idle_seconds = match sight.source {
            _ if open => Some(0),
            Source::Probe(_) => Some(heat.idle_seconds(sight.until, sight.since)),
            // Unknown is not cold.
            Source::Nothing | Source::Partly(_) | Source::Opens => None,
        };
        let score = heat.score(self.now, self.half_life);
        Warmth { heat, score, watched_since: sight.since, idle_seconds }
    }
}
