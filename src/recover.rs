//! What a file is, from its record and its body alone, and how it is put in order.
//!
//! [`find`] is what an open asks. [`recover()`] runs at every start over what was in flight when
//! the last daemon ended: the table in `tier::verdict` says what is done, this module does it.
//! Bytes that nobody can account for are kept and reported (I10).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::stat::fstat;

use crate::failpoint::{CrashPoint, reach};
use crate::file_id::{EntryRef, TimeNs};
use crate::inode::Inode;
use crate::recall::{RecallError, cut_to_stub, remote_index, restore_mtime};
use crate::record::Record;
use crate::segment::IndexEntry;
use crate::stub::{STUB_BYTES, STUB_LENGTH, Stub, torn};
use crate::sys;
use crate::tenant::{Recorded, Tenant};
use crate::tier::State;
use crate::tier::standing::{Author, Standing};
use crate::tier::verdict::{
    BodyFact, ContentFact, HeadFact, RecordFact, SizeFact, Verdict, verdict,
};

mod content;
mod start;

use content::original_head;
pub use content::{hash_local, hash_while};
pub use start::{Recovered, recover};

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
    /// It was in flight at a crash; [`put_in_order`] comes first, and asks the store.
    InFlight,
    /// Neither can be said: the bytes are kept, and not served.
    Refused(RecallError),
}

/// The facts about one file, and what follows from them.
#[derive(Clone, Debug)]
pub struct Judged {
    /// What the file is.
    pub verdict: Verdict,
    /// Its record, if it is ours.
    pub record: Option<Record>,
    /// The stub at its head, if it is ours.
    pub stub: Option<Stub>,
    /// Whose its head or its record is, if it is another's: in words.
    pub stranger: Option<String>,
    /// Whose the stub at its head is.
    pub author: Author,
}

impl Judged {
    /// The one word for it.
    pub fn standing(&self) -> Standing {
        Standing::of(self.verdict, self.record.map(|record| record.state), self.author)
    }
}

/// Finds out what a file is, and changes nothing.
pub fn look(tenant: &Tenant, inode: &Inode, file: &File) -> io::Result<Judged> {
    examine(tenant, inode, file, Proven::NOTHING)
}

/// Finds out what a file is, and puts it in order where that needs no store. The caller holds
/// the file's tier lock.
///
/// A void record of a file that is at rest stays: to remove it would move the ctime of a file
/// that is only read. A writer's open or the next archive removes it.
pub fn find(tenant: &Tenant, inode: &Inode, file: &File) -> io::Result<Finding> {
    let judged = examine(tenant, inode, file, Proven::NOTHING)?;
    let at_rest = match judged.record.map(|record| record.state) {
        None | Some(State::Archived | State::Suspect) => true,
        Some(State::Releasing | State::Released | State::Recalling | State::Lost) => false,
    };
    match judged.verdict {
        Verdict::ResidentEmpty | Verdict::ResidentDropRecord if at_rest => Ok(Finding::Local),
        _ => settle(tenant, inode, file, judged),
    }
}

/// What is noted where a file's record and its stub name different versions.
pub const STUB_IN_ITS_PLACE: &str = "another stub, or a damaged one, stands in its place";

