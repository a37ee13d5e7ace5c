//! Going over the tree: each directory is read once, and again wherever its ctime says that it
//! changed since.
//!
//! It goes by descriptors from the tenant's root, one open a level, follows no link, and crosses
//! no mount: what is mounted on a directory or a file hides what lies below it, and that is a doubt.

use std::collections::HashSet;
use std::ffi::CString;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, fstat};

use super::read::{Reader, is_gone};
use crate::file_id::{Ino, TimeNs};
use crate::inode::Inode;
use crate::sys::dirents;

/// Directories remembered as read: 36 MiB. One beyond is a doubt, because nobody would know whether
/// it changed.
const DIRECTORIES: usize = 1 << 21;
/// Two changes within this time may have one ctime: as long as the coarsest clock that stamps
/// files takes, and more.
const ONE_MOMENT: Duration = Duration::from_millis(50);

/// What is known of directories.
#[derive(Default)]
pub(super) struct Trees {
    random: RandomState,
    /// Which ones were read, as they still are.
    read: HashSet<u64>,
    /// One changed so lately that it may change again without a sign.
    lately: bool,
    checking: bool,
    restless: Option<Vec<u8>>,
    /// Directories that moved, and are still to be read.
    put_off: Vec<Arc<Inode>>,
    /// Those that moved and need not be read for that again: what comes to them or goes from
    /// them after they were read is told of by itself.
    moved: HashSet<Ino>,
}

impl Trees {
    /// From now on a directory that was not read as it is counts as restless.
    pub(super) fn begin_check(&mut self) {
        (self.checking, self.restless, self.lately) = (true, None, false);
    }

    /// A directory that changed since, and no verb of the mount accounts for it.
    pub(super) fn restless(&mut self) -> Option<Vec<u8>> {
        self.restless.take()
    }

    /// Waits until what changed lately did so long enough ago.
    pub(super) fn wait_for_the_clock(&self) {
        if self.lately {
            std::thread::sleep(ONE_MOMENT);
        }
    }

    /// A directory that moved, to be read before the end, once.
    pub(super) fn put_off(&mut self, dir: Arc<Inode>) -> Result<(), Arc<Inode>> {
        if self.moved.insert(dir.ino) {
            self.put_off.push(dir);
            Ok(())
        } else {
            Err(dir)
        }
    }

    pub(super) fn take_put_off(&mut self) -> Vec<Arc<Inode>> {
        std::mem::take(&mut self.put_off)
    }

    fn mark_of(&self, stat: &FileStat) -> u64 {
        self.random.hash_one((stat.st_dev, stat.st_ino, stat.st_ctime, stat.st_ctime_nsec))
    }
}

/// A directory that is being read.
struct Dir {
    fd: OwnedFd,
    path: Vec<u8>,
    is_root: bool,
}

impl Dir {
    fn path_of(&self, name: &[u8]) -> Vec<u8> {
        match self.path.is_empty() {
            true => name.to_vec(),
            false => [&self.path[..], b"/", name].concat(),
        }
    }
}

/// A directory that is still to be read.
struct Pending {
    parent: Rc<Dir>,
    name: CString,
}

