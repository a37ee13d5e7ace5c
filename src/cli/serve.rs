//! `coldfs serve`: many tenants in one daemon.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::output::Output;
use super::{Outcome, end_daemon, enter_daemon, say_begun};
use crate::background;
use crate::config::resolve::wrong;
use crate::config::tenants;
use crate::control::runtime::RuntimeDir;
use crate::control::wire::{Problem, WirePath};
use crate::daemon;

const EXAMPLES: &str = "\
Examples:
  coldfs serve --config /etc/coldfs.toml           returns once all tenants were tried
  coldfs serve --config fleet.toml --check         is the file right? Mounts nothing
  coldfs serve --config fleet.toml --foreground    for systemd: docs/serve.md has a unit
  coldfs tenant list                               which are mounted, which not, and why
  kill -HUP PID                                    read the file again
  kill PID                                         detach all, and end

The file says to all tenants what `coldfs mount --config` takes (`coldfs mount --help`), and then:
  [[tenants]]                       one each
  data_dir = \"/srv/t1\"              the directory to serve; all other keys may be left out
  mountpoint = \"/mnt/t1\"            over itself without it
  name = \"t1\"                       the last component of data_dir
  store = \"s3://bucket/prefix\"      the file's own; tenants may share one
  options = \"allow_other,nosuid\"    as -o of mount
  recall.deadline = \"5m\"            any key of [recall] and [tiering], for this tenant alone
  tiering.quota = \"100GiB\"
  policy.settings.cold-after = \"7d\" settings of the policy, for this tenant alone

A tenant that cannot be mounted is named and left out; the others are served. A file with an unknown
key, or that is no TOML, is refused as a whole, with its line. The log is serve-STEM.log in the
runtime directory (COLDFS_RUNTIME_DIR, /run/coldfs for root), after the file's name.";

/// Serve many directories in one process
#[derive(Debug, Clone, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct ServeArgs {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Stay in the foreground and log to standard error
    #[arg(short, long)]
    foreground: bool,

    /// Standard output is a pipe to the command that waits
    #[arg(long, hide = true, requires = "foreground")]
    ready_on_stdout: bool,

    /// Check the file and mount nothing
    #[arg(long)]
    check: bool,
}

/// What was begun.
#[derive(Serialize)]
struct Serving {
    config: WirePath,
    notes: Vec<String>,
}

pub fn run(args: &ServeArgs, output: &mut Output) -> Result<Outcome, Problem> {
    let config = std::path::absolute(&args.config)
        .map_err(|error| wrong("--config", format!("{}: {error}", args.config.display())))?;
    if args.check {
        return check(config, output);
    }
    let result = if args.foreground { serve(args, config) } else { begin(config, output) };
    end_daemon(args.ready_on_stdout, result)
}

/// Says what is wrong with a file, without a look at the store.
fn check(config: PathBuf, output: &mut Output) -> Result<Outcome, Problem> {
    let file = tenants::read(&config)?;
    let (asked, refused) = tenants::asked(&config, &file, &[])?;
    let mut notes: Vec<String> = refused.iter().map(|one| one.why.to_string()).collect();
    notes
        .extend(asked.iter().filter_map(|one| one.resolve(&file).err()).map(|why| why.to_string()));
    let all_well = notes.is_empty();
    told(config, notes, output)?;
    Ok(Outcome::failed_if(!all_well))
}

fn begin(config: PathBuf, output: &mut Output) -> Result<Outcome, Problem> {
    tenants::read(&config)?;
    let mut argument = OsString::from("--config=");
    argument.push(&config);
    let arguments = ["serve", "--foreground", "--ready-on-stdout"].map(OsString::from);
    let arguments: Vec<OsString> = arguments.into_iter().chain([argument]).collect();
    let notes = background::start(&arguments, &log_path(&config)?)?;
    told(config, notes, output)?;
    Ok(Outcome::Done)
}

fn serve(args: &ServeArgs, config: PathBuf) -> Result<Outcome, Problem> {
    let file = tenants::read(&config)?;
    let log = args.ready_on_stdout.then(|| log_path(&config)).transpose()?;
    let ready = enter_daemon(log)?;
    daemon::serve(config, file, ready)?;
    Ok(Outcome::Done)
}

fn log_path(config: &std::path::Path) -> Result<PathBuf, Problem> {
    let stem = config.file_stem().unwrap_or_default().to_string_lossy();
    Ok(RuntimeDir::from_env()?.log_path(&format!("serve-{stem}")))
}

fn told(config: PathBuf, notes: Vec<String>, output: &mut Output) -> Result<(), Problem> {
    let serving = Serving { config: config.into(), notes };
    say_begun(&serving, &serving.notes, output)
}
