//! Whether a process that waits is being killed: FUSE waits are not killable by themselves until
//! the daemon answers.

use std::io;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

const SIGKILL_BIT: u64 = 1 << (libc::SIGKILL - 1);

/// Whether the thread `pid` has a SIGKILL pending, or is gone. What cannot be looked at is alive:
/// without descriptors, or in a `/proc` that hides it, its wait goes on.
pub fn is_being_killed(pid: u32) -> bool {
    judge(std::fs::read(format!("/proc/{pid}/status")), || is_gone(pid))
}

/// The name in it may be of any bytes.
fn judge(status: io::Result<Vec<u8>>, is_gone: impl FnOnce() -> bool) -> bool {
    match status {
        Ok(text) => has_sigkill(&text),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH) => is_gone(),
            _ => false,
        },
    }
}

fn has_sigkill(status: &[u8]) -> bool {
    status
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.strip_prefix(b"SigPnd:").or(line.strip_prefix(b"ShdPnd:")))
        .filter_map(|mask| std::str::from_utf8(mask).ok())
        .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .any(|mask| mask & SIGKILL_BIT != 0)
}

/// `/proc` shows no thread that it hides; the kernel knows it, whoever asks.
fn is_gone(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: i32) -> io::Result<Vec<u8>> {
        Err(io::Error::from_raw_os_error(code))
    }

    #[test]
    fn only_a_thread_that_is_gone_or_has_a_sigkill_is_being_killed() {
        for (status, gone, killed) in [
            (refused(libc::ENOENT), true, true),
            (refused(libc::ESRCH), true, true),
            (refused(libc::ENOENT), false, false),
            (refused(libc::EMFILE), true, false),
            (refused(libc::EACCES), true, false),
            (Ok(b"Name:\t\xff\nSigPnd:\t0000000000000000\n".to_vec()), true, false),
            (Ok(b"Name:\t\xff\nSigPnd:\t0000000000000100\n".to_vec()), false, true),
            (Ok(b"ShdPnd:\t0000000000000100\n".to_vec()), false, true),
            (Ok(b"SigBlk:\t0000000000000100\n".to_vec()), false, false),
            (Ok(Vec::new()), true, false),
        ] {
            let shown = format!("{status:?}");
            assert_eq!(judge(status, || gone), killed, "{shown}, gone: {gone}");
        }
    }

    #[test]
    fn a_thread_whose_name_is_not_utf8_is_alive_until_it_ends() {
        let tid = std::thread::spawn(|| {
            std::fs::write("/proc/thread-self/comm", b"\xff\xfe").unwrap();
            let tid = nix::unistd::gettid().as_raw().cast_unsigned();
            assert!(!is_being_killed(tid));
            tid
        });
        let tid = tid.join().unwrap();
        // Its number goes a moment after its end.
        while !is_being_killed(tid) {
            std::thread::yield_now();
        }
    }
}
