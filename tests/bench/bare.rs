//! The least that fuser can do: a passthrough filesystem over a directory, by path, with
//! one-second names and attributes. What a mount costs beyond it is coldfs's own doing.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BackingId, BsdFileFlags, Config, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, Request,
    Session, TimeOrNow,
};

const TTL: Duration = Duration::from_secs(1);
const ROOT: u64 = 1;

/// Mounts `below` at `mountpoint` until the session is dropped.
pub fn mount(below: &Path, mountpoint: &Path) -> io::Result<BackgroundSession> {
    let paths = HashMap::from([(ROOT, below.to_owned())]);
    let bare =
        Bare { paths: Mutex::new(paths), open: Mutex::default(), listings: Mutex::default() };
    serve("bare", bare, mountpoint)
}

/// Mounts a filesystem as coldfs does: with two threads.
pub fn serve(
    name: &str,
    filesystem: impl Filesystem,
    mountpoint: &Path,
) -> io::Result<BackgroundSession> {
    let mut config = Config::default();
    config.mount_options =
        vec![fuser::MountOption::FSName(name.into()), fuser::MountOption::DefaultPermissions];
    config.n_threads = Some(2);
    config.clone_fd = true;
    Session::new(filesystem, mountpoint, &config)?.spawn()
}

struct Bare {
    paths: Mutex<HashMap<u64, PathBuf>>,
    open: Mutex<HashMap<u64, (File, BackingId)>>,
    listings: Mutex<(u64, HashMap<u64, Vec<Listed>>)>,
}

type Listed = (INodeNo, FileType, OsString);

impl Bare {
    fn path(&self, ino: INodeNo) -> PathBuf {
        self.paths.lock().unwrap().get(&ino.0).cloned().unwrap_or_default()
    }

    fn entry(&self, path: PathBuf) -> io::Result<FileAttr> {
        let attr = attr(&fs::symlink_metadata(&path)?);
        self.paths.lock().unwrap().insert(attr.ino.0, path);
        Ok(attr)
    }

    fn reply_entry(&self, made: io::Result<PathBuf>, reply: ReplyEntry) {
        match made.and_then(|path| self.entry(path)) {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(error) => reply.error(error.into()),
        }
    }

    /// Before the reply: RELEASE may come before the reply's call returns.
    fn keep(&self, file: File, backing: BackingId) -> FileHandle {
        let handle = u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&file)).unwrap();
        self.open.lock().unwrap().insert(handle, (file, backing));
        FileHandle(handle)
    }
}

fn done(result: io::Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error.into()),
    }
}

