//! Answers from the catalog, where it has them; else whoever asks walks.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::count::Sums;
use super::served::Served;
use super::walks::Stop;
use crate::catalog::totals::Totals;
use crate::catalog::{CatalogError, Keeper, Met, Options, Part, Phase, Report, file_of};
use crate::config::MountOptions;
use crate::config::state::resolved;
use crate::control::wire::{CatalogState, CatalogStatus, Source};
use crate::file_id::Ino;
use crate::inode::Inodes;
use crate::sys;
use crate::tenant::Tenant;
use crate::walk::Found;

/// How long a question waits until the catalog has what happened before it. Then it walks.
const PATIENCE: Duration = Duration::from_secs(1);

/// Begins to keep a tenant's catalog, where it can be kept.
pub(super) fn keep(options: &MountOptions, tenant: &Arc<Tenant>, inodes: &Arc<Inodes>) -> Keeper {
    let without = |why: String| {
        tracing::warn!("done without a catalog: {why}");
        Keeper::without(Arc::clone(tenant), why)
    };
    let Some(dir) = &options.catalog_dir else {
        return without(
            "neither XDG_STATE_HOME nor HOME is set; name its directory: [catalog] dir".into(),
        );
    };
    let dir = resolved(dir);
    let inside = |place: &Path| dir.starts_with(place);
    if inside(&options.data_dir) || inside(&options.mountpoint) {
        let dir = dir.display();
        return without(format!("{dir} is inside the mount; name another: [catalog] dir"));
    }
    let path = file_of(&dir, tenant.seal.tenant());
    let by_handle = sys::has_capability(sys::CAP_DAC_READ_SEARCH);
    let half_life = options.half_life;
    let kept = Keeper::start(
        Arc::clone(tenant),
        Arc::clone(inodes),
        Options { path, by_handle, half_life },
    );
    kept.unwrap_or_else(|error| without(format!("no thread for it: {error}")))
}

/// The catalog's part, once all that happened before is in it; none: walk.
fn settled(served: &Served) -> Option<Part> {
    served.keeper.settled(PATIENCE).answers().cloned()
}

/// How much a tree takes; none: walk.
pub(super) fn sums(served: &Served, start: &Found, stop: &Stop) -> Option<Sums> {
    let part = settled(served)?;
    let counted = answered(served, || match start.path.is_empty() {
        true => part.totals().map(Some),
        false => count(&part, start, stop),
    });
    let totals = counted.ok()??;
    Some(Sums { source: Source::Catalog, ..Sums::of(&totals) })
}

fn count(part: &Part, start: &Found, stop: &Stop) -> Result<Option<Totals>, CatalogError> {
    let mut totals = Totals::default();
    let mut counted = HashSet::new();
    let mut visit = |met: Met<'_>| {
        // A file of several names counts once.
        if met.names < 2 || counted.insert(met.seen.ino) {
            totals.add(met.seen);
        }
        stop.flow()
    };
    let known = part.visit(&start.path, Ino(start.stat.st_ino), start.pin, &mut visit)?;
    Ok(known.then_some(totals))
}

/// Gives `visit` all files of a tree. False: it met none of them, walk. An error: it met some.
pub(super) fn visit(
    served: &Served,
    start: &Found,
    visit: &mut dyn FnMut(Met<'_>) -> ControlFlow<()>,
) -> Result<bool, CatalogError> {
    let Some(part) = settled(served) else { return Ok(false) };
    let mut any = false;
    let visited = answered(served, || {
        let mut visit = |met: Met<'_>| {
            any = true;
            visit(met)
        };
        part.visit(&start.path, Ino(start.stat.st_ino), start.pin, &mut visit)
    });
    match visited {
        Err(_) if !any => Ok(false),
        visited => visited,
    }
}

/// What the catalog answers; a damaged one is made anew.
fn answered<T>(
    served: &Served,
    ask: impl FnOnce() -> Result<T, CatalogError>,
) -> Result<T, CatalogError> {
    // The store below panics where it meets bytes that it never wrote.
    let answer = catch_unwind(AssertUnwindSafe(ask));
    let answer = answer.unwrap_or_else(|_| Err(CatalogError::Damaged("it cannot be read".into())));
    answer.inspect_err(|error| {
        tracing::warn!(%error, "the catalog cannot answer");
        served.keeper.found_damaged(error);
    })
}

/// How the catalog fares, and what of it a person should know.
pub(super) fn status(served: &Served, report: &Report) -> (CatalogStatus, Option<String>) {
    let since = report.since.duration_since(SystemTime::UNIX_EPOCH);
    let (state, note) = match &report.phase {
        Phase::Opening | Phase::Walking => (CatalogState::Walking, None),
        Phase::Complete => (CatalogState::Complete, None),
        Phase::Without(why) => {
            (CatalogState::None, Some(format!("no catalog, find, du and status walk: {why}")))
        }
    };
    let part = report.part.as_ref();
    let files = part.and_then(|part| answered(served, || part.totals()).ok());
    let files = files.map_or(0, |totals| totals.files());
    (CatalogStatus { state, files, since: since.map_or(0, |since| since.as_secs()) }, note)
}
