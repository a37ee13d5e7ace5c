//! Archives what was not changed for a number of days. Nothing else: a policy to learn from,
//! told line by line in docs/policy.md.

#![no_std]

extern crate alloc;

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

mod bindings {
    #![allow(unsafe_code, missing_docs, reason = "written by wit-bindgen")]
    #![allow(clippy::all, clippy::allow_attributes_without_reason, reason = "the same")]
    wit_bindgen::generate!({ path: "../wit", world: "tiering-policy" });
    use super::OlderThan;
    export!(OlderThan);
}

use bindings::coldfs::policy::types::{Admission, Residency};
use bindings::exports::coldfs::policy::policy::{
    Action, Admitted, Budget, Candidate, ConfigError, Decision, Description, Guest,
    GuestTenantPass, ReadEvent, Rulebook, Setting, SettingSpec, SettingValue, StepResult,
    TenantContext, Verdict, Wants,
};

struct OlderThan;

/// The setting `days`.
static DAYS: AtomicU32 = AtomicU32::new(30);

/// Names of the rules; decisions say them by number.
const RULES: [&str; 2] = ["young", "older-than"];

/// Reads settings: here there is one.
fn days(settings: &[Setting]) -> Result<u32, ConfigError> {
    let mut days = 30;
    for Setting { key, value } in settings {
        if key != "days" {
            return Err(ConfigError::UnknownKey(key.clone()));
        }
        let SettingValue::Integer(number) = value else {
            return Err(ConfigError::InvalidValue((key.clone(), "wants a whole number".into())));
        };
        days = u32::try_from(*number).map_err(|_negative_or_huge| {
            ConfigError::InvalidValue((key.clone(), "wants 0 or more".into()))
        })?;
    }
    Ok(days)
}

fn rulebook(days: u32) -> Rulebook {
    Rulebook {
        rules: RULES.iter().map(ToString::to_string).collect(),
        wants: Wants::empty(),
        archive_after_seconds: days.saturating_mul(86_400),
        release_after_seconds: u32::MAX,
        recalls: false,
    }
}

/// The one decision: seconds until this file is old enough; none: it is not about this file.
fn wait_seconds(now_seconds: i64, days: u32, file: &Candidate) -> Option<i64> {
    let age = now_seconds.saturating_sub(file.mtime_seconds);
    let resident = matches!(file.residency, Residency::Resident) && file.open_count == 0;
    resident.then(|| (i64::from(days) * 86_400).saturating_sub(age).max(0))
}

impl Guest for OlderThan {
    type TenantPass = Pass;

    fn describe() -> Description {
        let days = SettingSpec {
            key: "days".into(),
            default: SettingValue::Integer(30),
            doc: "archive what was not changed for so many days".into(),
        };
        Description {
            name: "older-than".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            settings: vec![days],
            preferred_batch: 1_024,
        }
    }

    fn configure(settings: Vec<Setting>) -> Result<Rulebook, ConfigError> {
        let days = days(&settings)?;
        DAYS.store(days, Ordering::Relaxed);
        Ok(rulebook(days))
    }

    fn check(overrides: Vec<Setting>) -> Result<Rulebook, ConfigError> {
        if overrides.is_empty() {
            return Ok(rulebook(DAYS.load(Ordering::Relaxed)));
        }
        days(&overrides).map(rulebook)
    }

    fn admit(_: TenantContext, reads: Vec<ReadEvent>) -> Vec<Admitted> {
        reads.iter().map(|_| Admitted { admission: Admission::Recall, rule: 0 }).collect()
    }

    fn explain(context: TenantContext, file: Candidate) -> Verdict {
        let pass = Pass::new(context);
        let (action, changes, reason): (_, _, String) =
            match wait_seconds(pass.now_seconds, pass.days, &file) {
                Some(0) => (Some(Action::Archive), None, "old enough to be archived".into()),
                Some(wait) => (None, u32::try_from(wait).ok(), "changed too lately".into()),
                None => (None, None, "open, or archived already".into()),
            };
        Verdict { rule: u16::from(action.is_some()), action, changes_in_seconds: changes, reason }
    }
}

/// One pass over one tenant.
struct Pass {
    now_seconds: i64,
    days: u32,
}

impl GuestTenantPass for Pass {
    fn new(context: TenantContext) -> Self {
        let global = DAYS.load(Ordering::Relaxed);
        let own = (!context.overrides.is_empty()).then(|| days(&context.overrides).ok());
        Self { now_seconds: context.now_seconds, days: own.flatten().unwrap_or(global) }
    }

    fn step(&self, batch: Vec<Candidate>, budget: Budget) -> StepResult {
        let mut decisions = Vec::new();
        let mut consumed = 0;
        for (index, file) in (0..budget.max_candidates).zip(&batch) {
            if decisions.len() == budget.max_decisions as usize {
                break;
            }
            consumed += 1;
            if wait_seconds(self.now_seconds, self.days, file) == Some(0) {
                decisions.push(Decision { index, action: Action::Archive, priority: 0, rule: 1 });
            }
        }
        StepResult { decisions, consumed, done: false }
    }
}

#[global_allocator]
static MEMORY: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    core::arch::wasm32::unreachable()
}
