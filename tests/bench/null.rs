//! The floor: a FUSE filesystem in memory that keeps no byte, and asks the disk only for what is read the first time. What it takes, any
//! daemon takes that reads requests from `/dev/fuse`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

use super::bare::serve;

/// Nothing changes behind the kernel's back.
const TTL: Duration = Duration::from_secs(3600);
const ROOT: usize = 1;

/// Serves names like those of `below` until the session is dropped.
pub fn mount(below: &Path, mountpoint: &Path) -> io::Result<BackgroundSession> {
    let mut tree = Tree { nodes: vec![Node::new(FileType::Directory); ROOT + 1] };
    tree.learn(ROOT, below)?;
    serve("null", Null(Mutex::new(tree)), mountpoint)
}

struct Null(Mutex<Tree>);

struct Tree {
    /// By inode number.
    nodes: Vec<Node>,
}

#[derive(Clone)]
struct Node {
    kind: FileType,
    size: u64,
    entries: BTreeMap<OsString, usize>,
    /// Where its bytes are; those of others are zeros.
    bytes: Option<PathBuf>,
}

impl Node {
    fn new(kind: FileType) -> Self {
        Self { kind, size: 0, entries: BTreeMap::new(), bytes: None }
    }
}

impl Tree {
    fn learn(&mut self, ino: usize, below: &Path) -> io::Result<()> {
        for entry in fs::read_dir(below)? {
            let entry = entry?;
            let found = entry.metadata()?;
            if found.is_dir() {
                let child = self.add(ino, &entry.file_name(), FileType::Directory);
                self.learn(child, &entry.path())?;
            } else if found.is_file() {
                let child = self.add(ino, &entry.file_name(), FileType::RegularFile);
                self.nodes[child].size = found.len();
                self.nodes[child].bytes = Some(entry.path());
            }
        }
        Ok(())
    }

    fn add(&mut self, parent: usize, name: &OsStr, kind: FileType) -> usize {
        let ino = self.nodes.len();
        self.nodes.push(Node::new(kind));
        self.nodes[parent].entries.insert(name.to_owned(), ino);
        ino
    }

    fn attr(&self, ino: usize) -> FileAttr {
        let Node { kind, size, .. } = self.nodes[ino];
        let time = SystemTime::UNIX_EPOCH;
        FileAttr {
            ino: INodeNo(ino as u64),
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

fn at(ino: INodeNo) -> usize {
    usize::try_from(ino.0).unwrap()
}

impl Null {
    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.0.lock().unwrap()
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.tree().nodes[at(parent)].entries.remove(name) {
            Some(_) => reply.ok(),
            None => reply.error(Errno::ENOENT),
        }
    }
}

impl Filesystem for Null {
    fn init(&mut self, _: &Request, _: &mut KernelConfig) -> io::Result<()> {
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let tree = self.tree();
        match tree.nodes[at(parent)].entries.get(name) {
            Some(ino) => reply.entry(&TTL, &tree.attr(*ino), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.tree().attr(at(ino)));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut tree = self.tree();
        if let Some(size) = size {
            tree.nodes[at(ino)].size = size;
        }
        reply.attr(&TTL, &tree.attr(at(ino)));
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let mut tree = self.tree();
        let ino = tree.add(at(parent), name, FileType::Directory);
        reply.entry(&TTL, &tree.attr(ino), Generation(0));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
        reply.opened(FileHandle(ino.0), flags);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let mut tree = self.tree();
        let ino = tree.add(at(parent), name, FileType::RegularFile);
        let (handle, flags) = (FileHandle(ino as u64), FopenFlags::FOPEN_NOFLUSH);
        reply.created(&TTL, &tree.attr(ino), Generation(0), handle, flags);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        use std::os::unix::fs::FileExt;
        let Node { size: end, bytes, .. } = self.tree().nodes[at(ino)].clone();
        let wanted = u64::from(size).min(end.saturating_sub(offset));
        let mut buffer = vec![0; usize::try_from(wanted).unwrap()];
        let read =
            bytes.map_or(Ok(()), |path| fs::File::open(path)?.read_exact_at(&mut buffer, offset));
        match read {
            Ok(()) => reply.data(&buffer),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let node = &mut self.tree().nodes[at(ino)];
        node.size = node.size.max(offset + data.len() as u64);
        reply.written(u32::try_from(data.len()).unwrap());
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    /// ENOSYS would keep the kernel from asking: no filesystem with attributes can have that.
    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENODATA);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.size(0);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let tree = self.tree();
        let entries = tree.nodes[at(ino)].entries.iter().enumerate();
        for (number, (name, child)) in entries.skip(usize::try_from(offset).unwrap()) {
            let kind = tree.nodes[*child].kind;
            if reply.add(INodeNo(*child as u64), number as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
