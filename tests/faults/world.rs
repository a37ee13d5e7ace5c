//! One tenant over a store that fails as told, without a mount: the daemon's parts put
//! together, and an application that calls what the kernel would call.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use coldfs::catalog::Keeper;
use coldfs::failpoint::QUIET_MS;
use coldfs::file_id::Ino;
use coldfs::fsck::{self, Finding, Fsck, Keep, KeepError, Mode};
use coldfs::guard::{Guard, Rules};
use coldfs::inode::{Backing, Inodes, Serving};
use coldfs::intents::{Intent, Subject};
use coldfs::migrate::{Candidate, Migrator, Outcome, Skip};
use coldfs::ops::{Answer, Caller, Errno, FUSE_ROOT, Name, Ops, RegisterBacking, SetAttr};
use coldfs::recall::{Chunks, Memory, Options, Recall, RecallError};
use coldfs::record::Record;
use coldfs::store::faulty::FaultyStore;
use coldfs::store::memory::MemoryStore;
use coldfs::store::{ObjectKey, ObjectStore, fuse_thread};
use coldfs::tenant::{Home, Tenant, Unknown};
use coldfs::tier::State;
use coldfs::{prestage, recover, walk};
use tokio_util::sync::CancellationToken;

/// How long a cold read waits for a byte here.
pub const DEADLINE: Duration = Duration::from_millis(1_200);
/// Recalled inside `open`.
pub const SMALL_BYTES: usize = 20_000;
/// Served by chunks: four of them.
pub const RANGE_BYTES: usize = (3 << 20) + 5_000;
/// Uploaded in parts: more than a segment of small files, most of it a hole.
pub const LARGE_BYTES: u64 = (64 << 20) + 1_000_000;
/// Of a large file, written at its end.
const LARGE_TAIL_BYTES: usize = 11 << 20;

/// Bytes that a name determines.
pub fn content(name: &str) -> Vec<u8> {
    let seed = blake3::hash(name.trim_start_matches("twin-").as_bytes());
    let of = |salt: &str, len: usize| {
        let mut out = vec![0; len];
        let mut hasher = blake3::Hasher::new_keyed(seed.as_bytes());
        hasher.update(salt.as_bytes());
        // A twin has the size of its sibling, and other bytes.
        hasher.update(if name.starts_with("twin-") { b"twin" } else { b"self" });
        hasher.finalize_xof().fill(&mut out);
        out
    };
    match name.trim_start_matches("twin-") {
        "range" => of("", RANGE_BYTES),
        "large" => {
            let size = usize::try_from(LARGE_BYTES).unwrap();
            let mut bytes = vec![0; size];
            bytes[size - LARGE_TAIL_BYTES..].copy_from_slice(&of("", LARGE_TAIL_BYTES));
            bytes
        }
        _ => of("", SMALL_BYTES),
    }
}

/// How long a file has to be left alone before it is archived.
const QUIET: Duration = Duration::from_millis(20);

/// Refuses passthrough: there is no kernel here.
struct NoDoor;

impl RegisterBacking for NoDoor {
    fn register(&self, _: &File) -> io::Result<Backing> {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }
}

/// One run of the daemon.
pub struct Life {
    pub tenant: Arc<Tenant>,
    pub inodes: Arc<Inodes>,
    pub recall: Arc<Recall>,
    pub migrator: Arc<Migrator>,
    ops: Arc<Ops>,
}

pub struct World {
    dir: tempfile::TempDir,
    pub memory: MemoryStore,
    pub store: FaultyStore,
    /// The segment of other files of the same names' lengths and sizes.
    pub twin: Option<ObjectKey>,
    /// What the guard of the next life goes by.
    pub rules: Rules,
    life: Option<Life>,
}

/// Waits for what happens in the background.
pub async fn until(what: &str, mut met: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if met() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

/// Runs a test as the daemon runs.
pub fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        // A lease that somebody breaks sends SIGIO, which kills by default.
        let _leases = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::io()).unwrap();
        test.await;
    });
}

/// Runs what a FUSE thread would run, on a thread that may not wait for a store.
fn on_fuse_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            fuse_thread::enter();
            work()
        });
        thread.join().expect("a FUSE thread panicked: I8?")
    })
}

async fn answered<T: Send + 'static>(answer: Answer<T>) -> Result<T, Errno> {
    match answer {
        Answer::Now(result) => result,
        Answer::Later(later) => tokio::spawn(later).await.expect("an answer panicked"),
    }
}

fn caller() -> Caller {
    let uid = nix::unistd::geteuid().as_raw();
    Caller { uid, gid: nix::unistd::getegid().as_raw(), pid: 0, umask: 0o022 }
}

