//! `.coldfs/intents`: the bodies that the daemon is about to replace or fill.
//!
//! Only a list of work: what is done with a file is decided from its record and body alone, so
//! an entry too many costs a look, and none costs a byte. It makes recovery cost what was in
//! flight, not what exists. Written and synced before the first record of a batch changes,
//! emptied when no batch is under way any more.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::intents::{self, End, Intent, Line};

/// Its name in `.coldfs`.
pub(super) const FILE_NAME: &str = "intents";

/// Space set aside at first use, so that a full disk does not stop a release that would
/// empty it.
const PREALLOCATED_BYTES: u64 = 1 << 20;

/// Beyond this size a new batch waits until all others are done and the list is emptied.
const MAX_BYTES: u64 = 64 << 20;

/// The work list of a tenant.
#[derive(Debug)]
pub struct WorkList {
    file: File,
    left_behind: Vec<Line>,
    state: Mutex<State>,
    emptied: Condvar,
}

#[derive(Debug)]
struct State {
    length: u64,
    sequence: u64,
    batches: usize,
    /// Lines stay whose files wait for the next recovery.
    kept: bool,
}

/// One batch on the list, taken off it when dropped. Keep it until the barrier behind the
/// batch's last record has passed.
#[derive(Debug)]
#[must_use = "the batch is on the work list only while this lives"]
pub struct Ticket {
    list: Arc<WorkList>,
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
        // Nothing is overwritten before recovery has emptied the list.
        let length = found.good_bytes as u64;
        let left_behind = found.pending().to_vec();
        let kept = !left_behind.is_empty();
        let state = State { length, sequence: found.next_sequence(), batches: 0, kept };
        Ok(Self { file, left_behind, state: Mutex::new(state), emptied: Condvar::new() })
    }

    /// What was on the list when the last daemon ended.
    pub fn left_behind(&self) -> &[Line] {
        &self.left_behind
    }

    /// Empties the list but for these, which wait for the next recovery; only while no batch
    /// is under way.
    pub fn keep(&self, waiting: &[Intent]) -> io::Result<()> {
        let mut state = self.lock();
        if state.batches > 0 {
            return Ok(());
        }
        state.kept = !waiting.is_empty();
        if waiting.is_empty() {
            return self.start_over(&mut state);
        }
        // Over the old lines: a cut in between leaves some of either, and each is only a look.
        state.length = 0;
        self.append(&mut state, waiting)
    }

    /// Puts a batch on the list, durably. Takes the disk's time.
    pub fn begin(self: &Arc<Self>, batch: &[Intent]) -> io::Result<Ticket> {
        let mut state = self.lock();
        while state.length > MAX_BYTES && state.batches > 0 {
            state = self.emptied.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.length > MAX_BYTES {
            return Err(io::Error::other(
                ".coldfs/intents is full of files that wait for the store: mount again once it \
                 answers",
            ));
        }
        self.append(&mut state, batch)?;
        state.batches += 1;
        drop(state);
        Ok(Ticket { list: Arc::clone(self), keep: false })
    }

    fn append(&self, state: &mut State, batch: &[Intent]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for intent in batch {
            let line = Line { sequence: state.sequence, intent: intent.clone() };
            line.encode(&mut bytes).map_err(io::Error::other)?;
            state.sequence += 1;
        }
        self.file.write_all_at(&bytes, state.length)?;
        self.file.sync_data()?;
        state.length += bytes.len() as u64;
        Ok(())
    }

    /// Batches under way.
    pub fn batches(&self) -> usize {
        self.lock().batches
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
        let mut state = self.list.lock();
        state.batches -= 1;
        state.kept |= self.keep;
        if state.batches == 0 {
            if !state.kept
                && let Err(error) = self.list.start_over(&mut state)
            {
                tracing::warn!(%error, "cannot empty .coldfs/intents: the next start looks again");
            }
            self.list.emptied.notify_all();
        }
    }
}
