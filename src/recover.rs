//! What a file is, from its record and its body alone, and how it is put in order.
//!
//! [`find`] is what an open asks. [`recover`] runs at every start over what was in flight when
//! the last daemon ended: the table in `tier::verdict` says what is done, this module does it.
//! Bytes that nobody can account for are kept and reported (I10).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::sys::stat::fstat;

use crate::failpoint::{CrashPoint, reach};
use crate::file_id::TimeNs;
use crate::inode::{Inode, Inodes};
use crate::recall::{RecallError, cut_to_stub, restore_mtime};
use crate::record::Record;
use crate::segment::{ContentHash, read_index, segment_key};
use crate::stub::{STUB_BYTES, Stub, StubHead};
use crate::sys;
use crate::tenant::{Recorded, Tenant};
use crate::tier::State;
use crate::tier::verdict::{BodyFact, ContentFact, HeadFact, RecordFact, SizeFact, Verdict, judge};

mod content;

pub use content::hash_local;

/// What an open does with a file.
#[derive(Debug)]
pub enum Finding {
    /// Its bytes are here.
    Local,
    /// Its bytes are remote, and this is where.
    Remote {
        /// Its record.
        record: Record,
        /// Its stub.
        stub: Stub,
    },
    /// Neither can be said: the bytes are kept, and not served.
    Refused(RecallError),
}

/// The facts about one file, and what follows from them.
struct Judged {
    verdict: Verdict,
    record: Option<Record>,
    stub: Option<Stub>,
}

/// Finds out what a file is, and puts it in order where that needs no store.
pub fn find(tenant: &Tenant, inode: &Inode, file: &File) -> io::Result<Finding> {
    let judged = examine(tenant, inode, file, ContentFact::Unknown)?;
    settle(tenant, inode, file, judged)
}

fn settle(
    tenant: &Tenant,
    inode: &Inode,
    file: &File,
    judged: Judged,
) -> io::Result<Finding> {
    let remote = |record: Record, stub: Option<Stub>| match stub {
        Some(stub) => Finding::Remote { record, stub },
        None => Finding::Refused(RecallError::Conflict { what: "a stub that went away".into() }),
    };
    match (judged.verdict, judged.record) {
        (Verdict::Resident | Verdict::ResidentEmpty, None) => Ok(Finding::Local),
        (Verdict::Resident | Verdict::ResidentEmpty | Verdict::ResidentDropRecord, _) => {
            tenant.drop_record(file, inode)?;
            Ok(Finding::Local)
        }
        // Until its content is hashed the bytes here are served, and nothing is dropped.
        (Verdict::Archived | Verdict::NeedsHash, _) => Ok(Finding::Local),
        (Verdict::FinishRelease | Verdict::CutBack, Some(mut record)) => {
            cut_to_stub(tenant, inode, file, &mut record)?;
            Ok(remote(record, judged.stub))
        }
        (Verdict::Released | Verdict::Lost, Some(record)) => Ok(remote(record, judged.stub)),
        (Verdict::RewriteStub, _) => Ok(Finding::Refused(RecallError::Conflict {
            what: "a stub half written by a power cut; mount again with the store reachable".into(),
        })),
        (Verdict::OrphanStub, _) => Ok(Finding::Refused(RecallError::Orphan)),
        (Verdict::ForeignKept { stub_head: true }, _) => {
            Ok(Finding::Refused(RecallError::Conflict {
                what: "a stub of another tenant or of a newer coldfs".into(),
            }))
        }
        (Verdict::Conflict { stub_head: true }, _) => {
            tenant.note_conflict(inode, "a stub with other bytes behind it: kept, not served");
            Ok(Finding::Refused(RecallError::Conflict { what: "a changed stub".into() }))
        }
        (Verdict::Conflict { stub_head: false }, _) => {
            tenant.note_conflict(inode, "bytes in the place of a stub: kept, and served as they are");
            tenant.drop_record(file, inode)?;
            Ok(Finding::Local)
        }
        (Verdict::ForeignKept { stub_head: false }, _) => Ok(Finding::Local),
        (
            Verdict::FinishRelease | Verdict::CutBack | Verdict::Released | Verdict::Lost,
            None,
        ) => Ok(Finding::Refused(RecallError::Conflict { what: "a verdict without a record".into() })),
    }
}

fn examine(
    tenant: &Tenant,
    inode: &Inode,
    file: &File,
    content: ContentFact,
) -> io::Result<Judged> {
    let stat = fstat(file)?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let recorded = tenant.recorded(file, &inode.handle)?;
    let mut judged = Judged { verdict: Verdict::Resident, record: None, stub: None };
    let (fact, wanted) = match &recorded {
        // A stub without a record is looked for where it could be one.
        Recorded::Nothing if size != STUB_BYTES as u64 => return Ok(judged),
        Recorded::Nothing => (RecordFact::Nothing, None),
        Recorded::Misfit => (RecordFact::Misfit, None),
        Recorded::Foreign(_) => (RecordFact::Foreign, None),
        Recorded::Trusted(record) => (RecordFact::Is(record.state), Some(*record)),
    };
    let mut head = [0; STUB_BYTES];
    let filled = read_head(file, &mut head)?;
    let head = match Stub::parse(&head[..filled], &tenant.seal) {
        StubHead::Sealed(stub) => {
            let named = wanted.is_some_and(|record| record.at == stub.at);
            judged.stub = Some(stub);
            if named { HeadFact::Named } else { HeadFact::OtherStub }
        }
        StubHead::Unsealed(_) | StubHead::Newer(_) => HeadFact::OtherStub,
        StubHead::Damaged(_) => HeadFact::Torn,
        StubHead::NotAStub => HeadFact::Plain,
    };
    let mtime = TimeNs::from_parts(stat.st_mtime, stat.st_mtime_nsec);
    let body = BodyFact {
        size: match size {
            0 => SizeFact::Zero,
            _ if size == STUB_BYTES as u64 => SizeFact::StubSize,
            _ if wanted.is_some_and(|record| record.size_bytes == size) => SizeFact::Recorded,
            _ => SizeFact::Other,
        },
        head,
        times_match: wanted.is_some_and(|record| mtime == Some(record.mtime)),
    };
    judged.verdict = judge(fact, body, content);
    judged.record = wanted;
    Ok(judged)
}

