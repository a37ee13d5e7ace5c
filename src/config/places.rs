//! Places of many tenants: each looked at without waiting for a disk that hangs, and none in
//! another's way.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::state::resolved;
use super::tenants::Asked;
use super::usage;
use crate::control::wire::Problem;
use crate::glance::in_time;

/// How long nothing may come from the disks that are looked at.
const PATIENCE: Duration = Duration::from_secs(10);

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
