//! When errors repeat, moves stop for a while. Pure.
//!
//! ```text
//! closed --store away, or half of a hundred and more failed--> open, 30 s, then twice as long ...
//!   ^------------------- a batch without such errors --------- half open: the next batch tries
//! ```

use std::time::{Duration, Instant};

use super::Broken;
use crate::migrate::{MigrateError, Unproven};
use crate::recall::RecallError;
use crate::segment::verify::VerifyError;

const SHORTEST: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_mins(30);
/// Errors of a class from which their share counts (DESIGN.md, section 9).
const ERRORS: u64 = 100;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The store does not answer, or refuses: the same for every file.
    Store,
    /// The disk below: full, or failing.
    Disk,
    /// One file's own.
    File,
}

impl Class {
    /// For people and scripts.
    pub fn word(self) -> &'static str {
        match self {
            Class::Store => "store",
            Class::Disk => "disk",
            Class::File => "file",
        }
    }

    /// Of an error of a move.
    pub fn of(error: &MigrateError) -> Self {
        match error {
            MigrateError::Unproven(unproven) => match &**unproven {
                Unproven::Stored(_) | Unproven::Verified(VerifyError::Store { .. }) => Class::Store,
                Unproven::Built(_) | Unproven::Verified(VerifyError::Differs { .. }) => Class::File,
            },
            MigrateError::Local { source, .. } => Class::local(source),
            MigrateError::Index(error) if !error.is_loss() => Class::Store,
            MigrateError::Index(_) | MigrateError::Unlike(_) | MigrateError::OtherOwner { .. } => {
                Class::File
            }
        }
    }
}

impl Class {
    /// Of an error of a recall; none: somebody was faster, and nothing went wrong.
    pub fn of_recall(error: &RecallError) -> Option<Self> {
        match error {
            RecallError::Deadline { .. } | RecallError::Refused { .. } => Some(Class::Store),
            RecallError::NoSpace { .. } | RecallError::Queued { .. } => Some(Class::Disk),
            RecallError::Local(error) => Some(Class::local(error)),
            RecallError::Lost { .. }
            | RecallError::Damaged { .. }
            | RecallError::Newer { .. }
            | RecallError::Offline { .. }
            | RecallError::Orphan
            | RecallError::Stranger { .. }
            | RecallError::Conflict { .. }
            | RecallError::Unwritable => Some(Class::File),
            RecallError::Busy
            | RecallError::Cancelled
            | RecallError::Superseded
            | RecallError::Detaching => None,
        }
    }

    fn local(error: &std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EIO | libc::EROFS) => Class::Disk,
            _ => Class::File,
        }
    }
}

/// The breaker of one tenant.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    open: Option<(Class, String, Instant)>,
    /// How often it opened in a row.
    times: u32,
    tried: u64,
    failed: [u64; 3],
}

impl Breaker {
    /// What it stands open for, while it does.
    pub fn broken(&self, now: Instant) -> Option<Broken> {
        let (class, error, until) = self.open.as_ref().filter(|(_, _, until)| *until > now)?;
        Some(Broken {
            class: class.word().to_owned(),
            error: error.clone(),
            seconds: until.duration_since(now).as_secs().max(1),
        })
    }

    /// A batch of `files` ended with these errors.
    pub fn note(&mut self, files: u64, errors: &[(Class, String)], now: Instant) {
        self.tried += files;
        for (class, _) in errors {
            self.failed[*class as usize] += 1;
        }
        let worst = errors.iter().find(|(class, _)| {
            let failed = self.failed[*class as usize];
            *class == Class::Store || failed >= ERRORS && failed * 2 >= self.tried
        });
        match worst {
            Some((class, error)) => {
                let pause = SHORTEST.saturating_mul(1 << self.times.min(10)).min(LONGEST);
                self.open = Some((*class, error.clone(), now + pause));
                self.times += 1;
                (self.tried, self.failed) = (0, [0; 3]);
            }
            None if errors.is_empty() && files > 0 => *self = Self::default(),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(class: Class, count: usize) -> Vec<(Class, String)> {
        vec![(class, "no".to_owned()); count]
    }

    #[test]
    fn a_store_that_is_away_stops_all_and_is_tried_again_later_and_later() {
        let (mut breaker, mut now) = (Breaker::default(), super::super::now());
        for seconds in [30, 60, 120] {
            breaker.note(10, &errors(Class::Store, 10), now);
            assert_eq!(breaker.broken(now).map(|broken| broken.seconds), Some(seconds));
            now += Duration::from_secs(seconds);
            assert!(breaker.broken(now).is_none(), "the next batch tries");
        }
        breaker.note(10, &[], now);
        breaker.note(10, &errors(Class::Store, 1), now);
        assert_eq!(breaker.broken(now).map(|broken| broken.seconds), Some(30));
        for _ in 0..40 {
            breaker.note(1, &errors(Class::Store, 1), now);
        }
        assert_eq!(breaker.broken(now).map(|broken| broken.seconds), Some(LONGEST.as_secs()));
    }

    #[test]
    fn single_files_that_fail_stop_nothing_but_a_hundred_and_half_do() {
        let (mut breaker, now) = (Breaker::default(), super::super::now());
        breaker.note(1_000, &errors(Class::File, 120), now);
        assert!(breaker.broken(now).is_none(), "120 of 1,000");
        breaker.note(100, &errors(Class::Disk, 99), now);
        assert!(breaker.broken(now).is_none(), "99");
        let mut breaker = Breaker::default();
        breaker.note(200, &errors(Class::Disk, 100), now);
        assert_eq!(breaker.broken(now).map(|broken| broken.class), Some("disk".into()));
    }
}
