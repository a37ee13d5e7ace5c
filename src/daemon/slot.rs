//! One tenant's place in a daemon: what was asked for, and what it is at.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;

use super::apart::apart;
use super::failed;
use super::served::Served;
use crate::config::MountOptions;
use crate::config::file::ConfigFile;
use crate::config::tenants::Asked;
use crate::control::wire::{Problem, TenantEntry, TenantState};
use crate::policy::settings::Settings;

/// Where what is to be mounted is said.
#[derive(Clone)]
pub(super) enum Source {
    /// On a command line.
    Line(Box<MountOptions>),
    /// In a configuration.
    File(Box<Asked>, Arc<ConfigFile>),
}

impl Source {
    /// What is to be mounted, its places looked at.
    pub(super) async fn resolve(self) -> Result<MountOptions, Problem> {
        let (asked, file) = match self {
            Source::Line(options) => return Ok(*options),
            Source::File(asked, file) => (asked, file),
        };
        let resolved = apart("resolve", move || asked.resolve(&file)).await;
        resolved.map_err(|error| failed("look at its places", &error))?
    }

    /// What it has instead of the policy's settings, where that can change under its mount.
    pub(super) fn overrides(&self) -> Option<&Settings> {
        match self {
            Source::Line(_) => None,
            Source::File(asked, _) => Some(asked.overrides()),
        }
    }

    /// The tenant of a configuration.
    pub(super) fn asked(self) -> Option<Asked> {
        match self {
            Source::Line(_) => None,
            Source::File(asked, _) => Some(*asked),
        }
    }

    fn places(&self) -> (&Path, &Path) {
        match self {
            Source::Line(options) => (&options.data_dir, &options.mountpoint),
            Source::File(asked, _) => (&asked.data_dir, &asked.mountpoint),
        }
    }

    fn config(&self) -> Option<&Path> {
        match self {
            Source::Line(_) => None,
            Source::File(asked, _) => Some(&asked.config),
        }
    }
}

/// What a tenant is at.
pub(super) enum Phase {
    /// With its parts once they are there: a mount answers a moment before it is said to.
    Attaching(Option<Arc<Served>>),
    Mounted(Arc<Served>),
    /// With its parts until nobody needs them.
    Detaching(Option<Arc<Served>>),
    /// It is to go, and does not; cancelled when that is tried again.
    Stuck(Arc<Served>, Problem, CancellationToken),
    Detached,
    Failed(Problem),
}

impl Phase {
    /// Whether it stays so until somebody asks for something.
    pub(super) fn is_settled(&self) -> bool {
        match self {
            Phase::Mounted(_) | Phase::Stuck(..) | Phase::Detached | Phase::Failed(_) => true,
            Phase::Attaching(_) | Phase::Detaching(_) => false,
        }
    }

    /// Whether nothing of it is mounted.
    pub(super) fn is_down(&self) -> bool {
        match self {
            Phase::Detached | Phase::Failed(_) => true,
            Phase::Attaching(_) | Phase::Mounted(_) | Phase::Detaching(_) | Phase::Stuck(..) => {
                false
            }
        }
    }

    /// Whether it is as far out as it goes by itself.
    pub(super) fn is_at_its_end(&self) -> bool {
        self.is_down() || matches!(self, Phase::Stuck(..))
    }

    fn state(&self) -> TenantState {
        match self {
            Phase::Attaching(_) => TenantState::Attaching,
            Phase::Mounted(_) => TenantState::Mounted,
            Phase::Detaching(_) | Phase::Stuck(..) => TenantState::Detaching,
            Phase::Detached => TenantState::Detached,
            Phase::Failed(_) => TenantState::Failed,
        }
    }
}

/// A tenant's place.
pub(super) struct Slot {
    pub(super) source: Source,
    pub(super) phase: Phase,
    /// Whether the configuration has it no more: it is not attached again.
    pub(super) is_leaving: bool,
    /// Cancelled when its mount is to go.
    pub(super) let_go: CancellationToken,
    /// Whether it was attached by something else than what `source` says.
    pub(super) is_changed: bool,
    /// Why the policy does not judge it by its settings.
    pub(super) objection: Option<String>,
    since: SystemTime,
}

impl Slot {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            phase: Phase::Detached,
            is_leaving: false,
            let_go: CancellationToken::new(),
            is_changed: false,
            objection: None,
            since: SystemTime::now(),
        }
    }

    /// Changes what it is at; what it was.
    pub(super) fn enter(&mut self, phase: Phase) -> Phase {
        if phase.state() != self.phase.state() {
            self.since = SystemTime::now();
        }
        std::mem::replace(&mut self.phase, phase)
    }

    /// Its mount is to go; one that did not is tried again.
    pub(super) fn ask_to_go(&mut self) {
        self.let_go.cancel();
        if let Phase::Stuck(served, _, again) = &self.phase {
            again.cancel();
            let served = Arc::clone(served);
            self.enter(Phase::Detaching(Some(served)));
        }
    }

    /// The tenant, while its mount may answer.
    pub(super) fn served(&self) -> Option<&Arc<Served>> {
        match &self.phase {
            Phase::Mounted(served) | Phase::Stuck(served, ..) => Some(served),
            Phase::Attaching(served) | Phase::Detaching(served) => served.as_ref(),
            Phase::Detached | Phase::Failed(_) => None,
        }
    }

    /// What a person is told of it.
    pub(super) fn entry(&self, name: &str) -> TenantEntry {
        // Where it is, not where it is to be.
        let (data_dir, mountpoint) = match self.served() {
            Some(served) => {
                (served.options.data_dir.as_path(), served.options.mountpoint.as_path())
            }
            None => self.source.places(),
        };
        let (cause, next_step) = match &self.phase {
            Phase::Failed(problem) => (Some(problem.what.clone()), Some(problem.next_step.clone())),
            Phase::Stuck(_, problem, _) => {
                (Some(problem.what.clone()), Some(format!("coldfs tenant detach {name}")))
            }
            Phase::Detached => (None, Some(format!("coldfs tenant attach {name}"))),
            Phase::Attaching(_) | Phase::Mounted(_) | Phase::Detaching(_) if self.is_changed => {
                let cause = "the configuration says something else of it since it was attached";
                let next = format!("coldfs tenant detach {name}; coldfs tenant attach {name}");
                (Some(cause.to_owned()), Some(next))
            }
            Phase::Attaching(_) | Phase::Mounted(_) | Phase::Detaching(_) => {
                let next = self.objection.is_some().then_some("write other settings, and reload");
                (self.objection.clone(), next.map(str::to_owned))
            }
        };
        let since = self.since.duration_since(SystemTime::UNIX_EPOCH);
        TenantEntry {
            name: name.to_owned(),
            state: self.phase.state(),
            since: since.map_or(0, |since| since.as_secs()),
            data_dir: data_dir.into(),
            mountpoint: mountpoint.into(),
            config: self.source.config().map(Into::into),
            cause,
            next_step,
            changed: self.is_changed,
        }
    }
}
