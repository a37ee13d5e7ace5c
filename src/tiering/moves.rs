//! Carrying decisions out: in small batches, each file looked at again right before.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::batch::{self, Tally};
use super::breaker::Class;
use super::facts::evidence_word;
use super::guards::{Held, Least, held};
use super::quarantine::Failing;
use super::run::Brief;
use super::{PassSummary, Tiering, now, pressure, word};
use crate::catalog::offers::Offer;
use crate::catalog::seen::Seen;
use crate::file_id::Ino;
use crate::inode::Serving;
use crate::migrate::{Candidate, Outcome, Skip};
use crate::policy::contract::Action;
use crate::policy::{Decided, PassReport};
use crate::prestage::{Recalled, recall_file};
use crate::temperature::Second;
use crate::tenant::Pin;
use crate::walk::find;

/// How long a pause of a pass lasts at most before the pass gives up.
const PAUSE: Duration = Duration::from_mins(5);
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// For how long a look at a file is believed.
const LOOK_HOLDS: Duration = Duration::from_secs(2);

/// A decision with its file, found and looked at.
struct Ready {
    candidate: Candidate,
    decided: Decided,
}

/// Why a file is not moved.
enum Stays {
    /// The host holds it back.
    Held(Held),
    /// It is not there any more.
    Gone,
    /// It cannot be looked at.
    Unreadable(String),
}

/// A line of the notebook.
#[derive(Debug, Serialize)]
struct Line<'a> {
    time: u32,
    action: &'a str,
    path: String,
    bytes: u64,
    rule: &'a str,
    idle_seconds: u32,
    evidence: &'a str,
}

/// Carrying out one pass.
struct Carrying<'a> {
    tiering: &'a Arc<Tiering>,
    brief: &'a Brief,
    rules: Arc<[String]>,
    summary: &'a mut PassSummary,
    cancel: &'a CancellationToken,
    /// Files that others are asked instead of, from the next pass on.
    set_aside: u64,
    /// Bytes that came home.
    home_bytes: u64,
}

impl Tiering {
    /// Carries out what was decided. How many files were set aside, so that the next pass is offered
    /// others in their place.
    pub(super) async fn carry_out(
        self: &Arc<Self>,
        brief: &Brief,
        report: PassReport,
        summary: &mut PassSummary,
        cancel: &CancellationToken,
    ) -> u64 {
        let mut decided = report.decided;
        batch::sort(&mut decided);
        let rules = report.rules;
        let mut carrying =
            Carrying { tiering: self, brief, rules, summary, cancel, set_aside: 0, home_bytes: 0 };
        let mut rest = decided.as_slice();
        while !rest.is_empty() && !cancel.is_cancelled() {
            let length = carrying.next_batch(rest).await;
            if length == 0 {
                carrying.hold("later", rest.len() as u64);
                break;
            }
            let (batch, later) = rest.split_at(length);
            rest = later;
            carrying.batch(batch.to_vec()).await;
        }
        carrying.set_aside
    }

    /// What a file has to have behind it before its bytes go, by the host's and the policy's word.
    pub(super) fn least(&self, brief: &Brief) -> Least {
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let of_policy = brief.rulebook.release_after_seconds;
        Least {
            idle: seconds(self.options.least_idle).max(of_policy),
            stay: seconds(self.options.least_stay),
        }
    }

    /// Why what is next may not be moved just now.
    fn pausing(&self, next: Action) -> Option<String> {
        if !pressure::yields(next, self.goal_bytes()) {
            return None;
        }
        let recalls =
            self.inodes.all().iter().any(
                |inode| matches!(inode.serving(), Serving::Cold(cold) if cold.is_waited_for()),
            );
        if recalls {
            return Some("paused: files are being recalled".to_owned());
        }
        let limit = self.options.io_pressure_percent;
        let pressure = pressure::io_percent().filter(|percent| *percent > limit)?;
        Some(format!("paused: {pressure} % of the time somebody waits for a disk"))
    }

