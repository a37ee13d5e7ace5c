//! Who is next: the most pressing class, except that nobody is passed over for ever.

use std::collections::VecDeque;

use super::Class;

/// Most that wait at once. One more is refused, as by a store that is busy, and tries again.
pub(super) const WAITING: usize = 4096;
/// A class that was passed over so often goes first once.
const PASSED_OVER: u32 = 16;
const CLASSES: usize = 4;

#[derive(Debug)]
pub(super) struct Turns<T> {
    queues: [VecDeque<T>; CLASSES],
    passed_over: [u32; CLASSES],
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { queues: Default::default(), passed_over: [0; CLASSES] }
    }
}

impl<T> Turns<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    /// Waits; given back where too many do.
    pub(super) fn wait(&mut self, class: Class, who: T) -> Result<(), T> {
        if self.queues.iter().map(VecDeque::len).sum::<usize>() >= WAITING {
            return Err(who);
        }
        self.queues[class as usize].push_back(who);
        Ok(())
    }

    /// Takes the next.
    pub(super) fn next(&mut self) -> Option<T> {
        let waits = |class: &usize| !self.queues[*class].is_empty();
        let starved = (0..CLASSES).filter(waits).find(|at| self.passed_over[*at] >= PASSED_OVER);
        let chosen = starved.or_else(|| (0..CLASSES).find(waits))?;
        self.passed_over[chosen] = 0;
        for class in chosen + 1..CLASSES {
            if !self.queues[class].is_empty() {
                self.passed_over[class] += 1;
            }
        }
        self.queues[chosen].pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_pressing_goes_first_and_nobody_starves() {
        let mut turns = Turns::default();
        turns.wait(Class::Delete, "delete").unwrap();
        turns.wait(Class::Archive, "archive").unwrap();
        let mut order = Vec::new();
        for _ in 0..40 {
            turns.wait(Class::Recall, "recall").unwrap();
            order.push(turns.next().unwrap());
        }
        let at = |who| order.iter().position(|next| *next == who).unwrap();
        assert_eq!(order[..16], ["recall"; 16]);
        assert_eq!((at("archive"), at("delete")), (16, 17));
    }

    #[test]
    fn there_is_an_end_to_waiting() {
        let mut turns = Turns::default();
        for number in 0..WAITING {
            turns.wait(Class::Archive, number).unwrap();
        }
        assert_eq!(turns.wait(Class::Recall, 0), Err(0));
        assert_eq!(turns.next(), Some(0));
        assert_eq!(turns.wait(Class::Recall, 0), Ok(()));
    }
}
