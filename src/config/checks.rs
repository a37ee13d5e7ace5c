//! Places that cannot work, refused before anything is mounted: each with file, cause and
//! next step. What only the daemon can see (a lock, another owner in the store) it refuses
//! itself.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{StoreUrl, usage};
use crate::control::wire::Problem;
use crate::sys;
use crate::sys::mount_table::MountTable;

/// A mount's type in the kernel's table.
pub const FS_TYPE: &str = "fuse.coldfs";

/// The daemon's private directory in a data directory.
pub const PRIVATE_DIR: &str = ".coldfs";

/// Places that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The data directory without symlinks.
    pub data_dir: PathBuf,
    /// The mountpoint without symlinks.
    pub mountpoint: PathBuf,
    /// The store, its directory without symlinks.
    pub store: StoreUrl,
    /// What works and is still worth telling.
    pub notes: Vec<String>,
    /// Whether the store is on another filesystem than the data.
    pub store_apart: bool,
}

/// Whether these three places can work together.
pub fn check(
    data_dir: &Path,
    mountpoint: &Path,
    store: &StoreUrl,
    table: &MountTable,
) -> Result<Places, Problem> {
    let (data_dir, data) = directory("data directory", data_dir, table)?;
    let (mountpoint, mount) = directory("mountpoint", mountpoint, table)?;
    refuse_coldfs_below("data directory", &data_dir, table)?;
    if table.type_at(&mountpoint) == Some(FS_TYPE) {
        return Err(usage(
            format!("mountpoint {}: coldfs is mounted there already", mountpoint.display()),
            format!("see `coldfs status`, or detach it: fusermount3 -u {}", mountpoint.display()),
        ));
    }
    refuse_coldfs_below("mountpoint", &mountpoint, table)?;
    let over_itself = (data.dev(), data.ino()) == (mount.dev(), mount.ino());
    if !over_itself {
        refuse_nested(&data_dir, &mountpoint)?;
        refuse_full(&mountpoint, &data_dir)?;
    }
    check_filesystem(&data_dir)?;
    let mut notes = Vec::new();
    let mut store_apart = true;
    let store = match store {
        StoreUrl::Disk(dir) => {
            let dir = check_store_dir(dir, &data_dir, &mountpoint, table)?;
            if existing_ancestor(&dir, table)?.1.dev() == data.dev() {
                store_apart = false;
                notes.push(format!(
                    "the store {} is on the data directory's own filesystem: releasing frees \
                     nothing; name a store elsewhere with --store",
                    dir.display()
                ));
            }
            StoreUrl::Disk(dir)
        }
        StoreUrl::S3 { .. } => store.clone(),
    };
    Ok(Places { data_dir, mountpoint, store, store_apart, notes })
}

fn directory(role: &str, path: &Path, table: &MountTable) -> Result<(PathBuf, Metadata), Problem> {
    let refuse = |error: &io::Error| {
        let next_step = match error.kind() {
            io::ErrorKind::NotFound => format!("create it: mkdir -p {}", path.display()),
            _ => unreachable_step(path, error, table),
        };
        usage(format!("{role} {}: {error}", path.display()), next_step)
    };
    let resolved = path.canonicalize().map_err(|error| refuse(&error))?;
    let meta = look(&resolved).map_err(|error| refuse(&error))?;
    if !meta.is_dir() {
        return Err(usage(
            format!("{role} {}: not a directory", path.display()),
            match role {
                "mountpoint" => format!("make a directory for it: mkdir {}-mnt", path.display()),
                _ => "coldfs fronts a whole directory; name one".to_owned(),
            },
        ));
    }
    Ok((resolved, meta))
}

/// Attributes of what is there and answers.
fn look(path: &Path) -> io::Result<Metadata> {
    let meta = path.metadata()?;
    sys::mount::answers(path).map(|()| meta)
}

/// What to do about a path that cannot be looked at.
fn unreachable_step(path: &Path, error: &io::Error, table: &MountTable) -> String {
    match error.raw_os_error() {
        Some(libc::ENOTCONN) => after_a_death(&mount_of(path, table)),
        _ => "check the path and its permissions".into(),
    }
}

/// Where what a path is on is mounted, as far as that can be told without a look at the path.
pub fn mount_of(path: &Path, table: &MountTable) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    table.holding(&path).map_or_else(|| path.clone(), |(at, _)| at.to_owned())
}

/// What to do about a mount whose daemon died.
pub fn after_a_death(at: &Path) -> String {
    // Lazily: whoever has a file of it open gets nothing but errors.
    format!(
        "its daemon died: take it away with `fusermount3 -uz {}`, then mount again",
        at.display()
    )
}

