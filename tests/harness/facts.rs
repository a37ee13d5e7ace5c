//! Every visible fact of a tree, and what differs between two.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::raw::{self, At};

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What `stat` and `listxattr` say: nothing is opened, so nothing is fetched.
    Stat,
    /// What `lseek` says as well: opens the file, which may recall a small one.
    Layout,
    /// Every byte as well.
    Content,
}

/// What can be seen of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    pub kind: &'static str,
    pub ino: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub nlink: u64,
    pub blocks: u64,
    pub mtime_ns: i128,
    pub ctime_ns: i128,
    pub rdev: u64,
    pub target: Option<PathBuf>,
    /// All that are listed, and POSIX ACLs, listed or not. Nothing is left out: coldfs lists
    /// neither its record nor its virtual attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub data_map: Option<Vec<(u64, u64)>>,
    pub hash: Option<blake3::Hash>,
}

impl Fact {
    /// Looks at one path, links not followed.
    pub fn of(path: &Path, depth: Depth) -> io::Result<Self> {
        let mut fact = Self::seen(At::Path(path))?;
        if fact.kind == "symlink" {
            fact.target = Some(std::fs::read_link(path)?);
        }
        if fact.kind == "file" && depth != Depth::Stat {
            fact.data_map = Some(data_map(path)?);
            if depth == Depth::Content {
                fact.hash = Some(hash(path)?);
            }
        }
        Ok(fact)
    }

    /// What can be seen of a path or an open file without opening it.
    pub fn seen(at: At<'_>) -> io::Result<Self> {
        let meta = at.metadata()?;
        let kind = kind(meta.file_type());
        Ok(Self {
            kind,
            ino: meta.ino(),
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            size: meta.size(),
            nlink: meta.nlink(),
            blocks: meta.blocks(),
            mtime_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
            ctime_ns: i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec()),
            rdev: meta.rdev(),
            target: None,
            xattrs: xattrs(at)?,
            data_map: None,
            hash: None,
        })
    }

    /// What differs, a line each. Times and inode numbers only where `strict`: two
    /// directories that were filled one after the other do not share them.
    pub fn differences(&self, other: &Fact, strict: Strict) -> Vec<String> {
        let mut lines = Vec::new();
        let mut differ = |name: &str, left: String, right: String| {
            if left != right {
                lines.push(format!("{name}: {left} != {right}"));
            }
        };
        differ("type", self.kind.into(), other.kind.into());
        differ("mode", format!("{:o}", self.mode), format!("{:o}", other.mode));
        differ("uid", self.uid.to_string(), other.uid.to_string());
        differ("gid", self.gid.to_string(), other.gid.to_string());
        let directory = self.kind == "directory" && other.kind == "directory";
        if !directory || strict == Strict::SameFile {
            // A directory's size tells how full it once was.
            differ("size", self.size.to_string(), other.size.to_string());
        }
        differ("nlink", self.nlink.to_string(), other.nlink.to_string());
        differ("rdev", self.rdev.to_string(), other.rdev.to_string());
        differ("target", format!("{:?}", self.target), format!("{:?}", other.target));
        let names = |fact: &Fact| {
            fact.xattrs.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
        };
        let (left, right): (Vec<String>, Vec<String>) = (names(self), names(other));
        differ("xattr names", format!("{left:?}"), format!("{right:?}"));
        for (name, value) in &self.xattrs {
            if let Some(other) = other.xattrs.get(name) {
                let name = format!("xattr {}", String::from_utf8_lossy(name));
                differ(&name, hex(value), hex(other));
            }
        }
        if let (Some(left), Some(right)) = (&self.hash, &other.hash) {
            differ("content", left.to_hex()[..16].into(), right.to_hex()[..16].into());
        }
        match strict {
            Strict::OtherTree => {
                if !directory && self.kind != "symlink" && !blocks_alike(self, other) {
                    differ("blocks", self.blocks.to_string(), other.blocks.to_string());
                }
            }
            Strict::SameFile => {
                differ("ino", self.ino.to_string(), other.ino.to_string());
                differ("blocks", self.blocks.to_string(), other.blocks.to_string());
                differ("mtime", self.mtime_ns.to_string(), other.mtime_ns.to_string());
                differ("ctime", self.ctime_ns.to_string(), other.ctime_ns.to_string());
            }
            Strict::CopiedTree => {
                differ("mtime", self.mtime_ns.to_string(), other.mtime_ns.to_string());
            }
        }
        if strict != Strict::CopiedTree
            && let (Some(left), Some(right)) = (&self.data_map, &other.data_map)
        {
            differ("data map", format!("{left:?}"), format!("{right:?}"));
        }
        lines
    }
}

/// What two facts have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strict {
    /// The same file at two times: everything is equal.
    SameFile,
    /// Two files that had the same operations: times and inode numbers differ, and so may a
    /// metadata block or two.
    OtherTree,
    /// A copy that keeps attributes: layout may differ, mtime may not.
    CopiedTree,
}

/// Sectors that allocation may differ by on ext4: an xattr block, an extent tree's block.
const BLOCKS_SLACK: u64 = 16;
/// The same where a filesystem allocates ahead of writes (xfs) or later (btrfs).
const LOOSE_BLOCKS_SLACK: u64 = 8_192;

fn blocks_alike(left: &Fact, right: &Fact) -> bool {
    let loose = std::env::var("COLDFS_TEST_FS").is_ok_and(|kind| kind != "ext4");
    let slack = if loose { LOOSE_BLOCKS_SLACK } else { BLOCKS_SLACK };
    left.blocks.abs_diff(right.blocks) <= slack
}

