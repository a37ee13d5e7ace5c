//! Places of many tenants: each looked at without waiting for a disk that hangs, and none in
//! another's way.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use super::StoreUrl;
use super::state::resolved;
use super::tenants::Asked;
use super::usage;
use crate::control::wire::Problem;

/// How long the disk of a place may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What [`resolved`] says of each path; none: its disk did not answer in time.
pub(super) fn resolved_in_time(paths: Vec<PathBuf>) -> Vec<Option<PathBuf>> {
    in_time(paths, PATIENCE, resolved)
}

fn in_time<T: Send + 'static>(
    paths: Vec<PathBuf>,
    patience: Duration,
    look: impl Fn(&Path) -> T + Send + Sync + 'static,
) -> Vec<Option<T>> {
    let (paths, look) = (Arc::new(paths), Arc::new(look));
    let mut seen = Vec::new();
    while seen.len() < paths.len() {
        let (tell, told) = channel();
        let (theirs, theirs_to_look, first) = (Arc::clone(&paths), Arc::clone(&look), seen.len());
        let work = move || {
            for path in &theirs[first..] {
                if tell.send(theirs_to_look(path)).is_err() {
                    // Somebody else went on behind it.
                    return;
                }
            }
        };
        // One that hangs is left to itself.
        if std::thread::Builder::new().name("places".to_owned()).spawn(work).is_err() {
            seen.extend(paths[first..].iter().map(|path| Some(look(path))));
            break;
        }
        loop {
            match told.recv_timeout(patience) {
                Ok(found) => seen.push(Some(found)),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    seen.push(None);
                    break;
                }
            }
        }
    }
    seen
}

/// Places that are taken: none may be, or lie in, another tenant's.
#[derive(Default)]
pub(super) struct Places {
    /// By place: whose.
    taken: HashMap<PathBuf, String>,
    /// By directory above a place: somebody who lies in it.
    above: HashMap<PathBuf, String>,
}

impl Places {
    /// Why a tenant cannot have its places beside those that are taken.
    pub(super) fn objection(&self, asked: &Asked) -> Option<Problem> {
        [("data_dir", &asked.data_dir), ("mountpoint", &asked.mountpoint)].into_iter().find_map(
            |(key, place)| {
                let holder = self.holder(place);
                let whose = holder.or_else(|| self.above.get(place))?;
                let how = match self.taken.contains_key(place) {
                    true => "is also that",
                    false if holder.is_some() => "lies in a directory",
                    false => "holds a directory",
                };
                Some(usage(
                    format!("{}: {key} {} {how} of {whose}", asked.shown(), place.display()),
                    "give each tenant places of its own, none within another's",
                ))
            },
        )
    }

    pub(super) fn take(&mut self, asked: &Asked) {
        let whose = format!("tenant {} (line {})", asked.name, asked.line);
        for place in [&asked.data_dir, &asked.mountpoint] {
            self.taken.insert(place.clone(), whose.clone());
            for above in place.ancestors().skip(1) {
                self.above.insert(above.to_owned(), whose.clone());
            }
        }
    }

    /// Whose files a directory would be among, with what is kept there; it is without symlinks.
    pub(super) fn among(&self, dir: &Path) -> Option<&str> {
        self.holder(dir).map(String::as_str)
    }

    /// Why a tenant's cold files cannot be where it says: they would be somebody's files, which
    /// go cold themselves.
    pub(super) fn objection_to_store(&self, asked: &Asked, store: &StoreUrl) -> Option<Problem> {
        let StoreUrl::Disk(dir) = store else { return None };
        let whose = self.among(dir)?;
        Some(usage(
            format!("{}: store {store} lies in a directory of {whose}", asked.shown()),
            "name a directory outside of what is served",
        ))
    }

    fn holder(&self, place: &Path) -> Option<&String> {
        place.ancestors().find_map(|above| self.taken.get(above))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender};

    use super::*;

    #[test]
    fn a_place_that_does_not_answer_keeps_nobody_from_the_others() {
        let (free, hang): (Sender<()>, Receiver<()>) = channel();
        let hang = Mutex::new(hang);
        let look = move |path: &Path| {
            if path.ends_with("hung") {
                // Ends with the test.
                hang.lock().unwrap().recv().unwrap_err();
            }
            path.to_owned()
        };
        let paths: Vec<PathBuf> = ["a", "hung", "b", "c"].map(PathBuf::from).into();
        let seen = in_time(paths.clone(), Duration::from_secs(1), look);
        drop(free);
        let answered: Vec<_> =
            paths.into_iter().map(|path| (!path.ends_with("hung")).then_some(path)).collect();
        assert_eq!(seen, answered);
    }
}