fn attr(found: &fs::Metadata) -> FileAttr {
    let time = |seconds: i64, nanoseconds: i64| {
        SystemTime::UNIX_EPOCH
            + Duration::new(seconds.try_into().unwrap_or(0), nanoseconds.try_into().unwrap_or(0))
    };
    FileAttr {
        ino: INodeNo(found.ino()),
        size: found.size(),
        blocks: found.blocks(),
        atime: time(found.atime(), found.atime_nsec()),
        mtime: time(found.mtime(), found.mtime_nsec()),
        ctime: time(found.ctime(), found.ctime_nsec()),
        crtime: SystemTime::UNIX_EPOCH,
        kind: kind(found.file_type()),
        perm: u16::try_from(found.mode() & 0o7777).unwrap(),
        nlink: u32::try_from(found.nlink()).unwrap(),
        uid: found.uid(),
        gid: found.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn kind(found: fs::FileType) -> FileType {
    match found {
        kind if kind.is_dir() => FileType::Directory,
        kind if kind.is_symlink() => FileType::Symlink,
        kind if kind.is_fifo() => FileType::NamedPipe,
        _ => FileType::RegularFile,
    }
}

impl Filesystem for Bare {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in [
            InitFlags::FUSE_PASSTHROUGH,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_PARALLEL_DIROPS,
        ] {
            config.add_capabilities(flag).map_err(|_missing| io::ErrorKind::Unsupported)?;
        }
        config.set_max_stack_depth(1).map_err(|_missing| io::ErrorKind::Unsupported)?;
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.reply_entry(Ok(self.path(parent).join(name)), reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match fs::symlink_metadata(self.path(ino)) {
            Ok(found) if ino.0 == ROOT => reply.attr(&TTL, &FileAttr { ino, ..attr(&found) }),
            Ok(found) => reply.attr(&TTL, &attr(&found)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let path = self.path(ino);
        let at = |time| match time {
            TimeOrNow::Now => SystemTime::now(),
            TimeOrNow::SpecificTime(time) => time,
        };
        let changed = (|| {
            if let Some(mode) = mode {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            }
            if let Some(size) = size {
                OpenOptions::new().write(true).open(&path)?.set_len(size)?;
            }
            if atime.is_some() || mtime.is_some() {
                let mut times = fs::FileTimes::new();
                times = atime.map_or(times, |time| times.set_accessed(at(time)));
                times = mtime.map_or(times, |time| times.set_modified(at(time)));
                File::open(&path)?.set_times(times)?;
            }
            Ok::<_, io::Error>(())
        })();
        match changed {
            Ok(()) => self.getattr(request, ino, None, reply),
            Err(error) => reply.error(error.into()),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match fs::read_link(self.path(ino)) {
            Ok(target) => reply.data(target.as_os_str().as_encoded_bytes()),
            Err(error) => reply.error(error.into()),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let path = self.path(parent).join(name);
        self.reply_entry(fs::DirBuilder::new().mode(mode).create(&path).map(|()| path), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(fs::remove_file(self.path(parent).join(name)), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(fs::remove_dir(self.path(parent).join(name)), reply);
    }

    fn symlink(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let path = self.path(parent).join(name);
        self.reply_entry(std::os::unix::fs::symlink(target, &path).map(|()| path), reply);
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let path = self.path(parent).join(name);
        self.reply_entry(fs::hard_link(self.path(ino), &path).map(|()| path), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let to = self.path(new_parent).join(new_name);
        let renamed = fs::rename(self.path(parent).join(name), &to);
        done(renamed.and_then(|()| self.entry(to).map(drop)), reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let truncate = flags.0 & libc::O_TRUNC != 0;
        let mut options = OpenOptions::new();
        options.read(true).write(true).truncate(truncate);
        let opened = options.open(self.path(ino)).and_then(|file| {
            let backing = reply.open_backing(file.as_fd())?;
            Ok((file, backing))
        });
        match opened {
            Ok((file, backing)) => {
                let handle = self.keep(file, backing);
                let open = self.open.lock().unwrap();
                reply.opened_passthrough(handle, FopenFlags::empty(), &open[&handle.0].1);
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let path = self.path(parent).join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(mode);
        let created = options.open(&path).and_then(|file| {
            let backing = reply.open_backing(file.as_fd())?;
            Ok((file, backing, self.entry(path)?))
        });
        match created {
            Ok((file, backing, attr)) => {
                let handle = self.keep(file, backing);
                let open = self.open.lock().unwrap();
                let backing = &open[&handle.0].1;
                let (generation, flags) = (Generation(0), FopenFlags::empty());
                reply.created_passthrough(&TTL, &attr, generation, handle, flags, backing);
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        done(self.open.lock().unwrap()[&fh.0].0.sync_all(), reply);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.open.lock().unwrap().remove(&fh.0);
        reply.ok();
    }

    /// Takes a listing's snapshot: entries are named by their place in it.
    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        use std::os::unix::fs::DirEntryExt;
        let entries = match fs::read_dir(self.path(ino)) {
            Ok(entries) => entries.filter_map(Result::ok),
            Err(error) => return reply.error(error.into()),
        };
        let listing = entries
            .map(|entry| {
                let kind = entry.file_type().map_or(FileType::RegularFile, kind);
                (INodeNo(entry.ino()), kind, entry.file_name())
            })
            .collect();
        let mut listings = self.listings.lock().unwrap();
        listings.0 += 1;
        let handle = listings.0;
        listings.1.insert(handle, listing);
        reply.opened(FileHandle(handle), FopenFlags::empty());
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.listings.lock().unwrap().1.remove(&fh.0);
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listings = self.listings.lock().unwrap();
        let skip = usize::try_from(offset).unwrap();
        for (number, (ino, kind, name)) in listings.1[&fh.0].iter().enumerate().skip(skip) {
            if reply.add(*ino, number as u64 + 1, *kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
