//! One of the two directories: carries an operation out and tells what an application saw.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::harness::facts::{Depth, Fact};
use super::harness::pattern;
use super::harness::raw::{self, At};
use super::op::{Falloc, Lock, Mode, Op, PATHS, SLOTS, TARGETS};

/// More than any file of the test has.
const READ_ALL: u32 = 8 << 20;

/// What an application saw of an operation: bytes or a number, or an errno.
pub type Outcome = Result<Vec<u8>, i32>;

/// What an operation may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spot {
    Path(&'static str),
    /// What a kept handle has open, whatever its name is by now.
    Slot(u8),
}

impl std::fmt::Display for Spot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Spot::Path(path) => f.write_str(path),
            Spot::Slot(slot) => write!(f, "handle {slot}"),
        }
    }
}

/// A directory and the handles that are kept open in it.
pub struct Side {
    pub root: PathBuf,
    handles: Vec<Option<File>>,
}

impl Side {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), handles: (0..SLOTS).map(|_| None).collect() }
    }

    /// Inode numbers of what is kept open for writing.
    pub fn written(&self) -> Vec<u64> {
        use nix::fcntl::{FcntlArg, fcntl};
        let writable = |file: &&File| {
            fcntl(file, FcntlArg::F_GETFL).unwrap() & libc::O_ACCMODE != libc::O_RDONLY
        };
        let kept = self.handles.iter().flatten().filter(writable);
        kept.map(|file| file.metadata().unwrap().ino()).collect()
    }

    pub fn close(&mut self, slot: u8) {
        self.handles[usize::from(slot)] = None;
    }

    pub fn close_all(&mut self) {
        self.handles.iter_mut().for_each(|handle| *handle = None);
    }

    /// Slots that hold one of these inodes.
    pub fn slots_of(&self, inos: &[u64]) -> Vec<u8> {
        let holds = |slot: &u8| {
            let file = self.handle(*slot);
            file.is_some_and(|file| inos.contains(&file.metadata().unwrap().ino()))
        };
        (0..SLOTS).filter(holds).collect()
    }

    pub fn handle(&self, slot: u8) -> Option<&File> {
        self.handles[usize::from(slot)].as_ref()
    }

    /// What can be seen of some spots without opening them.
    pub fn look(&self, spots: &[Spot]) -> Result<Vec<Option<Fact>>, String> {
        let look = |spot: &Spot| match *spot {
            Spot::Path(path) => match Fact::of(&self.root.join(path), Depth::Stat) {
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
                    ) =>
                {
                    Ok(None)
                }
                fact => fact.map(Some),
            },
            Spot::Slot(slot) => self.handle(slot).map(At::Open).map(Fact::seen).transpose(),
        };
        let named = |spot: &Spot| look(spot).map_err(|error| format!("{spot}: {error}"));
        spots.iter().map(named).collect()
    }

    pub fn apply(&mut self, op: &Op) -> Outcome {
        self.run(op).map_err(|error| error.raw_os_error().unwrap_or(-1))
    }

    fn run(&mut self, op: &Op) -> io::Result<Vec<u8>> {
        let root = self.root.clone();
        let at_path = |name: &u8| root.join(PATHS[usize::from(*name)]);
        let nothing = |()| vec![];
        match op {
            Op::Create { path, exclusive } => {
                let flags = if *exclusive { libc::O_EXCL } else { 0 };
                let flags = flags | libc::O_CREAT | libc::O_RDWR | libc::O_NONBLOCK;
                raw::open(&at_path(path), flags, 0o644).map(|_| vec![])
            }
            Op::Write { path, mode, at, len, seed } => {
                let file = open(&at_path(path), *mode)?;
                write_at(&file, *seed, *len, *at)
            }
            Op::Read { path, at, len } => {
                let file = open(&at_path(path), Mode::Read)?;
                read_at(&file, *at, *len)
            }
            Op::Truncate { path, len } => {
                nix::unistd::truncate(&at_path(path), *len as i64)?;
                Ok(vec![])
            }
            Op::Rename { from, to, flags } => {
                let flags = match flags {
                    0 => libc::RENAME_NOREPLACE,
                    1 => libc::RENAME_EXCHANGE,
                    _ => 0,
                };
                raw::rename(&at_path(from), &at_path(to), flags).map(nothing)
            }
            Op::Link { from, to } => std::fs::hard_link(at_path(from), at_path(to)).map(nothing),
            Op::Unlink { path } => std::fs::remove_file(at_path(path)).map(nothing),
            Op::Mkdir { path } => std::fs::create_dir(at_path(path)).map(nothing),
            Op::Rmdir { path } => std::fs::remove_dir(at_path(path)).map(nothing),
            Op::Symlink { target, path } => {
                std::os::unix::fs::symlink(TARGETS[usize::from(*target)], at_path(path))
                    .map(nothing)
            }
            Op::Mkfifo { path } => {
                raw::mknod(&at_path(path), libc::S_IFIFO | 0o600, 0).map(nothing)
            }
            Op::Chmod { path, mode } => {
                use std::os::unix::fs::PermissionsExt;
                let mode = std::fs::Permissions::from_mode(u32::from(*mode));
                let path = at_path(path);
                // A directory without x would hide the rest from nobody: the test is root.
                std::fs::set_permissions(path, mode).map(nothing)
            }
            Op::Chown { path, uid, gid } => {
                raw::chown(&at_path(path), u32::from(*uid), u32::from(*gid)).map(nothing)
            }
            Op::SetMtime { path, ns } => raw::set_mtime(&at_path(path), *ns).map(nothing),
            Op::SetXattr { path, name, len, seed, flags } => {
                let flags = match flags {
                    0 => libc::XATTR_CREATE,
                    1 => libc::XATTR_REPLACE,
                    _ => 0,
                };
                let value = pattern::bytes(u64::from(*seed), usize::from(*len));
                raw::set_xattr(&at_path(path), &xattr(*name), &value, flags).map(nothing)
            }
            Op::RemoveXattr { path, name } => {
                raw::remove_xattr(&at_path(path), &xattr(*name)).map(nothing)
            }
            Op::SetAcl { path, acl, entries } => {
                raw::set_xattr(&at_path(path), acl.attribute(), &acl_of(*entries), 0).map(nothing)
            }
            Op::RemoveAcl { path, acl } => {
                raw::remove_xattr(&at_path(path), acl.attribute()).map(nothing)
            }
            Op::Fallocate { path, mode, at, len } => {
                let file = open(&at_path(path), Mode::ReadWrite)?;
                let mode = match mode {
                    Falloc::Allocate => 0,
                    Falloc::KeepSize => libc::FALLOC_FL_KEEP_SIZE,
                    Falloc::Punch => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                    Falloc::Zero => libc::FALLOC_FL_ZERO_RANGE,
                };
                raw::fallocate(&file, mode, *at, *len).map(nothing)
            }
            Op::MmapWrite { path, at, len, seed } => {
                let file = open(&at_path(path), Mode::ReadWrite)?;
                let meta = file.metadata()?;
                if !meta.is_file() || meta.len() <= u64::from(*at) || *len == 0 {
                    return Ok(vec![]);
                }
                let map = raw::Mapping::new(&file, meta.len() as usize, true)?;
                drop(file);
                let len = u64::from(*len).min(meta.len() - u64::from(*at)) as usize;
                map.write(*at as usize, &pattern::bytes(u64::from(*seed), len));
                map.sync().map(nothing)
            }
            Op::Fsync { path, data_only } => {
                let file = open(&at_path(path), Mode::Read)?;
                if *data_only { file.sync_data() } else { file.sync_all() }.map(nothing)
            }
            Op::CopyRange { from, at, to, to_at, len } => {
                let from = open(&at_path(from), Mode::Read)?;
                let to = open(&at_path(to), Mode::ReadWrite)?;
                // A short copy is allowed anywhere: only its first call is compared, by effect.
                let copied = raw::copy_range(&from, *at, &to, *to_at, *len as usize)?;
                Ok((copied as u64).to_le_bytes().to_vec())
            }
            Op::Open { slot, path, mode } => {
                self.handles[usize::from(*slot)] = Some(open(&at_path(path), *mode)?);
                Ok(vec![])
            }
            Op::HandleRead { slot, at, len } => self.with(*slot, |file| read_at(file, *at, *len)),
            Op::HandleWrite { slot, at, len, seed } => {
                self.with(*slot, |file| write_at(file, *seed, *len, *at))
            }
            Op::HandleTruncate { slot, len } => {
                self.with(*slot, |file| file.set_len(*len).map(|()| vec![]))
            }
            Op::HandleSync { slot } => self.with(*slot, |file| file.sync_all().map(|()| vec![])),
            Op::HandleSetMtime { slot, ns } => {
                self.with(*slot, |file| raw::set_mtime(At::Open(file), *ns).map(nothing))
            }
            Op::HandleMap { slot } => self.with(*slot, |file| {
                let regular = file.metadata()?.is_file();
                let map = if regular { raw::data_map(file)? } else { vec![] };
                Ok(map
                    .iter()
                    .flat_map(|(from, to)| [*from, *to])
                    .flat_map(u64::to_le_bytes)
                    .collect())
            }),
            Op::Flock { slot, lock } => self.with(*slot, |file| {
                let operation = match lock {
                    Lock::Shared => libc::LOCK_SH,
                    Lock::Exclusive => libc::LOCK_EX,
                    Lock::Free => libc::LOCK_UN,
                };
                raw::flock(file, operation).map(nothing)
            }),
            Op::LockRange { slot, lock, at, len } => self.with(*slot, |file| {
                let kind = match lock {
                    Lock::Shared => libc::F_RDLCK,
                    Lock::Exclusive => libc::F_WRLCK,
                    Lock::Free => libc::F_UNLCK,
                };
                raw::lock_range(file, kind, *at, *len).map(nothing)
            }),
            Op::Close { slot } => {
                let seen = self.with(*slot, |file| read_at(file, 0, READ_ALL));
                self.close(*slot);
                seen
            }
            Op::List { path } => {
                let mut listed: Vec<String> = Vec::new();
                for entry in std::fs::read_dir(at_path(path))? {
                    let entry = entry?;
                    listed.push(format!("{:?} {:?}", entry.file_name(), entry.file_type()?));
                }
                listed.sort();
                Ok(listed.join("\n").into_bytes())
            }
            Op::Tier { .. }
            | Op::TierAll { .. }
            | Op::CancelAll { .. }
            | Op::Pin { .. }
            | Op::Remount
            | Op::CompareAll { .. } => unreachable!("not an application's operation"),
        }
    }

    /// Does something by a kept handle; its size afterwards is part of what was seen.
    fn with(
        &self,
        slot: u8,
        act: impl FnOnce(&File) -> io::Result<Vec<u8>>,
    ) -> io::Result<Vec<u8>> {
        let Some(file) = &self.handles[usize::from(slot)] else { return Ok(vec![]) };
        let mut seen = act(file)?;
        let meta = file.metadata()?;
        if meta.is_file() {
            seen.extend_from_slice(&meta.len().to_le_bytes());
            seen.extend_from_slice(&meta.nlink().to_le_bytes());
        }
        Ok(seen)
    }
}

