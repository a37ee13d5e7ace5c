//! `cancel`: ends moves, recalls, and whatever readers wait for, by path or by process.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::served::Served;
use crate::control::wire::{CancelReport, CancelRequest, Problem, WirePath};
use crate::guard::Visit;
use crate::inode::{Cold, Serving};
use crate::walk::{Found, walk};

pub(super) async fn run(
    served: &Arc<Served>,
    request: CancelRequest,
) -> Result<CancelReport, Problem> {
    let mut cancelled = CancelReport::default();
    if !request.processes.is_empty() {
        for process in &request.processes {
            cancelled.recalls += served.guard.cancel_process(*process);
        }
        return Ok(cancelled);
    }
    for (paths, token) in served.running().values() {
        let below = |path: &WirePath| {
            request.paths.is_empty()
                || request.paths.iter().any(|asked| {
                    path.as_path().starts_with(asked.as_path())
                        || asked.as_path().starts_with(path.as_path())
                })
        };
        if paths.iter().any(below) {
            token.cancel();
            cancelled.moves += 1;
        }
    }
    cancelled.recalls = cancel_recalls(served, &request.paths).await?;
    Ok(cancelled)
}

/// What is waited for of one file.
#[derive(Default)]
struct Awaited {
    /// Its bytes.
    cold: Option<Arc<Cold>>,
    /// Those, or a budget.
    visits: Vec<Arc<Visit>>,
}

impl Awaited {
    /// Ends all of it. How many recalls that were: one a reader, or a person's command.
    fn cancel(self) -> u64 {
        // First: they wait no more once their bytes are not coming.
        let visits = self.visits.iter().filter(|visit| visit.cancel()).count() as u64;
        let filled = self.cold.is_some_and(|cold| cold.cancel());
        visits.max(u64::from(filled))
    }
}

/// What is waited for now, by inode.
fn awaited(served: &Served) -> HashMap<u64, Awaited> {
    let mut all: HashMap<u64, Awaited> = HashMap::new();
    for inode in served.inodes.all() {
        if let Serving::Cold(cold) = inode.serving()
            && cold.is_waited_for()
        {
            all.entry(inode.ino.0).or_default().cold = Some(cold);
        }
    }
    for visit in served.guard.waiting() {
        all.entry(visit.ino().0).or_default().visits.push(visit);
    }
    all
}

/// Stops recalls of files at or below these paths, and whoever waits for them or for a budget to
/// begin them; of all where there are none.
async fn cancel_recalls(served: &Arc<Served>, paths: &[WirePath]) -> Result<u64, Problem> {
    let mut awaited = awaited(served);
    if awaited.is_empty() {
        return Ok(0);
    }
    let mut starts = Vec::new();
    for path in paths {
        starts.push(served.locate(path.as_path()).await?);
    }
    if starts.is_empty() || starts.iter().any(|start| start.path.is_empty()) {
        return Ok(awaited.into_values().map(Awaited::cancel).sum());
    }
    let walking = Arc::clone(served);
    let walk = served.walks.run(CancellationToken::new(), move |stop| {
        let mut stopped = 0;
        for start in starts {
            let mut visit = |file: Found| {
                if let Some(awaited) = awaited.remove(&file.stat.st_ino) {
                    stopped += awaited.cancel();
                }
                if awaited.is_empty() { ControlFlow::Break(()) } else { stop.flow() }
            };
            let mut fail = |_: &[u8], error: std::io::Error| {
                tracing::warn!(%error, "a directory cannot be searched for recalls");
            };
            let _all_or_found = walk(&walking.tenant, start, &mut visit, &mut fail);
        }
        stopped
    });
    Ok(walk.await?)
}
