//! What happens at an access, whichever way it was seen.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};

use crate::layout::*;

#[map]
static TOUCHED: HashMap<Key, u64> = HashMap::with_max_entries(262_144, 0);
#[map]
static DEVICES: HashMap<u32, u64> = HashMap::with_max_entries(4_096, 0);
#[map]
static SETTINGS: Array<[u64; SETTINGS_WORDS]> = Array::with_max_entries(1, 0);
#[map]
static RECENT: PerCpuArray<[u64; RECENT_WORDS]> = PerCpuArray::with_max_entries(2, 0);
#[map]
static SIGHT: Array<[u64; SIGHT_WORDS]> = Array::with_max_entries(1, 0);
#[map]
static QUIET_TASKS: HashMap<u32, u8> = HashMap::with_max_entries(4_096, 0);
#[map]
static QUIET_NAMES: HashMap<[u8; NAME_BYTES], u8> = HashMap::with_max_entries(1_024, 0);
#[map]
static QUIET_GROUPS: HashMap<u64, u8> = HashMap::with_max_entries(4_096, 0);

/// How deep a control group is looked for above a task's own.
const GROUP_LEVELS: i32 = 8;

/// An inode, as far as a way of looking tells.
pub struct Inode {
    pub device: u32,
    pub generation: u32,
    pub number: u64,
}

/// Notes an access. `index`: the page, where the daemon's test is to be recognised.
#[inline(always)]
pub fn note(inode: &Inode, index: u64) {
    let Some(settings) = SETTINGS.get(0) else { return };
    let key = [(inode.generation as u64) << 32 | inode.device as u64, inode.number];
    if index != 0 && index == settings[NONCE] {
        see_test(index, bpf_get_current_pid_tgid(), &key);
    }
    let epoch = settings[EPOCH];
    let Some(recent) = RECENT.get_ptr_mut((epoch & 1) as u32) else { return };
    // SAFETY: the entry is this CPU's alone, and programs on it do not interrupt each other.
    let recent = unsafe { &mut *recent };
    let is_now = recent[RECENT_EPOCH] == epoch;
    let foreign = IS_FOREIGN | inode.device as u64;
    if is_now && recent[RECENT_FOREIGN] == foreign {
        return;
    }
    let task = bpf_get_current_pid_tgid();
    if is_now
        && recent[RECENT_KEY + 1] == key[1]
        && recent[RECENT_KEY] == key[0]
        && recent[RECENT_TASK] == task
    {
        recent[RECENT_REPEATS] += 1;
        return;
    }
    let Some(lost) = DEVICES.get_ptr_mut(&inode.device) else {
        if !is_now {
            *recent = [epoch, 0, 0, 0, 0, 0];
        }
        recent[RECENT_FOREIGN] = foreign;
        return;
    };
    if is_quiet(settings, (task >> 32) as u32) {
        return;
    }
    if is_now && recent[RECENT_REPEATS] > 0 {
        let before = [recent[RECENT_KEY], recent[RECENT_KEY + 1]];
        add(&before, recent[RECENT_REPEATS], lost);
    }
    let foreign = if is_now { recent[RECENT_FOREIGN] } else { 0 };
    *recent = [epoch, key[0], key[1], task, 0, foreign];
    add(&key, 1, lost);
}

/// The daemon reads at a page that it has told nobody of: who it is here, and what the file is
/// called here, it cannot know in a namespace or above a stacked filesystem.
#[inline(never)]
fn see_test(nonce: u64, task: u64, key: &Key) {
    if let Some(sight) = SIGHT.get_ptr_mut(0) {
        // SAFETY: the map's entry; the daemon reads it after its own read has returned.
        unsafe { *sight = [nonce, task >> 32, key[0], key[1]] };
    }
}

/// Whether this task warms nothing.
#[inline(always)]
fn is_quiet(settings: &[u64; SETTINGS_WORDS], process: u32) -> bool {
    if process as u64 == settings[DAEMON] {
        return true;
    }
    let quiet = settings[QUIET];
    // SAFETY (here and below): lookups by keys on the stack; nothing is kept.
    if quiet & HAS_TASKS != 0 && unsafe { QUIET_TASKS.get(&process) }.is_some() {
        return true;
    }
    if quiet & HAS_NAMES != 0
        && let Ok(name) = bpf_get_current_comm()
        && unsafe { QUIET_NAMES.get(&name) }.is_some()
    {
        return true;
    }
    quiet & HAS_GROUPS != 0 && is_in_quiet_group()
}

#[inline(always)]
fn is_in_quiet_group() -> bool {
    for level in 1..=GROUP_LEVELS {
        // SAFETY: the helper takes no pointer.
        let group = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if group == 0 {
            return false;
        }
        // SAFETY: a lookup by a key on the stack; nothing is kept.
        if unsafe { QUIET_GROUPS.get(&group) }.is_some() {
            return true;
        }
    }
    false
}

/// Adds to a file's accesses. Where there is no room they are lost, and counted as lost.
#[inline(always)]
fn add(key: &Key, count: u64, lost: *mut u64) {
    if let Some(seen) = TOUCHED.get_ptr_mut(key) {
        increase(seen, count);
    } else if TOUCHED.insert(key, &count, BPF_NOEXIST as u64).is_err() {
        // Another CPU was first, or the map is full.
        match TOUCHED.get_ptr_mut(key) {
            Some(seen) => increase(seen, count),
            None => increase(lost, count),
        }
    }
}

#[inline(always)]
fn increase(word: *mut u64, count: u64) {
    // SAFETY: a map's value, eight bytes and aligned so. The answer is not used: one instruction.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, count) };
}
