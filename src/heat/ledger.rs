//! What was seen of one tenant's files and is not yet in its catalog.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Kind;
use super::owners::{Number, Owners};
use crate::file_id::{FileHandle, Ino};
use crate::temperature::{Evidence, Second};

/// Files that wait for the catalog at once. Beyond it accesses are lost, and counted as lost.
pub const FILES_WAITING: usize = 262_144;

/// Through which of a file's two inodes it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    /// The one below the mount.
    Below,
    /// The mount's own, where the daemon serves it.
    Mount,
}

/// Where accesses are seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Nowhere yet.
    #[default]
    Nothing,
    /// In the kernel.
    Probe(Kind),
    /// In the kernel, but on a stacked filesystem, where a file may be read by another inode than
    /// its own: what is seen is true, what is not seen proves nothing.
    Partly(Kind),
    /// At opens through the mount: reads behind it are not seen.
    Opens,
}

/// For what a ledger vouches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// By what.
    pub source: Source,
    /// From when on without a gap.
    pub since: Second,
    /// Until when: what happened later is not taken yet.
    pub until: Second,
    /// Accesses that are known to be lost.
    pub lost: u64,
    /// How often sight was interrupted.
    pub gaps: u64,
}

/// Accesses of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// Through which inode.
    pub via: Via,
    /// That inode's generation; 0: not told.
    pub generation: u32,
    /// How many.
    pub count: u64,
    /// No later than this.
    pub last: Second,
    /// What tells of them.
    pub evidence: Evidence,
}

impl Touch {
    /// Whether it is of the file with this handle, not of an earlier one with its number.
    pub fn is_of(&self, handle: &FileHandle) -> bool {
        let generation = match self.via {
            Via::Below => handle.inode_generation(),
            Via::Mount => Some(handle.generation()),
        };
        self.generation == 0 || generation.is_none_or(|is| is == self.generation)
    }
}

/// Where a ledger says which files are its own.
type Place = (Arc<Mutex<Owners>>, Number);

#[derive(Debug, Default)]
struct Inner {
    sight: Sight,
    /// In order: what waits of one file is found without a look at all.
    touched: BTreeMap<(Ino, u32), Touch>,
    /// Files that came home, and when.
    recalled: HashMap<Ino, Second>,
    /// On their way into the rows.
    touched_taken: BTreeMap<(Ino, u32), Touch>,
    recalled_taken: HashMap<Ino, Second>,
    place: Option<Place>,
}

