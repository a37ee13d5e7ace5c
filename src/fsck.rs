//! Checking a tenant's files against their records, stubs and segments, and repairing what can
//! be repaired without losing a byte.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;

use nix::sys::stat::fstat;

use crate::failpoint::{CrashPoint, reach};
use crate::file_id::{SegmentId, TimeNs};
use crate::inode::{Inode, Inodes, Serving};
use crate::record::Record;
use crate::recover::{look, put_in_order};
use crate::segment::{Index, IndexEntry, ReadError, read_index, segment_key};
use crate::store::StoreError;
use crate::stub::Stub;
use crate::tenant::Tenant;
use crate::tier::State;
use crate::tier::verdict::Verdict;

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
    /// None: the store has no such segment, or a damaged one.
    indexes: HashMap<SegmentId, Option<Arc<Index>>>,
}

/// Indexes remembered in one check; beyond it they are read again.
const INDEXES: usize = 256;

impl<'a> Fsck<'a> {
    /// A check of a tenant's files.
    pub fn new(tenant: &'a Arc<Tenant>, inodes: &'a Inodes, mode: Mode) -> Self {
        Self { tenant, inodes, mode, indexes: HashMap::new() }
    }

    /// Checks one file. An error: it could not be looked at.
    pub async fn check(&mut self, inode: &Arc<Inode>) -> io::Result<Option<Finding>> {
        let held = inode.tier().await;
        if !matches!(inode.serving(), Serving::Closed) {
            // In use: whoever opened it judged it.
            return Ok(None);
        }
        let writable = if self.mode == Mode::Check { libc::O_RDONLY } else { libc::O_RDWR };
        let flags = writable | libc::O_NONBLOCK | libc::O_NOATIME;
        let file = match self.inodes.open(inode, flags) {
            // Somebody has a lease on it: in use, too.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return Ok(None),
            other => Arc::new(other?),
        };
        let judged = look(self.tenant, inode, &file)?;
        let suspect = judged.record.is_some_and(|record| record.state == State::Suspect);
        let finding = match judged.verdict {
            // A daemon died while somebody had it open for writing: nothing is wrong with the
            // bytes, and whether they are the copy's is found out by whoever wants to know.
            Verdict::NeedsHash { serve_meanwhile: true } | Verdict::ResidentDropRecord
                if suspect =>
            {
                if self.mode != Mode::Check {
                    put_in_order(self.tenant, inode, &file).await?;
                }
                None
            }
            Verdict::Resident | Verdict::ResidentEmpty if judged.record.is_none() => None,
            Verdict::Resident | Verdict::ResidentEmpty | Verdict::ResidentDropRecord => {
                let what = "its record is void: the bytes are here and changed since";
                Some(self.order(inode, &file, Trouble::VoidRecord, what).await?)
            }
            Verdict::FinishRelease
            | Verdict::RewriteStub
            | Verdict::CutBack
            | Verdict::ArchivedProven
            | Verdict::NeedsHash { .. } => {
                let what = "a crash left it in the middle of a move";
                Some(self.order(inode, &file, Trouble::InFlight, what).await?)
            }
            Verdict::OrphanStub | Verdict::OrphanOverRecord => {
                Some(self.orphan(inode, &file, judged.stub).await?)
            }
            Verdict::Conflict { .. } => Some(Finding {
                trouble: Trouble::Conflict,
                what: "neither the recorded bytes nor a stub: changed behind the mount".into(),
                repaired: false,
            }),
            Verdict::ForeignKept { .. } => Some(Finding {
                trouble: Trouble::Foreign,
                what: "a record of another tenant or of a newer coldfs".into(),
                repaired: false,
            }),
            Verdict::Archived | Verdict::Released | Verdict::Lost => match judged.record {
                Some(record) => self.remote(inode, &file, record, judged.verdict).await?,
                None => None,
            },
        };
        drop(held);
        Ok(finding)
    }

    async fn order(
        &self,
        inode: &Inode,
        file: &Arc<File>,
        trouble: Trouble,
        what: &str,
    ) -> io::Result<Finding> {
        let repaired = self.mode != Mode::Check && put_in_order(self.tenant, inode, file).await?;
        if repaired {
            reach(CrashPoint::FsckAfterRepair);
        }
        Ok(Finding { trouble, what: what.into(), repaired })
    }

