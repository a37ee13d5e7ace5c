//! A stranger's text as a terminal may have it.
//!
//! A file's name is any bytes but `/` and NUL. Written as it is it can clear the screen, retitle
//! the window, make some terminals type, or look like another line of output. What people read,
//! answers, complaints and logs alike, comes through here; JSON and `-0` carry names as they are.
//!
//! A backslash stays one, so that ordinary names do, and so that text which comes through twice
//! is not changed again: what is printed is for reading, not for parsing.

use std::io;

/// The text with control characters, bytes that are no UTF-8, and characters that reorder or end
/// a line written as escapes.
pub fn printable(text: impl AsRef<[u8]>) -> String {
    let text = text.as_ref();
    let mut shown = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        for each in chunk.valid().chars() {
            push(&mut shown, each);
        }
        for byte in chunk.invalid() {
            push_byte(&mut shown, *byte);
        }
    }
    shown
}

/// As [`printable`], of text that consists of lines: their ends stay.
pub fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

fn push(shown: &mut String, each: char) {
    match each {
        '\n' => shown.push_str("\\n"),
        '\r' => shown.push_str("\\r"),
        '\t' => shown.push_str("\\t"),
        '\0'..='\x1f' | '\x7f' => push_byte(shown, each as u8),
        // C1 controls, line separators, directions.
        '\u{80}'..='\u{9f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            shown.extend(each.escape_unicode())
        }
        _ => shown.push(each),
    }
}

fn push_byte(shown: &mut String, byte: u8) {
    shown.push_str(&format!("\\x{byte:02x}"));
}

/// A log whose every write is one event, a line.
#[derive(Debug)]
pub struct EventLines<W>(pub W);

impl<W: io::Write> io::Write for EventLines<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.write_all(event_line(event).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// One event of a log, without other line ends than its own.
pub fn event_line(event: &[u8]) -> String {
    match event.strip_suffix(b"\n") {
        Some(line) => printable(line) + "\n",
        None => printable(event),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_spelled_out_and_all_else_stays() {
        for (text, shown) in [
            (&b"plain \\ name"[..], "plain \\ name"),
            ("\u{e9}\u{4e2d}\u{1f600}".as_bytes(), "\u{e9}\u{4e2d}\u{1f600}"),
            (b"\x1b]0;title\x07\x1b[2J", "\\x1b]0;title\\x07\\x1b[2J"),
            (b"a\nb\rc\td\x7f", "a\\nb\\rc\\td\\x7f"),
            (b"\xff\xc3(\xe4\xb8", "\\xff\\xc3(\\xe4\\xb8"),
            ("\u{9b}31m".as_bytes(), "\\u{9b}31m"),
            ("a\u{202e}cod.exe\u{2028}".as_bytes(), "a\\u{202e}cod.exe\\u{2028}"),
        ] {
            assert_eq!(printable(text), shown);
            assert_eq!(printable(shown), shown, "twice is as once");
        }
        assert_eq!(printable_lines("a\x1b\nb"), "a\\x1b\nb");
    }

    #[test]
    fn an_event_is_one_line() {
        let mut log = EventLines(Vec::new());
        io::Write::write_all(&mut log, b"WARN path=a\nERROR all is lost\x1b[m\n").unwrap();
        assert_eq!(log.0, b"WARN path=a\\nERROR all is lost\\x1b[m\n");
    }
}
