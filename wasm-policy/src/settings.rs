//! The settings: keys, defaults and ranges, and what a person's values come to.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::parse;
use crate::rule::Rule;
use crate::units::{self, DAY};

/// Rules at most: each candidate may have to be held against each.
const RULES: usize = 256;
/// Longest time that a setting may name, seconds: what the contract's counters hold.
const LONGEST: u64 = u32::MAX as u64;

/// A value, of the type that its key has.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Yes or no.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A number.
    Number(f64),
    /// One text.
    Text(String),
    /// Several.
    Texts(Vec<String>),
    /// A time.
    Seconds(u64),
    /// A size.
    Bytes(u64),
}

/// Why a setting is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingError {
    /// There is no such key.
    UnknownKey(String),
    /// The key, and why not this value.
    InvalidValue(String, String),
}

/// What `coldfs policy show` says of a key.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its name.
    pub key: &'static str,
    /// Its default, which also fixes the type.
    pub default: Value,
    /// One line.
    pub doc: &'static str,
}

/// All settings, read. Defaults are DESIGN.md's (section 9 and the admission of section 3).
#[derive(Clone, Debug)]
pub struct Settings {
    /// Ordered; the first that fits wins.
    pub rules: Vec<Rule>,
    /// Unmodified for so long: archived. Seconds.
    pub archive_after: u64,
    /// The same above the high watermark.
    pub archive_after_pressed: u64,
    /// Not used for so long: cold. Seconds.
    pub cold_after: u64,
    /// Release what is cold also where no space is asked for.
    pub release_ahead: bool,
    /// After a recall a file stays for so long. Seconds.
    pub minimum_residence: u64,
    /// Files of this size or less are never moved. Bytes.
    pub minimum_size: u64,
    /// Above this part of the filesystem, or of a quota, space is needed. Percent.
    pub high_watermark: u64,
    /// A quota is freed down to this part. Percent.
    pub low_watermark: u64,
    /// A move has to pay for itself within so many months.
    pub payback_months: f64,
    /// Recalls of a cold file a month that are reckoned with, beside what its heat tells.
    pub expected_recalls: f64,
    /// Read while released: up to this size a file comes home whole. Bytes.
    pub recall_whole_up_to: u64,
    /// A larger one once so much of it has been read. Percent.
    pub recall_after_share: u64,
    /// Or once it was opened so often; 0: never for that.
    pub recall_after_opens: u64,
}

impl Default for Settings {
    fn default() -> Self {
        let rules = DEFAULT_RULES.iter().filter_map(|text| parse::rule(text).ok()).collect();
        Self {
            rules,
            archive_after: u64::from(DAY),
            archive_after_pressed: 3_600,
            cold_after: 14 * u64::from(DAY),
            release_ahead: false,
            minimum_residence: u64::from(DAY),
            minimum_size: 4_096,
            high_watermark: 85,
            low_watermark: 80,
            payback_months: 12.0,
            expected_recalls: 0.05,
            recall_whole_up_to: 16 << 20,
            recall_after_share: 25,
            recall_after_opens: 0,
        }
    }
}

const DEFAULT_RULES: [&str; 2] = ["archive", "release"];

/// Every key.
pub fn specs() -> Vec<Spec> {
    let default = Settings::default();
    let percent = |percent: u64| Value::Integer(i64::try_from(percent).unwrap_or(0));
    let spec = |key, default, doc| Spec { key, default, doc };
    let rules = DEFAULT_RULES.iter().map(ToString::to_string).collect();
    alloc::vec![
        spec(
            "rules",
            Value::Texts(rules),
            "what is done with which files; the first that fits wins"
        ),
        spec(
            "archive-after",
            Value::Seconds(default.archive_after),
            "a rule that archives and names no age or idle time asks for this age",
        ),
        spec(
            "archive-after-pressed",
            Value::Seconds(default.archive_after_pressed),
            "the same above a high watermark",
        ),
        spec(
            "cold-after",
            Value::Seconds(default.cold_after),
            "a rule that releases and names no idle time asks for this one",
        ),
        spec(
            "release-ahead",
            Value::Boolean(default.release_ahead),
            "release what is cold also while no space is needed",
        ),
        spec(
            "minimum-residence",
            Value::Seconds(default.minimum_residence),
            "a recalled file stays for so long",
        ),
        spec(
            "minimum-size",
            Value::Bytes(default.minimum_size),
            "files of this size or less are never moved; 4096 bytes at least",
        ),
        spec(
            "high-watermark-percent",
            percent(default.high_watermark),
            "above this part of the filesystem or of a quota space is needed",
        ),
        spec(
            "low-watermark-percent",
            percent(default.low_watermark),
            "a quota is freed down to this part",
        ),
        spec(
            "payback-months",
            Value::Number(default.payback_months),
            "the space that a move saves has to pay for it within this time",
        ),
        spec(
            "expected-recalls-a-month",
            Value::Number(default.expected_recalls),
            "recalls of a cold file to reckon with, beside what its heat tells",
        ),
        spec(
            "recall-whole-up-to",
            Value::Bytes(default.recall_whole_up_to),
            "a file up to this size comes home when it is read",
        ),
        spec(
            "recall-after-percent",
            percent(default.recall_after_share),
            "a larger one once this part of it was read",
        ),
        spec(
            "recall-after-opens",
            Value::Integer(0),
            "or once it was opened so often since its release; 0: not for that",
        ),
    ]
}

