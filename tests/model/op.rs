//! The operations, few names and telling sizes, and how they are drawn.
//!
//! An operation names everything it needs, so that any part of a list can be run.

use std::fmt;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// Index into [`PATHS`].
pub type Name = u8;

/// Every path that an operation may name; what is there is up to the run.
pub const PATHS: [&str; 20] = [
    "f0",
    "f1",
    "f2",
    "f3",
    "d0/f0",
    "d0/f1",
    "d0/e/f0",
    "d0/e/f1",
    "d1/f0",
    "d1/f1",
    "d0",
    "d1",
    "d0/e",
    "d1/e",
    "l0",
    "d0/l1",
    "\u{fc}n\u{ef} c\u{f6}d\u{e9}",
    "d1/p",
    "d1/e/f0",
    "f4",
];
/// What symbolic links point at: wherever they are moved, nothing that exists outside the root.
pub const TARGETS: [&str; 5] = ["f0", "d0/f0", "../d0/f1", "nowhere", "d0"];
/// Kept handles at one time.
pub const SLOTS: u8 = 4;

const XATTRS: u8 = 4;

/// How a file is opened for a single write or a kept handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    Read,
    Write,
    ReadWrite,
    Append,
    Truncate,
    Dsync,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Falloc {
    Allocate,
    KeepSize,
    Punch,
    Zero,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tier {
    Archive,
    Release,
    Recall,
    Migrate,
}

impl Tier {
    pub fn word(self) -> &'static str {
        match self {
            Tier::Archive => "archive",
            Tier::Release => "release",
            Tier::Recall => "recall",
            Tier::Migrate => "migrate",
        }
    }
}

/// Kinds of lock: those of `flock`, and ranges of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lock {
    Shared,
    Exclusive,
    Free,
}

/// Which of a path's two ACLs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Acl {
    Access,
    Default,
}

impl Acl {
    pub fn attribute(self) -> &'static [u8] {
        match self {
            Acl::Access => b"system.posix_acl_access",
            Acl::Default => b"system.posix_acl_default",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    Create {
        path: Name,
        exclusive: bool,
    },
    Write {
        path: Name,
        mode: Mode,
        at: u64,
        len: u32,
        seed: u32,
    },
    Read {
        path: Name,
        at: u64,
        len: u32,
    },
    Truncate {
        path: Name,
        len: u64,
    },
    Rename {
        from: Name,
        to: Name,
        flags: u8,
    },
    Link {
        from: Name,
        to: Name,
    },
    Unlink {
        path: Name,
    },
    Mkdir {
        path: Name,
    },
    Rmdir {
        path: Name,
    },
    Symlink {
        target: u8,
        path: Name,
    },
    Mkfifo {
        path: Name,
    },
    Chmod {
        path: Name,
        mode: u16,
    },
    Chown {
        path: Name,
        uid: u16,
        gid: u16,
    },
    SetMtime {
        path: Name,
        ns: i64,
    },
    SetXattr {
        path: Name,
        name: u8,
        len: u16,
        seed: u32,
        flags: u8,
    },
    RemoveXattr {
        path: Name,
        name: u8,
    },
    SetAcl {
        path: Name,
        acl: Acl,
        entries: u8,
    },
    RemoveAcl {
        path: Name,
        acl: Acl,
    },
    Fallocate {
        path: Name,
        mode: Falloc,
        at: u64,
        len: u64,
    },
    MmapWrite {
        path: Name,
        at: u32,
        len: u32,
        seed: u32,
    },
    Fsync {
        path: Name,
        data_only: bool,
    },
    CopyRange {
        from: Name,
        at: u64,
        to: Name,
        to_at: u64,
        len: u32,
    },
    Open {
        slot: u8,
        path: Name,
        mode: Mode,
    },
    HandleRead {
        slot: u8,
        at: u64,
        len: u32,
    },
    HandleWrite {
        slot: u8,
        at: u64,
        len: u32,
        seed: u32,
    },
    HandleTruncate {
        slot: u8,
        len: u64,
    },
    HandleSync {
        slot: u8,
    },
    HandleSetMtime {
        slot: u8,
        ns: i64,
    },
    /// Where `lseek` finds data.
    HandleMap {
        slot: u8,
    },
    Flock {
        slot: u8,
        lock: Lock,
    },
    LockRange {
        slot: u8,
        lock: Lock,
        at: u64,
        len: u64,
    },
    /// Reads all of it first: an unlinked file has no other reader.
    Close {
        slot: u8,
    },
    List {
        path: Name,
    },
    Tier {
        verb: Tier,
        path: Name,
    },
    TierAll {
        verb: Tier,
    },
    /// All of it, and a cancel so many microseconds later.
    CancelAll {
        verb: Tier,
        after_us: u16,
    },
    Pin {
        path: Name,
        pinned: bool,
    },
    Remount,
    CompareAll {
        content: u32,
    },
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_error| fmt::Error)?)
    }
}

