//! What a test says while it runs: that it is skipped, how far it is.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::Write;

/// The name of the running test, as libtest names its thread.
pub fn test_name() -> String {
    std::thread::current().name().unwrap_or("main").to_owned()
}

/// Says that this test does not run here and why, and counts it: `scripts/test` reads the
/// file named in `COLDFS_SKIPPED`. Written past libtest's capture, so that it is seen.
pub fn skip(reason: &str) {
    let line = format!("SKIPPED {}: {reason}\n", test_name());
    // A lost message must not turn a skip into a failure.
    std::io::stderr().write_all(line.as_bytes()).ok();
    let Some(file) = std::env::var_os("COLDFS_SKIPPED") else { return };
    if let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(file) {
        file.write_all(line.as_bytes()).ok();
    }
}

/// Speaks past libtest's capture: progress of long proofs.
pub fn say(line: &str) {
    std::io::stderr().write_all(format!("{}: {line}\n", test_name()).as_bytes()).ok();
}