/// Carries a verdict out; one arm a verdict.
fn settle(tenant: &Tenant, inode: &Inode, file: &File, judged: Judged) -> io::Result<Finding> {
    let refused =
        |what: &str| Ok(Finding::Refused(RecallError::Conflict { what: what.to_owned() }));
    let standing = judged.standing();
    let Judged { verdict, record, stub, stranger, author: _ } = judged;
    let orphan = || match (&stranger, standing) {
        (Some(what), _) => RecallError::Stranger { what: what.clone() },
        (None, Standing::Conflict) => RecallError::Conflict { what: "a damaged stub".into() },
        (None, _) => RecallError::Orphan,
    };
    let note = |what: &str| tenant.note_conflict(inode, file, record.as_ref(), what);
    match verdict {
        Verdict::Resident => Ok(Finding::Local),
        Verdict::ResidentEmpty | Verdict::ResidentDropRecord => {
            if !tenant.is_read_only() {
                tenant.drop_record(file, inode)?;
            }
            Ok(Finding::Local)
        }
        Verdict::Archived | Verdict::NeedsHash { serve_meanwhile: true } => Ok(Finding::Local),
        Verdict::NeedsHash { serve_meanwhile: false } | Verdict::RewriteStub => {
            Ok(Finding::InFlight)
        }
        Verdict::ArchivedProven => {
            let Some(record) = record else { return refused("a verdict without a record") };
            let archived = Record { state: State::Archived, ..record };
            let recorded = restore_mtime(file, record.mtime)
                .and_then(|()| file.sync_all())
                .inspect(|()| reach(CrashPoint::RecoverAfterProof))
                .and_then(|()| tenant.set_record(file, inode, &archived));
            match recorded {
                Err(error) if is_no_room(&error) => {
                    tracing::warn!(ino = %inode.ino, %error, "cannot record that a file is here");
                    Ok(Finding::InFlight)
                }
                other => other.map(|()| Finding::Local),
            }
        }
        Verdict::FinishRelease | Verdict::CutBack => {
            let (Some(mut record), Some(stub)) = (record, stub) else {
                return refused("a verdict without a record");
            };
            if !tenant.is_read_only() {
                match cut_to_stub(tenant, inode, file, &mut record) {
                    // Without room btrfs refuses even that; the bytes are in the store.
                    Err(error) if is_no_room(&error) => {
                        tracing::warn!(ino = %inode.ino, %error, "cannot cut a file to its stub");
                    }
                    other => other?,
                }
            }
            Ok(Finding::Remote { record, stub })
        }
        Verdict::Released | Verdict::Lost => match (record, stub) {
            (Some(record), Some(stub)) => Ok(Finding::Remote { record, stub }),
            _ => refused("a verdict without a record"),
        },
        Verdict::OrphanStub => {
            if standing == Standing::Conflict {
                note("a damaged stub without its record: kept, not served");
            }
            Ok(Finding::Refused(orphan()))
        }
        Verdict::OrphanOverRecord => {
            note(STUB_IN_ITS_PLACE);
            Ok(Finding::Refused(orphan()))
        }
        Verdict::ForeignKept { stub_head: true } => {
            let what = stranger.unwrap_or_else(|| "a stub under a foreign record".into());
            Ok(Finding::Refused(RecallError::Stranger { what }))
        }
        Verdict::ForeignKept { stub_head: false } => Ok(Finding::Local),
        Verdict::Conflict { stub_head: true } => {
            note("a stub that was changed: kept, not served");
            refused("a changed stub")
        }
        Verdict::Conflict { stub_head: false } => {
            note("bytes in the place of a stub: kept, served as they are");
            Ok(Finding::Local)
        }
    }
}

fn is_no_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// What the store's copy proves about a body.
#[derive(Clone, Copy, Debug)]
struct Proven {
    content: ContentFact,
    /// What its head is, whatever it looks like.
    head: Option<HeadFact>,
}

impl Proven {
    /// The store was not asked.
    const NOTHING: Self = Self { content: ContentFact::Unknown, head: None };
}

