//! One instance of a component, and calls into it that end.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{Component, Linker, ResourceAny};
use wasmtime::{
    Config, Engine, ResourceLimiter, Store, StoreLimits, StoreLimitsBuilder, UpdateDeadline,
};

use super::answer::Wrong;
use super::contract::{Level, Policy, TieringPolicy, coldfs};
use super::journal::{Journal, short};
use super::ticker::Ticker;
use super::wasi::{self, World};
use super::{ANSWER_BYTES, CALL_TIME, CONTRACT, MEMORY_BYTES, STEP_TIME, TABLE_ENTRIES};
use crate::sys;

/// Stack of a component. Threads have 2 MiB.
const STACK_BYTES: usize = 512 << 10;
/// Core modules and adapters of one component.
const CORE_INSTANCES: usize = 64;

/// Why a component did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It trapped: it ran out of its time, its memory or its stack, or gave up.
    #[error("it trapped in {call}: {why}")]
    Trapped {
        /// Where.
        call: &'static str,
        /// What the engine says.
        why: String,
    },
    /// Its answer is none.
    #[error(transparent)]
    Wrong(#[from] Wrong),
    /// It does not fit this daemon.
    #[error("{0}")]
    Unfit(String),
}

/// What a guest may take. The engine's own limit is a memory's, of which a component has several.
struct Limits {
    each: StoreLimits,
    memory_bytes: usize,
}

impl ResourceLimiter for Limits {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let all = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        let fits = all <= MEMORY_BYTES && self.each.memory_growing(current, desired, maximum)?;
        if fits {
            self.memory_bytes = all;
        }
        Ok(fits)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.each.table_growing(current, desired, maximum)
    }

    fn instances(&self) -> usize {
        self.each.instances()
    }

    fn tables(&self) -> usize {
        self.each.tables()
    }

    fn memories(&self) -> usize {
        self.each.memories()
    }
}

/// What the host keeps of a guest.
pub(super) struct Guest {
    limits: Limits,
    /// The thread's CPU time at which the call under way is over.
    until: Duration,
    pub(super) journal: Journal,
    pub(super) world: World,
}

impl coldfs::policy::types::Host for Guest {}

impl coldfs::policy::log::Host for Guest {
    fn write(&mut self, level: Level, message: String) {
        self.journal.write(level, &message);
    }
}

/// The engine of all policies; what it compiles, it runs.
pub(super) fn engine() -> Result<Engine, Fault> {
    let mut config = Config::new();
    config.concurrency_support(false).epoch_interruption(true).max_wasm_stack(STACK_BYTES);
    Engine::new(&config).map_err(|error| Fault::Unfit(format!("no engine: {error:#}")))
}

/// A component that can be made an instance of.
pub(super) struct Program {
    component: Component,
    linker: Linker<Guest>,
    ticker: Arc<Ticker>,
}

impl Program {
    pub(super) fn new(component: Component, ticker: Arc<Ticker>) -> Result<Self, Fault> {
        let engine = component.engine().clone();
        if let Some(name) = wasi::foreign(&engine, &component) {
            let name = short(&name, 100);
            return Err(Fault::Unfit(format!("it imports {name}, which a policy cannot have")));
        }
        if !wasi::has_contract(&engine, &component) {
            return Err(Fault::Unfit(format!("it does not export {CONTRACT}")));
        }
        let unfit = |error: wasmtime::Error| Fault::Unfit(format!("it does not fit: {error:#}"));
        let mut linker = Linker::new(&engine);
        TieringPolicy::add_to_linker::<_, wasmtime::component::HasSelf<Guest>>(
            &mut linker,
            |guest: &mut Guest| guest,
        )
        .map_err(unfit)?;
        wasi::link(&mut linker, &component).map_err(unfit)?;
        Ok(Self { component, linker, ticker })
    }

