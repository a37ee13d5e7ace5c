//! The brake: when a tenant's files come home in masses, something is wrong (ransomware, a
//! copy of everything, a scanner that nobody named). It holds until a person lets go.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// When the brake is put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrakeLimits {
    /// Cold files opened within the window to bring them home.
    pub files: u64,
    /// Bytes of such files asked for within the window.
    pub bytes: u64,
    /// The window.
    pub window: Duration,
}

impl Default for BrakeLimits {
    /// Ten minutes of a person's work come nowhere near.
    fn default() -> Self {
        Self { files: 50_000, bytes: 256 << 30, window: Duration::from_mins(10) }
    }
}

/// Why and when it was put on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// Files within the window.
    pub files: u64,
    /// Bytes within the window.
    pub bytes: u64,
    /// The window.
    pub window: Duration,
    /// Seconds since 1970.
    pub since: u64,
    /// What is wrong with the note of it in `.coldfs`: it counts nothing then, and the brake is on.
    #[serde(skip)]
    pub unreadable: Option<String>,
}

impl Alarm {
    /// The alarm that a note of an earlier run tells of.
    pub(super) fn of_note(note: std::io::Result<String>, limits: &BrakeLimits) -> Self {
        let note = note.and_then(|text| Ok(serde_json::from_str(&text)?));
        note.unwrap_or_else(|error| Self {
            files: 0,
            bytes: 0,
            window: limits.window,
            since: now_seconds(),
            unreadable: Some(error.to_string()),
        })
    }
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Parts of the window that are counted apart.
const PARTS: u32 = 10;

#[derive(Debug)]
pub(super) struct Brake {
    limits: BrakeLimits,
    parts: [(u64, u64); PARTS as usize],
    part: usize,
    part_began: Instant,
    alarm: Option<Alarm>,
}

impl Brake {
    /// `alarm`: it is on since an earlier run.
    pub(super) fn new(limits: BrakeLimits, alarm: Option<Alarm>, now: Instant) -> Self {
        let parts = [(0, 0); PARTS as usize];
        Self { limits, parts, part: 0, part_began: now, alarm }
    }

    pub(super) fn alarm(&self) -> Option<&Alarm> {
        self.alarm.as_ref()
    }

    /// Lets go, and counts from nothing. False: it was not on.
    pub(super) fn let_go(&mut self) -> bool {
        self.parts = [(0, 0); PARTS as usize];
        self.alarm.take().is_some()
    }

    /// Counts what was let through. True: that was too much, the brake is on from now.
    pub(super) fn count(&mut self, files: u64, bytes: u64, now: Instant) -> bool {
        let length = self.limits.window / PARTS;
        let mut behind = now.saturating_duration_since(self.part_began);
        for _ in 0..PARTS {
            if behind < length {
                break;
            }
            behind -= length;
            self.part = (self.part + 1) % self.parts.len();
            self.parts[self.part] = (0, 0);
            self.part_began = now.checked_sub(behind).unwrap_or(now);
        }
        if behind >= length {
            self.part_began = now;
        }
        let part = &mut self.parts[self.part];
        *part = (part.0 + files, part.1 + bytes);
        let (files, bytes) = self.parts.iter().fold((0, 0), |(files, bytes): (u64, u64), part| {
            (files + part.0, bytes.saturating_add(part.1))
        });
        let over = files > self.limits.files || bytes > self.limits.bytes;
        if !over || self.alarm.is_some() {
            return false;
        }
        let (window, since) = (self.limits.window, now_seconds());
        self.alarm = Some(Alarm { files, bytes, window, since, unreadable: None });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing;

    #[test]
    fn decoding_a_note_of_it_never_panics_and_never_lets_go() {
        let alarm = Alarm {
            files: 101,
            bytes: 7,
            window: LIMITS.window,
            since: 1_700_000_000,
            unreadable: None,
        };
        let text = serde_json::to_vec(&alarm).unwrap();
        fuzzing::run(|dice| {
            fuzzing::read_json(dice, &alarm);
            let note = String::from_utf8(dice.mangled(&text)).map_err(std::io::Error::other);
            let read = Alarm::of_note(note, &LIMITS);
            assert!(Brake::new(LIMITS, Some(read), Instant::now()).alarm().is_some());
        });
    }

    const LIMITS: BrakeLimits =
        BrakeLimits { files: 100, bytes: 1_000, window: Duration::from_secs(100) };

    #[test]
    fn it_is_put_on_once_and_let_go_by_a_person_only() {
        let now = Instant::now();
        let mut brake = Brake::new(LIMITS, None, now);
        for _ in 0..100 {
            assert!(!brake.count(1, 0, now));
        }
        assert!(brake.count(1, 0, now));
        assert_eq!(brake.alarm().map(|alarm| alarm.files), Some(101));
        let now = now + Duration::from_secs(1_000);
        assert!(!brake.count(0, 0, now), "once");
        assert!(brake.alarm().is_some());
        assert!(brake.let_go() && !brake.let_go());
        assert!(brake.count(0, 1_001, now));
    }

    #[test]
    fn what_comes_slowly_is_never_too_much() {
        let mut now = Instant::now();
        let mut brake = Brake::new(LIMITS, None, now);
        for _ in 0..10_000 {
            now += Duration::from_millis(1_200);
            assert!(!brake.count(1, 5, now));
        }
    }
}
