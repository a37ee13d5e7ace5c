//! Whose a file is, on a filesystem that tenants share: what is taken out of the probe goes to one
//! tenant then, whatever their number.
//!
//! Exact and small: inode numbers of a tenant lie together, so they are bits, 64 to a block. A tenant
//! that has not met all of its files yet is given what nobody else owns as well. What nobody owns
//! though all have met their files is of a file that is just being made, or of somebody else; it
//! waits a while for an owner.

use std::collections::{HashMap, HashSet};

use super::ledger::Touch;
use crate::file_id::Ino;
use crate::temperature::Second;

/// Blocks: 64 million files whose numbers lie together, a million that lie apart; 50 MiB. A tenant
/// that does not fit is given all that nobody owns.
const BLOCKS: usize = 1 << 20;
/// Files without an owner that wait. What is forgotten of them was before they were met.
const STRAYS: usize = 65_536;
/// How long they wait at least: longer than the catalog takes to meet a new file.
const STRAYS_SECONDS: u32 = 60;
/// Inode numbers in a block.
const BLOCK: u64 = 64;

/// A tenant, by the number that watching gave it.
pub(super) type Number = u32;

/// What one tenant owns of a block.
#[derive(Clone, Copy, Debug)]
struct Part {
    tenant: Number,
    bits: u64,
}

/// Who owns what, on one filesystem.
#[derive(Debug, Default)]
pub(super) struct Owners {
    first: HashMap<u64, Part>,
    /// Of blocks that several tenants share.
    others: HashMap<u64, Vec<Part>>,
    /// Those that may own more than is known.
    unsure: HashSet<Number>,
    /// Those whose files have no room here: unsure for good.
    crowded: HashSet<Number>,
    /// The younger ones first; of a number that went to another file meanwhile, that one's.
    strays: [HashMap<Ino, Touch>; 2],
    turned: Second,
}

impl Owners {
    /// A tenant whose files are not known yet.
    pub(super) fn join(&mut self, tenant: Number) {
        self.unsure.insert(tenant);
    }

    /// A tenant is not watched any more.
    pub(super) fn leave(&mut self, tenant: Number) {
        self.unsure.remove(&tenant);
        self.crowded.remove(&tenant);
        self.first.retain(|_, part| part.tenant != tenant);
        self.others.retain(|_, parts| {
            parts.retain(|part| part.tenant != tenant);
            !parts.is_empty()
        });
    }

    /// A file is this tenant's; what was seen of it before that was known.
    pub(super) fn own(&mut self, tenant: Number, ino: Ino) -> Vec<Touch> {
        if !self.mark(tenant, ino) {
            return Vec::new();
        }
        self.strays.iter_mut().filter_map(|waiting| waiting.remove(&ino)).collect()
    }

    /// Whether it is new.
    fn mark(&mut self, tenant: Number, ino: Ino) -> bool {
        let (block, bit) = (ino.0 / BLOCK, 1 << (ino.0 % BLOCK));
        let is_full = self.first.len() + self.others.len() >= BLOCKS;
        let part = match self.first.get_mut(&block) {
            Some(part) if part.tenant == tenant => part,
            Some(_) => {
                let parts = self.others.entry(block).or_default();
                match parts.iter().position(|part| part.tenant == tenant) {
                    Some(at) => &mut parts[at],
                    None => parts.push_mut(Part { tenant, bits: 0 }),
                }
            }
            None if is_full => {
                self.unsure.insert(tenant);
                self.crowded.insert(tenant);
                return false;
            }
            None => self.first.entry(block).or_insert(Part { tenant, bits: 0 }),
        };
        let is_new = part.bits & bit == 0;
        part.bits |= bit;
        is_new
    }

    /// Whether a tenant has met all of its files.
    pub(super) fn has_met_all(&mut self, tenant: Number, all: bool) {
        if all && !self.crowded.contains(&tenant) {
            self.unsure.remove(&tenant);
        } else {
            self.unsure.insert(tenant);
        }
    }

    /// Gives a use to whoever owns the file, or may own it.
    pub(super) fn give(&mut self, ino: Ino, touch: Touch, mut to: impl FnMut(Number)) {
        let (block, bit) = (ino.0 / BLOCK, 1_u64 << (ino.0 % BLOCK));
        let parts = || {
            let others = self.others.get(&block).into_iter().flatten();
            let parts = self.first.get(&block).into_iter().chain(others);
            parts.filter(|part| part.bits & bit != 0).map(|part| part.tenant)
        };
        parts().for_each(&mut to);
        // A number that somebody owned may be another tenant's new file's by now.
        let unsure = self.unsure.iter().copied();
        unsure.filter(|tenant| !parts().any(|owner| owner == *tenant)).for_each(&mut to);
        if self.unsure.is_empty() && parts().next().is_none() {
            self.keep_stray(ino, touch);
        }
    }

