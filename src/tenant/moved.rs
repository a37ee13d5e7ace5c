//! What got another name, or another place, while somebody reads the whole directory: it may have
//! gone from where nobody had looked to where somebody had.
//!
//! Whoever renames or links tells of it before the call and after it, so that a reader knows, too,
//! of what is under way. Where nobody reads, that costs a flag.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::file_id::Ino;
use crate::inode::Inode;

/// Files remembered between two looks of the reader. Beyond it all are forgotten, and
/// [`Taken::missed`] says that the reading is worth nothing.
pub const MOVED: usize = 65_536;

/// Files and directories that moved since a reader began.
#[derive(Debug, Default)]
pub struct Moved {
    listened_to: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    begun: u64,
    under_way: BTreeSet<u64>,
    moved: HashMap<Ino, Arc<Inode>>,
    missed: bool,
}

/// What moved since the last look.
#[derive(Debug, Default)]
pub struct Taken {
    /// Once each.
    pub moved: Vec<Arc<Inode>>,
    /// Whether there was more, or something that could not be found again.
    pub missed: bool,
}

/// A name that is about to change hands. Dropped, it has, or will not.
#[derive(Debug)]
#[must_use = "what moves is under way only while this lives"]
pub struct Moving<'a> {
    moved: &'a Moved,
    number: u64,
}

/// Somebody reads. Dropped, nobody does.
#[derive(Debug)]
#[must_use = "what moves is remembered only while this lives"]
pub struct Listening<'a>(&'a Moved);

impl Moved {
    /// A name is about to change hands; none: nobody wants to know.
    pub fn begin(&self) -> Option<Moving<'_>> {
        if !self.listened_to.load(Ordering::Acquire) {
            return None;
        }
        let mut state = self.lock();
        let number = state.begun;
        state.begun += 1;
        state.under_way.insert(number);
        Some(Moving { moved: self, number })
    }

    /// From now on what moves is remembered. One reader at a time.
    pub fn listen(&self) -> Listening<'_> {
        *self.lock() = State::default();
        self.listened_to.store(true, Ordering::Release);
        Listening(self)
    }

    /// All that moved; there is nothing then.
    pub fn take(&self) -> Taken {
        let mut state = self.lock();
        let missed = std::mem::take(&mut state.missed);
        let moved = std::mem::take(&mut state.moved);
        Taken { moved: moved.into_values().collect(), missed }
    }

    /// What begins from now on has this number, or a later one.
    pub fn mark(&self) -> u64 {
        self.lock().begun
    }

    /// Whether all that began before a mark has been told of.
    pub fn is_settled(&self, mark: u64) -> bool {
        self.lock().under_way.first().is_none_or(|first| *first >= mark)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Moving<'_> {
    /// This is what moved.
    pub fn note(&self, inode: Arc<Inode>) {
        let mut state = self.moved.lock();
        if state.moved.len() >= MOVED && !state.moved.contains_key(&inode.ino) {
            state.moved.clear();
            state.missed = true;
        } else {
            state.moved.insert(inode.ino, inode);
        }
    }

    /// Something moved, and nobody can say what.
    pub fn miss(&self) {
        self.moved.lock().missed = true;
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.moved.lock().under_way.remove(&self.number);
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.0.listened_to.store(false, Ordering::Release);
        *self.0.lock() = State::default();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::stat::fstat;

    use super::*;
    use crate::inode::Inodes;
    use crate::sys;

    /// So many files in use.
    fn files(count: usize) -> (tempfile::TempDir, Inodes, Vec<Arc<Inode>>) {
        let target = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
        let dir = tempfile::tempdir_in(target).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let inodes = Inodes::new(root.into(), true);
        let enter = |number: usize| {
            let file = std::fs::File::create(dir.path().join(number.to_string())).unwrap();
            let (handle, stat) = (sys::handle::of(&file, c"").unwrap(), fstat(&file).unwrap());
            inodes.enter(file.as_fd().try_clone_to_owned().unwrap(), handle, &stat)
        };
        let files = (0..count).map(enter).collect();
        (dir, inodes, files)
    }

    #[test]
    fn what_moves_is_told_once_and_only_while_somebody_reads() {
        let (_dir, _inodes, files) = files(2);
        let moved = Moved::default();
        assert!(moved.begin().is_none(), "nobody reads");
        let listening = moved.listen();
        for file in [&files[0], &files[1], &files[0]] {
            moved.begin().unwrap().note(Arc::clone(file));
        }
        let taken = moved.take();
        assert_eq!((taken.moved.len(), taken.missed), (2, false));
        assert!(moved.take().moved.is_empty());
        moved.begin().unwrap().note(Arc::clone(&files[0]));
        drop(listening);
        assert!(moved.take().moved.is_empty() && moved.begin().is_none());
    }

    #[test]
    fn whoever_waits_for_a_mark_waits_for_what_began_before_it_and_for_nothing_else() {
        let moved = Moved::default();
        let _listening = moved.listen();
        let before = moved.begin();
        let mark = moved.mark();
        let after = moved.begin();
        assert!(!moved.is_settled(mark));
        drop(before);
        assert!(moved.is_settled(mark), "one that began later is not waited for");
        assert!(!moved.is_settled(moved.mark()));
        drop(after);
        assert!(moved.is_settled(moved.mark()));
    }

    #[test]
    fn what_nobody_can_find_again_is_missed() {
        let moved = Moved::default();
        let _listening = moved.listen();
        moved.begin().unwrap().miss();
        assert!(moved.take().missed);
        assert!(!moved.take().missed, "told once");
    }
}
