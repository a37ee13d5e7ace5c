//! The store's directory: what makes it one, and who may tidy up in it.
//!
//! Several daemons may use one directory at once: their keys are unique, and each writes its
//! temporary files into a directory of its own, locked while it lives. Only directories whose
//! lock is free belong to the dead and are removed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::open::OpenError;
use super::doubt::Doubts;
use super::workers::within;
use super::{durable, private};

/// Newest version of the layout that is understood.
pub const VERSION: u32 = 1;
/// Names the layout's version; its presence makes a directory a store.
pub const MARKER: &str = ".coldfs-store";
/// Multipart uploads under way, a directory each.
pub const UPLOADS: &str = ".uploads";
const MARKER_WORDS: &str = "coldfs disk store ";
/// Held while a store is made or the dead are cleared away.
const GATE: &str = ".lock";
/// The marker before it is whole.
const DRAFT: &str = ".coldfs-store.new";
const TEMPORARY: &str = ".tmp";
const ALIVE: &str = "alive";
/// How long the end of a process waits for the store's disk.
const LAST_LOOK: Duration = Duration::from_secs(2);

/// A directory for this process's temporary files; removed when it is dropped.
#[derive(Debug)]
pub struct Workshop {
    path: PathBuf,
    /// Names that this process gave and did not sync.
    pub doubts: Doubts,
    /// Locked as long as the process lives; none once it is dropped.
    alive: Option<File>,
}

impl Workshop {
    /// Where temporary files go.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        if !self.doubts.is_empty() {
            // As a dead process's: the next one syncs the store.
            return;
        }
        let (path, alive) = (std::mem::take(&mut self.path), self.alive.take());
        // Should it fail, the next process to open the store finds the lock free.
        let clear = move || {
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::debug!(path = %path.display(), %error, "leave temporary files");
            }
            drop(alive);
        };
        if within(LAST_LOOK, clear).is_none() {
            tracing::warn!("leave temporary files: the store's disk does not answer");
        }
    }
}

/// Opens the store in `root`, or makes one there if it is empty or missing.
pub fn open(root: &Path) -> Result<Workshop, OpenError> {
    private::create_dir_all(root).map_err(OpenError::io("create store", root))?;
    if !root.join(MARKER).exists() && !holds_only_our_names(root)? {
        return Err(OpenError::NotAStore { dir: root.to_owned() });
    }
    let gate_path = root.join(GATE);
    let gate = private::options()
        .create(true)
        .truncate(false)
        .open(&gate_path)
        .map_err(OpenError::io("open", &gate_path))?;
    gate.lock().map_err(OpenError::io("lock", &gate_path))?;

    check_or_make_marker(root)?;
    private::close(root).map_err(OpenError::io("close to others", root))?;
    let uploads = root.join(UPLOADS);
    private::create_dir_all(&uploads).map_err(OpenError::io("create", &uploads))?;
    let temporary = root.join(TEMPORARY);
    private::create_dir_all(&temporary).map_err(OpenError::io("create", &temporary))?;
    durable::sync_dir(root).map_err(OpenError::io("sync", root))?;
    durable::sync_above(root).map_err(OpenError::io("sync above", root))?;
    if any_died(&temporary) {
        // They may have given names that they did not sync. Before what tells of them goes.
        sync_all(root).map_err(OpenError::io("sync", root))?;
    }
    tidy(&temporary, is_dead);
    let path = temporary.join(ulid::Ulid::new().to_string());
    make_workshop(&path).map_err(OpenError::io("create", &path))
    // The gate is let go here: nobody saw the workshop without its lock.
}

