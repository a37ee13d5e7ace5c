//! Names that may be lost in a power cut: given, or perhaps given, and not known to be on disk.
//!
//! A name appears before its directory is synced, and the sync may fail, hang or never come. Who
//! asks for such an object meanwhile, a retry of its put above all, must not take it for stored:
//! it is synced first. A process that ends with doubts leaves its workshop behind, by which the
//! next one knows to sync all there is (see [`super::layout`]).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Names that are remembered. Once there were more, every name is doubted until the process
/// ends: a disk that fails so often has worse troubles than slow reads.
const MAX_NAMES: usize = 4096;

/// The names in doubt. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Doubts(Arc<Mutex<Names>>);

#[derive(Debug, Default)]
struct Names {
    /// How many doubt each.
    doubted: HashMap<PathBuf, usize>,
    too_many: bool,
}

impl Doubts {
    /// Doubts a name from before it is given until [`Doubt::settle`]; for good without that.
    pub fn begin(&self, name: &Path) -> Doubt<'_> {
        let mut names = self.names();
        if names.doubted.len() < MAX_NAMES {
            *names.doubted.entry(name.to_owned()).or_default() += 1;
        } else {
            names.too_many = true;
        }
        Doubt { doubts: self, name: name.to_owned() }
    }

    /// Whether a name must be synced before anybody is told of it.
    pub fn has(&self, name: &Path) -> bool {
        let names = self.names();
        names.too_many || names.doubted.contains_key(name)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        let names = self.names();
        !names.too_many && names.doubted.is_empty()
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One doubt of a name.
#[must_use = "a doubt that is not settled stays"]
#[derive(Debug)]
pub struct Doubt<'a> {
    doubts: &'a Doubts,
    name: PathBuf,
}

impl Doubt<'_> {
    /// The name is on disk, or was not given.
    pub fn settle(self) {
        let mut names = self.doubts.names();
        if let Some(count) = names.doubted.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                names.doubted.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_stays_until_all_who_have_it_settle() {
        let doubts = Doubts::default();
        let name = Path::new("/n");
        let (first, second) = (doubts.begin(name), doubts.begin(name));
        first.settle();
        assert!(doubts.has(name) && !doubts.has(Path::new("/other")));
        second.settle();
        assert!(doubts.is_empty());
        drop(doubts.begin(name));
        assert!(doubts.has(name), "given up: nobody knows");
    }

    #[test]
    fn too_many_doubts_doubt_everything() {
        let doubts = Doubts::default();
        for number in 0..=MAX_NAMES {
            drop(doubts.begin(Path::new(&number.to_string())));
        }
        assert!(doubts.has(Path::new("another")));
    }
}