    /// A fresh instance, of which nobody has asked anything.
    pub(super) fn instance(&self) -> Result<Instance, Fault> {
        let each = StoreLimitsBuilder::new()
            .memory_size(MEMORY_BYTES)
            .memories(4)
            .table_elements(TABLE_ENTRIES)
            .tables(CORE_INSTANCES)
            .instances(CORE_INSTANCES)
            .build();
        let guest = Guest {
            limits: Limits { each, memory_bytes: 0 },
            until: Duration::ZERO,
            journal: Journal::default(),
            world: World::default(),
        };
        let mut store = Store::new(self.component.engine(), guest);
        store.limiter(|guest| &mut guest.limits);
        store.set_hostcall_fuel(ANSWER_BYTES);
        store.epoch_deadline_callback(|context| {
            // Time of CPU, not of the clock: on a busy machine a good policy is not a slow one.
            let over = sys::thread_cpu_time() >= context.data().until;
            Ok(if over { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(1) })
        });
        let _running = begin(&mut store, &self.ticker, CALL_TIME);
        let policy = TieringPolicy::instantiate(&mut store, &self.component, &self.linker);
        let policy = policy.map_err(|error| match error.is::<wasmtime::Trap>() {
            true => trapped("its start", &error),
            false => {
                Fault::Unfit(format!("it does not fit: {}", short(&format!("{error:#}"), 300)))
            }
        })?;
        Ok(Instance { store, policy, ticker: Arc::clone(&self.ticker) })
    }
}

fn begin<'a>(
    store: &mut Store<Guest>,
    ticker: &'a Ticker,
    time: Duration,
) -> super::ticker::Running<'a> {
    store.data_mut().until = sys::thread_cpu_time() + time;
    store.data_mut().journal.begin(sys::boot_clock());
    store.set_epoch_deadline(1);
    ticker.run()
}

fn trapped(call: &'static str, error: &wasmtime::Error) -> Fault {
    let why = match error.downcast_ref::<wasmtime::Trap>() {
        Some(wasmtime::Trap::Interrupt) => "it did not end in its time".to_owned(),
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    Fault::Trapped { call, why: short(&why, 200) }
}

/// An instance. After a fault it is dead: drop it.
pub(super) struct Instance {
    store: Store<Guest>,
    policy: TieringPolicy,
    ticker: Arc<Ticker>,
}

impl Instance {
    /// Calls the component in a world, which comes back as the call left it.
    pub(super) fn call<T>(
        &mut self,
        name: &'static str,
        world: &mut World,
        call: impl FnOnce(&Policy, &mut Store<Guest>) -> wasmtime::Result<T>,
    ) -> Result<T, Fault> {
        let time = if name == "step" { STEP_TIME } else { CALL_TIME };
        self.store.data_mut().world = *world;
        let ticker = Arc::clone(&self.ticker);
        let _running = begin(&mut self.store, &ticker, time);
        let answer = call(self.policy.coldfs_policy_policy(), &mut self.store);
        *world = self.store.data().world;
        answer.map_err(|error| trapped(name, &error))
    }

    /// Drops a pass; its destructor is the component's, and may do anything.
    pub(super) fn drop_pass(&mut self, pass: ResourceAny) -> Result<(), Fault> {
        self.call("the end of a pass", &mut World::default(), |_, store| pass.resource_drop(store))
    }

    /// Lines of the journal that were too many.
    pub(super) fn lines_dropped(&self) -> u64 {
        self.store.data().journal.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_share_one_limit() {
        let each = StoreLimitsBuilder::new().memory_size(MEMORY_BYTES).build();
        let mut limits = Limits { each, memory_bytes: 0 };
        let half = MEMORY_BYTES / 2;
        assert!(limits.memory_growing(0, half, None).unwrap(), "one");
        assert!(limits.memory_growing(0, half, None).unwrap(), "another");
        assert!(
            !limits.memory_growing(half, half + 1, None).unwrap(),
            "together they are too much"
        );
    }
}
