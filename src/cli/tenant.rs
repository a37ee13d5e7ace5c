//! `coldfs tenant`: the tenants of a `coldfs serve`.

use clap::{Args, Subcommand};

use super::output::{Output, columns, unwritten};
use super::{Outcome, converse, paths};
use crate::control::client::Client;
use crate::control::wire::{
    Problem, ProblemKind, TenantEntry, TenantRequest, TenantState, TenantVerb,
};
use crate::printable::printable;

const EXAMPLES: &str = "\
Examples:
  coldfs tenant list             all tenants of all daemons, and why some are not mounted
  coldfs tenant detach mail      take its mount away; the others go on, and so does the daemon
  coldfs tenant attach mail      mount it again, by what the configuration says now
  coldfs tenant list --json | jq -r 'select(.state == \"failed\") | .name'

States: attaching, mounted, detaching, detached (by a person: it stays so when the configuration is
read again), failed (it is tried again then), refused (another tenant has its name or places).
A detach waits for files that are open no longer than some seconds: they then fail with ENOTCONN.
New tenants are written into the configuration, and attached by `kill -HUP PID`.";

/// List, attach and detach the tenants of a running serve
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct TenantArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// All tenants, mounted or not
    List,
    /// Mount a tenant that is not mounted
    Attach {
        /// Its name, as `tenant list` has it
        name: String,
    },
    /// Take a tenant's mount away
    Detach {
        /// Its name, as `tenant list` has it
        name: String,
    },
}

pub fn run(args: TenantArgs, output: &mut Output) -> Result<Outcome, Problem> {
    let (name, verb) = match args.verb {
        Verb::List => return list(output),
        Verb::Attach { name } => (name, TenantVerb::Attach),
        Verb::Detach { name } => (name, TenantVerb::Detach),
    };
    let entry: TenantEntry = converse(async {
        let client = daemon_of(&name).await?;
        client.post("/v1/tenant", &TenantRequest { name, verb }).await
    })?;
    let people = |entry: &TenantEntry| {
        printable(format!("{}: {} at {}", entry.name, entry.state.word(), entry.mountpoint))
    };
    output.answer(&entry, people).map_err(unwritten)?;
    Ok(Outcome::Done)
}

/// Every tenant, and who has it.
async fn all() -> Result<Vec<(Client, Vec<TenantEntry>)>, Problem> {
    let mut all = Vec::new();
    for daemon in paths::all_daemons().await? {
        match daemon.client.get("/v1/tenants").await {
            Ok(entries) => all.push((daemon.client, entries)),
            // It ended meanwhile, or is of an older version: the others' are still worth a list.
            Err(problem) => tracing::warn!("a daemon does not say whom it serves: {problem}"),
        }
    }
    Ok(all)
}

async fn daemon_of(name: &str) -> Result<Client, Problem> {
    let has_it = |entries: &[TenantEntry]| entries.iter().any(|entry| entry.name == *name);
    let mut having: Vec<_> =
        all().await?.into_iter().filter(|(_, entries)| has_it(entries)).collect();
    // Of several daemons that know it, the one that has it mounted.
    let is_up = |entry: &TenantEntry| entry.name == *name && entry.state == TenantState::Mounted;
    having.sort_by_key(|(_, entries)| !entries.iter().any(is_up));
    having.into_iter().next().map(|(client, _)| client).ok_or_else(|| {
        Problem::new(
            ProblemKind::NotMounted,
            format!("tenant {name}: no daemon knows it"),
            "see `coldfs tenant list`; a new one is written into the configuration of `coldfs \
             serve`, which reads it at SIGHUP",
        )
    })
}

fn list(output: &mut Output) -> Result<Outcome, Problem> {
    let entries: Vec<TenantEntry> =
        converse(all())?.into_iter().flat_map(|(_, entries)| entries).collect();
    if !output.is_json() {
        output.line(&people(&entries)).map_err(unwritten)?;
        return Ok(Outcome::Done);
    }
    for entry in &entries {
        output.answer(entry, |_| String::new()).map_err(unwritten)?;
    }
    Ok(Outcome::Done)
}

fn people(entries: &[TenantEntry]) -> String {
    if entries.is_empty() {
        return "nobody is served".to_owned();
    }
    let mut rows = vec![["tenant", "state", "mountpoint", "by"].map(str::to_owned).to_vec()];
    rows.extend(entries.iter().map(|entry| {
        let by = entry.config.as_ref().map_or_else(|| "mount".to_owned(), ToString::to_string);
        let state = entry.state.word().to_owned();
        vec![printable(&entry.name), state, entry.mountpoint.to_string(), by]
    }));
    let why = entries.iter().filter_map(|entry| {
        let cause = entry.cause.as_ref()?;
        let next_step = entry.next_step.as_deref().unwrap_or_default();
        Some(printable(format!("{}: {cause}\n  {next_step}", entry.name)))
    });
    let detached = entries.iter().filter(|entry| entry.state == TenantState::Detached);
    let detached = detached
        .filter_map(|entry| entry.next_step.as_ref())
        .map(|next| printable(format!("detached: {next}")));
    [columns(&rows)].into_iter().chain(why).chain(detached).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_says_who_is_mounted_and_why_others_are_not() {
        let entry = |name: &str, state, cause: Option<&str>| TenantEntry {
            name: name.to_owned(),
            state,
            since: 1,
            data_dir: "/srv/t".into(),
            mountpoint: "/mnt/t".into(),
            config: Some("/etc/coldfs.toml".into()),
            cause: cause.map(str::to_owned),
            next_step: Some(format!("mkdir {name}")),
            changed: false,
        };
        let entries = [
            entry("one", TenantState::Mounted, None),
            entry("two", TenantState::Failed, Some("line 7: no such directory\x1b[2J")),
            entry("three", TenantState::Detached, None),
        ];
        let said = people(&entries);
        for word in ["one", "mounted", "/etc/coldfs.toml", "line 7", "mkdir two", "mkdir three"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(!said.contains("mkdir one") && !said.contains('\x1b'), "{said}");
        assert_eq!(people(&[]), "nobody is served");
    }
}
