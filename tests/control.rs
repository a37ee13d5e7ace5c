//! The control socket end to end: the program's verbs against a fake engine, and what happens
//! when either side goes away.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "control/fake.rs"]
mod fake;
#[path = "harness/telling.rs"]
mod telling;

use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use coldfs::control::runtime::{RUNTIME_DIR, RuntimeDir};
use coldfs::control::server::ControlSocket;
use coldfs::control::wire::Status;
use tokio_util::sync::CancellationToken;

use fake::Fake;

/// How long any condition of these tests may take to come true.
const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon with a fake engine, on a thread of its own.
struct Daemon {
    home: tempfile::TempDir,
    mountpoint: PathBuf,
    engine: Arc<Fake>,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Daemon {
    fn start() -> Self {
        Self::of_a_directory(false)
    }

    fn of_a_directory(unreadable: bool) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mountpoint = home.path().canonicalize().unwrap().join("mnt");
        std::fs::create_dir(&mountpoint).unwrap();
        std::fs::write(mountpoint.join("file"), "bytes").unwrap();
        let engine = Arc::new(Fake {
            mountpoint: mountpoint.clone(),
            moving: CancellationToken::new(),
            stopped: CancellationToken::new(),
            detached: CancellationToken::new(),
            unreadable,
        });
        let stop = CancellationToken::new();
        let socket =
            ControlSocket::bind(&RuntimeDir::open(home.path().join("run")).unwrap()).unwrap();
        let serving = (engine.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(socket.serve(serving.0, serving.1)).unwrap();
        });
        Self { home, mountpoint, engine, stop, thread: Some(thread) }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coldfs"));
        command.args(arguments).env(RUNTIME_DIR, self.home.path().join("run"));
        command.env(coldfs::config::state::STATE_DIR, self.home.path().join("run"));
        command.current_dir(&self.mountpoint);
        command
    }

    /// Runs a verb; its exit code, standard output and standard error.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (status.code().unwrap(), text(stdout), text(stderr))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        assert!(ended.is_none_or(|thread| thread.is_ok()));
        let left = std::fs::read_dir(self.home.path().join("run")).unwrap().count();
        assert_eq!(left, 0, "a daemon that ends takes its socket away");
    }
}

fn wait_for(token: &CancellationToken, what: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let waited =
        runtime.block_on(async { tokio::time::timeout(PATIENCE, token.cancelled()).await });
    assert!(waited.is_ok(), "{what}");
}

#[test]
fn every_verb_reaches_the_daemon_that_serves_its_path() {
    let daemon = Daemon::start();
    let (code, out, _) = daemon.run(&["state", "file"]);
    let path = daemon.mountpoint.join("file");
    assert_eq!(
        (code, out),
        (
            0,
            format!(
                "{}: (0x0000000d) released exists archived, segment:01K9ZTEST/3\n",
                path.display()
            )
        )
    );
    for (arguments, code, word) in [
        (&["status"][..], 0, "note         no passthrough: mount as root"),
        (&["tenant", "list"], 0, "failed"),
        (&["tenant", "attach", "t1"], 0, "t1: failed at "),
        (&["status", "."], 0, "t1"),
        (&["plan", "."], 0, "held back: pinned"),
        (&["plan", ".", "--summary"], 0, "7 files judged"),
        (&["explain", "file"], 0, "judged     no: "),
        (&["policy", "show", "."], 0, "within 1 d"),
        (&["state", "-l", "file"], 0, "1,048,576 bytes, 4,096 local"),
        (&["find", "."], 0, "plain"),
        (&["du", "."], 0, "1.0 MiB"),
        (&["heat", "."], 0, "hottest files"),
        (&["heat", "--files", "."], 0, "unknown"),
        (&["top", "--once", "."], 0, "2.5"),
        (&["migrate", "file"], 0, "migrated 2 files, 2.0 KiB in 0.5 s; skipped 1: 1 open"),
        (&["recall", "file"], 1, "1 failed"),
        (&["cancel", "."], 0, "stopped 1 moves"),
        (&["pin", "file"], 0, "pinned 1 file"),
        (&["unpin", "file"], 0, "unpinned 1 file"),
        (&["fsck", "."], 1, "orphan: "),
        (&["fsck", "--adopt", "."], 0, "mended: "),
        (&["gc", "--dry-run", "."], 0, "dead        01K9ZTEST"),
        (&["gc", "--dry-run"], 0, "30 d old"),
    ] {
        let (ended, out, err) = daemon.run(arguments);
        assert_eq!(ended, code, "{arguments:?}: {out}{err}");
        assert!(out.contains(word), "{arguments:?}: {out}{err}");
    }
}

