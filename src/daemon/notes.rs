//! What is noted for a person: conflicts, and opens of cold files.

use std::io;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::mpsc;

use super::files::shown;
use super::served::Served;
use crate::control::wire::{Notes, NotesRequest, NotesSummary, Problem, ProblemKind};
use crate::tenant::Lines;

/// Sends notes.
pub(super) async fn run(
    served: &Arc<Served>,
    request: NotesRequest,
    notes: mpsc::Sender<Value>,
) -> Result<NotesSummary, Problem> {
    let reading = Arc::clone(served);
    let read = tokio::task::spawn_blocking(move || match request.notes {
        Notes::Conflicts => conflicts(&reading),
        Notes::Audit => Ok(read_json(&reading.guard.audit_lines()?)),
        Notes::Moves => Ok(read_json(&reading.tiering.moved_lines()?)),
    });
    let read = read.await.unwrap_or_else(|_panic| Err(io::ErrorKind::Other.into()));
    let (all, mut summary) = read.map_err(|error| {
        let what = format!("{}/.coldfs: {error}", served.options.data_dir.display());
        Problem::new(ProblemKind::Failed, what, "check the data filesystem")
    })?;
    let tail = request.tail.map_or(usize::MAX, |tail| usize::try_from(tail).unwrap_or(usize::MAX));
    let from = all.len().saturating_sub(tail);
    for note in all.into_iter().skip(from) {
        if notes.send(note).await.is_err() {
            break;
        }
        summary.sent += 1;
    }
    Ok(summary)
}

/// Notes, and how they end as far as that is known before they are sent.
type Read = (Vec<Value>, NotesSummary);

fn conflicts(served: &Served) -> io::Result<Read> {
    let (conflicts, unwritten) = served.tenant.conflicts()?;
    let values = conflicts.into_iter().map(|mut conflict| {
        if !conflict.path.is_empty() {
            let path = shown(served, conflict.path.as_bytes());
            conflict.path = path.to_string_lossy().into_owned();
        }
        serde_json::to_value(conflict).map_err(io::Error::other)
    });
    let summary = NotesSummary { unwritten, ..NotesSummary::default() };
    Ok((values.collect::<io::Result<_>>()?, summary))
}

/// A line that a crash cut short says nothing.
fn read_json(read: &Lines) -> Read {
    let values = read.lines.iter().filter_map(|line| serde_json::from_str(line).ok());
    let summary = NotesSummary { fallen_out: read.fallen_out, ..NotesSummary::default() };
    (values.collect(), summary)
}
