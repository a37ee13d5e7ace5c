//! Every hostile guest of `fixtures/guests` through the host: harm 0.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::code::Compiler;
use super::contract::{
    Action, Candidate, Evidence, Pin, Residency, Setting, SettingValue, TenantContext, UNPRICED,
};
use super::settings::Written;
use super::*;

/// Files of a tenant: more than two turns.
const FILES: u64 = 2_500;

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test)
}

fn guest(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/guests/built/{name}.wasm"))
}

/// Code compiled once for all tests of this process.
fn code_dir() -> PathBuf {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    DIR.get_or_init(|| tempfile::tempdir().unwrap()).path().to_owned()
}

fn options(component: Option<PathBuf>, behaviour: Option<&str>) -> Options {
    let behaviour = behaviour.map(|word| ("behaviour".to_owned(), Written::Text(word.to_owned())));
    let settings = behaviour.into_iter().collect();
    Options { component, settings, code_dir: Some(code_dir()), compiler: Compiler::Here }
}

fn overrides(behaviour: &str) -> Vec<Setting> {
    vec![Setting { key: "behaviour".into(), value: SettingValue::Text(behaviour.into()) }]
}

fn file(file_id: u64) -> Candidate {
    Candidate {
        file_id,
        size_bytes: 1 << 20,
        local_bytes: 1 << 20,
        mtime_seconds: 1_700_000_000,
        idle_seconds: 60 * 86_400,
        evidence: Evidence::Observed,
        heat: 0.0,
        recalled_seconds: None,
        open_count: 0,
        residency: Residency::Resident,
        path: None,
        owner: None,
        pin: Pin::None,
    }
}

fn context(tenant: u32, behaviour: Option<&str>) -> TenantContext {
    TenantContext {
        tenant,
        now_seconds: 1_800_000_000,
        seed: 7,
        heat_half_life_seconds: 7 * 86_400,
        tenant_local_bytes: 1 << 40,
        tenant_quota_bytes: None,
        filesystem_capacity_bytes: 1 << 41,
        filesystem_used_bytes: 1 << 40,
        release_goal_bytes: 1 << 30,
        tariff: UNPRICED,
        overrides: behaviour.map(overrides).unwrap_or_default(),
    }
}

struct Files(u64);

impl Offers for Files {
    fn next(&mut self, limit: usize) -> Result<Vec<Candidate>, String> {
        let from = self.0;
        self.0 = FILES.min(from + limit as u64);
        Ok((from..self.0).map(file).collect())
    }
}

fn request(tenant: u32, behaviour: Option<&str>) -> PassRequest {
    let context = context(tenant, behaviour);
    PassRequest {
        context,
        weight: 1,
        offers: Box::new(Files(0)),
        max_decisions: 100_000,
        policy: None,
        is_trial: false,
    }
}

/// The hostile guest, tame but where a tenant's override says otherwise.
fn court(behaviour: &str) -> Judge {
    let judge = Judge::new();
    run(judge.load(options(Some(guest("hostile")), Some(behaviour)))).unwrap();
    judge
}

/// A pass of a hostile tenant between two good ones: those end whole.
fn beside(judge: &Judge, behaviour: &str) -> PassReport {
    run(async {
        let (first, bad, last) = tokio::join!(
            judge.pass(request(1, None)),
            judge.pass(request(2, Some(behaviour))),
            judge.pass(request(3, None)),
        );
        for good in [first.unwrap(), last.unwrap()] {
            assert_eq!((good.ending, good.judged), (Ending::Complete, FILES), "beside {behaviour}");
        }
        bad.unwrap()
    })
}

#[test]
fn what_never_ends_or_traps_costs_its_own_pass() {
    for behaviour in ["loop", "recurse", "allocate", "trap", "millions", "new-loop", "new-trap"] {
        let judge = court("tame");
        let bad = beside(&judge, behaviour);
        assert!(
            matches!(bad.ending, Ending::Failed(Fault::Trapped { .. })),
            "{behaviour}: {bad:?}"
        );
        assert!(bad.decided.is_empty());
        assert_eq!(judge.counts().faults, 1, "{behaviour}");
    }
}

