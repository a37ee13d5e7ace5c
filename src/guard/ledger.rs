//! Who asked for what: one line an application, for `coldfs top`.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;

use super::reader::Reader;
use crate::bounded;

/// Applications that are told apart; the one seen longest ago is added to the others.
const APPLICATIONS: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// What an application asked of a tenant's cold files since the mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Its name, its user, its class.
    pub who: Who,
    /// Opens that were let through.
    pub files: u64,
    /// Bytes that it asked for.
    pub bytes: u64,
    /// Opens that were refused.
    pub denied: u64,
    /// How long it waited for its budget, in all.
    pub waited: Duration,
    /// Its opens and reads that wait now.
    pub waiting: u64,
}

/// An application, as far as accounts tell them apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Who {
    /// The name of the process; empty: all others.
    pub name: String,
    /// The user.
    pub uid: u32,
    /// The recall class.
    pub class: String,
}

impl Who {
    pub(super) fn of(reader: &Reader, class: &str) -> Self {
        Self { name: reader.shown().to_owned(), uid: reader.uid, class: class.to_owned() }
    }
}

#[derive(Debug)]
pub(super) struct Ledger {
    accounts: LruCache<Who, Account>,
    others: Account,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self { accounts: bounded::lru(APPLICATIONS), others: Account::default() }
    }

    pub(super) fn account(&mut self, who: &Who) -> &mut Account {
        if !self.accounts.contains(who) {
            let account = Account { who: who.clone(), ..Account::default() };
            if let Some((_, old)) = self.accounts.push(who.clone(), account) {
                self.others.files += old.files;
                self.others.bytes += old.bytes;
                self.others.denied += old.denied;
                self.others.waited += old.waited;
            }
        }
        self.accounts.get_or_insert_mut(who.clone(), Account::default)
    }

    /// All accounts, by bytes, and what was forgotten last.
    pub(super) fn all(&self) -> Vec<Account> {
        let mut all: Vec<Account> =
            self.accounts.iter().map(|(_, account)| account.clone()).collect();
        all.sort_by_key(|account| std::cmp::Reverse((account.bytes, account.denied)));
        if self.others != Account::default() {
            all.push(self.others.clone());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_forgotten_is_still_counted() {
        let mut ledger = Ledger::new();
        for uid in 0..300 {
            let who = Who { name: "grep".to_owned(), uid, class: "interactive".to_owned() };
            let account = ledger.account(&who);
            account.files += 1;
            account.bytes += u64::from(uid);
        }
        let all = ledger.all();
        assert_eq!(all.len(), 257);
        assert_eq!(all[0].who.uid, 299);
        assert_eq!(all.iter().map(|account| account.files).sum::<u64>(), 300);
        assert_eq!(all.iter().map(|account| account.bytes).sum::<u64>(), 299 * 150);
    }
}
