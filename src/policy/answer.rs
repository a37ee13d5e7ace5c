//! What a component answers is checked here before anything believes it. Pure.

use super::contract::{
    Action, Budget, ConfigError, Decision, Description, Rulebook, SettingValue, StepResult, Verdict,
};
use super::journal::short;

/// Longest name of a policy, version, key or rule, bytes.
pub const NAME_BYTES: usize = 128;
/// Longest sentence, bytes.
pub const TEXT_BYTES: usize = 1_024;
/// Rules at most: the default policy takes 256 of a user's, and has some of its own.
pub const RULES: usize = 1_024;
/// Settings at most.
pub const SETTINGS: usize = 256;

/// An answer that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// More candidates than it was given.
    #[error("it looked at {consumed} candidates of {offered}")]
    Consumed {
        /// So it says.
        consumed: u32,
        /// What it may have looked at.
        offered: u32,
    },
    /// More decisions than it may give.
    #[error("it gave {given} decisions where {allowed} are allowed")]
    Decisions {
        /// Given.
        given: usize,
        /// Allowed.
        allowed: u32,
    },
    /// It does not get on.
    #[error("it looked at no candidate, twice")]
    Nothing,
    /// Something in its description or rulebook.
    #[error("{0}")]
    Described(String),
    /// It refuses its settings.
    #[error("{key}: {why}")]
    Refused {
        /// Which.
        key: String,
        /// Why.
        why: String,
    },
}

/// A step's answer that may be believed.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Each with an index that was offered, once, and a rule that there is.
    pub decisions: Vec<Decision>,
    /// Candidates that were looked at.
    pub consumed: usize,
    /// Whether the pass needs no more.
    pub done: bool,
    /// Decisions that were left out: index or rule out of range, or an index twice.
    pub dropped: u64,
}

/// Checks a step over `offered` candidates.
pub fn step(
    offered: usize,
    budget: &Budget,
    rules: usize,
    result: StepResult,
) -> Result<Step, Wrong> {
    let offered = u32::try_from(offered).unwrap_or(u32::MAX).min(budget.max_candidates);
    if result.consumed > offered {
        return Err(Wrong::Consumed { consumed: result.consumed, offered });
    }
    if result.decisions.len() > budget.max_decisions as usize {
        let (given, allowed) = (result.decisions.len(), budget.max_decisions);
        return Err(Wrong::Decisions { given, allowed });
    }
    let consumed = result.consumed as usize;
    let mut met = vec![false; consumed];
    let mut decisions = result.decisions;
    let given = decisions.len();
    decisions.retain(|decision| {
        let is_rule = usize::from(decision.rule) < rules;
        match met.get_mut(decision.index as usize) {
            Some(met) if is_rule => !std::mem::replace(met, true),
            _ => false,
        }
    });
    let dropped = (given - decisions.len()) as u64;
    Ok(Step { decisions, consumed, done: result.done, dropped })
}

/// Checks a description.
pub fn description(mut description: Description) -> Result<Description, Wrong> {
    let wrong = |what: String| Err(Wrong::Described(what));
    for (what, text) in [("name", &description.name), ("version", &description.version)] {
        if text.is_empty() || text.len() > NAME_BYTES || text.contains(char::is_control) {
            return wrong(format!("its {what} is {:?}", short(text, 40)));
        }
    }
    if description.settings.len() > SETTINGS {
        return wrong(format!("it has {} settings", description.settings.len()));
    }
    let mut keys = std::collections::BTreeSet::new();
    for setting in &mut description.settings {
        let key = &setting.key;
        if key.is_empty() || key.len() > NAME_BYTES || key.contains(char::is_control) {
            return wrong(format!("a setting is called {:?}", short(key, 40)));
        }
        if !keys.insert(key.clone()) {
            return wrong(format!("two settings are called {key}"));
        }
        if !is_finite(&setting.default) {
            return wrong(format!("the default of {key} is no number"));
        }
        setting.doc = short(&setting.doc, TEXT_BYTES);
    }
    Ok(description)
}

fn is_finite(value: &SettingValue) -> bool {
    !matches!(value, SettingValue::Number(number) if !number.is_finite())
}

/// Checks what settings came to.
pub fn rulebook(answer: Result<Rulebook, ConfigError>) -> Result<Rulebook, Wrong> {
    let mut rulebook = answer.map_err(|error| match error {
        ConfigError::UnknownKey(key) => {
            Wrong::Refused { key: short(&key, NAME_BYTES), why: "there is no such setting".into() }
        }
        ConfigError::InvalidValue((key, why)) => {
            Wrong::Refused { key: short(&key, NAME_BYTES), why: short(&why, TEXT_BYTES) }
        }
    })?;
    match rulebook.rules.len() {
        0 => return Err(Wrong::Described("it names no rules".into())),
        1..=RULES => {}
        many => return Err(Wrong::Described(format!("it names {many} rules"))),
    }
    for rule in &mut rulebook.rules {
        *rule = short(rule, TEXT_BYTES);
    }
    Ok(rulebook)
}

/// Why a file would be kept or moved, as it may be shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    /// None: kept.
    pub action: Option<Action>,
    /// The rule's name.
    pub rule: String,
    /// Seconds until the answer changes.
    pub changes_in_seconds: Option<u32>,
    /// One sentence.
    pub reason: String,
}

/// Makes a verdict fit to be shown.
pub fn verdict(verdict: Verdict, rules: &[String]) -> Explained {
    let rule = rules.get(usize::from(verdict.rule));
    Explained {
        action: verdict.action,
        rule: rule.map_or_else(|| format!("rule {} (there is none)", verdict.rule), Clone::clone),
        changes_in_seconds: verdict.changes_in_seconds,
        reason: short(&verdict.reason, TEXT_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget { max_candidates: 10, max_decisions: 4 };

    fn decision(index: u32, rule: u16) -> Decision {
        Decision { index, action: Action::Archive, priority: 0, rule }
    }

    fn answer(decisions: Vec<Decision>, consumed: u32) -> Result<Step, Wrong> {
        step(20, &BUDGET, 3, StepResult { decisions, consumed, done: false })
    }

    #[test]
    fn what_is_out_of_range_or_comes_twice_is_left_out() {
        let given = vec![decision(0, 0), decision(0, 1), decision(5, 2), decision(6, 3)];
        let step = answer(given, 6).unwrap();
        assert_eq!(step.decisions, [decision(0, 0), decision(5, 2)]);
        assert_eq!((step.dropped, step.consumed), (2, 6));
        assert_eq!(answer(vec![decision(u32::MAX, 0)], 6).unwrap().dropped, 1);
        assert_eq!(answer(vec![decision(6, 0)], 6).unwrap().dropped, 1, "it was not looked at");
    }

    #[test]
    fn more_than_was_asked_is_no_answer() {
        assert!(matches!(answer(vec![], 11), Err(Wrong::Consumed { .. })), "beyond the budget");
        let many = (0..5).map(|index| decision(index, 0)).collect();
        assert!(matches!(answer(many, 10), Err(Wrong::Decisions { .. })));
    }

    #[test]
    fn a_verdict_is_fit_to_be_shown() {
        let odd = Verdict {
            action: None,
            rule: u16::MAX,
            changes_in_seconds: None,
            reason: "\x1b[31m\r\n".repeat(1 << 18),
        };
        let shown = verdict(odd, &["one".to_owned()]);
        assert!(shown.reason.len() <= TEXT_BYTES && !shown.reason.contains(char::is_control));
        assert!(shown.rule.contains("there is none"));
    }
}
