//! What else tells of reads: an event for each, which somebody takes.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const TRACING: &str = "/sys/kernel/tracing/instances/coldfs-bench";
const EVENT: &str = "events/filemap/mm_filemap_get_pages/enable";
/// How long a taker rests when there is nothing.
const REST: Duration = Duration::from_millis(1);

/// Threads that take events until it is dropped.
struct Takers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Takers {
    fn of(sources: Vec<File>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let take = |mut source: File| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut room = vec![0; 1 << 16];
                while !stop.load(Ordering::Relaxed) {
                    if !source.read(&mut room).is_ok_and(|taken| taken > 0) {
                        std::thread::sleep(REST);
                    }
                }
            })
        };
        let threads = sources.into_iter().map(take).collect();
        Self { stop, threads }
    }
}

impl Drop for Takers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

/// The classic tracepoint into the kernel's own ring buffer, a record an access.
pub struct Ring {
    takers: Option<Takers>,
    root: PathBuf,
}

impl Ring {
    /// None: this machine has no tracefs that we may use.
    pub fn start() -> Option<Self> {
        let root = PathBuf::from(TRACING);
        // One that a bench which was killed left.
        fs::remove_dir(&root).ok();
        fs::create_dir(&root).ok()?;
        let ring = |takers| Self { takers, root: root.clone() };
        let mut sources = Vec::new();
        for entry in fs::read_dir(root.join("per_cpu")).ok()? {
            let pipe = entry.ok()?.path().join("trace_pipe_raw");
            let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(pipe);
            let Ok(source) = open else {
                drop(ring(None));
                return None;
            };
            sources.push(source);
        }
        fs::write(root.join(EVENT), "1").ok()?;
        Some(ring(Some(Takers::of(sources))))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        fs::write(self.root.join(EVENT), "0").ok();
        drop(self.takers.take());
        fs::remove_dir(&self.root).ok();
    }
}

/// fanotify's FAN_ACCESS on the files of one directory.
pub struct Fanotify(#[expect(dead_code, reason = "held: dropped, it ends")] Takers);

impl Fanotify {
    /// None: this machine does not let us.
    #[allow(unsafe_code, reason = "there is no wrapper for it")]
    pub fn start(dir: &Path) -> Option<Self> {
        let flags = libc::FAN_CLASS_NOTIF | libc::FAN_REPORT_FID | libc::FAN_NONBLOCK;
        // SAFETY: no pointers.
        let fd = unsafe { libc::fanotify_init(flags, 0) };
        if fd < 0 {
            return None;
        }
        // SAFETY: just made, and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let path = std::ffi::CString::new(dir.as_os_str().as_bytes()).ok()?;
        let mask = libc::FAN_ACCESS | libc::FAN_EVENT_ON_CHILD;
        // SAFETY: a path that ends, and lives longer than the call.
        let marked = unsafe {
            let add = libc::FAN_MARK_ADD;
            libc::fanotify_mark(fd.as_raw_fd(), add, mask, libc::AT_FDCWD, path.as_ptr())
        };
        (marked == 0).then(|| Self(Takers::of(vec![File::from(fd)])))
    }
}
