//! `.coldfs`: the daemon's private directory at the root of a tenant's directory.
//!
//! A tenant may own the data directory, so nothing in here is opened by following a link, and
//! a directory of another owner is refused. Its `lock` lets one daemon at a time serve.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};
use serde::{Deserialize, Serialize};

use super::private::{self, PrivateDir};
use super::standing::{Term, Terms};
use crate::file_id::TenantUuid;
use crate::record::{XATTR_NAME, XATTR_NAME_ROOTLESS};
use crate::seal::Seal;
use crate::sys;

/// How long the lock of a directory is waited for: a daemon whose mount was detached a moment ago
/// has it until it has ended.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
const LOCK_POLL: Duration = Duration::from_millis(20);
/// Name of the private directory.
pub const HOME_NAME: &str = ".coldfs";
pub(super) const LOCK: &str = "lock";
pub(super) const IDENTITY: &str = "tenant";
/// The URL of the store that was claimed last, a line.
pub(super) const STORE: &str = "store";
/// Of which ownerships the directory knows.
pub(super) const TERMS: &str = "terms";
/// Where the directory was when what is noted here was noted.
pub(super) const PLACE: &str = "place";
/// Version of the identity file.
const IDENTITY_FORMAT: u32 = 1;

/// Why a directory cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// It cannot be opened.
    #[error("open {}: {source}", path.display())]
    Open {
        /// The data directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another daemon has it.
    #[error(
        "{} is served by another coldfs (process {pid}); detach that mount first", path.display()
    )]
    Served {
        /// The data directory.
        path: PathBuf,
        /// Whose lock it is, as it says itself.
        pid: String,
    },
    /// The filesystem below cannot carry what tiering needs.
    #[error("{}: its filesystem has no {what}; use ext4, xfs, btrfs or tmpfs", path.display())]
    Unfit {
        /// The data directory.
        path: PathBuf,
        /// `file handles`, `extended attributes`.
        what: &'static str,
    },
    /// The private directory is not the daemon's own.
    #[error("{}/.coldfs belongs to user {owner}, not to this one; remove it", path.display())]
    NotOurs {
        /// The data directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// The identity file is damaged or newer.
    #[error("{}/.coldfs/tenant: {what}", path.display())]
    Identity {
        /// The data directory.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The directory belongs to a tenant of another name.
    #[error(
        "{} belongs to the tenant {found:?}, not {asked:?}; leave --tenant away, or give its name",
        path.display()
    )]
    OtherName {
        /// The data directory.
        path: PathBuf,
        /// The name in the directory.
        found: String,
        /// The name asked for.
        asked: String,
    },
}

/// Who a directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    format: u32,
    /// The tenant's name.
    pub name: String,
    uuid: String,
    key: String,
    /// A flipped digit of the key would make every record and stub a stranger's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    check: Option<String>,
    /// In the store only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    term: Option<Term>,
}

impl Identity {
    fn generate(name: &str) -> io::Result<Self> {
        let mut random = [0; 48];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let (uuid, key) = random.split_at(16);
        let identity = Self {
            format: IDENTITY_FORMAT,
            name: name.into(),
            uuid: hex(uuid),
            key: hex(key),
            check: None,
            term: None,
        };
        Ok(Self { check: Some(identity.checksum()), ..identity })
    }

    fn checksum(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("coldfs 2026 v1 tenant identity");
        for part in [&self.name, &self.uuid, &self.key] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hex(&hasher.finalize().as_bytes()[..16])
    }

    /// Reads an identity, from `.coldfs/tenant` or from the store; an error says what is wrong.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        if let Some(newer) = Self::newer(text) {
            return Err(newer);
        }
        let identity: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if identity.format != IDENTITY_FORMAT {
            return Err(format!("there is no format {}", identity.format));
        }
        if identity.parts().is_none() {
            return Err("uuid or key is not hexadecimal of the right length".into());
        }
        if identity.check.as_ref().is_some_and(|check| *check != identity.checksum()) {
            return Err("its checksum does not fit: it was changed".into());
        }
        Ok(identity)
    }

    /// What is newer about an identity that a later coldfs wrote.
    pub(super) fn newer(text: &[u8]) -> Option<String> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let Version { format } = serde_json::from_slice(text).ok()?;
        (format > IDENTITY_FORMAT).then(|| format!("format {format}, newer than this coldfs"))
    }

    /// Whether both name the same tenant with the same key.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.uuid == other.uuid && self.key == other.key
    }

    pub(super) fn uuid(&self) -> &str {
        &self.uuid
    }

    pub(super) fn term(&self) -> Option<&Term> {
        self.term.as_ref()
    }

    pub(super) fn with_term(&self, term: Term) -> Self {
        Self { term: Some(term), ..self.clone() }
    }

    fn parts(&self) -> Option<(TenantUuid, [u8; 32])> {
        Some((TenantUuid(unhex(&self.uuid)?), unhex(&self.key)?))
    }

    /// The tenant's key.
    pub fn seal(&self) -> Seal {
        let (uuid, key) = self.parts().unwrap_or((TenantUuid([0; 16]), [0; 32]));
        Seal::new(uuid, key)
    }
}

