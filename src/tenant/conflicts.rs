//! `.coldfs/conflicts`: a line of JSON for every body that nobody can account for, for a person
//! (`coldfs conflicts`). A conflict is noted once, until something of it changes.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::Home;
use crate::file_id::{EntryRef, NotAnEntry};

pub(super) const FILE_NAME: &str = "conflicts";

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
    /// Files whose last conflict could not be written down.
    failed: HashSet<u64>,
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
        let noted = Self::write(&mut known, home, conflict);
        match noted {
            Ok(_) => known.failed.remove(&conflict.ino),
            // Tried again when it is met again.
            Err(_) => {
                known.last.as_mut().and_then(|last| last.remove(&conflict.ino));
                known.failed.insert(conflict.ino)
            }
        };
        noted
    }

    fn write(known: &mut Known, home: &Home, conflict: &Conflict) -> io::Result<Noted> {
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

    /// Conflicts since the mount that are in no note: what their records name may be nowhere else.
    pub(super) fn missing(&self) -> u64 {
        let known = self.known();
        known.unwritten + known.failed.len() as u64
    }
}

/// Gives `each` the entries that notes name. How many lines nobody can read.
pub(super) fn named(home: &Home, each: &mut dyn FnMut(EntryRef)) -> io::Result<u64> {
    let file = match home.open_to_look(FILE_NAME) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut unread = 0;
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        let note = || serde_json::from_slice::<Conflict>(&line).ok();
        match (line.is_empty(), note().map(|note| note.remote.map(|remote| remote.parse()))) {
            (true, _) | (false, Some(None)) => {}
            (false, Some(Some(Ok(at)))) => each(at),
            (false, Some(Some(Err(NotAnEntry))) | None) => unread += 1,
        }
    }
    Ok(unread)
}

/// Whether there is no room for another note.
pub(super) fn is_full(home: &Home) -> io::Result<bool> {
    match home.open_to_look(FILE_NAME) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        other => Ok(other?.metadata()?.len() > MAX_BYTES),
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
        assert_eq!((conflicts.unwritten(), conflicts.missing()), (1, 1));
        assert!(is_full(&home).unwrap());
    }

    #[test]
    fn notes_say_what_they_name_and_which_of_them_nobody_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path(), None, "t").unwrap();
        let mut all = Vec::new();
        assert_eq!(named(&home, &mut |at| all.push(at)).unwrap(), 0, "no notes");
        let at = EntryRef { segment: crate::file_id::SegmentId([7; 16]), entry: 3 };
        let conflicts = Conflicts::default();
        for remote in [None, Some(at.to_string())] {
            let note = Conflict { ino: remote.iter().len() as u64, remote, ..conflict() };
            assert_eq!(conflicts.note(&home, &note).unwrap(), Noted::New);
        }
        assert_eq!(named(&home, &mut |at| all.push(at)).unwrap(), 0);
        assert_eq!(all, [at]);
        let mut file = home.open_for_append(FILE_NAME).unwrap();
        // Of an older coldfs; cut short by a crash; of no segment.
        let remote = r#"{"time":1,"ino":2,"path":"","what":"","remote":"7"}"#;
        file.write_all(format!("1764 inode 12: kept\n{{\"ti\n{remote}\n").as_bytes()).unwrap();
        assert_eq!(named(&home, &mut |_| {}).unwrap(), 3);
    }

    #[test]
    fn a_note_that_could_not_be_written_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path(), None, "t").unwrap();
        let conflicts = Conflicts::default();
        assert_eq!(conflicts.note(&home, &conflict()).unwrap(), Noted::New);
        assert_eq!((conflicts.missing(), is_full(&home).unwrap()), (0, false));
        std::fs::remove_file(dir.path().join(".coldfs/conflicts")).unwrap();
        std::fs::create_dir(dir.path().join(".coldfs/conflicts")).unwrap();
        let another = Conflict { ino: 8, ..conflict() };
        assert!(conflicts.note(&home, &another).is_err());
        assert_eq!(conflicts.missing(), 1);
        std::fs::remove_dir(dir.path().join(".coldfs/conflicts")).unwrap();
        assert_eq!(conflicts.note(&home, &another).unwrap(), Noted::New, "tried again");
        assert_eq!(conflicts.missing(), 0);
    }

    #[test]
    fn a_line_of_an_older_coldfs_is_shown_as_it_is() {
        let line = "1764000000 inode 12: a stub that was changed: kept, not served";
        assert_eq!(Conflict::parse(line).what, line);
    }
}
