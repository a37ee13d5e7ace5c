//! What a file is, from its record and its body alone: one exhaustive match, used by lookup and
//! by recovery. The first row that fits wins; rows are DESIGN.md's ("What a file is").
//!
//! Gathering the facts may cost: a head is read where the size is 4,096 or the record says that
//! bytes may be moving; whether a head is torn is known from its sectors' marks, and proven with
//! the original; a content hash is computed only where the answer is [`Verdict::NeedsHash`].

use crate::tier::State;

/// What the xattr says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordFact {
    /// There is none.
    None,
    /// There is one that was not written for this inode.
    Misfit,
    /// A newer version's, an unknown state's, another tenant's.
    Foreign,
    /// Ours.
    Is(State),
}

/// The body's size, beside the record's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SizeFact {
    /// Empty.
    Zero,
    /// 4,096, whatever the record says.
    StubSize,
    /// As recorded, and neither of the above.
    Recorded,
    /// Another, or there is no record to compare with.
    Other,
}

impl SizeFact {
    /// Of a body of `size_bytes` under a record of `recorded_bytes`.
    pub fn of(size_bytes: u64, recorded_bytes: Option<u64>) -> Self {
        match size_bytes {
            0 => SizeFact::Zero,
            4096 => SizeFact::StubSize,
            size if Some(size) == recorded_bytes => SizeFact::Recorded,
            _ => SizeFact::Other,
        }
    }
}

/// The body's first 4,096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeadFact {
    /// S: the stub that the record names (or that entry's alias), its MAC fitting.
    Stub,
    /// O: another stub of ours, or one that is damaged or newer.
    OtherStub,
    /// T: sectors of a stub and others. Whether these are S's and the original's is proven
    /// before anything is written over them.
    Torn,
    /// None of these: in particular no sector of it is a stub's.
    Plain,
}

impl HeadFact {
    /// Whether a program must not take this head for the file's bytes.
    pub fn is_stub(self) -> bool {
        match self {
            HeadFact::Stub | HeadFact::OtherStub | HeadFact::Torn => true,
            HeadFact::Plain => false,
        }
    }
}

/// The body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BodyFact {
    /// Its size.
    pub size: SizeFact,
    /// Its head.
    pub head: HeadFact,
    /// Whether its mtime is the recorded one.
    pub times_match: bool,
}

/// The local bytes' hash, beside the segment's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContentFact {
    /// Not computed.
    Unknown,
    /// They are the recorded version.
    Equal,
    /// They are not.
    Differs,
}

/// What a file is, and what that asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Bytes local; no record.
    Resident,
    /// Bytes local; the record is void and goes.
    ResidentDropRecord,
    /// Empty; a record, if there is one, is void and goes.
    ResidentEmpty,
    /// A stub without a record of its own: EIO until `fsck --adopt`.
    OrphanStub,
    /// Another file's stub stands where a record of ours is: as an orphan, and the version that
    /// the record names is noted in `.coldfs/conflicts`.
    OrphanOverRecord,
    /// Bytes local and as recorded. Hash before a release, unless it is the same boot and the
    /// ctime is the known one.
    Archived,
    /// Bytes local, and hashed to the recorded version: set the record to archived.
    ArchivedProven,
    /// Ask again with the content hash. Until then the local bytes are served or nothing is;
    /// nothing is dropped or overwritten.
    NeedsHash {
        /// Whether the local bytes are what programs wrote (a suspect file's are).
        serve_meanwhile: bool,
    },
    /// The stub stands: cut to it, record released. No request.
    FinishRelease,
    /// Write the stub again over a torn head, then as [`Verdict::FinishRelease`].
    RewriteStub,
    /// An unfinished recall: cut back to the stub, record released.
    CutBack,
    /// The bytes are remote only.
    Released,
    /// The bytes are proven missing.
    Lost,
    /// Changed behind our back: bytes and record kept, reported by name (I10).
    Conflict {
        /// EIO, because the head is a stub or part of one.
        stub_head: bool,
    },
    /// The record is not ours to judge: kept, never migrated.
    ForeignKept {
        /// EIO, because the head is a stub or part of one.
        stub_head: bool,
    },
}

/// Who answers a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The body.
    Local,
    /// The segment.
    Remote,
    /// Nobody: EIO.
    Nobody,
}

impl Verdict {
    /// Who answers a read of a file of which this was found.
    pub fn source(self) -> Source {
        match self {
            Verdict::Resident
            | Verdict::ResidentDropRecord
            | Verdict::ResidentEmpty
            | Verdict::Archived
            | Verdict::ArchivedProven
            | Verdict::NeedsHash { serve_meanwhile: true }
            | Verdict::Conflict { stub_head: false }
            | Verdict::ForeignKept { stub_head: false } => Source::Local,
            Verdict::FinishRelease
            | Verdict::RewriteStub
            | Verdict::CutBack
            | Verdict::Released => Source::Remote,
            Verdict::OrphanStub
            | Verdict::OrphanOverRecord
            | Verdict::NeedsHash { serve_meanwhile: false }
            | Verdict::Lost
            | Verdict::Conflict { stub_head: true }
            | Verdict::ForeignKept { stub_head: true } => Source::Nobody,
        }
    }