    fn keep_stray(&mut self, ino: Ino, touch: Touch) {
        if touch.last.since(self.turned) >= STRAYS_SECONDS {
            self.turned = touch.last;
            self.strays.swap(0, 1);
            self.strays[0].clear();
        }
        let strays = &mut self.strays[0];
        if strays.len() >= STRAYS && !strays.contains_key(&ino) {
            return;
        }
        let known = strays.entry(ino).or_insert(Touch { count: 0, ..touch });
        if known.generation != touch.generation {
            *known = Touch { count: 0, ..touch };
        }
        known.count = known.count.saturating_add(touch.count);
        known.last = known.last.max(touch.last);
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Via;
    use super::*;
    use crate::temperature::Evidence;

    fn touch(last: u32) -> Touch {
        let (via, last, evidence) = (Via::Below, Second(last), Evidence::Probe);
        Touch { via, generation: 1, count: 1, last, evidence }
    }

    fn given(owners: &mut Owners, ino: u64) -> Vec<Number> {
        let mut to = Vec::new();
        owners.give(Ino(ino), touch(100), |tenant| to.push(tenant));
        to.sort_unstable();
        to
    }

    /// Three tenants that share a block of numbers.
    fn three() -> Owners {
        let mut owners = Owners::default();
        for tenant in [1, 2, 3] {
            owners.join(tenant);
            owners.own(tenant, Ino(640 + u64::from(tenant)));
        }
        owners
    }

    #[test]
    fn a_use_goes_to_one_tenant_whatever_their_number() {
        let mut owners = three();
        for tenant in [1, 2, 3] {
            owners.has_met_all(tenant, true);
        }
        assert_eq!(given(&mut owners, 641), [1]);
        assert_eq!(given(&mut owners, 643), [3]);
        assert!(given(&mut owners, 650).is_empty(), "nobody's");
        owners.leave(1);
        assert!(given(&mut owners, 641).is_empty());
        assert_eq!(given(&mut owners, 642), [2], "others of the block stay");
    }

    #[test]
    fn who_has_not_met_all_its_files_is_given_what_may_be_its_own() {
        let mut owners = three();
        owners.has_met_all(1, true);
        owners.has_met_all(2, true);
        assert_eq!(given(&mut owners, 650), [3]);
        assert_eq!(given(&mut owners, 641), [1, 3], "the number may have gone to another");
        assert_eq!(given(&mut owners, 643), [3], "once");
        owners.has_met_all(2, false);
        assert_eq!(given(&mut owners, 650), [2, 3]);
    }

    #[test]
    fn a_new_files_use_waits_for_its_owner() {
        let mut owners = three();
        (1..4).for_each(|tenant| owners.has_met_all(tenant, true));
        owners.give(Ino(7), touch(100), |_| unreachable!("nobody's yet"));
        owners.give(Ino(7), touch(120), |_| unreachable!("nobody's yet"));
        let late = touch(100 + STRAYS_SECONDS);
        owners.give(Ino(8), late, |_| unreachable!("nobody's yet"));
        let waited = owners.own(2, Ino(7));
        assert_eq!(waited, [Touch { count: 2, last: Second(120), ..touch(0) }]);
        assert!(owners.own(2, Ino(7)).is_empty());
        for turn in 2..4 {
            owners.give(Ino(9), touch(100 + turn * STRAYS_SECONDS), |_| ());
        }
        assert!(owners.own(2, Ino(8)).is_empty(), "not for ever");
    }

    #[test]
    fn beyond_its_bound_a_tenant_is_given_what_nobody_owns() {
        let mut owners = Owners::default();
        owners.join(1);
        owners.join(2);
        for block in 0..=BLOCKS as u64 {
            owners.own(1, Ino(block * BLOCK));
        }
        owners.own(2, Ino(0));
        owners.has_met_all(1, true);
        owners.has_met_all(2, true);
        assert_eq!(given(&mut owners, 0), [1, 2]);
        assert_eq!(given(&mut owners, BLOCKS as u64 * BLOCK), [1], "had no room");
    }
}