/// One tenant's ledger.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Inner>);

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on accesses are seen so.
    pub fn begin(&self, source: Source, now: Second) {
        let mut inner = self.lock();
        inner.sight.source = source;
        (inner.sight.since, inner.sight.until) = (now, now);
    }

    /// Another kind of probe sees from now on what a probe saw before.
    pub(super) fn seen_by(&self, kind: Kind) {
        let source = &mut self.lock().sight.source;
        match source {
            Source::Probe(before) | Source::Partly(before) => *before = kind,
            Source::Nothing | Source::Opens => {}
        }
    }

    /// Something was not seen: from now on anew. `lost`: accesses, as far as they were counted.
    pub fn gap(&self, now: Second, lost: u64) {
        let mut inner = self.lock();
        inner.sight.since = inner.sight.since.max(now);
        inner.sight.lost = inner.sight.lost.saturating_add(lost);
        inner.sight.gaps += 1;
    }

    /// The wall clock was set: what it said before cannot be compared with what it says now.
    pub fn clock_set(&self, now: Second) {
        let mut inner = self.lock();
        (inner.sight.since, inner.sight.until) = (now, now);
        inner.sight.gaps += 1;
    }

    /// All that happened before this is taken.
    pub fn seen_until(&self, then: Second) {
        let mut inner = self.lock();
        inner.sight.until = inner.sight.until.max(then);
    }

    /// For what it vouches.
    pub fn sight(&self) -> Sight {
        let sight = self.lock().sight;
        match sight.source {
            // Opens are noted as they come.
            Source::Opens => Sight { until: Second::now(), ..sight },
            Source::Nothing | Source::Probe(_) | Source::Partly(_) => sight,
        }
    }

    /// From now on it says there which files are its own.
    pub(super) fn tell(&self, owners: &Arc<Mutex<Owners>>, number: Number) {
        self.lock().place = Some((Arc::clone(owners), number));
    }

    /// Says something where files' owners are known, where it is watched at all.
    fn told<T: Default>(&self, say: impl FnOnce(&mut Owners, Number) -> T) -> T {
        let place = self.lock().place.clone();
        let Some((owners, number)) = place else { return T::default() };
        // Not under this ledger's lock: whoever gives holds the owners'.
        let mut owners = owners.lock().unwrap_or_else(PoisonError::into_inner);
        say(&mut owners, number)
    }

    /// These files are its tenant's.
    pub fn owns(&self, files: impl Iterator<Item = Ino>) {
        let waited: Vec<_> = self.told(|owners, number| {
            let own = |ino| owners.own(number, ino).into_iter().map(move |touch| (ino, touch));
            files.flat_map(own).collect()
        });
        waited.into_iter().for_each(|(ino, touch)| self.add(ino, touch));
    }

    /// Whether all of its tenant's files have been met, and told by [`Ledger::owns`] since it is
    /// watched. As long as not, it is given what nobody else owns.
    pub fn has_met_all(&self, all: bool) {
        self.told(|owners, number| owners.has_met_all(number, all));
    }

    /// Adds accesses of a file.
    pub fn add(&self, ino: Ino, touch: Touch) {
        let mut inner = self.lock();
        if inner.touched.len() >= FILES_WAITING
            && !inner.touched.contains_key(&(ino, touch.generation))
        {
            drop(inner);
            self.gap(touch.last, touch.count);
            return;
        }
        let known =
            inner.touched.entry((ino, touch.generation)).or_insert(Touch { count: 0, ..touch });
        known.count = known.count.saturating_add(touch.count);
        if touch.last >= known.last {
            (known.last, known.evidence) = (touch.last, touch.evidence);
        }
    }

    /// A file was opened through the mount: counts where nothing better is seen.
    pub fn opened(&self, ino: Ino) {
        if self.lock().sight.source == Source::Opens {
            self.add(
                ino,
                Touch {
                    via: Via::Below,
                    generation: 0,
                    count: 1,
                    last: Second::now(),
                    evidence: Evidence::Open,
                },
            );
        }
    }

    /// A file's bytes came home.
    pub fn came_home(&self, ino: Ino, now: Second) {
        let mut inner = self.lock();
        if inner.recalled.len() < FILES_WAITING || inner.recalled.contains_key(&ino) {
            inner.recalled.insert(ino, now);
            return;
        }
        drop(inner);
        // It would be taken for one that never was away: let nothing count as idle.
        self.gap(now, 0);
    }

    /// When a file came home, if that waits still.
    pub fn home_since(&self, ino: Ino) -> Option<Second> {
        let inner = self.lock();
        inner.recalled.get(&ino).or_else(|| inner.recalled_taken.get(&ino)).copied()
    }

    /// All that came home; it is seen here until [`Ledger::written`].
    pub fn take_recalled(&self) -> HashMap<Ino, Second> {
        let mut inner = self.lock();
        inner.recalled_taken = std::mem::take(&mut inner.recalled);
        inner.recalled_taken.clone()
    }

    /// What waits of one file, whatever its generation.
    pub fn waiting(&self, ino: Ino) -> Vec<Touch> {
        let inner = self.lock();
        let of_it = (ino, 0)..=(ino, u32::MAX);
        let all = inner.touched.range(of_it.clone()).chain(inner.touched_taken.range(of_it));
        all.map(|(_, touch)| *touch).collect()
    }

    /// What waits of each file.
    pub fn all_waiting(&self) -> HashMap<Ino, Vec<Touch>> {
        let mut waiting: HashMap<Ino, Vec<Touch>> = HashMap::new();
        let inner = self.lock();
        for ((ino, _), touch) in inner.touched.iter().chain(&inner.touched_taken) {
            waiting.entry(*ino).or_default().push(*touch);
        }
        waiting
    }

    /// All that waits; it is seen here until [`Ledger::written`].
    pub fn take(&self) -> Vec<(Ino, Touch)> {
        let mut inner = self.lock();
        inner.touched_taken = std::mem::take(&mut inner.touched);
        inner.touched_taken.iter().map(|((ino, _), touch)| (*ino, *touch)).collect()
    }

    /// What was taken is in the rows now.
    pub fn written(&self) {
        let mut inner = self.lock();
        (inner.touched_taken, inner.recalled_taken) = Default::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(generation: u32, last: u32) -> Touch {
        let (via, last, evidence) = (Via::Below, Second(last), Evidence::Probe);
        Touch { via, generation, count: 1, last, evidence }
    }

    #[test]
    fn what_is_on_its_way_into_the_rows_is_seen_until_it_is_there() {
        let ledger = Ledger::default();
        ledger.add(Ino(7), touch(1, 5));
        ledger.came_home(Ino(7), Second(6));
        assert_eq!((ledger.take().len(), ledger.take_recalled().len()), (1, 1));
        assert_eq!(ledger.waiting(Ino(7)), [touch(1, 5)]);
        assert_eq!(ledger.all_waiting()[&Ino(7)], [touch(1, 5)]);
        assert_eq!(ledger.home_since(Ino(7)), Some(Second(6)));
        ledger.written();
        assert!(ledger.waiting(Ino(7)).is_empty() && ledger.home_since(Ino(7)).is_none());
    }

    #[test]
    fn accesses_add_up_by_generation() {
        let ledger = Ledger::default();
        for (generation, at) in [(1, 5), (1, 3), (2, 9)] {
            ledger.add(Ino(7), touch(generation, at));
        }
        let mut taken = ledger.take();
        taken.sort_by_key(|(_, touch)| touch.generation);
        assert_eq!(taken[0].1, Touch { count: 2, ..touch(1, 5) });
        assert_eq!(taken[1].1, touch(2, 9));
        assert!(ledger.take().is_empty());
    }

    #[test]
    fn beyond_its_bound_it_loses_and_says_so() {
        let ledger = Ledger::default();
        ledger.begin(Source::Probe(Kind::TpBtf), Second(1));
        for ino in 0..=FILES_WAITING as u64 {
            ledger.add(Ino(ino), touch(0, 50));
        }
        let sight = ledger.sight();
        assert_eq!((sight.since, sight.lost, sight.gaps), (Second(50), 1, 1));
        ledger.add(Ino(3), touch(0, 60));
        assert_eq!(ledger.sight().gaps, 1, "one that waits already has its room");
    }

    #[test]
    fn opens_count_only_where_nothing_better_sees() {
        let ledger = Ledger::default();
        ledger.begin(Source::Probe(Kind::RawTp), Second(1));
        ledger.opened(Ino(7));
        assert!(ledger.take().is_empty());
        ledger.begin(Source::Opens, Second(1));
        ledger.opened(Ino(7));
        assert_eq!(ledger.take()[0].1.evidence, Evidence::Open);
    }

    #[test]
    fn another_files_accesses_are_not_taken_for_this_ones() {
        let ext4 = |generation: u32| FileHandle {
            kind: 1,
            bytes: [12_u32.to_le_bytes(), generation.to_le_bytes()].concat().into(),
        };
        assert!(touch(5, 1).is_of(&ext4(5)) && !touch(5, 1).is_of(&ext4(6)));
        assert!(touch(0, 1).is_of(&ext4(6)), "the classic tracepoint does not tell");
        let mount = Touch { via: Via::Mount, ..touch(ext4(5).generation(), 1) };
        assert!(mount.is_of(&ext4(5)) && !mount.is_of(&ext4(6)));
    }
}