/// What each command is tried with; an error: why it prints no JSON.
const COMMANDS: &[(&str, Result<&[&str], &str>)] = &[
    ("mount", Ok(&["--check", "../raw", "../at", "--store", "disk:../store"])),
    ("serve", Ok(&["--check", "--config", "../fleet.toml"])),
    ("tenant list", Ok(&[])),
    ("tenant attach", Ok(&["t1"])),
    ("tenant detach", Ok(&["t1"])),
    ("status", Ok(&["."])),
    ("state", Ok(&["file"])),
    ("du", Ok(&["."])),
    ("find", Ok(&["."])),
    ("heat", Ok(&["--files", "."])),
    ("archive", Ok(&["file"])),
    ("release", Ok(&["file"])),
    ("recall", Ok(&["file"])),
    ("migrate", Ok(&["-r", "."])),
    // Without it, the fake engine waits for whoever cancels it.
    ("drain", Ok(&["--prove", "."])),
    ("cancel", Ok(&["."])),
    ("pin", Ok(&["file"])),
    ("unpin", Ok(&["file"])),
    ("plan", Ok(&["."])),
    ("explain", Ok(&["file"])),
    ("policy show", Ok(&["."])),
    ("policy check", Ok(&[])),
    ("policy reload", Ok(&["."])),
    ("top", Ok(&["--once", "."])),
    ("brake", Ok(&["."])),
    ("audit", Ok(&["."])),
    ("fsck", Ok(&["."])),
    ("conflicts", Ok(&["."])),
    ("gc", Ok(&["--dry-run", "."])),
    ("doctor", Ok(&[])),
    ("s3 serve", Ok(&["../served", "--listen", "127.0.0.1:0"])),
    ("completions", Err("a script for a shell")),
    ("policy-compile", Err("code for the daemon")),
];

/// The commands that do something, by what is typed for them.
fn commands_of(command: &clap::Command, above: &str, all: &mut Vec<(String, bool)>) {
    for below in command.get_subcommands() {
        let typed = format!("{above}{}", below.get_name());
        if below.has_subcommands() {
            commands_of(below, &format!("{typed} "), all);
        } else {
            all.push((typed, below.is_hide_set()));
        }
    }
}

/// All of them, and whether they are hidden.
fn commands() -> Vec<(String, bool)> {
    let mut all = Vec::new();
    commands_of(&coldfs::cli::command(), "", &mut all);
    all
}

#[test]
fn every_command_is_tried_for_json_or_says_why_it_has_none() {
    let all: Vec<String> = commands().into_iter().map(|(command, _)| command).collect();
    let tried: Vec<&str> = COMMANDS.iter().map(|(command, _)| *command).collect();
    assert_eq!(all, tried);
}

#[test]
fn json_is_one_object_a_line() {
    let daemon = Daemon::start();
    for dir in ["raw", "at"] {
        std::fs::create_dir(daemon.home.path().join(dir)).unwrap();
    }
    let store = daemon.home.path().join("store");
    let fleet = format!("store = 'disk:{}'\n[[tenants]]\ndata_dir = 'raw'\n", store.display());
    std::fs::write(daemon.home.path().join("fleet.toml"), fleet).unwrap();
    for (command, arguments) in COMMANDS {
        let Ok(arguments) = arguments else { continue };
        let words: Vec<&str> = command.split(' ').chain(arguments.iter().copied()).collect();
        let mut child = daemon.command(&[&words[..], &["--json"]].concat());
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let lines: Vec<String> = match *command {
            // It says how it is reached and then serves.
            "s3 serve" => {
                let line = lines.next().unwrap().unwrap();
                child.kill().unwrap();
                vec![line]
            }
            _ => lines.map(Result::unwrap).collect(),
        };
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        let is_problem = |line: &str| {
            let said: serde_json::Value = serde_json::from_str(line).unwrap();
            said["problem"]["what"].is_string() && said["problem"]["next_step"].is_string()
        };
        // Of the verbs that the fake engine refuses there is no answer but the problem.
        assert!(!lines.is_empty() || is_problem(&err), "{command}: {err}");
        for line in lines {
            let value: serde_json::Value = serde_json::from_str(&line)
                .unwrap_or_else(|error| panic!("{command}: {error}: {line}"));
            assert!(value.is_object() || *command == "top", "{command}: {line}");
        }
        // Asked of a place that nobody serves.
        let elsewhere = |word: &&str| [".", "file"].contains(word);
        if words.iter().any(elsewhere) {
            let mut words = words.clone();
            words.iter_mut().filter(|word| elsewhere(word)).for_each(|word| *word = "/");
            words.push("--json");
            let (code, out, err) = daemon.run(&words);
            assert_eq!((code, out.as_str()), (3, ""), "{words:?}: {err}");
            assert!(is_problem(&err), "{words:?}: {err}");
        }
    }
    let (_, out, _) = daemon.run(&["status", "--json"]);
    let status: Status = serde_json::from_str(&out).unwrap();
    assert_eq!(status.counters.recall_bytes_total, 5);
}