/// An open, locked home.
#[derive(Debug)]
pub struct Home {
    root: OwnedFd,
    dir: OwnedFd,
    identity: Identity,
    rootless: bool,
    read_only: bool,
    _lock: Flock<File>,
}

impl Home {
    /// Opens the home of a data directory, making it at first use. `name`: of the tenant;
    /// none: whatever the directory says, or `default_name` for a new one.
    pub fn open(path: &Path, name: Option<&str>, default_name: &str) -> Result<Self, HomeError> {
        let failed = |source: Errno| HomeError::Open { path: path.into(), source: source.into() };
        let root =
            open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(failed)?;
        check_handles(path, &root)?;
        let read_only = fstatvfs(&root).map_err(failed)?.flags().contains(FsFlags::ST_RDONLY);
        match mkdirat(&root, HOME_NAME, Mode::from_bits_truncate(0o700)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(failed(error)),
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = openat(&root, HOME_NAME, flags, Mode::empty()).map_err(failed)?;
        let stat = fstat(&dir).map_err(failed)?;
        if stat.st_uid != nix::unistd::geteuid().as_raw() {
            return Err(HomeError::NotOurs { path: path.into(), owner: stat.st_uid });
        }
        let lock = take_lock(path, &dir, read_only)?;
        let rootless = match read_only {
            false => check_xattrs(path, &lock)?,
            // Nothing can be tried: it is as this process would do it elsewhere.
            true => !sys::has_capability(sys::CAP_SYS_ADMIN),
        };
        let found = read_identity(path, &dir)?;
        let identity = match found {
            Some(identity) => identity,
            None => make_identity(&dir, name.unwrap_or(default_name))
                .map_err(|source| HomeError::Open { path: path.join(HOME_NAME), source })?,
        };
        if let Some(asked) = name
            && asked != identity.name
        {
            let (found, asked) = (identity.name, asked.to_owned());
            return Err(HomeError::OtherName { path: path.into(), found, asked });
        }
        Ok(Self { root, dir, identity, rootless, read_only, _lock: lock })
    }

    /// The data directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The URL of the store that was claimed last; none: no store ever was.
    pub(super) fn noted_store(&self) -> io::Result<Option<String>> {
        let text = match open_to_look(&self.dir, STORE) {
            Ok(file) => io::read_to_string(file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(text.trim_end_matches('\n').to_owned()))
    }

    /// Notes a store as the tenant's.
    pub(super) fn note_store(&self, url: &str) -> io::Result<()> {
        if self.read_only || self.noted_store()?.as_deref() == Some(url) {
            return Ok(());
        }
        replace(&self.dir, STORE, format!("{url}\n").as_bytes())
    }

    /// What is known of the stores' terms.
    pub(super) fn terms(&self) -> io::Result<Terms> {
        match open_to_look(&self.dir, TERMS) {
            Ok(file) => serde_json::from_str(&io::read_to_string(file)?).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Terms::default()),
            Err(error) => Err(error),
        }
    }

    /// Notes them.
    pub(super) fn note_terms(&self, terms: &Terms) -> io::Result<()> {
        replace(&self.dir, TERMS, serde_json::to_string_pretty(terms)?.as_bytes())
    }

    /// A small file of the daemon's; none: there is none.
    pub(super) fn small_note(&self, name: &str) -> Option<io::Result<String>> {
        match open_to_look(&self.dir, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            file => Some(file.and_then(io::read_to_string)),
        }
    }

    /// Writes one, durably.
    pub(super) fn note(&self, name: &str, text: &str) -> io::Result<()> {
        if self.read_only { Ok(()) } else { replace(&self.dir, name, text.as_bytes()) }
    }

    /// Removes one, durably.
    pub(super) fn forget_note(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => Ok(fsync(&self.dir)?),
            Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Where this directory is, in a word: another on another machine, another filesystem, and for
    /// another directory.
    pub(super) fn place(&self) -> io::Result<String> {
        let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        let handle = sys::handle::of(&self.dir, c"")?;
        let mut hasher = blake3::Hasher::new_derive_key("coldfs 2026 v1 place of a directory");
        hasher.update(machine.trim().as_bytes());
        hasher.update(&fstatvfs(&self.dir)?.filesystem_id().to_le_bytes());
        hasher.update(&handle.kind.to_le_bytes());
        hasher.update(&handle.bytes);
        Ok(hex(&hasher.finalize().as_bytes()[..8]))
    }

    /// Whether it is where its notes were made, and no copy: only then are file handles in them
    /// those of its own files. In a copy on the same filesystem they are the original's.
    pub(super) fn is_in_its_place(&self) -> bool {
        let noted = open_to_look(&self.dir, PLACE).and_then(io::read_to_string);
        match (noted, self.place()) {
            (Ok(noted), Ok(place)) => noted.trim_end_matches('\n') == place,
            _ => false,
        }
    }

    /// Notes that handles noted from now on are of files here.
    pub(super) fn note_place(&self) -> io::Result<()> {
        if self.read_only || self.is_in_its_place() {
            return Ok(());
        }
        replace(&self.dir, PLACE, format!("{}\n", self.place()?).as_bytes())
    }

    /// Whether the tenant's cold bytes are known to lie in this store.
    pub fn is_stored_in(&self, url: &str) -> bool {
        matches!(self.noted_store(), Ok(Some(known)) if known == url)
    }

    /// Whether records live in `user.coldfs`.
    pub fn is_rootless(&self) -> bool {
        self.rootless
    }

    /// Whether the filesystem was mounted read-only when it was opened.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub(super) fn xattr(&self) -> &'static CStr {
        xattr_name(self.rootless)
    }

    /// Opens one of the daemon's files for reading and writing, making it if need be.
    pub(super) fn open_file(&self, name: &str) -> io::Result<File> {
        if self.read_only {
            return open_to_look(&self.dir, name);
        }
        open_private(&self.dir, name, OFlag::O_RDWR)
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(&self.dir, from, &self.dir, to)?)
    }

