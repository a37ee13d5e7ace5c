//! Without the right to open by handle, every inode that the kernel remembers costs a
//! descriptor. Before they run out the kernel is asked to forget what it looked up first.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fuser::{INodeNo, Notifier};
use nix::sys::resource::{Resource, getrlimit};

use crate::ops::Ops;

/// Names that may wait for the thread below; one that finds no room is not noted, and its
/// inode goes when the kernel has no memory for it.
const WAITING_NAMES: usize = 1 << 16;
/// Names that are forgotten for each that is looked up while there are too many.
const FORGOTTEN_AT_ONCE: usize = 32;
/// Of the descriptors that the process may have, one in this many may be inodes' anchors: the
/// kernel forgets some time after it is asked to.
const SHARE_OF_DESCRIPTORS: usize = 2;

/// A lookup waits this often and this long until there is room again, then takes its chance.
const ROOM_POLLS: u32 = 500;
const ROOM_POLL: Duration = Duration::from_millis(2);

type Name = (INodeNo, OsString);

/// Notes what the kernel looks up. Nothing where inodes cost no descriptor.
pub(super) struct Forgetting(Option<SyncSender<Name>>);

impl Forgetting {
    pub(super) fn new(ops: &Arc<Ops>, notifier: &Arc<OnceLock<Notifier>>) -> Self {
        if ops.descriptors_kept().is_none() {
            return Self(None);
        }
        let (sender, names) = sync_channel(WAITING_NAMES);
        let (ops, notifier) = (Arc::clone(ops), Arc::clone(notifier));
        let bound = descriptors() / SHARE_OF_DESCRIPTORS;
        // A thread of its own: the kernel answers only once nothing is under way in the
        // directory, and that may need every other thread.
        let thread = std::thread::Builder::new().name("forgetting".to_owned());
        let started = thread.spawn(move || run(&names, &ops, &notifier, bound));
        Self(started.is_ok().then_some(sender))
    }

    /// Whether the kernel learns faster than it forgets, and most descriptors are gone.
    pub(super) fn is_crowded(&self, ops: &Ops) -> bool {
        self.0.is_some() && is_crowded(ops)
    }

    /// The kernel is about to learn this name.
    pub(super) fn note(&self, parent: INodeNo, name: &OsStr) {
        if let Some(sender) = &self.0 {
            // Full, or ended with the mount: see WAITING_NAMES.
            drop(sender.try_send((parent, name.to_owned())));
        }
    }
}

fn is_crowded(ops: &Ops) -> bool {
    // Three quarters: halfway between the bound and the end.
    ops.descriptors_kept().is_some_and(|kept| kept > descriptors() / 4 * 3)
}

/// Waits until the kernel has forgotten enough.
pub(super) async fn room(ops: &Ops) {
    for _ in 0..ROOM_POLLS {
        if !is_crowded(ops) {
            return;
        }
        tokio::time::sleep(ROOM_POLL).await;
    }
}

/// How many descriptors this process may have.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Ends when the mount does, and with it the sender.
fn run(names: &Receiver<Name>, ops: &Ops, notifier: &OnceLock<Notifier>, bound: usize) {
    let mut known = VecDeque::new();
    while let Ok(name) = names.recv() {
        known.push_back(name);
        if ops.descriptors_kept().is_none_or(|kept| kept < bound) {
            // Renamed and removed names stay in the queue, which has a bound as well.
            if known.len() > bound.saturating_mul(4) {
                known.pop_front();
            }
            continue;
        }
        let Some(notifier) = notifier.get() else { continue };
        for (parent, name) in known.drain(..FORGOTTEN_AT_ONCE.min(known.len())) {
            // ENOENT: it is not known by this name any more.
            drop(notifier.inval_entry(parent, &name));
        }
    }
}
