//! What holds a file back, whatever a policy says (P9). Pure.

use crate::migrate::NEVER_MIGRATED_BYTES;
use crate::policy::contract::Action;
use crate::tenant::Pin;

/// A relatime filesystem moves an atime once a day: it may be so much too old.
pub const ATIME_SECONDS: u32 = 86_400;

/// What is known of a file that is to be moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its size as applications see it.
    pub size_bytes: u64,
    /// Somebody has it open, or it is being moved.
    pub open: bool,
    /// The hardest pin on it or above it.
    pub pin: Option<Pin>,
    /// For how long it is proven that nobody used it, by the kernel's probe.
    pub observed_idle: Option<u32>,
    /// The same by its atime, a day taken off.
    pub atime_idle: Option<u32>,
    /// Seconds since it came home; none: never.
    pub recalled_seconds: Option<u32>,
}

/// What a file has to have behind it before its bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Least {
    /// Seconds without a use.
    pub idle: u32,
    /// Seconds at home after a recall.
    pub stay: u32,
}

/// Why a file stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// A stub would take as much.
    TooSmall,
    /// Somebody has it open.
    Open,
    /// A person pinned it.
    Pinned,
    /// Nothing proves that nobody uses it.
    Unproven,
    /// It was used too lately.
    Used,
    /// It came home too lately.
    RecalledLately,
    /// It would come home where there is no room for it.
    NoRoom,
}

impl Held {
    /// For people and scripts.
    pub fn word(self) -> &'static str {
        match self {
            Held::TooSmall => "too-small",
            Held::Open => "open",
            Held::Pinned => "pinned",
            Held::Unproven => "unproven",
            Held::Used => "used-lately",
            Held::RecalledLately => "recalled-lately",
            Held::NoRoom => "no-room",
        }
    }
}

impl Facts {
    /// The longest idleness that is proven.
    pub fn proven_idle(&self) -> Option<u32> {
        self.observed_idle.max(self.atime_idle)
    }
}

/// Why an action is not carried out; none: it may be.
pub fn held(action: Action, facts: &Facts, least: Least) -> Option<Held> {
    let frees = match action {
        // Bytes come home: nothing is at risk.
        Action::Recall => return None,
        Action::Archive => false,
        Action::Release | Action::Migrate => true,
    };
    if facts.size_bytes <= NEVER_MIGRATED_BYTES {
        return Some(Held::TooSmall);
    }
    if facts.open {
        return Some(Held::Open);
    }
    match facts.pin {
        Some(Pin::NeverArchive) => return Some(Held::Pinned),
        Some(Pin::NeverRelease) if frees => return Some(Held::Pinned),
        Some(Pin::NeverRelease) | None => {}
    }
    if !frees {
        return None;
    }
    if facts.recalled_seconds.is_some_and(|seconds| seconds < least.stay) {
        return Some(Held::RecalledLately);
    }
    match facts.proven_idle() {
        None => Some(Held::Unproven),
        Some(idle) if idle < least.idle => Some(Held::Used),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Least = Least { idle: 100, stay: 1_000 };

    #[test]
    fn no_answer_of_a_policy_moves_what_is_open_pinned_unproven_or_just_home() {
        let cold = Facts { size_bytes: 5_000, observed_idle: Some(100), ..Facts::default() };
        let cases = [
            (cold, [None, None, None]),
            (Facts { atime_idle: Some(100), observed_idle: None, ..cold }, [None, None, None]),
            (Facts { size_bytes: 4_096, ..cold }, [Some(Held::TooSmall); 3]),
            (Facts { open: true, ..cold }, [Some(Held::Open); 3]),
            (Facts { pin: Some(Pin::NeverArchive), ..cold }, [Some(Held::Pinned); 3]),
            (
                Facts { pin: Some(Pin::NeverRelease), ..cold },
                [None, Some(Held::Pinned), Some(Held::Pinned)],
            ),
            (
                Facts { observed_idle: None, ..cold },
                [None, Some(Held::Unproven), Some(Held::Unproven)],
            ),
            (Facts { observed_idle: Some(99), ..cold }, [None, Some(Held::Used), Some(Held::Used)]),
            (
                Facts { recalled_seconds: Some(999), ..cold },
                [None, Some(Held::RecalledLately), Some(Held::RecalledLately)],
            ),
            (Facts { recalled_seconds: Some(1_000), ..cold }, [None, None, None]),
        ];
        for (facts, expected) in cases {
            let actions = [Action::Archive, Action::Release, Action::Migrate];
            assert_eq!(actions.map(|action| held(action, &facts, LEAST)), expected, "{facts:?}");
            assert_eq!(held(Action::Recall, &facts, LEAST), None);
        }
    }
}
