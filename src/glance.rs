//! Looks at many paths without waiting for a disk that hangs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

/// Paths that are looked at together.
const AT_ONCE: usize = 16;
/// After so many silences what is left is not looked at.
const SILENCES: usize = 3;

/// Looks at each path once; none: it did not answer before nothing came from any of them for
/// `patience`. A look that hangs keeps its thread, and at most [`AT_ONCE`] times [`SILENCES`] do.
pub fn in_time<T: Send + 'static>(
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
        if untouched == 0 {
            break;
        }
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
            if std::thread::Builder::new().name("glance".to_owned()).spawn(work).is_err() {
                break;
            }
        }
        while answered < wanted.len()
            && let Ok((path, found)) = told.recv_timeout(patience)
        {
            seen.insert(path, Some(found));
            answered += 1;
        }
    }
    seen
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