/// A mount inside another goes away with it.
fn refuse_coldfs_below(role: &str, dir: &Path, table: &MountTable) -> Result<(), Problem> {
    match table.holding(dir) {
        Some((at, FS_TYPE)) => Err(usage(
            format!(
                "{role} {}: already served, coldfs is mounted at {}",
                dir.display(),
                at.display()
            ),
            format!("see `coldfs status`, or detach it: fusermount3 -u {}", at.display()),
        )),
        _ => Ok(()),
    }
}

fn refuse_nested(data_dir: &Path, mountpoint: &Path) -> Result<(), Problem> {
    let next_step = format!(
        "mount it over itself (coldfs mount {0} {0}) or on a directory apart from it",
        data_dir.display()
    );
    if data_dir.starts_with(mountpoint) {
        return Err(usage(
            format!(
                "data directory {}: inside its mountpoint {}, which would hide it",
                data_dir.display(),
                mountpoint.display()
            ),
            next_step,
        ));
    }
    if mountpoint.starts_with(data_dir) {
        return Err(usage(
            format!(
                "mountpoint {}: inside the data directory {}, which would show itself",
                mountpoint.display(),
                data_dir.display()
            ),
            next_step,
        ));
    }
    Ok(())
}

fn refuse_full(mountpoint: &Path, data_dir: &Path) -> Result<(), Problem> {
    let cause = match std::fs::read_dir(mountpoint).map(|mut entries| entries.next().is_some()) {
        Ok(false) => return Ok(()),
        Ok(true) => "not empty, and not the data directory itself".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(usage(
        format!("mountpoint {}: {cause}", mountpoint.display()),
        format!(
            "use an empty directory, or mount the data directory over itself: coldfs mount {0} {0}",
            data_dir.display()
        ),
    ))
}

/// Whether a directory's filesystem has what records and recovery rest on.
pub fn check_filesystem(dir: &Path) -> Result<(), Problem> {
    let refuse = |cause: String| {
        usage(
            format!("data directory {}: its filesystem {cause}", dir.display()),
            "use a directory on ext4, xfs or btrfs (overlayfs needs index=on,nfs_export=on)",
        )
    };
    let file = std::fs::File::open(dir).map_err(|error| {
        let table = MountTable::read().unwrap_or_default();
        usage(format!("{}: {error}", dir.display()), unreachable_step(dir, &error, &table))
    })?;
    sys::handle::of(&file, c".")
        .map_err(|error| refuse(format!("has no file handles ({error})")))?;
    let name =
        if sys::has_capability(sys::CAP_SYS_ADMIN) { c"trusted.coldfs" } else { c"user.coldfs" };
    match sys::xattr::get(&file, name, &mut []) {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(()),
        Err(error) => Err(refuse(format!("keeps no extended attributes ({error})"))),
    }
}

fn check_store_dir(
    dir: &Path,
    data_dir: &Path,
    mountpoint: &Path,
    table: &MountTable,
) -> Result<PathBuf, Problem> {
    let refuse = |cause: &str, next_step: &str| {
        usage(format!("store disk:{}: {cause}", dir.display()), next_step)
    };
    let elsewhere = "name a directory elsewhere: --store disk:DIR";
    let (ancestor, meta) = existing_ancestor(dir, table)?;
    let rest = dir.strip_prefix(&ancestor).unwrap_or(Path::new(""));
    let mut resolved =
        ancestor.canonicalize().map_err(|error| refuse(&error.to_string(), elsewhere))?;
    // Component by component: joining nothing would leave a slash at the end.
    resolved.extend(rest);
    if !meta.is_dir() {
        return Err(refuse(&format!("{} is not a directory", ancestor.display()), elsewhere));
    }
    if resolved.starts_with(data_dir) {
        return Err(refuse("inside the data directory, which would tier its own store", elsewhere));
    }
    if resolved.starts_with(mountpoint) {
        return Err(refuse("inside the mountpoint, which would wait for itself", elsewhere));
    }
    if data_dir.starts_with(&resolved) || mountpoint.starts_with(&resolved) {
        return Err(refuse("contains the data directory or the mountpoint", elsewhere));
    }
    nix::unistd::access(&ancestor, nix::unistd::AccessFlags::W_OK).map_err(|error| {
        refuse(
            &format!("not writable ({})", error.desc()),
            "mount its filesystem read-write, change its owner, or name another: --store disk:DIR",
        )
    })?;
    Ok(resolved)
}

/// The longest part of a path that exists.
fn existing_ancestor(path: &Path, table: &MountTable) -> Result<(PathBuf, Metadata), Problem> {
    for ancestor in path.ancestors() {
        match look(ancestor) {
            Ok(meta) => return Ok((ancestor.to_owned(), meta)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) => {}
            Err(error) => {
                return Err(usage(
                    format!("{}: {error}", ancestor.display()),
                    unreachable_step(ancestor, &error, table),
                ));
            }
        }
    }
    Err(usage(format!("{}: no part of it exists", path.display()), "name an absolute path"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Case {
        name: &'static str,
        data: &'static str,
        mount: &'static str,
        store: &'static str,
        /// Words of the refusal; none where it must pass.
        refused: Option<[&'static str; 2]>,
    }

    const fn case(
        name: &'static str,
        [data, mount, store]: [&'static str; 3],
        refused: Option<[&'static str; 2]>,
    ) -> Case {
        Case { name, data, mount, store, refused }
    }

    const CASES: [Case; 18] = [
        case("apart", ["data", "mnt", "store"], None),
        case("over itself", ["data", "data", "store"], None),
        case("over itself by another name", ["data", "link", "store"], None),
        case("the store does not exist yet", ["data", "mnt", "new/store"], None),
        case("data missing", ["gone", "mnt", "store"], Some(["gone: No such file", "mkdir -p"])),
        case("data a file", ["file", "mnt", "store"], Some(["file: not a directory", "name one"])),
        case("mountpoint missing", ["data", "gone", "store"], Some(["gone: No such", "mkdir -p"])),
        case("mountpoint a file", ["data", "file", "store"], Some(["file: not a directory", ""])),
        case("mountpoint full", ["data", "full", "store"], Some(["full: not empty", "itself"])),
        case(
            "mountpoint inside",
            ["data", "data/sub", "store"],
            Some(["inside the data", "apart"]),
        ),
        case(
            "data inside",
            ["full/sub", "full", "store"],
            Some(["inside its mountpoint", "apart"]),
        ),
        case("mounted already", ["data", "cold", "store"], Some(["mounted there", "fusermount3"])),
        case("served already", ["cold/sub", "mnt", "store"], Some(["already served", "status"])),
        case(
            "mounted inside",
            ["data", "cold/sub", "store"],
            Some(["cold/sub: already", "status"]),
        ),
        case("store in data", ["data", "mnt", "data/s"], Some(["inside the data", "--store"])),
        case(
            "store in mountpoint",
            ["data", "mnt", "mnt/s"],
            Some(["inside the mount", "--store"]),
        ),
        case("store around all", ["data", "mnt", "."], Some(["contains the data", "--store"])),
        case("store a file", ["data", "mnt", "file/s"], Some(["file", "--store"])),
    ];

    #[test]
    fn places_that_cannot_work_are_refused_with_a_next_step() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().canonicalize().unwrap();
        for dir in ["data/sub", "mnt", "store", "full/sub", "cold/sub"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::write(root.join("file"), "").unwrap();
        std::os::unix::fs::symlink("data", root.join("link")).unwrap();
        let line = format!("9 1 0:9 / {} rw - fuse.coldfs x rw\n", root.join("cold").display());
        let table = MountTable::parse(line.as_bytes());
        for case in CASES {
            let store = StoreUrl::Disk(std::path::absolute(root.join(case.store)).unwrap());
            let result = check(&root.join(case.data), &root.join(case.mount), &store, &table);
            match (case.refused, result) {
                (None, Ok(places)) => assert!(places.data_dir.ends_with("data"), "{}", case.name),
                (Some(words), Err(problem)) => {
                    let text = problem.to_string();
                    assert!(words.iter().all(|w| text.contains(w)), "{}: {text}", case.name);
                }
                (_, result) => panic!("{}: {result:?}", case.name),
            }
        }
    }

    #[test]
    fn a_store_on_the_same_filesystem_is_told_of() {
        let home = tempfile::tempdir().unwrap();
        for dir in ["data", "mnt"] {
            fs::create_dir(home.path().join(dir)).unwrap();
        }
        let at = |name: &str| home.path().join(name);
        let store = StoreUrl::Disk(at("store"));
        let places = check(&at("data"), &at("mnt"), &store, &MountTable::default()).unwrap();
        assert!(places.notes[0].contains("frees nothing"), "{:?}", places.notes);
    }

    #[test]
    fn a_filesystem_without_handles_is_refused() {
        // procfs has neither handles nor attributes.
        let problem = check_filesystem(Path::new("/proc")).unwrap_err();
        assert!(problem.to_string().contains("ext4, xfs or btrfs"), "{problem}");
    }
}
