//! Rules as people write them: `[LABEL:] VERB CONDITION...`, one a line, the first that fits wins.
//!
//! ```text
//! keep path **/*.db,**/*.sqlite
//! big: archive age > 1h size > 100MiB
//! never-release uid = 1000 not path scratch/**
//! migrate pressed idle > 3d heat < 0.5
//! ```

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::glob::Glob;
use crate::rule::{Bounds, Condition, Rule, Verb};
use crate::units;

const CONDITIONS: &str =
    "size, age, idle, heat, recalled, uid, gid, path, not path, pressed or not pressed";

/// Reads one rule. The error begins with the column, from 1.
pub fn rule(text: &str) -> Result<Rule, String> {
    let mut words = Words { text, at: 0 };
    let (mut at, mut word) = words.word();
    let mut name = text.trim().to_string();
    if let Some(label) = word.strip_suffix(':') {
        if label.is_empty() {
            return wrong(at, "a label before ':'");
        }
        name = label.to_string();
        (at, word) = words.word();
    }
    let Some((_, verb)) = Verb::ALL.iter().find(|(name, _)| *name == word) else {
        let verbs: Vec<&str> = Verb::ALL.iter().map(|(name, _)| *name).collect();
        return wrong(at, &format!("one of {} instead of \"{word}\"", verbs.join(", ")));
    };
    let mut conditions = Vec::new();
    loop {
        let (at, word) = words.word();
        let condition = match word {
            "" if words.rest().is_empty() => break,
            "path" => path(&mut words, false)?,
            "pressed" => Condition::Pressed(true),
            "not" => match words.word() {
                (_, "path") => path(&mut words, true)?,
                (_, "pressed") => Condition::Pressed(false),
                (at, other) => {
                    return wrong(at, &format!("path or pressed instead of \"{other}\""));
                }
            },
            "uid" => Condition::Uid(id(&mut words)?),
            "gid" => Condition::Gid(id(&mut words)?),
            "heat" => Condition::Heat(heat(&mut words)?),
            "size" => Condition::Size(between(&mut words, units::bytes, "a size such as 16MiB")?),
            "age" | "idle" | "recalled" => {
                let bounds = between(&mut words, units::seconds, "a time such as 14d or 36h")?;
                match word {
                    "age" => Condition::Age(bounds),
                    "idle" => Condition::Idle(bounds),
                    _ => Condition::Recalled(bounds),
                }
            }
            other => {
                let other = if other.is_empty() { words.rest() } else { other };
                return wrong(at, &format!("{CONDITIONS} instead of \"{other}\""));
            }
        };
        conditions.push(condition);
    }
    conditions.sort_by_key(Condition::cost);
    Ok(Rule { name, verb: *verb, conditions })
}

fn wrong<T>(at: usize, wanted: &str) -> Result<T, String> {
    Err(format!("column {}: expected {wanted}", at + 1))
}

/// Walks along a rule; places are bytes.
struct Words<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Words<'a> {
    fn rest(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let rest = rest.trim_start();
        self.at = self.text.len() - rest.len();
        rest
    }

    /// What ends before this character fits.
    fn until(&mut self, end: impl Fn(char) -> bool) -> (usize, &'a str) {
        let rest = self.rest();
        let (word, at) = (&rest[..rest.find(end).unwrap_or(rest.len())], self.at);
        self.at += word.len();
        (at, word)
    }

    fn word(&mut self) -> (usize, &'a str) {
        self.until(|c| c.is_whitespace() || matches!(c, '<' | '>' | '='))
    }

    /// Up to a space, or between quotes.
    fn value(&mut self) -> Result<(usize, &'a str), String> {
        if !self.rest().starts_with('"') {
            return Ok(self.until(char::is_whitespace));
        }
        self.at += 1;
        let (at, rest) = (self.at, &self.text[self.at..]);
        let Some(end) = rest.find('"') else { return wrong(at, "a second '\"' after this one") };
        self.at += end + 1;
        Ok((at, &rest[..end]))
    }

    fn operator(&mut self) -> Result<&'a str, String> {
        let rest = self.rest();
        let operators = [">=", "<=", ">", "<", "="];
        let Some(operator) = operators.into_iter().find(|operator| rest.starts_with(operator))
        else {
            return wrong(self.at, "one of > >= < <= =");
        };
        self.at += operator.len();
        Ok(operator)
    }
}

/// Globs, divided by commas outside braces.
fn path(words: &mut Words, negated: bool) -> Result<Condition, String> {
    let (at, value) = words.value()?;
    let mut globs = Vec::new();
    let (mut begin, mut depth) = (0, 0_i32);
    let ends = value.char_indices().chain([(value.len(), ',')]);
    for (end, c) in ends {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if c != ',' || (depth > 0 && end < value.len()) {
            continue;
        }
        let glob = Glob::new(&value[begin..end])
            .map_err(|error| format!("column {}: {}", at + begin + error.at + 1, error.why))?;
        globs.push(glob);
        begin = end + 1;
    }
    Ok(Condition::Path(globs, negated))
}