fn examine(tenant: &Tenant, inode: &Inode, file: &File, proven: Proven) -> io::Result<Judged> {
    let stat = fstat(file)?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let recorded = tenant.recorded(file, &inode.handle)?;
    let mut judged = Judged {
        verdict: Verdict::Resident,
        record: None,
        stub: None,
        stranger: None,
        author: Author::Nobody,
    };
    let fact = match &recorded {
        // A stub without a record is looked for where it could be one.
        Recorded::Nothing if size != STUB_LENGTH => return Ok(judged),
        Recorded::Nothing => RecordFact::None,
        Recorded::Misfit => RecordFact::Misfit,
        Recorded::Foreign(why) => {
            judged.stranger = Some(why.to_string());
            RecordFact::Foreign
        }
        Recorded::Trusted(record) => {
            judged.record = Some(*record);
            RecordFact::Is(record.state)
        }
    };
    let wanted = judged.record;
    let mut bytes = [0; STUB_BYTES];
    let filled = sys::read_up_to(file, &mut bytes, 0)?;
    let head = tenant.head(file, &inode.handle, &recorded, &bytes[..filled])?;
    judged.author = head.author();
    judged.stub = head.stub;
    judged.stranger = head.stranger.or(judged.stranger);
    let mtime = TimeNs::mtime_of(&stat);
    let body = BodyFact {
        size: SizeFact::of(size, wanted.map(|record| record.size_bytes)),
        head: proven.head.unwrap_or(head.fact),
        times_match: wanted.is_some_and(|record| mtime == Some(record.mtime)),
    };
    judged.verdict = verdict(fact, body, proven.content);
    Ok(judged)
}