#[test]
fn exit_codes_say_whose_move_it_is() {
    let daemon = Daemon::start();
    for (arguments, code, words) in [
        (&["state", "file", "gone"][..], 1, "gone: no such file; check the name"),
        (&["recall", "file"], 1, "file: no space; make room"),
        (&["state"], 2, "Usage"),
        (&["policy", "reload", "."], 2, "rules: no"),
        (&["find", ".", "--larger", "1X"], 2, "not a size"),
        (&["mount", "gone", "."], 2, "mkdir -p gone"),
        (&["serve", "--config", "gone.toml"], 2, "gone.toml: No such file"),
        (&["tenant", "detach", "t2"], 3, "tenant t2: no daemon knows it"),
        (&["mount", "..", "../..", "-o", "zip"], 2, "unknown option"),
        (&["state", "/"], 3, "coldfs mount DATA_DIR MOUNTPOINT"),
        (&["archive", "file"], 4, "the store is full"),
        (&["gc", "."], 2, "deletes nothing from the store"),
    ] {
        let (ended, out, err) = daemon.run(arguments);
        assert_eq!(ended, code, "{arguments:?}: {out}{err}");
        assert!(err.contains(words), "{arguments:?}: {err}");
    }
}

#[test]
fn what_is_wrong_with_a_command_line_is_json_where_json_is_asked_for() {
    let daemon = Daemon::start();
    let (code, _, err) = daemon.run(&["find", "--json", ".", "--larger", "1X"]);
    assert_eq!(code, 2, "{err}");
    let said: serde_json::Value = serde_json::from_str(&err).unwrap();
    assert_eq!(said["problem"]["kind"], "usage", "{err}");
    assert!(said["problem"]["what"].as_str().unwrap().contains("1X"), "{err}");
}

#[test]
fn a_script_that_cannot_be_written_is_an_error() {
    let daemon = Daemon::start();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = daemon.command(&["completions", "bash"]).stdout(full).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("write output"), "{err}");
}

