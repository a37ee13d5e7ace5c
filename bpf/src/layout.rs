//! What the probe and the daemon share: map names and the meaning of the words in them. Every
//! value is made of 64-bit words, so that both sides agree whatever their compilers do.

/// What was touched since it was drained last: [`Key`] to the number of accesses.
pub const TOUCHED: &str = "TOUCHED";
/// Devices that are watched (`dev_t` as the kernel keeps it) to accesses lost on them.
pub const DEVICES: &str = "DEVICES";
/// One entry, [`SETTINGS_WORDS`] words.
pub const SETTINGS: &str = "SETTINGS";
/// Two entries a CPU, [`RECENT_WORDS`] words each: what it met last, in even and in odd epochs.
pub const RECENT: &str = "RECENT";
/// One entry, [`SIGHT_WORDS`] words: what the probe saw of the daemon's test.
pub const SIGHT: &str = "SIGHT";
/// Processes (thread group ids) that warm nothing.
pub const QUIET_TASKS: &str = "QUIET_TASKS";
/// Task names, [`NAME_BYTES`] bytes with zeroes behind, that warm nothing.
pub const QUIET_NAMES: &str = "QUIET_NAMES";
/// Control groups (ids in the unified hierarchy) that warm nothing, nor does what is below.
pub const QUIET_GROUPS: &str = "QUIET_GROUPS";

/// `generation << 32 | device`, inode number. Generation 0: this way of looking does not tell.
pub type Key = [u64; 2];

/// `TASK_COMM_LEN`.
pub const NAME_BYTES: usize = 16;

/// Words of [`SETTINGS`].
pub const SETTINGS_WORDS: usize = 4;
/// Grows with every drain.
pub const EPOCH: usize = 0;
/// The daemon's thread group, as the kernel numbers it; 0: not known yet.
pub const DAEMON: usize = 1;
/// A page index that only the daemon's test reads at; 0: no test is under way.
pub const NONCE: usize = 2;
/// Which of the `QUIET_` maps have entries: bits.
pub const QUIET: usize = 3;

/// Bits of [`QUIET`].
pub const HAS_TASKS: u64 = 1;
/// Names are told from others.
pub const HAS_NAMES: u64 = 2;
/// Control groups are told from others.
pub const HAS_GROUPS: u64 = 4;

/// Words of [`RECENT`]: the epoch it is of, the key, the task, how often the same task met the
/// same file again since the map was told, and the device that was met last and is not watched.
pub const RECENT_WORDS: usize = 6;
/// The epoch.
pub const RECENT_EPOCH: usize = 0;
/// The first word of the key; the second follows.
pub const RECENT_KEY: usize = 1;
/// Thread group and thread.
pub const RECENT_TASK: usize = 3;
/// Accesses the map has not been told of.
pub const RECENT_REPEATS: usize = 4;
/// The device, [`IS_FOREIGN`] with it; a device that is watched begins another epoch.
pub const RECENT_FOREIGN: usize = 5;
/// So that no device is none.
pub const IS_FOREIGN: u64 = 1 << 32;

/// Words of [`SIGHT`]: the nonce, the reader's thread group, the key.
pub const SIGHT_WORDS: usize = 4;
/// The nonce.
pub const SIGHT_NONCE: usize = 0;
/// The reader's thread group.
pub const SIGHT_TASK: usize = 1;
/// The first word of the key; the second follows.
pub const SIGHT_KEY: usize = 2;

/// Where records of the page cache's tracepoints have the device.
pub const FILEMAP_DEVICE: usize = 16;
/// And the inode number.
pub const FILEMAP_NUMBER: usize = 8;
/// And the page.
pub const PAGES_INDEX: usize = 24;
/// Where records of `iomap_dio_rw_begin` have the device.
pub const DIRECT_DEVICE: usize = 8;
/// And the inode number.
pub const DIRECT_NUMBER: usize = 16;

/// `BPF_NOEXIST` of bpf.h.
pub const NEW_ONLY: u64 = 1;
