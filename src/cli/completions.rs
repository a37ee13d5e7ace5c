//! `coldfs completions`.

use clap::Args;
use clap_complete::Shell;

use super::output::{Output, unwritten};
use super::{Outcome, command};
use crate::control::wire::Problem;

const EXAMPLES: &str = "\
Examples:
  coldfs completions bash > /etc/bash_completion.d/coldfs
  coldfs completions zsh > ~/.zfunc/_coldfs
  coldfs completions fish > ~/.config/fish/completions/coldfs.fish";

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

pub fn run(args: &CompletionsArgs, output: &mut Output) -> Result<Outcome, Problem> {
    // In memory first: the generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "coldfs", &mut script);
    output.bytes(&script).map_err(unwritten)?;
    Ok(Outcome::Done)
}
