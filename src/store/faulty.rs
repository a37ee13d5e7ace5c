//! A store that fails as it is told to: the same way each time.
//!
//! ```text
//! Rule::new(Call::Get, Fault::Unavailable).under("t/seg/").skipping(2).times(1)
//! ```
//! is the third get below `t/seg/`, and no other. The first rule that fits a call decides; each
//! rule counts the calls that reach it.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::call::Call;
use super::fuse_thread::assert_may_wait;
use super::{Denial, ObjectInfo, ObjectKey, ObjectStore, StoreError, Upload};

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// [`StoreError::NotFound`], though it is there.
    NotFound,
    /// [`StoreError::AlreadyExists`].
    AlreadyExists,
    /// [`StoreError::Offline`].
    Offline,
    /// [`StoreError::Denied`].
    Denied,
    /// [`StoreError::Full`].
    Full,
    /// [`StoreError::Corrupt`].
    Corrupt,
    /// [`StoreError::Unavailable`].
    Unavailable,
    /// No answer until the caller gives up.
    Hang,
    /// The answer comes this late.
    Delay(Duration),
    /// Only so many bytes are stored, or answered, and nobody says so.
    Truncate(usize),
    /// This bit of the body is stored, or answered, wrongly, and nobody says so.
    FlipBit(usize),
    /// The object is deleted before the call is made.
    Vanish,
    /// The call is carried out and its answer is lost: [`StoreError::Unavailable`].
    DoneButFails,
    /// The call is not carried out and is said to have been: puts, finishing, deletes.
    /// Other calls fail as by [`Fault::Unavailable`].
    OkButNotDone,
    /// Another object is answered in its place: gets and sizes. Other calls are carried out.
    Swap(ObjectKey),
}

/// When something goes wrong.
#[derive(Clone, Debug)]
pub struct Rule {
    call: Option<Call>,
    prefix: String,
    skip: u32,
    times: u32,
    fault: Fault,
}

impl Rule {
    /// Every `call` suffers `fault`.
    pub fn new(call: Call, fault: Fault) -> Self {
        Self { call: Some(call), ..Self::any(fault) }
    }

    /// Every call of any kind suffers `fault`.
    pub fn any(fault: Fault) -> Self {
        Self { call: None, prefix: String::new(), skip: 0, times: u32::MAX, fault }
    }

    /// Only keys that begin so.
    #[must_use]
    pub fn under(self, prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..self }
    }

    /// Not the first `skip` of them.
    #[must_use]
    pub fn skipping(self, skip: u32) -> Self {
        Self { skip, ..self }
    }

    /// Only so many after those.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }
}

#[derive(Debug, Default)]
struct Script(Mutex<Vec<Rule>>);

impl Script {
    fn next(&self, call: Call, key: &str) -> Option<Fault> {
        let mut rules = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |rule: &&mut Rule| {
            rule.call.is_none_or(|of| of == call) && rule.times > 0 && key.starts_with(&rule.prefix)
        };
        let rule = rules.iter_mut().find(fits)?;
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        rule.times = if rule.times == u32::MAX { u32::MAX } else { rule.times - 1 };
        Some(rule.fault.clone())
    }
}

/// A store that fails as scripted, over one that does not. Clones share the script.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    script: Arc<Script>,
    seen: Arc<Mutex<Vec<Call>>>,
}

/// What is left to do after a fault was looked up.
enum Turn {
    /// The real call, with these changes to its body, then maybe a lost answer.
    Real { damage: Option<Fault>, lose_answer: bool },
    /// Nothing: it is said to be done.
    Pretend,
}

