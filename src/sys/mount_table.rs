//! The kernel's mount table, as this process sees it: proc(5), `/proc/pid/mountinfo`.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// What is mounted where.
#[derive(Clone, Debug, Default)]
pub struct MountTable(Vec<Mounted>);

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    id: u64,
    /// Major and minor number of the filesystem.
    pub device: (u32, u32),
    /// The mountpoint.
    pub at: PathBuf,
    /// Options of the mount, not of the filesystem.
    pub options: String,
    /// The filesystem's type, its subtype included.
    pub kind: String,
}

impl MountTable {
    /// The table of this process.
    pub fn read() -> io::Result<Self> {
        std::fs::read("/proc/self/mountinfo").map(|text| Self::parse(&text))
    }

    /// Lines that make no sense are left out.
    pub fn parse(text: &[u8]) -> Self {
        Self(text.split(|byte| *byte == b'\n').filter_map(Mounted::parse).collect())
    }

    /// The type of what is mounted exactly there, the topmost.
    pub fn type_at(&self, path: &Path) -> Option<&str> {
        self.0.iter().rev().find(|mount| mount.at == path).map(|mount| mount.kind.as_str())
    }

    /// The mountpoint of the filesystem that a path is on, and its type.
    pub fn holding<'a>(&'a self, path: &'a Path) -> Option<(&'a Path, &'a str)> {
        path.ancestors().find_map(|at| Some((at, self.type_at(at)?)))
    }

    /// Where a filesystem of that type is the topmost mount.
    pub fn places_of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Path> {
        let top = move |mount: &&Mounted| self.type_at(&mount.at) == Some(kind);
        let is_first = |(index, mount): &(usize, &Mounted)| {
            self.0.iter().position(|other| other.at == mount.at) == Some(*index)
        };
        let places = self.0.iter().enumerate().filter(is_first).map(|(_, mount)| mount);
        places.filter(top).map(|mount| mount.at.as_path())
    }

    /// The first mount of a filesystem of that type.
    pub fn first_of(&self, kind: &str) -> Option<&Mounted> {
        self.0.iter().find(|mount| mount.kind == kind)
    }
}

impl Mounted {
    /// The mount that a descriptor is on.
    pub fn of(fd: impl AsFd) -> io::Result<Self> {
        let unknown = || io::Error::other("the mount table does not say");
        let fd = fd.as_fd().as_raw_fd();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
        let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).ok_or_else(unknown)?;
        let id: u64 = id.trim().parse().map_err(|_unlike| unknown())?;
        MountTable::read()?.0.into_iter().find(|mount| mount.id == id).ok_or_else(unknown)
    }

    /// Whether reads move atimes there, be it once a day (relatime): not where it is `noatime`.
    pub fn keeps_atime(&self) -> bool {
        !self.options.split(',').any(|option| option == "noatime")
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let text = |number: usize| fields.get(number).map(|field| String::from_utf8_lossy(field));
        let dash = fields.iter().position(|field| *field == b"-")?;
        let device = text(2)?;
        let (major, minor) = device.split_once(':')?;
        Some(Self {
            id: text(0)?.parse().ok()?,
            device: (major.parse().ok()?, minor.parse().ok()?),
            at: unescape(fields.get(4)?),
            options: text(5)?.into_owned(),
            kind: text(dash + 1)?.into_owned(),
        })
    }
}

/// `\040` and the like are how the table writes blanks.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_mount_holds_what_is_below_it() {
        let table = MountTable::parse(
            b"21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
              30 21 0:40 / /a\\040b rw,noatime shared:1 - tmpfs t rw\n\
              nonsense\n\
              31 30 0:41 / /a\\040b rw - fuse.coldfs t rw\n",
        );
        assert_eq!(table.0.len(), 3);
        assert_eq!(table.type_at(Path::new("/a b")), Some("fuse.coldfs"));
        let below = Path::new("/a b/c/d");
        assert_eq!(table.holding(below), Some((Path::new("/a b"), "fuse.coldfs")));
        assert_eq!(table.holding(Path::new("/c")), Some((Path::new("/"), "ext4")));
        assert_eq!(table.places_of("fuse.coldfs").collect::<Vec<_>>(), [Path::new("/a b")]);
        assert_eq!(table.places_of("tmpfs").count(), 0, "it is covered");
        let tmpfs = table.first_of("tmpfs").unwrap();
        assert_eq!((tmpfs.device, tmpfs.keeps_atime()), ((0, 40), false));
        assert!(table.first_of("ext4").unwrap().keeps_atime());
    }

    #[test]
    fn a_descriptor_is_on_the_mount_that_holds_its_path() {
        let mount = Mounted::of(std::fs::File::open("/proc/self/mountinfo").unwrap()).unwrap();
        assert_eq!((mount.at.as_path(), mount.kind.as_str()), (Path::new("/proc"), "proc"));
    }
}
