//! The table: every combination, printed and judged by invariants, and DESIGN.md's rows one by
//! one.

use super::*;

const HEADS: [HeadFact; 4] = [HeadFact::Stub, HeadFact::OtherStub, HeadFact::Torn, HeadFact::Plain];
const SIZES: [SizeFact; 4] =
    [SizeFact::Zero, SizeFact::StubSize, SizeFact::Recorded, SizeFact::Other];
const CONTENTS: [ContentFact; 3] = [ContentFact::Unknown, ContentFact::Equal, ContentFact::Differs];

fn records() -> Vec<RecordFact> {
    let mut records = vec![RecordFact::None, RecordFact::Misfit, RecordFact::Foreign];
    records.extend(State::ALL.map(RecordFact::Is));
    records
}

fn every(mut judge: impl FnMut(RecordFact, BodyFact, ContentFact, Verdict)) {
    for record in records() {
        for size in SIZES {
            for head in HEADS {
                for times_match in [true, false] {
                    for content in CONTENTS {
                        let body = BodyFact { size, head, times_match };
                        judge(record, body, content, verdict(record, body, content));
                    }
                }
            }
        }
    }
}

#[test]
fn every_combination_has_an_answer_and_is_printed() {
    let mut rows = 0;
    every(|record, body, content, verdict| {
        rows += 1;
        println!(
            "{:<15} {:<9} {:<10} times {:<5} {:<8} -> {verdict:?}",
            format!("{record:?}"),
            format!("{:?}", body.size),
            format!("{:?}", body.head),
            body.times_match,
            format!("{content:?}"),
        );
    });
    assert_eq!(rows, 9 * 4 * 4 * 2 * 3);
}

#[test]
fn a_body_is_changed_only_where_its_head_is_the_records_own_stub_or_torn() {
    every(|record, body, content, verdict| {
        if verdict.changes_body() {
            let ours = matches!(body.head, HeadFact::Stub | HeadFact::Torn);
            assert!(ours, "I10: {record:?} {body:?} {content:?} -> {verdict:?}");
            assert!(matches!(record, RecordFact::Is(_)), "{record:?} {body:?} -> {verdict:?}");
            let known = matches!(body.size, SizeFact::StubSize | SizeFact::Recorded);
            assert!(known, "a size that nobody recorded: {record:?} {body:?} -> {verdict:?}");
        }
    });
}

#[test]
fn a_stub_or_part_of_one_is_never_served_as_bytes() {
    every(|record, body, content, verdict| {
        let own = record == RecordFact::Is(State::Archived)
            && (body.head, body.size, body.times_match)
                == (HeadFact::Torn, SizeFact::Recorded, true);
        if body.head.is_stub() && body.size != SizeFact::Zero && !own {
            assert_ne!(
                verdict.source(),
                Source::Local,
                "P6: {record:?} {body:?} {content:?} -> {verdict:?}"
            );
        }
    });
}

#[test]
fn a_plain_body_is_never_answered_from_the_segment() {
    every(|record, body, content, verdict| {
        if body.head == HeadFact::Plain {
            assert_ne!(verdict.source(), Source::Remote, "{record:?} {body:?} {content:?}");
        }
    });
}

#[test]
fn a_record_is_dropped_only_where_the_body_is_not_a_stub() {
    every(|record, body, content, verdict| {
        if verdict == Verdict::ResidentDropRecord {
            assert_eq!(body.head, HeadFact::Plain, "{record:?} {body:?} {content:?}");
            let dropped = matches!(
                record,
                RecordFact::Misfit | RecordFact::Is(State::Archived | State::Suspect)
            );
            assert!(dropped, "a record of bytes that are remote only: {record:?} {body:?}");
        }
    });
}

#[test]
fn a_foreign_record_is_always_kept() {
    every(|record, body, _, verdict| {
        if record == RecordFact::Foreign {
            assert_eq!(verdict, Verdict::ForeignKept { stub_head: body.head.is_stub() });
        }
    });
}

#[test]
fn archived_is_claimed_only_for_the_recorded_size_and_a_head_of_its_own() {
    every(|record, body, content, verdict| {
        let proven = verdict == Verdict::ArchivedProven;
        if proven || verdict == Verdict::Archived {
            let own = record == RecordFact::Is(State::Archived) && body.head == HeadFact::Torn;
            assert!(own || body.head == HeadFact::Plain, "{record:?} {body:?}");
            assert_eq!(body.size, SizeFact::Recorded);
            assert!(proven || body.times_match, "{record:?} {body:?}");
            assert!(!proven || content == ContentFact::Equal, "{record:?} {body:?}");
        }
    });
}

