//! Checking a tenant's files against their records, stubs and segments, and repairing what can
//! be repaired without losing a byte.

mod keep;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::stat::fstat;

use crate::failpoint::{CrashPoint, reach};
use crate::file_id::{EntryRef, SegmentId, TimeNs};
use crate::inode::{Inode, Inodes, Serving};
use crate::recall::{RecallError, prove_remote, remote_index};
use crate::record::Record;
use crate::recover::{Judged, Ordered, STUB_IN_ITS_PLACE, look, needs_entry, order_with, unmark};
use crate::segment::{Index, IndexEntry};
use crate::stub::Stub;
use crate::tenant::Tenant;
use crate::tier::State;
use crate::tier::standing::Standing;
use crate::tier::verdict::Verdict;

pub use keep::{Keep, KeepError, keep};

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A crash left it in the middle of a move.
    InFlight,
    /// A record that means nothing here any more.
    VoidRecord,
    /// A stub without its record.
    Orphan,
    /// Bytes that nobody can account for.
    Conflict,
    /// A record or stub of another tenant or of a newer coldfs.
    Foreign,
    /// The store does not have its bytes.
    Lost,
    /// The store did not say whether it has its bytes.
    Unanswered,
}

/// How far fsck may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Changes nothing.
    Check,
    /// Finishes what a crash interrupted, and drops void records.
    Repair,
    /// That, and gives orphaned stubs of this tenant their records back.
    Adopt,
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What kind of thing.
    pub trouble: Trouble,
    /// In words.
    pub what: String,
    /// Whether it is put right now.
    pub repaired: bool,
}

/// Checks files one after the other, remembering the indexes of the segments they name.
pub struct Fsck<'a> {
    tenant: &'a Arc<Tenant>,
    inodes: &'a Inodes,
    mode: Mode,
    /// What the store said of segments; an error: it has no such, or a damaged one.
    indexes: HashMap<SegmentId, Result<Arc<Index>, RecallError>>,
    /// How long the store is waited for; nothing once it did not answer.
    patience: Duration,
}

/// An open file, and what was found out about it.
struct Look {
    file: Arc<File>,
    judged: Judged,
}

/// What the store said of the entry that a look asked for.
type Remote = (EntryRef, Result<IndexEntry, RecallError>);

/// Indexes remembered in one check; beyond it they are read again.
const INDEXES: usize = 256;
/// How long a segment's index is waited for: a store that has to be retried, and no more.
const PATIENCE: Duration = Duration::from_secs(60);

impl<'a> Fsck<'a> {
    /// A check of a tenant's files.
    pub fn new(tenant: &'a Arc<Tenant>, inodes: &'a Inodes, mode: Mode) -> Self {
        Self { tenant, inodes, mode, indexes: HashMap::new(), patience: PATIENCE }
    }

    /// The same, waiting for the store no longer than this.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Checks one file. An error: it could not be looked at.
    pub async fn check(&mut self, inode: &Arc<Inode>) -> io::Result<Option<Finding>> {
        let first = {
            let _held = inode.tier().await;
            self.look(inode)?
        };
        let Some(Look { judged, file }) = first else { return Ok(None) };
        drop(file);
        // The store is asked without the file's lock: whoever opens it now does not wait.
        let remote = match self.wants(&judged) {
            Some(at) => Some((at, self.ask(at, judged.verdict).await)),
            None => None,
        };
        let held = inode.tier().await;
        let Some(Look { judged, file }) = self.look(inode)? else { return Ok(None) };
        let marked = judged.record.is_some_and(|record| record.state == State::Releasing);
        if marked && judged.verdict == Verdict::Archived && !held.is_being_released() {
            return Ok(Some(self.take_mark_off(inode, &file)?));
        }
        if self.wants(&judged) != remote.as_ref().map(|(at, _)| *at) {
            // Somebody used it meanwhile: whoever opened it judged it.
            return Ok(None);
        }
        let verdict = judged.verdict;
        let concluded = self.conclude(inode, &file, judged, remote).await;
        if self.mode != Mode::Check && is_another(verdict, &concluded) {
            // Before anybody opens it: a read or an append by the old size would be wrong.
            self.inodes.tell_kernel(inode.ino);
        }
        drop(held);
        concluded
    }

    fn look(&self, inode: &Inode) -> io::Result<Option<Look>> {
        let access = if self.mode == Mode::Check { libc::O_RDONLY } else { libc::O_RDWR };
        look_at(self.tenant, self.inodes, inode, access)
    }

