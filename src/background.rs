//! A daemon in the background: started by the command, told of when its mount answers.
//!
//! The command starts itself again with `--foreground` and a hidden flag, before it has any
//! thread (no fork after threads). The child's standard output is a pipe to the command: one
//! line of JSON on it says that the mount answers, or why it never will. The child then
//! leaves the terminal's session. Its log is its standard error, a file in the runtime
//! directory, bounded by [`LOG_BYTES`] and kept once more under `.1`.

use std::fs::File;
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{self, SignalKind};

use crate::control::wire::{Problem, ProblemKind};

mod log;

pub use log::{BoundedLog, LOG_BYTES, LogLine};

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
pub fn start(arguments: &[std::ffi::OsString], log_path: &Path) -> Result<Vec<String>, Problem> {
    let failed = |what: String| {
        Problem::new(
            ProblemKind::Failed,
            what,
            format!("see {}, or run it with --foreground", log_path.display()),
        )
    };
    let stderr = log::open(log_path)
        .map_err(|error| failed(format!("open the log {}: {error}", log_path.display())))?;
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

/// Returns when this process is asked to end.
pub async fn asked_to_end() -> io::Result<Signal> {
    Ok(EndSignals::listen()?.next().await)
}

/// The signals that ask a process to end: SIGTERM, SIGINT and SIGHUP.
#[derive(Debug)]
pub struct EndSignals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
}

impl EndSignals {
    /// Listens from now on; within a runtime.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            hangup: unix::signal(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = self.interrupt.recv() => Signal::SIGINT,
            _ = self.hangup.recv() => Signal::SIGHUP,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::{self, read_json};

    #[test]
    fn decoding_what_a_daemon_says_of_its_start_never_panics() {
        let ready = Report::Ready { notes: vec!["no passthrough".to_owned()] };
        let failed = Report::Failed(Problem::new(ProblemKind::Usage, "no store", "name one"));
        fuzzing::run(|dice| {
            read_json(dice, &ready);
            read_json(dice, &failed);
        });
    }
}