fn name(text: &str) -> Name {
    Name::new(text.as_ref()).map_err(|errno| errno.0).unwrap()
}

impl World {
    /// An empty tenant with these files in its directory.
    pub async fn new(files: &[&str]) -> Self {
        static SET: Once = Once::new();
        SET.call_once(|| {
            #[allow(unsafe_code, reason = "read through the standard library only, which locks")]
            // SAFETY: no other code of this process reads the environment by other means.
            unsafe {
                std::env::set_var(QUIET_MS, QUIET.as_millis().to_string());
            }
        });
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let memory = MemoryStore::new();
        let store = FaultyStore::new(Arc::new(memory.clone()));
        std::fs::create_dir(dir.path().join("data")).unwrap();
        let mut world =
            Self { dir, memory, store, twin: None, rules: Rules::default(), life: None };
        for file in files {
            world.write(file);
        }
        world.start().await;
        // All are left alone for long enough, and a tick of the clock of times more: otherwise some
        // would be packed later than others, into a segment of their own.
        tokio::time::sleep(QUIET + Duration::from_millis(10)).await;
        world
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join("data").join(file)
    }

    /// Where a catalog of this world is kept.
    pub fn catalog(&self) -> PathBuf {
        self.dir.path().join("catalog")
    }

    pub fn is_stub(&self, file: &str) -> bool {
        std::fs::metadata(self.path(file)).unwrap().len() == 4_096
    }

    pub fn write(&self, file: &str) {
        let bytes = content(file);
        let hole = bytes.iter().position(|byte| *byte != 0).unwrap_or(0) & !4095;
        let on_disk = File::create(self.path(file)).unwrap();
        on_disk.write_all_at(&bytes[hole..], hole as u64).unwrap();
    }

    pub fn life(&self) -> &Life {
        self.life.as_ref().unwrap()
    }

    /// What a daemon does before it serves; the store may be failing.
    pub async fn start(&mut self) {
        let data = self.path("");
        let home = Home::open(&data, None, "t").unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(self.store.clone());
        let tenant = Arc::new(Tenant::new(home, store).unwrap());
        let runtime = tokio::runtime::Handle::current();
        let by_handle = coldfs::sys::has_capability(coldfs::sys::CAP_DAC_READ_SEARCH);
        let inodes = Arc::new(Inodes::new(tenant.clone_root().unwrap(), by_handle));
        recover::recover(&tenant, &inodes).await.expect("a start does not need the store");
        let chunks = Arc::new(Chunks::new(
            Arc::clone(&tenant.store),
            &Arc::new(Memory::new(8 << 20)),
            runtime.clone(),
        ));
        let options = Options {
            deadline: DEADLINE,
            whole_in_open_bytes: 64 << 10,
            whole_streaming_bytes: 1 << 20,
        };
        let (of, on) = (Arc::clone(&tenant), Arc::clone(&inodes));
        let recall = Arc::new(Recall::new(of, on, chunks, options, runtime));
        let migrator = Arc::new(Migrator::new(Arc::clone(&tenant), Arc::clone(&inodes)));
        let guard = Arc::new(Guard::new(Arc::clone(&tenant), self.rules.clone(), DEADLINE));
        let keeper = Arc::new(Keeper::without(Arc::clone(&tenant), "not in question".into()));
        let (of, on, by) = (Arc::clone(&tenant), Arc::clone(&inodes), Arc::clone(&recall));
        let ops = Ops::new(of, on, by, guard, keeper);
        let ops = Arc::new(ops.map_err(|errno| errno.0).unwrap());
        self.life = Some(Life { tenant, inodes, recall, migrator, ops });
    }

    /// Ends the daemon, as a detach does.
    pub async fn stop(&mut self) {
        if let Some(life) = self.life.take() {
            life.recall.stop().await;
        }
    }

    /// A daemon that knows nothing of what the last one had in memory.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    /// The segments in the store.
    pub fn segments(&self) -> Vec<ObjectKey> {
        let keys = self.memory.keys();
        keys.into_iter().filter(|key| key.as_str().contains("/seg/")).collect()
    }

    /// Whether the raw file is what it was, or a stub: never anything plausible (P6).
    pub fn is_whole_or_stub(&self, file: &str, whole: &[u8]) -> bool {
        let body = std::fs::read(self.path(file)).unwrap();
        body == whole || (body.len() == 4096 && body.starts_with(b"#!/bin/false coldfs stub 1\n"))
    }
}

impl Life {
    pub async fn claim(&self) -> Result<(), String> {
        // The home is the tenant's; the same check is made of another one beside it.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let home = Home::open(dir.path(), None, "t-beside").unwrap();
        let claimed = home.claim(&*self.tenant.store, Unknown::Refuse).await;
        claimed.map(drop).map_err(|error| error.to_string())
    }

