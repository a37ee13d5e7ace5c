//! What went to an endpoint and came back, in numbers.

use std::collections::BTreeMap;

/// Requests since the process started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// By operation, then by what came: an HTTP status, `timeout`, `reset`.
    pub requests: BTreeMap<String, BTreeMap<String, u64>>,
    /// Answers that asked for less.
    pub throttled: u64,
}

impl Traffic {
    pub(super) fn count(&mut self, operation: &str, code: &str, throttled: bool) {
        self.throttled += u64::from(throttled);
        if !self.requests.contains_key(operation) {
            self.requests.insert(operation.to_owned(), BTreeMap::new());
        }
        let Some(codes) = self.requests.get_mut(operation) else { return };
        match codes.get_mut(code) {
            Some(count) => *count += 1,
            None => drop(codes.insert(code.to_owned(), 1)),
        }
    }
}
