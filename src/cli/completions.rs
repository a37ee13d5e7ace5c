//! `coldfs completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Outcome};

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

pub fn run(args: CompletionsArgs) -> Outcome {
    clap_complete::generate(args.shell, &mut Cli::command(), "coldfs", &mut std::io::stdout());
    Outcome::Done
}
