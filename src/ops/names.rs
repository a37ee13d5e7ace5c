//! Names: making, removing, linking and renaming them.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, readlinkat, renameat2};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat, mkdirat, mknodat};
use nix::unistd::{LinkatFlags, UnlinkatFlags, linkat, symlinkat, unlinkat};

use super::lookup::Entry;
use super::{Caller, Errno, Name, Ops};
use crate::file_id::Ino;
use crate::inode::{Inode, Serving};
use crate::sys;
use crate::sys::cred::ActingAs;
use crate::tenant::Moving;

impl Ops {
    /// Makes a directory.
    pub fn mkdir(
        &self,
        caller: Caller,
        parent: Ino,
        name: &Name,
        mode: u32,
    ) -> Result<Entry, Errno> {
        let dir = self.dir_for_change(parent, name)?;
        {
            let _caller = caller.enter()?;
            mkdirat(dir.as_fd(), name.as_cstr(), Mode::from_bits_truncate(mode))?;
        }
        self.tenant.noticed.name(dir.ino(), name.as_bytes());
        self.entry(&dir, name)
    }

    /// Makes a file, FIFO, socket or device node.
    pub fn mknod(
        &self,
        caller: Caller,
        parent: Ino,
        name: &Name,
        mode: u32,
        device: u32,
    ) -> Result<Entry, Errno> {
        let dir = self.dir_for_change(parent, name)?;
        {
            let _caller = caller.enter()?;
            let kind = SFlag::from_bits_truncate(mode & libc::S_IFMT);
            let mode = Mode::from_bits_truncate(mode);
            mknodat(dir.as_fd(), name.as_cstr(), kind, mode, u64::from(device))?;
        }
        self.tenant.noticed.name(dir.ino(), name.as_bytes());
        self.entry(&dir, name)
    }

    /// Makes a symbolic link.
    pub fn symlink(
        &self,
        caller: Caller,
        parent: Ino,
        name: &Name,
        target: &CStr,
    ) -> Result<Entry, Errno> {
        let dir = self.dir_for_change(parent, name)?;
        {
            let _caller = caller.enter()?;
            symlinkat(target, dir.as_fd(), name.as_cstr())?;
        }
        self.tenant.noticed.name(dir.ino(), name.as_bytes());
        self.entry(&dir, name)
    }