impl Settings {
    /// Lays these over the present ones. All or nothing.
    pub fn with<'a>(
        &self,
        settings: impl IntoIterator<Item = (&'a str, Value)>,
    ) -> Result<Self, SettingError> {
        let mut new = self.clone();
        for (key, value) in settings {
            new.set(key, value)?;
        }
        if new.low_watermark >= new.high_watermark {
            let why = format!("must be below high-watermark-percent, {}", new.high_watermark);
            return Err(invalid("low-watermark-percent", why));
        }
        if new.archive_after_pressed > new.archive_after {
            return Err(invalid("archive-after-pressed", "must not exceed archive-after"));
        }
        Ok(new)
    }

    fn set(&mut self, key: &str, value: Value) -> Result<(), SettingError> {
        match key {
            "rules" => self.rules = rules(key, value)?,
            "archive-after" => self.archive_after = seconds(key, &value, 0)?,
            "archive-after-pressed" => self.archive_after_pressed = seconds(key, &value, 0)?,
            // P9: there is no release without a time that was proven.
            "cold-after" => self.cold_after = seconds(key, &value, 60)?,
            "release-ahead" => self.release_ahead = boolean(key, &value)?,
            "minimum-residence" => self.minimum_residence = seconds(key, &value, 0)?,
            "minimum-size" => self.minimum_size = bytes(key, &value, 4_096)?,
            "high-watermark-percent" => self.high_watermark = integer(key, &value, 1, 100)?,
            "low-watermark-percent" => self.low_watermark = integer(key, &value, 0, 99)?,
            "payback-months" => self.payback_months = number(key, &value, 0.1, 1_200.0)?,
            "expected-recalls-a-month" => {
                self.expected_recalls = number(key, &value, 0.0, 1_000_000.0)?;
            }
            "recall-whole-up-to" => self.recall_whole_up_to = bytes(key, &value, 0)?,
            "recall-after-percent" => self.recall_after_share = integer(key, &value, 0, 100)?,
            "recall-after-opens" => {
                self.recall_after_opens = integer(key, &value, 0, i64::from(u32::MAX))?;
            }
            _ => return Err(SettingError::UnknownKey(key.to_string())),
        }
        Ok(())
    }
}

fn invalid(key: &str, why: impl Into<String>) -> SettingError {
    SettingError::InvalidValue(key.to_string(), why.into())
}

fn rules(key: &str, value: Value) -> Result<Vec<Rule>, SettingError> {
    let Value::Texts(texts) = value else {
        return Err(invalid(key, "wants a list of texts"));
    };
    if texts.len() > RULES {
        return Err(invalid(key, format!("has {} rules; {RULES} at most", texts.len())));
    }
    let mut rules: Vec<Rule> = Vec::new();
    for (number, text) in (1..).zip(&texts) {
        let rule = parse::rule(text)
            .map_err(|why| invalid(key, format!("rule {number} \"{text}\", {why}")))?;
        if let Some(other) = rules.iter().position(|other| other.name == rule.name) {
            let why = format!("rule {number} has the name of rule {}: {}", other + 1, rule.name);
            return Err(invalid(key, why));
        }
        rules.push(rule);
    }
    Ok(rules)
}

