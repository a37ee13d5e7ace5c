//! One open of a cold file, from its question to its close.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use super::budget::Owner;
use super::ledger::Who;
use super::reader::Reader;
use super::{Ask, Denied, Guard, Piece, Ruling};
use crate::file_id::Ino;
use crate::inode::SAME_ANSWER_FOR;
use crate::wire_path::WirePath;

/// One open of a cold file. Dropped, it leaves its line in the audit.
pub struct Visit {
    guard: Arc<Guard>,
    reader: Reader,
    class: usize,
    who: Who,
    ask: Ask,
    keeps: AtomicBool,
    bytes: AtomicU64,
    /// Nothing of the file is left to be paid for.
    paid_whole: AtomicBool,
    waited_ms: AtomicU64,
    waits: AtomicU32,
    cancel: watch::Sender<Option<Instant>>,
    outcome: Mutex<Outcome>,
}

/// How it came out.
#[derive(Debug)]
enum Outcome {
    /// It was not decided: whoever asked went away.
    Asked,
    Admitted,
    Denied(Denied),
    Failed(String),
}

/// The line of the audit.
#[derive(Serialize)]
struct Line<'a> {
    /// Seconds since 1970.
    time: f64,
    tenant: &'a str,
    path: WirePath,
    ino: u64,
    segment: String,
    size_bytes: u64,
    /// Bytes that were asked for.
    bytes: u64,
    why: &'static str,
    class: &'a str,
    name: &'a str,
    program: WirePath,
    process: u32,
    session: u32,
    user: u32,
    cgroup: &'a str,
    waited_ms: u64,
    /// Whether the file was to come home.
    kept: bool,
    outcome: String,
}

impl Visit {
    pub(super) fn new(guard: Arc<Guard>, reader: Reader, class: usize, ask: Ask) -> Self {
        let who = Who::of(&reader, &guard.class(class).name);
        let paid_whole = ask.bytes >= ask.remote_bytes;
        Self {
            guard,
            reader,
            class,
            who,
            ask,
            keeps: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            paid_whole: AtomicBool::new(paid_whole),
            waited_ms: AtomicU64::new(0),
            waits: AtomicU32::new(0),
            cancel: watch::Sender::new(None),
            outcome: Mutex::new(Outcome::Asked),
        }
    }

    /// Whether this open may bring the file home; known once it is admitted.
    pub fn keeps(&self) -> bool {
        self.keeps.load(Ordering::Relaxed)
    }

    /// Waits until the guard lets it through, or not.
    pub async fn admit(&self) -> Result<(), Denied> {
        let admitted = self.admit_in_time().await;
        self.note(admitted)
    }

    /// The same, without waiting; none: it would have to.
    pub fn admit_at_once(&self) -> Option<Result<(), Denied>> {
        let admitted = self.rule().ok()?;
        Some(self.note(admitted))
    }

    fn note(&self, admitted: Result<(), Denied>) -> Result<(), Denied> {
        let mut state = self.guard.state();
        let account = state.ledger.account(&self.who);
        let outcome = match &admitted {
            Ok(()) => {
                account.files += 1;
                account.bytes += self.ask.bytes;
                self.bytes.store(self.ask.bytes, Ordering::Relaxed);
                Outcome::Admitted
            }
            Err(denied) => {
                account.denied += 1;
                Outcome::Denied(denied.clone())
            }
        };
        drop(state);
        self.end_with(outcome);
        admitted
    }

    async fn admit_in_time(&self) -> Result<(), Denied> {
        let patience = self.guard.patience_of(self.class);
        let began = Instant::now();
        loop {
            match self.rule() {
                Ok(ruled) => return ruled,
                Err((whose, wait)) => {
                    self.wait_for_budget(whose, wait, began, patience).await?;
                }
            }
        }
    }

    /// What the guard decides now; an error: whose budget is to be waited for, and how long.
    fn rule(&self) -> Result<Result<(), Denied>, (Owner, Duration)> {
        match self.guard.rule(self.owners(), self.class, &self.ask, Instant::now()) {
            Ruling::Admitted { keeps } => {
                self.keeps.store(keeps, Ordering::Relaxed);
                Ok(Ok(()))
            }
            Ruling::Denied(denied) => Ok(Err(denied)),
            Ruling::Wait { whose, wait } => Err((whose, wait)),
        }
    }

    /// Pays for bytes that are about to be read, when there is something to pay with.
    pub async fn pay(&self, bytes: u64) -> Result<(), Denied> {
        if self.paid_whole.load(Ordering::Relaxed) {
            return Ok(());
        }
        let began = Instant::now();
        let piece = Piece { bytes, keeps: self.keeps() };
        while let Some((whose, wait)) = self.guard.pay(self.owners(), piece, Instant::now()) {
            self.wait_for_budget(whose, wait, began, self.guard.patience).await?;
        }
        self.note_bytes(bytes);
        Ok(())
    }