/// Reads a printed list back.
pub fn parse(text: &str) -> Vec<Op> {
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

/// Operations of a seed.
pub fn random(seed: u64, count: usize) -> Vec<Op> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..count).map(|_| draw(&mut rng)).collect()
}

/// Steps between comparisons of the whole tree.
const COMPARE_EVERY: u32 = 250;
const REMOUNT_EVERY: u32 = 700;
const TIER_ALL_EVERY: u32 = 150;
const CANCEL_EVERY: u32 = 250;

fn draw(rng: &mut StdRng) -> Op {
    if rng.random_ratio(1, COMPARE_EVERY) {
        return Op::CompareAll { content: rng.random() };
    }
    if rng.random_ratio(1, REMOUNT_EVERY) {
        return Op::Remount;
    }
    if rng.random_ratio(1, TIER_ALL_EVERY) {
        return Op::TierAll { verb: tier(rng) };
    }
    if rng.random_ratio(1, CANCEL_EVERY) {
        return Op::CancelAll { verb: tier(rng), after_us: rng.random_range(0..20_000) };
    }
    let path = name(rng);
    let slot = rng.random_range(0..SLOTS);
    match rng.random_range(0..110) {
        0..8 => Op::Create { path, exclusive: rng.random() },
        8..22 => Op::Write {
            path,
            mode: mode(rng),
            at: offset(rng),
            len: length(rng),
            seed: rng.random(),
        },
        22..30 => Op::Read { path, at: offset(rng), len: length(rng) },
        30..36 => Op::Truncate { path, len: offset(rng) },
        36..42 => Op::Rename { from: path, to: name(rng), flags: rng.random_range(0..6) },
        42..45 => Op::Link { from: path, to: name(rng) },
        45..49 => Op::Unlink { path },
        49..53 => Op::Mkdir { path: directory(rng) },
        53..54 => Op::Rmdir { path: directory(rng) },
        54..56 => Op::Symlink { target: rng.random_range(0..TARGETS.len() as u8), path },
        56..57 => Op::Mkfifo { path },
        57..60 => Op::Chmod { path, mode: [0o600, 0o644, 0o755, 0o444][rng.random_range(0..4)] },
        60..62 => Op::Chown { path, uid: owner(rng), gid: owner(rng) },
        62..64 => Op::SetMtime { path, ns: time(rng) },
        64..67 => Op::SetXattr {
            path,
            name: rng.random_range(0..XATTRS),
            len: rng.random_range(0..300),
            seed: rng.random(),
            flags: rng.random_range(0..4),
        },
        67..68 => Op::RemoveXattr { path, name: rng.random_range(0..XATTRS) },
        68..72 => Op::Fallocate {
            path,
            mode: [Falloc::Allocate, Falloc::KeepSize, Falloc::Punch, Falloc::Punch, Falloc::Zero]
                [rng.random_range(0..5)],
            at: offset(rng),
            len: u64::from(length(rng)),
        },
        72..75 => Op::MmapWrite {
            path,
            at: offset(rng) as u32,
            len: length(rng).min(200_000),
            seed: rng.random(),
        },
        75..77 => Op::Fsync { path, data_only: rng.random() },
        77..80 => Op::CopyRange {
            from: path,
            at: offset(rng),
            to: name(rng),
            to_at: offset(rng),
            len: length(rng),
        },
        80..84 => Op::Open { slot, path, mode: mode(rng) },
        84..88 => Op::HandleRead { slot, at: offset(rng), len: length(rng) },
        88..92 => Op::HandleWrite { slot, at: offset(rng), len: length(rng), seed: rng.random() },
        92..93 => Op::HandleTruncate { slot, len: offset(rng) },
        93..94 => Op::HandleSync { slot },
        94..97 => Op::Close { slot },
        97..100 => Op::Tier { verb: tier(rng), path },
        100..102 => Op::SetAcl { path, acl: acl(rng), entries: rng.random_range(0..4) },
        102..103 => Op::RemoveAcl { path, acl: acl(rng) },
        103..104 => Op::HandleSetMtime { slot, ns: time(rng) },
        104..106 => Op::HandleMap { slot },
        106..107 => Op::Flock { slot, lock: lock(rng) },
        107..108 => {
            Op::LockRange { slot, lock: lock(rng), at: offset(rng), len: u64::from(length(rng)) }
        }
        108..109 => Op::List { path: directory(rng) },
        // Now and then: what is pinned never moves.
        _ => Op::Pin { path, pinned: rng.random_ratio(1, 4) },
    }
}

