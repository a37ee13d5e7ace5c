//! A file that is open, or being filled, while its bytes are remote.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nix::sys::stat::fstat;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::record::Record;
use crate::segment::{EntryPlace, Packing, Piece};
use crate::store::ObjectKey;
use crate::stub::Stub;
use crate::sys::xattr;

/// Where a cold file's bytes are, with all that a first read needs.
#[derive(Clone, Debug)]
pub struct Place {
    /// The segment's key.
    pub key: ObjectKey,
    /// The entry in it.
    pub entry: EntryPlace,
    /// How the file's extents are laid in the entry.
    pub packing: Packing,
    /// The file's size.
    pub size_bytes: u64,
}

impl Place {
    /// `lseek(2)` with SEEK_DATA or SEEK_HOLE; none where that is ENXIO.
    pub fn seek(&self, offset: u64, data: bool) -> Option<u64> {
        if offset >= self.size_bytes {
            return None;
        }
        for piece in self.packing.pieces(offset..self.size_bytes) {
            match piece {
                Piece::Data { at, .. } if data => return Some(at.offset),
                Piece::Hole(at) if !data => return Some(at.offset),
                Piece::Data { .. } | Piece::Hole(_) => {}
            }
        }
        // The end of the file counts as a hole.
        (!data).then_some(self.size_bytes)
    }
}

/// What ends one recall of a whole file early.
#[derive(Debug, Default)]
pub struct Stop {
    /// It has to end.
    pub token: CancellationToken,
    /// Because nobody wants its bytes any more, not because a person cancelled it.
    unwanted: AtomicBool,
}

impl Stop {
    /// Whether a person cancelled it. Who comes now is not who was cancelled.
    pub fn is_by_a_person(&self) -> bool {
        self.token.is_cancelled() && !self.is_unwanted()
    }

    /// Whether its bytes were not wanted any more.
    pub fn is_unwanted(&self) -> bool {
        self.unwanted.load(Ordering::Acquire)
    }
}

/// How far the recall of a whole file is.
#[derive(Clone, Debug)]
pub enum Fill {
    /// Nobody asked for it.
    Idle,
    /// Under way, until it is stopped.
    Running(Arc<Stop>),
    /// The same; all bytes are in memory, and the body is still to become whole.
    Held(Arc<Stop>),
    /// It failed; the body is the stub again.
    Failed(FillError),
    /// The body is whole, and its record says so.
    Done,
}

impl Fill {
    /// What stops it, while it is under way.
    pub fn stop(&self) -> Option<&Arc<Stop>> {
        match self {
            Fill::Running(stop) | Fill::Held(stop) => Some(stop),
            Fill::Idle | Fill::Failed(_) | Fill::Done => None,
        }
    }

    /// Whether it only has its end before it: a person cancelled it.
    pub fn is_cancelled(&self) -> bool {
        self.stop().is_some_and(|stop| stop.is_by_a_person())
    }
}

/// Why a fill failed, shared by all who waited for it.
pub type FillError = Arc<dyn std::error::Error + Send + Sync>;

/// A read that would wait gets the answer of one that waited in vain, or was cancelled, until this
/// long ago. The
/// kernel asks for a page again, alone, when the read-ahead that it was in fails, and would
/// wait for two more deadlines before whoever maps or reads the file hears of the first.
pub const SAME_ANSWER_FOR: Duration = Duration::from_secs(1);

/// A read that waited for bytes which did not come.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// When it was given up.
    pub at: Instant,
    /// Why.
    pub error: FillError,
}

/// How much was read, and how.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes given to readers since the file was opened cold.
    pub bytes_read: u64,
    /// Where a sequential reader would go on.
    pub next_offset: u64,
    /// Bytes of reads in a row that began about there.
    pub bytes_in_a_row: u64,
    /// The last read that waited in vain.
    pub refusal: Option<Refusal>,
}

/// A cold file in use.
#[derive(Debug)]
pub struct Cold {
    /// The stub that stands for it.
    pub stub: Stub,
    /// Its record, `released`.
    pub record: Record,
    /// Where its bytes are.
    pub place: Place,
    /// The stub file: open for reading and writing, our only descriptor of it (a lease counts
    /// every other).
    pub file: Arc<File>,
    fill: watch::Sender<Fill>,
    cancels: watch::Sender<()>,
    progress: Mutex<Progress>,
    held: Mutex<Option<Bytes>>,
}