/// A creation that was interrupted before the marker leaves nothing else.
fn holds_only_our_names(root: &Path) -> Result<bool, OpenError> {
    for entry in fs::read_dir(root).map_err(OpenError::io("list", root))? {
        let name = entry.map_err(OpenError::io("list", root))?.file_name();
        // mkfs makes lost+found: an otherwise empty filesystem is a good place for a store.
        if ![GATE, DRAFT, "lost+found"].iter().any(|ours| name == *ours) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn check_or_make_marker(root: &Path) -> Result<(), OpenError> {
    let marker = root.join(MARKER);
    match fs::read_to_string(&marker) {
        Ok(found) => {
            let version = found.trim_end().strip_prefix(MARKER_WORDS).map(str::parse::<u32>);
            match version {
                Some(Ok(VERSION)) => Ok(()),
                Some(Ok(_) | Err(_)) | None => Err(OpenError::Newer {
                    dir: root.to_owned(),
                    found: found.trim_end().to_owned(),
                    known: VERSION,
                }),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = format!("{MARKER_WORDS}{VERSION}\n");
            write_whole(&marker, text.as_bytes()).map_err(OpenError::io("write", &marker))
        }
        Err(error) => Err(OpenError::io("read", &marker)(error)),
    }
}

/// The file appears whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_file_name(DRAFT);
    let mut file = private::options().create(true).truncate(true).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

fn make_workshop(path: &Path) -> io::Result<Workshop> {
    private::create_dir(path)?;
    let alive = private::options().create_new(true).open(path.join(ALIVE))?;
    alive.lock()?;
    Ok(Workshop { path: path.to_owned(), doubts: Doubts::default(), alive: Some(alive) })
}

/// Whether a process died here, or ended in doubt, that had the store open.
fn any_died(temporary: &Path) -> bool {
    let Ok(mut entries) = fs::read_dir(temporary) else { return true };
    entries.any(|entry| entry.is_ok_and(|entry| is_dead(&entry.path()).unwrap_or(false)))
}

/// Makes everything in the store durable, whoever wrote it.
fn sync_all(root: &Path) -> io::Result<()> {
    tracing::info!(root = %root.display(), "sync the store: a process that used it died");
    Ok(nix::unistd::syncfs(File::open(root)?)?)
}

/// Whether a workshop's process is dead.
fn is_dead(workshop: &Path) -> io::Result<bool> {
    match File::open(workshop.join(ALIVE)) {
        Ok(alive) => Ok(alive.try_lock().is_ok()),
        // Made under the gate that we hold: its maker died before the lock.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Removes what nobody needs from `dir`. What vanishes meanwhile is no matter; what cannot be
/// looked at or removed costs room, no more: it stays, and is named in the log.
pub fn tidy(dir: &Path, is_rubbish: impl Fn(&Path) -> io::Result<bool>) {
    let clear = |path: &Path| match is_rubbish(path)? {
        true => fs::remove_dir_all(path),
        false => Ok(()),
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "clear what the dead left");
            return;
        }
    };
    // An entry that cannot be read ends the listing: the rest waits for the next open.
    for path in entries.map_while(Result::ok).map(|entry| entry.path()) {
        match clear(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "clear what the dead left");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_other_things_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        assert!(matches!(open(dir.path()), Err(OpenError::NotAStore { .. })));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "and left as it was");
    }

    #[test]
    fn a_newer_store_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()).unwrap());
        fs::write(dir.path().join(MARKER), "coldfs disk store 2\n").unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("coldfs disk store 2"), "{error}");
    }

    #[test]
    fn temporary_files_of_the_dead_go_and_of_the_living_stay() {
        let dir = tempfile::tempdir().unwrap();
        let living = open(dir.path()).unwrap();
        fs::write(living.path().join("1"), "half").unwrap();
        let dead = dir.path().join(TEMPORARY).join("dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(ALIVE), "").unwrap();
        fs::write(dead.join("1"), "half").unwrap();
        let unborn = dir.path().join(TEMPORARY).join("unborn");
        fs::create_dir(&unborn).unwrap();

        let second = open(dir.path()).unwrap();
        assert!(!dead.exists() && !unborn.exists());
        assert!(living.path().join("1").exists());
        drop(second);
        assert!(living.path().join("1").exists());
    }
}
