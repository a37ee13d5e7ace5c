//! Whose turn comes first, and for whom a call is made.
//!
//! The same GET is a reader's or an archive's own: who calls says so, by what it wraps its calls
//! in, for the task that it runs in. Tasks that it begins are told with [`carried`].

use std::future::Future;

use super::super::call::Call;

/// Whose turn comes first, the most pressing first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Somebody waits for the bytes.
    Recall,
    /// Files come home because a person or a policy wants them here.
    Bulk,
    /// A migration waits, for what it sends or for the proof of it.
    Archive,
    /// Nobody does.
    Delete,
}

tokio::task_local! {
    static READS_FOR: Class;
}

impl Class {
    /// The class of a call that this task makes. Of reads it is the caller's.
    pub fn of(call: Call) -> Self {
        match call {
            Call::Get | Call::Size => Self::of_reads(),
            // A reader needs no listing.
            Call::List => READS_FOR.try_with(|class| *class).unwrap_or(Class::Archive),
            Call::PutNew | Call::Put | Call::Upload | Call::Part | Call::Finish => Class::Archive,
            Call::Delete => Class::Delete,
        }
    }

    /// The class of this task's reads. Who says nothing is taken for somebody who waits.
    pub fn of_reads() -> Self {
        READS_FOR.try_with(|class| *class).unwrap_or(Class::Recall)
    }
}

/// Work whose reads are of this class.
pub fn ranked<F: Future>(class: Class, work: F) -> impl Future<Output = F::Output> {
    READS_FOR.scope(class, work)
}

/// Work for another task, whose reads are of this task's class.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    ranked(Class::of_reads(), work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reads_are_for_who_calls_also_in_a_task_of_its_own() {
        let seen = || async { [Call::Get, Call::Size, Call::Put, Call::Delete].map(Class::of) };
        let puts = [Class::Archive, Class::Delete];
        let reads = |class| [class, class, puts[0], puts[1]];
        assert_eq!(seen().await, reads(Class::Recall));
        let all = async {
            let alone = tokio::spawn(seen()).await.unwrap();
            (seen().await, tokio::spawn(carried(seen())).await.unwrap(), alone)
        };
        let bulk = reads(Class::Bulk);
        assert_eq!(ranked(Class::Bulk, all).await, (bulk, bulk, reads(Class::Recall)));
        let list = || async { Class::of(Call::List) };
        assert_eq!(list().await, Class::Archive);
        assert_eq!(ranked(Class::Delete, list()).await, Class::Delete);
    }
}
