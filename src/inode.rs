//! The files that the kernel or the daemon is dealing with now, and the lock at which readers
//! and migrations meet.
//!
//! An [`Inode`] lives while the kernel remembers it (its lookups), or while somebody in the
//! daemon holds it. It keeps no descriptor while it is not open: it is found again by its file
//! handle, which names this file and never a later one with the same number.
//!
//! Lock order: the tier lock ([`Inode::tier`]), then `serving`, then nothing.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use dashmap::DashMap;
use nix::sys::stat::FileStat;

use crate::file_id::{FileHandle, Ino};
use crate::sys;

mod body;
mod cold;
mod directories;
pub mod known;

use directories::Directories;

pub use body::{Backing, Body, Reading, Serving, Suspect, TierGuard};
pub use cold::{Cold, Fill, FillError, Place, Progress, Refusal, SAME_ANSWER_FOR, Stop};

/// One file, directory or other node of the tenant.
#[derive(Debug)]
pub struct Inode {
    /// Its number, here and on the filesystem below.
    pub ino: Ino,
    /// Its name for ever.
    pub handle: FileHandle,
    /// Whether it is a regular file: only those are ever migrated.
    pub is_regular: bool,
    /// Where no handle finds it, an O_PATH descriptor: without the right to open by handle, or
    /// once its last name is gone ([`Inode::hold`]).
    anchor: OnceLock<OwnedFd>,
    /// References that the kernel holds (FUSE lookups less forgets).
    lookups: AtomicU64,
    serving: RwLock<Serving>,
    tier: Arc<tokio::sync::Mutex<Body>>,
}

impl Inode {
    /// The tier lock, if nobody has it. FUSE threads only ever try.
    pub fn try_tier(&self) -> Option<TierGuard> {
        self.tier.clone().try_lock_owned().ok()
    }

    /// The tier lock, when its holder is done. Not for FUSE threads.
    pub async fn tier(&self) -> TierGuard {
        self.tier.clone().lock_owned().await
    }

    /// Keeps what is about to lose its last name, for as long as the kernel remembers it:
    /// somebody may have it open, and the kernel tells of no open but a regular file's.
    pub fn hold(&self, fd: OwnedFd) {
        // One that is there already names the same file.
        drop(self.anchor.set(fd));
    }

    /// How opens of this file are served now.
    pub fn serving(&self) -> Serving {
        self.serving.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves a body that has come home: from the file below, or not at all where nobody has it
    /// open.
    pub fn serve_at_home(&self, held: &mut Body, file: &Arc<File>) {
        let serving = match held.opens {
            0 => Serving::Closed,
            _ => Serving::Local { file: Arc::clone(file) },
        };
        self.serve(held, serving);
    }

    /// Whether a recall of the whole file is under way.
    pub fn is_coming_home(&self) -> bool {
        matches!(self.serving(), Serving::Cold(cold) if !cold.is_idle())
    }

    /// Closes a file that nobody has open and nobody fills.
    pub fn close_if_unused(&self, held: &mut Body) {
        if held.opens == 0 && !self.is_coming_home() {
            self.serve(held, Serving::Closed);
        }
    }

    /// Changes how opens are served; the caller shows that it holds the tier lock.
    pub fn serve(&self, _held: &mut Body, serving: Serving) {
        *self.serving.write().unwrap_or_else(PoisonError::into_inner) = serving;
    }
}

/// A descriptor that names an inode: good for stat, attributes and `*at` calls.
#[derive(Debug)]
pub enum PathFd<'a> {
    /// The file is open anyway.
    Open(Arc<File>),
    /// Opened for this.
    Owned(OwnedFd),
    /// A directory that is kept open.
    Kept(Arc<OwnedFd>),
    /// The inode's anchor.
    Anchor(BorrowedFd<'a>),
}

impl AsFd for PathFd<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            PathFd::Open(file) => file.as_fd(),
            PathFd::Owned(fd) => fd.as_fd(),
            PathFd::Kept(fd) => fd.as_fd(),
            PathFd::Anchor(fd) => *fd,
        }
    }
}