#[test]
fn a_hash_settles_what_asked_for_one() {
    every(|record, body, _, verdict| {
        if matches!(verdict, Verdict::NeedsHash { .. }) {
            for content in [ContentFact::Equal, ContentFact::Differs] {
                let settled = super::verdict(record, body, content);
                assert!(!matches!(settled, Verdict::NeedsHash { .. }), "{record:?} {body:?}");
                assert!(!settled.changes_body());
            }
        }
    });
}

#[test]
fn rows_of_the_design_hold_one_by_one() {
    use RecordFact::{Foreign, Is, Misfit, None};
    use State::{Archived, Lost, Recalling, Released, Releasing, Suspect};
    let row = |record, size, head, times_match, content, expected| {
        let body = BodyFact { size, head, times_match };
        assert_eq!(verdict(record, body, content), expected, "{record:?} {body:?} {content:?}");
    };
    use ContentFact::{Differs, Equal, Unknown};
    use HeadFact::{OtherStub as O, Plain as P, Stub as S, Torn as T};
    use SizeFact::{Other, Recorded, StubSize, Zero};
    row(Foreign, StubSize, S, true, Unknown, Verdict::ForeignKept { stub_head: true });
    row(Foreign, Other, P, true, Unknown, Verdict::ForeignKept { stub_head: false });
    row(None, StubSize, O, false, Unknown, Verdict::OrphanStub);
    row(Misfit, StubSize, O, false, Unknown, Verdict::OrphanStub);
    row(None, Other, P, false, Unknown, Verdict::Resident);
    row(None, Zero, P, false, Unknown, Verdict::Resident);
    row(Misfit, Other, P, false, Unknown, Verdict::ResidentDropRecord);
    for state in State::ALL {
        row(Is(state), Zero, P, false, Unknown, Verdict::ResidentEmpty);
        row(Is(state), StubSize, O, true, Unknown, Verdict::OrphanOverRecord);
    }
    for state in [Archived, Releasing] {
        row(Is(state), Recorded, P, true, Unknown, Verdict::Archived);
        row(Is(state), StubSize, S, false, Unknown, Verdict::FinishRelease);
        row(Is(state), Recorded, S, true, Unknown, Verdict::FinishRelease);
    }
    row(Is(Archived), Recorded, T, true, Unknown, Verdict::Archived);
    row(Is(Archived), Recorded, T, false, Unknown, Verdict::Conflict { stub_head: true });
    row(Is(Archived), Other, T, true, Unknown, Verdict::Conflict { stub_head: true });
    row(Is(Suspect), Recorded, P, true, Equal, Verdict::ArchivedProven);
    row(Is(Suspect), Recorded, P, true, Unknown, Verdict::NeedsHash { serve_meanwhile: true });
    row(Is(Suspect), Recorded, P, true, Differs, Verdict::ResidentDropRecord);
    row(Is(Suspect), Other, P, true, Unknown, Verdict::ResidentDropRecord);
    for state in [Releasing, Recalling] {
        row(Is(state), Recorded, T, true, Unknown, Verdict::RewriteStub);
    }
    for size in [StubSize, Recorded] {
        row(Is(Recalling), size, S, false, Unknown, Verdict::CutBack);
    }
    for state in [Releasing, Recalling, Released] {
        row(Is(state), Recorded, P, false, Equal, Verdict::ArchivedProven);
        row(Is(state), Recorded, P, false, Differs, Verdict::Conflict { stub_head: false });
        row(Is(state), Recorded, P, false, Unknown, Verdict::NeedsHash { serve_meanwhile: false });
        row(Is(state), Other, P, false, Unknown, Verdict::Conflict { stub_head: false });
    }
    row(Is(Released), StubSize, S, true, Unknown, Verdict::Released);
    row(Is(Released), Recorded, S, true, Unknown, Verdict::Conflict { stub_head: true });
    row(Is(Lost), StubSize, S, true, Unknown, Verdict::Lost);
    row(Is(Lost), Recorded, P, true, Equal, Verdict::Conflict { stub_head: false });
    row(Is(Archived), Recorded, P, false, Unknown, Verdict::ResidentDropRecord);
    row(Is(Archived), Other, P, true, Unknown, Verdict::ResidentDropRecord);
}
