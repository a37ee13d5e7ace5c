//! `.coldfs/intents`: the bodies that the daemon is about to replace or fill.
//!
//! Only a list of work: what is done with a file is decided from its record and body alone, so
//! an entry too many costs a look, and none costs a byte. It makes recovery cost what was in
//! flight, or was a moment ago. Written and synced before the first record of a batch changes;
//! written over only where a barrier has carried the last records of every batch that ended. A
//! release has one of its own. Behind recalls the list grows by up to 256 KiB first, so that
//! their barrier is one for thousands. Files that wait for the next recovery stay on it: they
//! are written again, over all else, when the list has grown.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;

use super::barrier;
use crate::intents::{self, End, Intent, Line};

/// Its name in `.coldfs`.
pub(super) const FILE_NAME: &str = "intents";

/// Space set aside at first use, so that a full disk does not stop a release that would
/// empty it.
const PREALLOCATED_BYTES: u64 = 1 << 20;

/// How far it grows before it is written anew at the price of a barrier, or of what waits: a
/// recovery looks at so much for nothing, some 2,500 files.
const GROWS_BY_BYTES: u64 = PREALLOCATED_BYTES / 4;

/// Beyond this size it is compacted under batches that are under way. No batch is begun where
/// that does not help.
const MAX_BYTES: u64 = 64 << 20;

/// The work list of a tenant.
#[derive(Debug)]
pub struct WorkList {
    file: File,
    commits_together: bool,
    left_behind: Vec<Line>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    length: u64,
    /// Its length when it was last written anew.
    kept: u64,
    sequence: u64,
    /// Batches under way.
    running: BTreeMap<u64, Vec<Intent>>,
    begun: u64,
    /// A batch ended whose last records no barrier is known to have carried.
    unsettled: bool,
    /// Files that wait for the next recovery.
    waiting: HashSet<Intent>,
}

/// One batch on the list. Dropped when its last records are set, or are what they were.
#[derive(Debug)]
#[must_use = "the batch is under way only while this lives"]
pub struct Ticket {
    list: Arc<WorkList>,
    number: u64,
    end: BatchEnd,
}

/// How a batch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BatchEnd {
    /// Its last records are as durable as the next barrier makes them.
    Unsettled,
    /// A barrier has carried its last records.
    Settled,
    /// It waits for the next recovery.
    Waits,
}