/// All inodes of a tenant that are in use. Its bound is the kernel's: it holds what the kernel
/// has looked up and not forgotten, about 300 bytes each.
pub struct Inodes {
    table: DashMap<Ino, Arc<Inode>>,
    directories: Directories,
    root: OwnedFd,
    by_handle: bool,
    kernel: OnceLock<Box<TellKernel>>,
}

impl std::fmt::Debug for Inodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inodes").field("known", &self.table.len()).finish_non_exhaustive()
    }
}

/// Lets the kernel forget the attributes of an inode.
type TellKernel = dyn Fn(Ino) + Send + Sync;

impl Inodes {
    /// An empty table for the filesystem that `root` is on. `by_handle`: whether this process
    /// may open by handle.
    pub fn new(root: OwnedFd, by_handle: bool) -> Self {
        Self {
            table: DashMap::new(),
            directories: Directories::new(),
            root,
            by_handle,
            kernel: OnceLock::new(),
        }
    }

    /// How the kernel of the mount is told of what it did not do itself.
    pub fn on_change(&self, tell: impl Fn(Ino) + Send + Sync + 'static) {
        if self.kernel.set(Box::new(tell)).is_err() {
            tracing::debug!("a tenant has one mount");
        }
    }

    /// Attributes of an inode changed, and not by a request of the kernel's: it asks again before
    /// it believes what it has. It does not wait for anything that is under way.
    pub fn tell_kernel(&self, ino: Ino) {
        if let Some(tell) = self.kernel.get() {
            tell(ino);
        }
    }

    /// The inode that `fd` names, new or known.
    pub fn enter(&self, fd: OwnedFd, handle: FileHandle, stat: &FileStat) -> Arc<Inode> {
        self.enter_counting(fd, handle, stat, 0)
    }

    /// The same, and one more reference that the kernel holds from now on.
    pub fn enter_looked_up(&self, fd: OwnedFd, handle: FileHandle, stat: &FileStat) -> Arc<Inode> {
        self.enter_counting(fd, handle, stat, 1)
    }

    fn enter_counting(
        &self,
        fd: OwnedFd,
        handle: FileHandle,
        stat: &FileStat,
        lookups: u64,
    ) -> Arc<Inode> {
        let ino = Ino(stat.st_ino);
        let mut carried = lookups;
        let entry = self.table.entry(ino);
        if let dashmap::Entry::Occupied(known) = &entry {
            let known = known.get();
            if known.handle == handle {
                known.lookups.fetch_add(lookups, Ordering::Relaxed);
                return Arc::clone(known);
            }
            // The number was reused. The kernel will still forget the old file under it.
            carried += known.lookups.load(Ordering::Relaxed);
        }
        let inode = Arc::new(Inode {
            ino,
            handle,
            is_regular: stat.st_mode & libc::S_IFMT == libc::S_IFREG,
            anchor: if self.by_handle { OnceLock::new() } else { OnceLock::from(as_anchor(fd)) },
            lookups: AtomicU64::new(carried),
            serving: RwLock::new(Serving::Closed),
            tier: Arc::default(),
        });
        entry.insert(Arc::clone(&inode));
        inode
    }

    /// The inode with this number, if it is in use.
    pub fn get(&self, ino: Ino) -> Option<Arc<Inode>> {
        self.table.get(&ino).map(|inode| Arc::clone(&inode))
    }

    /// The kernel gives `count` references back.
    pub fn forget(&self, ino: Ino, count: u64) {
        if let Some(inode) = self.get(ino) {
            let before = inode.lookups.load(Ordering::Relaxed);
            inode.lookups.fetch_sub(count.min(before), Ordering::Relaxed);
        }
        self.tidy(ino);
    }