    /// The entry of which the store is asked.
    fn wants(&self, judged: &Judged) -> Option<EntryRef> {
        match judged.verdict {
            Verdict::Archived | Verdict::Released | Verdict::Lost => {
                judged.record.map(|record| record.at)
            }
            Verdict::OrphanStub | Verdict::OrphanOverRecord if self.mode == Mode::Adopt => {
                judged.stub.as_ref().map(|stub| stub.at)
            }
            _ if self.mode == Mode::Check => None,
            _ => needs_entry(judged),
        }
    }

    async fn conclude(
        &self,
        inode: &Inode,
        file: &Arc<File>,
        judged: Judged,
        remote: Option<Remote>,
    ) -> io::Result<Option<Finding>> {
        let finding = |trouble, what: &str| {
            Ok(Some(Finding { trouble, what: what.to_owned(), repaired: false }))
        };
        let suspect = judged.record.is_some_and(|record| record.state == State::Suspect);
        match judged.verdict {
            // A daemon died while somebody had it open for writing: nothing is wrong with the
            // bytes, and whether they are the copy's is found out by whoever wants to know.
            Verdict::NeedsHash { serve_meanwhile: true } | Verdict::ResidentDropRecord
                if suspect =>
            {
                if self.mode != Mode::Check {
                    let entry = remote.map(|(_, answer)| answer);
                    order_with(self.tenant, inode, file, entry, self.patience).await?;
                }
                Ok(None)
            }
            Verdict::Resident | Verdict::ResidentEmpty if judged.record.is_none() => Ok(None),
            Verdict::Resident | Verdict::ResidentEmpty | Verdict::ResidentDropRecord => {
                let what = "its record is void: the bytes are here and changed since";
                Ok(Some(self.order(inode, file, Trouble::VoidRecord, what, None).await?))
            }
            Verdict::FinishRelease
            | Verdict::RewriteStub
            | Verdict::CutBack
            | Verdict::ArchivedProven
            | Verdict::NeedsHash { .. } => {
                let what = "a crash left it in the middle of a move";
                Ok(Some(self.order(inode, file, Trouble::InFlight, what, remote).await?))
            }
            Verdict::OrphanStub | Verdict::OrphanOverRecord => {
                let standing = judged.standing();
                let Judged { stub, stranger, record, verdict, .. } = judged;
                if standing == Standing::Conflict {
                    let what = named(record, "a stub that is damaged, or of another key");
                    return finding(Trouble::Conflict, &what);
                }
                if verdict == Verdict::OrphanOverRecord {
                    // What the record names is not found by any name once it goes.
                    self.tenant.note_conflict(inode, file, record.as_ref(), STUB_IN_ITS_PLACE);
                }
                match stranger {
                    Some(what) => finding(Trouble::Foreign, &what),
                    None => Ok(Some(self.orphan(inode, file, stub, remote)?)),
                }
            }
            Verdict::Conflict { .. } => {
                let what = "neither the recorded bytes nor a stub: changed behind the mount";
                finding(Trouble::Conflict, &named(judged.record, what))
            }
            Verdict::ForeignKept { .. } => {
                let what = judged.stranger.unwrap_or_else(|| "a foreign record".into());
                finding(Trouble::Foreign, &what)
            }
            Verdict::Archived | Verdict::Released | Verdict::Lost => {
                match (judged.record, remote) {
                    (Some(record), Some((_, answer))) => {
                        self.remote(inode, file, record, judged.verdict, answer)
                    }
                    _ => Ok(None),
                }
            }
        }
    }

    /// The mark of a release that was given up before it touched the body.
    fn take_mark_off(&self, inode: &Inode, file: &File) -> io::Result<Finding> {
        let what = "a release that was given up left its mark".to_owned();
        let repaired = self.mode != Mode::Check && unmark(self.tenant, inode, file)?;
        if repaired {
            reach(CrashPoint::FsckAfterUnmark);
        }
        Ok(Finding { trouble: Trouble::InFlight, what, repaired })
    }