#[test]
fn what_is_no_answer_ends_the_pass() {
    use super::answer::Wrong;
    for behaviour in ["index-repeated", "over-budget", "consume-nothing", "consume-too-much"] {
        let bad = beside(&court("tame"), behaviour);
        let Ending::Failed(Fault::Wrong(wrong)) = bad.ending else {
            panic!("{behaviour}: {bad:?}")
        };
        assert!(bad.decided.is_empty(), "{behaviour}");
        match behaviour {
            "consume-nothing" => assert_eq!(wrong, Wrong::Nothing),
            "consume-too-much" => assert!(matches!(wrong, Wrong::Consumed { .. })),
            _ => assert!(matches!(wrong, Wrong::Decisions { .. }), "{behaviour}: {wrong}"),
        }
    }
}

#[test]
fn decisions_for_nothing_are_left_out_and_counted() {
    for behaviour in ["index-out-of-range", "rule-out-of-range"] {
        let bad = beside(&court("tame"), behaviour);
        assert_eq!((&bad.ending, bad.judged), (&Ending::Complete, FILES), "{behaviour}");
        assert!(bad.decided.is_empty() && bad.dropped > 0, "{behaviour}");
    }
    let early = beside(&court("tame"), "done-at-once");
    assert_eq!((early.ending, early.judged), (Ending::Complete, 0));
}

#[test]
fn whatever_is_decided_is_of_files_that_were_offered_and_once() {
    let all = ["archive-all", "release-all", "migrate-all", "recall-all", "random"];
    let actions = [Action::Archive, Action::Release, Action::Migrate, Action::Recall];
    for (behaviour, action) in all.into_iter().zip(actions.into_iter().map(Some).chain([None])) {
        let bad = beside(&court("tame"), behaviour);
        let files: BTreeSet<u64> = bad.decided.iter().map(|decided| decided.file.file_id).collect();
        assert_eq!(files.len(), bad.decided.len(), "{behaviour}: a file twice");
        assert!(files.iter().all(|file| *file < FILES), "{behaviour}");
        assert!(bad.decided.iter().all(|decided| usize::from(decided.rule) < bad.rules.len()));
        if let Some(action) = action {
            assert_eq!(bad.decided.len() as u64, FILES, "{behaviour}");
            assert!(bad.decided.iter().all(|decided| decided.action == action), "{behaviour}");
        }
    }
}

#[test]
fn a_pass_decides_no_more_than_it_may() {
    let judge = court("migrate-all");
    let report = run(judge.pass(PassRequest { max_decisions: 100, ..request(1, None) })).unwrap();
    assert_eq!((report.ending, report.decided.len()), (Ending::Full, 100));
}

#[test]
fn a_flooded_journal_and_a_hoard_are_no_harm() {
    for behaviour in ["log-flood", "log-huge", "log-control", "hoard", "slow"] {
        let judge = court("tame");
        let bad = beside(&judge, behaviour);
        // Slow or greedy: how fast this machine is decides whether it goes too far.
        let ended = matches!(bad.ending, Ending::Complete | Ending::Failed(Fault::Trapped { .. }));
        assert!(ended && bad.decided.is_empty(), "{behaviour}: {bad:?}");
    }
}

#[test]
fn a_pass_that_cannot_be_dropped_takes_the_instance_along_and_nothing_else() {
    for behaviour in ["drop-loop", "drop-trap"] {
        let judge = court("tame");
        let bad = beside(&judge, behaviour);
        assert_eq!((bad.ending, bad.judged), (Ending::Complete, FILES), "{behaviour}");
        assert_eq!(judge.counts().faults, 1, "{behaviour}");
        let good = run(judge.pass(request(1, None))).unwrap();
        assert_eq!((good.ending, good.judged), (Ending::Complete, FILES));
    }
}

