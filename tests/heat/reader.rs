//! The ways in which applications read, each in a process of its own.

use std::path::Path;
use std::process::Command;

use super::harness::{must, on_path};

/// Name of a way, and what a Python program does with a path.
pub const WAYS: [(&str, &str); 9] = [
    ("read", "fd = os.open(p, 0); os.read(fd, 4096)"),
    ("pread", "fd = os.open(p, 0); os.pread(fd, 100, 5000)"),
    ("readv", "fd = os.open(p, 0); os.readv(fd, [bytearray(10), bytearray(4096)])"),
    ("preadv", "fd = os.open(p, 0); os.preadv(fd, [bytearray(4096)], 8192)"),
    (
        "sendfile",
        "fd = os.open(p, 0); a, b = socket.socketpair(); os.sendfile(a.fileno(), fd, 0, 4096)",
    ),
    ("splice", "fd = os.open(p, 0); r, w = os.pipe(); os.splice(fd, w, 4096)"),
    ("mmap", "fd = os.open(p, 0); m = mmap.mmap(fd, 0, prot=mmap.PROT_READ); m[9000]"),
    ("direct", "fd = os.open(p, os.O_DIRECT); os.readv(fd, [mmap.mmap(-1, 4096)])"),
    ("write", "fd = os.open(p, os.O_WRONLY); os.pwrite(fd, b'x', 0); os.close(fd)"),
];

/// Reads a file in one of these ways.
pub fn read(way: &str, path: &Path) {
    let (_, code) = WAYS.iter().find(|(name, _)| *name == way).unwrap();
    let program = format!("import os, sys, mmap, socket\np = sys.argv[1]\n{code}");
    must(Command::new("python3").arg("-c").arg(program).arg(path));
}

/// Whether the ways can be gone; says why not.
pub fn can_read() -> bool {
    if on_path("python3") {
        return true;
    }
    super::skip("needs python3");
    false
}
