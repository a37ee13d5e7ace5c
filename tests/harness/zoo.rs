//! A small tree with everything that a file can be, whose every byte is known.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{on_path, pattern, raw, sh};

/// Allowed contents by path below the root: the version that was there, and those that a
/// test made since.
#[derive(Clone, Default)]
pub struct Zoo {
    pub versions: BTreeMap<PathBuf, Vec<Vec<u8>>>,
}

/// A file large enough that a recall has chunks, small enough that tests are quick.
pub const BIG: &str = "big";
/// Number of small files, which share a segment.
const SMALL_FILES: u64 = 12;

impl Zoo {
    /// Builds the tree in a directory.
    pub fn build(root: &Path) -> Self {
        let mut zoo = Self::default();
        std::fs::create_dir_all(root.join("small")).unwrap();
        std::fs::create_dir_all(root.join("dir/below")).unwrap();
        for index in 0..SMALL_FILES {
            let len = 4_097 + index as usize * 5_021;
            zoo.file(root, &format!("small/{index:02}"), pattern::bytes(index + 1, len));
        }
        zoo.file(root, BIG, pattern::bytes(100, (3 << 20) + 77));
        zoo.file(root, "two-blocks", pattern::bytes(101, 8_192));
        zoo.file(root, "4096", pattern::bytes(102, 4_096));
        zoo.file(root, "tiny", b"a few bytes".to_vec());
        zoo.file(root, "empty", vec![]);
        zoo.file(root, "text", b"#!/bin/sh\necho a line of text\n".repeat(900));
        zoo.file(root, "zeros", vec![0; 100_000]);
        zoo.file(root, "\u{fc}n\u{ef} c\u{f6}d\u{e9} \n", pattern::bytes(103, 9_000));
        zoo.sparse(root, "sparse", 8 << 20, &[0, 4 << 20, (8 << 20) - 5_000]);
        zoo.sparse(root, "hole-first", 1 << 20, &[600_000]);
        zoo.sparse(root, "hole-last", 3 << 20, &[0]);
        zoo.file(root, "link-a", pattern::bytes(104, 70_000));
        std::fs::hard_link(root.join("link-a"), root.join("dir/below/link-b")).unwrap();
        let linked = zoo.versions[Path::new("link-a")].clone();
        zoo.versions.insert("dir/below/link-b".into(), linked);
        zoo.file(root, "attributes", pattern::bytes(105, 30_000));
        let attributes = root.join("attributes");
        raw::set_xattr(&attributes, b"user.colour", b"blue", 0).unwrap();
        raw::set_xattr(&attributes, b"user.long", &pattern::bytes(106, 700), 0).unwrap();
        raw::chown(&attributes, 1_000, 1_001).unwrap();
        raw::chmod(&attributes, 0o640);
        if on_path("setfacl") {
            sh(root, "setfacl -m u:65000:r attributes; setfacl -d -m g:1000:rx dir");
        }
        std::os::unix::fs::symlink("../big", root.join("dir/symlink")).unwrap();
        raw::mknod(&root.join("fifo"), libc::S_IFIFO | 0o600, 0).unwrap();
        raw::chmod(&root.join("small/03"), 0o4755);
        let paths: Vec<PathBuf> = zoo.versions.keys().cloned().collect();
        for (index, path) in paths.iter().enumerate() {
            let second = 1_500_000_000 + index as i64;
            raw::set_mtime(&root.join(path), second * 1_000_000_000 + 123_456_789).unwrap();
        }
        raw::set_mtime(&root.join("two-blocks"), -86_400_000_000_000 + 5).unwrap();
        raw::set_mtime(&root.join("text"), 7_258_118_400_000_000_000).unwrap();
        zoo
    }

    fn file(&mut self, root: &Path, name: &str, bytes: Vec<u8>) {
        std::fs::write(root.join(name), &bytes).unwrap();
        self.versions.insert(name.into(), vec![bytes]);
    }

    fn sparse(&mut self, root: &Path, name: &str, len: usize, islands: &[usize]) {
        let file = std::fs::File::create(root.join(name)).unwrap();
        file.set_len(len as u64).unwrap();
        let mut bytes = vec![0; len];
        for (index, at) in islands.iter().enumerate() {
            let island = pattern::bytes(200 + index as u64, 5_000);
            file.write_all_at(&island, *at as u64).unwrap();
            bytes[*at..*at + island.len()].copy_from_slice(&island);
        }
        self.versions.insert(name.into(), vec![bytes]);
    }

    /// A version that may be found from now on as well.
    pub fn allow(&mut self, name: &str, version: Vec<u8>) {
        self.versions.get_mut(Path::new(name)).expect("a file of the zoo").push(version);
    }

    /// The only version that may be found from now on.
    pub fn only(&mut self, name: &str, version: Vec<u8>) {
        self.versions.insert(name.into(), vec![version]);
    }

    pub fn latest(&self, name: &str) -> Vec<u8> {
        self.versions[Path::new(name)].last().expect("a version").clone()
    }

    /// Whether every file reads as one of its versions; what does not, a line each.
    pub fn wrong_content(&self, root: &Path) -> Vec<String> {
        self.wrong(root, false)
    }

    /// P6: whether every raw body is a recognisable pointer or a true version.
    pub fn wrong_raw(&self, data: &Path) -> Vec<String> {
        self.wrong(data, true)
    }

    fn wrong(&self, root: &Path, raw: bool) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, versions) in &self.versions {
            let name = path.display();
            match std::fs::read(root.join(path)) {
                Err(error) => lines.push(format!("{name}: {error}")),
                Ok(body) if raw && pattern::looks(&body) == pattern::Looks::Stub => {}
                Ok(body) if versions.contains(&body) => {}
                Ok(body) => lines.push(format!("{name}: {}", describe(&body, versions))),
            }
        }
        lines
    }
}

fn describe(body: &[u8], versions: &[Vec<u8>]) -> String {
    let version = versions.last().expect("a version");
    let zeros = body.iter().filter(|byte| **byte == 0).count();
    let first = body.iter().zip(version).position(|(left, right)| left != right);
    format!(
        "no version of it: {} bytes ({} expected), {zeros} zeros, differs from byte {first:?}, \
         begins {:?}",
        body.len(),
        version.len(),
        String::from_utf8_lossy(&body[..body.len().min(32)])
    )
}
