//! The storm guard: who may bring cold files home, how much, and who did.
//!
//! Asked once an open of a cold file, and for the bytes of those that are read in pieces; hot
//! files never come here, nor do commands of a person at the command line. The parts decide
//! without I/O: [`class`] what a reader may do, [`budget`] how much, [`brake`] when it is too
//! much for anybody. [`Visit`] is one open of a cold file, from its question to its close, and
//! leaves one line in the audit.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use crate::bounded;
use crate::file_id::{Ino, SegmentId};
use crate::tenant::{Lines, Notebook, Tenant};

pub mod brake;
pub mod budget;
pub mod class;
pub mod ledger;
pub mod reader;
#[cfg(test)]
mod tests;
mod visit;

use brake::{Alarm, Brake, BrakeLimits};
use budget::{Buckets, Budgets, Level, Owner};
use class::{Action, Admit, Class, Classes, Over};
use ledger::{Account, Ledger, Who};
use reader::Reader;
pub use visit::Visit;

/// Files whose first touch is remembered, for classes that recall at the second.
const TOUCHED: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");
/// The audit in `.coldfs`: one line of JSON an open of a cold file, or a recall by command.
const AUDIT: &str = "audit.jsonl";
/// Why the brake is on, in `.coldfs`: there until a person lets go.
const BRAKE: &str = "brake";

/// What of the guard can be turned.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Who may do what.
    pub classes: Classes,
    /// How much.
    pub budgets: Budgets,
    /// When nobody may any more.
    pub brake: BrakeLimits,
}

/// Why a cold file's bytes are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// An open for reading.
    Read,
    /// An open for writing, or a truncation.
    Write,
    /// A program is about to run.
    Exec,
    /// A person's command, which nobody asks the guard for: it is in the audit only.
    Command,
}

impl Why {
    /// For the audit.
    pub fn word(self) -> &'static str {
        match self {
            Why::Read => "read",
            Why::Write => "write",
            Why::Exec => "exec",
            Why::Command => "command",
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Which file.
    pub ino: Ino,
    /// Its name, for the audit.
    pub path: std::path::PathBuf,
    /// Its size, bytes.
    pub size_bytes: u64,
    /// Those of them that are in the store: its holes are not.
    pub remote_bytes: u64,
    /// Where its bytes are.
    pub segment: SegmentId,
    /// Bytes that are fetched at once; the others are paid for as they are read.
    pub bytes: u64,
    /// What for.
    pub why: Why,
}

/// Why somebody is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The brake is on.
    #[error("the brake is on: too many files came home; `coldfs brake --release` lets go")]
    Brake,
    /// The class may not.
    #[error("class {class:?} may not recall")]
    Class {
        /// Its name.
        class: String,
    },
    /// There is nothing left to spend, for longer than anybody waits.
    #[error("the recall budget of this {} is spent for {} s", whose.word(), wait.as_secs())]
    Budget {
        /// Whose.
        whose: Owner,
        /// How long.
        wait: Duration,
    },
    /// A person cancelled it.
    #[error("cancelled")]
    Cancelled,
}

/// What the guard decides at once.
enum Ruling {
    /// Let through; whether it may bring the file home.
    Admitted { keeps: bool },
    /// Ask again after so long.
    Wait { whose: Owner, wait: Duration },
    /// No.
    Denied(Denied),
}

/// Bytes of a file that is read in pieces.
#[derive(Clone, Copy, Debug)]
struct Piece {
    bytes: u64,
    /// Whether its reader may bring the file home.
    keeps: bool,
}

/// The guard of one tenant.
pub struct Guard {
    tenant: Arc<Tenant>,
    rules: Rules,
    /// How long an open waits for its budget.
    patience: Duration,
    state: Mutex<State>,
    audit: Notebook,
    /// Held by whoever brings the brake's note in step.
    brake_note: Mutex<()>,
}

struct State {
    buckets: Buckets,
    slow: Vec<Option<Level>>,
    touched: LruCache<Ino, ()>,
    brake: Brake,
    ledger: Ledger,
    visits: Vec<Weak<Visit>>,
}

