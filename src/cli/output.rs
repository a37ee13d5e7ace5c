//! What commands print: aligned columns for people, JSON for scripts, never colour. What people
//! read is made [`printable`] here, where it leaves.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::Serialize;

use crate::control::wire::{Failure, Problem};
use crate::printable::{printable, printable_lines};

/// Standard output and how to write on it.
#[derive(Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    /// Prints JSON, or for people.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether a script reads this.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a person watches, so that progress is worth showing.
    pub fn is_watched(&self) -> bool {
        !self.json && io::stderr().is_terminal()
    }

    /// Prints one answer: the object itself, or what `people` say of it.
    pub fn answer<T: Serialize>(
        &mut self,
        object: &T,
        people: impl FnOnce(&T) -> String,
    ) -> io::Result<()> {
        if self.json {
            let text = serde_json::to_string(object).map_err(io::Error::other)?;
            self.bytes(format!("{text}\n").as_bytes())
        } else {
            self.line(&people(object))
        }
    }

    /// Prints lines for people.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        self.bytes(format!("{}\n", printable_lines(text)).as_bytes())
    }

    /// A reader that went away (`| head`) wants no more: the program ends, and hanging up
    /// cancels what it asked for.
    pub fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        match io::stdout().lock().write_all(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            result => result,
        }
    }

    /// Shows a text in the place of the one before, where a person watches.
    pub fn screen(&mut self, text: &str) -> io::Result<()> {
        // Home, and erase to the end (ECMA-48).
        let clear = if io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
        self.bytes(format!("{clear}{}\n", printable_lines(text)).as_bytes())
    }

    /// Prints a path, for people.
    pub fn path(&mut self, path: &Path) -> io::Result<()> {
        self.bytes(format!("{}\n", printable(path.as_os_str().as_bytes())).as_bytes())
    }

    /// Prints a path ended by a NUL, its bytes as they are.
    pub fn path0(&mut self, path: &Path) -> io::Result<()> {
        self.bytes(&[path.as_os_str().as_bytes(), b"\0"].concat())
    }

    /// Names files that failed, on standard error; in JSON they are in the answer.
    pub fn failures(&self, failed: &[Failure], total: u64) {
        if self.json {
            return;
        }
        for failure in failed {
            self.complain(&printable(failure.to_string()));
        }
        let unnamed = total.saturating_sub(u64::try_from(failed.len()).unwrap_or(u64::MAX));
        if unnamed > 0 {
            self.complain(&format!("{} more failed: see the daemon's log", count(unnamed)));
        }
    }

    /// Says on standard error what is worth knowing.
    pub fn note(&self, text: &str) {
        self.complain(&format!("coldfs: note: {}", printable(text)));
    }

    /// Says on standard error why nothing was done.
    pub fn problem(&self, problem: &Problem) {
        if self.json {
            match serde_json::to_string(&serde_json::json!({ "problem": problem })) {
                Ok(text) => self.complain(&text),
                Err(error) => self.complain(&error),
            }
        } else {
            let (what, next_step) = (printable(&problem.what), printable(&problem.next_step));
            self.complain(&format!("coldfs: {what}\n  {next_step}"));
        }
    }

    fn complain(&self, text: &dyn Display) {
        // Nobody is left to hear that standard error is closed.
        drop(writeln!(io::stderr().lock(), "{text}"));
    }
}

/// A write to standard output that failed, as a problem.
pub fn unwritten(error: io::Error) -> Problem {
    Problem::new(
        crate::control::wire::ProblemKind::Failed,
        format!("write output: {error}"),
        "check where it goes",
    )
}

/// `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1.5 GiB`: at most four digits.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // In tenths, so that no float rounds a size up to one it does not have.
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    if tenths < 1_000 {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{} {}", tenths / 10, UNITS[unit])
    }
}

/// `one file`, `12 files`.
pub fn files(number: u64) -> String {
    if number == 1 { "1 file".into() } else { format!("{} files", count(number)) }
}

/// Rows with their columns aligned: the first to the left, the others to the right.
pub fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = width(column).unwrap_or(0);
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_humane() {
        assert_eq!(count(0), "0");
        assert_eq!(count(1_234_567), "1,234,567");
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1023 KiB"),
            (1 << 20, "1.0 MiB"),
            (150 << 30, "150 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".into(), "100".into()], vec!["bcd".into(), "7".into()]];
        assert_eq!(columns(&rows), "a    100\nbcd    7");
    }
}
