//! What a segment is to reaping: a function from facts, without I/O.

/// What is known of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its key is one that coldfs gives.
    pub key_is_ours: bool,
    /// It is being uploaded, or its records are being set.
    pub uploading: bool,
    /// The read of the directory was complete.
    pub complete: bool,
    /// Something names it.
    pub named: bool,
    /// What its own index says.
    pub index: IndexFact,
    /// How long ago it was made; none: its name says a time that has not come.
    pub age_seconds: Option<u64>,
    /// How old it has to be.
    pub grace_seconds: u64,
}

/// What a segment's own index says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexFact {
    /// It cannot be read: away, offline, denied, damaged, or of a newer coldfs.
    Unread,
    /// It was read.
    Read {
        /// Its entries.
        entries: u32,
        /// Those of them that are named.
        live: u32,
        /// Whether entries of other segments lie in it, which files may name instead.
        took_over: bool,
    },
}

/// What a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of it is named.
    Live,
    /// Some of its entries are named by nobody.
    PartlyDead,
    /// Nobody names it.
    Dead,
    /// Nobody names it, and it is too young to say so.
    Young(Youth),
    /// Nobody can say.
    Held(Hold),
}

/// Why a segment is too young.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Youth {
    /// Its records may be set at any moment.
    Uploading,
    /// It was made within the grace, or its name says a time that has not come.
    Fresh,
}

/// Why nobody can say what a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Something else has a segment's place.
    StrangeKey,
    /// What could not be read may name it.
    Incomplete,
    /// Its own index cannot be read.
    Index,
    /// Files may name it by names of other segments.
    TookOver,
}

/// What follows from the facts; the first row that fits wins.
pub fn verdict(facts: &Facts) -> Verdict {
    let is_old = facts.age_seconds.is_some_and(|age| age >= facts.grace_seconds);
    match (facts.key_is_ours, facts.uploading, facts.index) {
        (false, _, _) => Verdict::Held(Hold::StrangeKey),
        (true, true, _) => Verdict::Young(Youth::Uploading),
        (true, false, IndexFact::Unread) => Verdict::Held(Hold::Index),
        (true, false, IndexFact::Read { took_over: true, .. }) => Verdict::Held(Hold::TookOver),
        (true, false, IndexFact::Read { took_over: false, entries, live })
            if facts.named && live >= entries =>
        {
            Verdict::Live
        }
        (true, false, IndexFact::Read { took_over: false, .. }) => {
            match (facts.complete, facts.named, is_old) {
                (false, _, _) => Verdict::Held(Hold::Incomplete),
                (true, true, _) => Verdict::PartlyDead,
                (true, false, false) => Verdict::Young(Youth::Fresh),
                (true, false, true) => Verdict::Dead,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: IndexFact = IndexFact::Read { entries: 3, live: 0, took_over: false };
    const DEAD: Facts = Facts {
        key_is_ours: true,
        uploading: false,
        complete: true,
        named: false,
        index: READ,
        age_seconds: Some(100),
        grace_seconds: 100,
    };

    /// All facts that there can be.
    fn all() -> Vec<Facts> {
        let bools = [false, true];
        let indexes = [
            IndexFact::Unread,
            READ,
            IndexFact::Read { entries: 3, live: 2, took_over: false },
            IndexFact::Read { entries: 3, live: 3, took_over: false },
            IndexFact::Read { entries: 0, live: 0, took_over: false },
            IndexFact::Read { entries: 3, live: 0, took_over: true },
            IndexFact::Read { entries: 3, live: 3, took_over: true },
        ];
        let mut all = Vec::new();
        for key_is_ours in bools {
            for uploading in bools {
                for complete in bools {
                    for named in bools {
                        for index in indexes {
                            for age_seconds in [None, Some(0), Some(99), Some(100), Some(101)] {
                                for grace_seconds in [0, 100] {
                                    all.push(Facts {
                                        key_is_ours,
                                        uploading,
                                        complete,
                                        named,
                                        index,
                                        age_seconds,
                                        grace_seconds,
                                    });
                                }
                            }
                        }
                    }
                }
            }
        }
        all
    }

    #[test]
    fn a_segment_is_dead_only_where_every_fact_says_so() {
        for facts in all() {
            let is_dead = facts.key_is_ours
                && !facts.uploading
                && facts.complete
                && !facts.named
                && matches!(facts.index, IndexFact::Read { took_over: false, .. })
                && facts.age_seconds.is_some_and(|age| age >= facts.grace_seconds);
            assert_eq!(verdict(&facts) == Verdict::Dead, is_dead, "{facts:?}");
        }
    }

    #[test]
    fn nothing_dead_is_claimed_of_what_was_not_read_completely() {
        for facts in all().iter().filter(|facts| !facts.complete) {
            let verdict = verdict(facts);
            assert!(!matches!(verdict, Verdict::Dead | Verdict::PartlyDead), "{facts:?}");
            assert_ne!(verdict, Verdict::Young(Youth::Fresh), "{facts:?}");
        }
    }

    #[test]
    fn each_verdict_has_its_reason() {
        let some = IndexFact::Read { entries: 3, live: 2, took_over: false };
        let full = IndexFact::Read { entries: 3, live: 3, took_over: false };
        let took_over = IndexFact::Read { entries: 3, live: 0, took_over: true };
        for (facts, expected) in [
            (DEAD, Verdict::Dead),
            (Facts { named: true, index: full, ..DEAD }, Verdict::Live),
            // What is named needs no complete read.
            (Facts { named: true, index: full, complete: false, ..DEAD }, Verdict::Live),
            (Facts { named: true, index: some, ..DEAD }, Verdict::PartlyDead),
            (
                Facts { named: true, index: some, complete: false, ..DEAD },
                Verdict::Held(Hold::Incomplete),
            ),
            (Facts { age_seconds: Some(99), ..DEAD }, Verdict::Young(Youth::Fresh)),
            (Facts { age_seconds: None, grace_seconds: 0, ..DEAD }, Verdict::Young(Youth::Fresh)),
            (Facts { uploading: true, ..DEAD }, Verdict::Young(Youth::Uploading)),
            (Facts { complete: false, ..DEAD }, Verdict::Held(Hold::Incomplete)),
            (Facts { index: IndexFact::Unread, ..DEAD }, Verdict::Held(Hold::Index)),
            (Facts { index: took_over, ..DEAD }, Verdict::Held(Hold::TookOver)),
            (Facts { key_is_ours: false, ..DEAD }, Verdict::Held(Hold::StrangeKey)),
        ] {
            assert_eq!(verdict(&facts), expected, "{facts:?}");
        }
    }
}