    /// Finds a decided file and looks at it as it is now.
    fn look(&self, brief: &Brief, decided: &Decided) -> Result<Candidate, Stays> {
        let ino = Ino(decided.file.file_id);
        let failed = |error: &dyn std::fmt::Display| Stays::Unreadable(error.to_string());
        let path = brief.part.path(ino).map_err(|error| failed(&error))?;
        let path = path.ok_or(Stays::Gone)?;
        let found = find(&self.tenant, &path).map_err(|_gone| Stays::Gone)?;
        if found.stat.st_ino != ino.0 || !found.is_regular() {
            return Err(Stays::Gone);
        }
        let offer = self.offer(&brief.part, ino).map_err(|error| failed(&error))?;
        let offer = offer.ok_or(Stays::Gone)?;
        let seen =
            Seen::of(&self.tenant, &found.fd, &found.stat).map_err(|error| failed(&error))?;
        // As it is, not as the catalog saw it last.
        let mtime_seconds = found.stat.st_mtime;
        let Seen { size_bytes, atime, pin, .. } = seen;
        let offer = Offer { size_bytes, mtime_seconds, atime, pin, ..offer };
        if let Some(held) = self.held(brief, decided.action, &offer, found.pin) {
            return Err(Stays::Held(held));
        }
        self.migrator.candidate(found.path, found.fd, &found.stat).map_err(|error| failed(&error))
    }

    /// Why the host holds a file back.
    pub(super) fn held(
        &self,
        brief: &Brief,
        action: Action,
        offer: &Offer,
        pin: Option<Pin>,
    ) -> Option<Held> {
        let open = self.opens(offer.ino) > 0;
        let facts = self.moment().facts(offer, open, pin);
        held(action, &facts, self.least(brief))
    }
}

