//! Hostile bytes for the decoders' tests: random, and good ones mangled.
//!
//! A run lasts COLDFS_FUZZ_SECONDS (2 without), or as long as COLDFS_FUZZ_RUNS take, and prints
//! its seed when it fails; the same seed in COLDFS_FUZZ_SEED repeats it.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The source of mischief.
pub(crate) struct Dice(StdRng);

impl Dice {
    /// Random bytes, or `good` with some bytes changed, cut or grown.
    pub(crate) fn mangled(&mut self, good: &[u8]) -> Vec<u8> {
        if self.0.random_ratio(1, 8) {
            let mut bytes = vec![0; self.0.random_range(0..2 * good.len().max(64))];
            self.0.fill(&mut bytes[..]);
            return bytes;
        }
        let mut bytes = good.to_vec();
        for _ in 0..self.0.random_range(1..8) {
            self.mangle(&mut bytes);
        }
        bytes
    }

    fn mangle(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            bytes.push(self.0.random());
            return;
        }
        let at = self.0.random_range(0..bytes.len());
        match self.0.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, self.0.random()),
            2 => drop(bytes.remove(at)),
            3 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.0.random_range(0..5)],
            4 => bytes[at..].iter_mut().take(4).for_each(|byte| *byte = 0xff),
            _ => bytes[at] ^= 1 << self.0.random_range(0..8),
        }
    }
}

/// Reads mangled JSON: an error, or a value that is written and read as the same again.
pub(crate) fn read_json<T: Serialize + DeserializeOwned>(dice: &mut Dice, good: &T) -> Option<T> {
    let good = serde_json::to_vec(good).unwrap();
    assert!(serde_json::from_slice::<T>(&good).is_ok(), "what was written is read");
    let read: T = serde_json::from_slice(&dice.mangled(&good)).ok()?;
    let written = serde_json::to_value(&read).unwrap();
    let again: T = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(serde_json::to_value(&again).unwrap(), written);
    Some(read)
}

/// Runs `attempt` with fresh seeds until the time is over.
pub(crate) fn run(mut attempt: impl FnMut(&mut Dice)) {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let (seed_given, wanted) = (number("COLDFS_FUZZ_SEED"), number("COLDFS_FUZZ_RUNS"));
    let end = Instant::now() + Duration::from_secs(number("COLDFS_FUZZ_SECONDS").unwrap_or(2));
    let mut runs = 0_u64;
    loop {
        let seed: u64 = seed_given.unwrap_or_else(rand::random);
        let mut dice = Dice(StdRng::seed_from_u64(seed));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| attempt(&mut dice))) {
            eprintln!("COLDFS_FUZZ_SEED={seed} repeats this");
            resume_unwind(panic);
        }
        runs += 1;
        let over = wanted.map_or_else(|| Instant::now() >= end, |wanted| runs >= wanted);
        if seed_given.is_some() || over {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or_default();
            // Past the capture: how much was tried is part of the result.
            drop(writeln!(std::io::stderr(), "{name}: {runs} runs"));
            return;
        }
    }
}
