//! Who opens a cold file: looked up in `/proc` once an open, never for hot files.

use std::path::PathBuf;

/// A process that opens a file, as far as `/proc` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reader {
    /// Its process; 0: the kernel, or one that is not visible from here.
    pub process: u32,
    /// Its user.
    pub uid: u32,
    /// Its session (`setsid(2)`): what a shell, a job or a service forks has the same.
    pub session: u32,
    /// Its name; a script has its own, whatever interprets it. A process may change it.
    pub name: String,
    /// Its executable. Empty: not visible.
    pub program: PathBuf,
    /// Its control group, as in `/proc/PID/cgroup` after `0::`.
    pub cgroup: String,
}

impl Reader {
    /// Looks up the process of a thread, as FUSE tells it. Of one that is gone or not visible
    /// there is only what FUSE said.
    pub fn look(thread: u32, uid: u32) -> Self {
        let mut reader = Self { process: thread, uid, ..Self::default() };
        if thread == 0 {
            return reader;
        }
        // A process gives itself any name, which may be no UTF-8.
        let read = |what: &str| {
            let bytes = std::fs::read(format!("/proc/{thread}/{what}"));
            bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        if let Some(process) = read("status").ok().as_deref().and_then(parse_process) {
            reader.process = process;
        }
        if let Some((name, session)) = read("stat").ok().as_deref().and_then(parse_stat) {
            reader.name = name;
            reader.session = session;
        }
        reader.program = std::fs::read_link(format!("/proc/{thread}/exe")).unwrap_or_default();
        reader.cgroup = read("cgroup").ok().as_deref().and_then(parse_cgroup).unwrap_or_default();
        reader
    }

    /// The last component of its executable.
    pub fn program_name(&self) -> &str {
        self.program.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// What a person calls it.
    pub fn shown(&self) -> &str {
        if self.name.is_empty() { "unknown" } else { &self.name }
    }
}

/// Name and session of `/proc/PID/stat`: `PID (NAME) STATE PPID PGRP SESSION ...`; a name may
/// hold anything, parentheses too.
fn parse_stat(text: &str) -> Option<(String, u32)> {
    let (_, rest) = text.split_once('(')?;
    let (name, rest) = rest.rsplit_once(')')?;
    let session = rest.split_whitespace().nth(3)?;
    Some((name.to_owned(), session.parse().ok()?))
}

/// The process that a thread is of.
fn parse_process(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// The path in the unified hierarchy.
fn parse_cgroup(text: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read_as_it_is_written() {
        let stat = "4711 (a) (b c)) S 1 4700 4699 34816 4700 4194304 1 0";
        assert_eq!(parse_stat(stat), Some(("a) (b c)".to_owned(), 4699)));
        assert_eq!(parse_stat("4711"), None);
        let cgroup = "12:cpu:/x\n0::/system.slice/backup.service\n";
        assert_eq!(parse_cgroup(cgroup).as_deref(), Some("/system.slice/backup.service"));
    }

    #[test]
    fn this_process_is_seen() {
        let reader = Reader::look(std::process::id(), 7);
        assert_eq!((reader.uid, reader.program.as_path()), (7, &*std::env::current_exe().unwrap()));
        assert!(!reader.name.is_empty());
        assert_eq!(reader.process, std::process::id());
        let gone = Reader::look(u32::MAX, 7);
        assert_eq!(gone, Reader { process: u32::MAX, uid: 7, ..Reader::default() });
    }

    #[test]
    fn who_calls_itself_what_is_no_text_is_seen_all_the_same() {
        let looked = std::thread::spawn(|| {
            std::fs::write("/proc/thread-self/comm", b"a\xff").unwrap();
            Reader::look(nix::unistd::gettid().as_raw().unsigned_abs(), 7)
        });
        let looked = looked.join().unwrap();
        assert_eq!((looked.name.as_str(), looked.process), ("a\u{fffd}", std::process::id()));
        let session = nix::unistd::getsid(None).unwrap().as_raw().unsigned_abs();
        assert_eq!(looked.session, session, "whose budget it has");
    }
}