#[test]
fn a_policy_that_cannot_be_configured_does_not_take_the_place_of_one_that_can() {
    let judge = court("archive-all");
    for behaviour in [
        "configure-loop",
        "configure-trap",
        "configure-refuse",
        "configure-no-rules",
        "configure-many-rules",
        "no such behaviour",
    ] {
        let refused = run(judge.load(options(Some(guest("hostile")), Some(behaviour))));
        let refused = refused.unwrap_err().to_string();
        assert!(refused.len() < 2_000 && !refused.contains(char::is_control), "{behaviour}");
        let report = run(judge.pass(request(1, None))).unwrap();
        assert_eq!(report.decided.len() as u64, FILES, "{behaviour}: the old one judges");
    }
}

#[test]
fn settings_are_checked_and_files_explained_without_trust() {
    let judge = court("tame");
    assert!(run(judge.check(overrides("loop"))).unwrap().is_ok(), "checked, not run");
    for behaviour in ["check-loop", "check-trap"] {
        assert!(run(judge.check(overrides(behaviour))).unwrap().is_err(), "{behaviour}");
        assert!(matches!(beside(&judge, behaviour).ending, Ending::Failed(_)), "{behaviour}");
    }
    for behaviour in ["explain-loop", "explain-trap"] {
        let answer = run(judge.explain(context(1, Some(behaviour)), file(1))).unwrap();
        assert!(matches!(answer, Err(Fault::Trapped { .. })), "{behaviour}");
    }
    let odd = run(judge.explain(context(1, Some("explain-odd")), file(1))).unwrap().unwrap();
    assert!(odd.reason.len() <= answer::TEXT_BYTES && !odd.reason.contains(char::is_control));
    assert!(run(judge.explain(context(1, None), file(1))).unwrap().is_ok());
}

#[test]
fn what_only_admits_wrongly_is_never_asked() {
    for behaviour in ["admit-loop", "admit-trap", "admit-short", "admit-long"] {
        assert_eq!(beside(&court("tame"), behaviour).ending, Ending::Complete, "{behaviour}");
    }
}

#[test]
fn a_tenant_whose_passes_fail_three_times_is_left_out_until_a_reload() {
    let judge = court("tame");
    for _ in 0..FAILURES {
        assert!(matches!(beside(&judge, "trap").ending, Ending::Failed(_)));
    }
    assert_eq!(beside(&judge, "trap").ending, Ending::LeftOut);
    assert_eq!(judge.counts().left_out, [2]);
    run(judge.load(options(Some(guest("hostile")), Some("tame")))).unwrap();
    assert!(judge.counts().left_out.is_empty());
    assert_eq!(beside(&judge, "tame").ending, Ending::Complete);
}

#[test]
fn a_trial_that_fails_counts_for_nobody() {
    let judge = court("trap");
    for _ in 0..=FAILURES {
        let trial = PassRequest { is_trial: true, ..request(1, None) };
        assert!(matches!(run(judge.pass(trial)).unwrap().ending, Ending::Failed(_)));
    }
    assert!(judge.counts().left_out.is_empty());
}

#[test]
fn what_was_offered_to_one_policy_is_not_judged_by_another() {
    let judge = court("archive-all");
    let before = judge.loaded();
    let asked = |policy| PassRequest { policy, ..request(1, None) };
    assert_eq!(run(judge.pass(asked(before.clone()))).unwrap().ending, Ending::Complete);
    run(judge.load(options(Some(guest("hostile")), Some("release-all")))).unwrap();
    let report = run(judge.pass(asked(before))).unwrap();
    assert!(report.ending == Ending::Replaced && report.decided.is_empty(), "{report:?}");
    assert_eq!(run(judge.pass(asked(judge.loaded()))).unwrap().ending, Ending::Complete);
    assert_eq!(judge.counts().faults, 0);
}

