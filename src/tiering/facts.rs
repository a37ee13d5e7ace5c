//! What is known of a file, as the policy is told and as the guards take it. Pure.

use super::guards::{ATIME_SECONDS, Facts};
use crate::catalog::offers::{Class, Offer};
use crate::heat::{Sight, Source};
use crate::policy::contract::{self, Candidate, Evidence, Residency};
use crate::temperature::{HalfLife, Heat, Second};
use crate::tenant::Pin;

/// By what files are judged now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now: Second,
    pub(super) sight: Sight,
    pub(super) keeps_atime: bool,
    pub(super) half_life: HalfLife,
}

/// Times of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) mtime_seconds: i64,
    pub(super) atime: Second,
    pub(super) heat: Heat,
    pub(super) recalled: Second,
}

impl Times {
    /// As a file is offered.
    pub(super) fn of(offer: &Offer) -> Self {
        let Offer { mtime_seconds, atime, heat, recalled, .. } = *offer;
        Self { mtime_seconds, atime, heat, recalled }
    }
}

impl Moment {
    /// For how long the probe proves that nobody used a file.
    fn observed_idle(&self, times: &Times) -> Option<u32> {
        match self.sight.source {
            Source::Probe(_) => {
                let until = self.sight.until.min(self.now);
                let idle = times.heat.idle_seconds(until, self.sight.since);
                Some(idle.min(self.unchanged(times)))
            }
            // Unknown is not cold.
            Source::Nothing | Source::Partly(_) | Source::Opens => None,
        }
    }

    /// How long ago a file was used last, by its atime and all else that is known.
    fn atime_idle(&self, times: &Times) -> Option<u32> {
        // An atime of 0 is that of a filesystem that keeps none.
        if !self.keeps_atime || times.atime == Second(0) {
            return None;
        }
        let last = times.atime.max(times.heat.last);
        Some(self.now.since(last).min(self.unchanged(times)))
    }

    fn unchanged(&self, times: &Times) -> u32 {
        self.now.since(Second::of_unix(times.mtime_seconds))
    }

    fn recalled_seconds(&self, times: &Times) -> Option<u32> {
        (times.recalled != Second(0)).then(|| self.now.since(times.recalled))
    }

    /// For the guards.
    pub(super) fn facts(&self, times: &Times, open: bool, pin: Option<Pin>) -> Facts {
        Facts {
            open,
            pin,
            observed_idle: self.observed_idle(times),
            atime_idle: self.atime_idle(times).map(|idle| idle.saturating_sub(ATIME_SECONDS)),
            recalled_seconds: self.recalled_seconds(times),
        }
    }

    /// For the policy, with the better of both proofs.
    pub(super) fn candidate(
        &self,
        offer: &Offer,
        times: &Times,
        open_count: u32,
        pin: Option<Pin>,
    ) -> Candidate {
        let (observed, by_atime) = (self.observed_idle(times), self.atime_idle(times));
        let (idle_seconds, evidence) = match (observed, by_atime) {
            (observed, Some(atime))
                if observed.is_none_or(|idle| atime.saturating_sub(ATIME_SECONDS) > idle) =>
            {
                (atime, Evidence::Atime)
            }
            (Some(idle), _) => (idle, Evidence::Observed),
            (None, _) => (self.unchanged(times), Evidence::Unknown),
        };
        Candidate {
            file_id: offer.ino.0,
            size_bytes: offer.size_bytes,
            local_bytes: offer.local_bytes,
            mtime_seconds: offer.mtime_seconds,
            idle_seconds,
            evidence,
            heat: times.heat.score(self.now, self.half_life),
            recalled_seconds: self.recalled_seconds(times),
            open_count,
            residency: match offer.class {
                Class::Resident => Residency::Resident,
                Class::Archived => Residency::Archived,
                Class::Released => Residency::Released,
            },
            path: None,
            owner: None,
            pin: match pin {
                None => contract::Pin::None,
                Some(Pin::NeverArchive) => contract::Pin::NeverArchive,
                Some(Pin::NeverRelease) => contract::Pin::NeverRelease,
            },
        }
    }
}

/// The word for how idleness is known.
pub(super) fn evidence_word(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::Observed => "observed",
        Evidence::Atime => "atime",
        Evidence::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heat::Kind;

    const DAY: u32 = 86_400;
    const NOW: Second = Second(20_000 * DAY);

    fn times() -> Times {
        let old = Second(19_000 * DAY);
        Times { mtime_seconds: old.0.into(), atime: old, heat: Heat::met(NOW), recalled: Second(0) }
    }

    fn moment(source: Source, keeps_atime: bool) -> Moment {
        let sight = Sight { source, since: Second(19_990 * DAY), until: NOW, ..Sight::default() };
        Moment { now: NOW, sight, keeps_atime, half_life: HalfLife::default() }
    }

    #[test]
    fn an_atime_proves_what_the_probe_has_not_seen_yet() {
        let probe = Source::Probe(Kind::TpBtf);
        let facts = moment(probe, true).facts(&times(), false, None);
        assert_eq!((facts.observed_idle, facts.atime_idle), (Some(0), Some(999 * DAY)));
        let facts = moment(probe, false).facts(&times(), false, None);
        assert_eq!((facts.observed_idle, facts.atime_idle), (Some(0), None), "noatime");
        let facts = moment(Source::Opens, false).facts(&times(), false, None);
        assert_eq!(facts.proven_idle(), None, "unknown is not cold");
        let none = Times { atime: Second(0), ..times() };
        assert_eq!(moment(Source::Opens, true).facts(&none, false, None).proven_idle(), None);
    }

    #[test]
    fn whatever_was_seen_last_counts() {
        let mut used = times();
        used.heat.touch(
            1,
            Second(NOW.0 - 60),
            crate::temperature::Evidence::Open,
            HalfLife::default(),
        );
        assert_eq!(moment(Source::Opens, true).facts(&used, false, None).atime_idle, Some(0));
        let written = Times { mtime_seconds: i64::from(NOW.0) - 5, ..times() };
        assert_eq!(moment(Source::Opens, true).facts(&written, false, None).atime_idle, Some(0));
        let watched = Times { heat: Heat::met(Second(19_000 * DAY)), ..times() };
        let facts = moment(Source::Probe(Kind::TpBtf), false).facts(&watched, false, None);
        assert_eq!(facts.observed_idle, Some(10 * DAY), "since all was seen");
        let later = Times { mtime_seconds: i64::from(NOW.0) + 999, ..watched };
        let facts = moment(Source::Probe(Kind::TpBtf), false).facts(&later, false, None);
        assert_eq!(facts.observed_idle, Some(0), "of tomorrow");
    }
}