    pub(super) fn open_for_append(&self, name: &str) -> io::Result<File> {
        open_private(&self.dir, name, OFlag::O_WRONLY | OFlag::O_APPEND)
    }

    /// Opens one of the daemon's files for reading; not found where there is none.
    pub(super) fn open_to_look(&self, name: &str) -> io::Result<File> {
        open_to_look(&self.dir, name)
    }

    /// Gives `each` the names in here.
    pub(super) fn names(&self, each: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        private::names_in(&self.dir, each)
    }

    /// Opens a directory in here for reading; none: there is none.
    pub(super) fn directory_to_look(&self, name: &str) -> io::Result<Option<PrivateDir>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(&self.dir, name, flags, Mode::empty()) {
            Ok(dir) => Ok(Some(PrivateDir::new(dir))),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a directory in here, making it if need be: durable once something in it is.
    pub(super) fn private_directory(&self, name: &str) -> io::Result<PrivateDir> {
        match mkdirat(&self.dir, name, Mode::from_bits_truncate(0o700)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        fsync(&self.dir)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(PrivateDir::new(openat(&self.dir, name, flags, Mode::empty())?))
    }
}

pub(super) fn xattr_name(rootless: bool) -> &'static CStr {
    // The formats' constants, as C strings.
    debug_assert_eq!(XATTR_NAME, "trusted.coldfs");
    debug_assert_eq!(XATTR_NAME_ROOTLESS, "user.coldfs");
    if rootless { c"user.coldfs" } else { c"trusted.coldfs" }
}

pub(super) fn open_private(dir: &OwnedFd, name: &str, flags: OFlag) -> io::Result<File> {
    let flags = flags | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(File::from(openat(dir, name, flags, Mode::from_bits_truncate(0o600))?))
}

/// The same where nothing can be made or written.
pub(super) fn open_to_look(dir: &OwnedFd, name: &str) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(File::from(openat(dir, name, flags, Mode::empty())?))
}