    /// Whether carrying it out overwrites or cuts the body.
    pub fn changes_body(self) -> bool {
        match self {
            Verdict::FinishRelease | Verdict::RewriteStub | Verdict::CutBack => true,
            Verdict::Resident
            | Verdict::ResidentDropRecord
            | Verdict::ResidentEmpty
            | Verdict::OrphanStub
            | Verdict::OrphanOverRecord
            | Verdict::Archived
            | Verdict::ArchivedProven
            | Verdict::NeedsHash { .. }
            | Verdict::Released
            | Verdict::Lost
            | Verdict::Conflict { .. }
            | Verdict::ForeignKept { .. } => false,
        }
    }
}

/// What a file is.
///
/// Beyond DESIGN.md's rows, where a combination cannot be met but has an answer: a suspect file
/// whose head is a stub or torn is a conflict, because dropping its record would serve the stub
/// as the file's bytes; a torn head without a record that fits is an orphan, for the same
/// reason. A recorded size of 4,096 counts as [`SizeFact::StubSize`], where no row that changes
/// the body takes a plain head.
pub fn verdict(record: RecordFact, body: BodyFact, content: ContentFact) -> Verdict {
    match record {
        RecordFact::Foreign => Verdict::ForeignKept { stub_head: body.head.is_stub() },
        RecordFact::None if body.head.is_stub() => Verdict::OrphanStub,
        RecordFact::None => Verdict::Resident,
        RecordFact::Misfit if body.head.is_stub() => Verdict::OrphanStub,
        RecordFact::Misfit => Verdict::ResidentDropRecord,
        RecordFact::Is(state) => recorded(state, body, content),
    }
}

/// The rows of a record that fits.
fn recorded(state: State, body: BodyFact, content: ContentFact) -> Verdict {
    use HeadFact::{OtherStub, Plain, Stub, Torn};
    use SizeFact::{Other, Recorded, StubSize, Zero};
    use State::{Archived, Lost, Recalling, Released, Releasing, Suspect};
    let conflict = Verdict::Conflict { stub_head: body.head.is_stub() };
    match (state, body.head, body.size) {
        (Archived | Suspect | Releasing | Released | Recalling | Lost, _, Zero) => {
            Verdict::ResidentEmpty
        }
        (Archived | Suspect | Releasing | Released | Recalling | Lost, OtherStub, StubSize) => {
            Verdict::OrphanOverRecord
        }
        (Archived | Releasing, Plain, Recorded) if body.times_match => Verdict::Archived,
        // No stub was under way: such sectors are the file's own (an archive of a detached
        // directory has them).
        (Archived, Torn, Recorded) if body.times_match => Verdict::Archived,
        (Suspect, Plain, Recorded) => match content {
            ContentFact::Equal => Verdict::ArchivedProven,
            ContentFact::Differs => Verdict::ResidentDropRecord,
            ContentFact::Unknown => Verdict::NeedsHash { serve_meanwhile: true },
        },
        (Suspect, Plain, StubSize | Other) => Verdict::ResidentDropRecord,
        (Suspect, Stub | Torn, StubSize | Recorded | Other) => conflict,
        (Suspect, OtherStub, Recorded | Other) => conflict,
        (Archived | Releasing, Stub, StubSize | Recorded) => Verdict::FinishRelease,
        (Releasing | Recalling, Torn, Recorded) => Verdict::RewriteStub,
        (Recalling, Stub, StubSize | Recorded) => Verdict::CutBack,
        (Releasing | Recalling | Released, Plain, Recorded) => match content {
            ContentFact::Equal => Verdict::ArchivedProven,
            ContentFact::Differs => conflict,
            ContentFact::Unknown => Verdict::NeedsHash { serve_meanwhile: false },
        },
        (Released, Stub, StubSize) => Verdict::Released,
        (Lost, Stub, StubSize) => Verdict::Lost,
        (Archived, Plain, StubSize | Recorded | Other) => Verdict::ResidentDropRecord,
        (Archived | Releasing | Recalling | Released | Lost, Stub, Other)
        | (Archived | Releasing | Recalling | Released | Lost, OtherStub, Recorded | Other)
        | (Archived | Released | Lost, Torn, StubSize | Recorded | Other)
        | (Releasing | Recalling, Torn, StubSize | Other)
        | (Releasing | Recalling | Released, Plain, StubSize | Other)
        | (Lost, Plain, StubSize | Recorded | Other)
        | (Released | Lost, Stub, Recorded) => conflict,
    }
}

#[cfg(test)]
mod tests;
