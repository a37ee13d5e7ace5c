//! What would move, and why: by the same judgement as a pass, and changing nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::batch::Tally;
use super::facts::evidence_word;
use super::offers::owner;
use super::run::{Brief, ending};
use super::{Tiering, now, word};
use crate::catalog::offers::{Class, Offer};
use crate::catalog::seen::last_use;
use crate::file_id::Ino;
use crate::policy::PassReport;
use crate::policy::contract::{Action, Wants};
use crate::walk::{Found, find};

/// What a policy says of a file that is to stay as it is.
pub const KEEP: &str = "keep";

/// A file that would move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// Below the tenant's root; lossy where it is no UTF-8.
    pub path: String,
    /// What would be done.
    pub action: String,
    /// Its size.
    pub bytes: u64,
    /// The rule that says so.
    pub rule: String,
    /// Since its last use, seconds.
    pub idle_seconds: u32,
    /// How that is known: `observed`, `atime`, `unknown`.
    pub evidence: String,
    /// What of the host holds it back all the same.
    pub held: Option<String>,
}

/// What would move in all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlanSummary {
    /// Files that the policy looked at.
    pub judged: u64,
    /// Files that would move, by action.
    pub files: BTreeMap<String, u64>,
    /// Bytes of them, by action.
    pub bytes: BTreeMap<String, u64>,
    /// Files that the host would hold back, by reason.
    pub held: BTreeMap<String, u64>,
    /// Requests to the store, about.
    pub requests: u64,
    /// Bytes that are to be freed for the filesystem's sake.
    pub goal_bytes: u64,
    /// Why it is not all; none: it is.
    pub cut_short: Option<String>,
}

/// Why one file moves, or does not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// What the policy would do; none: keep it.
    pub action: Option<String>,
    /// The rule that says so.
    pub rule: String,
    /// One sentence of the policy's.
    pub reason: String,
    /// Seconds until the policy's answer changes if nothing happens.
    pub changes_in_seconds: Option<u32>,
    /// Since its last use, seconds.
    pub idle_seconds: u32,
    /// How that is known: `observed`, `atime`, `unknown`.
    pub evidence: String,
    /// Its heat now.
    pub heat: f32,
    /// Seconds since it came home; none: it never was away.
    pub recalled_seconds: Option<u32>,
    /// What of the host holds it back, whatever the policy says.
    pub held: Vec<String>,
    /// The last that was done with it by itself: a line of the notebook.
    pub last_move: Option<serde_json::Value>,
}

impl Tiering {
    /// The files at or below a path that a pass would move now, in its order.
    pub async fn plan(
        self: &Arc<Self>,
        below: Vec<u8>,
    ) -> Result<(PlanSummary, Vec<Planned>), String> {
        let (brief, report) = self.judged(true).await?;
        let asked = Arc::clone(self);
        // A path and pins of each: not for a thread that others wait for.
        let planned = tokio::task::spawn_blocking(move || asked.planned(&brief, report, &below));
        planned.await.map_err(|_panic| "the catalog cannot be read".to_owned())
    }

    fn planned(
        &self,
        brief: &Brief,
        report: PassReport,
        below: &[u8],
    ) -> (PlanSummary, Vec<Planned>) {
        let mut summary = PlanSummary {
            judged: report.judged,
            goal_bytes: brief.context.release_goal_bytes,
            cut_short: ending(&report.ending),
            ..PlanSummary::default()
        };
        let mut moved = Vec::new();
        let mut all = Vec::new();
        for decided in report.decided {
            let ino = Ino(decided.file.file_id);
            let Ok(Some(path)) = brief.part.path(ino) else { continue };
            if !is_below(&path, below) {
                continue;
            }
            let Ok(Some(offer)) = self.offer(&brief.part, ino) else { continue };
            let pin = match offer.dir {
                Some(dir) => {
                    let mut none = lru::LruCache::new(std::num::NonZeroUsize::MIN);
                    brief.part.pin_below(dir, &mut none).unwrap_or_default()
                }
                None => None,
            };
            let pin = crate::tenant::Pin::harder(offer.pin, pin);
            let held = self.held(brief, decided.action, &offer, pin);
            let action = word(decided.action).to_owned();
            if let Some(held) = held {
                *summary.held.entry(held.word().to_owned()).or_default() += 1;
            } else {
                *summary.files.entry(action.clone()).or_default() += 1;
                *summary.bytes.entry(action.clone()).or_default() += decided.file.size_bytes;
                moved.push(decided.clone());
            }
            let rule = report.rules.get(usize::from(decided.rule)).cloned().unwrap_or_default();
            all.push(Planned {
                path: String::from_utf8_lossy(&path).into_owned(),
                action,
                bytes: decided.file.size_bytes,
                rule,
                idle_seconds: decided.file.idle_seconds,
                evidence: evidence_word(decided.file.evidence).to_owned(),
                held: held.map(|held| held.word().to_owned()),
            });
        }
        summary.requests = Tally::of(&moved).cost().requests;
        (summary, all)
    }