impl WorkList {
    pub(super) fn open(file: File, read_only: bool, commits_together: bool) -> io::Result<Self> {
        if file.metadata()?.len() == 0 && !read_only {
            let length = i64::try_from(PREALLOCATED_BYTES).unwrap_or(i64::MAX);
            let mode = nix::fcntl::FallocateFlags::empty();
            match nix::fcntl::fallocate(&file, mode, 0, length) {
                Ok(()) | Err(nix::errno::Errno::EOPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let length = file.metadata()?.len().min(MAX_BYTES * 2);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0)?;
        let found = intents::decode(&bytes);
        if let End::Newer(version) = found.end {
            return Err(io::Error::other(format!(
                ".coldfs/intents has lines of version {version}: run the newer coldfs once"
            )));
        }
        let left_behind = found.pending().to_vec();
        // Nothing is overwritten before recovery has emptied the list.
        let state = State {
            length: found.good_bytes as u64,
            kept: found.good_bytes as u64,
            sequence: found.next_sequence(),
            running: BTreeMap::new(),
            begun: 0,
            unsettled: false,
            waiting: left_behind.iter().map(|line| line.intent.clone()).collect(),
        };
        Ok(Self { file, commits_together, left_behind, state: Mutex::new(state) })
    }

    /// What was on the list when the last daemon ended.
    pub fn left_behind(&self) -> &[Line] {
        &self.left_behind
    }

    /// Empties the list but for these, which wait for the next recovery, and for what is under
    /// way. Behind a barrier.
    pub fn keep(&self, waiting: &[Intent]) -> io::Result<()> {
        let mut state = self.lock();
        state.waiting = waiting.iter().cloned().collect();
        self.compact(&mut state)
    }

    /// Empties the list but for what waits: a clean end leaves a recovery nothing to look at.
    /// Takes the disk's time.
    pub fn settle(&self) -> io::Result<()> {
        let mut state = self.lock();
        self.compact_behind_barrier(&mut state)
    }

    /// Puts a batch on the list, durably. Takes the disk's time.
    pub fn begin(self: &Arc<Self>, batch: &[Intent]) -> io::Result<Ticket> {
        let mut state = self.lock();
        if state.length > MAX_BYTES {
            self.compact_behind_barrier(&mut state)?;
        } else if state.running.is_empty()
            && state.has_grown()
            && let Err(error) = self.compact_behind_barrier(&mut state)
        {
            tracing::debug!(%error, "cannot empty .coldfs/intents: it grows");
        }
        if state.length > MAX_BYTES {
            return Err(io::Error::other(
                ".coldfs/intents is full: try again later, and mount again once the store answers \
                 if it stays so",
            ));
        }
        self.append(&mut state, batch)?;
        let number = state.begun;
        state.begun += 1;
        state.running.insert(number, batch.to_vec());
        drop(state);
        Ok(Ticket { list: Arc::clone(self), number, end: BatchEnd::Unsettled })
    }

    fn append(&self, state: &mut State, batch: &[Intent]) -> io::Result<()> {
        let (bytes, sequence) = encode(state.sequence, batch)?;
        self.file.write_all_at(&bytes, state.length)?;
        self.file.sync_data()?;
        // Both or neither: a gap in the sequence would end the reading for what follows.
        state.sequence = sequence;
        state.length += bytes.len() as u64;
        Ok(())
    }

    fn compact_behind_barrier(&self, state: &mut State) -> io::Result<()> {
        if state.unsettled {
            // A journal commits with an fsync only of what has changed.
            futimens(&self.file, &TimeSpec::UTIME_OMIT, &TimeSpec::UTIME_NOW)?;
            barrier::barrier(&self.file, self.commits_together)?;
            state.unsettled = false;
        }
        self.compact(state)
    }

    /// Writes what is still wanted over all else, behind a barrier. A cut in between may leave
    /// neither, which costs recovery a look at these files: the next open of each has it.
    fn compact(&self, state: &mut State) -> io::Result<()> {
        if state.running.is_empty() && state.waiting.is_empty() {
            return self.start_over(state);
        }
        let wanted: Vec<_> =
            state.running.values().flatten().chain(&state.waiting).cloned().collect();
        let (bytes, sequence) = encode(state.sequence, &wanted)?;
        self.file.write_all_at(&bytes, 0)?;
        // From here on the old lines are gone, whether or not the new ones are durable.
        state.sequence = sequence;
        state.length = bytes.len() as u64;
        state.kept = state.length;
        self.file.sync_data()
    }

    /// What is on the list: under way, or waiting for the next recovery.
    pub fn listed(&self) -> Vec<Intent> {
        let state = self.lock();
        state.running.values().flatten().chain(&state.waiting).cloned().collect()
    }

    /// Batches under way.
    pub fn batches(&self) -> usize {
        self.lock().running.len()
    }

    fn end(&self, number: u64, end: BatchEnd) {
        let mut state = self.lock();
        let batch = state.running.remove(&number).unwrap_or_default();
        match end {
            BatchEnd::Settled => {}
            BatchEnd::Unsettled => state.unsettled = true,
            BatchEnd::Waits => state.waiting.extend(batch),
        }
        let free = state.running.is_empty() && !state.unsettled;
        if free
            && (state.waiting.is_empty() || state.has_grown())
            && let Err(error) = self.compact(&mut state)
        {
            tracing::warn!(%error, "cannot empty .coldfs/intents: the next start looks again");
        }
    }

    fn start_over(&self, state: &mut State) -> io::Result<()> {
        // The first entry cannot be read any more: that ends the list. Not synced: an old list
        // read again costs a look at its files.
        self.file.write_all_at(&[0; 64], 0)?;
        state.length = 0;
        state.kept = 0;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_grown(&self) -> bool {
        self.length > self.kept + GROWS_BY_BYTES
    }
}

impl Ticket {
    /// A barrier has carried the batch's last records.
    pub fn settled(mut self) {
        self.end = BatchEnd::Settled;
    }

    /// Leaves the batch on the list for the next recovery: something of it went wrong.
    pub fn leave(mut self) {
        self.end = BatchEnd::Waits;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.list.end(self.number, self.end);
    }
}

/// The lines of a batch, and the sequence behind them.
fn encode(mut sequence: u64, batch: &[Intent]) -> io::Result<(Vec<u8>, u64)> {
    let mut bytes = Vec::new();
    for intent in batch {
        let line = Line { sequence, intent: intent.clone() };
        line.encode(&mut bytes).map_err(io::Error::other)?;
        sequence = sequence.wrapping_add(1);
    }
    Ok((bytes, sequence))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_id::FileHandle;
    use crate::intents::{MAX_PATH_BYTES, Subject};

    fn intent(name: &str) -> Intent {
        let handle = FileHandle { kind: 1, bytes: name.as_bytes().into() };
        Intent::Release(Subject { handle, path: name.into() })
    }

    fn long_intent(n: u32, path_bytes: usize) -> Intent {
        let handle = FileHandle { kind: 1, bytes: n.to_le_bytes().into() };
        Intent::Release(Subject { handle, path: vec![b'a'; path_bytes] })
    }

    fn open(file: &File) -> Arc<WorkList> {
        Arc::new(WorkList::open(file.try_clone().unwrap(), false, false).unwrap())
    }

    fn found(file: &File) -> HashSet<Intent> {
        open(file).left_behind().iter().map(|line| line.intent.clone()).collect()
    }

    #[test]
    fn lines_of_a_batch_that_no_barrier_carried_are_not_written_over() {
        let file = tempfile::tempfile().unwrap();
        let list = open(&file);
        drop(list.begin(&[intent("came home")]).unwrap());
        list.begin(&[intent("released")]).unwrap().settled();
        let next = list.begin(&[intent("next")]).unwrap();
        let all = ["came home", "released", "next"].map(intent);
        assert_eq!(found(&file), HashSet::from(all));
        drop(next);
        list.settle().unwrap();
        assert_eq!(found(&file), HashSet::new());
        // Settled, it needs no barrier.
        list.begin(&[intent("released")]).unwrap().settled();
        assert_eq!(found(&file), HashSet::new());
    }

    #[test]
    fn a_list_of_ended_batches_grows_only_so_far() {
        let file = tempfile::tempfile().unwrap();
        let list = open(&file);
        let batch: Vec<_> = (0..100).map(|n| long_intent(n, 200)).collect();
        for _ in 0..400 {
            drop(list.begin(&batch).unwrap());
            assert!(list.lock().length < GROWS_BY_BYTES * 3 / 2);
        }
    }

    #[test]
    fn a_file_that_waits_does_not_keep_the_list_from_being_emptied() {
        let file = tempfile::tempfile().unwrap();
        let list = open(&file);
        list.begin(&[intent("waits")]).unwrap().leave();
        let batch: Vec<_> = (0..1_000).map(|n| long_intent(n, 200)).collect();
        for _ in 0..400 {
            drop(list.begin(&batch).unwrap());
            assert!(list.lock().length < 2 * PREALLOCATED_BYTES);
        }
        assert!(found(&file).contains(&intent("waits")));
        let running = list.begin(&[intent("runs")]).unwrap();
        let listed = HashSet::from_iter(list.listed());
        assert_eq!(listed, HashSet::from([intent("waits"), intent("runs")]));
        drop(running);
        // The same file again is one file.
        list.begin(&[intent("waits")]).unwrap().leave();
        list.keep(&[intent("waits")]).unwrap();
        assert_eq!(found(&file), HashSet::from([intent("waits")]));
        list.keep(&[]).unwrap();
        assert_eq!(found(&file), HashSet::new());
    }

    #[test]
    fn batches_without_a_pause_between_them_never_fill_the_list() {
        let file = tempfile::tempfile().unwrap();
        let list = open(&file);
        let batch: Vec<_> = (0..1_000).map(|n| long_intent(n, 4_000)).collect();
        let mut running = list.begin(&[intent("first")]).unwrap();
        for n in 0..40 {
            let next = list.begin(&batch).unwrap();
            drop(std::mem::replace(&mut running, next));
            assert!(list.lock().length < MAX_BYTES + (10 << 20), "{n}");
        }
        assert!(found(&file).contains(&batch[999]));
    }

    #[test]
    fn a_batch_that_cannot_be_written_leaves_no_gap_before_the_next() {
        let file = tempfile::tempfile().unwrap();
        let list = open(&file);
        let first = list.begin(&[intent("first")]).unwrap();
        let long = Subject {
            handle: FileHandle { kind: 1, bytes: [1].into() },
            path: vec![b'a'; MAX_PATH_BYTES + 1],
        };
        assert!(list.begin(&[intent("good"), Intent::Release(long)]).is_err());
        let second = list.begin(&[intent("second")]).unwrap();
        assert_eq!(found(&file), HashSet::from([intent("first"), intent("second")]));
        drop((first, second));
    }
}
