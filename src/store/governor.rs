//! How many requests are under way to an endpoint at once, for all who share it: as many as it
//! bears, found by trying (additive increase, multiplicative decrease).
//!
//! An answer that asks for less (503, 429) and a line that breaks halve the limit, once for all
//! that was under way then; answers while the limit is reached raise it by one a limit's worth.
//! Whoever finds it reached waits: a reader goes before recalls in bulk, those before archives and
//! their proofs, archives before deletes ([`Class`]), and who was passed over often enough goes
//! first ([`turns`]). A store that says for how long it wants to be
//! left alone is.

mod class;
mod traffic;
mod turns;
mod window;

pub use class::{Class, carried, ranked};
pub use traffic::Traffic;
pub use window::Limits;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use self::turns::Turns;
use self::window::Window;

/// Longest that a store is left alone because it asks so: a reader's deadline is 60 s.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// What an answer says about how many requests the endpoint bears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It bears them.
    Good,
    /// It asks for less, and maybe for how long.
    Throttled(Option<Duration>),
    /// The line broke.
    Reset,
    /// Nothing.
    None,
}

/// The limit of one endpoint.
#[derive(Debug)]
pub struct Governor {
    state: Mutex<State>,
    traffic: Mutex<Traffic>,
}

#[derive(Debug)]
struct State {
    window: Window,
    in_flight: u32,
    turns: Turns<oneshot::Sender<Permit>>,
    rest_until: Option<Instant>,
}

/// Leave to make one request; given back when it is dropped.
#[derive(Debug)]
pub struct Permit(Option<Arc<Governor>>);

/// [`turns::WAITING`] wait already: to be taken for a store that does not answer.
#[derive(Debug)]
pub struct Crowded;

impl Governor {
    /// A governor of its own.
    pub fn new(limits: Limits) -> Arc<Self> {
        let window = Window::new(limits);
        let state = State { window, in_flight: 0, turns: Turns::default(), rest_until: None };
        Arc::new(Self { state: Mutex::new(state), traffic: Mutex::default() })
    }

    /// The governor of an endpoint: one for all in this process who use it.
    pub fn of_endpoint(endpoint: &str) -> Arc<Self> {
        static GOVERNORS: Mutex<Option<HashMap<String, Weak<Governor>>>> = Mutex::new(None);
        let mut governors = GOVERNORS.lock().unwrap_or_else(PoisonError::into_inner);
        let governors = governors.get_or_insert_default();
        governors.retain(|_, governor| governor.strong_count() > 0);
        if let Some(governor) = governors.get(endpoint).and_then(Weak::upgrade) {
            return governor;
        }
        let governor = Self::new(Limits::default());
        governors.insert(endpoint.to_owned(), Arc::downgrade(&governor));
        governor
    }

    /// Waits for leave to make a request.
    pub async fn admit(self: &Arc<Self>, class: Class) -> Result<Permit, Crowded> {
        let waiting = {
            let mut state = self.state();
            if state.turns.is_empty() && state.in_flight < state.window.limit() {
                state.in_flight += 1;
                Ok(Permit(Some(Arc::clone(self))))
            } else {
                let (turn, waiting) = oneshot::channel();
                state.turns.wait(class, turn).map_err(|_full| Crowded)?;
                Err(waiting)
            }
        };
        let permit = match waiting {
            Ok(permit) => permit,
            Err(waiting) => waiting.await.map_err(|_gone| Crowded)?,
        };
        // With the permit in hand: who comes later does not come first.
        loop {
            let rest = self.state().rest_until;
            match rest {
                Some(until) if until > Instant::now() => tokio::time::sleep_until(until).await,
                _ => return Ok(permit),
            }
        }
    }

    /// Takes note of an answer.
    pub fn observe(self: &Arc<Self>, operation: &str, code: &str, sign: Sign) {
        {
            let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
            traffic.count(operation, code, matches!(sign, Sign::Throttled(_)));
        }
        let mut state = self.state();
        let in_flight = state.in_flight;
        match sign {
            Sign::Good => state.window.good(in_flight),
            Sign::Throttled(rest) => {
                state.window.bad(in_flight);
                if let Some(rest) = rest {
                    let until = Instant::now() + rest.min(LONGEST_REST);
                    state.rest_until = state.rest_until.max(Some(until));
                }
            }
            Sign::Reset => state.window.bad(in_flight),
            Sign::None => state.window.other(),
        }
        self.hand_out(&mut state);
    }

    /// What went to the endpoint and came back.
    pub fn traffic(&self) -> Traffic {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_out(self: &Arc<Self>, state: &mut State) {
        while state.in_flight < state.window.limit() {
            let Some(turn) = state.turns.next() else { return };
            state.in_flight += 1;
            if let Err(mut unwanted) = turn.send(Permit(Some(Arc::clone(self)))) {
                // Who waited went away. Given back here: the lock is held.
                unwanted.0 = None;
                state.in_flight -= 1;
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(governor) = self.0.take() {
            let mut state = governor.state();
            state.in_flight -= 1;
            governor.hand_out(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Limits = Limits { least: 1, most: 1, first: 1 };

    #[tokio::test]
    async fn recalls_go_first_and_who_gives_up_takes_no_turn() {
        let governor = Governor::new(ONE);
        let first = governor.admit(Class::Archive).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for class in [Class::Delete, Class::Archive, Class::Bulk, Class::Recall] {
            let (governor, order) = (Arc::clone(&governor), Arc::clone(&order));
            waiting.push(tokio::spawn(async move {
                let permit = governor.admit(class).await.unwrap();
                order.lock().unwrap().push(class);
                drop(permit);
            }));
            tokio::task::yield_now().await;
        }
        let gives_up = governor.admit(Class::Recall);
        assert!(tokio::time::timeout(Duration::from_millis(1), gives_up).await.is_err());
        drop(first);
        for task in waiting {
            task.await.unwrap();
        }
        let right = [Class::Recall, Class::Bulk, Class::Archive, Class::Delete];
        assert_eq!(*order.lock().unwrap(), right);
        assert_eq!(governor.state().in_flight, 0);
    }

    #[tokio::test]
    async fn a_store_that_wants_to_be_left_alone_is() {
        let governor = Governor::new(Limits::default());
        let rest = Duration::from_millis(80);
        governor.observe("get", "503", Sign::Throttled(Some(rest)));
        let begun = Instant::now();
        drop(governor.admit(Class::Recall).await.unwrap());
        assert!(begun.elapsed() >= Duration::from_millis(70), "{:?}", begun.elapsed());
        let traffic = governor.traffic();
        assert_eq!((traffic.requests["get"]["503"], traffic.throttled), (1, 1));
    }

    #[tokio::test]
    async fn an_endpoint_has_one() {
        let one = Governor::of_endpoint("http://one");
        assert!(Arc::ptr_eq(&one, &Governor::of_endpoint("http://one")));
        assert!(!Arc::ptr_eq(&one, &Governor::of_endpoint("http://other")));
    }
}
