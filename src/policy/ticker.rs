//! A clock for calls into a component: it ticks while one runs, and sleeps otherwise.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::Engine;

/// How often a running call is looked at.
const TICK: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
struct State {
    running: bool,
    end: bool,
}

/// A thread that moves an engine's epoch on while a call runs.
#[derive(Debug)]
pub(super) struct Ticker {
    shared: Arc<(Mutex<State>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

/// A call that runs.
pub(super) struct Running<'a>(&'a Ticker);

impl Ticker {
    pub(super) fn start(engine: Engine) -> std::io::Result<Self> {
        let shared = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let ticking = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("policy-clock".into()).spawn(move || {
            let (state, changed) = &*ticking;
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            while !state.end {
                if !state.running {
                    state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                let waited = changed.wait_timeout(state, TICK);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                // One tick too many is harmless: whoever is asked looks at its own time.
                engine.increment_epoch();
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(super) fn run(&self) -> Running<'_> {
        self.set(|state| state.running = true);
        Running(self)
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.1.notify_one();
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.set(|state| state.running = false);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.set(|state| state.end = true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the policy's clock panicked");
        }
    }
}
