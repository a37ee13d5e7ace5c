//! `coldfs doctor --store`: one lie, one check that names it, and nothing left in the bucket.

use std::time::Duration;

use super::harness::liar::{Liar, Lie, Op, Rule};
use super::harness::{coldfs, run};

struct Check {
    name: String,
    grade: String,
    what: String,
    next_step: String,
}

/// What doctor says of the store, less what it says of the machine; its exit code.
fn doctor(liar: &Liar) -> (Vec<Check>, i32) {
    let mut command = coldfs();
    command.args(["doctor", "--json", "--store", &liar.store_url()]).envs(liar.env());
    let output = run(&mut command);
    let text = String::from_utf8(output.stdout).unwrap();
    let checks = text.lines().map(|line| {
        let check: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| check[key].as_str().unwrap().to_owned();
        let (name, grade) = (text("name"), text("grade"));
        Check { name, grade, what: text("what"), next_step: text("next_step") }
    });
    let checks = checks.filter(|check| check.name.starts_with("store_")).collect();
    (checks, output.status.code().unwrap())
}

/// Doctor names this check, with these words, and no other.
fn names(rule: Rule, name: &str, grade: &str, words: &[&str]) {
    let liar = Liar::start();
    liar.script(rule);
    names_of(&liar, name, grade, words);
}