#[test]
fn what_could_not_be_read_is_named_and_is_no_success() {
    let daemon = Daemon::of_a_directory(true);
    for arguments in [
        &["status"][..],
        &["find", "."],
        &["du", "."],
        &["unpin", "-r", "."],
        &["fsck", "--repair", "."],
        &["gc", "--dry-run", "."],
    ] {
        let (code, out, err) = daemon.run(arguments);
        assert_eq!(code, 1, "{arguments:?}: {out}{err}");
        assert!(err.contains("closed: Permission denied; check its permissions"), "{err}");
        assert!(err.contains("1 more failed"), "{arguments:?}: {err}");
        let json = [arguments, &["--json"]].concat();
        let (code, out, _) = daemon.run(&json);
        assert_eq!(code, 1, "{json:?}: {out}");
        assert!(out.contains(r#""cause":"Permission denied""#), "{json:?}: {out}");
        assert!(out.contains(r#""failed_total":2"#), "{json:?}: {out}");
    }
}

#[test]
fn names_that_are_not_utf8_come_out_as_they_are() {
    let daemon = Daemon::start();
    let output = daemon.command(&["find", "-0", "."]).output().unwrap();
    let first = output.stdout.split(|byte| *byte == 0).next().unwrap();
    assert_eq!(first, [daemon.mountpoint.as_os_str().as_bytes(), b"/odd\xff name"].concat());
}

#[test]
fn what_people_read_holds_nothing_that_a_terminal_obeys() {
    let daemon = Daemon::start();
    let odd = "\x1b]0;t\x07\nroot# ok";
    std::fs::write(daemon.mountpoint.join(odd), "bytes").unwrap();
    let gone = format!("{odd} gone");
    for arguments in [
        &["find", "."][..],
        &["state", odd],
        &["state", "-l", odd],
        &["state", &gone],
        &["du", odd],
        &["recall", odd],
        &["fsck", odd],
        &["status", odd],
        &["tenant", "list"],
        &["tenant", "detach", "t1"],
        &["tenant", "attach", odd],
        &["serve", "--config", odd],
        &["du", "no\x1b[2J\nroot# ok/dir"],
        &["doctor", odd],
        &["mount", odd, "gone", "-o", "foreground"],
        &[odd],
        &["pin", "--x\x1b[2J"],
    ] {
        let mut command = daemon.command(arguments);
        let Output { stdout, stderr, .. } = command.env("RUST_LOG", "debug").output().unwrap();
        let text = String::from_utf8([stdout, stderr].concat()).expect("UTF-8");
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{arguments:?}: {text:?}");
        assert!(text.lines().all(|line| !line.starts_with("root#")), "{arguments:?}: {text}");
        assert!(
            !text.contains("\nall is well") && !text.contains("\nx\n"),
            "{arguments:?}: {text}"
        );
    }
    let (_, out, _) = daemon.run(&["find", "."]);
    assert!(out.contains("/odd\\xff name\n") && out.contains("/\\x1b[2J\\nx\n"), "{out}");
}

#[test]
fn a_daemon_that_takes_no_connections_holds_no_command() {
    let daemon = Daemon::start();
    // A process that hangs: its queue holds one connection, and nobody takes it.
    let socket = daemon.home.path().join("run/1.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    use nix::sys::socket::{Backlog, listen};
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let first = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    let (said, answer) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| said.send(daemon.run(&["status"])).unwrap());
        let answer = answer.recv_timeout(PATIENCE);
        // Lets a command go that does wait.
        drop((listener, first));
        std::fs::remove_file(&socket).unwrap();
        let (code, out, err) = answer.expect("the command waits for a daemon that hangs");
        assert!(code == 0 && out.contains("t1"), "the others answer: {out}{err}");
        assert!(err.contains("1.sock") && err.contains("takes no more connections"), "{err}");
    });
}

#[test]
fn a_client_that_is_interrupted_cancels_its_move() {
    let daemon = Daemon::start();
    let mut client =
        daemon.command(&["migrate", "--wait", "file"]).stdout(Stdio::null()).spawn().unwrap();
    wait_for(&daemon.engine.moving, "the move begins");
    client.kill().unwrap();
    client.wait().unwrap();
    wait_for(&daemon.engine.stopped, "the move is told that its client is gone");
}

#[test]
fn a_daemon_that_ends_in_the_middle_is_no_success() {
    let daemon = Daemon::start();
    let client = daemon
        .command(&["migrate", "--wait", "file"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(&daemon.engine.moving, "the move begins");
    daemon.stop.cancel();
    let output = client.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("the daemon at"), "{err}");
}

#[test]
fn completions_name_every_command_and_are_read_by_their_shells() {
    let daemon = Daemon::start();
    for (shell, check) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        let (code, script, err) = daemon.run(&["completions", shell]);
        assert_eq!(code, 0, "{shell}: {err}");
        let named = |word: &str| {
            script.split(|c: char| !c.is_alphanumeric() && c != '-').any(|other| other == word)
        };
        for (command, hidden) in commands() {
            for word in command.split(' ').filter(|_| !hidden) {
                assert!(named(word), "{shell}: {word} is not completed");
            }
        }
        let file = daemon.home.path().join(format!("completions.{shell}"));
        std::fs::write(&file, script).unwrap();
        match Command::new(shell).arg(check).arg(&file).output() {
            Ok(read) => {
                let said = String::from_utf8_lossy(&read.stderr);
                assert!(read.status.success() && said.is_empty(), "{shell}: {said}");
            }
            Err(error) => telling::skip(&format!("needs {shell}: {error}")),
        }
    }
}
