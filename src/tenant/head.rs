//! What a body's first bytes are, beside its record.

use std::io;
use std::os::fd::AsFd;

use super::{Recorded, Tenant};
use crate::file_id::FileHandle;
use crate::stub::{Stub, StubHead, holds_stub_sector};
use crate::tier::standing::Author;
use crate::tier::verdict::HeadFact;

/// A head that was looked at.
#[derive(Clone, Debug)]
pub struct Head {
    /// What it is.
    pub fact: HeadFact,
    /// The stub that stands there, if it is ours.
    pub stub: Option<Stub>,
    /// Whose it is, if it is another's: in words.
    pub stranger: Option<String>,
}

impl Head {
    /// Whose stub it is.
    pub fn author(&self) -> Author {
        match (&self.stub, &self.stranger) {
            (Some(_), _) => Author::Ours,
            (None, Some(_)) => Author::Stranger,
            (None, None) => Author::Nobody,
        }
    }
}

impl Tenant {
    /// Judges a file's first bytes (4,096, or all there are).
    pub fn head(
        &self,
        fd: impl AsFd,
        handle: &FileHandle,
        recorded: &Recorded,
        bytes: &[u8],
    ) -> io::Result<Head> {
        let record = match recorded {
            Recorded::Trusted(record) => Some(record),
            Recorded::Nothing | Recorded::Misfit | Recorded::Foreign(_) => None,
        };
        let mut head = Head { fact: HeadFact::OtherStub, stub: None, stranger: None };
        match Stub::parse(bytes, &self.seal) {
            StubHead::Sealed(stub) => {
                if record.is_some_and(|record| record.at == stub.at) {
                    head.fact = HeadFact::Stub;
                }
                head.stub = Some(stub);
            }
            StubHead::Unsealed(stub) => {
                if stub.tenant != self.seal.tenant() {
                    let (name, store) = (stub.tenant_name, stub.store);
                    head.stranger = Some(format!("a stub of the tenant {name:?} in {store:?}"));
                }
            }
            StubHead::Newer(version) => {
                let what = format!("a stub of version {version}, of a newer coldfs");
                head.stranger = Some(what);
            }
            StubHead::Damaged(_) | StubHead::NotAStub if holds_stub_sector(bytes) => {
                head.fact = HeadFact::Torn;
            }
            StubHead::Damaged(_) => {}
            StubHead::NotAStub => head.fact = HeadFact::Plain,
        }
        let unrecorded = matches!(recorded, Recorded::Nothing | Recorded::Misfit);
        if unrecorded
            && head.fact.is_stub()
            && head.stub.is_none()
            && self.is_plain(fd, handle, bytes)?
        {
            return Ok(Head { fact: HeadFact::Plain, stub: None, stranger: None });
        }
        Ok(head)
    }
}