    pub fn candidate(&self, file: &str) -> Candidate {
        let found = walk::find(&self.tenant, file.as_bytes()).unwrap();
        self.migrator.candidate(found.path, found.fd, &found.stat).unwrap()
    }

    /// Begins to end, as a daemon that is detached while somebody still asks.
    pub async fn end(&self) {
        self.recall.stop().await;
    }

    /// Whether the daemon keeps a descriptor of the file.
    pub fn is_open(&self, file: &str) -> bool {
        !matches!(self.candidate(file).inode.serving(), Serving::Closed)
    }

    /// The inodes of which the kernel is told from now on.
    pub fn told(&self) -> Arc<Mutex<Vec<Ino>>> {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        self.inodes.on_change(move |ino| tell.lock().unwrap().push(ino));
        told
    }

    /// Files and directories that the daemon keeps in mind.
    pub fn inodes_in_use(&self) -> usize {
        self.inodes.len()
    }

    fn candidates(&self, files: &[&str]) -> Vec<Candidate> {
        files.iter().map(|file| self.candidate(file)).collect()
    }

    pub async fn archive(&self, files: &[&str], cancel: &CancellationToken) -> Vec<Outcome> {
        let outcomes = self.migrator.archive(self.candidates(files), cancel).await;
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    pub async fn release(&self, files: &[&str], cancel: &CancellationToken) -> Vec<Outcome> {
        let outcomes = self.migrator.release(self.candidates(files), cancel).await;
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    /// Releases a file that was just recalled: the recall has answered, and may not have closed it
    /// yet.
    pub async fn release_once_closed(&self, file: &str) {
        for _ in 0..2_000 {
            match &self.release(&[file], &CancellationToken::new()).await[..] {
                [Outcome::Done(_)] => return,
                [Outcome::Skipped(Skip::Open)] => tokio::time::sleep(QUIET / 4).await,
                other => panic!("{file}: {other:?}"),
            }
        }
        panic!("{file} is never closed");
    }

    pub async fn recall(&self, file: &str) -> Result<(), RecallError> {
        let inode = self.candidate(file).inode;
        prestage::recall_file(&self.tenant, &self.inodes, &self.recall, &inode).await.map(drop)
    }

    /// Makes a plain file of one that came home, as a drain does.
    pub async fn forget_copy(&self, file: &str) -> Result<(), RecallError> {
        let inode = self.candidate(file).inode;
        let plain = loop {
            match prestage::forget_copy(&self.tenant, &self.inodes, &inode).await {
                // The recall has answered; it may not have closed the file yet.
                Err(RecallError::Busy) => tokio::time::sleep(QUIET / 4).await,
                other => break other?.expect("it had a copy"),
            }
        };
        assert!(!self.tenant.has_record(&plain)?, "{file} is no plain file");
        Ok(self.tenant.barrier(plain)?)
    }

    pub async fn keep(&self, file: &str, choice: Keep) -> Result<String, KeepError> {
        let inode = self.candidate(file).inode;
        fsck::keep(&self.tenant, &self.inodes, &inode, choice, DEADLINE).await
    }

    /// Cancels the recall of a file; false: none is under way.
    pub fn cancel(&self, file: &str) -> bool {
        match self.candidate(file).inode.serving() {
            Serving::Cold(cold) if !cold.is_idle() => cold.cancel(),
            _ => false,
        }
    }

    pub async fn fsck(&self, file: &str, mode: Mode) -> io::Result<Option<Finding>> {
        let inode = self.candidate(file).inode;
        Fsck::new(&self.tenant, &self.inodes, mode).patience(DEADLINE).check(&inode).await
    }

    /// Changes a file's record behind everybody's back.
    pub fn set_state(&self, file: &str, state: State) {
        let inode = self.candidate(file).inode;
        let fd = self.inodes.path_fd(&inode).unwrap();
        let record = self.tenant.record(&fd, &inode).unwrap().unwrap();
        self.tenant.set_record(&fd, &inode, &Record { state, ..record }).unwrap();
    }

    /// Leaves a file on the work list, as a daemon that dies does.
    pub fn leave_behind(&self, file: &str) {
        let handle = self.candidate(file).inode.handle.clone();
        let subject = Subject { handle, path: file.as_bytes().to_vec() };
        self.tenant.work.begin(&[Intent::Recall(subject)]).unwrap().leave();
    }

    fn find(&self, file: &str) -> Result<Ino, i32> {
        let entry = on_fuse_thread(|| self.ops.lookup(FUSE_ROOT, &name(file)));
        let entry = entry.map_err(|errno| errno.0)?.ok_or(libc::ENOENT)?;
        Ok(Ino(entry.attr.stat.st_ino))
    }

    async fn with_open<T>(
        &self,
        file: &str,
        flags: i32,
        work: impl AsyncFnOnce(coldfs::ops::Fh) -> Result<T, Errno>,
    ) -> Result<T, i32> {
        let ino = self.find(file)?;
        let answer = on_fuse_thread(|| self.ops.open(caller(), ino, flags, Arc::new(NoDoor)));
        let done = match answered(answer).await {
            Err(error) => Err(error.0),
            Ok(opened) => {
                let (fh, _how) = opened.hand_over();
                let done = work(fh).await.map_err(|errno| errno.0);
                on_fuse_thread(|| self.ops.release(fh));
                done
            }
        };
        on_fuse_thread(|| self.ops.forget(ino, 1));
        done
    }

    /// Reads a part of a file as an application does.
    pub async fn read(&self, file: &str, offset: u64, length: usize) -> Result<Vec<u8>, i32> {
        let parts = async |fh| {
            let mut bytes = Vec::new();
            while bytes.len() < length {
                let at = offset + bytes.len() as u64;
                let size = u32::try_from((length - bytes.len()).min(128 << 10)).unwrap();
                let part = answered(on_fuse_thread(|| self.ops.read(fh, at, size))).await?;
                if part.is_empty() {
                    break;
                }
                bytes.extend_from_slice(&part);
            }
            Ok(bytes)
        };
        self.with_open(file, libc::O_RDONLY, parts).await
    }

    /// Reads a file to its end.
    pub async fn read_all(&self, file: &str) -> Result<Vec<u8>, i32> {
        self.read(file, 0, usize::MAX >> 1).await
    }

    pub async fn overwrite(&self, file: &str, offset: u64, bytes: &[u8]) -> Result<(), i32> {
        let write = async |fh| {
            let written =
                answered(on_fuse_thread(|| self.ops.write(caller(), fh, offset, bytes))).await?;
            assert_eq!(written as usize, bytes.len());
            answered(on_fuse_thread(|| self.ops.fsync(fh, false))).await
        };
        self.with_open(file, libc::O_RDWR, write).await
    }

    /// Replaces a file's content while somebody has it open for reading, and a recall of what
    /// was there was asked for just before.
    pub async fn replace_under_a_recall(&self, file: &str, new: &[u8]) -> Result<(), i32> {
        let replace = async |_reader| {
            let inode = self.candidate(file).inode;
            let Serving::Cold(cold) = inode.serving() else { panic!("{file} is not served cold") };
            let recalled = self.recall.whole(&inode, &cold);
            self.truncate(file, 0).await.map_err(Errno)?;
            self.overwrite(file, 0, new).await.map_err(Errno)?;
            Ok(recalled.await?)
        };
        self.with_open(file, libc::O_RDONLY, replace).await
    }

    /// Reads the beginning of a file, and after something has happened, all of it.
    pub async fn read_around(&self, file: &str, happens: impl FnOnce()) -> Result<(), i32> {
        let read = async |fh| {
            answered(on_fuse_thread(|| self.ops.read(fh, 0, 4_096))).await?;
            happens();
            let mut at = 0;
            loop {
                let part = answered(on_fuse_thread(|| self.ops.read(fh, at, 128 << 10))).await?;
                if part.is_empty() {
                    return Ok(());
                }
                at += part.len() as u64;
            }
        };
        self.with_open(file, libc::O_RDONLY, read).await
    }

    pub async fn chmod(&self, file: &str, mode: u32) -> Result<(), i32> {
        self.setattr(file, SetAttr { mode: Some(mode), ..SetAttr::default() }).await
    }

    /// Changes attributes of a file that is open for writing meanwhile.
    pub async fn setattr_while_written(&self, file: &str, change: SetAttr) -> Result<(), i32> {
        let ino = self.find(file)?;
        let set = async |_fh| {
            answered(on_fuse_thread(|| self.ops.setattr(caller(), ino, change))).await.map(drop)
        };
        let done = self.with_open(file, libc::O_RDWR, set).await;
        on_fuse_thread(|| self.ops.forget(ino, 1));
        done
    }

    pub async fn truncate(&self, file: &str, size: u64) -> Result<(), i32> {
        self.setattr(file, SetAttr { size: Some(size), ..SetAttr::default() }).await
    }

    async fn setattr(&self, file: &str, change: SetAttr) -> Result<(), i32> {
        let ino = self.find(file)?;
        let done = answered(on_fuse_thread(|| self.ops.setattr(caller(), ino, change))).await;
        on_fuse_thread(|| self.ops.forget(ino, 1));
        done.map(drop).map_err(|errno| errno.0)
    }
}