impl Reader<'_> {
    /// Goes over the whole tree.
    pub(super) fn root(&mut self) -> ControlFlow<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match openat(self.eyes.tenant.root(), c".", flags, Mode::empty()) {
            Ok(fd) => self.tree(Dir { fd, path: Vec::new(), is_root: true }),
            Err(error) => {
                self.unread(b"", &error.into());
                ControlFlow::Continue(())
            }
        }
    }

    /// Goes over a directory that moved, wherever it is now.
    pub(super) fn moved_directory(&mut self, inode: &Arc<Inode>) -> ControlFlow<()> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let fd = match self.eyes.inodes.open(inode, flags) {
            Ok(fd) => OwnedFd::from(fd),
            // Something else than a directory names nothing.
            Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) || is_gone(&error) => {
                return ControlFlow::Continue(());
            }
            Err(error) => {
                self.unread(format!("inode {}", inode.ino).as_bytes(), &error);
                return ControlFlow::Continue(());
            }
        };
        let path = self.eyes.tenant.path_of(&fd).unwrap_or_default().into_bytes();
        let checking = std::mem::take(&mut self.trees.checking);
        let flow = self.tree(Dir { fd, path, is_root: false });
        self.trees.checking = checking;
        flow
    }

    fn tree(&mut self, start: Dir) -> ControlFlow<()> {
        let mut pending = Vec::new();
        self.list(start, &mut pending)?;
        while let Some(Pending { parent, name }) = pending.pop() {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
            let path = parent.path_of(name.as_bytes());
            match below(&parent.fd, &name, flags) {
                Ok(fd) => self.list(Dir { fd, path, is_root: false }, &mut pending)?,
                // What has its name now came later.
                Err(error)
                    if is_gone(&error)
                        || matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => {}
                Err(error) => self.unread(&path, &error),
            }
        }
        ControlFlow::Continue(())
    }

    /// Reads a directory, or, where it is as it was read before, only finds those in it.
    fn list(&mut self, dir: Dir, pending: &mut Vec<Pending>) -> ControlFlow<()> {
        self.flow()?;
        let dir = Rc::new(dir);
        // Before its names: what comes or goes meanwhile moves the ctime.
        let stat = match fstat(&dir.fd) {
            Ok(stat) => stat,
            Err(error) => {
                self.unread(&dir.path, &error.into());
                return ControlFlow::Continue(());
            }
        };
        let mark = self.trees.mark_of(&stat);
        let known = self.trees.read.contains(&mark);
        let mut flow = ControlFlow::Continue(());
        let listed = dirents::read(&dir.fd, 0, &mut |entry| {
            flow = self.entry(&dir, entry, known, pending);
            flow.is_continue()
        });
        flow?;
        if let Err(error) = listed {
            self.unread(&dir.path, &error);
        }
        if known {
            return ControlFlow::Continue(());
        }
        self.told.directories += 1;
        let ino = Ino(stat.st_ino);
        let is_told_of = self.watch.is_touched(ino) || self.trees.moved.contains(&ino);
        if self.trees.checking && !is_told_of {
            self.trees.restless.get_or_insert_with(|| dir.path.clone());
        }
        if is_of_this_moment(&stat) {
            self.trees.lately = true;
        } else if self.trees.read.len() < DIRECTORIES {
            self.trees.read.insert(mark);
        } else {
            let cause = "more directories than can be remembered";
            self.doubts.add(&dir.path, cause, "have more than one tenant for them");
        }
        ControlFlow::Continue(())
    }

    fn entry(
        &mut self,
        dir: &Rc<Dir>,
        entry: dirents::Dirent<'_>,
        known: bool,
        pending: &mut Vec<Pending>,
    ) -> ControlFlow<()> {
        let name = entry.name;
        if name == b"." || name == b".." || (dir.is_root && name == b".coldfs") {
            return ControlFlow::Continue(());
        }
        let is_dir = match entry.kind {
            libc::DT_LNK | libc::DT_FIFO | libc::DT_SOCK | libc::DT_CHR | libc::DT_BLK => {
                return ControlFlow::Continue(());
            }
            libc::DT_DIR => true,
            libc::DT_REG if known => return ControlFlow::Continue(()),
            _ => false,
        };
        let Ok(c_name) = CString::new(name) else { return ControlFlow::Continue(()) };
        if is_dir {
            pending.push(Pending { parent: Rc::clone(dir), name: c_name });
            return ControlFlow::Continue(());
        }
        self.flow()?;
        self.follow_now_and_then();
        let found = below(&dir.fd, &c_name, OFlag::O_PATH | OFlag::O_NOFOLLOW)
            .and_then(|fd| Ok((fstat(&fd)?, fd)));
        match found {
            Ok((stat, fd)) => match stat.st_mode & libc::S_IFMT {
                libc::S_IFREG => {
                    self.look(|| dir.path_of(name), |eyes, each| eyes.file(fd, &stat, each));
                }
                // Filesystems without d_type: only now it is known to be one.
                libc::S_IFDIR => pending.push(Pending { parent: Rc::clone(dir), name: c_name }),
                _ => {}
            },
            Err(error) if is_gone(&error) => {}
            Err(error) => self.unread(&dir.path_of(name), &error),
        }
        ControlFlow::Continue(())
    }

    fn unread(&mut self, path: &[u8], error: &io::Error) {
        match error.raw_os_error() {
            Some(libc::EXDEV) => self.doubts.add(
                path,
                "something else is mounted on it, and hides what is there",
                "unmount that, then run the command again",
            ),
            _ => self.doubts.add(
                path,
                error.to_string(),
                "check its permissions and the disk, then run the command again",
            ),
        }
    }
}

/// Opens a name in a directory. `EXDEV`: something is mounted on it.
fn below(dir: &OwnedFd, name: &CString, flags: OFlag) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(openat2(dir.as_fd(), name.as_c_str(), how)?)
}

/// Whether a change of just now could have this very ctime.
fn is_of_this_moment(stat: &FileStat) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
    let moment = u64::try_from(ONE_MOMENT.as_nanos()).unwrap_or(u64::MAX);
    TimeNs::ctime_of(stat).is_none_or(|ctime| now.abs_diff(ctime.0) < moment)
}
