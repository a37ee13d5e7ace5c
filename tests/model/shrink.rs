//! Delta debugging: a failing list of operations without those that do not matter.

use std::time::{Duration, Instant};

use super::op::Op;

/// Removes operations, larger runs of them first, for as long as the rest still fails.
pub fn shrink(ops: &[Op], limit: Duration, fails: impl Fn(&[Op]) -> bool) -> Vec<Op> {
    let start = Instant::now();
    let mut best = ops.to_vec();
    // What fails late mostly needs little of what came before.
    let mut tail = 64;
    while tail < best.len() && start.elapsed() < limit {
        let candidate = &best[best.len() - tail..];
        if fails(candidate) {
            best = candidate.to_vec();
            break;
        }
        tail *= 4;
    }
    let mut chunk = best.len().div_ceil(2);
    while chunk > 0 && start.elapsed() < limit {
        let mut at = 0;
        let mut removed = false;
        while at < best.len() && start.elapsed() < limit {
            let end = (at + chunk).min(best.len());
            let candidate: Vec<Op> = best[..at].iter().chain(&best[end..]).cloned().collect();
            if !candidate.is_empty() && fails(&candidate) {
                best = candidate;
                removed = true;
            } else {
                at = end;
            }
        }
        if chunk == 1 && !removed {
            break;
        }
        chunk = if chunk == 1 { 1 } else { chunk / 2 };
    }
    best
}