impl Guard {
    /// A guard by these rules. Who waits for its budget waits up to `patience`.
    pub fn new(tenant: Arc<Tenant>, rules: Rules, patience: Duration) -> Self {
        let alarm = tenant.small_note(BRAKE).map(|note| Alarm::of_note(note, &rules.brake));
        let state = State {
            buckets: Buckets::new(rules.budgets),
            slow: Vec::new(),
            touched: bounded::lru(TOUCHED),
            brake: Brake::new(rules.brake, alarm, Instant::now()),
            ledger: Ledger::new(),
            visits: Vec::new(),
        };
        let (state, audit) = (Mutex::new(state), Notebook::new(AUDIT));
        let guard = Self { tenant, rules, patience, state, audit, brake_note: Mutex::new(()) };
        if let Some(alarm) = guard.alarm() {
            guard.sound_alarm(&alarm);
        }
        guard
    }

    /// An open of a cold file by a reader, to be asked for.
    pub fn visit(self: &Arc<Self>, reader: Reader, ask: Ask) -> Arc<Visit> {
        let class = self.rules.classes.of(&reader);
        let visit = Arc::new(Visit::new(Arc::clone(self), reader, class, ask));
        let mut state = self.state();
        // Bounded by the opens of cold files: the gone are swept before the list grows.
        if state.visits.len() == state.visits.capacity() {
            state.visits.retain(|visit| visit.strong_count() > 0);
        }
        state.visits.push(Arc::downgrade(&visit));
        visit
    }

    /// Notes a recall that a person's command asked for, and why it failed.
    pub fn note_command(self: &Arc<Self>, reader: Reader, ask: Ask, failed: Option<String>) {
        let class = self.rules.classes.of(&reader);
        let visit = Visit::new(Arc::clone(self), reader, class, ask);
        visit.was_commanded(failed);
    }

