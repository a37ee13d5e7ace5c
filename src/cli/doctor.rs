//! `coldfs doctor`.

use std::path::PathBuf;

use clap::Args;

use super::output::{Output, unwritten};
use super::{Outcome, converse};
use crate::config::file::ConfigFile;
use crate::config::{S3Options, StoreUrl};
use crate::control::wire::{Problem, ProblemKind};
use crate::daemon;
use crate::doctor::{self, Check, Grade};
use crate::printable::printable;

const EXAMPLES: &str = "\
Examples:
  coldfs doctor                what this machine has and lacks
  coldfs doctor /srv/t1        and whether this directory can be served
  coldfs doctor --store s3://bucket/prefix
      and what this store can be relied on for, a line a property; nothing stays there

warn: it works, less well. fail: it does not work; the exit code is then 1.";

/// Check this machine, a directory and a store
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct DoctorArgs {
    /// A directory that is to be served
    data_dir: Option<PathBuf>,

    /// A store that is to be used: disk:DIR or s3://bucket/prefix
    #[arg(long, value_name = "URL")]
    store: Option<String>,

    /// The configuration file whose table [s3] says how the store is reached
    #[arg(long, value_name = "FILE", requires = "store")]
    config: Option<PathBuf>,
}

pub fn run(args: DoctorArgs, output: &mut Output) -> Result<Outcome, Problem> {
    let mut checks = doctor::machine();
    if let Some(dir) = &args.data_dir {
        checks.push(doctor::data_dir(dir));
    }
    if let Some(text) = &args.store {
        let url: StoreUrl = text.parse().map_err(|cause: String| {
            let what = format!("--store: {cause}");
            Problem::new(ProblemKind::Usage, what, "see `coldfs doctor --help`")
        })?;
        let s3 = match &args.config {
            Some(path) => ConfigFile::read(path)?.s3,
            None => S3Options::default(),
        };
        checks.extend(converse(async {
            let store = daemon::open_store(&url, &s3).await?;
            Ok(doctor::store(&store).await)
        })?);
        if let StoreUrl::Disk(dir) = &url {
            checks.push(doctor::store_access(dir));
            if let Some(data_dir) = &args.data_dir {
                checks.push(doctor::store_apart(dir, data_dir));
            }
        }
    }
    for check in &checks {
        output.answer(check, people).map_err(unwritten)?;
    }
    Ok(Outcome::failed_if(checks.iter().any(|check| check.grade == Grade::Fail)))
}

fn people(check: &Check) -> String {
    let grade = match check.grade {
        Grade::Ok => "ok",
        Grade::Warn => "warn",
        Grade::Fail => "FAIL",
    };
    let mut text = format!("{grade:<4}  {:<17} {}", check.name, printable(&check.what));
    if !check.next_step.is_empty() {
        text += &format!("\n      {:<17} -> {}", "", printable(&check.next_step));
    }
    text
}
