//! `.coldfs/intents`: the bodies that the daemon is about to replace or fill.
//!
//! Only a list of work: what is done with a file is decided from its record and body alone, so
//! an entry too many costs a look, and none costs a byte. It makes recovery cost what was in
//! flight, not what exists. Written and synced before the first record of a batch changes,
//! emptied when no batch is under way any more. Files that wait for the next recovery stay on
//! it: they are written again, over all else, when the list has grown.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::intents::{self, End, Intent, Line};

/// Its name in `.coldfs`.
pub(super) const FILE_NAME: &str = "intents";

/// Space set aside at first use, so that a full disk does not stop a release that would
/// empty it. With files that wait, the list is compacted beyond it.
const PREALLOCATED_BYTES: u64 = 1 << 20;

/// Beyond this size it is compacted under batches that are under way. No batch is begun where
/// that does not help.
const MAX_BYTES: u64 = 64 << 20;

/// The work list of a tenant.
#[derive(Debug)]
pub struct WorkList {
    file: File,
    left_behind: Vec<Line>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    length: u64,
    sequence: u64,
    /// Batches under way.
    running: BTreeMap<u64, Vec<Intent>>,
    begun: u64,
    /// Files that wait for the next recovery.
    waiting: HashSet<Intent>,
}

/// One batch on the list, taken off it when dropped. Keep it until the barrier behind the
/// batch's last record has passed.
#[derive(Debug)]
#[must_use = "the batch is on the work list only while this lives"]
pub struct Ticket {
    list: Arc<WorkList>,
    number: u64,
    keep: bool,
}

impl WorkList {
    pub(super) fn open(file: File, read_only: bool) -> io::Result<Self> {
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
            sequence: found.next_sequence(),
            running: BTreeMap::new(),
            begun: 0,
            waiting: left_behind.iter().map(|line| line.intent.clone()).collect(),
        };
        Ok(Self { file, left_behind, state: Mutex::new(state) })
    }

    /// What was on the list when the last daemon ended.
    pub fn left_behind(&self) -> &[Line] {
        &self.left_behind
    }

    /// Empties the list but for these, which wait for the next recovery, and for what is under
    /// way.
    pub fn keep(&self, waiting: &[Intent]) -> io::Result<()> {
        let mut state = self.lock();
        state.waiting = waiting.iter().cloned().collect();
        self.compact(&mut state)
    }

    /// Puts a batch on the list, durably. Takes the disk's time.
    pub fn begin(self: &Arc<Self>, batch: &[Intent]) -> io::Result<Ticket> {
        let mut state = self.lock();
        if state.length > MAX_BYTES {
            self.compact(&mut state)?;
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
        Ok(Ticket { list: Arc::clone(self), number, keep: false })
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

    /// Writes what is still wanted over all else. A cut in between may leave neither, which
    /// costs recovery a look at these files: the next open of each has it.
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
        self.file.sync_data()
    }

    /// Batches under way.
    pub fn batches(&self) -> usize {
        self.lock().running.len()
    }

    /// A batch is done, or waits for the next recovery.
    fn end(&self, number: u64, keep: bool) {
        let mut state = self.lock();
        let batch = state.running.remove(&number).unwrap_or_default();
        if keep {
            state.waiting.extend(batch);
        }
        let grown = state.waiting.is_empty() || state.length > PREALLOCATED_BYTES;
        if state.running.is_empty()
            && grown
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
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Leaves the batch on the list for the next recovery: something of it went wrong.
    pub fn leave(mut self) {
        self.keep = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.list.end(self.number, self.keep);
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
        Arc::new(WorkList::open(file.try_clone().unwrap(), false).unwrap())
    }

    fn found(file: &File) -> HashSet<Intent> {
        open(file).left_behind().iter().map(|line| line.intent.clone()).collect()
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