/// A release that had marked a file and not begun with its body: the record says archived
/// again, or nobody would ever release it. False: that is not what the file is. Only where no
/// release of this daemon relies on its mark.
pub fn unmark(tenant: &Tenant, inode: &Inode, file: &File) -> io::Result<bool> {
    let judged = examine(tenant, inode, file, Proven::NOTHING)?;
    match (judged.verdict, judged.record) {
        (Verdict::Archived, Some(record)) if record.state == State::Releasing => {
            tenant.set_record(file, inode, &Record { state: State::Archived, ..record })?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Whether a file is in order now.
#[derive(Clone, Debug)]
pub enum Ordered {
    /// It is.
    Done,
    /// Its bytes are proven to be here, and there is no room for a record that says so.
    Unrecorded,
    /// It is as it was: it has to wait for the store.
    Waits(RecallError),
}

/// Puts one file in order, asking the store for up to `patience`. The caller holds the file's
/// tier lock, or nothing is served yet.
pub async fn put_in_order(
    tenant: &Tenant,
    inode: &Inode,
    file: &Arc<File>,
    patience: Duration,
) -> io::Result<Ordered> {
    let judged = examine(tenant, inode, file, Proven::NOTHING)?;
    let entry = match needs_entry(&judged) {
        Some(at) => Some(entry_of(tenant, at, patience).await),
        None => None,
    };
    order_with(tenant, inode, file, entry, patience).await
}

/// The entry that putting a file in order asks for; none: it asks for nothing.
pub fn needs_entry(judged: &Judged) -> Option<EntryRef> {
    match judged.verdict {
        Verdict::NeedsHash { .. } | Verdict::RewriteStub => judged.record.map(|record| record.at),
        _ => None,
    }
}

/// Puts one file in order with what the store said of the entry that [`needs_entry`] names; a
/// torn head asks it for the original's, for up to `patience`.
pub async fn order_with(
    tenant: &Tenant,
    inode: &Inode,
    file: &Arc<File>,
    entry: Option<Result<IndexEntry, RecallError>>,
    patience: Duration,
) -> io::Result<Ordered> {
    let judged = examine(tenant, inode, file, Proven::NOTHING)?;
    match (judged.verdict, judged.record, entry) {
        (Verdict::NeedsHash { .. }, Some(_), Some(Ok(entry))) => {
            let content = compare(file, &entry).await?;
            settle_hashed(tenant, inode, file, Proven { content, head: None })
        }
        // No copy that these bytes could be: they are all there is, and stay.
        (Verdict::NeedsHash { .. }, Some(_), Some(Err(error))) if error.is_loss() => {
            let proven = Proven { content: ContentFact::Differs, head: None };
            settle_hashed(tenant, inode, file, proven)
        }
        (Verdict::RewriteStub, Some(record), Some(Ok(entry))) => {
            match original_head(tenant, &entry, patience).await {
                Ok(original) => rewrite_stub(tenant, inode, file, record, &entry, &original).await,
                Err(error) => Ok(waits(inode, error)),
            }
        }
        (Verdict::NeedsHash { .. } | Verdict::RewriteStub, Some(_), Some(Err(error))) => {
            Ok(waits(inode, error))
        }
        (Verdict::NeedsHash { .. } | Verdict::RewriteStub, Some(record), None) => {
            // It changed between two looks; the next one asks.
            let what = "changed while it was looked at".to_owned();
            Ok(Ordered::Waits(RecallError::Conflict { what: format!("{}: {what}", record.at) }))
        }
        _ => {
            settle(tenant, inode, file, judged)?;
            Ok(Ordered::Done)
        }
    }
}

fn waits(inode: &Inode, error: RecallError) -> Ordered {
    tracing::warn!(ino = %inode.ino, %error, "a file in flight waits for the store");
    Ordered::Waits(error)
}

async fn compare(file: &Arc<File>, entry: &IndexEntry) -> io::Result<ContentFact> {
    let hashed = Arc::clone(file);
    let local = tokio::task::spawn_blocking(move || hash_local(&hashed))
        .await
        .map_err(io::Error::other)??;
    Ok(if local == entry.content { ContentFact::Equal } else { ContentFact::Differs })
}

/// Writes the stub again over a head that is proven to be a mix of it and the original (I10).
async fn rewrite_stub(
    tenant: &Tenant,
    inode: &Inode,
    file: &Arc<File>,
    mut record: Record,
    entry: &IndexEntry,
    original: &[u8; STUB_BYTES],
) -> io::Result<Ordered> {
    let mut body = [0; STUB_BYTES];
    let filled = sys::read_up_to(file, &mut body, 0)?;
    if filled == STUB_BYTES && body == *original {
        // The stub's sectors in it are the file's own.
        let content = compare(file, entry).await?;
        let head = Some(HeadFact::Plain);
        return settle_hashed(tenant, inode, file, Proven { content, head });
    }
    let store = tenant.store.url();
    let stub = Stub::of_entry(entry, store, &tenant.name, tenant.seal.tenant());
    match stub.encode(&tenant.seal) {
        Ok(stub) if torn(original, &stub, &body[..filled]) => {
            file.write_all_at(&stub, 0)?;
            file.sync_data()?;
            cut_to_stub(tenant, inode, file, &mut record)?;
            Ok(Ordered::Done)
        }
        Ok(_) | Err(_) => {
            let what = "a head that is neither the stub, nor the original, nor a mix: kept";
            tenant.note_conflict(inode, file, Some(&record), what);
            Ok(Ordered::Waits(RecallError::Conflict { what: what.to_owned() }))
        }
    }
}

/// Carries out what follows from a content hash. Bytes that are proven to be no version of the
/// record are the file from now on: with the record, every look would hash them again.
fn settle_hashed(
    tenant: &Tenant,
    inode: &Inode,
    file: &File,
    proven: Proven,
) -> io::Result<Ordered> {
    let judged = examine(tenant, inode, file, proven)?;
    match (judged.verdict, judged.record) {
        (Verdict::Conflict { stub_head: false }, Some(record)) => {
            let what = format!("other bytes than those of {}: kept, served as they are", record.at);
            tenant.note_conflict(inode, file, Some(&record), &what);
            tenant.drop_record(file, inode)?;
            Ok(Ordered::Done)
        }
        _ => match settle(tenant, inode, file, judged)? {
            Finding::InFlight => Ok(Ordered::Unrecorded),
            Finding::Local | Finding::Remote { .. } | Finding::Refused(_) => Ok(Ordered::Done),
        },
    }
}

/// What the store has for an entry, asked for up to `patience`.
pub async fn entry_of(
    tenant: &Tenant,
    at: EntryRef,
    patience: Duration,
) -> Result<IndexEntry, RecallError> {
    let index = remote_index(tenant, at, patience).await?;
    index.entry(at.entry).cloned().ok_or_else(|| RecallError::Damaged {
        at,
        what: "its segment has no such entry".to_owned(),
    })
}
