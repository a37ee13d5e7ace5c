//! Settings as a person writes them, given the types that the policy's defaults have.

use serde::{Deserialize, Serialize};

use super::answer::Wrong;
use super::contract::{Description, Setting, SettingValue};
use crate::units::{parse_seconds, parse_size};

/// A value as it stands in the configuration file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "true or false, a number, a string, or a list of strings")]
pub enum Written {
    /// `true`, `false`.
    Boolean(bool),
    /// A whole number: also seconds or bytes.
    Integer(i64),
    /// A number.
    Number(f64),
    /// A string: also `"14d"`, `"4KiB"`.
    Text(String),
    /// A list of strings.
    Texts(Vec<String>),
}

/// Settings by key.
pub type Settings = std::collections::BTreeMap<String, Written>;

/// What is written, in the types of a description.
pub(super) fn typed(settings: &Settings, description: &Description) -> Result<Vec<Setting>, Wrong> {
    let typed = |(key, written): (&String, &Written)| {
        let spec = description.settings.iter().find(|spec| spec.key == *key);
        let value = match spec {
            Some(spec) => as_the_default(written, &spec.default),
            None => Err("there is no such setting (`coldfs policy show` lists them)".to_owned()),
        };
        match value {
            Ok(value) => Ok(Setting { key: key.clone(), value }),
            Err(why) => Err(Wrong::Refused { key: key.clone(), why }),
        }
    };
    settings.iter().map(typed).collect()
}

fn as_the_default(written: &Written, default: &SettingValue) -> Result<SettingValue, String> {
    let not_negative = |number: i64| {
        u64::try_from(number).map_err(|_negative| format!("{number} is less than nothing"))
    };
    let value = match (default, written) {
        (SettingValue::Boolean(_), Written::Boolean(value)) => SettingValue::Boolean(*value),
        (SettingValue::Integer(_), Written::Integer(value)) => SettingValue::Integer(*value),
        (SettingValue::Number(_), Written::Number(value)) if value.is_finite() => {
            SettingValue::Number(*value)
        }
        #[allow(clippy::cast_precision_loss, reason = "nobody writes 2^53 settings")]
        (SettingValue::Number(_), Written::Integer(value)) => SettingValue::Number(*value as f64),
        (SettingValue::Text(_), Written::Text(value)) => SettingValue::Text(value.clone()),
        (SettingValue::Texts(_), Written::Texts(value)) => SettingValue::Texts(value.clone()),
        (SettingValue::DurationSeconds(_), Written::Text(text)) => {
            SettingValue::DurationSeconds(parse_seconds(text)?)
        }
        (SettingValue::DurationSeconds(_), Written::Integer(number)) => {
            SettingValue::DurationSeconds(not_negative(*number)?)
        }
        (SettingValue::SizeBytes(_), Written::Text(text)) => {
            SettingValue::SizeBytes(parse_size(text)?)
        }
        (SettingValue::SizeBytes(_), Written::Integer(number)) => {
            SettingValue::SizeBytes(not_negative(*number)?)
        }
        (default, _) => return Err(format!("expected {}", kind(default))),
    };
    Ok(value)
}

fn kind(value: &SettingValue) -> &'static str {
    match value {
        SettingValue::Boolean(_) => "true or false",
        SettingValue::Integer(_) => "a whole number",
        SettingValue::Number(_) => "a number",
        SettingValue::Text(_) => "a string",
        SettingValue::Texts(_) => "a list of strings",
        SettingValue::DurationSeconds(_) => "a time such as \"14d\" or \"36h\"",
        SettingValue::SizeBytes(_) => "a size such as \"4KiB\" or 4096",
    }
}

/// A value as a person would write it.
pub fn shown(value: &SettingValue) -> String {
    match value {
        SettingValue::Boolean(value) => value.to_string(),
        SettingValue::Integer(value) => value.to_string(),
        SettingValue::Number(value) => value.to_string(),
        SettingValue::Text(value) => format!("{value:?}"),
        SettingValue::Texts(value) => format!("{value:?}"),
        SettingValue::DurationSeconds(seconds) => format!("\"{seconds}s\""),
        SettingValue::SizeBytes(bytes) => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_gets_the_type_of_its_default_or_is_refused() {
        let text = |text: &str| Written::Text(text.to_owned());
        let seconds = SettingValue::DurationSeconds(1);
        let bytes = SettingValue::SizeBytes(1);
        let number = SettingValue::Number(1.0);
        for (written, default, value) in [
            (text("14d"), &seconds, Some(SettingValue::DurationSeconds(14 * 86_400))),
            (Written::Integer(60), &seconds, Some(SettingValue::DurationSeconds(60))),
            (Written::Integer(-1), &seconds, None),
            (text("14x"), &seconds, None),
            (text("4KiB"), &bytes, Some(SettingValue::SizeBytes(4_096))),
            (Written::Boolean(true), &bytes, None),
            (Written::Integer(2), &number, Some(SettingValue::Number(2.0))),
            (Written::Number(f64::NAN), &number, None),
        ] {
            assert_eq!(as_the_default(&written, default).ok(), value, "{written:?}");
        }
    }
}
