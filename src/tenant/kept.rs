//! What in `.coldfs` names entries of segments: notes of conflicts, and bodies that a person chose
//! against. Whatever a later coldfs keeps there may name some as well.

use std::io;

use super::named::{NamedByHead, named_by};
use super::{Tenant, aside, conflicts, home, worklist};
use crate::file_id::EntryRef;
use crate::stub::STUB_BYTES;
use crate::sys;

/// Files in `.coldfs` that name nothing, or what is asked for elsewhere.
const NAMING_NOTHING: [&str; 9] = [
    home::LOCK,
    home::IDENTITY,
    home::STORE,
    home::TERMS,
    home::PLACE,
    worklist::FILE_NAME,
    "brake",
    "audit.jsonl",
    "moves.jsonl",
];
/// What an older half of a notebook, and a file that is about to take another's place, end in.
const BESIDE: [&str; 2] = [".1", ".new"];

/// Something in `.coldfs` of which nobody can say what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its name below the data directory.
    pub path: String,
    /// Why.
    pub cause: String,
    /// What a person can do.
    pub next_step: &'static str,
}

impl Tenant {
    /// Gives `each` the entries that private files name, and `unreadable` what cannot be read.
    pub fn kept_entries(
        &self,
        each: &mut dyn FnMut(EntryRef),
        unreadable: &mut dyn FnMut(Unreadable),
    ) {
        let mut fail = |name: &str, cause: String, next_step| {
            unreadable(Unreadable { path: format!(".coldfs/{name}"), cause, next_step });
        };
        const DISK: &str = "check the data filesystem, then run the command again";
        if let Err(error) = self.strange_names(&mut |name| {
            let cause = "not a file that this coldfs keeps: it may name what is in the store";
            fail(name, cause.to_owned(), "use the coldfs that made it, or move it away");
        }) {
            fail("", error.to_string(), DISK);
        }
        self.noted_entries(each, &mut fail);
        if let Err(error) = self.entries_set_aside(each) {
            fail(aside::DIRECTORY, error.to_string(), DISK);
        }
    }

    fn noted_entries(
        &self,
        each: &mut dyn FnMut(EntryRef),
        fail: &mut dyn FnMut(&str, String, &'static str),
    ) {
        const SETTLE: &str =
            "settle what `coldfs conflicts` shows, detach, and move that file away";
        let name = conflicts::FILE_NAME;
        match conflicts::named(&self.home, each) {
            Ok(0) => {}
            Ok(lines) => fail(name, format!("{lines} lines cannot be read"), SETTLE),
            Err(error) => fail(name, error.to_string(), SETTLE),
        }
        match conflicts::is_full(&self.home) {
            Ok(false) => {}
            Ok(true) => fail(name, "it is full: later conflicts are not in it".to_owned(), SETTLE),
            Err(error) => fail(name, error.to_string(), SETTLE),
        }
        match self.conflicts.missing() {
            0 => {}
            missing => {
                let cause = format!("{missing} conflicts could not be noted in it");
                fail(
                    name,
                    cause,
                    "make room, look at these files again (`coldfs fsck`), then retry",
                );
            }
        }
    }

    /// Stubs among the bodies that a person chose against. What was damaged of them is in the notes.
    fn entries_set_aside(&self, each: &mut dyn FnMut(EntryRef)) -> io::Result<()> {
        let Some(dir) = self.home.directory_to_look(aside::DIRECTORY)? else { return Ok(()) };
        let mut names = Vec::new();
        dir.names(&mut |name| names.push(String::from_utf8_lossy(name).into_owned()))?;
        for name in names {
            let file = dir.open_to_look(&name)?;
            let mut bytes = [0; STUB_BYTES];
            let filled = sys::read_up_to(&file, &mut bytes, 0)?;
            match named_by(&bytes[..filled], self) {
                NamedByHead::Entry(at) => each(at),
                NamedByHead::Damaged(Some(segment)) => each(EntryRef { segment, entry: u32::MAX }),
                NamedByHead::Damaged(None) | NamedByHead::Nothing => {}
                NamedByHead::Unknown(what) => {
                    return Err(io::Error::other(format!("{name}: {what}")));
                }
            }
        }
        Ok(())
    }

    fn strange_names(&self, each: &mut dyn FnMut(&str)) -> io::Result<()> {
        self.home.names(&mut |name| {
            let name = String::from_utf8_lossy(name);
            let stem = BESIDE.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
            let elsewhere = [conflicts::FILE_NAME, aside::DIRECTORY].contains(&&*name);
            if !elsewhere && !NAMING_NOTHING.contains(&stem) {
                each(&name);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::file_id::SegmentId;
    use crate::store::memory::MemoryStore;
    use crate::tenant::Home;

    fn kept(tenant: &Tenant) -> (Vec<EntryRef>, Vec<Unreadable>) {
        let (mut entries, mut unreadable) = (Vec::new(), Vec::new());
        tenant.kept_entries(&mut |at| entries.push(at), &mut |what| unreadable.push(what));
        (entries, unreadable)
    }

    #[test]
    fn notes_and_bodies_set_aside_name_entries_and_what_is_not_known_is_said() {
        let target = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
        let dir = tempfile::tempdir_in(target).unwrap();
        let home = Home::open(dir.path(), None, "t").unwrap();
        let tenant = Tenant::new(home, Arc::new(MemoryStore::new())).unwrap();
        assert_eq!(kept(&tenant), (vec![], vec![]), "a new home names nothing");

        let formats = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats/v1");
        let private = dir.path().join(".coldfs");
        std::fs::create_dir(private.join("conflicts.d")).unwrap();
        for name in ["stub", "stub-flipped"] {
            std::fs::copy(formats.join(name), private.join("conflicts.d").join(name)).unwrap();
        }
        let at = EntryRef { segment: SegmentId([7; 16]), entry: 3 };
        std::fs::write(
            private.join("conflicts"),
            format!(r#"{{"time":1,"ino":2,"path":"a","what":"b","remote":"{at}"}}"#) + "\n",
        )
        .unwrap();
        std::fs::write(private.join("audit.jsonl.1"), "").unwrap();
        let (entries, unreadable) = kept(&tenant);
        assert!(entries.contains(&at), "{entries:?}");
        let aside: Vec<_> = entries.iter().filter(|entry| **entry != at).collect();
        assert_eq!(aside.len(), 2, "{entries:?}");
        assert_eq!(aside[0].segment, aside[1].segment);
        assert_eq!(unreadable, []);

        std::fs::write(private.join("tombstones"), "").unwrap();
        std::fs::write(private.join("conflicts"), "an older line\n").unwrap();
        std::fs::copy(formats.join("stub-newer"), private.join("conflicts.d/newer")).unwrap();
        let (_, unreadable) = kept(&tenant);
        let paths: Vec<_> = unreadable.iter().map(|what| what.path.as_str()).collect();
        assert_eq!(paths, [".coldfs/tombstones", ".coldfs/conflicts", ".coldfs/conflicts.d"]);
    }
}