fn check_handles(path: &Path, root: &OwnedFd) -> Result<(), HomeError> {
    match sys::handle::of(root, c"") {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            Err(HomeError::Unfit { path: path.into(), what: "file handles" })
        }
        Err(source) => Err(HomeError::Open { path: path.into(), source }),
    }
}

/// Whether records have to live in `user.`; an error where they cannot live at all.
fn check_xattrs(path: &Path, lock: &File) -> Result<bool, HomeError> {
    for rootless in [false, true] {
        let name = xattr_name(rootless);
        if sys::xattr::set(lock, name, b"probe", 0).is_ok()
            && sys::xattr::remove(lock, name).is_ok()
        {
            return Ok(rootless);
        }
    }
    Err(HomeError::Unfit { path: path.into(), what: "extended attributes" })
}

fn take_lock(path: &Path, dir: &OwnedFd, read_only: bool) -> Result<Flock<File>, HomeError> {
    let failed = |source| HomeError::Open { path: path.join(HOME_NAME).join(LOCK), source };
    let file = match read_only {
        true => open_to_look(dir, LOCK),
        false => open_private(dir, LOCK, OFlag::O_RDWR),
    };
    let mut file = file.map_err(failed)?;
    let ends = Instant::now() + LOCK_PATIENCE;
    let locked = loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((held, Errno::EWOULDBLOCK)) if Instant::now() < ends => {
                std::thread::sleep(LOCK_POLL);
                file = held;
            }
            other => break other,
        }
    };
    match locked {
        Ok(lock) if read_only => Ok(lock),
        Ok(mut lock) => {
            let pid = format!("{}\n", std::process::id());
            lock.set_len(0).and_then(|()| lock.write_all(pid.as_bytes())).map_err(failed)?;
            Ok(lock)
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(failed)?;
            Err(HomeError::Served { path: path.into(), pid: pid.trim().into() })
        }
        Err((_, error)) => Err(failed(error.into())),
    }
}

fn read_identity(path: &Path, dir: &OwnedFd) -> Result<Option<Identity>, HomeError> {
    let damaged = |what: String| HomeError::Identity { path: path.into(), what };
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = match openat(dir, IDENTITY, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::ENOENT) => return Ok(None),
        Err(error) => return Err(damaged(error.desc().into())),
    };
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(|error| damaged(error.to_string()))?;
    Identity::parse(&text).map(Some).map_err(damaged)
}

fn make_identity(dir: &OwnedFd, name: &str) -> io::Result<Identity> {
    let identity = Identity::generate(name)?;
    replace(dir, IDENTITY, serde_json::to_string_pretty(&identity)?.as_bytes())?;
    Ok(identity)
}

/// Writes a private file whole, or not at all; durable when it returns.
fn replace(dir: &OwnedFd, name: &str, text: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.new");
    let mut file = open_private(dir, &temporary, OFlag::O_WRONLY | OFlag::O_TRUNC)?;
    file.write_all(text)?;
    file.sync_all()?;
    renameat(dir, temporary.as_str(), dir, name)?;
    File::from(dir.try_clone()?).sync_all()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing;

    #[test]
    fn an_identity_that_was_changed_is_refused() {
        let good = Identity::generate("t").unwrap();
        let text = serde_json::to_vec_pretty(&good).unwrap();
        assert_eq!(Identity::parse(&text).as_ref(), Ok(&good));
        for bit in 0..text.len() * 8 {
            let mut flipped = text.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = Identity::parse(&flipped) {
                // A blank between two words, or the case of a digit.
                assert!(read.seal().id() == good.seal().id(), "bit {bit}: {read:?}");
            }
        }
        let newer = br#"{"format": 2, "more": []}"#;
        assert!(Identity::parse(newer).unwrap_err().contains("newer"));
    }

    #[test]
    fn decoding_an_identity_never_panics() {
        let good = serde_json::to_vec_pretty(&Identity::generate("t").unwrap()).unwrap();
        fuzzing::run(|dice| {
            if let Ok(identity) = Identity::parse(&dice.mangled(&good)) {
                let again = serde_json::to_vec(&identity).unwrap();
                assert_eq!(Identity::parse(&again), Ok(identity));
            }
        });
    }
}