#[test]
fn what_is_no_policy_is_refused_by_name() {
    let garbage = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(garbage.path(), vec![0x5a; 1 << 20]).unwrap();
    let cases = [
        (guest("missing-import"), "imports hostile:guests/vault"),
        (guest("wrong-version"), "does not export coldfs:policy/policy@0.2.0"),
        (guest("wrong-world"), "does not export"),
        (guest("odd-description"), "its name is"),
        (guest("stuck-description"), "did not end in its time"),
        (garbage.path().to_owned(), "not a component"),
        (PathBuf::from("/no/such/policy.wasm"), "No such file"),
    ];
    let judge = Judge::new();
    for (path, word) in cases {
        let refused = run(judge.load(options(Some(path.clone()), None))).unwrap_err().to_string();
        assert!(refused.contains(word), "{}: {refused}", path.display());
        assert!(!refused.contains(char::is_control), "{refused}");
    }
    assert!(judge.loaded().is_none());
    let nothing = run(judge.pass(request(1, None))).unwrap();
    assert!(matches!(nothing.ending, Ending::Failed(Fault::Unfit(_))));
}

#[test]
fn clocks_and_randomness_are_the_passes_own() {
    let decide = || {
        let judge = Judge::new();
        run(judge.load(options(Some(guest("clocks")), None))).unwrap();
        let report = run(judge.pass(request(1, None))).unwrap();
        assert_eq!(report.ending, Ending::Complete);
        report.decided.iter().map(|decided| decided.file.file_id).collect::<Vec<_>>()
    };
    let first = decide();
    assert!(!first.is_empty());
    assert_eq!(first, decide());
}

#[test]
fn the_default_policy_archives_what_is_settled_and_frees_no_more_than_asked() {
    let judge = Judge::new();
    let loaded = run(judge.load(options(None, None))).unwrap();
    assert_eq!(loaded.description.name, "default");
    assert_eq!(loaded.rulebook.archive_after_seconds, 3_600);
    assert_eq!(loaded.rulebook.release_after_seconds, 14 * 86_400);
    let report = run(judge.pass(request(1, None))).unwrap();
    assert_eq!(report.decided.len() as u64, FILES);
    assert!(report.decided.iter().all(|decided| decided.action == Action::Archive));
    struct Archived(Files);
    impl Offers for Archived {
        fn next(&mut self, limit: usize) -> Result<Vec<Candidate>, String> {
            let archived = |file| Candidate { residency: Residency::Archived, ..file };
            Ok(self.0.next(limit)?.into_iter().map(archived).collect())
        }
    }
    let offers = Box::new(Archived(Files(0)));
    let report = run(judge.pass(PassRequest { offers, ..request(1, None) })).unwrap();
    assert_eq!(report.decided.len(), 1 << 10, "a GiB of files of a MiB");
}

#[test]
#[ignore = "a bench: scripts/bench policy"]
fn candidates_a_second() {
    const CANDIDATES: usize = 20_000_000;
    struct Same(Vec<Candidate>, usize);
    impl Offers for Same {
        fn next(&mut self, limit: usize) -> Result<Vec<Candidate>, String> {
            if self.1 >= CANDIDATES {
                return Ok(Vec::new());
            }
            self.1 += limit;
            // Kept: released already, nothing to decide.
            Ok(self.0[..limit].to_vec())
        }
    }
    let judge = Judge::new();
    run(judge.load(options(None, None))).unwrap();
    let released = |file| Candidate { residency: Residency::Released, ..file };
    let batch: Vec<_> = (0..2_048).map(file).map(released).collect();
    let request = PassRequest { offers: Box::new(Same(batch, 0)), ..request(1, None) };
    let began = std::time::Instant::now();
    let report = run(judge.pass(request)).unwrap();
    let rate = u128::from(report.judged) * 1_000_000 / began.elapsed().as_micros();
    println!("candidates_per_core {rate:>10} files/s");
}