fn open(path: &Path, mode: Mode) -> io::Result<File> {
    // A FIFO without a peer would wait for ever.
    let flags = libc::O_NONBLOCK
        | match mode {
            Mode::Read => libc::O_RDONLY,
            Mode::Write => libc::O_WRONLY,
            Mode::ReadWrite => libc::O_RDWR,
            Mode::Append => libc::O_WRONLY | libc::O_APPEND,
            Mode::Truncate => libc::O_RDWR | libc::O_TRUNC,
            Mode::Dsync => libc::O_RDWR | libc::O_DSYNC,
        };
    raw::open(path, flags, 0)
}

fn read_at(file: &File, at: u64, len: u32) -> io::Result<Vec<u8>> {
    let mut out = vec![0; len as usize];
    let mut have = 0;
    while have < out.len() {
        match file.read_at(&mut out[have..], at + have as u64)? {
            0 => break,
            len => have += len,
        }
    }
    out.truncate(have);
    Ok(out)
}

fn write_at(file: &File, seed: u32, len: u32, at: u64) -> io::Result<Vec<u8>> {
    let bytes = pattern::bytes(u64::from(seed), len as usize);
    let mut have = 0;
    while have < bytes.len() {
        have += file.write_at(&bytes[have..], at + have as u64)?;
    }
    Ok((have as u64).to_le_bytes().to_vec())
}