    /// Drops the inode from the table where neither kernel nor daemon uses it.
    pub fn tidy(&self, ino: Ino) {
        let removed = self.table.remove_if(&ino, |_, inode| {
            inode.lookups.load(Ordering::Relaxed) == 0 && Arc::strong_count(inode) == 1
        });
        if removed.is_some_and(|(_, inode)| !inode.is_regular) {
            self.directories.forget(ino);
        }
    }

    /// Gives an inode back: it leaves the table where nobody else uses it.
    pub fn let_go(&self, inode: Arc<Inode>) {
        let ino = inode.ino;
        drop(inode);
        self.tidy(ino);
    }

    /// Every inode that is in use now.
    pub fn all(&self) -> Vec<Arc<Inode>> {
        self.table.iter().map(|entry| Arc::clone(entry.value())).collect()
    }

    /// Files that are open or mapped now.
    pub fn open_files(&self) -> HashSet<Ino> {
        let all = self.all().into_iter();
        let open =
            all.filter(|inode| inode.is_regular && !matches!(inode.serving(), Serving::Closed));
        open.map(|inode| inode.ino).collect()
    }

    /// Descriptors that inodes in use keep open; none where they are found by handle instead.
    pub fn descriptors_kept(&self) -> Option<usize> {
        (!self.by_handle).then(|| self.table.len())
    }

    /// Number of inodes in use.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether no inode is in use.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// A descriptor that names the inode. `ESTALE`: it is gone.
    pub fn path_fd<'a>(&self, inode: &'a Inode) -> io::Result<PathFd<'a>> {
        if let Some(anchor) = inode.anchor.get() {
            return Ok(PathFd::Anchor(anchor.as_fd()));
        }
        if !inode.is_regular {
            if let Some(fd) = self.directories.get(inode) {
                return Ok(PathFd::Kept(fd));
            }
        } else if let Some(file) = inode.serving().file() {
            return Ok(PathFd::Open(file));
        }
        sys::handle::open(&self.root, &inode.handle, libc::O_PATH).map(PathFd::Owned)
    }

    /// A directory's descriptor, kept for the next one who asks.
    pub fn dir_fd(&self, inode: &Inode) -> io::Result<Arc<OwnedFd>> {
        let fd = match self.path_fd(inode)? {
            PathFd::Kept(fd) => return Ok(fd),
            PathFd::Owned(fd) => fd,
            other @ (PathFd::Anchor(_) | PathFd::Open(_)) => other.as_fd().try_clone_to_owned()?,
        };
        let fd = Arc::new(fd);
        self.directories.keep(inode, Arc::clone(&fd));
        Ok(fd)
    }

    /// Opens the inode. `EAGAIN` with `O_NONBLOCK`: somebody has a lease on it.
    pub fn open(&self, inode: &Inode, flags: i32) -> io::Result<File> {
        let opened = match inode.anchor.get() {
            Some(anchor) => reopen(anchor.as_fd(), flags)?,
            None => match sys::handle::open(&self.root, &inode.handle, flags) {
                // Unlinked and still open: no handle finds it, its descriptor does.
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {
                    reopen(inode.serving().file().ok_or(error)?.as_fd(), flags)?
                }
                other => other?,
            },
        };
        Ok(File::from(opened))
    }
}

/// What keeps an inode without a handle: never open for reading or writing, or it would stand
/// in the way of every lease.
fn as_anchor(fd: OwnedFd) -> OwnedFd {
    reopen(fd.as_fd(), libc::O_PATH).unwrap_or(fd)
}

/// Opens anew what a descriptor names.
fn reopen(fd: BorrowedFd<'_>, flags: i32) -> io::Result<OwnedFd> {
    use nix::fcntl::{OFlag, open};
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlag::from_bits_retain(flags | libc::O_CLOEXEC);
    Ok(open(path.as_str(), flags, nix::sys::stat::Mode::empty())?)
}
