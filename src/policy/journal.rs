//! What a component logs: few lines, short ones, and no control characters.

use std::time::Duration;

use super::contract::Level;
use crate::printable::printable;

/// Lines that one call may write; the others are counted.
const LINES: u32 = 16;
/// Lines that an instance may write in a minute, however many calls there are.
const LINES_A_MINUTE: u32 = 256;
const MINUTE: Duration = Duration::from_mins(1);
/// Bytes of a line.
const LINE_BYTES: usize = 512;

/// The journal of one instance.
#[derive(Debug, Default)]
pub(super) struct Journal {
    written: u32,
    written_in_minute: u32,
    minute: Duration,
    /// Lines that were too many, ever.
    pub(super) dropped: u64,
}

impl Journal {
    /// A call begins, by a clock that nobody sets.
    pub(super) fn begin(&mut self, now: Duration) {
        self.written = 0;
        if now.saturating_sub(self.minute) >= MINUTE {
            (self.minute, self.written_in_minute) = (now, 0);
        }
    }

    /// What becomes of a line; none: it is one too many.
    pub(super) fn line(&mut self, message: &str) -> Option<String> {
        if self.written == LINES || self.written_in_minute == LINES_A_MINUTE {
            self.dropped += 1;
            return None;
        }
        self.written += 1;
        self.written_in_minute += 1;
        Some(short(message, LINE_BYTES))
    }

    pub(super) fn write(&mut self, level: Level, message: &str) {
        let Some(line) = self.line(message) else { return };
        match level {
            Level::Debug => tracing::debug!(target: "coldfs::policy", "policy: {line}"),
            Level::Info => tracing::info!(target: "coldfs::policy", "policy: {line}"),
            Level::Warn => tracing::warn!(target: "coldfs::policy", "policy: {line}"),
            Level::Error => tracing::error!(target: "coldfs::policy", "policy: {line}"),
        }
    }
}

/// A text without control characters, no longer than so many bytes.
pub(super) fn short(text: &str, limit: usize) -> String {
    let shown = printable(cut(text, limit));
    if shown.len() <= limit && text.len() <= limit {
        return shown;
    }
    format!("{}...", cut(&shown, limit.saturating_sub(3)))
}

fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_a_line_is_short_and_plain() {
        let mut journal = Journal::default();
        let lines = (0..100).filter_map(|_| journal.line("\x1b[2J\r\nforged")).count();
        assert_eq!((lines, journal.dropped), (LINES as usize, 100 - u64::from(LINES)));
        journal.begin(Duration::ZERO);
        let line = journal.line(&"\u{e9}\x07".repeat(8 << 20)).unwrap();
        assert!(line.len() <= LINE_BYTES && line.ends_with("..."), "{line}");
        assert!(!line.contains(char::is_control));
    }

    #[test]
    fn many_calls_flood_no_more_than_one() {
        let mut journal = Journal::default();
        let mut lines = |now| {
            journal.begin(now);
            (0..100).filter_map(|_| journal.line("again")).count()
        };
        let first: usize = (0..100).map(|_| lines(MINUTE / 2)).sum();
        assert_eq!(first, LINES_A_MINUTE as usize);
        assert_eq!(lines(MINUTE), LINES as usize);
    }
}