impl Cold {
    /// A cold file of which nothing is here yet.
    pub fn new(stub: Stub, record: Record, place: Place, file: Arc<File>) -> Self {
        let (fill, cancels) = (watch::Sender::new(Fill::Idle), watch::Sender::new(()));
        let (progress, held) = (Mutex::default(), Mutex::default());
        Self { stub, record, place, file, fill, cancels, progress, held }
    }

    /// Whether whoever writes to it takes something away that a recall gives back only at its end:
    /// set-ID bits, capabilities.
    pub fn is_privileged(&self) -> bool {
        const SET_ID_BITS: u32 = libc::S_ISUID | libc::S_ISGID;
        let has_bits = fstat(&*self.file).is_ok_and(|stat| stat.st_mode & SET_ID_BITS != 0);
        let capabilities = xattr::value(&*self.file, xattr::FILE_CAPABILITIES);
        has_bits || !matches!(capabilities, Ok(None))
    }

    /// How far the recall is, and word of when that changes.
    pub fn watch_fill(&self) -> watch::Receiver<Fill> {
        self.fill.subscribe()
    }

    /// Begins a fill, unless one is under way or done. Whether it did, and what stops the one that
    /// is under way.
    pub fn begin_fill(&self) -> (bool, Option<Arc<Stop>>) {
        let mut under_way = None;
        let begun = self.fill.send_if_modified(|fill| {
            let begins = match fill {
                Fill::Idle | Fill::Failed(_) => true,
                Fill::Running(_) | Fill::Held(_) | Fill::Done => false,
            };
            if begins {
                *fill = Fill::Running(Arc::default());
            }
            under_way = fill.stop().cloned();
            begins
        });
        (begun, under_way)
    }

    /// Whether all of it is being fetched, or was.
    pub fn comes_home(&self) -> bool {
        matches!(*self.fill.borrow(), Fill::Running(_) | Fill::Held(_) | Fill::Done)
    }

    /// Whether a fill made it whole.
    pub fn is_home(&self) -> bool {
        matches!(*self.fill.borrow(), Fill::Done)
    }

    /// Changes when a person cancels; whoever holds it counts as waiting for bytes.
    pub fn watch_cancels(&self) -> watch::Receiver<()> {
        self.cancels.subscribe()
    }

    /// Whether somebody waits for bytes: a fill or a reader.
    pub fn is_waited_for(&self) -> bool {
        !self.is_idle() || self.cancels.receiver_count() > 0
    }

    /// Whether somebody waits for its fill or for bytes; the caller does not any more.
    pub fn is_waited_for_by_others(&self) -> bool {
        self.fill.receiver_count() > 0 || self.cancels.receiver_count() > 0
    }

    /// Ends every wait for bytes. False: there is none.
    pub fn cancel(&self) -> bool {
        let waiting = self.is_waited_for();
        self.cancel_fill();
        self.cancels.send_replace(());
        waiting
    }

    /// Stops the fill that is under way.
    pub fn cancel_fill(&self) {
        if let Some(stop) = self.fill.borrow().stop() {
            stop.token.cancel();
        }
    }

    /// Stops the fill because its bytes are not wanted any more: whoever waits for it looks at
    /// the file again.
    pub fn unwant_fill(&self) {
        if let Some(stop) = self.fill.borrow().stop() {
            stop.unwanted.store(true, Ordering::Release);
            stop.token.cancel();
        }
    }

    /// The only chunk of the file that is being filled is in memory, and stays there until the
    /// fill ends.
    pub fn hold(&self, chunk: Bytes) {
        *self.held() = Some(chunk);
        self.fill.send_if_modified(|fill| match fill {
            Fill::Running(stop) => {
                *fill = Fill::Held(Arc::clone(stop));
                true
            }
            Fill::Idle | Fill::Held(_) | Fill::Failed(_) | Fill::Done => false,
        });
    }

    /// The packed bytes of the whole file, while they are in memory.
    pub fn held_chunk(&self) -> Option<Bytes> {
        self.held().clone()
    }

    fn held(&self) -> MutexGuard<'_, Option<Bytes>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a fill.
    pub fn end_fill(&self, result: Fill) {
        // First: once it is known to have ended, another may hold bytes.
        *self.held() = None;
        self.fill.send_replace(result);
    }

    /// Whether no fill is under way.
    pub fn is_idle(&self) -> bool {
        !matches!(*self.fill.borrow(), Fill::Running(_) | Fill::Held(_))
    }

    /// How much was read, under its lock.
    pub fn progress<T>(&self, look: impl FnOnce(&mut Progress) -> T) -> T {
        look(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
