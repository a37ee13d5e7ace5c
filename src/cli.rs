//! The command line: a thin door. Each verb resolves its paths, finds the daemon that serves
//! them, asks over the control socket and prints the answer, for people or as JSON.
//!
//! A new verb is a file in `cli/`, a variant of [`Verb`] and a line of `Verb::run`.

mod completions;
mod doctor;
mod drain;
mod files;
mod fsck;
mod gc;
mod heat;
mod mount;
mod moves;
mod notes;
mod output;
mod paths;
mod pin;
mod policy;
mod s3;
mod serve;
mod status;
mod tenant;
mod tiering;
mod top;

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use serde::Serialize;

use crate::background::{BoundedLog, Ready};
use crate::control::wire::{Problem, ProblemKind};
use crate::printable::{EventLines, printable, printable_lines};
use output::Output;

const EXAMPLES: &str = "\
Examples:
  coldfs mount /srv/t1 /srv/t1           serve a directory in place
  coldfs migrate -r /srv/t1/2019         move what is in it to the store
  coldfs state /srv/t1/2019/scan.tif     where is this file?
  coldfs recall -r /srv/t1/2019          bring it back
  fusermount3 -u /srv/t1                 detach
  coldfs serve --config coldfs.toml      serve many directories in one process

Exit codes:
  0 done    1 some files failed, each named    2 usage or configuration
  3 nothing is mounted or running there        4 the store

Environment:
  COLDFS_RUNTIME_DIR    where daemons have their sockets and logs
  COLDFS_STATE_DIR      where daemons keep their catalogs
  RUST_LOG              what is logged, for example coldfs=debug
  AWS_*                 the standard AWS chain, for s3:// stores";

/// Transparent cold tiering: cold files move to S3 and come back when they are read.
#[derive(Debug, Parser)]
#[command(name = "coldfs", version, after_long_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    /// Print JSON: one object, or for lists one object a line; an error is one too, on standard error
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Mount(mount::MountArgs),
    Serve(serve::ServeArgs),
    Tenant(tenant::TenantArgs),
    Status(status::StatusArgs),
    State(files::StateArgs),
    Du(files::DuArgs),
    Find(files::FindArgs),
    Heat(heat::HeatArgs),
    /// Store a verified copy of files; local bytes stay
    Archive(moves::MoveArgs),
    /// Give up local bytes of files that have a verified copy
    Release(moves::MoveArgs),
    /// Bring files' bytes back
    Recall(moves::MoveArgs),
    /// Archive files, then release them
    Migrate(moves::MoveArgs),
    Drain(drain::DrainArgs),
    Cancel(moves::CancelArgs),
    /// Keep files' bytes here, whatever the policy says
    Pin(pin::PinArgs),
    /// Let files be released again
    Unpin(pin::PinArgs),
    Plan(tiering::PlanArgs),
    Explain(tiering::ExplainArgs),
    Policy(policy::PolicyArgs),
    Top(top::TopArgs),
    Brake(top::BrakeArgs),
    Audit(notes::AuditArgs),
    Fsck(fsck::FsckArgs),
    Conflicts(notes::ConflictsArgs),
    Gc(gc::GcArgs),
    Doctor(doctor::DoctorArgs),
    S3(s3::S3Args),
    Completions(completions::CompletionsArgs),
    PolicyCompile(policy::CompileArgs),
}

/// How a command that could be carried out ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// Some files failed; each was named.
    SomeFailed,
}

impl Outcome {
    fn failed_if(some: bool) -> Self {
        if some { Outcome::SomeFailed } else { Outcome::Done }
    }
}

impl Verb {
    fn run(self, output: &mut Output) -> Result<Outcome, Problem> {
        use crate::control::wire::Verb as Move;
        match self {
            Verb::Mount(args) => mount::run(args, output),
            Verb::Serve(args) => serve::run(&args, output),
            Verb::Tenant(args) => tenant::run(args, output),
            Verb::Status(args) => status::run(args, output),
            Verb::State(args) => files::state(args, output),
            Verb::Du(args) => files::du(args, output),
            Verb::Find(args) => files::find(args, output),
            Verb::Heat(args) => heat::run(args, output),
            Verb::Archive(args) => moves::run(Move::Archive, args, output),
            Verb::Release(args) => moves::run(Move::Release, args, output),
            Verb::Recall(args) => moves::run(Move::Recall, args, output),
            Verb::Migrate(args) => moves::run(Move::Migrate, args, output),
            Verb::Drain(args) => drain::run(&args, output),
            Verb::Cancel(args) => moves::cancel(args, output),
            Verb::Pin(args) => pin::run(true, args, output),
            Verb::Unpin(args) => pin::run(false, args, output),
            Verb::Plan(args) => tiering::plan(args, output),
            Verb::Explain(args) => tiering::explain(args, output),
            Verb::Policy(args) => policy::run(args, output),
            Verb::Top(args) => top::top(args, output),
            Verb::Brake(args) => top::brake(args, output),
            Verb::Audit(args) => notes::audit(&args, output),
            Verb::Conflicts(args) => notes::conflicts(&args, output),
            Verb::Fsck(args) => fsck::run(args, output),
            Verb::Gc(args) => gc::run(args, output),
            Verb::Doctor(args) => doctor::run(args, output),
            Verb::S3(args) => s3::run(args, output),
            Verb::Completions(args) => completions::run(&args, output),
            Verb::PolicyCompile(_) => policy::compile_stdin(),
        }
    }
}

