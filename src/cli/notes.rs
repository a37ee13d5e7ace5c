//! `coldfs conflicts` and `coldfs audit`: what the daemon noted in `.coldfs`, which nobody can
//! read where a directory is mounted over itself.

use std::path::{Path, PathBuf};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use clap::Args;
use serde_json::Value;

use super::output::{Output, count, size, unwritten};
use super::{Outcome, converse, paths};
use crate::control::wire::{Notes, NotesRequest, NotesSummary, Problem, WirePath};
use crate::printable::printable;

const CONFLICTS_EXAMPLES: &str = "\
Examples:
  coldfs conflicts /srv/t1
  coldfs conflicts /srv/t1 --json
  coldfs find /srv/t1 --state conflict      those that are open now
  coldfs fsck --keep remote /srv/t1/a       choose

Each is noted once, until something of it changes: when, the file, what was found or chosen, and
the segment and entry of the version that the file's record named.";

/// Show what was noted of bytes that nobody can account for
#[derive(Debug, Args)]
#[command(after_long_help = CONFLICTS_EXAMPLES)]
pub struct ConflictsArgs {
    /// A mountpoint, or any path on it
    mountpoint: PathBuf,

    /// Only the newest
    #[arg(long, value_name = "N")]
    tail: Option<u64>,
}

const AUDIT_EXAMPLES: &str = "\
Examples:
  coldfs audit /srv/t1 --tail 20
  coldfs audit /srv/t1 --json | jq 'select(.name == \"grep\")'
  coldfs audit /srv/t1 --moves              what moved by itself, and by which rule

A line for each open of a cold file, and each recall by command, the last sixteen MiB of them: who,
with what program, what it read, how long it waited, and how it came out. Lines that fell out are
counted.";

/// Show who opened cold files, one by one
#[derive(Debug, Args)]
#[command(after_long_help = AUDIT_EXAMPLES)]
pub struct AuditArgs {
    /// A mountpoint, or any path on it
    mountpoint: PathBuf,

    /// Only the newest
    #[arg(long, value_name = "N")]
    tail: Option<u64>,

    /// What moved by itself instead
    #[arg(long)]
    moves: bool,
}

pub fn conflicts(args: &ConflictsArgs, output: &mut Output) -> Result<Outcome, Problem> {
    let request = NotesRequest { notes: Notes::Conflicts, tail: args.tail, path: None };
    let summary = show(&args.mountpoint, request, output, conflict)?;
    if summary.unwritten > 0 {
        output.note(&format!(
            "{} more found no room in .coldfs/conflicts and are in the daemon's log: detach, and \
             move that file away",
            count(summary.unwritten)
        ));
    }
    Ok(Outcome::Done)
}

pub fn audit(args: &AuditArgs, output: &mut Output) -> Result<Outcome, Problem> {
    let (notes, people) = if args.moves {
        (Notes::Moves, moved as fn(&Value) -> String)
    } else {
        (Notes::Audit, visit as _)
    };
    let request = NotesRequest { notes, tail: args.tail, path: None };
    let summary = show(&args.mountpoint, request, output, people)?;
    if summary.fallen_out > 0 {
        output.note(&format!(
            "{} older lines fell out: there was no room",
            count(summary.fallen_out)
        ));
    }
    Ok(Outcome::Done)
}

fn show(
    path: &Path,
    request: NotesRequest,
    output: &mut Output,
    people: fn(&Value) -> String,
) -> Result<NotesSummary, Problem> {
    let summary: NotesSummary = converse(async {
        let (client, path) = paths::served(path).await?;
        let request = NotesRequest { path: Some(path), ..request };
        let each = |note: Value| output.answer(&note, people);
        client.stream("/v1/notes", &request, each).await
    })?;
    if summary.sent == 0 && !output.is_json() {
        output.line("nothing is noted").map_err(unwritten)?;
    }
    Ok(summary)
}

fn text<'a>(note: &'a Value, field: &str) -> &'a str {
    note[field].as_str().unwrap_or_default()
}

/// A name, whatever its bytes.
fn path(note: &Value) -> String {
    let path = serde_json::from_value::<WirePath>(note["path"].clone());
    path.map(|path| path.to_string()).unwrap_or_default()
}

fn number(note: &Value, field: &str) -> u64 {
    note[field].as_u64().unwrap_or_default()
}

fn conflict(note: &Value) -> String {
    if number(note, "time") == 0 {
        // As an older coldfs wrote it.
        return printable(text(note, "what"));
    }
    let name = match text(note, "path") {
        "" => format!("inode {}", number(note, "ino")),
        path => path.to_owned(),
    };
    let mut line = format!("{} {name}: {}", when(note), text(note, "what"));
    if !text(note, "remote").is_empty() {
        let bytes = count(number(note, "remote_bytes"));
        line += &format!("; its record names {}, {bytes} bytes", text(note, "remote"));
    }
    printable(line)
}

fn visit(note: &Value) -> String {
    printable(format!(
        "{} {} {} ({}, user {}, process {}): {} of {}, {}",
        when(note),
        path(note),
        text(note, "name"),
        text(note, "class"),
        number(note, "user"),
        number(note, "process"),
        size(number(note, "bytes")),
        size(number(note, "size_bytes")),
        text(note, "outcome"),
    ))
}

fn moved(note: &Value) -> String {
    printable(format!(
        "{} {} {}, {}: {} (idle {} s, {})",
        when(note),
        text(note, "action"),
        text(note, "path"),
        size(number(note, "bytes")),
        text(note, "rule"),
        number(note, "idle_seconds"),
        text(note, "evidence"),
    ))
}

/// A note's time as UTC.
fn when(note: &Value) -> String {
    let seconds = note["time"].as_f64().unwrap_or_default();
    #[allow(clippy::cast_possible_truncation, reason = "a time of this century, in seconds")]
    let seconds = seconds as i64;
    // Years that it cannot write are no times of notes.
    DateTime::from_secs(seconds).fmt(Format::DateTime).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_is_one_line_with_its_file_and_its_copy() {
        let note = serde_json::json!({
            "time": 1_764_091_213, "ino": 7, "path": "/srv/t1/a\nb", "what": "a changed stub",
            "remote": "01K9Z/3", "remote_bytes": 200_000
        });
        let line = conflict(&note);
        assert!(line.starts_with("2025-11-25T17:20:13Z /srv/t1/a"), "{line}");
        assert!(
            line.ends_with("a changed stub; its record names 01K9Z/3, 200,000 bytes"),
            "{line}"
        );
        assert!(!line.contains('\n'), "{line}");
        let at = |seconds: i64| when(&serde_json::json!({ "time": seconds }));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(19_782 * 86_400), "2024-02-29T00:00:00Z");
    }
}