fn boolean(key: &str, value: &Value) -> Result<bool, SettingError> {
    match value {
        Value::Boolean(value) => Ok(*value),
        _ => Err(invalid(key, "wants true or false")),
    }
}

fn integer(key: &str, value: &Value, least: i64, most: i64) -> Result<u64, SettingError> {
    let Value::Integer(value) = value else {
        return Err(invalid(key, "wants a whole number"));
    };
    let fits = (least..=most).contains(value).then(|| u64::try_from(*value).ok()).flatten();
    fits.ok_or_else(|| invalid(key, format!("is {value}, wants {least} to {most}")))
}

fn number(key: &str, value: &Value, least: f64, most: f64) -> Result<f64, SettingError> {
    let value = match value {
        Value::Number(value) => *value,
        Value::Integer(value) => i32::try_from(*value).map_or(f64::NAN, f64::from),
        _ => return Err(invalid(key, "wants a number")),
    };
    // NaN is in no range.
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    Err(invalid(key, format!("is {value}, wants {least} to {most}")))
}

fn seconds(key: &str, value: &Value, least: u64) -> Result<u64, SettingError> {
    match value {
        Value::Seconds(value) if (least..=LONGEST).contains(value) => Ok(*value),
        Value::Seconds(value) => {
            Err(invalid(key, format!("is {value} s, wants {least} s to 49710 d")))
        }
        _ => Err(invalid(key, "wants a time such as \"14d\"")),
    }
}

fn bytes(key: &str, value: &Value, least: u64) -> Result<u64, SettingError> {
    match value {
        Value::Bytes(value) if *value >= least => Ok(*value),
        Value::Bytes(value) => Err(invalid(
            key,
            format!("is {value} bytes, wants {} at least", units::show_bytes(least)),
        )),
        _ => Err(invalid(key, "wants a size such as \"16MiB\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(settings: &[(&str, Value)]) -> String {
        match Settings::default().with(settings.iter().cloned()).unwrap_err() {
            SettingError::UnknownKey(key) => format!("unknown {key}"),
            SettingError::InvalidValue(key, why) => format!("{key} {why}"),
        }
    }

    #[test]
    fn every_default_is_accepted_as_it_is_told() {
        let specs = specs();
        let told = specs.iter().map(|spec| (spec.key, spec.default.clone()));
        let read = Settings::default().with(told).unwrap();
        assert_eq!(format!("{read:?}"), format!("{:?}", Settings::default()));
        assert_eq!(read.rules.len(), 2, "the default rules are rules");
    }

    #[test]
    fn every_key_refuses_a_value_of_another_type() {
        let others = [
            Value::Boolean(true),
            Value::Text("x".into()),
            Value::Number(1.0),
            Value::Bytes(4_096),
        ];
        for spec in specs() {
            let mut refused = 0;
            for other in others.iter().cloned() {
                refused += usize::from(Settings::default().with([(spec.key, other)]).is_err());
            }
            assert!(refused >= 3, "{}", spec.key);
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        assert_eq!(why(&[("colour", Value::Boolean(true))]), "unknown colour");
        let rules = Value::Texts(alloc::vec!["keep path *.db".into(), "archive age > 1".into()]);
        assert_eq!(
            why(&[("rules", rules)]),
            "rules rule 2 \"archive age > 1\", column 15: expected a time such as 14d or 36h \
             instead of \"1\""
        );
        let twice = Value::Texts(alloc::vec!["a: keep".into(), "a: archive".into()]);
        assert_eq!(why(&[("rules", twice)]), "rules rule 2 has the name of rule 1: a");
        let nan = Value::Number(f64::NAN);
        assert_eq!(why(&[("payback-months", nan)]), "payback-months is NaN, wants 0.1 to 1200");
        assert_eq!(
            why(&[("minimum-size", Value::Bytes(1))]),
            "minimum-size is 1 bytes, wants 4 KiB at least"
        );
        assert_eq!(
            why(&[("low-watermark-percent", Value::Integer(90))]),
            "low-watermark-percent must be below high-watermark-percent, 85"
        );
        assert!(why(&[("cold-after", Value::Seconds(0))]).contains("wants 60 s"));
        assert!(why(&[("high-watermark-percent", Value::Integer(-1))]).contains("is -1"));
        let many = (0..257).map(|n| format!("r{n}: keep")).collect();
        assert!(why(&[("rules", Value::Texts(many))]).contains("256 at most"));
    }
}