    async fn order(
        &self,
        inode: &Inode,
        file: &Arc<File>,
        trouble: Trouble,
        what: &str,
        remote: Option<Remote>,
    ) -> io::Result<Finding> {
        if self.mode == Mode::Check {
            return Ok(Finding { trouble, what: what.into(), repaired: false });
        }
        let entry = remote.map(|(_, answer)| answer);
        match order_with(self.tenant, inode, file, entry, self.patience).await? {
            Ordered::Done => {
                reach(CrashPoint::FsckAfterRepair);
                Ok(Finding { trouble, what: what.into(), repaired: true })
            }
            Ordered::Unrecorded => {
                let what = format!("{what}: its bytes are here; no room for its record");
                Ok(Finding { trouble, what, repaired: false })
            }
            Ordered::Waits(error) => {
                let trouble = trouble_of(&error);
                Ok(Finding { trouble, what: format!("{what}: {error}"), repaired: false })
            }
        }
    }

    /// Whether the store has what the record names.
    fn remote(
        &self,
        inode: &Inode,
        file: &File,
        record: Record,
        verdict: Verdict,
        answer: Result<IndexEntry, RecallError>,
    ) -> io::Result<Option<Finding>> {
        let finding =
            |trouble, what: String, repaired| Ok(Some(Finding { trouble, what, repaired }));
        let missing = match answer {
            Ok(entry) if entry.meta.size_bytes == record.size_bytes => None,
            Ok(_) => Some(format!("{} is of a file of another size", record.at)),
            Err(error) if error.is_loss() => Some(error.to_string()),
            Err(error) => return finding(trouble_of(&error), error.to_string(), false),
        };
        let repair = self.mode != Mode::Check;
        match (verdict, missing) {
            (Verdict::Released | Verdict::Lost, Some(why)) => finding(Trouble::Lost, why, false),
            (Verdict::Lost, None) => {
                if repair {
                    let found = Record { state: State::Released, ..record };
                    self.tenant.set_record(file, inode, &found)?;
                    reach(CrashPoint::FsckAfterFound);
                }
                let what = format!("{} was missing or damaged, and its segment has it", record.at);
                finding(Trouble::Lost, what, repair)
            }
            (Verdict::Archived, Some(why)) => {
                if repair {
                    // The bytes are here; a record that names nothing must not release them.
                    self.tenant.drop_record(file, inode)?;
                    reach(CrashPoint::FsckAfterVoid);
                }
                finding(Trouble::VoidRecord, format!("{why}; the bytes are here"), repair)
            }
            _ => Ok(None),
        }
    }

    /// Gives a stub its record back, if it is this tenant's and its segment agrees.
    fn orphan(
        &self,
        inode: &Inode,
        file: &File,
        stub: Option<Stub>,
        remote: Option<Remote>,
    ) -> io::Result<Finding> {
        let finding = |trouble, what: String, repaired| Ok(Finding { trouble, what, repaired });
        let Some(stub) = stub else {
            let what = "a stub that is damaged, or of another key".into();
            return finding(Trouble::Orphan, what, false);
        };
        let Some((_, answer)) = remote else {
            let what = "a stub without its record (copied, restored, or its record lost)".into();
            return finding(Trouble::Orphan, what, false);
        };
        match answer {
            Ok(entry) if entry.content == stub.content => {
                self.adopt(inode, file, &entry)?;
                reach(CrashPoint::AdoptAfterFile);
                finding(Trouble::Orphan, "a stub without its record".into(), true)
            }
            Ok(_) => {
                let what = format!("a stub without its record: {} has other bytes", stub.at);
                finding(Trouble::Lost, what, false)
            }
            Err(error) => {
                let what = format!("a stub without its record: {error}");
                finding(trouble_of(&error), what, false)
            }
        }
    }