fn xattr(name: u8) -> Vec<u8> {
    ["user.colour", "user.shape", "trusted.origin", "user.cold"][usize::from(name)].into()
}

/// A plain mode; a user's and a group's entries under a mask; and one without the mask it needs.
fn acl_of(entries: u8) -> Vec<u8> {
    const USER_OBJ: u16 = 1;
    const USER: u16 = 2;
    const GROUP_OBJ: u16 = 4;
    const GROUP: u16 = 8;
    const MASK: u16 = 16;
    const OTHER: u16 = 32;
    let none = u32::MAX;
    let entries: &[(u16, u16, u32)] = match entries {
        0 => &[(USER_OBJ, 6, none), (GROUP_OBJ, 4, none), (OTHER, 4, none)],
        1 => &[
            (USER_OBJ, 7, none),
            (USER, 5, 1_000),
            (GROUP_OBJ, 5, none),
            (MASK, 5, none),
            (OTHER, 0, none),
        ],
        2 => &[
            (USER_OBJ, 6, none),
            (GROUP_OBJ, 4, none),
            (GROUP, 6, 65_000),
            (MASK, 6, none),
            (OTHER, 4, none),
        ],
        _ => &[(USER_OBJ, 6, none), (USER, 4, 1_000), (GROUP_OBJ, 4, none), (OTHER, 4, none)],
    };
    const VERSION: u32 = 2;
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}
