//! `coldfs policy`: which policy judges, and whether another would do. And the hidden verb by which
//! this program compiles one for itself.

use std::io::{Read, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use nix::sys::resource::{Resource, setrlimit};

use super::output::{Output, unwritten};
use super::{Outcome, converse, paths};
use crate::config::file::ConfigFile;
use crate::config::usage;
use crate::control::wire::{PolicyReport, PolicyRequest, Problem, ProblemKind};
use crate::policy::code::{COMPONENT_BYTES, Compiler, compile};
use crate::policy::{Judge, Options};
use crate::printable::printable;
use crate::units::shown_age;

/// CPU time and address space of a compilation: a component that needs more is no policy.
const COMPILE_SECONDS: u64 = 300;
const COMPILE_BYTES: u64 = 8 << 30;

const EXAMPLES: &str = "\
Examples:
  coldfs policy show /srv/t1                  the policy in force, its settings and rules
  coldfs policy check --config coldfs.toml    would this configuration's policy do?
  coldfs policy check --component mine.wasm
  coldfs policy reload /srv/t1                read configuration and component anew

A reload takes what [policy] says now; files that are being moved are not disturbed. If the new
policy does not load, or refuses its settings, the old one stays in force. docs/policy.md teaches
how to write rules, and policies.";

/// Show, check or reload the policy
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct PolicyArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The policy in force
    Show {
        /// A mountpoint, or any path on it
        mountpoint: PathBuf,
    },
    /// Try a policy and its settings out, here, without a mount
    Check {
        /// The configuration file whose [policy] is meant
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// A component, instead of the one that the configuration names
        #[arg(long, value_name = "FILE")]
        component: Option<PathBuf>,
    },
    /// Read the configuration's [policy] and the component anew
    Reload {
        /// A mountpoint, or any path on it
        mountpoint: PathBuf,
    },
}

pub fn run(args: PolicyArgs, output: &mut Output) -> Result<Outcome, Problem> {
    let report = match args.verb {
        Verb::Show { mountpoint } => ask(mountpoint, false)?,
        Verb::Reload { mountpoint } => ask(mountpoint, true)?,
        Verb::Check { config, component } => check(config, component)?,
    };
    output.answer(&report, people).map_err(unwritten)?;
    Ok(Outcome::Done)
}

fn ask(mountpoint: PathBuf, reload: bool) -> Result<PolicyReport, Problem> {
    converse(async {
        let (client, path) = paths::served(&mountpoint).await?;
        client.post("/v1/policy", &PolicyRequest { reload, path: Some(path) }).await
    })
}

fn check(config: Option<PathBuf>, component: Option<PathBuf>) -> Result<PolicyReport, Problem> {
    let file = config.map_or_else(|| Ok(ConfigFile::default()), |path| ConfigFile::read(&path))?;
    let configured = file.policy(None);
    let component = component.or(configured.component);
    let options = Options { component, compiler: Compiler::Here, ..configured };
    let loaded = converse(async { Ok(Judge::new().load(options).await) })?;
    let next_step = "docs/policy.md says what a policy has to be, and lists the default's settings";
    let loaded = loaded.map_err(|error| usage(error.to_string(), next_step))?;
    Ok(PolicyReport::of(&loaded))
}

fn people(report: &PolicyReport) -> String {
    let from = report.component.as_ref().map_or("part of coldfs".to_owned(), ToString::to_string);
    let mut lines = vec![
        format!("{} {} ({from})", printable(&report.name), printable(&report.version)),
        format!(
            "  archives   nothing that was changed within {}",
            least(report.archive_after_seconds)
        ),
        format!(
            "  releases   nothing that was used within {}",
            least(report.release_after_seconds)
        ),
    ];
    if report.faults > 0 {
        let out = if report.left_out { "; it is not asked any more: reload it" } else { "" };
        lines.push(format!("  failed     {} times since the mount{out}", report.faults));
    }
    lines.push("  settings".to_owned());
    lines.extend(report.settings.iter().map(|setting| {
        let mark = if setting.value == setting.default { " " } else { "*" };
        printable(format!("  {mark} {} = {}  {}", setting.key, setting.value, setting.doc))
    }));
    lines.push("  rules, and what else may speak".to_owned());
    lines.extend(report.rules.iter().map(|rule| format!("    {}", printable(rule))));
    lines.join("\n")
}

fn least(seconds: u32) -> String {
    if seconds == u32::MAX { "all times".to_owned() } else { shown_age(seconds.into()) }
}

const COMPILE_EXAMPLES: &str = "\
Examples:
  coldfs policy-compile < policy.wasm > code

For the daemon, which has a process of its own compile a policy that is not compiled yet.";

/// Compile a policy from standard input to standard output
#[derive(Debug, Args)]
#[command(after_long_help = COMPILE_EXAMPLES, hide = true)]
pub struct CompileArgs {}

pub fn compile_stdin() -> Result<Outcome, Problem> {
    let failed = |error: &dyn std::fmt::Display| {
        Problem::new(ProblemKind::Failed, error.to_string(), "docs/policy.md says what a policy is")
    };
    // Whoever waits is not kept waiting by a component that is made for that.
    for (what, most) in
        [(Resource::RLIMIT_CPU, COMPILE_SECONDS), (Resource::RLIMIT_AS, COMPILE_BYTES)]
    {
        setrlimit(what, most, most).map_err(|error| failed(&error))?;
    }
    let mut component = Vec::new();
    std::io::stdin()
        .take(COMPONENT_BYTES)
        .read_to_end(&mut component)
        .map_err(|error| failed(&error))?;
    let code = compile(&component).map_err(|error| failed(&error))?;
    std::io::stdout().write_all(&code).map_err(|error| failed(&error))?;
    Ok(Outcome::Done)
}