    /// All of the file comes home by what was read: what was not paid for yet is paid for now, and
    /// whoever asks next waits until it is.
    pub fn owe_the_rest(&self) {
        let rest = self.ask.remote_bytes.saturating_sub(self.bytes.load(Ordering::Relaxed));
        if !self.paid_whole.swap(true, Ordering::Relaxed) && rest > 0 {
            let piece = Piece { bytes: rest, keeps: self.keeps() };
            self.guard.owe(self.owners(), piece, Instant::now());
            self.note_bytes(rest);
        }
    }

    fn note_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.guard.state().ledger.account(&self.who).bytes += bytes;
    }

    async fn wait_for_budget(
        &self,
        whose: Owner,
        wait: Duration,
        began: Instant,
        patience: Duration,
    ) -> Result<(), Denied> {
        if began.elapsed() + wait > patience {
            return Err(Denied::Budget { whose, wait });
        }
        self.waiting(tokio::time::sleep(wait)).await?;
        let waited = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.waited_ms.fetch_add(waited, Ordering::Relaxed);
        self.guard.state().ledger.account(&self.who).waited += wait;
        Ok(())
    }

    /// Waits for something on behalf of the reader, unless a person cancels its process, or did
    /// just now.
    pub async fn waiting<T>(&self, work: impl Future<Output = T>) -> Result<T, Denied> {
        let _counted = Waiting::begin(&self.waits);
        let mut cancels = self.cancel.subscribe();
        let cancelled = async {
            let just_now =
                |at: &Option<Instant>| at.is_some_and(|at| at.elapsed() < SAME_ANSWER_FOR);
            // The sender lives as long as the visit.
            drop(cancels.wait_for(just_now).await);
        };
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = cancelled => Err(Denied::Cancelled),
        }
    }

    /// It was no question: a person's command recalled the file, or failed to.
    pub(super) fn was_commanded(&self, failed: Option<String>) {
        self.keeps.store(true, Ordering::Relaxed);
        self.bytes.store(self.ask.bytes, Ordering::Relaxed);
        self.end_with(failed.map_or(Outcome::Admitted, Outcome::Failed));
    }

    /// Notes that what it was let through for failed.
    pub fn failed(&self, error: &dyn std::fmt::Display) {
        self.end_with(Outcome::Failed(error.to_string()));
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waits.load(Ordering::Relaxed) > 0
    }

    /// The file that it is of.
    pub fn ino(&self) -> Ino {
        self.ask.ino
    }

    /// Ends its waits. False: it does not wait.
    pub fn cancel(&self) -> bool {
        let waiting = self.is_waiting();
        if waiting {
            self.cancel.send_replace(Some(Instant::now()));
        }
        waiting
    }

    pub(super) fn is_of(&self, process: u32) -> bool {
        process == self.reader.process || process == self.reader.session
    }

    pub(super) fn who(&self) -> &Who {
        &self.who
    }

    fn owners(&self) -> [Owner; 3] {
        // A process that is not visible has no session; its user has a budget.
        let session = match self.reader.session {
            0 => self.reader.process,
            session => session,
        };
        [Owner::Process(session), Owner::User(self.reader.uid), Owner::Tenant]
    }

    fn end_with(&self, outcome: Outcome) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = outcome;
    }

    fn line(&self, outcome: &Outcome) -> Line<'_> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Line {
            time: (since.as_secs_f64() * 1_000.0).round() / 1_000.0,
            tenant: &self.guard.tenant.name,
            path: WirePath::from(&self.ask.path),
            ino: self.ask.ino.0,
            segment: self.ask.segment.to_string(),
            size_bytes: self.ask.size_bytes,
            bytes: self.bytes.load(Ordering::Relaxed),
            why: self.ask.why.word(),
            class: &self.who.class,
            name: &self.reader.name,
            program: WirePath::from(&self.reader.program),
            process: self.reader.process,
            session: self.reader.session,
            user: self.reader.uid,
            cgroup: &self.reader.cgroup,
            waited_ms: self.waited_ms.load(Ordering::Relaxed),
            kept: self.keeps(),
            outcome: match outcome {
                Outcome::Asked => "gone before it was decided".to_owned(),
                Outcome::Admitted => "admitted".to_owned(),
                Outcome::Denied(denied) => format!("denied: {denied}"),
                Outcome::Failed(error) => format!("failed: {error}"),
            },
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let line = serde_json::to_string(&self.line(&outcome)).unwrap_or_default();
        if let Err(error) = self.guard.audit.add(&self.guard.tenant, &line) {
            tracing::warn!(%error, %line, "cannot write the audit");
        }
    }
}

impl std::fmt::Debug for Visit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Visit")
            .field("who", &self.who)
            .field("ask", &self.ask)
            .finish_non_exhaustive()
    }
}

/// One wait, counted while it lasts, however it ends.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn begin(waits: &'a AtomicU32) -> Self {
        waits.fetch_add(1, Ordering::Relaxed);
        Self(waits)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