fn read_head(file: &File, head: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < head.len() {
        match file.read_at(&mut head[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// What a recovery did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recovered {
    /// Files that were on the work list.
    pub looked_at: u64,
    /// Files that have to wait for the store.
    pub waiting: u64,
}

/// Puts in order what was in flight when the last daemon ended.
pub async fn recover(tenant: &Arc<Tenant>, inodes: &Inodes) -> io::Result<Recovered> {
    let mut done = Recovered::default();
    let mut last = None;
    for intent in tenant.work.left_behind()? {
        let file = match sys::handle::open(tenant.root(), &intent.handle, libc::O_RDWR) {
            Ok(fd) => Arc::new(File::from(fd)),
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot open a file that was in flight");
                done.waiting += 1;
                continue;
            }
        };
        let stat = fstat(&*file)?;
        let anchor = file.try_clone()?.into();
        let inode = inodes.enter(anchor, intent.handle, &stat);
        done.looked_at += 1;
        if !put_in_order(tenant, &inode, &file).await? {
            done.waiting += 1;
        }
        reach(CrashPoint::RecoverAfterFile);
        let ino = inode.ino;
        drop(inode);
        inodes.tidy(ino);
        last = Some(file);
    }
    if let Some(last) = last {
        tenant.barrier(&*last)?;
    }
    reach(CrashPoint::RecoverBeforeClear);
    if done.waiting == 0 {
        tenant.work.empty()?;
    }
    Ok(done)
}

/// Puts one file in order. False: it has to wait for the store.
pub async fn put_in_order(
    tenant: &Arc<Tenant>,
    inode: &Inode,
    file: &Arc<File>,
) -> io::Result<bool> {
    let judged = examine(tenant, inode, file, ContentFact::Unknown)?;
    let Some(record) = judged.record else {
        settle(tenant, inode, file, judged)?;
        return Ok(true);
    };
    match judged.verdict {
        Verdict::NeedsHash => {
            let Some(wanted) = content_of(tenant, &record).await else { return Ok(false) };
            let equal = hash_local(file)? == wanted;
            let content = if equal { ContentFact::Equal } else { ContentFact::Differs };
            let judged = examine(tenant, inode, file, content)?;
            if judged.verdict == Verdict::Archived {
                restore_mtime(file, record.mtime)?;
                file.sync_all()?;
                let archived = Record { state: State::Archived, ..record };
                tenant.set_record(&**file, inode, &archived)?;
            } else {
                settle(tenant, inode, file, judged)?;
            }
            Ok(true)
        }
        Verdict::RewriteStub => {
            let Some(stub) = rebuild_stub(tenant, &record).await else { return Ok(false) };
            let Ok(bytes) = stub.encode(&tenant.seal) else { return Ok(false) };
            file.write_all_at(&bytes, 0)?;
            file.sync_data()?;
            cut_to_stub(tenant, inode, file, &mut record.clone())?;
            Ok(true)
        }
        Verdict::Resident
        | Verdict::ResidentEmpty
        | Verdict::ResidentDropRecord
        | Verdict::Archived
        | Verdict::FinishRelease
        | Verdict::CutBack
        | Verdict::Released
        | Verdict::Lost
        | Verdict::OrphanStub
        | Verdict::Conflict { .. }
        | Verdict::ForeignKept { .. } => {
            settle(tenant, inode, file, judged)?;
            Ok(true)
        }
    }
}

/// The content hash that the store has for a record; none while it does not answer.
pub async fn content_of(tenant: &Tenant, record: &Record) -> Option<ContentHash> {
    Some(entry_of(tenant, record).await?.content)
}

async fn entry_of(tenant: &Tenant, record: &Record) -> Option<crate::segment::IndexEntry> {
    let key = segment_key(&tenant.name, record.at.segment);
    let index = read_index(&*tenant.store, &key, tenant.seal.tenant(), record.at.segment).await;
    match index {
        Ok(index) => index.entry(record.at.entry).cloned(),
        Err(error) => {
            tracing::warn!(at = %record.at, %error, "cannot read a segment's index");
            None
        }
    }
}

/// The stub of a record, made anew from the segment's index.
pub async fn rebuild_stub(tenant: &Tenant, record: &Record) -> Option<Stub> {
    let entry = entry_of(tenant, record).await?;
    Some(Stub::of(&tenant.name, tenant.store.url(), tenant.seal.tenant(), &entry))
}
