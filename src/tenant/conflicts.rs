//! `.coldfs/conflicts`: a line of JSON for every body that nobody can account for, for a person
//! (`coldfs conflicts`). A conflict is noted once, until something of it changes.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::Home;

const FILE_NAME: &str = "conflicts";

/// Beyond this size nothing is added: what is in it may be the only trace of an old version. The
/// log has what finds no room, and `coldfs conflicts` says so.
const MAX_BYTES: u64 = 16 << 20;

/// Files whose last conflict is remembered; beyond it all are forgotten, and noted again.
const REMEMBERED: usize = 1 << 16;

/// One body that nobody can account for, or a person's choice about one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Conflict {
    /// When it was seen first, seconds since 1970.
    pub time: u64,
    /// The file's number.
    pub ino: u64,
    /// Its name then, below the data directory; empty: it could not be told.
    pub path: String,
    /// What is wrong with it, or what was done about it.
    pub what: String,
    /// Segment and entry that its record names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// The size of the version there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_bytes: Option<u64>,
    /// The body's size.
    #[serde(default)]
    pub local_bytes: u64,
    /// The body's last modification, seconds since 1970.
    #[serde(default)]
    pub local_mtime: i64,
}

impl Conflict {
    /// A line as it was read; one of an older coldfs is shown as it is.
    fn parse(line: &str) -> Self {
        serde_json::from_str(line)
            .unwrap_or_else(|_older| Self { what: line.to_owned(), ..Self::default() })
    }

    /// The same for the same conflict, whenever it is met.
    fn identity(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        Self { time: 0, ..self.clone() }.hash(&mut hasher);
        hasher.finish()
    }

    /// What a body adds to it.
    pub(super) fn with_body(self, file: &File) -> Self {
        let Ok(body) = file.metadata() else { return self };
        Self { local_bytes: body.len(), local_mtime: body.mtime(), ..self }
    }
}

/// What became of a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// It is written down.
    New,
    /// It was before.
    Known,
    /// There is no room for it.
    Full,
}

#[derive(Debug, Default)]
struct Known {
    /// By inode, the conflict noted last; none: the file was not read yet.
    last: Option<HashMap<u64, u64>>,
    /// Conflicts that found no room since the mount.
    unwritten: u64,
}

/// The notes, and which are there already.
#[derive(Debug, Default)]
pub(super) struct Conflicts(Mutex<Known>);

impl Conflicts {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a conflict down unless it was before.
    pub(super) fn note(&self, home: &Home, conflict: &Conflict) -> io::Result<Noted> {
        let mut known = self.known();
        let last = match &mut known.last {
            Some(last) => last,
            None => {
                let read = read(home)?;
                known.last.insert(read.iter().map(|each| (each.ino, each.identity())).collect())
            }
        };
        if last.len() >= REMEMBERED {
            last.clear();
        }
        if last.insert(conflict.ino, conflict.identity()) == Some(conflict.identity()) {
            return Ok(Noted::Known);
        }
        if home.is_read_only() {
            return Ok(Noted::New);
        }
        let mut file = home.open_for_append(FILE_NAME)?;
        if file.metadata()?.len() > MAX_BYTES {
            known.unwritten += 1;
            return Ok(Noted::Full);
        }
        file.write_all(format!("{}\n", serde_json::to_string(conflict)?).as_bytes())?;
        Ok(Noted::New)
    }

    /// Conflicts that found no room since the mount.
    pub(super) fn unwritten(&self) -> u64 {
        self.known().unwritten
    }
}

/// All that is noted, oldest first.
pub(super) fn read(home: &Home) -> io::Result<Vec<Conflict>> {
    let file = match home.open_to_look(FILE_NAME) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut text = Vec::new();
    file.take(2 * MAX_BYTES).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().filter(|line| !line.is_empty()).map(Conflict::parse).collect())
}

pub(super) fn seconds_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing;

    #[test]
    fn decoding_a_note_never_panics() {
        let good = Conflict { remote: Some("0/1".into()), remote_bytes: Some(9), ..conflict() };
        let line = serde_json::to_vec(&good).unwrap();
        fuzzing::run(|dice| {
            fuzzing::read_json(dice, &good);
            let text = dice.mangled(&line);
            let text = String::from_utf8_lossy(&text);
            // What is no note of ours is shown as it is.
            let read = Conflict::parse(&text);
            assert!(read.what == text || serde_json::from_str::<Conflict>(&text).is_ok());
        });
    }

    fn conflict() -> Conflict {
        Conflict { time: 5, ino: 7, what: "a changed stub".into(), ..Conflict::default() }
    }

    #[test]
    fn a_conflict_is_noted_once_until_it_changes_also_by_the_next_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path(), None, "t").unwrap();
        let conflicts = Conflicts::default();
        assert_eq!(conflicts.note(&home, &conflict()).unwrap(), Noted::New);
        let later = Conflict { time: 9, ..conflict() };
        for notes in [&conflicts, &Conflicts::default()] {
            assert_eq!(notes.note(&home, &later).unwrap(), Noted::Known);
        }
        let changed = Conflict { local_bytes: 3, ..conflict() };
        assert_eq!(conflicts.note(&home, &changed).unwrap(), Noted::New);
        assert_eq!(read(&home).unwrap(), [conflict(), changed]);
    }

    #[test]
    fn a_full_notebook_says_what_it_does_not_take() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path(), None, "t").unwrap();
        home.open_for_append(FILE_NAME).unwrap().set_len(MAX_BYTES + 1).unwrap();
        let conflicts = Conflicts::default();
        assert_eq!(conflicts.note(&home, &conflict()).unwrap(), Noted::Full);
        assert_eq!(conflicts.unwritten(), 1);
    }

    #[test]
    fn a_line_of_an_older_coldfs_is_shown_as_it_is() {
        let line = "1764000000 inode 12: a stub that was changed: kept, not served";
        assert_eq!(Conflict::parse(line).what, line);
    }
}
