//! Named crash points: where a crash is interesting, in the order a file meets them.
//!
//! `COLDFS_CRASH_AT=name` or `name:n` in the environment ends the process, as `kill -9`
//! would, when the point is reached for the n-th time (the first by default). The crash
//! sweep in `tests/` dies at every point of [`ALL`], so a point that is not listed there
//! does not compile: [`reach`] takes the enum.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

macro_rules! crash_points {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A place where a crash is swept by test.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum CrashPoint { $($(#[$doc])* $variant,)* }

        /// Every crash point, in the order in which a file meets them.
        pub const ALL: &[CrashPoint] = &[$(CrashPoint::$variant,)*];

        impl CrashPoint {
            /// The name used in the environment and in test output.
            pub const fn name(self) -> &'static str {
                match self { $(CrashPoint::$variant => $name,)* }
            }
        }
    };
}

crash_points! {
    /// Archive: the segment is complete in memory, nothing was sent.
    ArchiveBeforeUpload = "archive-before-upload",
    /// Archive: the segment is stored and verified, no record names it.
    ArchiveAfterVerify = "archive-after-verify",
    /// Archive: some records of the batch are set, no barrier yet.
    ArchiveAfterRecord = "archive-after-record",
    /// Release: a file has other bytes than its copy, its record is gone, no barrier.
    ReleaseAfterDisproof = "release-after-disproof",
    /// Release: the mark of one that was given up long ago is off, no barrier.
    ReleaseAfterOldMark = "release-after-old-mark",
    /// Release: the work list names the batch, records still say archived.
    ReleaseAfterIntent = "release-after-intent",
    /// Release: records say releasing, no barrier yet.
    ReleaseAfterRecord = "release-after-record",
    /// Release: the barrier passed, bodies are untouched.
    ReleaseAfterBarrier = "release-after-barrier",
    /// Release: the stub stands over block 0, the tail is still there.
    ReleaseAfterStub = "release-after-stub",
    /// Release: the stubs are on disk, the file is not cut.
    ReleaseAfterSync = "release-after-sync",
    /// Release: the file is cut to the stub, mtime is wrong.
    ReleaseAfterCut = "release-after-cut",
    /// Release: mtime is back, the record still says releasing.
    ReleaseAfterTimes = "release-after-times",
    /// Release: the record says released, the last barrier is missing.
    ReleaseAfterReleased = "release-after-released",
    /// Release: the last barrier passed, the work list is still full.
    ReleaseBeforeClear = "release-before-clear",
    /// Recall: the work list names the file, the record says released.
    RecallAfterIntent = "recall-after-intent",
    /// Recall: the record says recalling, the body is the stub.
    RecallAfterRecord = "recall-after-record",
    /// Recall: the file has its size again, the bytes are missing.
    RecallAfterExtend = "recall-after-extend",
    /// Recall: a chunk is in place.
    RecallAfterChunk = "recall-after-chunk",
    /// Recall: all but block 0 is on disk.
    RecallAfterTail = "recall-after-tail",
    /// Recall: block 0 is written, not synced.
    RecallAfterHead = "recall-after-head",
    /// Recall: everything is on disk, mtime is wrong.
    RecallAfterSync = "recall-after-sync",
    /// Recall: mtime is back, the record says recalling.
    RecallAfterTimes = "recall-after-times",
    /// Recall: the record says archived or is gone.
    RecallBeforeClear = "recall-before-clear",
    /// Recall of small files together: the work list names them, the records say released.
    BatchAfterIntent = "batch-after-intent",
    /// Recall of small files together: one is whole but for block 0, others are not begun.
    BatchAfterChunk = "batch-after-chunk",
    /// Recall of small files together: all but their blocks 0 is on disk.
    BatchAfterTail = "batch-after-tail",
    /// Recall of small files together: all are on disk, no mtime is right.
    BatchAfterSync = "batch-after-sync",
    /// Cutting back a recall: the stub stands, the tail is still there.
    CutBackAfterStub = "cut-back-after-stub",
    /// Cutting back a recall: the file is cut, the record says recalling.
    CutBackAfterCut = "cut-back-after-cut",
    /// Open for writing: the record says suspect, the open is not answered.
    SuspectBeforeReply = "suspect-before-reply",
    /// Last close of a changed file: the record is gone, no barrier.
    ForgetAfterRecord = "forget-after-record",
    /// Open of an archived file with O_TRUNC: it is empty, the record is gone, no barrier.
    OpenAfterTruncate = "open-after-truncate",
    /// Truncate of an archived file: it has its new size, the record is gone, no barrier.
    TruncateAfterRecord = "truncate-after-record",
    /// A change that no record can hold: the record is gone, no barrier, nothing is changed.
    ChangeAfterRecord = "change-after-record",
    /// Drain: the record of a file that is here is gone, no barrier.
    DrainAfterRecord = "drain-after-record",
    /// Recovery: a body is proven whole and on disk, its record says recalling.
    RecoverAfterProof = "recover-after-proof",
    /// Recovery: one file is judged and repaired, the others are not.
    RecoverAfterFile = "recover-after-file",
    /// Recovery: all files are repaired, the work list is still full.
    RecoverBeforeClear = "recover-before-clear",
    /// fsck --repair: one file is repaired, the others are not.
    FsckAfterRepair = "fsck-after-repair",
    /// fsck --repair: one lost file says released again, the others say lost.
    FsckAfterFound = "fsck-after-found",
    /// fsck --repair: one record that names nothing in the store is gone, no barrier.
    FsckAfterVoid = "fsck-after-void",
    /// fsck --repair: one mark of a release that was given up is off, others are on.
    FsckAfterUnmark = "fsck-after-unmark",
    /// fsck --adopt: one stub has a record again, the others have not.
    AdoptAfterFile = "adopt-after-file",
    /// fsck --keep remote: the local bytes are aside, the body is as it was.
    KeepAfterAside = "keep-after-aside",
    /// fsck --keep remote: the stub stands and is on disk, the record is as it was.
    KeepAfterStub = "keep-after-stub",
    /// fsck --keep local: the bytes are marked plain, the record is there.
    KeepAfterMark = "keep-after-mark",
}

/// Environment variable that names the point to die at.
pub const CRASH_AT: &str = "COLDFS_CRASH_AT";

struct Armed {
    name: String,
    remaining: AtomicU32,
}

/// Dies here if this point is armed. One relaxed load otherwise.
pub fn reach(point: CrashPoint) {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let text = std::env::var(CRASH_AT).ok()?;
        let (name, count) = match text.split_once(':') {
            Some((name, count)) => (name.to_owned(), count.parse().ok()?),
            None => (text, 1),
        };
        Some(Armed { name, remaining: AtomicU32::new(count) })
    });
    let Some(armed) = armed else { return };
    if armed.name == point.name() && armed.remaining.fetch_sub(1, Ordering::Relaxed) == 1 {
        crate::sys::die();
    }
}

/// Environment variable that shortens the time for which a file must be quiet, milliseconds.
pub const QUIET_MS: &str = "COLDFS_QUIET_MS";

/// How long a file must be quiet before it is archived: `usual`, or what a proof with
/// thousands of rounds asks for. Not below a few ticks of the clock that stamps files.
pub fn quiet_time(usual: Duration) -> Duration {
    static ASKED: OnceLock<Option<Duration>> = OnceLock::new();
    ASKED
        .get_or_init(|| std::env::var(QUIET_MS).ok()?.parse().ok().map(Duration::from_millis))
        .map_or(usual, |asked| asked.max(Duration::from_millis(20)).min(usual))
}
