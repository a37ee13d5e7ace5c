//! The legal steps from one state to the next (DESIGN.md, section 3): every place that writes a
//! record asks here first, so that a step nobody thought of is a named error and not a record.

use crate::tier::State;

/// What happens to a file's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Its segment is verified and durable, the file unchanged since it was read.
    Archived,
    /// It is on the work list, and about to lose its body.
    ReleaseBegins,
    /// The stub stands and the body is cut to it.
    ReleaseEnds,
    /// A release was given up before the stub was written.
    ReleaseUndone,
    /// Opened for writing.
    WriterOpens,
    /// The last writer closed, and nothing moved.
    ClosedUnchanged,
    /// Its bytes are not the recorded version any more, and all of them are here.
    Changed,
    /// It is on the work list, and about to be filled.
    RecallBegins,
    /// All bytes are here and durable, as recorded.
    RecallEnds,
    /// All bytes are here and durable, and a program's change over them.
    RecallEndsChanged,
    /// A recall was given up: cut back to the stub.
    RecallUndone,
    /// Cut to nothing by a program.
    Emptied,
    /// Verified reads prove the remote bytes missing.
    ProvenMissing,
    /// A later read found them.
    FoundAgain,
    /// Attributes only: the record follows.
    AttributesChanged,
}

impl Event {
    /// Every event.
    pub const ALL: [Event; 15] = [
        Event::Archived,
        Event::ReleaseBegins,
        Event::ReleaseEnds,
        Event::ReleaseUndone,
        Event::WriterOpens,
        Event::ClosedUnchanged,
        Event::Changed,
        Event::RecallBegins,
        Event::RecallEnds,
        Event::RecallEndsChanged,
        Event::RecallUndone,
        Event::Emptied,
        Event::ProvenMissing,
        Event::FoundAgain,
        Event::AttributesChanged,
    ];
}

/// A step that no file may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no step from {} by {event:?}", from.map_or("resident", State::word))]
pub struct IllegalStep {
    /// From here (none: resident).
    pub from: Option<State>,
    /// By this.
    pub event: Event,
}

/// The state after `event`; none is resident, which has no record.
pub fn next(from: Option<State>, event: Event) -> Result<Option<State>, IllegalStep> {
    use Event as E;
    use State::{Archived, Lost, Recalling, Released, Releasing, Suspect};
    let to = match (event, from) {
        (E::Archived, None | Some(Suspect)) => Some(Archived),
        (E::ReleaseBegins, Some(Archived)) => Some(Releasing),
        // From archived: the table's row "finish", where the stub was found standing.
        (E::ReleaseEnds, Some(Archived | Releasing)) => Some(Released),
        (E::ReleaseUndone, Some(Releasing)) => Some(Archived),
        (E::WriterOpens, Some(Archived | Suspect)) => Some(Suspect),
        (E::WriterOpens, None) => None,
        (E::ClosedUnchanged, Some(Suspect)) => Some(Archived),
        (E::ClosedUnchanged, None) => None,
        (E::Changed, None | Some(Archived | Suspect | Releasing)) => None,
        (E::RecallBegins, Some(Released)) => Some(Recalling),
        // From releasing and released: the table's row "content hash equal: archived".
        (E::RecallEnds, Some(Releasing | Released | Recalling)) => Some(Archived),
        (E::RecallEndsChanged, Some(Recalling)) => None,
        // From releasing: a torn head under it is repaired into a stub.
        (E::RecallUndone, Some(Recalling | Releasing)) => Some(Released),
        (E::Emptied, _) => None,
        (E::ProvenMissing, Some(Released | Lost)) => Some(Lost),
        (E::FoundAgain, Some(Lost)) => Some(Released),
        (E::AttributesChanged, same) => same,
        (E::Archived, Some(Archived | Releasing | Released | Recalling | Lost))
        | (E::ReleaseBegins, None | Some(Suspect | Releasing | Released | Recalling | Lost))
        | (E::ReleaseEnds, None | Some(Suspect | Released | Recalling | Lost))
        | (E::ReleaseUndone, None | Some(Archived | Suspect | Released | Recalling | Lost))
        | (E::WriterOpens, Some(Releasing | Released | Recalling | Lost))
        | (E::ClosedUnchanged, Some(Archived | Releasing | Released | Recalling | Lost))
        | (E::Changed, Some(Released | Recalling | Lost))
        | (E::RecallBegins, None | Some(Archived | Suspect | Releasing | Recalling | Lost))
        | (E::RecallEnds, None | Some(Archived | Suspect | Lost))
        | (E::RecallEndsChanged, None | Some(Archived | Suspect | Releasing | Released | Lost))
        | (E::RecallUndone, None | Some(Archived | Suspect | Released | Lost))
        | (E::ProvenMissing, None | Some(Archived | Suspect | Releasing | Recalling))
        | (E::FoundAgain, None | Some(Archived | Suspect | Releasing | Released | Recalling)) => {
            return Err(IllegalStep { from, event });
        }
    };
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_states() -> Vec<Option<State>> {
        std::iter::once(None).chain(State::ALL.map(Some)).collect()
    }

    #[test]
    fn only_an_archived_file_begins_to_lose_its_body() {
        for from in all_states() {
            let legal = next(from, Event::ReleaseBegins).is_ok();
            assert_eq!(legal, from == Some(State::Archived), "{from:?}"); // I2
        }
    }

    #[test]
    fn nothing_but_a_verified_copy_or_a_proof_makes_a_file_archived() {
        for from in all_states() {
            for event in Event::ALL {
                let becomes = next(from, event) == Ok(Some(State::Archived));
                if becomes && from != Some(State::Archived) {
                    assert!(
                        matches!(
                            event,
                            Event::Archived
                                | Event::ReleaseUndone
                                | Event::ClosedUnchanged
                                | Event::RecallEnds
                        ),
                        "{from:?} {event:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn bytes_that_are_only_remote_are_never_forgotten_but_by_emptying() {
        for event in Event::ALL {
            let forgets = next(Some(State::Released), event) == Ok(None);
            assert_eq!(forgets, event == Event::Emptied, "{event:?}");
        }
    }

    #[test]
    fn every_state_is_left_and_reached() {
        for state in State::ALL {
            let leaves = Event::ALL
                .iter()
                .any(|e| matches!(next(Some(state), *e), Ok(to) if to != Some(state)));
            let reached = all_states().into_iter().any(|from| {
                from != Some(state) && Event::ALL.iter().any(|e| next(from, *e) == Ok(Some(state)))
            });
            assert!(leaves && reached, "{state:?}");
        }
    }
}