fn id(words: &mut Words) -> Result<u32, String> {
    let at = words.at;
    if words.operator()? != "=" {
        return wrong(at, "=");
    }
    let (at, value) = words.value()?;
    value.parse().or_else(|_| wrong(at, &format!("a number instead of \"{value}\"")))
}

fn between(
    words: &mut Words,
    read: impl Fn(&str) -> Option<u64>,
    wanted: &str,
) -> Result<Bounds<u64>, String> {
    let operator = words.operator()?;
    let (at, value) = words.value()?;
    let Some(value) = read(value) else {
        return wrong(at, &format!("{wanted} instead of \"{value}\""));
    };
    let (least, most) = match operator {
        ">" => (value.saturating_add(1), u64::MAX),
        ">=" => (value, u64::MAX),
        "<" if value == 0 => return wrong(at, "more than nothing after <"),
        "<" => (0, value - 1),
        "<=" => (0, value),
        _ => (value, value),
    };
    Ok(Bounds { least, most })
}

fn heat(words: &mut Words) -> Result<Bounds<f32>, String> {
    let operator = words.operator()?;
    let (at, value) = words.value()?;
    let number = value.parse::<f32>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    let Some(number) = number else {
        return wrong(at, &format!("a number such as 0.5 instead of \"{value}\""));
    };
    let (least, most) = match operator {
        ">" => (number.next_up(), f32::INFINITY),
        ">=" => (number, f32::INFINITY),
        "<" => (0.0, number.next_down()),
        "<=" => (0.0, number),
        _ => (number, number),
    };
    Ok(Bounds { least, most })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read() {
        let read = rule(" big: archive age>1h size >= 100MiB path a/**,*.{x,y} ").unwrap();
        assert_eq!((read.name.as_str(), read.verb), ("big", Verb::Archive));
        assert!(matches!(&read.conditions[..], [
            Condition::Age(Bounds { least: 3_601, most: u64::MAX }),
            Condition::Size(Bounds { least: 0x640_0000, most: u64::MAX }),
            Condition::Path(globs, false),
        ] if globs.len() == 2));
        let read = rule("never-release not path \"with space/*\" uid = 7 not pressed").unwrap();
        assert_eq!(read.name, "never-release not path \"with space/*\" uid = 7 not pressed");
        assert!(
            matches!(
                &read.conditions[..],
                [Condition::Pressed(false), Condition::Uid(7), Condition::Path(_, true),]
            ),
            "cheapest first: {read:?}"
        );
        assert!(rule("keep").unwrap().conditions.is_empty());
    }

    #[test]
    fn what_is_no_rule_is_told_with_its_place() {
        let wrong = [
            ("", "column 1: expected one of keep, never-archive"),
            ("delete age > 1d", "instead of \"delete\""),
            ("archive aged > 1d", "column 9: expected size, age"),
            ("archive age 1d", "column 13: expected one of > >= < <= ="),
            ("archive age > 1", "column 15: expected a time such as 14d or 36h instead of \"1\""),
            ("archive size > 1d", "column 16: expected a size"),
            ("keep path a/[", "column 13: '[' without ']'"),
            ("keep path a,b{", "column 14: '{' without '}'"),
            ("keep path", "column 10: an empty pattern"),
            ("keep path \"a", "column 12: expected a second"),
            ("keep uid > 7", "column 9: expected ="),
            ("keep uid = root", "expected a number instead of \"root\""),
            ("release heat < NaN", "expected a number such as 0.5"),
            ("release heat < -1", "expected a number such as 0.5"),
            ("release idle < 0s", "expected more than nothing"),
            ("not keep", "instead of \"not\""),
            ("keep not size > 1B", "column 10: expected path or pressed"),
            (": keep", "column 1: expected a label"),
            ("keep > 5", "column 6: expected size"),
        ];
        for (text, told) in wrong {
            let error = rule(text).unwrap_err();
            assert!(error.contains(told), "{text:?}: {error}");
        }
    }

    #[test]
    fn no_text_makes_reading_it_fail_otherwise() {
        let words = ["keep", "path", "\"", ">", "size", "1d", "\u{e9}", "{", ",", "not", "=", ":"];
        let mut seed = 7_u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..6 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                text += words[usize::try_from(seed >> 33).unwrap() % words.len()];
                text += if seed & (1 << 32) == 0 { " " } else { "" };
            }
            let _read = rule(&text);
        }
    }
}