fn kind(kind: std::fs::FileType) -> &'static str {
    match kind {
        _ if kind.is_file() => "file",
        _ if kind.is_dir() => "directory",
        _ if kind.is_symlink() => "symlink",
        _ if kind.is_fifo() => "fifo",
        _ if kind.is_socket() => "socket",
        _ if kind.is_char_device() => "char device",
        _ => "block device",
    }
}

fn xattrs(at: At<'_>) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names: BTreeSet<Vec<u8>> = raw::list_xattr(at)?.into_iter().collect();
    names.insert(b"system.posix_acl_access".to_vec());
    names.insert(b"system.posix_acl_default".to_vec());
    let mut found = BTreeMap::new();
    for name in names {
        if let Some(value) = raw::get_xattr(at, &name)? {
            found.insert(name, value);
        }
    }
    Ok(found)
}

fn data_map(path: &Path) -> io::Result<Vec<(u64, u64)>> {
    raw::data_map(&File::open(path)?)
}

/// Hash of a file's content.
pub fn hash(path: &Path) -> io::Result<blake3::Hash> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 17];
    loop {
        let len = file.read(&mut buffer)?;
        if len == 0 {
            return Ok(hasher.finalize());
        }
        hasher.update(&buffer[..len]);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(40).fold(format!("{} bytes ", bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// A tree's facts by path below its root; the root itself is the empty path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<PathBuf, Fact>);

impl Tree {
    /// Looks at everything below `root`; what cannot be looked at is an error that names it.
    pub fn of(root: &Path, depth: Depth) -> io::Result<Self> {
        Self::with(root, &|_| depth)
    }

    /// The same, with a depth for each path below the root.
    pub fn with(root: &Path, depth: &dyn Fn(&Path) -> Depth) -> io::Result<Self> {
        let mut tree = Self::default();
        tree.add(root, Path::new(""), depth)?;
        Ok(tree)
    }

    fn add(&mut self, root: &Path, below: &Path, depth: &dyn Fn(&Path) -> Depth) -> io::Result<()> {
        let path = if below.as_os_str().is_empty() { root.to_owned() } else { root.join(below) };
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let fact = Fact::of(&path, depth(below)).map_err(named)?;
        let directory = fact.kind == "directory";
        self.0.insert(below.to_owned(), fact);
        if directory {
            for entry in std::fs::read_dir(&path).map_err(named)? {
                let entry = entry.map_err(named)?;
                let child = below.join(entry.file_name());
                self.add(root, &child, depth)?;
                let fact = &self.0[&child];
                let listed = kind(entry.file_type().map_err(named)?);
                if listed != fact.kind || entry.ino() != fact.ino {
                    return Err(io::Error::other(format!(
                        "{}: readdir says {listed} {}, stat says {} {}",
                        root.join(&child).display(),
                        entry.ino(),
                        fact.kind,
                        fact.ino
                    )));
                }
            }
        }
        Ok(())
    }

    /// What differs, a line each, at most a screenful.
    pub fn differences(&self, other: &Tree, strict: Strict) -> Vec<String> {
        const LINES: usize = 60;
        let mut lines = Vec::new();
        let paths: BTreeSet<&PathBuf> = self.0.keys().chain(other.0.keys()).collect();
        for path in paths {
            match (self.0.get(path), other.0.get(path)) {
                (Some(left), Some(right)) => {
                    for line in left.differences(right, strict) {
                        // The root holds `.coldfs` below, and its link count says so.
                        let root = path.as_os_str().is_empty();
                        if root && strict != Strict::SameFile && line.starts_with("nlink") {
                            continue;
                        }
                        lines.push(format!("{}: {line}", show(path)));
                    }
                }
                (Some(_), None) => lines.push(format!("{}: only on the left", show(path))),
                (None, Some(_)) => lines.push(format!("{}: only on the right", show(path))),
                (None, None) => {}
            }
        }
        for group in self.link_groups().symmetric_difference(&other.link_groups()) {
            lines.push(format!("names of one file on one side only: {group:?}"));
        }
        if lines.len() > LINES {
            let more = lines.len() - LINES;
            lines.truncate(LINES);
            lines.push(format!("and {more} more"));
        }
        lines
    }

    /// Panics with the differences, if there are any.
    pub fn assert_equal(&self, other: &Tree, strict: Strict, what: &str) {
        let lines = self.differences(other, strict);
        assert!(lines.is_empty(), "{what}:\n  {}", lines.join("\n  "));
    }

    fn link_groups(&self) -> BTreeSet<Vec<&PathBuf>> {
        let mut groups: BTreeMap<u64, Vec<&PathBuf>> = BTreeMap::new();
        for (path, fact) in &self.0 {
            if fact.kind != "directory" && fact.nlink > 1 {
                groups.entry(fact.ino).or_default().push(path);
            }
        }
        groups.into_values().filter(|group| group.len() > 1).collect()
    }

    /// Regular files.
    pub fn files(&self) -> impl Iterator<Item = (&PathBuf, &Fact)> {
        self.0.iter().filter(|(_, fact)| fact.kind == "file")
    }
}

fn show(path: &Path) -> String {
    if path.as_os_str().is_empty() {
        return ".".into();
    }
    path.as_os_str().as_bytes().escape_ascii().to_string()
}
