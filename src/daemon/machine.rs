//! What a daemon has once, however many tenants it serves.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::ending::Detacher;
use super::stores::Shelf;
use super::watching::Watching;
use crate::control::runtime::RuntimeDir;
use crate::guard::class::Classes;
use crate::heat;
use crate::policy::Judge;
use crate::recall::Memory;

/// What it has for all.
#[derive(Clone, Debug)]
pub(super) struct Common {
    /// How uses of files are seen.
    pub(super) heat: heat::Options,
    /// Whose reads warm nothing.
    pub(super) classes: Classes,
    /// Memory for chunks of files that are read without being recalled.
    pub(super) chunk_cache_bytes: u64,
    /// How many mounts are taken away at once.
    pub(super) detached_at_once: usize,
}

/// The parts of a daemon that its tenants share.
pub(super) struct Machine {
    /// Judges all tenants, on one thread.
    pub(super) judge: Arc<Judge>,
    /// Whether somebody had it read its policy anew, beside the configuration.
    pub(super) judged_by_hand: AtomicBool,
    /// Sees uses of all tenants' files.
    pub(super) watching: Watching,
    /// Remembers bytes of cold files, whoever's.
    pub(super) memory: Arc<Memory>,
    /// The stores that are open.
    pub(super) stores: Shelf,
    /// Where the control socket is.
    pub(super) runtime_dir: RuntimeDir,
    /// Takes mounts away.
    pub(super) detacher: Detacher,
}

impl Machine {
    pub(super) fn start(common: &Common, runtime_dir: RuntimeDir) -> io::Result<Self> {
        let bytes = usize::try_from(common.chunk_cache_bytes).unwrap_or(usize::MAX);
        Ok(Self {
            judge: Arc::new(Judge::new()),
            judged_by_hand: AtomicBool::new(false),
            watching: Watching::begin(&common.heat, common.classes.clone()),
            memory: Arc::new(Memory::new(bytes)),
            stores: Shelf::default(),
            runtime_dir,
            detacher: Detacher::start(common.detached_at_once)?,
        })
    }

    /// Ends its threads, once no tenant is served any more. Not for async threads.
    pub(super) fn stop(&self) {
        self.judge.stop();
        self.watching.stop();
    }
}
