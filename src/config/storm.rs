//! The storm guard's part of the configuration file: `[[class]]`, `[budget.*]`, `[brake]`.

use std::time::Duration;

use serde::Deserialize;

use super::file::{Size, Span};
use crate::guard::Rules;
use crate::guard::brake::BrakeLimits;
use crate::guard::budget::{Budget, Budgets};
use crate::guard::class::{Action, Admit, Class, Classes, Members, Over};

/// A recall class as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClassText {
    name: String,
    #[serde(default)]
    programs: Vec<String>,
    #[serde(default)]
    cgroups: Vec<String>,
    #[serde(default)]
    users: Vec<User>,
    action: ActionText,
    files_per_second: Option<u32>,
    #[serde(default)]
    over: OverText,
    #[serde(default)]
    admit: AdmitText,
}

/// A user by name or number.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "a user's name or number")]
enum User {
    Number(u32),
    Name(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ActionText {
    Allow,
    PassThrough,
    Slow,
    Deny,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OverText {
    #[default]
    Wait,
    Deny,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum AdmitText {
    #[default]
    FirstTouch,
    SecondTouch,
}

/// `[budget.process]`, `[budget.user]`, `[budget.tenant]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BudgetsText {
    process: BudgetText,
    user: BudgetText,
    tenant: BudgetText,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct BudgetText {
    segments: Option<u64>,
    segments_per_second: Option<u64>,
    bytes: Option<Size>,
    bytes_per_second: Option<Size>,
}

/// `[brake]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BrakeText {
    files: Option<u64>,
    bytes: Option<Size>,
    window: Option<Span>,
}

/// The rules that a file asks for.
pub(super) fn rules(
    classes: &[ClassText],
    budgets: &BudgetsText,
    brake: &BrakeText,
) -> Result<Rules, String> {
    let classes = classes.iter().map(class).collect::<Result<Vec<_>, _>>()?;
    let default = Budgets::default();
    let budgets = Budgets {
        process: budget("process", &budgets.process, default.process)?,
        user: budget("user", &budgets.user, default.user)?,
        tenant: budget("tenant", &budgets.tenant, default.tenant)?,
    };
    let default = BrakeLimits::default();
    let brake = BrakeLimits {
        files: brake.files.unwrap_or(default.files),
        bytes: brake.bytes.as_ref().map_or(default.bytes, |size| size.0),
        window: brake.window.as_ref().map_or(default.window, |span| Duration::from_secs(span.0)),
    };
    if brake.window < Duration::from_secs(10) {
        return Err("brake.window is shorter than 10s".into());
    }
    Ok(Rules { classes: Classes::new(classes)?, budgets, brake })
}

fn budget(whose: &str, text: &BudgetText, default: Budget) -> Result<Budget, String> {
    let budget = Budget {
        segments: text.segments.unwrap_or(default.segments),
        segments_per_second: text.segments_per_second.unwrap_or(default.segments_per_second),
        bytes: text.bytes.as_ref().map_or(default.bytes, |size| size.0),
        bytes_per_second: text
            .bytes_per_second
            .as_ref()
            .map_or(default.bytes_per_second, |size| size.0),
    };
    // A bucket that never fills would refuse for ever what it refuses once.
    let zero = budget.segments == 0
        || budget.segments_per_second == 0
        || budget.bytes == 0
        || budget.bytes_per_second == 0;
    if zero {
        return Err(format!(
            "budget.{whose} holds a 0: nobody could ever read; a class with action = \"deny\" \
             refuses readers"
        ));
    }
    Ok(budget)
}

fn class(text: &ClassText) -> Result<Class, String> {
    let wrong = |cause: String| format!("class {:?}: {cause}", text.name);
    let users = text.users.iter().map(uid).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    let members = Members::new(&text.programs, &text.cgroups, users).map_err(wrong)?;
    let action = match (text.action, text.files_per_second) {
        (ActionText::Slow, Some(rate @ 1..)) => Action::Slow { files_per_second: rate },
        (ActionText::Slow, _) => {
            return Err(wrong("action = \"slow\" needs files_per_second, 1 or more".into()));
        }
        (_, Some(_)) => {
            return Err(wrong("files_per_second belongs to action = \"slow\"".into()));
        }
        (ActionText::Allow, None) => Action::Allow,
        (ActionText::PassThrough, None) => Action::PassThrough,
        (ActionText::Deny, None) => Action::Deny,
    };
    let over = match text.over {
        OverText::Wait => Over::Wait,
        OverText::Deny => Over::Deny,
    };
    let admit = match text.admit {
        AdmitText::FirstTouch => Admit::FirstTouch,
        AdmitText::SecondTouch => Admit::SecondTouch,
    };
    Ok(Class { name: text.name.clone(), members, action, over, admit })
}

fn uid(user: &User) -> Result<u32, String> {
    match user {
        User::Number(number) => Ok(*number),
        User::Name(name) => match nix::unistd::User::from_name(name) {
            Ok(Some(user)) => Ok(user.uid.as_raw()),
            Ok(None) => Err(format!("there is no user {name:?}; a number needs no quotes")),
            Err(error) => Err(format!("look up the user {name:?}: {error}")),
        },
    }
}