    /// What applications asked for since the mount.
    pub fn accounts(&self) -> Vec<Account> {
        let mut state = self.state();
        let waiting: Vec<Who> = state
            .visits
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|visit| visit.is_waiting())
            .map(|visit| visit.who().clone())
            .collect();
        // Who waits for its first file has no account yet.
        for who in &waiting {
            state.ledger.account(who);
        }
        let mut accounts = state.ledger.all();
        for account in &mut accounts {
            account.waiting = waiting.iter().filter(|who| **who == account.who).count() as u64;
        }
        accounts
    }

    /// Whether the brake is on, and since when.
    pub fn alarm(&self) -> Option<Alarm> {
        self.state().brake.alarm().cloned()
    }

    /// Lets the brake go. False: it was not on.
    pub fn let_go(&self) -> bool {
        let was_on = self.state().brake.let_go();
        if was_on {
            self.note_brake();
        }
        was_on
    }

    /// Ends the waits of a process, or of a session by its number. Returns how many.
    pub fn cancel_process(&self, process: u32) -> u64 {
        let visits: Vec<_> = self.state().visits.iter().filter_map(Weak::upgrade).collect();
        let of_it = visits.iter().filter(|visit| visit.is_of(process));
        of_it.filter(|visit| visit.cancel()).count() as u64
    }

    /// The opens that wait now, for a budget or for bytes.
    pub fn waiting(&self) -> Vec<Arc<Visit>> {
        let visits: Vec<_> = self.state().visits.iter().filter_map(Weak::upgrade).collect();
        visits.into_iter().filter(|visit| visit.is_waiting()).collect()
    }

    fn class(&self, place: usize) -> &Class {
        self.rules.classes.get(place)
    }

    /// The lines of the audit, oldest first.
    pub fn audit_lines(&self) -> std::io::Result<Lines> {
        self.audit.lines(&self.tenant)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides on an open, and pays for it where it is let through.
    fn rule(&self, owners: [Owner; 3], place: usize, ask: &Ask, now: Instant) -> Ruling {
        let class = self.class(place);
        let mut held = self.state();
        let state = &mut *held;
        let keeps = match (class.action, class.admit) {
            // Whoever changes or runs a file needs all of it.
            _ if ask.why != Why::Read => true,
            (Action::PassThrough, _) => false,
            (_, Admit::FirstTouch) => true,
            (_, Admit::SecondTouch) => state.touched.contains(&ask.ino),
        };
        // It is for what comes home: whoever leaves files where they are is none of it.
        if keeps && state.brake.alarm().is_some() {
            return Ruling::Denied(Denied::Brake);
        }
        let by_class = match class.action {
            Action::Deny => return Ruling::Denied(Denied::Class { class: class.name.clone() }),
            Action::Slow { files_per_second } => {
                let rate = u64::from(files_per_second);
                if state.slow.len() <= place {
                    state.slow.resize_with(place + 1, || None);
                }
                let level = state.slow[place].get_or_insert_with(|| Level::full(rate, now));
                level.wait(rate, rate, now)
            }
            Action::Allow | Action::PassThrough => Duration::ZERO,
        };
        let (wait, whose) = state.buckets.wait(owners, Some(ask.segment), now);
        let wait = wait.max(by_class);
        if !wait.is_zero() {
            return Ruling::Wait { whose, wait };
        }
        if let Some(Some(level)) = state.slow.get_mut(place) {
            level.spend(1);
        }
        state.buckets.spend(owners, Some(ask.segment), ask.bytes);
        if class.admit == Admit::SecondTouch && ask.why == Why::Read {
            state.touched.put(ask.ino, ());
        }
        if keeps && state.brake.count(1, ask.bytes, now) {
            drop(held);
            self.raise_alarm();
        }
        Ruling::Admitted { keeps }
    }

    /// Pays for bytes that are read in pieces: how long to wait first, or nothing.
    fn pay(&self, owners: [Owner; 3], piece: Piece, now: Instant) -> Option<(Owner, Duration)> {
        let mut state = self.state();
        let (wait, whose) = state.buckets.wait(owners, None, now);
        if !wait.is_zero() {
            return Some((whose, wait));
        }
        drop(state);
        self.owe(owners, piece, now);
        None
    }

    /// Pays for bytes that are read whether there is something to pay with or not.
    fn owe(&self, owners: [Owner; 3], piece: Piece, now: Instant) {
        let mut state = self.state();
        state.buckets.spend(owners, None, piece.bytes);
        if piece.keeps && state.brake.count(0, piece.bytes, now) {
            drop(state);
            self.raise_alarm();
        }
    }

    /// Durable before whoever raised it goes on, so that no kill lets go: once an alarm.
    fn raise_alarm(&self) {
        self.note_brake();
        if let Some(alarm) = self.alarm() {
            self.sound_alarm(&alarm);
        }
    }

    /// Brings the note in `.coldfs` in step with the brake, whoever changes it meanwhile.
    fn note_brake(&self) {
        let _one = self.brake_note.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = match self.alarm() {
            Some(alarm) => serde_json::to_string(&alarm)
                .map_err(std::io::Error::from)
                .and_then(|text| self.tenant.note(BRAKE, &text)),
            None => self.tenant.forget_note(BRAKE),
        };
        if let Err(error) = noted {
            tracing::error!(
                tenant = %self.tenant.name, %error,
                "cannot note the recall brake in .coldfs/brake: the next mount has it as it was"
            );
        }
    }

    fn sound_alarm(&self, alarm: &Alarm) {
        let Alarm { files, bytes, window, unreadable, .. } = alarm;
        if let Some(error) = unreadable {
            tracing::error!(tenant = %self.tenant.name, %error, "cannot read .coldfs/brake");
        }
        tracing::error!(
            tenant = %self.tenant.name, files, bytes, seconds = window.as_secs(),
            "the recall brake is on: cold files are refused (EACCES) until `coldfs brake \
             --release`; `coldfs top` and `coldfs audit` show who asked"
        );
    }

    fn patience_of(&self, place: usize) -> Duration {
        match self.class(place).over {
            Over::Wait => self.patience,
            Over::Deny => Duration::ZERO,
        }
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("rules", &self.rules).finish_non_exhaustive()
    }
}
