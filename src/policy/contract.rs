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

/// Nobody has said what anything costs.
pub const UNPRICED: Tariff = Tariff {
    currency_per_gib_month_local: 0.0,
    currency_per_gib_month_remote: 0.0,
    currency_per_put: 0.0,
    currency_per_get: 0.0,
    currency_per_gib_egress: 0.0,
    files_per_put: 1_000.0,
    minimum_billable_bytes: 0,
    minimum_billable_seconds: 0,
};