/// The command line as clap has it, for whoever goes over all of it.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program; `arguments` begin with its name, as `mount(8)` may have chosen it.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match arguments.first() {
        Some(name) if mount::is_mount_helper(Path::new(name), arguments.get(1)) => {
            Cli { json: false, verb: Verb::Mount(mount::helper_args(arguments)) }
        }
        _ => parse(arguments),
    };
    let mut output = Output::new(cli.json);
    match cli.verb.run(&mut output) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::SomeFailed) => ExitCode::from(1),
        Err(problem) => {
            output.problem(&problem);
            ExitCode::from(exit_code(problem.kind))
        }
    }
}

/// Reads a command line; ends the program where it is wrong, or asks for help. A shell's pattern
/// may have put file names where options stand.
fn parse<T: Parser>(arguments: Vec<OsString>) -> T {
    T::try_parse_from(&arguments).unwrap_or_else(|error| {
        if !error.use_stderr() {
            error.exit();
        }
        // The message quotes the line, so the line is what is made printable.
        let shown = arguments.iter().map(|argument| printable(argument.as_bytes()));
        let error = T::try_parse_from(shown).err().unwrap_or(error);
        if arguments.iter().any(|argument| argument == "--json") {
            let what = error.render().to_string();
            let what = what.trim_start_matches("error: ").lines().next().unwrap_or_default();
            let next_step = "see `coldfs --help`, or `--help` of the command";
            Output::new(true).problem(&Problem::new(ProblemKind::Usage, what, next_step));
            std::process::exit(error.exit_code())
        }
        // Nobody is left to hear that standard error is closed.
        drop(write!(std::io::stderr(), "{}", printable_lines(&error.render().to_string())));
        std::process::exit(error.exit_code())
    })
}

fn exit_code(kind: ProblemKind) -> u8 {
    match kind {
        ProblemKind::Failed => 1,
        ProblemKind::Usage => 2,
        ProblemKind::NotMounted => 3,
        ProblemKind::Store => 4,
    }
}

/// Runs a verb's conversation. One thread: the work is the daemon's.
fn converse<T>(talk: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    log_to_stderr("warn");
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            Problem::new(ProblemKind::Failed, format!("start: {error}"), "check the limits")
        })?
        .block_on(talk)
}

/// Makes this process a daemon's: it logs to `log`, which means that a command waits for it at
/// standard output, or to standard error.
fn enter_daemon(log: Option<PathBuf>) -> Result<Ready, Problem> {
    let ready = match log {
        Some(log) => {
            tracing_subscriber::fmt()
                .with_env_filter(log_filter("info"))
                .with_ansi(false)
                .with_writer(BoundedLog::new(log))
                .init();
            Ready::parent()
        }
        None => {
            log_to_stderr("info");
            Ready::foreground()
        }
    };
    // A daemon keeps no directory busy.
    std::env::set_current_dir("/").map_err(|error| {
        Problem::new(ProblemKind::Failed, format!("enter /: {error}"), "check its permissions")
    })?;
    Ok(ready)
}

/// How a daemon's process ended; a command that waits for it at standard output is told.
fn end_daemon(ready_on_stdout: bool, result: Result<Outcome, Problem>) -> Result<Outcome, Problem> {
    if let (true, Err(problem)) = (ready_on_stdout, &result) {
        tracing::error!("{problem}");
        Ready::failed_of_child(problem);
    }
    result
}

/// Says what was begun: all of it as JSON, else what is to be known of it.
fn say_begun(begun: &impl Serialize, notes: &[String], output: &mut Output) -> Result<(), Problem> {
    if output.is_json() {
        return output.answer(begun, |_| String::new()).map_err(output::unwritten);
    }
    notes.iter().for_each(|note| output.note(note));
    Ok(())
}

fn log_to_stderr(default: &str) {
    tracing_subscriber::fmt()
        .with_env_filter(log_filter(default))
        .with_ansi(false)
        .with_writer(|| EventLines(std::io::stderr()))
        .init();
}

/// fuser warns of each request that a filesystem answers ENOSYS to, as ioctls of `lsattr` or borg
/// are: a line a file.
fn log_filter(default: &str) -> tracing_subscriber::EnvFilter {
    tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_unset| {
        tracing_subscriber::EnvFilter::new(format!("{default},fuser=error"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_teaches_with_examples() {
        let mut command = Cli::command();
        command.build();
        for verb in command.get_subcommands_mut().filter(|verb| verb.get_name() != "help") {
            let help = verb.render_long_help().to_string();
            assert!(help.contains("Examples:"), "{}: {help}", verb.get_name());
        }
    }
}