    /// Why a file moves, or does not.
    pub async fn explain(self: &Arc<Self>, found: &Found) -> Result<Explanation, String> {
        let mut explained = self.judge_one(&self.brief().await?, found).await?;
        explained.last_move = self.last_move(&String::from_utf8_lossy(&found.path)).await;
        Ok(explained)
    }

    /// What the policy would do with a file now and the rule that says so, for an application that
    /// asks; an error: why nothing speaks for it.
    pub async fn rule(self: &Arc<Self>, ino: Ino) -> Result<String, String> {
        // One at a time: whoever asks for all files does not hold up the passes.
        let _turn = self.asked.lock().await;
        let brief = self.brief().await?;
        let asked = Arc::clone(self);
        let (found, brief) = tokio::task::spawn_blocking(move || {
            let path = brief.part.path(ino).map_err(|error| error.to_string())?;
            let found = find(&asked.tenant, &path.ok_or("the catalog does not know it yet")?);
            let found = found.map_err(|error| error.to_string())?;
            Ok::<_, String>((found, brief))
        })
        .await
        .map_err(|_panic| "the catalog cannot be read".to_owned())??;
        if found.stat.st_ino != ino.0 {
            return Err("it was renamed a moment ago".to_owned());
        }
        let explained = self.judge_one(&brief, &found).await?;
        Ok(format!("{}: {}", explained.action.as_deref().unwrap_or(KEEP), explained.rule))
    }

    async fn judge_one(
        self: &Arc<Self>,
        brief: &Brief,
        found: &Found,
    ) -> Result<Explanation, String> {
        let ino = Ino(found.stat.st_ino);
        let offer = self.offer(&brief.part, ino).map_err(|error| error.to_string())?;
        let Some(offer) = offer else {
            return Err(
                "it never moves: not a regular file of more than 4,096 bytes, or nobody can \
                        account for it (`coldfs state` says more)"
                    .to_owned(),
            );
        };
        let atime = last_use(&found.fd, &found.stat);
        let offer = match offer.class {
            Class::Resident | Class::Archived => {
                Offer { mtime_seconds: found.stat.st_mtime, atime, ..offer }
            }
            Class::Released => offer,
        };
        let moment = self.moment();
        let mut candidate = self.candidate(&moment, &offer, found.pin);
        let wants = brief.rulebook.wants;
        let path = String::from_utf8_lossy(&found.path).into_owned();
        candidate.path = wants.contains(Wants::PATH).then_some(path);
        candidate.owner = wants.contains(Wants::OWNER).then(|| owner(&found.stat));
        let answer = self.judge.explain(brief.context.clone(), candidate.clone()).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let explained = answer.map_err(|fault| format!("the policy: {fault}"))?;
        let action = match offer.class {
            Class::Resident => Action::Archive,
            Class::Archived => Action::Release,
            Class::Released => Action::Recall,
        };
        let held = self.held(brief, explained.action.unwrap_or(action), &offer, found.pin);
        let mut held: Vec<String> = held.map(|held| held.word().to_owned()).into_iter().collect();
        held.extend(self.waits(ino));
        Ok(Explanation {
            action: explained.action.map(|action| word(action).to_owned()),
            rule: explained.rule,
            reason: explained.reason,
            changes_in_seconds: explained.changes_in_seconds,
            idle_seconds: candidate.idle_seconds,
            evidence: evidence_word(candidate.evidence).to_owned(),
            heat: candidate.heat,
            recalled_seconds: candidate.recalled_seconds,
            held,
            last_move: None,
        })
    }

    /// What holds a file back besides itself.
    fn waits(&self, ino: Ino) -> Vec<String> {
        let (now, state) = (now(), self.state());
        let mut waits = Vec::new();
        if let Some((why, seconds)) = state.quarantine.why(ino, now) {
            waits.push(format!("left alone for {seconds} s more: {why}"));
        }
        if let Some(broken) = state.breaker.broken(now) {
            waits.push(format!("nothing moves for {} s: {}", broken.seconds, broken.error));
        }
        if !self.options.enabled {
            waits.push("tiering is off: [tiering] enabled = false".to_owned());
        }
        waits
    }

    /// The last line of the notebook on a path.
    async fn last_move(self: &Arc<Self>, path: &str) -> Option<serde_json::Value> {
        let (reading, path) = (Arc::clone(self), path.to_owned());
        let read = tokio::task::spawn_blocking(move || {
            let lines = reading.moved_lines().ok()?.lines;
            lines.iter().rev().find_map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).ok()?;
                (line["path"] == path.as_str()).then_some(line)
            })
        });
        read.await.ok().flatten()
    }
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    match path.strip_prefix(dir) {
        Some(rest) => dir.is_empty() || rest.is_empty() || rest.starts_with(b"/"),
        None => false,
    }
}
