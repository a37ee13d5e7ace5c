//! The contract's types, as `wasm-policy/wit` has them.

#![allow(missing_docs, unreachable_pub, reason = "written by wasmtime from the contract")]
#![allow(clippy::all, clippy::allow_attributes_without_reason, reason = "the same")]

wasmtime::component::bindgen!({
    path: "wasm-policy/wit",
    world: "tiering-policy",
    additional_derives: [PartialEq],
});

pub use coldfs::policy::log::Level;
pub use coldfs::policy::types::{
    Action, Admission, Admitted, Candidate, Decision, Evidence, Owner, Pin, ReadEvent, Residency,
    Setting, SettingValue, Tariff, TenantContext, Wants,
};
pub use exports::coldfs::policy::policy::{
    Budget, ConfigError, Description, Guest as Policy, Rulebook, SettingSpec, StepResult, Verdict,
};