impl FaultyStore {
    /// Nothing goes wrong yet.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, script: Arc::default(), seen: Arc::default() }
    }

    /// Adds a rule.
    pub fn script(&self, rule: Rule) {
        self.script.0.lock().unwrap_or_else(PoisonError::into_inner).push(rule);
    }

    /// From now on nothing goes wrong.
    pub fn heal(&self) {
        self.script.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// How many calls were made since they were taken last.
    pub fn seen_count(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The calls made since this was asked last.
    pub fn take_seen(&self) -> Vec<Call> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn turn(&self, call: Call, key: &ObjectKey) -> Result<Turn, StoreError> {
        assert_may_wait();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        let real = Turn::Real { damage: None, lose_answer: false };
        let Some(fault) = self.script.next(call, key.as_str()) else { return Ok(real) };
        let (action, key, store) = (call.name(), key.clone(), self.url().to_owned());
        let reason = "scripted".to_owned();
        match fault {
            Fault::NotFound => Err(StoreError::NotFound { key, store }),
            Fault::AlreadyExists => Err(StoreError::AlreadyExists { key, store }),
            Fault::Offline => Err(StoreError::Offline { key, store }),
            Fault::Denied => {
                let why = Denial::Permission;
                Err(StoreError::Denied { action, key, store, why, reason })
            }
            Fault::Full => Err(StoreError::Full { key, store, reason }),
            Fault::Corrupt => Err(StoreError::Corrupt { action, key, store, reason }),
            Fault::Unavailable => Err(StoreError::Unavailable { action, key, store, reason }),
            Fault::Hang => std::future::pending().await,
            Fault::Delay(delay) => {
                tokio::time::sleep(delay).await;
                Ok(real)
            }
            Fault::Truncate(_) | Fault::FlipBit(_) | Fault::Swap(_) => {
                Ok(Turn::Real { damage: Some(fault), lose_answer: false })
            }
            Fault::Vanish => {
                self.inner.delete(&key).await?;
                Ok(real)
            }
            Fault::DoneButFails => Ok(Turn::Real { damage: None, lose_answer: true }),
            Fault::OkButNotDone => match call {
                Call::PutNew | Call::Put | Call::Part | Call::Finish | Call::Delete => {
                    Ok(Turn::Pretend)
                }
                Call::Upload | Call::Get | Call::Size | Call::List => {
                    Err(StoreError::Unavailable { action, key, store, reason })
                }
            },
        }
    }

    fn answer<T>(
        &self,
        call: Call,
        key: &ObjectKey,
        lose: bool,
        outcome: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match outcome {
            Ok(_) if lose => Err(StoreError::Unavailable {
                action: call.name(),
                key: key.clone(),
                store: self.url().to_owned(),
                reason: "scripted: the answer is lost".to_owned(),
            }),
            outcome => outcome,
        }
    }
}

fn swapped<'a>(key: &'a ObjectKey, damage: &'a Option<Fault>) -> &'a ObjectKey {
    match damage {
        Some(Fault::Swap(other)) => other,
        _ => key,
    }
}

fn damaged(body: Bytes, damage: Option<Fault>) -> Bytes {
    match damage {
        Some(Fault::Truncate(length)) => body.slice(..length.min(body.len())),
        Some(Fault::FlipBit(bit)) => {
            let mut bytes = body.to_vec();
            if let Some(byte) = bytes.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
            bytes.into()
        }
        _ => body,
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn put_new(&self, key: &ObjectKey, body: Bytes) -> Result<(), StoreError> {
        match self.turn(Call::PutNew, key).await? {
            Turn::Pretend => Ok(()),
            Turn::Real { damage, lose_answer } => {
                let outcome = self.inner.put_new(key, damaged(body, damage)).await;
                self.answer(Call::PutNew, key, lose_answer, outcome)
            }
        }
    }

    async fn put(&self, key: &ObjectKey, body: Bytes) -> Result<(), StoreError> {
        match self.turn(Call::Put, key).await? {
            Turn::Pretend => Ok(()),
            Turn::Real { damage, lose_answer } => {
                let outcome = self.inner.put(key, damaged(body, damage)).await;
                self.answer(Call::Put, key, lose_answer, outcome)
            }
        }
    }

    async fn upload(&self, key: &ObjectKey) -> Result<Box<dyn Upload>, StoreError> {
        let lose = matches!(
            self.turn(Call::Upload, key).await?,
            Turn::Real { damage: _, lose_answer: true }
        );
        let inner = self.answer(Call::Upload, key, lose, self.inner.upload(key).await)?;
        Ok(Box::new(FaultyUpload { store: self.clone(), key: key.clone(), inner }))
    }

    async fn get(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StoreError> {
        match self.turn(Call::Get, key).await? {
            Turn::Pretend => Ok(Bytes::new()),
            Turn::Real { damage, lose_answer } => {
                let of = swapped(key, &damage);
                let outcome = self.inner.get(of, range).await.map(|body| damaged(body, damage));
                self.answer(Call::Get, key, lose_answer, outcome)
            }
        }
    }

    async fn size_bytes(&self, key: &ObjectKey) -> Result<u64, StoreError> {
        match self.turn(Call::Size, key).await? {
            Turn::Pretend => Ok(0),
            Turn::Real { damage, lose_answer } => {
                let outcome = self.inner.size_bytes(swapped(key, &damage)).await;
                self.answer(Call::Size, key, lose_answer, outcome)
            }
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> Result<Vec<ObjectInfo>, StoreError> {
        let key = ObjectKey::new(prefix);
        match self.turn(Call::List, &key).await? {
            Turn::Pretend => Ok(Vec::new()),
            Turn::Real { damage: _, lose_answer } => {
                self.answer(Call::List, &key, lose_answer, self.inner.list(prefix, after).await)
            }
        }
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        match self.turn(Call::Delete, key).await? {
            Turn::Pretend => Ok(()),
            Turn::Real { damage: _, lose_answer } => {
                self.answer(Call::Delete, key, lose_answer, self.inner.delete(key).await)
            }
        }
    }
}

struct FaultyUpload {
    store: FaultyStore,
    key: ObjectKey,
    inner: Box<dyn Upload>,
}

#[async_trait]
impl Upload for FaultyUpload {
    async fn part(&mut self, body: Bytes) -> Result<(), StoreError> {
        match self.store.turn(Call::Part, &self.key).await? {
            Turn::Pretend => Ok(()),
            Turn::Real { damage, lose_answer } => {
                let outcome = self.inner.part(damaged(body, damage)).await;
                self.store.answer(Call::Part, &self.key, lose_answer, outcome)
            }
        }
    }

    async fn finish(self: Box<Self>) -> Result<(), StoreError> {
        match self.store.turn(Call::Finish, &self.key).await? {
            Turn::Pretend => {
                self.inner.abort().await;
                Ok(())
            }
            Turn::Real { damage: _, lose_answer } => {
                let outcome = self.inner.finish().await;
                self.store.answer(Call::Finish, &self.key, lose_answer, outcome)
            }
        }
    }

    async fn abort(self: Box<Self>) {
        self.inner.abort().await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryStore;
    use super::*;

    fn store() -> (FaultyStore, MemoryStore, ObjectKey) {
        let memory = MemoryStore::new();
        (FaultyStore::new(Arc::new(memory.clone())), memory, ObjectKey::new("t/a"))
    }

    #[tokio::test]
    async fn a_rule_hits_the_calls_it_names_and_no_other() {
        let (store, _, key) = store();
        store.script(Rule::new(Call::Get, Fault::Unavailable).under("t/").skipping(1).times(1));
        store.put_new(&key, Bytes::from_static(b"abc")).await.unwrap();
        assert!(store.get(&key, 0..3).await.is_ok());
        assert!(store.get(&ObjectKey::new("u/a"), 0..3).await.is_err_and(|e| !e.is_transient()));
        assert!(store.get(&key, 0..3).await.is_err_and(|e| e.is_transient()));
        assert_eq!(store.get(&key, 0..3).await.unwrap(), "abc");
    }

    #[tokio::test]
    async fn silent_faults_are_silent() {
        let (store, memory, key) = store();
        store.script(Rule::new(Call::PutNew, Fault::OkButNotDone).times(1));
        store.put_new(&key, Bytes::from_static(b"abc")).await.unwrap();
        assert!(memory.keys().is_empty());
        store.script(Rule::new(Call::PutNew, Fault::DoneButFails).times(1));
        assert!(store.put_new(&key, Bytes::from_static(b"abc")).await.is_err());
        assert_eq!(memory.keys(), std::slice::from_ref(&key));
        store.script(Rule::new(Call::Get, Fault::FlipBit(9)).times(1));
        assert_eq!(store.get(&key, 0..3).await.unwrap(), "a`c");
        store.script(Rule::new(Call::Get, Fault::Truncate(2)).times(1));
        assert_eq!(store.get(&key, 0..3).await.unwrap(), "ab");
        store.script(Rule::new(Call::Get, Fault::Vanish));
        assert!(matches!(store.get(&key, 0..3).await, Err(StoreError::NotFound { .. })));
    }

    #[tokio::test]
    async fn a_hang_lasts_until_the_caller_gives_up() {
        let (store, _, key) = store();
        store.script(Rule::new(Call::Size, Fault::Hang));
        let answer = tokio::time::timeout(Duration::from_millis(20), store.size_bytes(&key)).await;
        assert!(answer.is_err());
        store.heal();
        assert!(store.size_bytes(&key).await.is_err());
    }
}
