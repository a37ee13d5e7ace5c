//! What a read of the directory could not read: any of it, and the read is not complete.

/// Doubts that are named; the rest are counted.
pub const DOUBTS_NAMED: usize = 1_000;

/// Something of which nobody can say which segments it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// Below the data directory, as it was met.
    pub path: Vec<u8>,
    /// Why.
    pub cause: String,
    /// What a person can do.
    pub next_step: &'static str,
}

/// All that was met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doubts {
    /// At most [`DOUBTS_NAMED`].
    pub named: Vec<Doubt>,
    /// How many there were.
    pub total: u64,
}

impl Doubts {
    /// One more. One that is named is counted once, however often it is met.
    pub fn add(&mut self, path: &[u8], cause: impl Into<String>, next_step: &'static str) {
        let cause = cause.into();
        if self.named.iter().any(|doubt| doubt.path == path && doubt.cause == cause) {
            return;
        }
        self.total += 1;
        if self.named.len() < DOUBTS_NAMED {
            self.named.push(Doubt { path: path.to_vec(), cause, next_step });
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_doubts_are_named_and_all_are_counted() {
        let mut doubts = Doubts::default();
        assert!(doubts.is_empty());
        for number in (0..DOUBTS_NAMED + 5).chain(0..DOUBTS_NAMED) {
            doubts.add(number.to_string().as_bytes(), "why", "what to do");
        }
        assert_eq!((doubts.named.len(), doubts.total), (DOUBTS_NAMED, DOUBTS_NAMED as u64 + 5));
        assert_eq!(doubts.named[0].path, b"0");
    }
}
