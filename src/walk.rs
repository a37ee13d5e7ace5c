//! Walking a tenant's directory: for commands that name a tree. Nothing else ever walks.
//!
//! It goes by descriptors from the tenant's root, so it sees the raw directory also where the
//! mount lies over it, follows no symbolic link, and stays on the tenant's filesystem.

use std::ffi::{CStr, CString};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};

use crate::sys::dirents;
use crate::tenant::{Pin, Tenant};

/// One file or directory that was met.
#[derive(Debug)]
pub struct Found {
    /// Below the tenant's root; empty: the root itself.
    pub path: Vec<u8>,
    /// O_PATH descriptor of it.
    pub fd: OwnedFd,
    /// Its attributes as they are below.
    pub stat: FileStat,
    /// The hardest pin on it or on a directory above it.
    pub pin: Option<Pin>,
}

impl Found {
    /// Whether it is a regular file.
    pub fn is_regular(&self) -> bool {
        self.stat.st_mode & libc::S_IFMT == libc::S_IFREG
    }

    fn is_dir(&self) -> bool {
        self.stat.st_mode & libc::S_IFMT == libc::S_IFDIR
    }
}

/// Finds a path below the tenant's root; the last component is not followed.
pub fn find(tenant: &Tenant, path: &[u8]) -> io::Result<Found> {
    let name = CString::new(if path.is_empty() { b"." } else { path })?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let fd = openat2(tenant.root(), name.as_c_str(), how)?;
    let stat = fstat(&fd)?;
    if stat.st_dev != tenant.device() || is_home(path) {
        return Err(io::Error::from_raw_os_error(libc::EXDEV));
    }
    let pin = Pin::harder(pin_above(tenant, path)?, tenant.pin(&fd)?);
    Ok(Found { path: path.to_vec(), fd, stat, pin })
}

fn is_home(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').find(|part| !part.is_empty() && *part != b".")
        == Some(b".coldfs")
}

/// Pins of the directories above a path.
fn pin_above(tenant: &Tenant, path: &[u8]) -> io::Result<Option<Pin>> {
    let mut pin = tenant.pin(tenant.root())?;
    for (at, byte) in path.iter().enumerate() {
        if *byte == b'/' && at > 0 {
            let name = CString::new(&path[..at])?;
            let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
            let dir = openat(tenant.root(), name.as_c_str(), flags, Mode::empty())?;
            pin = Pin::harder(pin, tenant.pin(&dir)?);
        }
    }
    Ok(pin)
}

/// A directory that is still to be listed. It holds no descriptor of its own: a directory may
/// have more directories in it than a process may have files open.
struct Pending {
    /// Open as long as one of its directories is pending, so at most one is open a level.
    parent: Rc<OwnedFd>,
    name: CString,
    path: Vec<u8>,
    /// Of the parent and above.
    pin: Option<Pin>,
}

/// Gives `visit` a path and, if it is a directory, all below it, a directory after the files
/// in it. What cannot be read is given to `fail` by its path, and the walk goes on.
pub fn walk(
    tenant: &Tenant,
    start: Found,
    visit: &mut dyn FnMut(Found) -> ControlFlow<()>,
    fail: &mut dyn FnMut(&[u8], io::Error),
) -> ControlFlow<()> {
    let mut pending = Vec::new();
    enter(tenant, start, &mut pending, visit, fail)?;
    while let Some(Pending { parent, name, path, pin }) = pending.pop() {
        match child(tenant, &parent, &name, path, pin) {
            Ok(found) if found.is_dir() && found.stat.st_dev == tenant.device() => {
                enter(tenant, found, &mut pending, visit, fail)?;
            }
            // It was replaced since it was listed: whatever is there now came later.
            Ok(_) => {}
            Err((_, error)) if is_gone(&error) => {}
            Err((path, error)) => fail(&path, error),
        }
    }
    ControlFlow::Continue(())
}

/// Visits what was found; of a directory first its files, its directories are put off.
fn enter(
    tenant: &Tenant,
    found: Found,
    pending: &mut Vec<Pending>,
    visit: &mut dyn FnMut(Found) -> ControlFlow<()>,
    fail: &mut dyn FnMut(&[u8], io::Error),
) -> ControlFlow<()> {
    if found.is_dir() {
        match list(tenant, &found, pending, visit, fail) {
            Ok(flow) => flow?,
            Err(error) => fail(&found.path, error),
        }
    }
    visit(found)
}

fn list(
    tenant: &Tenant,
    dir: &Found,
    pending: &mut Vec<Pending>,
    visit: &mut dyn FnMut(Found) -> ControlFlow<()>,
    fail: &mut dyn FnMut(&[u8], io::Error),
) -> io::Result<ControlFlow<()>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let open = Rc::new(openat(&dir.fd, c".", flags, Mode::empty())?);
    let mut names = Vec::new();
    dirents::read(&*open, 0, &mut |entry| {
        let home = dir.path.is_empty() && entry.name == b".coldfs";
        if entry.name != b"." && entry.name != b".." && !home {
            names.push((entry.kind, entry.name.to_vec()));
        }
        true
    })?;
    for (kind, name) in names {
        if kind == libc::DT_LNK {
            continue;
        }
        let mut path = dir.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        let name = CString::new(name)?;
        if kind == libc::DT_DIR {
            pending.push(Pending { parent: Rc::clone(&open), name, path, pin: dir.pin });
            continue;
        }
        match child(tenant, &open, &name, path, dir.pin) {
            Ok(found) if found.stat.st_dev == tenant.device() => {
                // Filesystems without d_type: only now it is known to be one.
                if found.is_dir() {
                    let Found { path, .. } = found;
                    pending.push(Pending { parent: Rc::clone(&open), name, path, pin: dir.pin });
                } else if visit(found).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            // Another filesystem is mounted on it.
            Ok(_) => {}
            Err((_, error)) if is_gone(&error) => {}
            Err((path, error)) => fail(&path, error),
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// Looks at one name; the path comes back with an error.
fn child(
    tenant: &Tenant,
    dir: &OwnedFd,
    name: &CStr,
    path: Vec<u8>,
    above: Option<Pin>,
) -> Result<Found, (Vec<u8>, io::Error)> {
    let looked = (|| {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(dir, name, flags, Mode::empty())?;
        let stat = fstatat(fd.as_fd(), c"", AtFlags::AT_EMPTY_PATH)?;
        let own = match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG | libc::S_IFDIR => tenant.pin(&fd)?,
            _ => None,
        };
        Ok((fd, stat, Pin::harder(above, own)))
    })();
    match looked {
        Ok((fd, stat, pin)) => Ok(Found { path, fd, stat, pin }),
        Err(error) => Err((path, error)),
    }
}
