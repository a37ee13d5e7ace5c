//! The files that every subject gets, the same bytes for each.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// How much there is of everything.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// The file whose bytes are read and written, bytes.
    pub big_bytes: usize,
    /// Files of 4 KiB in the tree, a hundred a directory.
    pub tree_files: usize,
    /// Files of the archive, of the repository, and of what is created and removed.
    pub small_files: usize,
    /// Requests of 4 KiB from the page cache.
    pub cached_requests: usize,
    /// Requests of 4 KiB to the disk.
    pub direct_requests: usize,
}

impl Scale {
    pub const FULL: Scale = Scale {
        big_bytes: 256 << 20,
        tree_files: 10_000,
        small_files: 2_000,
        cached_requests: 200_000,
        direct_requests: 3_000,
    };
    pub const QUICK: Scale = Scale {
        big_bytes: 64 << 20,
        tree_files: 3_000,
        small_files: 500,
        cached_requests: 60_000,
        direct_requests: 500,
    };
}

const FILES_A_DIRECTORY: usize = 100;

/// Fills a subject's directory: `big`, `tree`, `small` (with a git repository), `small.tar`
/// and `crate`.
pub fn fill(dir: &Path, scale: &Scale) {
    fs::create_dir_all(dir).unwrap();
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut big = File::create(dir.join("big")).unwrap();
    let mut block = vec![0; 1 << 20];
    for _ in 0..scale.big_bytes >> 20 {
        noise.fill(&mut block);
        big.write_all(&block).unwrap();
    }
    big.sync_all().unwrap();
    tree(&dir.join("tree"), scale.tree_files, &mut noise);
    tree(&dir.join("small"), scale.small_files, &mut noise);
    run(Command::new("tar").arg("-cf").arg(dir.join("small.tar")).arg("-C").arg(dir).arg("small"));
    let git = |arguments: &[&str]| {
        run(Command::new("git").arg("-C").arg(dir.join("small")).args(arguments));
    };
    git(&["init", "--quiet"]);
    git(&["add", "."]);
    git(&["-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "-qm", "all"]);
    small_crate(&dir.join("crate"));
}

fn tree(dir: &Path, files: usize, noise: &mut Noise) {
    let mut block = vec![0; 4096];
    for number in 0..files {
        let parent = dir.join(format!("d{:03}", number / FILES_A_DIRECTORY));
        if number % FILES_A_DIRECTORY == 0 {
            fs::create_dir_all(&parent).unwrap();
        }
        noise.fill(&mut block);
        fs::write(parent.join(format!("f{:03}", number % FILES_A_DIRECTORY)), &block).unwrap();
    }
}

/// Paths of a tree's files, in the order in which they were made.
pub fn paths(dir: &Path, files: usize) -> Vec<std::path::PathBuf> {
    (0..files)
        .map(|number| {
            dir.join(format!(
                "d{:03}/f{:03}",
                number / FILES_A_DIRECTORY,
                number % FILES_A_DIRECTORY
            ))
        })
        .collect()
}

/// A crate without dependencies that takes a compiler about a second.
fn small_crate(dir: &Path) {
    fs::create_dir_all(dir.join("src")).unwrap();
    let manifest =
        "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n";
    fs::write(dir.join("Cargo.toml"), manifest).unwrap();
    let mut root = String::new();
    for number in 0..24 {
        root.push_str(&format!("pub mod part{number};\n"));
        let body = format!(
            "use std::collections::BTreeMap;\n\
             /// Counts words.\n\
             pub fn count(text: &str) -> BTreeMap<String, usize> {{\n\
                 let mut words = BTreeMap::new();\n\
                 for word in text.split_whitespace().map(|word| word.repeat({number})) {{\n\
                     *words.entry(word.to_lowercase()).or_insert(0) += 1;\n\
                 }}\n\
                 words\n\
             }}\n"
        );
        fs::write(dir.join(format!("src/part{number}.rs")), body).unwrap();
    }
    fs::write(dir.join("src/lib.rs"), root).unwrap();
}

/// Runs a program whose output is of no interest.
pub fn run(command: &mut Command) {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let output = command.stderr(Stdio::piped()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Marsaglia's xorshift64: the same bytes and places for every subject.
#[derive(Clone, Debug)]
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}