    /// Where a symbolic link points.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>, Errno> {
        use std::os::unix::ffi::OsStringExt;
        let inode = self.inode(ino)?;
        let fd = self.inodes.path_fd(&inode)?;
        Ok(readlinkat(fd.as_fd(), c"")?.into_vec())
    }

    /// Makes another name for a file.
    pub fn link(
        self: &Arc<Self>,
        ino: Ino,
        new_parent: Ino,
        new_name: &Name,
    ) -> Result<Entry, Errno> {
        let inode = self.inode(ino)?;
        let dir = self.dir_for_change(new_parent, new_name)?;
        let fd = self.inodes.path_fd(&inode)?;
        // By /proc, because AT_EMPTY_PATH asks for a capability that a rootless mount lacks.
        let path = sys::fd_path(fd.as_fd());
        let follow = LinkatFlags::AT_SYMLINK_FOLLOW;
        let moving = self.tenant.moved.begin();
        linkat(nix::fcntl::AT_FDCWD, &*path, dir.as_fd(), new_name.as_cstr(), follow)?;
        if let Some(moving) = moving {
            moving.note(Arc::clone(&inode));
        }
        self.tenant.noticed.name(dir.ino(), new_name.as_bytes());
        drop(fd);
        self.note_change(inode);
        self.entry(&dir, new_name)
    }

    /// Removes a name.
    pub fn unlink(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<(), Errno> {
        let dir = self.dir_for_change(parent, name)?;
        let leaving = self.leaving(dir.as_fd(), name);
        unlinkat(dir.as_fd(), name.as_cstr(), UnlinkatFlags::NoRemoveDir)?;
        self.tenant.noticed.name(dir.ino(), name.as_bytes());
        self.left(leaving);
        Ok(())
    }

    /// Removes an empty directory.
    pub fn rmdir(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<(), Errno> {
        let dir = self.dir_for_change(parent, name)?;
        let leaving = self.leaving(dir.as_fd(), name);
        unlinkat(dir.as_fd(), name.as_cstr(), UnlinkatFlags::RemoveDir)?;
        self.tenant.noticed.name(dir.ino(), name.as_bytes());
        self.left(leaving);
        Ok(())
    }

    /// Gives a file another name or another directory. `flags` as in `renameat2(2)`.
    pub fn rename(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        new_parent: Ino,
        new_name: &Name,
        flags: u32,
    ) -> Result<(), Errno> {
        let from = self.dir_for_change(parent, name)?;
        let to = self.dir_for_change(new_parent, new_name)?;
        let flags = RenameFlags::from_bits(flags).ok_or(Errno(libc::EINVAL))?;
        if flags.contains(RenameFlags::RENAME_WHITEOUT) {
            return Err(Errno(libc::EINVAL));
        }
        let exchange = flags.contains(RenameFlags::RENAME_EXCHANGE);
        let replaced = if exchange { Leaving::No } else { self.leaving(to.as_fd(), new_name) };
        let moving = self.tenant.moved.begin();
        renameat2(from.as_fd(), name.as_cstr(), to.as_fd(), new_name.as_cstr(), flags)?;
        if let Some(moving) = moving {
            self.note_moved(&moving, to.as_fd(), new_name);
            if exchange {
                self.note_moved(&moving, from.as_fd(), name);
            }
        }
        let (from_name, to_name) = (name.as_bytes(), new_name.as_bytes());
        self.tenant.noticed.names((from.ino(), from_name), (to.ino(), to_name));
        self.left(replaced);
        self.note_change_of(path_fd_at(to.as_fd(), new_name).ok());
        if exchange {
            self.note_change_of(path_fd_at(from.as_fd(), name).ok());
        }
        Ok(())
    }

    /// What is behind a name that is about to go.
    fn leaving(&self, dir: BorrowedFd<'_>, name: &Name) -> Leaving {
        let Ok(stat) = fstatat(dir, name.as_cstr(), AtFlags::AT_SYMLINK_NOFOLLOW) else {
            return Leaving::No;
        };
        let kind = stat.st_mode & libc::S_IFMT;
        let last_name = kind == libc::S_IFDIR || stat.st_nlink < 2;
        let named = || path_fd_at(dir, name).ok();
        let known = || self.inodes.get(Ino(stat.st_ino));
        let is_open = || known().is_some_and(|inode| !matches!(inode.serving(), Serving::Closed));
        match (kind == libc::S_IFREG, last_name) {
            (true, true) if !is_open() => Leaving::No,
            (true, _) => named().map_or(Leaving::No, Leaving::Staying),
            (false, false) => Leaving::No,
            (false, true) => match (known(), named()) {
                (Some(inode), Some(fd)) if is_inode(&fd, &inode) => Leaving::Unnamed(inode, fd),
                _ => Leaving::No,
            },
        }
    }

    /// The name is gone.
    fn left(self: &Arc<Self>, leaving: Leaving) {
        match leaving {
            Leaving::No => {}
            Leaving::Staying(fd) => self.note_change_of(Some(fd)),
            Leaving::Unnamed(inode, fd) => {
                inode.hold(fd);
                self.inodes.let_go(inode);
            }
        }
    }

    /// Tells whoever reads the whole directory what has this name now.
    fn note_moved(&self, moving: &Moving<'_>, dir: BorrowedFd<'_>, name: &Name) {
        let found = path_fd_at(dir, name).and_then(|fd| {
            let (handle, stat) = (sys::handle::of(&fd, c"")?, fstat(&fd)?);
            Ok(self.inodes.enter(fd, handle, &stat))
        });
        match found {
            Ok(inode) => moving.note(inode),
            // Whoever moved it on tells of it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_unknown) => moving.miss(),
        }
    }

    fn note_change_of(self: &Arc<Self>, fd: Option<OwnedFd>) {
        let Some(fd) = fd else { return };
        if let (Ok(handle), Ok(stat)) = (sys::handle::of(&fd, c""), fstat(&fd)) {
            self.note_change(self.inodes.enter(fd, handle, &stat));
        }
    }
}

/// What is behind a name that is about to go.
enum Leaving {
    /// Nothing that needs anything.
    No,
    /// A regular file that stays, under another name or open, and so shows a new ctime.
    Staying(OwnedFd),
    /// No regular file, and this is its last name: it has no descriptor of its own.
    Unnamed(Arc<Inode>, OwnedFd),
}

fn is_inode(fd: &OwnedFd, inode: &Inode) -> bool {
    sys::handle::of(fd, c"").is_ok_and(|handle| handle == inode.handle)
}

/// An O_PATH descriptor of a name; symbolic links are not followed.
pub(super) fn path_fd_at(dir: impl AsFd, name: &Name) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(dir, name.as_cstr(), flags, Mode::empty())?)
}

impl Caller {
    /// Makes this thread act as the caller, with the caller's umask.
    pub(super) fn enter(self) -> io::Result<ActingAs> {
        sys::set_umask(self.umask);
        ActingAs::caller(self.uid, self.gid)
    }
}