impl Carrying<'_> {
    fn hold(&mut self, why: &str, files: u64) {
        *self.summary.held.entry(why.to_owned()).or_default() += files;
    }

    /// Waits while something else is more urgent. How many of these are the next batch, which is
    /// paid for; 0: none in this pass.
    async fn next_batch(&mut self, rest: &[Decided]) -> usize {
        let Some(next) = rest.first().map(|decided| decided.action) else { return 0 };
        let since = now();
        while let Some(why) = self.tiering.pausing(next) {
            if now().saturating_duration_since(since) > PAUSE || self.cancel.is_cancelled() {
                self.summary.cut_short = Some(why);
                return 0;
            }
            self.tiering.doing(why);
            tokio::select! {
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = self.cancel.cancelled() => return 0,
            }
        }
        self.tiering.doing("moving");
        let mut state = self.tiering.state();
        if let Some(broken) = state.breaker.broken(now()) {
            self.summary.cut_short = Some(format!("{}: {}", broken.class, broken.error));
            return 0;
        }
        state.caps.turn(now());
        let length = batch::length(rest, &state.caps);
        if length == 0 {
            self.summary.cut_short =
                Some("no more in this hour ([tiering] ..._an_hour)".to_owned());
        }
        state.caps.spend(&Tally::of(&rest[..length]).cost());
        length
    }

    /// Moves one batch.
    async fn batch(&mut self, batch: Vec<Decided>) {
        let paid = Tally::of(&batch).cost();
        let ready = self.ready(batch).await;
        let worth = Tally::of(ready.iter().map(|ready| &ready.decided)).cost();
        self.tiering.state().caps.give_back(&paid.less(&worth));
        let (mut archive, mut release, mut recall) = (Vec::new(), Vec::new(), Vec::new());
        for ready in ready {
            match ready.decided.action {
                Action::Archive | Action::Migrate => archive.push(ready),
                Action::Release => release.push(ready),
                Action::Recall => recall.push(ready),
            }
        }
        let mut errors = Vec::new();
        let mut tried = (archive.len() + release.len() + recall.len()) as u64;
        if !archive.is_empty() {
            let archived = self.moved(archive, Action::Archive, &mut errors).await;
            // P9 anew: the upload took its time.
            let migrating =
                archived.into_iter().filter(|decided| decided.action == Action::Migrate).collect();
            let again = self.ready(migrating).await;
            tried += again.len() as u64;
            release.extend(again);
        }
        release = self.proven(release).await;
        if !release.is_empty() && !self.cancel.is_cancelled() {
            let _released = self.moved(release, Action::Release, &mut errors).await;
        }
        for ready in recall {
            self.come_home(ready, &mut errors).await;
        }
        self.tiering.state().breaker.note(tried, &errors, now());
    }

    /// Those of a batch that may still be released once each is proven to be what was stored.
    async fn proven(&mut self, batch: Vec<Ready>) -> Vec<Ready> {
        let began = now();
        for ready in &batch {
            self.tiering.migrator.prove(&ready.candidate, self.cancel).await;
        }
        if now().saturating_duration_since(began) < LOOK_HOLDS {
            return batch;
        }
        // P9 anew: to read large files takes its time.
        self.ready(batch.into_iter().map(|ready| ready.decided).collect()).await
    }

    /// Those of a batch that may still be moved.
    async fn ready(&mut self, batch: Vec<Decided>) -> Vec<Ready> {
        if batch.is_empty() {
            return Vec::new();
        }
        let tiering = Arc::clone(self.tiering);
        let brief = self.brief.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let look = |decided: Decided| (tiering.look(&brief, &decided), decided);
            batch.into_iter().map(look).collect::<Vec<_>>()
        });
        let mut ready = Vec::new();
        for (looked, decided) in looked.await.unwrap_or_default() {
            match looked {
                Ok(candidate) => ready.push(Ready { candidate, decided }),
                Err(stays) => {
                    let ino = Ino(decided.file.file_id);
                    match stays {
                        Stays::Held(held) => {
                            self.hold(held.word(), 1);
                            self.set_aside(ino, held.word(), Failing::Now);
                        }
                        Stays::Gone => self.hold("gone", 1),
                        Stays::Unreadable(why) => {
                            self.hold("unreadable", 1);
                            self.set_aside(ino, &why, Failing::Itself);
                        }
                    }
                }
            }
        }
        ready
    }

    /// Archives or releases files; those that are where they were to go.
    async fn moved(
        &mut self,
        batch: Vec<Ready>,
        action: Action,
        errors: &mut Vec<(Class, String)>,
    ) -> Vec<Decided> {
        let (candidates, decided): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|ready| (ready.candidate, ready.decided)).unzip();
        let mut by_ino: std::collections::HashMap<Ino, Decided> =
            decided.into_iter().map(|decided| (Ino(decided.file.file_id), decided)).collect();
        let migrator = &self.tiering.migrator;
        let outcomes = match action {
            Action::Release => migrator.release(candidates, self.cancel).await,
            Action::Archive | Action::Migrate | Action::Recall => {
                migrator.archive(candidates, self.cancel).await
            }
        };
        let mut there = Vec::new();
        for (candidate, outcome) in outcomes {
            let ino = candidate.inode.ino;
            let Some(decided) = by_ino.remove(&ino) else { continue };
            match outcome {
                Outcome::Done(bytes) => {
                    self.tiering.state().quarantine.clear(ino);
                    match action {
                        Action::Release => {
                            self.summary.released += 1;
                            self.summary.released_bytes += decided.file.local_bytes;
                        }
                        Action::Archive | Action::Migrate | Action::Recall => {
                            self.summary.archived += 1;
                            self.summary.archived_bytes += bytes;
                        }
                    }
                    self.note(&candidate, &decided, action, bytes);
                    there.push(decided);
                }
                Outcome::Skipped(Skip::Already) => there.push(decided),
                Outcome::Skipped(skip) => self.skipped(ino, skip),
                Outcome::Failed(error) => {
                    self.summary.failed += 1;
                    let class = Class::of(&error);
                    if class == Class::File {
                        self.set_aside(ino, &error.to_string(), Failing::Itself);
                    }
                    tracing::warn!(%ino, action = word(action), "tiering: {error}");
                    errors.push((class, error.to_string()));
                }
            }
        }
        there
    }

    fn skipped(&mut self, ino: Ino, skip: Skip) {
        self.hold(skip.word(), 1);
        match skip {
            Skip::Already | Skip::Gone | Skip::Cancelled => {}
            // The next pass may find it otherwise; but as the coldest it would be chosen again and
            // again, and what it was to free with it.
            Skip::Open
            | Skip::Changed
            | Skip::Fresh
            | Skip::NotArchived
            | Skip::Pinned
            | Skip::PagesHeld => self.set_aside(ino, skip.word(), Failing::Now),
            Skip::NotRegular
            | Skip::TooSmall
            | Skip::Immutable
            | Skip::Capabilities
            | Skip::SetId
            | Skip::Unwritable
            | Skip::Fragmented
            | Skip::Realtime
            | Skip::OutOfRange
            | Skip::Foreign => self.set_aside(ino, skip.word(), Failing::Itself),
        }
    }

    /// A file that could not be moved is left alone for a while.
    fn set_aside(&mut self, ino: Ino, why: &str, failing: Failing) {
        self.set_aside += 1;
        self.tiering.state().quarantine.put(ino, why, failing, now());
    }

    /// Whether so many bytes fit here without anything having to go for them.
    fn has_room(&self, bytes: u64) -> bool {
        let context = &self.brief.context;
        let more = self.home_bytes.saturating_add(bytes);
        let is_within = |most| context.tenant_local_bytes.saturating_add(more) <= most;
        // What came home so far is in the filesystem's figures.
        let room = self.tiering.room();
        room.takes(bytes, self.tiering.options.low_percent)
            && context.tenant_quota_bytes.is_none_or(is_within)
    }

    async fn come_home(&mut self, ready: Ready, errors: &mut Vec<(Class, String)>) {
        let ino = ready.candidate.inode.ino;
        if !self.has_room(ready.decided.file.size_bytes) {
            self.hold(Held::NoRoom.word(), 1);
            return self.set_aside(ino, Held::NoRoom.word(), Failing::Now);
        }
        let Tiering { tenant, inodes, recall, .. } = &**self.tiering;
        let recalled = tokio::select! {
            recalled = recall_file(tenant, inodes, recall, &ready.candidate.inode) => recalled,
            () = self.cancel.cancelled() => return,
        };
        match recalled {
            Ok(Recalled::Done(bytes)) => {
                self.summary.recalled += 1;
                self.home_bytes = self.home_bytes.saturating_add(bytes);
                self.note(&ready.candidate, &ready.decided, Action::Recall, bytes);
            }
            Ok(Recalled::Already) => self.hold("already", 1),
            Err(error) => {
                let Some(class) = Class::of_recall(&error) else {
                    self.hold(Held::Open.word(), 1);
                    return self.set_aside(ino, &error.to_string(), Failing::Now);
                };
                self.summary.failed += 1;
                if class == Class::File {
                    self.set_aside(ino, &error.to_string(), Failing::Itself);
                }
                tracing::warn!(%ino, action = word(Action::Recall), "tiering: {error}");
                errors.push((class, error.to_string()));
            }
        }
    }

    fn note(&self, candidate: &Candidate, decided: &Decided, action: Action, bytes: u64) {
        let rule = self.rules.get(usize::from(decided.rule)).map_or("", String::as_str);
        let line = Line {
            time: Second::now().0,
            action: word(action),
            path: String::from_utf8_lossy(&candidate.path).into_owned(),
            bytes,
            rule,
            idle_seconds: decided.file.idle_seconds,
            evidence: evidence_word(decided.file.evidence),
        };
        let written = serde_json::to_string(&line).map_err(std::io::Error::other);
        let written = written.and_then(|line| self.tiering.moved.add(&self.tiering.tenant, &line));
        if let Err(error) = written {
            tracing::warn!(%error, path = line.path, action = line.action, "a move has no line in moves.jsonl");
        }
    }
}
