//! Which entries of segments a file names, whatever it is taken for: for whoever must not miss a
//! reference. A record counts that is void here, and so does a stub that is nobody's.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;

use super::{Tenant, home};
use crate::file_id::{EntryRef, FileHandle, SegmentId};
use crate::record::{Names, RECORD_BYTES, Record};
use crate::stub::{Stub, StubHead, holds_stub_sector};
use crate::sys;

/// What a file's record names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedByRecord {
    /// There is none.
    NoRecord,
    /// An entry.
    Entry(Record),
    /// There is one that names nothing: its body may be a stub all the same.
    Void,
    /// Nobody can say, and why.
    Unknown(String),
}

/// What a file's first bytes name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedByHead {
    /// They are no stub's.
    Nothing,
    /// An entry, whoever wrote the stub.
    Entry(EntryRef),
    /// Part of a stub, or a damaged one, and the segment that can still be read there.
    Damaged(Option<SegmentId>),
    /// Nobody can say, and why.
    Unknown(String),
}

impl Tenant {
    /// What stands on a file in the place of a record: in the one that this mount uses, or, where
    /// nothing is there, in the one that a mount with other rights has used. An error: that cannot
    /// be read.
    pub fn named_by_record(&self, fd: impl AsFd) -> io::Result<NamedByRecord> {
        match named_under(&fd, self.xattr)? {
            NamedByRecord::NoRecord => {}
            named => return Ok(named),
        }
        match named_under(&fd, home::xattr_name(!self.is_rootless())) {
            // Who may not look there never wrote there.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => {
                Ok(NamedByRecord::NoRecord)
            }
            named => named,
        }
    }

    /// What a file's first bytes (4,096, or all there are) name.
    pub fn named_by_head(
        &self,
        fd: impl AsFd,
        handle: &FileHandle,
        bytes: &[u8],
    ) -> io::Result<NamedByHead> {
        let named = named_by(bytes, self);
        match named {
            NamedByHead::Nothing | NamedByHead::Entry(_) => Ok(named),
            // An application's own bytes.
            NamedByHead::Damaged(_) | NamedByHead::Unknown(_)
                if self.is_plain(&fd, handle, bytes)? =>
            {
                Ok(NamedByHead::Nothing)
            }
            NamedByHead::Damaged(_) | NamedByHead::Unknown(_) => Ok(named),
        }
    }
}

fn named_under(fd: impl AsFd, name: &CStr) -> io::Result<NamedByRecord> {
    let mut bytes = [0; RECORD_BYTES + 1];
    let length = match sys::xattr::get(fd, name, &mut bytes) {
        Ok(length) => length,
        Err(error) => match error.raw_os_error() {
            Some(libc::ENODATA | libc::EOPNOTSUPP) => return Ok(NamedByRecord::NoRecord),
            Some(libc::ERANGE) => return Ok(NamedByRecord::Void),
            _ => return Err(error),
        },
    };
    Ok(match Record::named(&bytes[..length]) {
        Names::Entry(record) => NamedByRecord::Entry(record),
        Names::Nothing => NamedByRecord::Void,
        Names::Unknown(newer) => NamedByRecord::Unknown(newer.to_string()),
    })
}

/// The same, of bytes that stand on no file of the tenant's.
pub(super) fn named_by(bytes: &[u8], tenant: &Tenant) -> NamedByHead {
    match Stub::parse(bytes, &tenant.seal) {
        StubHead::Sealed(stub) => NamedByHead::Entry(stub.at),
        // Its MAC does not fit: any word of it may be another than was written.
        StubHead::Unsealed(stub) if stub.tenant == tenant.seal.tenant() => {
            NamedByHead::Damaged(Some(stub.at.segment))
        }
        StubHead::Unsealed(stub) => NamedByHead::Entry(stub.at),
        StubHead::Newer(version) => {
            NamedByHead::Unknown(format!("a stub of version {version}, of a newer coldfs"))
        }
        StubHead::Damaged(_) => NamedByHead::Damaged(legible(bytes)),
        StubHead::NotAStub if holds_stub_sector(bytes) => NamedByHead::Damaged(legible(bytes)),
        StubHead::NotAStub => NamedByHead::Nothing,
    }
}

/// The segment that a damaged stub's own line still shows.
fn legible(bytes: &[u8]) -> Option<SegmentId> {
    let text = String::from_utf8_lossy(bytes);
    text.lines().find_map(|line| line.strip_prefix("segment ")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::fuzzing;
    use crate::store::memory::MemoryStore;
    use crate::tenant::Home;

    fn fixture(name: &str) -> Vec<u8> {
        let formats = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats/v1");
        std::fs::read(formats.join(name)).unwrap()
    }

    fn tenant() -> (tempfile::TempDir, Tenant) {
        let target = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
        let dir = tempfile::tempdir_in(target).unwrap();
        let home = Home::open(dir.path(), None, "t").unwrap();
        let tenant = Tenant::new(home, Arc::new(MemoryStore::new())).unwrap();
        (dir, tenant)
    }

    #[test]
    fn a_stub_names_its_entry_whoever_wrote_it_and_a_damaged_one_what_can_be_read() {
        let (_dir, tenant) = tenant();
        let NamedByHead::Entry(at) = named_by(&fixture("stub"), &tenant) else {
            panic!("a stub of another tenant's names an entry");
        };
        for damaged in ["stub-flipped", "stub-cut"] {
            let named = named_by(&fixture(damaged), &tenant);
            assert_eq!(named, NamedByHead::Damaged(Some(at.segment)), "{damaged}");
        }
        let newer = named_by(&fixture("stub-newer"), &tenant);
        assert!(matches!(newer, NamedByHead::Unknown(_)), "{newer:?}");
        assert_eq!(named_by(b"#!/bin/sh\n", &tenant), NamedByHead::Nothing);
        // A power cut left one sector of it.
        let mut torn = vec![b'x'; 4_096];
        torn[512..1_024].copy_from_slice(&fixture("stub")[512..1_024]);
        assert_eq!(named_by(&torn, &tenant), NamedByHead::Damaged(None));
    }

    #[test]
    fn an_application_s_own_bytes_name_nothing_once_they_are_marked() {
        let (dir, tenant) = tenant();
        let path = dir.path().join("fixture");
        let mut body = fixture("stub-flipped");
        body.resize(4_096, b'\n');
        std::fs::write(&path, &body).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let handle = sys::handle::of(&file, c"").unwrap();
        let named = || tenant.named_by_head(&file, &handle, &body).unwrap();
        assert!(matches!(named(), NamedByHead::Damaged(_)));
        let mark = tenant.seal.plain_mark(&body, &handle);
        let name =
            if tenant.is_rootless() { c"user.coldfs.plain" } else { c"trusted.coldfs.plain" };
        sys::xattr::set(&file, name, &mark, 0).unwrap();
        assert_eq!(named(), NamedByHead::Nothing);
    }

    #[test]
    fn finding_what_bytes_name_never_panics() {
        let (_dir, tenant) = tenant();
        let good = fixture("stub");
        fuzzing::run(|dice| {
            named_by(&dice.mangled(&good), &tenant);
        });
    }
}
