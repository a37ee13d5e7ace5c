//! Tiering as a served tenant has it: begun, asked, ended.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use super::files::{heat_of, report_on, shown};
use super::served::Served;
use crate::catalog::seen::Seen;
use crate::config::file::ConfigFile;
use crate::config::state::resolved;
use crate::config::{MountOptions, usage};
use crate::control::wire::{
    ExplainReport, FileReport, PlanRequest, PlanSummary, Planned, PolicyReport, PolicyRequest,
    Problem, ProblemKind,
};
use crate::policy::JudgeError;
use crate::tiering::{self, Tiering};

/// What a tenant's configuration asks for, with places that the daemon can use.
pub(super) fn options(options: &MountOptions) -> tiering::Options {
    let mut tiering = options.tiering.clone();
    tiering.policy.code_dir = tiering.policy.code_dir.filter(|dir| is_outside(options, dir));
    tiering
}

/// Code that is kept inside the mount would be a file of the tenant's.
fn is_outside(options: &MountOptions, dir: &Path) -> bool {
    let dir = resolved(dir);
    !dir.starts_with(&options.data_dir) && !dir.starts_with(&options.mountpoint)
}

/// Puts a policy in force that somebody configured, if anything is to move by itself: a mistake in
/// it is told before anything is mounted. The default one needs no try, and is loaded when it judges.
pub(super) async fn begin(tiering: &Arc<Tiering>) -> Result<(), Problem> {
    let policy = &tiering.options().policy;
    if !tiering.options().overrides.is_empty() {
        let overrides = tiering.options().overrides.clone();
        let next_step = "docs/policy.md lists the default policy's settings";
        tiering.set_overrides(overrides).await.map_err(|why| usage(why, next_step))?;
    }
    let is_configured = policy.component.is_some() || !policy.settings.is_empty();
    if !tiering.options().enabled || !is_configured {
        return Ok(());
    }
    tiering.loaded().await.map(drop).map_err(|error| problem(&error))
}

pub(super) fn problem(error: &JudgeError) -> Problem {
    let (kind, next_step) = match error {
        JudgeError::File { .. } | JudgeError::Policy { .. } => (
            ProblemKind::Usage,
            "`coldfs policy check` tries one out; [policy] in the configuration names it",
        ),
        JudgeError::NoThread(_) | JudgeError::Ended => {
            (ProblemKind::Failed, "see the daemon's log")
        }
    };
    Problem::new(kind, error.to_string(), next_step)
}

fn failed(what: String) -> Problem {
    Problem::new(ProblemKind::Failed, what, "see `coldfs status` and the daemon's log")
}

/// Sends what would move.
pub(super) async fn plan(
    served: &Arc<Served>,
    request: PlanRequest,
    files: mpsc::Sender<Planned>,
) -> Result<PlanSummary, Problem> {
    let start = served.locate(request.path.as_path()).await?;
    let planned = served.tiering.plan(start.path).await.map_err(failed)?;
    let (summary, all) = planned;
    for mut file in all {
        file.path = shown(served, file.path.as_bytes()).to_string_lossy().into_owned();
        if files.send(file).await.is_err() {
            break;
        }
    }
    Ok(summary)
}

/// Why a file moves, or does not.
pub(super) async fn explain(served: &Arc<Served>, path: &Path) -> Result<ExplainReport, Problem> {
    let seen = served.look(path, |served, found| {
        Seen::of(&served.tenant, &found.fd, &found.stat).map(|seen| {
            let report = report_on(served, &found.path, &seen, found.pin);
            let heat = heat_of(served, &seen, report.open_count > 0);
            (FileReport { heat, ..report }, found)
        })
    });
    let (file, found) = seen.await?.map_err(|error| {
        Problem::new(ProblemKind::Failed, format!("{}: {error}", path.display()), "check the file")
    })?;
    let (judged, why_not) = match served.tiering.explain(&found).await {
        Ok(judged) => (Some(judged), None),
        Err(why) => (None, Some(why)),
    };
    Ok(ExplainReport { file, judged, why_not })
}

/// The policy in force; a reload reads the configuration and the component anew.
pub(super) async fn policy(
    served: &Arc<Served>,
    request: &PolicyRequest,
) -> Result<PolicyReport, Problem> {
    let tiering = &served.tiering;
    if request.reload {
        let options = match &served.options.config {
            Some(path) => {
                let code_dir = tiering.options().policy.code_dir.clone();
                let options = ConfigFile::read(path)?.policy(code_dir);
                let component = served.options.policy.clone().or(options.component);
                crate::policy::Options { component, ..options }
            }
            None => tiering.options().policy.clone(),
        };
        let loaded = tiering.reload(options).await;
        // What a configuration has when it is read next may be another.
        served.machine.judged_by_hand.store(true, Ordering::Relaxed);
        let loaded = loaded.map_err(|error| problem(&error))?;
        tracing::info!(
            policy = loaded.description.name,
            hash = loaded.hash,
            "a policy is in force"
        );
    } else {
        tiering.loaded().await.map_err(|error| problem(&error))?;
    }
    let loaded = tiering.in_force().await.map_err(failed)?;
    let report = tiering.report();
    let (faults, left_out) = (report.policy_faults, report.left_out);
    Ok(PolicyReport { faults, left_out, ..PolicyReport::of(&loaded) })
}
