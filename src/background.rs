//! A daemon in the background: started by the command, told of when its mount answers.
//!
//! The command starts itself again with `--foreground` and a hidden flag, before it has any
//! thread (no fork after threads). The child's standard output is a pipe to the command: one
//! line of JSON on it says that the mount answers, or why it never will. The child then
//! leaves the terminal's session. Its log is its standard error, a file in the runtime
//! directory, bounded by [`LOG_BYTES`] and kept once more under `.1`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::control::wire::{Problem, ProblemKind};
use crate::printable::event_line;

/// A log that has grown to this is renamed to `NAME.log.1` and begun anew.
pub const LOG_BYTES: u64 = 8 << 20;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    Ready { notes: Vec<String> },
    Failed(Problem),
}

/// How a daemon tells whoever started it that the mount answers. Call [`Ready::ready`] once
/// it does. Where starting fails, return the problem: the command line reports it.
#[derive(Debug)]
pub struct Ready {
    /// Whether a command waits at the other end of standard output.
    parent: bool,
}

impl Ready {
    /// For a daemon in the foreground: nobody waits.
    pub fn foreground() -> Self {
        Self { parent: false }
    }

    /// For a daemon whose standard output is the pipe of [`start`].
    pub fn parent() -> Self {
        Self { parent: true }
    }

    /// The mount answers; `notes` are what the person should know, a sentence each. A daemon
    /// in the background leaves the terminal here.
    pub fn ready(self, notes: &[String]) {
        if self.parent {
            self.tell(&Report::Ready { notes: notes.to_vec() });
            // Refused only to a leader of a process group, and then we are detached already.
            if let Err(error) = nix::unistd::setsid() {
                tracing::debug!(%error, "leave the terminal");
            }
        } else {
            for note in notes {
                tracing::warn!("{note}");
            }
        }
    }

    /// The mount will never answer; only for the command line, which knows the exit code.
    pub(crate) fn failed_of_child(problem: &Problem) {
        Self::parent().tell(&Report::Failed(problem.clone()));
    }

    /// Sends the report and hangs up.
    fn tell(&self, report: &Report) {
        let sent = serde_json::to_string(report)
            .map_err(io::Error::other)
            .and_then(|line| writeln!(io::stdout(), "{line}"))
            .and_then(|()| io::stdout().flush());
        // The command was interrupted; whoever did that looks at the mount themselves.
        if let Err(error) = sent {
            tracing::warn!(%error, "tell the command that the mount answers");
        }
        let hung_up = File::options()
            .write(true)
            .open("/dev/null")
            .and_then(|null| nix::unistd::dup2_stdout(&null).map_err(io::Error::from));
        if let Err(error) = hung_up {
            tracing::warn!(%error, "close standard output");
        }
    }
}

/// Starts this program again with `arguments`, waits until its mount answers, and returns
/// its notes.
pub fn start(arguments: &[std::ffi::OsString], log: &Path) -> Result<Vec<String>, Problem> {
    let failed = |what: String| {
        Problem::new(
            ProblemKind::Failed,
            what,
            format!("see {}, or run it with --foreground", log.display()),
        )
    };
    let stderr = open_log(log)
        .map_err(|error| failed(format!("open the log {}: {error}", log.display())))?;
    let mut child = std::env::current_exe()
        .and_then(|program| {
            Command::new(program)
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(stderr)
                .spawn()
        })
        .map_err(|error| failed(format!("start the daemon: {error}")))?;
    match first_line(&mut child) {
        Ok(Some(Report::Ready { notes })) => Ok(notes),
        Ok(Some(Report::Failed(problem))) => {
            // Reaped, so that its lock and sockets are gone when this command returns.
            child.wait().map_err(|error| failed(format!("wait for the daemon: {error}")))?;
            Err(problem)
        }
        Ok(None) => {
            let ended =
                child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            Err(failed(format!("the daemon ended before its mount answered ({ended})")))
        }
        Err(error) => Err(failed(format!("hear from the daemon: {error}"))),
    }
}

fn first_line(child: &mut Child) -> io::Result<Option<Report>> {
    let Some(stdout) = child.stdout.take() else { return Ok(None) };
    let mut line = String::new();
    io::BufReader::new(stdout).read_line(&mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&line).map(Some).map_err(io::Error::other)
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Standard error as a bounded log file: what is written counts, and at [`LOG_BYTES`] the
/// file is renamed and standard error becomes a new one, panics included.
#[derive(Debug)]
pub struct BoundedLog {
    path: PathBuf,
    limit_bytes: u64,
    written_bytes: Mutex<u64>,
}

impl BoundedLog {
    /// The log at `path`, which standard error is open on.
    pub fn new(path: PathBuf) -> Self {
        let written = path.metadata().map_or(0, |meta| meta.len());
        Self { path, limit_bytes: LOG_BYTES, written_bytes: Mutex::new(written) }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut written =
            self.written_bytes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if *written >= self.limit_bytes {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            std::fs::rename(&self.path, older)?;
            nix::unistd::dup2_stderr(&open_log(&self.path)?)?;
            *written = 0;
        }
        io::stderr().write_all(bytes)?;
        *written = written.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(())
    }
}

/// One event's way into a [`BoundedLog`].
#[derive(Debug)]
pub struct LogLine<'a>(&'a BoundedLog);

impl Write for LogLine<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(event_line(bytes).as_bytes()).map(|()| bytes.len())
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

/// Returns when this process is asked to end: SIGTERM, SIGINT or SIGHUP.
pub async fn asked_to_end() -> io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        _ = hangup.recv() => "SIGHUP",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says to the test below that it runs as the child, and where its log is.
    const LOG: &str = "COLDFS_TEST_LOG";

    /// Standard error belongs to the whole process, so a child has it replaced.
    #[test]
    fn a_full_log_is_renamed_and_begun_anew() {
        if let Some(path) = std::env::var_os(LOG) {
            let log = BoundedLog { limit_bytes: 100, ..BoundedLog::new(path.into()) };
            for number in 0..30 {
                log.write(format!("line {number:02}\n").as_bytes()).unwrap();
            }
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.1.log");
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "background::tests::a_full_log_is_renamed_and_begun_anew"])
            .arg("--nocapture")
            .env(LOG, &path)
            .stdout(Stdio::null())
            .stderr(open_log(&path).unwrap())
            .status()
            .unwrap();
        assert!(status.success());
        let mut older = path.clone().into_os_string();
        older.push(".1");
        let older = std::fs::read_to_string(older).unwrap();
        let newer = std::fs::read_to_string(&path).unwrap();
        assert!(older.len() < 200 && newer.len() < 200, "{older}{newer}");
        assert!(newer.starts_with("line 2") && newer.ends_with("line 29\n"), "{newer}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
