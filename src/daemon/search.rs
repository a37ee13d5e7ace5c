//! `find`: from the catalog, where it knows all; else by a walk.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::failures::{Failures, is_gone};
use super::files::{report, report_on};
use super::known;
use super::served::Served;
use super::walks::Stop;
use crate::catalog::Met;
use crate::control::filter::Filter;
use crate::control::wire::{
    Failure, FileReport, FileState, FindRequest, FindSummary, Problem, Source,
};
use crate::walk::{Found, walk};

/// Sends the files that are meant.
pub(super) async fn run(
    served: &Arc<Served>,
    request: FindRequest,
    found: mpsc::Sender<FileReport>,
    cancel: CancellationToken,
) -> Result<FindSummary, Problem> {
    let start = served.locate(request.root.as_path()).await?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_or(0, |now| i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
    let filter = Filter::new(&request, now)?;
    let walking = Arc::clone(served);
    let walk = served.walks.run(cancel, move |stop| {
        let mut search =
            Search { served: &walking, filter, found, summary: FindSummary::default() };
        if !request.walk {
            let mut take =
                |met: Met<'_>| search.take(report_on(&walking, met.path, met.seen, met.pin), stop);
            match known::visit(&walking, &start, &mut take) {
                Ok(false) => {}
                Ok(true) => return search.answered_by_catalog(Failures::default()),
                Err(error) => {
                    let mut failures = Failures::default();
                    failures.push(Failure {
                        path: request.root,
                        cause: format!("the catalog: {error}"),
                        next_step: "run the command again: it is made anew".to_owned(),
                    });
                    return search.answered_by_catalog(failures);
                }
            }
        }
        search.walk(start, stop)
    });
    Ok(walk.await?)
}

/// A `find` under way.
struct Search<'a> {
    served: &'a Served,
    filter: Filter,
    found: mpsc::Sender<FileReport>,
    summary: FindSummary,
}

impl Search<'_> {
    /// Sends a file that is meant.
    fn take(&mut self, report: FileReport, stop: &Stop) -> ControlFlow<()> {
        self.summary.examined += u64::from(report.state != FileState::None);
        let name = report.path.as_path().file_name().unwrap_or_default().to_owned();
        if !self.filter.accepts(&name, report.state, report.size_bytes, report.mtime_ns) {
            return stop.flow();
        }
        self.summary.matched += 1;
        stop.send(&self.found, report)
    }

    /// The catalog said all that it can.
    fn answered_by_catalog(self, failures: Failures) -> FindSummary {
        let Failures { named: failed, total: failed_total } = failures;
        FindSummary { failed, failed_total, source: Source::Catalog, ..self.summary }
    }

    /// Walks.
    fn walk(mut self, start: Found, stop: &Stop) -> FindSummary {
        let served = self.served;
        let failures = RefCell::new(Failures::default());
        let mut visit = |file: Found| match report(served, &file) {
            Ok(report) => self.take(report, stop),
            Err(error) => {
                self.summary.examined += 1;
                if !is_gone(&error) {
                    failures.borrow_mut().note(served, &file.path, &error);
                }
                stop.flow()
            }
        };
        let mut fail = |path: &[u8], error: std::io::Error| {
            failures.borrow_mut().note(served, path, &error);
        };
        let _all_or_stopped = walk(&served.tenant, start, &mut visit, &mut fail);
        let Failures { named, total } = failures.into_inner();
        FindSummary { failed: named, failed_total: total, ..self.summary }
    }
}
