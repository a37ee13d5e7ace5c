//! What is known of a file, as the policy is told and as the guards take it. Pure.

use super::guards::{ATIME_SECONDS, Facts};
use crate::catalog::offers::{Class, Offer};
use crate::heat::{Sight, Source};
use crate::policy::contract::{self, Candidate, Evidence, Residency};
use crate::temperature::{HalfLife, Second};
use crate::tenant::Pin;

/// By what files are judged now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now: Second,
    /// Times from before this are another clock's.
    pub(super) since: Second,
    pub(super) sight: Sight,
    pub(super) keeps_atime: bool,
    pub(super) half_life: HalfLife,
}

impl Moment {
    /// For how long the probe proves that nobody used a file.
    fn observed_idle(&self, offer: &Offer) -> Option<u32> {
        match self.sight.source {
            Source::Probe(_) => {
                let until = self.sight.until.min(self.now);
                let idle = offer.heat.idle_seconds(until, self.sight.since);
                Some(idle.min(self.unchanged(offer)))
            }
            // Unknown is not cold.
            Source::Nothing | Source::Partly(_) | Source::Opens => None,
        }
    }

    /// How long ago a file was used last, by its atime and all else that is known.
    fn atime_idle(&self, offer: &Offer) -> Option<u32> {
        // An atime of 0 is that of a filesystem that keeps none.
        if !self.keeps_atime || offer.atime == Second(0) {
            return None;
        }
        let last = offer.atime.max(offer.heat.last);
        Some(self.passed(last).min(self.unchanged(offer)))
    }

    fn unchanged(&self, offer: &Offer) -> u32 {
        self.passed(Second::of_unix(offer.mtime_seconds))
    }

    fn passed(&self, then: Second) -> u32 {
        self.now.since(then.max(self.since))
    }

    fn recalled_seconds(&self, offer: &Offer) -> Option<u32> {
        (offer.recalled != Second(0)).then(|| self.passed(offer.recalled))
    }

    /// For the guards.
    pub(super) fn facts(&self, offer: &Offer, open: bool, pin: Option<Pin>) -> Facts {
        Facts {
            size_bytes: offer.size_bytes,
            open,
            pin,
            observed_idle: self.observed_idle(offer),
            atime_idle: self.atime_idle(offer).map(|idle| idle.saturating_sub(ATIME_SECONDS)),
            recalled_seconds: self.recalled_seconds(offer),
        }
    }

    /// For the policy, with the better of both proofs.
    pub(super) fn candidate(&self, offer: &Offer, open_count: u32, pin: Option<Pin>) -> Candidate {
        let (observed, by_atime) = (self.observed_idle(offer), self.atime_idle(offer));
        let (idle_seconds, evidence) = match (observed, by_atime) {
            (observed, Some(atime))
                if observed.is_none_or(|idle| atime.saturating_sub(ATIME_SECONDS) > idle) =>
            {
                (atime, Evidence::Atime)
            }
            (Some(idle), _) => (idle, Evidence::Observed),
            (None, _) => (self.unchanged(offer), Evidence::Unknown),
        };
        Candidate {
            file_id: offer.ino.0,
            size_bytes: offer.size_bytes,
            local_bytes: offer.local_bytes,
            mtime_seconds: offer.mtime_seconds,
            idle_seconds,
            evidence,
            heat: offer.heat.score(self.now, self.half_life),
            recalled_seconds: self.recalled_seconds(offer),
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
    use crate::file_id::Ino;
    use crate::heat::Kind;
    use crate::temperature::Heat;

    const DAY: u32 = 86_400;
    const NOW: Second = Second(20_000 * DAY);

    fn offer() -> Offer {
        let old = Second(19_000 * DAY);
        Offer {
            ino: Ino(7),
            class: Class::Archived,
            size_bytes: 10_000,
            local_bytes: 12_288,
            mtime_seconds: old.0.into(),
            atime: old,
            recalled: Second(0),
            heat: Heat::met(NOW),
            pin: None,
            dir: None,
        }
    }

    fn moment(source: Source, keeps_atime: bool) -> Moment {
        let sight = Sight { source, since: Second(19_990 * DAY), until: NOW, ..Sight::default() };
        let half_life = HalfLife::default();
        Moment { now: NOW, since: Second(0), sight, keeps_atime, half_life }
    }

    #[test]
    fn what_a_wrong_clock_stamped_is_not_old_once_it_is_right() {
        let set = |source, keeps_atime| {
            let moment = Moment { since: Second(NOW.0 - 60), ..moment(source, keeps_atime) };
            let home = Offer { recalled: Second(19_000 * DAY), ..offer() };
            let heat = Heat::met(Second(19_000 * DAY));
            moment.facts(&Offer { heat, ..home }, false, None)
        };
        let facts = set(Source::Opens, true);
        assert_eq!((facts.atime_idle, facts.recalled_seconds), (Some(0), Some(60)));
        assert_eq!(set(Source::Probe(Kind::TpBtf), false).observed_idle, Some(60));
    }

    #[test]
    fn an_atime_proves_what_the_probe_has_not_seen_yet() {
        let probe = Source::Probe(Kind::TpBtf);
        let facts = moment(probe, true).facts(&offer(), false, None);
        assert_eq!((facts.observed_idle, facts.atime_idle), (Some(0), Some(999 * DAY)));
        let facts = moment(probe, false).facts(&offer(), false, None);
        assert_eq!((facts.observed_idle, facts.atime_idle), (Some(0), None), "noatime");
        let facts = moment(Source::Opens, false).facts(&offer(), false, None);
        assert_eq!(facts.proven_idle(), None, "unknown is not cold");
        let none = Offer { atime: Second(0), ..offer() };
        assert_eq!(moment(Source::Opens, true).facts(&none, false, None).proven_idle(), None);
    }

    #[test]
    fn whatever_was_seen_last_counts() {
        let mut used = offer();
        used.heat.touch(
            1,
            Second(NOW.0 - 60),
            crate::temperature::Evidence::Open,
            HalfLife::default(),
        );
        assert_eq!(moment(Source::Opens, true).facts(&used, false, None).atime_idle, Some(0));
        let written = Offer { mtime_seconds: i64::from(NOW.0) - 5, ..offer() };
        assert_eq!(moment(Source::Opens, true).facts(&written, false, None).atime_idle, Some(0));
        let watched = Offer { heat: Heat::met(Second(19_000 * DAY)), ..offer() };
        let facts = moment(Source::Probe(Kind::TpBtf), false).facts(&watched, false, None);
        assert_eq!(facts.observed_idle, Some(10 * DAY), "since all was seen");
        let later = Offer { mtime_seconds: i64::from(NOW.0) + 999, ..watched };
        let facts = moment(Source::Probe(Kind::TpBtf), false).facts(&later, false, None);
        assert_eq!(facts.observed_idle, Some(0), "of tomorrow");
    }
}