fn name(rng: &mut StdRng) -> Name {
    // Files mostly; the first names more often, so that they grow a history.
    if rng.random_ratio(3, 4) {
        return rng.random_range(0..10);
    }
    rng.random_range(0..PATHS.len() as u8)
}

fn directory(rng: &mut StdRng) -> Name {
    rng.random_range(10..14)
}

fn owner(rng: &mut StdRng) -> u16 {
    [0, 1, 1_000, 65_000][rng.random_range(0..4)]
}

fn mode(rng: &mut StdRng) -> Mode {
    match rng.random_range(0..10) {
        0 => Mode::Read,
        1 => Mode::Append,
        2 => Mode::Truncate,
        3 => Mode::Dsync,
        4 | 5 => Mode::Write,
        _ => Mode::ReadWrite,
    }
}

fn acl(rng: &mut StdRng) -> Acl {
    if rng.random() { Acl::Access } else { Acl::Default }
}

fn lock(rng: &mut StdRng) -> Lock {
    [Lock::Shared, Lock::Exclusive, Lock::Free][rng.random_range(0..3)]
}

fn tier(rng: &mut StdRng) -> Tier {
    match rng.random_range(0..10) {
        0 => Tier::Archive,
        1 => Tier::Release,
        2 | 3 => Tier::Recall,
        _ => Tier::Migrate,
    }
}

/// Around block and stub borders, within a few blocks, and past a megabyte now and then.
fn offset(rng: &mut StdRng) -> u64 {
    match rng.random_range(0..12) {
        0 => 0,
        1 => [1, 4_095, 4_096, 4_097, 8_192][rng.random_range(0..5)],
        2..7 => rng.random_range(0..20_000),
        7..10 => rng.random_range(0..300_000),
        10 => rng.random_range(0..40) * 4_096,
        _ => rng.random_range(0..2_500_000),
    }
}

fn length(rng: &mut StdRng) -> u32 {
    match rng.random_range(0..12) {
        0 => 0,
        1 => [1, 4_095, 4_096, 4_097][rng.random_range(0..4)],
        2..7 => rng.random_range(1..20_000),
        7..10 => rng.random_range(1..60_000),
        10 => rng.random_range(1..40) * 4_096,
        _ => rng.random_range(1..1_500_000),
    }
}

/// 1969, this century, and 2200.
fn time(rng: &mut StdRng) -> i64 {
    let seconds = [-10_000_000, 1_000_000_000, 1_700_000_000, 7_258_118_400_i64];
    seconds[rng.random_range(0..4)] * 1_000_000_000 + rng.random_range(0..1_000_000_000)
}