fn names_of(liar: &Liar, name: &str, grade: &str, words: &[&str]) {
    let before = liar.keys();
    let (checks, code) = doctor(liar);
    let bad: Vec<&Check> = checks.iter().filter(|check| check.grade != "ok").collect();
    let told: Vec<String> =
        bad.iter().map(|check| format!("{}: {}", check.name, check.what)).collect();
    assert_eq!(bad.len(), 1, "{told:?}");
    assert_eq!((bad[0].name.as_str(), bad[0].grade.as_str()), (name, grade), "{told:?}");
    assert!(!bad[0].next_step.is_empty(), "{told:?}");
    for word in words {
        let text = format!("{} {}", bad[0].what, bad[0].next_step);
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
    assert_eq!(code, i32::from(grade == "fail"), "{told:?}");
    if name != "store_delete" {
        assert_eq!(liar.keys(), before, "something stays in the bucket");
    }
}

fn verify_of(checks: &[Check]) -> &str {
    &checks.iter().find(|check| check.name == "store_verify").unwrap().what
}

#[test]
fn an_honest_engine_is_as_it_should_be() {
    let liar = Liar::start();
    let (checks, code) = doctor(&liar);
    for check in &checks {
        assert_eq!(check.grade, "ok", "{}: {}", check.name, check.what);
    }
    assert_eq!((checks.len(), code), (13, 0));
    assert!(verify_of(&checks).starts_with("checksum"), "{}", verify_of(&checks));
    assert_eq!(liar.keys(), Vec::<String>::new());
}

#[test]
fn a_wrong_checksum_that_is_taken_is_named_and_means_reading_back() {
    let rule = Rule::new(Lie::TakesAnyChecksum).on(Op::Put);
    names(rule.clone(), "store_checksum", "warn", &["is stored", "read back"]);
    let liar = Liar::start();
    liar.script(rule);
    assert!(verify_of(&doctor(&liar).0).starts_with("readback"));
}

#[test]
fn a_checksum_that_is_told_wrongly_is_named() {
    let rule = Rule::new(Lie::TellsWrongChecksum).on(Op::Head);
    names(rule, "store_checksum", "warn", &["no right SHA-256"]);
}

#[test]
fn a_condition_that_is_ignored_is_named() {
    let rule = Rule::new(Lie::IgnoresIfNoneMatch).on(Op::Put);
    names(rule, "store_create_only", "warn", &["If-None-Match is ignored"]);
}

#[test]
fn a_get_that_does_not_know_of_the_put_is_named() {
    names(Rule::new(Lie::Stale).on(Op::Get), "store_reads_own", "fail", &["not there"]);
    let second = Rule::new(Lie::Stale).on(Op::Get).skipping(1);
    names(second, "store_reads_own", "fail", &["other bytes"]);
}

#[test]
fn a_head_that_does_not_know_of_the_put_is_named() {
    names(Rule::new(Lie::Stale).on(Op::Head), "store_reads_own", "fail", &["not there"]);
}

#[test]
fn a_list_that_does_not_know_of_the_put_is_named() {
    names(Rule::new(Lie::Stale).on(Op::List), "store_reads_own", "fail", &["LIST"]);
}

#[test]
fn a_range_that_is_ignored_is_named() {
    names(Rule::new(Lie::IgnoresRange).on(Op::Get), "store_range", "fail", &["4096 bytes"]);
}

#[test]
fn a_range_of_other_bytes_is_named() {
    let rule = Rule::new(Lie::ShiftsRange).on(Op::Get);
    names(rule, "store_range", "fail", &["answers others"]);
}

#[test]
fn a_body_that_is_cut_is_named() {
    let rule = Rule::new(Lie::Truncates(100)).on(Op::Get).with("/own");
    names(rule, "store_reads_own", "fail", &["other bytes"]);
}

#[test]
fn an_error_for_a_body_is_named() {
    let rule = Rule::new(Lie::ErrorIn200("InternalError")).on(Op::Get).with("/own");
    names(rule, "store_reads_own", "fail", &["other bytes"]);
}

#[test]
fn half_a_body_and_a_reset_are_named() {
    for lie in [Lie::Half, Lie::Resets] {
        let rule = Rule::new(lie).on(Op::Get).with("/own");
        names(rule, "store_reads_own", "fail", &["get", "does not answer"]);
    }
}

#[test]
fn another_object_s_bytes_are_named() {
    let liar = Liar::start();
    // As long as doctor's own: only its bytes are others.
    liar.store("other", vec![9; 4096]);
    liar.script(Rule::new(Lie::Swaps("other".into())).on(Op::Get).with("/own"));
    names_of(&liar, "store_reads_own", "fail", &["other bytes"]);
}

#[test]
fn a_bit_that_is_stored_wrongly_is_named() {
    let rule = Rule::new(Lie::FlipsStored).on(Op::Put).with("/own");
    names(rule, "store_reads_own", "fail", &["other bytes"]);
}

#[test]
fn parts_that_are_not_taken_are_named() {
    let rule = Rule::new(Lie::answers(501, "NotImplemented")).on(Op::CreateUpload);
    names(rule, "store_multipart", "fail", &["NotImplemented"]);
    let rule = Rule::new(Lie::answers(200, "InternalError")).on(Op::Complete);
    names(rule, "store_multipart", "fail", &["InternalError"]);
}

#[test]
fn a_listing_out_of_order_is_named() {
    let rule = Rule::new(Lie::Backwards).on(Op::List).with("/list/");
    names(rule, "store_list", "fail", &["order"]);
}

#[test]
fn a_listing_that_drops_keys_is_named() {
    let rule = Rule::new(Lie::Drops("list/a0<")).on(Op::List);
    names(rule, "store_list", "fail", &["of 6 keys 5"]);
}

#[test]
fn a_listing_that_begins_anew_is_named() {
    let rule = Rule::new(Lie::IgnoresStartAfter).on(Op::List);
    names(rule, "store_list", "fail", &["twice"]);
}

#[test]
fn a_delete_that_is_not_done_is_named() {
    let rule = Rule::new(Lie::Pretends).on(Op::Delete).with("/write");
    names(rule, "store_delete", "fail", &["still there", "is left in the store"]);
    let rule = Rule::new(Lie::answers(403, "AccessDenied")).on(Op::Delete);
    names(rule, "store_delete", "fail", &["AccessDenied", "is left in the store"]);
}

#[test]
fn a_clock_that_is_off_is_named() {
    names(Rule::new(Lie::Clock(-300)), "store_clock", "warn", &["behind"]);
    names(Rule::new(Lie::Clock(3600)), "store_clock", "fail", &["ahead"]);
    let refused = Rule::new(Lie::answers(403, "RequestTimeTooSkewed"));
    names(refused, "store_clock", "fail", &["RequestTimeTooSkewed", "clock"]);
}

#[test]
fn a_slow_engine_is_named() {
    let rule = Rule::new(Lie::Delays(Duration::from_millis(1100))).on(Op::Get).with("/latency");
    names(rule, "store_latency", "warn", &["ms"]);
}

#[test]
fn what_is_wrong_with_the_bucket_is_named() {
    let missing = Rule::new(Lie::answers(404, "NoSuchBucket"));
    names(missing, "store_bucket", "fail", &["NoSuchBucket", "make the bucket"]);
    let forbidden = Rule::new(Lie::answers(403, "AccessDenied"));
    names(forbidden, "store_bucket", "fail", &["AccessDenied", "list"]);
    let region = ("x-amz-bucket-region", "eu-west-9");
    let elsewhere = Rule::new(Lie::answers_with(301, "PermanentRedirect", region));
    names(elsewhere, "store_bucket", "fail", &["eu-west-9", "AWS_REGION"]);
    let read_only = Rule::new(Lie::answers(403, "AccessDenied")).on(Op::Put);
    names(read_only, "store_write", "fail", &["AccessDenied", "put"]);
}

#[test]
fn credentials_that_are_refused_are_named() {
    for (status, code) in [(400, "ExpiredToken"), (403, "InvalidAccessKeyId")] {
        let rule = Rule::new(Lie::answers(status, code));
        names(rule, "store_reach", "fail", &[code, "renew the credentials"]);
    }
}

#[test]
fn an_engine_that_is_busy_for_a_moment_is_none_the_worse() {
    let liar = Liar::start();
    liar.script(Rule::new(Lie::answers(503, "SlowDown")).on(Op::Put).skipping(1).times(2));
    let busy = Lie::answers_with(429, "TooManyRequests", ("retry-after", "1"));
    liar.script(Rule::new(busy).on(Op::Head).skipping(1).times(1));
    let (checks, code) = doctor(&liar);
    let bad: Vec<String> = checks
        .iter()
        .filter(|check| check.grade != "ok")
        .map(|check| format!("{}: {}", check.name, check.what))
        .collect();
    // How uploads are proven is asked once: when in doubt they are read back.
    assert!(bad.iter().all(|what| what.starts_with("store_checksum")), "{bad:?}");
    assert_eq!(code, 0);
}