    /// Writes the record of an orphaned stub. The MAC says that the stub is this tenant's, not that
    /// whoever copied it may read it: owner and mode become no wider than the archived file's.
    fn adopt(&self, inode: &Inode, file: &File, entry: &IndexEntry) -> io::Result<()> {
        use nix::sys::stat::{Mode, fchmod};
        use nix::unistd::{Gid, Uid, fchown};
        let stat = fstat(file)?;
        let meta = &entry.meta;
        if stat.st_uid != meta.uid || stat.st_gid != meta.gid {
            fchown(file, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))?;
        }
        let mode = stat.st_mode & meta.mode & 0o7777;
        if mode != stat.st_mode & 0o7777 {
            fchmod(file, Mode::from_bits_truncate(mode))?;
        }
        // Nobody whom the old mode let in may find the file readable.
        self.inodes.tell_kernel(inode.ino);
        let time = |seconds, nanoseconds| {
            TimeNs::from_parts(seconds, nanoseconds)
                .ok_or_else(|| io::Error::from_raw_os_error(libc::EOVERFLOW))
        };
        let record = Record {
            state: State::Released,
            at: entry.place.at(),
            size_bytes: meta.size_bytes,
            mtime: time(stat.st_mtime, stat.st_mtime_nsec)?,
            ctime_shown: time(stat.st_ctime, stat.st_ctime_nsec)?,
            blocks_512: meta.blocks_512,
        };
        self.tenant.set_record(file, inode, &record)?;
        file.sync_all()
    }

    /// What the store says of an entry. Of one that was lost it has to give the bytes too, before a
    /// repair believes that they are there again.
    async fn ask(&mut self, at: EntryRef, verdict: Verdict) -> Result<IndexEntry, RecallError> {
        let entry = self.entry(at).await?;
        if verdict == Verdict::Lost && self.mode != Mode::Check {
            prove_remote(self.tenant, &entry.place, self.patience).await?;
        }
        Ok(entry)
    }

    async fn entry(&mut self, at: EntryRef) -> Result<IndexEntry, RecallError> {
        let known = self.indexes.get(&at.segment).cloned();
        let index = match known {
            Some(known) => known,
            None => self.fetch(at).await?,
        };
        // What is remembered of a segment was said of the first file in it.
        index.map_err(|error| error.said_of(at))?.entry(at.entry).cloned().ok_or_else(|| {
            RecallError::Damaged { at, what: "its segment has no such entry".to_owned() }
        })
    }

    /// An index, or the proof that there is none; an error: the store does not say.
    async fn fetch(
        &mut self,
        at: EntryRef,
    ) -> Result<Result<Arc<Index>, RecallError>, RecallError> {
        let answer = match remote_index(self.tenant, at, self.patience).await {
            Ok(index) => Ok(Arc::new(index)),
            Err(error) if error.is_loss() => Err(error),
            Err(error) => {
                if matches!(error, RecallError::Deadline { .. }) {
                    // A store that is away is away for the files that follow, too.
                    self.patience = Duration::ZERO;
                }
                return Err(error);
            }
        };
        if self.indexes.len() >= INDEXES {
            self.indexes.clear();
        }
        self.indexes.insert(at.segment, answer.clone());
        Ok(answer)
    }
}

/// Whether a file may be another after a repair: what the kernel remembers of others stays true.
fn is_another(verdict: Verdict, concluded: &io::Result<Option<Finding>>) -> bool {
    let repaired = !matches!(concluded, Ok(None | Some(Finding { repaired: false, .. })));
    match verdict {
        // Its body is worked on, whatever came of that.
        Verdict::FinishRelease
        | Verdict::RewriteStub
        | Verdict::CutBack
        | Verdict::ArchivedProven
        | Verdict::NeedsHash { .. }
        | Verdict::ResidentDropRecord => true,
        Verdict::Resident
        | Verdict::ResidentEmpty
        | Verdict::OrphanStub
        | Verdict::OrphanOverRecord
        | Verdict::Archived
        | Verdict::Released
        | Verdict::Lost
        | Verdict::Conflict { .. }
        | Verdict::ForeignKept { .. } => repaired,
    }
}

/// A finding about a body that a record of ours is beside, and what that names.
fn named(record: Option<Record>, what: &str) -> String {
    match record {
        Some(record) => {
            format!("{what}; its record names {}, {} bytes", record.at, record.size_bytes)
        }
        None => format!("{what}; no record names a copy of it"),
    }
}

/// Opens a file and looks at it; none: it is in use.
fn look_at(
    tenant: &Tenant,
    inodes: &Inodes,
    inode: &Inode,
    access: i32,
) -> io::Result<Option<Look>> {
    if !matches!(inode.serving(), Serving::Closed) {
        return Ok(None);
    }
    let file = match inodes.open(inode, access | libc::O_NONBLOCK | libc::O_NOATIME) {
        // Somebody has a lease on it: in use, too.
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return Ok(None),
        other => Arc::new(other?),
    };
    let judged = look(tenant, inode, &file)?;
    Ok(Some(Look { file, judged }))
}

fn trouble_of(error: &RecallError) -> Trouble {
    if error.is_loss() { Trouble::Lost } else { Trouble::Unanswered }
}