    /// Whether the store has what the record names.
    async fn remote(
        &mut self,
        inode: &Inode,
        file: &File,
        record: Record,
        verdict: Verdict,
    ) -> io::Result<Option<Finding>> {
        let there = match self.index(record.at.segment).await {
            Ok(index) => index.is_some_and(|index| {
                index.entry(record.at.entry).is_some_and(|entry| fits(entry, &record))
            }),
            Err(error) => {
                let what = format!("cannot ask the store for {}: {error}", record.at);
                return Ok(Some(Finding { trouble: Trouble::Lost, what, repaired: false }));
            }
        };
        let finding =
            |what: String, repaired| Ok(Some(Finding { trouble: Trouble::Lost, what, repaired }));
        match (verdict, there) {
            (Verdict::Released, false) => {
                finding(format!("the store does not have {} any more", record.at), false)
            }
            (Verdict::Lost, true) => {
                let found = Record { state: State::Released, ..record };
                let repair = self.mode != Mode::Check;
                if repair {
                    self.tenant.set_record(file, inode, &found)?;
                }
                finding(format!("{} was missing and is there again", record.at), repair)
            }
            (Verdict::Lost, false) => finding(format!("{} is missing", record.at), false),
            (Verdict::Archived, false) => {
                let repair = self.mode != Mode::Check;
                if repair {
                    // The bytes are here; a record that names nothing must not release them.
                    self.tenant.drop_record(file, inode)?;
                }
                let what = format!("its copy {} is missing; the bytes are here", record.at);
                Ok(Some(Finding { trouble: Trouble::VoidRecord, what, repaired: repair }))
            }
            _ => Ok(None),
        }
    }

    /// Gives a stub its record back, if it is this tenant's and its segment agrees.
    async fn orphan(
        &mut self,
        inode: &Inode,
        file: &File,
        stub: Option<Stub>,
    ) -> io::Result<Finding> {
        let finding = |what: &str, repaired| {
            Ok(Finding { trouble: Trouble::Orphan, what: what.into(), repaired })
        };
        let Some(stub) = stub else {
            return finding("a stub that is damaged, or of another tenant or key", false);
        };
        if self.mode != Mode::Adopt {
            return finding(
                "a stub without its record (copied, restored, or its record lost)",
                false,
            );
        }
        let entry = match self.index(stub.at.segment).await {
            Ok(index) => index.and_then(|index| index.entry(stub.at.entry).cloned()),
            Err(error) => {
                return finding(&format!("cannot ask the store for {}: {error}", stub.at), false);
            }
        };
        let Some(entry) = entry.filter(|entry| entry.content == stub.content) else {
            return finding("a stub whose bytes the store does not have", false);
        };
        adopt(self.tenant, inode, file, &entry)?;
        reach(CrashPoint::FsckAfterRepair);
        finding("a stub without its record", true)
    }

    async fn index(&mut self, id: SegmentId) -> Result<Option<Arc<Index>>, ReadError> {
        if let Some(known) = self.indexes.get(&id) {
            return Ok(known.clone());
        }
        let key = segment_key(&self.tenant.name, id);
        let tenant = self.tenant.seal.tenant();
        let index = match read_index(&*self.tenant.store, &key, tenant, id).await {
            Ok(index) => Some(Arc::new(index)),
            Err(ReadError::Store(StoreError::NotFound { .. })) => None,
            Err(ReadError::Store(error)) => return Err(ReadError::Store(error)),
            Err(damaged) => {
                tracing::error!(segment = %id, error = %damaged, "a segment is damaged");
                None
            }
        };
        if self.indexes.len() >= INDEXES {
            self.indexes.clear();
        }
        self.indexes.insert(id, index.clone());
        Ok(index)
    }
}

fn fits(entry: &IndexEntry, record: &Record) -> bool {
    entry.meta.size_bytes == record.size_bytes
}

/// Writes the record of an orphaned stub. The MAC says that the stub is this tenant's, not that
/// whoever copied it may read it: owner and mode become no wider than the archived file's.
fn adopt(tenant: &Tenant, inode: &Inode, file: &File, entry: &IndexEntry) -> io::Result<()> {
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
    tenant.set_record(file, inode, &record)?;
    file.sync_all()
}
