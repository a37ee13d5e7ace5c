//! The default policy as a component: the contract on one side, `coldfs_policy` on the other.
//!
//! One instance serves every tenant. Global settings are read once, in `configure`; a pass of a
//! tenant without overrides shares them. No candidate costs an allocation of this layer's.

#![no_std]

extern crate alloc;

use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::cell::RefCell;

use coldfs_policy::admit;
use coldfs_policy::explain;
use coldfs_policy::pass::Pass;
use coldfs_policy::rulebook::Rulebook;
use coldfs_policy::settings::{SettingError, Settings, Value, specs};

mod convert;
mod runtime;

mod bindings {
    #![allow(unsafe_code, missing_docs, reason = "written by wit-bindgen")]
    #![allow(clippy::all, clippy::allow_attributes_without_reason, reason = "the same")]
    wit_bindgen::generate!({ path: "../wit", world: "tiering-policy" });
    use super::Component;
    export!(Component);
}

use bindings::exports::coldfs::policy::policy as contract;
use contract::{Admitted, Budget, Candidate, ConfigError, Decision, Description, ReadEvent};
use contract::{Guest, GuestTenantPass, Setting, SettingSpec, StepResult, TenantContext, Verdict};

/// Candidates a step: more gains nothing (measured: 16, 64, 256 and 1,024 a step).
const BATCH: u32 = 1_024;

struct Component;

/// The global settings in force. A component has one thread.
struct Global(RefCell<Option<Rc<Rulebook>>>);

#[allow(unsafe_code, reason = "a static has to be Sync")]
// SAFETY: WebAssembly without threads: nobody else is there.
unsafe impl Sync for Global {}

static GLOBAL: Global = Global(RefCell::new(None));

fn global() -> Rc<Rulebook> {
    let mut global = GLOBAL.0.borrow_mut();
    global.get_or_insert_with(|| Rc::new(Rulebook::new(Settings::default()))).clone()
}

/// These settings over those.
fn over(base: &Settings, settings: Vec<Setting>) -> Result<Rulebook, ConfigError> {
    // The host gives a key once; the later one would win.
    let settings: Vec<_> =
        settings.into_iter().map(|setting| (setting.key, Value::from(setting.value))).collect();
    let settings = settings.iter().map(|(key, value)| (key.as_str(), value.clone()));
    match base.with(settings) {
        Ok(settings) => Ok(Rulebook::new(settings)),
        Err(SettingError::UnknownKey(key)) => Err(ConfigError::UnknownKey(key)),
        Err(SettingError::InvalidValue(key, why)) => Err(ConfigError::InvalidValue((key, why))),
    }
}

/// A tenant's rules. Overrides were checked before: those that are refused all the same are left
/// out, so that a tenant is judged by the global rules and not by none.
fn of_tenant(overrides: Vec<Setting>) -> Rc<Rulebook> {
    let global = global();
    if overrides.is_empty() {
        return global;
    }
    over(global.settings(), overrides).map_or(global, Rc::new)
}

impl Guest for Component {
    type TenantPass = TenantPass;

    fn describe() -> Description {
        let settings = specs().into_iter().map(|spec| SettingSpec {
            key: spec.key.to_string(),
            default: spec.default.into(),
            doc: spec.doc.to_string(),
        });
        Description {
            name: "default".to_string(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            settings: settings.collect(),
            preferred_batch: BATCH,
        }
    }

    fn configure(settings: Vec<Setting>) -> Result<contract::Rulebook, ConfigError> {
        let rulebook = over(&Settings::default(), settings)?;
        let told = (&rulebook).into();
        *GLOBAL.0.borrow_mut() = Some(Rc::new(rulebook));
        Ok(told)
    }

    fn check(overrides: Vec<Setting>) -> Result<contract::Rulebook, ConfigError> {
        over(global().settings(), overrides).map(|rulebook| (&rulebook).into())
    }

    fn admit(context: TenantContext, reads: Vec<ReadEvent>) -> Vec<Admitted> {
        let tenant = convert::context(&context);
        let rulebook = of_tenant(context.overrides);
        let answer = |read: &ReadEvent| {
            let (recall, rule) = admit::admit(rulebook.settings(), &tenant, &convert::read(read));
            convert::admitted(recall, rule)
        };
        reads.iter().map(answer).collect()
    }

    fn explain(context: TenantContext, file: Candidate) -> Verdict {
        let tenant = convert::context(&context);
        let rulebook = of_tenant(context.overrides);
        let verdict = explain::explain(&rulebook, &tenant, &convert::candidate(&file));
        Verdict {
            action: verdict.action.map(convert::action),
            rule: verdict.rule,
            changes_in_seconds: verdict.changes_in_seconds,
            reason: verdict.reason,
        }
    }
}

struct TenantPass(RefCell<Pass>);

impl GuestTenantPass for TenantPass {
    fn new(context: TenantContext) -> Self {
        let tenant = convert::context(&context);
        Self(RefCell::new(Pass::new(of_tenant(context.overrides), &tenant)))
    }

    fn step(&self, batch: Vec<Candidate>, budget: Budget) -> StepResult {
        let mut pass = self.0.borrow_mut();
        let (mut decisions, mut consumed) = (Vec::new(), 0);
        for (index, file) in (0..budget.max_candidates).zip(&batch) {
            if decisions.len() == budget.max_decisions as usize {
                break;
            }
            consumed = index + 1;
            if let Some(decision) = pass.next(&convert::candidate(file)) {
                decisions.push(Decision {
                    index,
                    action: convert::action(decision.action),
                    priority: decision.priority,
                    rule: decision.rule,
                });
            }
        }
        StepResult { decisions, consumed, done: pass.is_done() }
    }
}
