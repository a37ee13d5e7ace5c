//! File leases (`F_SETLEASE`, Linux 2.4): how the daemon learns that somebody else has a file
//! open, and hears of it when somebody wants to.
//!
//! The holder of a broken lease gets SIGIO, whose default action kills: the daemon listens to
//! it from its first thread on. After `/proc/sys/fs/lease-break-time` (45 s) the opener gets in,
//! and the holder's writes still succeed: see [`Lease::holds`].

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::check;

/// What a lease keeps out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseKind {
    /// No writer and no writable mapping but through leases of readers.
    Read,
    /// Nobody else at all: neither open nor mapped.
    Write,
}

/// A lease is written under only this long: less than half of lease-break-time, whose default
/// is 45 s.
pub const TRUSTED_FOR: Duration = Duration::from_secs(20);

/// A lease on an open file, given back when dropped.
#[derive(Debug)]
pub struct Lease {
    file: Arc<File>,
    kind: LeaseKind,
    since: Instant,
    /// When it was last seen unbroken, milliseconds after `since`.
    seen_ms: AtomicU64,
}

impl Lease {
    /// Takes a lease. `EAGAIN`: somebody else has the file open (for writing, for a read
    /// lease), mapped, or running. A file of another owner needs `CAP_LEASE`.
    pub fn take(file: Arc<File>, kind: LeaseKind) -> io::Result<Self> {
        set(file.as_fd(), word(kind))?;
        #[allow(clippy::disallowed_methods, reason = "the age of a lease is real time")]
        let since = Instant::now();
        Ok(Self { file, kind, since, seen_ms: AtomicU64::new(0) })
    }

    /// Whether nobody asked for the file since, and it is young enough to be written under.
    pub fn holds(&self) -> bool {
        self.is_unbroken() && self.age() < TRUSTED_FOR
    }

    /// Whether nobody can have got in, though somebody may wait: good for putting back what
    /// was changed under it.
    pub fn keeps_others_out(&self) -> bool {
        self.is_unbroken() || self.age() < TRUSTED_FOR
    }

    /// How long ago it was taken.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Whether nobody asked for the file since.
    pub fn is_unbroken(&self) -> bool {
        // SAFETY: F_GETLEASE takes no pointer; the descriptor is open.
        let now = unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_GETLEASE) };
        let unbroken = now == word(self.kind);
        if unbroken {
            let age = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.seen_ms.store(age, Ordering::Relaxed);
        }
        unbroken
    }

    /// Whether nobody can be in yet: it is unbroken, or was not long ago, and the kernel keeps
    /// whoever broke it waiting.
    pub fn keeps_out(&self) -> bool {
        let seen = Duration::from_millis(self.seen_ms.load(Ordering::Relaxed));
        self.is_unbroken() || self.since.elapsed().saturating_sub(seen) < TRUSTED_FOR
    }

    /// Gives the lease back now, whoever else holds a reference to it.
    pub fn give_up(&self) {
        // It fails only where the lease is gone already, which is what is wanted.
        drop(set(self.file.as_fd(), libc::F_UNLCK));
    }

    /// The leased file: the one descriptor through which it may be used meanwhile.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.give_up();
    }
}

fn word(kind: LeaseKind) -> i32 {
    match kind {
        LeaseKind::Read => libc::F_RDLCK,
        LeaseKind::Write => libc::F_WRLCK,
    }
}

fn set(fd: BorrowedFd<'_>, word: i32) -> io::Result<()> {
    // SAFETY: F_SETLEASE takes no pointer; the descriptor is open.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, word) }).map(drop)
}
