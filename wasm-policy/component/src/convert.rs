//! The contract's records as the library's, and back.

use coldfs_policy::facts;
use coldfs_policy::rulebook::{Builtin, Rulebook};
use coldfs_policy::settings::Value;

use crate::bindings::coldfs::policy::types::{Evidence, Owner, Pin, Residency};
use crate::bindings::exports::coldfs::policy::policy as contract;
use contract::{Action, Admitted, Candidate, ReadEvent, SettingValue, TenantContext, Wants};

use crate::bindings::coldfs::policy::types::Admission;

/// A candidate, its path borrowed.
#[inline]
pub fn candidate(file: &Candidate) -> facts::Candidate<'_> {
    facts::Candidate {
        size_bytes: file.size_bytes,
        local_bytes: file.local_bytes,
        mtime_seconds: file.mtime_seconds,
        idle_seconds: file.idle_seconds,
        evidence: match file.evidence {
            Evidence::Observed => facts::Evidence::Observed,
            Evidence::Atime => facts::Evidence::Atime,
            Evidence::Unknown => facts::Evidence::Unknown,
        },
        heat: file.heat,
        recalled_seconds: file.recalled_seconds,
        open_count: file.open_count,
        residency: match file.residency {
            Residency::Resident => facts::Residency::Resident,
            Residency::Archived => facts::Residency::Archived,
            Residency::Released => facts::Residency::Released,
        },
        path: file.path.as_deref(),
        owner: file.owner.map(|Owner { uid, gid }| facts::Owner { uid, gid }),
        pin: match file.pin {
            Pin::None => facts::Pin::None,
            Pin::NeverArchive => facts::Pin::NeverArchive,
            Pin::NeverRelease => facts::Pin::NeverRelease,
        },
    }
}

/// A tenant's context without its overrides.
pub fn context(context: &TenantContext) -> facts::Context {
    let tariff = &context.tariff;
    facts::Context {
        now_seconds: context.now_seconds,
        heat_half_life_seconds: context.heat_half_life_seconds,
        local_bytes: context.tenant_local_bytes,
        quota_bytes: context.tenant_quota_bytes,
        capacity_bytes: context.filesystem_capacity_bytes,
        used_bytes: context.filesystem_used_bytes,
        release_goal_bytes: context.release_goal_bytes,
        tariff: facts::Tariff {
            local_gib_month: tariff.currency_per_gib_month_local,
            remote_gib_month: tariff.currency_per_gib_month_remote,
            put: tariff.currency_per_put,
            get: tariff.currency_per_get,
            egress_gib: tariff.currency_per_gib_egress,
            files_per_put: tariff.files_per_put,
            minimum_billable_bytes: tariff.minimum_billable_bytes,
            minimum_billable_seconds: tariff.minimum_billable_seconds,
        },
    }
}

/// A read.
pub fn read(read: &ReadEvent) -> facts::Read {
    facts::Read { size_bytes: read.size_bytes, read_bytes: read.read_bytes, opens: read.opens }
}

/// An action.
#[inline]
pub fn action(action: facts::Action) -> Action {
    match action {
        facts::Action::Archive => Action::Archive,
        facts::Action::Release => Action::Release,
        facts::Action::Migrate => Action::Migrate,
        facts::Action::Recall => Action::Recall,
    }
}

/// An admission.
pub fn admitted(recall: bool, rule: Builtin) -> Admitted {
    let admission = if recall { Admission::Recall } else { Admission::PassThrough };
    Admitted { admission, rule: rule.number() }
}

impl From<SettingValue> for Value {
    fn from(value: SettingValue) -> Self {
        match value {
            SettingValue::Boolean(value) => Value::Boolean(value),
            SettingValue::Integer(value) => Value::Integer(value),
            SettingValue::Number(value) => Value::Number(value),
            SettingValue::Text(value) => Value::Text(value),
            SettingValue::Texts(value) => Value::Texts(value),
            SettingValue::DurationSeconds(value) => Value::Seconds(value),
            SettingValue::SizeBytes(value) => Value::Bytes(value),
        }
    }
}

impl From<Value> for SettingValue {
    fn from(value: Value) -> Self {
        match value {
            Value::Boolean(value) => SettingValue::Boolean(value),
            Value::Integer(value) => SettingValue::Integer(value),
            Value::Number(value) => SettingValue::Number(value),
            Value::Text(value) => SettingValue::Text(value),
            Value::Texts(value) => SettingValue::Texts(value),
            Value::Seconds(value) => SettingValue::DurationSeconds(value),
            Value::Bytes(value) => SettingValue::SizeBytes(value),
        }
    }
}

impl From<&Rulebook> for contract::Rulebook {
    fn from(rulebook: &Rulebook) -> Self {
        let wants = rulebook.wants();
        // Pins are always wanted: a pinned file that counted as freed would leave the goal short.
        let also = |wanted: bool, flag| if wanted { flag } else { Wants::empty() };
        let flags = Wants::PIN | also(wants.path, Wants::PATH) | also(wants.owner, Wants::OWNER);
        let seconds = |seconds: u64| u32::try_from(seconds).unwrap_or(u32::MAX);
        contract::Rulebook {
            rules: rulebook.names(),
            wants: flags,
            archive_after_seconds: seconds(rulebook.archive_after()),
            release_after_seconds: seconds(rulebook.release_after()),
            recalls: rulebook.recalls(),
        }
    }
}
