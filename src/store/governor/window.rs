//! The limit itself: numbers in, a number out.

/// Between what a limit moves.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Never fewer: a store that is throttled to nothing is never asked again.
    pub least: u32,
    /// Never more: connections and bodies in memory.
    pub most: u32,
    /// At the start. Low, because one that starts high begins with hundreds of refusals.
    pub first: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { least: 1, most: 128, first: 16 }
    }
}

impl Limits {
    /// For an engine in this process, which throttles nobody.
    pub fn embedded() -> Self {
        Self { first: Self::default().most, ..Self::default() }
    }
}

/// The limit, and what was learnt.
#[derive(Debug)]
pub(super) struct Window {
    limits: Limits,
    limit: u32,
    /// Good answers at the limit since it was raised.
    credit: u32,
    /// Answers still to come to what was under way when the limit was halved: they say the same
    /// once more.
    deaf: u32,
}

impl Window {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, limit: limits.first, credit: 0, deaf: 0 }
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// It bears this many. Below the limit that says nothing about more.
    pub(super) fn good(&mut self, in_flight: u32) {
        if !self.is_deaf() && in_flight >= self.limit && self.limit < self.limits.most {
            self.credit += 1;
            if self.credit >= self.limit {
                self.limit += 1;
                self.credit = 0;
            }
        }
    }

    /// It does not.
    pub(super) fn bad(&mut self, in_flight: u32) {
        if !self.is_deaf() {
            self.limit = (self.limit / 2).max(self.limits.least);
            self.credit = 0;
            // This one has been answered.
            self.deaf = in_flight.saturating_sub(1);
        }
    }

    /// An answer that says nothing.
    pub(super) fn other(&mut self) {
        self.is_deaf();
    }

    fn is_deaf(&mut self) -> bool {
        let is_deaf = self.deaf > 0;
        self.deaf = self.deaf.saturating_sub(1);
        is_deaf
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_refusals_halves_once() {
        let mut window = Window::new(Limits::default());
        for _ in 0..16 {
            window.bad(16);
        }
        assert_eq!(window.limit(), 8);
        for _ in 0..8 {
            window.bad(8);
        }
        assert_eq!(window.limit(), 4);
        for _ in 0..1000 {
            window.bad(1);
        }
        assert_eq!(window.limit(), 1);
    }

    #[test]
    fn good_answers_raise_it_one_by_one_where_it_is_reached() {
        let mut window = Window::new(Limits::default());
        for _ in 0..1000 {
            window.good(15);
        }
        assert_eq!(window.limit(), 16, "never reached");
        for _ in 0..16 {
            window.good(16);
        }
        assert_eq!(window.limit(), 17);
        for _ in 0..100_000 {
            window.good(1000);
        }
        assert_eq!(window.limit(), 128);
    }
}
