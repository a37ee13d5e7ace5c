//! Where something changed: for whoever keeps facts of files, to look there again.
//!
//! A note never says what is there now, so notes may be lost, doubled or read in any order: the
//! next look is right.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::file_id::Ino;

/// Places remembered at once. Beyond it all are forgotten, and [`Places::missed`] says that
/// everything is to be looked at.
pub const NOTICED: usize = 65_536;

/// Places that changed since they were taken last.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Files whose attributes, bytes or record changed.
    pub files: HashSet<Ino>,
    /// Names that came, went or changed hands, by directory.
    pub names: HashMap<Ino, BTreeSet<Box<[u8]>>>,
    /// Whether there were more than could be remembered.
    pub missed: bool,
    count: usize,
}

impl Places {
    /// Whether there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        self.count == 0 && !self.missed
    }

    /// Adds a file.
    pub fn add_file(&mut self, ino: Ino) {
        if !self.missed && self.files.insert(ino) {
            self.grown();
        }
    }

    /// Adds a name.
    pub fn add_name(&mut self, dir: Ino, name: &[u8]) {
        if self.missed {
            return;
        }
        let names = self.names.entry(dir).or_default();
        if !names.contains(name) {
            names.insert(name.into());
            self.grown();
        }
    }

    fn grown(&mut self) {
        self.count += 1;
        if self.count > NOTICED {
            *self = Self { missed: true, ..Self::default() };
        }
    }
}

/// Places told apart at once by whoever watches; further ones count as not touched.
const TOUCHED: usize = 1 << 20;

/// What a tenant's verbs noticed. Costs two flags where nobody listens, else a short lock.
#[derive(Debug, Default)]
pub struct Noticed {
    listened_to: AtomicBool,
    places: Mutex<Places>,
    watched: AtomicBool,
    touched: Mutex<HashSet<Ino>>,
}

/// Somebody watches which files and directories are touched. Dropped, nobody does.
#[derive(Debug)]
#[must_use = "what is touched is remembered only while this lives"]
pub struct Watch<'a>(&'a Noticed);

impl Watch<'_> {
    /// Whether verbs changed this one since the watch began.
    pub fn is_touched(&self, ino: Ino) -> bool {
        self.0.touched().contains(&ino)
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.0.watched.store(false, Ordering::Release);
        *self.0.touched() = HashSet::new();
    }
}

impl Noticed {
    /// From now on notes are kept, or are not.
    pub fn listen(&self, on: bool) {
        self.listened_to.store(on, Ordering::Release);
        if !on {
            drop(self.take());
        }
    }

    /// From now on it is remembered what verbs touch. One watch at a time.
    pub fn watch(&self) -> Watch<'_> {
        *self.touched() = HashSet::new();
        self.watched.store(true, Ordering::Release);
        Watch(self)
    }

    fn touched(&self) -> MutexGuard<'_, HashSet<Ino>> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self, ino: Ino) {
        if self.watched.load(Ordering::Acquire) {
            let mut touched = self.touched();
            if touched.len() < TOUCHED {
                touched.insert(ino);
            }
        }
    }

    /// A file's attributes, bytes or record changed.
    pub fn file(&self, ino: Ino) {
        self.touch(ino);
        self.note(|places| places.add_file(ino));
    }

    /// A name came, went or changed hands.
    pub fn name(&self, dir: Ino, name: &[u8]) {
        self.touch(dir);
        self.note(|places| places.add_name(dir, name));
    }

    /// Two names changed in one step: never to be seen apart, or what moved seems gone.
    pub fn names(&self, one: (Ino, &[u8]), other: (Ino, &[u8])) {
        self.touch(one.0);
        self.touch(other.0);
        self.note(|places| {
            places.add_name(one.0, one.1);
            places.add_name(other.0, other.1);
        });
    }

    /// All that was noted; there is nothing then.
    pub fn take(&self) -> Places {
        std::mem::take(&mut *self.places.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, add: impl FnOnce(&mut Places)) {
        if self.listened_to.load(Ordering::Acquire) {
            add(&mut self.places.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_remembered_once() {
        let noticed = Noticed::default();
        noticed.file(Ino(1));
        assert!(noticed.take().is_empty(), "nobody listens");
        noticed.listen(true);
        noticed.file(Ino(1));
        noticed.file(Ino(1));
        noticed.names((Ino(2), b"a"), (Ino(2), b"a"));
        let places = noticed.take();
        assert_eq!((places.files.len(), places.names[&Ino(2)].len(), places.count), (1, 1, 2));
        assert!(noticed.take().is_empty());
    }

    #[test]
    fn what_is_touched_is_remembered_only_while_somebody_watches() {
        let noticed = Noticed::default();
        noticed.name(Ino(1), b"a");
        let watch = noticed.watch();
        assert!(!watch.is_touched(Ino(1)), "before");
        noticed.names((Ino(1), b"a"), (Ino(2), b"b"));
        noticed.file(Ino(3));
        assert!([1, 2, 3].into_iter().all(|ino| watch.is_touched(Ino(ino))));
        assert!(!watch.is_touched(Ino(4)));
        drop(watch);
        assert!(!noticed.watch().is_touched(Ino(1)));
    }

    #[test]
    fn beyond_its_bound_it_forgets_and_says_so() {
        let noticed = Noticed::default();
        noticed.listen(true);
        for ino in 0..=NOTICED as u64 {
            noticed.file(Ino(ino));
        }
        noticed.name(Ino(1), b"later");
        let places = noticed.take();
        assert!(places.missed && !places.is_empty());
        assert!(places.files.is_empty() && places.names.is_empty());
        noticed.file(Ino(1));
        assert!(!noticed.take().missed, "told once");
    }
}
