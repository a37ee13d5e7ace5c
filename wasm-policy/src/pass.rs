//! One pass over one tenant: candidates come coldest first, until enough is freed.

use alloc::rc::Rc;

use crate::facts::{Action, Candidate, Context};
use crate::rulebook::{Moment, Rulebook};
use crate::units::DAY;

/// A pass.
#[derive(Debug)]
pub struct Pass {
    rulebook: Rc<Rulebook>,
    moment: Moment,
    freed_bytes: u64,
}

/// What is done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What.
    pub action: Action,
    /// Larger runs first: the coldest, and what is read now before all.
    pub priority: u16,
    /// The rule's number.
    pub rule: u16,
}

impl Pass {
    /// Begins a pass by these rules.
    pub fn new(rulebook: Rc<Rulebook>, context: &Context) -> Self {
        let moment = rulebook.moment(context);
        Self { rulebook, moment, freed_bytes: 0 }
    }

    /// What is done with the next file; none: nothing.
    #[inline]
    pub fn next(&mut self, file: &Candidate) -> Option<Decision> {
        let ruling = self.rulebook.judge(&self.moment, file, self.freed_bytes);
        let action = ruling.action?;
        if action.frees() {
            self.freed_bytes = self.freed_bytes.saturating_add(file.local_bytes);
        }
        let days = u16::try_from(file.idle_seconds / DAY).unwrap_or(u16::MAX - 1);
        let priority = if action == Action::Recall { u16::MAX } else { days };
        Some(Decision { action, priority, rule: ruling.rule })
    }

    /// Whether no further candidate can matter: all that rules may still do is release, and
    /// nothing more is to be freed.
    pub fn is_done(&self) -> bool {
        self.freed_bytes >= self.moment.goal_bytes
            && !self.rulebook.settings().release_ahead
            && self.rulebook.only_releases()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{self, cold, pressed, settled};

    fn pass(rules: &[&str], context: &Context) -> Pass {
        Pass::new(Rc::new(samples::rules(rules)), context)
    }

    #[test]
    fn it_frees_what_is_asked_and_no_more() {
        let mut pass = pass(&["archive", "release"], &pressed());
        let file = Candidate { local_bytes: 300 << 20, ..cold() };
        for _ in 0..4 {
            assert_eq!(pass.next(&file).map(|decision| decision.action), Some(Action::Release));
        }
        assert_eq!(pass.next(&file), None, "1,200 MiB for a GiB");
        assert!(!pass.is_done(), "others may be archived");
        assert_eq!(pass.next(&settled()).map(|decision| decision.action), Some(Action::Archive));
    }

    #[test]
    fn a_pass_that_only_releases_ends_with_its_goal() {
        let mut pass = pass(&["keep size < 1MiB", "release"], &pressed());
        assert!(!pass.is_done());
        assert!(pass.next(&Candidate { local_bytes: 1 << 30, ..cold() }).is_some());
        assert!(pass.is_done());
    }

    #[test]
    fn the_coldest_go_first() {
        let mut pass = pass(&["release", "recall idle < 1h"], &samples::calm());
        assert_eq!(pass.next(&cold()), None);
        let read =
            Candidate { residency: crate::facts::Residency::Released, idle_seconds: 5, ..cold() };
        assert_eq!(pass.next(&read).map(|decision| decision.priority), Some(u16::MAX));
        let mut pass = self::pass(&["release"], &pressed());
        let colder = Candidate { idle_seconds: 60 * DAY, ..cold() };
        assert_eq!(pass.next(&cold()).map(|decision| decision.priority), Some(30));
        assert_eq!(pass.next(&colder).map(|decision| decision.priority), Some(60));
    }

    #[test]
    fn a_quota_has_watermarks_of_its_own() {
        let gib = 1 << 30;
        let context =
            Context { quota_bytes: Some(10 * gib), local_bytes: 9 * gib, ..samples::calm() };
        let mut pass = pass(&["release"], &context);
        let file = Candidate { size_bytes: gib, local_bytes: gib, ..cold() };
        assert!(pass.next(&file).is_some(), "90 % of it, down to 80 %");
        assert_eq!(pass.next(&file), None);
        let context = Context { local_bytes: 8 * gib, ..context };
        assert_eq!(self::pass(&["release"], &context).next(&file), None, "80 % is below 85 %");
    }
}
