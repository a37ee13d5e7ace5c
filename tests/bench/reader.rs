//! A process that reads: whose reads the probe counts, as it does not count its own daemon's.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use super::probe::shuffled;

/// The process, from outside.
pub struct Reader {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Reader {
    /// One that has so many files of a directory open.
    pub fn start(dir: &Path, files: usize) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("reader").arg(dir).arg(files.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (asks, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, asks, answers: BufReader::new(answers) }
    }

    /// Has it read so often, a page each time; nanoseconds each.
    pub fn nanoseconds_each(&mut self, reads: u64) -> f64 {
        writeln!(self.asks, "{reads}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What `bench reader` does.
pub fn read_here(dir: &Path, count: usize) {
    let open = |place: &usize| File::open(dir.join(format!("f{place}"))).unwrap();
    let files: Vec<_> = shuffled(count).iter().map(open).collect();
    let mut page = [0; 4096];
    for line in std::io::stdin().lines() {
        let reads: u64 = line.unwrap().parse().unwrap();
        let begun = Instant::now();
        for file in files.iter().cycle().take(usize::try_from(reads).unwrap()) {
            file.read_exact_at(&mut page, 0).unwrap();
        }
        println!("{}", begun.elapsed().as_secs_f64() * 1e9 / reads as f64);
    }
}
