//! The configuration of a daemon of many tenants: put in force at the start, and again at each
//! SIGHUP. What is mounted is never unmounted for a change of its settings; it is said to need that.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::future::join_all;

use super::apart::apart;
use super::fleet::Fleet;
use super::machine::Common;
use super::slot::Source;
use super::{DETACHED_AT_ONCE, failed, tiering};
use crate::config::file::ConfigFile;
use crate::config::tenants::{self, Asked, Refused};
use crate::config::{state, usage};
use crate::control::wire::{Problem, TenantState};
use crate::policy;

/// What a configuration asks for once, for all tenants.
pub(super) fn common(file: &ConfigFile) -> Result<Common, Problem> {
    let wrong = |cause| usage(cause, "docs/serve.md lists every key");
    Ok(Common {
        heat: file.heat().map_err(wrong)?.0,
        classes: file.rules().map_err(wrong)?.classes,
        chunk_cache_bytes: file.tuning().chunk_cache_bytes,
        detached_at_once: DETACHED_AT_ONCE,
    })
}

/// What is in force.
struct InForce {
    file: Arc<ConfigFile>,
    /// Whether its policy is another than the one that judges, because it would not do.
    is_policy_refused: bool,
}

/// A daemon's configuration.
pub(super) struct Configured {
    fleet: Arc<Fleet>,
    path: PathBuf,
    in_force: tokio::sync::Mutex<InForce>,
}

impl Configured {
    /// Begins to attach all tenants; a policy that would not do is a mistake before that.
    pub(super) async fn begin(
        fleet: &Arc<Fleet>,
        path: PathBuf,
        file: ConfigFile,
    ) -> Result<Self, Problem> {
        let (asking, read) = (path.clone(), file.clone());
        let asked = apart("places", move || tenants::asked(&asking, &read, &[])).await;
        let (asked, refused) = asked.map_err(|error| failed("look at the places", &error))??;
        let policy = policy_of(&file);
        if policy.component.is_some() || !policy.settings.is_empty() {
            let loaded = fleet.machine.judge.load(policy).await;
            loaded.map_err(|error| tiering::problem(&error))?;
        }
        let file = Arc::new(file);
        fleet.refuse(refused);
        for asked in asked {
            let name = asked.name.clone();
            fleet.add(&name, Source::File(Box::new(asked), Arc::clone(&file)));
        }
        let in_force = InForce { file, is_policy_refused: false };
        Ok(Self { fleet: Arc::clone(fleet), path, in_force: tokio::sync::Mutex::new(in_force) })
    }

    /// What whoever started the daemon should know, a sentence each.
    pub(super) fn notes(&self) -> Vec<String> {
        let entries = self.fleet.entries();
        let is_up = |state| matches!(state, TenantState::Mounted | TenantState::Detaching);
        let mounted = entries.iter().filter(|entry| is_up(entry.state)).count();
        let mut notes = vec![format!("{mounted} of {} tenants are mounted", entries.len())];
        for entry in entries.iter().filter(|entry| !is_up(entry.state)) {
            let cause = entry.cause.clone().unwrap_or_else(|| entry.state.word().to_owned());
            let next_step = entry.next_step.clone().unwrap_or_default();
            notes.push(format!("left out: {}: {cause}; {next_step}", entry.name));
        }
        notes
    }

    /// Reads the file again. One that cannot be read changes nothing.
    pub(super) async fn reload(&self) {
        match self.read().await {
            Ok((file, asked, refused)) => self.apply(file, asked, refused).await,
            Err(problem) => tracing::error!("nothing is changed: {problem}"),
        }
    }

    async fn read(&self) -> Result<(ConfigFile, Vec<Asked>, Vec<Refused>), Problem> {
        let path = self.path.clone();
        let known = self.fleet.sources().into_iter().filter_map(|(_, source)| source.asked());
        let known: Vec<_> = known.collect();
        let read = apart("places", move || {
            let file = tenants::read(&path)?;
            let (asked, refused) = tenants::asked(&path, &file, &known)?;
            if asked.is_empty() && refused.is_empty() && !known.is_empty() {
                let what = format!("{}: no tenant is left in it", path.display());
                return Err(usage(what, "name one, or end the daemon by SIGTERM"));
            }
            Ok((file, asked, refused))
        });
        read.await.map_err(|error| failed("read the configuration", &error))?
    }

    async fn apply(&self, file: ConfigFile, asked: Vec<Asked>, refused: Vec<Refused>) {
        let mut in_force = self.in_force.lock().await;
        let by_hand = self.fleet.machine.judged_by_hand.swap(false, Ordering::Relaxed);
        let is_other_policy =
            file.has_other_policy(&in_force.file) || in_force.is_policy_refused || by_hand;
        if is_other_policy {
            let loaded = self.fleet.machine.judge.load(policy_of(&file)).await;
            if let Err(error) = &loaded {
                tracing::error!(%error, "the policy before stays in force");
            }
            in_force.is_policy_refused = loaded.is_err();
        }
        let is_same_to_all = file.is_same_to_all(&in_force.file);
        if !is_same_to_all {
            tracing::warn!(
                "what the file says to all tenants changed: each takes it when it is attached \
                 again; [heat], [[class]] and [cache] take a restart"
            );
        }
        in_force.file = Arc::new(file);
        // One that stands in another's way now stays as it is mounted.
        let named = asked.iter().chain(refused.iter().map(|refused| &refused.asked));
        let wanted: HashSet<String> = named.map(|asked| asked.name.clone()).collect();
        let known = self.fleet.sources();
        // First: a new one may have their places.
        let gone = known.iter().filter(|(name, _)| !wanted.contains(name));
        let removed = join_all(gone.map(|(name, _)| self.remove(name))).await.len();
        self.fleet.refuse(refused);
        let (mut new, mut changed) = (0, 0);
        for asked in asked {
            let name = asked.name.clone();
            let before = known.iter().find(|(known, _)| *known == name).map(|(_, before)| before);
            let source = Source::File(Box::new(asked.clone()), Arc::clone(&in_force.file));
            let Some(Source::File(before, _)) = before else {
                self.fleet.add(&name, source);
                new += 1;
                continue;
            };
            let is_other = !is_same_to_all || !before.is_mounted_alike(&asked);
            if is_other {
                tracing::warn!(tenant = name, "changed: it takes a detach and an attach");
            }
            changed += usize::from(*before.as_ref() != asked);
            self.fleet.ask_otherwise(&name, source, is_other);
        }
        self.fleet.judge_all_as_asked(is_other_policy);
        if is_other_policy {
            self.fleet.served().iter().for_each(|served| served.tiering.judge_soon());
        }
        tracing::info!(new, removed, changed, "the configuration was read again");
    }

    async fn remove(&self, name: &str) {
        if let Err(problem) = self.fleet.remove(name).await {
            tracing::error!(tenant = name, "{problem}");
        }
    }
}

/// The policy that judges all.
fn policy_of(file: &ConfigFile) -> policy::Options {
    // Outside of what is served, as the catalog is.
    file.policy(file.catalog_dir().or_else(state::catalog_dir).map(|dir| dir.join("policy")))
}
