//! Places of many tenants: each looked at without waiting for a disk that hangs, and none in
//! another's way.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use super::state::resolved;
use super::tenants::Asked;
use super::usage;
use crate::control::wire::Problem;

/// How long nothing may come from the disks that are looked at.
const PATIENCE: Duration = Duration::from_secs(10);
/// Places that are looked at together.
const AT_ONCE: usize = 16;
/// After so many such silences what is left is not looked at.
const SILENCES: usize = 3;

/// What is seen of places.
pub(super) struct Seen(HashMap<PathBuf, Option<PathBuf>>);

impl Seen {
    /// Looks at places.
    pub(super) fn of(paths: impl Iterator<Item = PathBuf>) -> Self {
        Self(in_time(paths, PATIENCE, resolved))
    }

    /// What [`resolved`] says of one of them; none: its disk did not answer in time.
    pub(super) fn at(&self, path: &Path) -> Option<PathBuf> {
        self.0.get(path).cloned().flatten()
    }
}

fn in_time<T: Send + 'static>(
    paths: impl Iterator<Item = PathBuf>,
    patience: Duration,
    look: impl Fn(&Path) -> T + Send + Sync + 'static,
) -> HashMap<PathBuf, Option<T>> {
    let mut seen: HashMap<PathBuf, Option<T>> = paths.map(|path| (path, None)).collect();
    let (wanted, look) = (Arc::new(seen.keys().cloned().collect::<Vec<_>>()), Arc::new(look));
    let next = Arc::new(AtomicUsize::new(0));
    let (tell, told) = channel();
    let mut answered = 0;
    for _ in 0..SILENCES {
        // Those that hang are left to themselves; others go on behind them.
        let untouched = wanted.len().saturating_sub(next.load(Ordering::Relaxed));
        for _ in 0..AT_ONCE.min(untouched) {
            let (wanted, look, next) = (Arc::clone(&wanted), Arc::clone(&look), Arc::clone(&next));
            let tell = tell.clone();
            let work = move || {
                while let Some(path) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if tell.send((path.clone(), look(path))).is_err() {
                        return;
                    }
                }
            };
            if std::thread::Builder::new().name("places".to_owned()).spawn(work).is_err() {
                break;
            }
        }
        while answered < wanted.len()
            && let Ok((path, found)) = told.recv_timeout(patience)
        {
            seen.insert(path, Some(found));
            answered += 1;
        }
        if answered == wanted.len() {
            break;
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

    /// Why a tenant's cold files cannot be where it says: they would be somebody's files, which
    /// go cold themselves.
    pub(super) fn objection_to_store(&self, asked: &Asked, dir: Option<&Path>) -> Option<Problem> {
        let dir = dir?;
        let (asked, whose) = (asked.shown(), self.holder(dir)?);
        Some(usage(
            format!("{asked}: store disk:{} lies in a directory of {whose}", dir.display()),
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
    use std::time::Instant;

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
        let mut paths: Vec<PathBuf> = (0..50).map(|number| number.to_string().into()).collect();
        paths.insert(7, "hung".into());
        let seen = in_time(paths.clone().into_iter(), Duration::from_secs(1), look);
        drop(free);
        assert_eq!(seen.len(), paths.len());
        for path in paths {
            assert_eq!(seen[&path], (!path.ends_with("hung")).then_some(path.clone()));
        }
    }

    #[test]
    fn many_places_of_a_disk_that_hangs_are_given_up_soon() {
        let (free, hang): (Sender<()>, Receiver<()>) = channel();
        let hang = Mutex::new(hang);
        let look = move |_path: &Path| {
            hang.lock().unwrap().recv().unwrap_err();
        };
        let paths = (0..500).map(|number| PathBuf::from(number.to_string()));
        let begun = Instant::now();
        let seen = in_time(paths, Duration::from_millis(100), look);
        // 500 turns would be 50 s.
        assert!(begun.elapsed() < Duration::from_secs(20));
        drop(free);
        assert!(seen.len() == 500 && seen.values().all(Option::is_none));
    }
}
