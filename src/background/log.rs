//! The log of a daemon in the background: its standard error, a file that stays bounded.
//!
//! Nothing that happens to the file ends the log or the daemon: lines that cannot be written are
//! counted, and the next one that can is written below how many were lost and why. A regular
//! file never makes its writer wait for a reader.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::printable::event_line;

/// A log that has grown to this is renamed to `NAME.log.1` and begun anew.
pub const LOG_BYTES: u64 = 8 << 20;

pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Standard error as a bounded log file: what is written counts, and at [`LOG_BYTES`] the
/// file is renamed and standard error becomes a new one, panics included. Where that is refused,
/// the file is emptied instead.
#[derive(Debug)]
pub struct BoundedLog {
    path: PathBuf,
    limit_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    written_bytes: u64,
    lost_lines: u64,
    /// Why the last line was lost.
    cause: Option<io::Error>,
}

impl BoundedLog {
    /// The log at `path`, which standard error is open on.
    pub fn new(path: PathBuf) -> Self {
        let written_bytes = path.metadata().map_or(0, |meta| meta.len());
        let state = Mutex::new(State { written_bytes, ..State::default() });
        Self { path, limit_bytes: LOG_BYTES, state }
    }

    fn write(&self, line: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match self.try_write(&mut state, line) {
            Ok(()) => {
                state.lost_lines = 0;
                state.cause = None;
            }
            Err(error) => {
                state.lost_lines = state.lost_lines.saturating_add(1);
                state.cause = Some(error);
            }
        }
    }

    fn try_write(&self, state: &mut State, line: &[u8]) -> io::Result<()> {
        if state.written_bytes >= self.limit_bytes {
            match self.renew() {
                Ok(()) => state.written_bytes = 0,
                Err(error) => {
                    nix::unistd::ftruncate(io::stderr().as_fd(), 0)?;
                    state.written_bytes = 0;
                    let name = self.path.display();
                    put(
                        state,
                        format!("log: {name} begins anew, not renamed: {error}\n").as_bytes(),
                    )?;
                }
            }
        }
        if let Some(cause) = &state.cause {
            // The line that failed may have been written in part.
            let note = format!("\nlog: {} lines were lost here: {cause}\n", state.lost_lines);
            put(state, note.as_bytes())?;
        }
        put(state, line)
    }

    /// Begins the file anew. Standard error stays as it was where that fails.
    fn renew(&self) -> io::Result<()> {
        let beside = |suffix| {
            let mut name = self.path.clone().into_os_string();
            name.push(suffix);
            PathBuf::from(name)
        };
        let new = beside(".new");
        let file = open(&new)?;
        let renamed = match std::fs::rename(&self.path, beside(".1")) {
            // Somebody took it away: nothing is left to keep.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed,
        };
        if let Err(error) = renamed.and_then(|()| std::fs::rename(&new, &self.path)) {
            std::fs::remove_file(&new)?;
            return Err(error);
        }
        Ok(nix::unistd::dup2_stderr(&file)?)
    }
}

fn put(state: &mut State, bytes: &[u8]) -> io::Result<()> {
    io::stderr().write_all(bytes)?;
    let bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    state.written_bytes = state.written_bytes.saturating_add(bytes);
    Ok(())
}

/// One event's way into a [`BoundedLog`]. It never fails: whoever logs would print the error on
/// standard error, and panic where that is refused.
#[derive(Debug)]
pub struct LogLine<'a>(&'a BoundedLog);

impl Write for LogLine<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(event_line(bytes).as_bytes());
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for BoundedLog {
    type Writer = LogLine<'a>;
    fn make_writer(&'a self) -> LogLine<'a> {
        LogLine(self)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Says to the tests below that they run as the child, and where its log is.
    const LOG: &str = "COLDFS_TEST_LOG";

    /// Standard error belongs to the whole process, so a child has it replaced: runs the test of
    /// this name again, and returns the log and what stands under `.1`.
    fn in_a_child(dir: &Path, test: &str) -> (String, Option<String>) {
        let path = dir.join("t.1.log");
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("background::log::tests::{test}"), "--nocapture"])
            .env(LOG, &path)
            .stdout(Stdio::null())
            .stderr(open(&path).unwrap())
            .status()
            .unwrap();
        assert!(status.success());
        let older = std::fs::read_to_string(dir.join("t.1.log.1")).ok();
        (std::fs::read_to_string(path).unwrap(), older)
    }

    fn log_of_the_child() -> Option<BoundedLog> {
        let path = std::env::var_os(LOG)?;
        Some(BoundedLog { limit_bytes: 100, ..BoundedLog::new(path.into()) })
    }

    fn write_lines(log: &BoundedLog) {
        for number in 0..30 {
            log.write(format!("line {number:02}\n").as_bytes());
        }
    }

    #[test]
    fn a_full_log_is_renamed_and_begun_anew() {
        if let Some(log) = log_of_the_child() {
            return write_lines(&log);
        }
        let dir = tempfile::tempdir().unwrap();
        let (newer, older) = in_a_child(dir.path(), "a_full_log_is_renamed_and_begun_anew");
        let older = older.unwrap();
        assert!(older.len() < 200 && newer.len() < 200, "{older}{newer}");
        assert!(newer.starts_with("line 2") && newer.ends_with("line 29\n"), "{newer}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_full_log_that_cannot_be_renamed_goes_on() {
        if let Some(log) = log_of_the_child() {
            return write_lines(&log);
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("t.1.log.1")).unwrap();
        let (log, _) = in_a_child(dir.path(), "a_full_log_that_cannot_be_renamed_goes_on");
        assert!(log.starts_with("log: ") && log.contains("not renamed"), "{log}");
        assert!(log.len() < 400 && log.ends_with("line 29\n"), "{log}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_log_whose_disk_was_full_goes_on_and_says_what_was_lost() {
        if let Some(log) = log_of_the_child() {
            let full = File::options().write(true).open("/dev/full").unwrap();
            let file = open(&log.path).unwrap();
            nix::unistd::dup2_stderr(&full).unwrap();
            for number in 0..3 {
                assert!(LogLine(&log).write(format!("lost {number}\n").as_bytes()).is_ok());
            }
            nix::unistd::dup2_stderr(&file).unwrap();
            log.write(b"first\n");
            return log.write(b"second\n");
        }
        let dir = tempfile::tempdir().unwrap();
        let test = "a_log_whose_disk_was_full_goes_on_and_says_what_was_lost";
        let (log, _) = in_a_child(dir.path(), test);
        let said = "log: 3 lines were lost here: No space left on device (os error 28)";
        assert_eq!(log, format!("\n{said}\nfirst\nsecond\n"));
    }
}
