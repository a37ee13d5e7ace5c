//! A file of lines in `.coldfs` that people read and that never grows beyond two halves.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::Tenant;

/// A half's size; the other half is what was before it.
const HALF_BYTES: u64 = 8 << 20;

/// Lines under a name, and before them lines under the same name with `.1`.
#[derive(Debug)]
pub struct Notebook {
    name: &'static str,
    open: Mutex<Option<(File, u64)>>,
}

/// The first line of every half but the first.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Before {
    /// Lines that were written before this half.
    lines_before: u64,
}

impl Before {
    /// Takes it off a half.
    fn take(lines: &mut Vec<String>) -> u64 {
        let before = lines.first().and_then(|line| serde_json::from_str::<Self>(line).ok());
        match before {
            Some(before) => {
                lines.remove(0);
                before.lines_before
            }
            None => 0,
        }
    }
}

/// What a notebook has.
#[derive(Debug, Default)]
pub struct Lines {
    /// Oldest first.
    pub lines: Vec<String>,
    /// Older ones, which fell out: those are gone.
    pub fallen_out: u64,
}

impl Notebook {
    /// A notebook under this name; nothing is made before the first line.
    pub const fn new(name: &'static str) -> Self {
        Self { name, open: Mutex::new(None) }
    }

    fn older(&self) -> String {
        format!("{}.1", self.name)
    }

    /// All lines that there are.
    pub fn lines(&self, tenant: &Tenant) -> io::Result<Lines> {
        let (older, newer) = {
            // A half that is turned meanwhile is not read twice; whoever writes does not wait
            // until all is read.
            let _turned = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            (open_half(tenant, &self.older())?, open_half(tenant, self.name)?)
        };
        let Some(older) = older else {
            return newer.map_or_else(|| Ok(Lines::default()), half);
        };
        let Lines { mut lines, fallen_out } = half(older)?;
        if let Some(newer) = newer {
            lines.extend(half(newer)?.lines);
        }
        Ok(Lines { lines, fallen_out })
    }

    /// Adds a line, for whoever looks: it is not synced. On a read-only filesystem there is no
    /// notebook.
    pub fn add(&self, tenant: &Tenant, line: &str) -> io::Result<()> {
        if tenant.is_read_only() {
            return Ok(());
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.as_ref().is_none_or(|(_, written)| *written >= HALF_BYTES) {
            *open = None;
            let mut file = tenant.home.open_for_append(self.name)?;
            let mut written = file.metadata()?.len();
            if written >= HALF_BYTES {
                tenant.home.rename(self.name, &self.older())?;
                (file, written) = (tenant.home.open_for_append(self.name)?, 0);
            }
            if written == 0
                && let Some(older) = open_half(tenant, &self.older())?
            {
                let older = half(older)?;
                let lines_before = older.fallen_out.saturating_add(older.lines.len() as u64);
                let first = serde_json::to_string(&Before { lines_before })? + "\n";
                file.write_all(first.as_bytes())?;
                written = first.len() as u64;
            }
            *open = Some((file, written));
        }
        let Some((file, written)) = open.as_mut() else { return Ok(()) };
        file.write_all(format!("{line}\n").as_bytes())?;
        *written += line.len() as u64 + 1;
        Ok(())
    }
}

/// A half; none: there is none.
fn open_half(tenant: &Tenant, name: &str) -> io::Result<Option<File>> {
    match tenant.home.open_to_look(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// What is in a half, and how many lines were before it.
fn half(file: File) -> io::Result<Lines> {
    let mut text = Vec::new();
    file.take(2 * HALF_BYTES).read_to_end(&mut text)?;
    Ok(decode(&text))
}

fn decode(half: &[u8]) -> Lines {
    let mut lines: Vec<_> = String::from_utf8_lossy(half).lines().map(str::to_owned).collect();
    let fallen_out = Before::take(&mut lines);
    Lines { lines, fallen_out }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::fuzzing;
    use crate::store::memory::MemoryStore;
    use crate::tenant::Home;

    #[test]
    fn decoding_a_half_never_panics() {
        let good = b"{\"lines_before\":7}\n{\"path\":\"a\"}\nplain\n";
        assert_eq!((decode(good).fallen_out, decode(good).lines.len()), (7, 2));
        fuzzing::run(|dice| {
            let bytes = dice.mangled(good);
            let read = decode(&bytes);
            let all = bytes.split(|byte| *byte == b'\n').count();
            assert!(read.lines.len() + usize::from(read.fallen_out > 0) <= all);
        });
    }

    #[test]
    fn lines_that_fall_out_are_counted_over_every_turn_and_start() {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        let dir = tempfile::tempdir_in(target).unwrap();
        let home = Home::open(dir.path(), None, "t").unwrap();
        let tenant = Tenant::new(home, Arc::new(MemoryStore::new())).unwrap();
        let mut notebook = Notebook::new("book");
        let most = 2 * (HALF_BYTES >> 20) + 2;
        for number in 0..60_u64 {
            if number % 7 == 0 {
                notebook = Notebook::new("book");
            }
            let line = format!("{number:06}{}", "x".repeat(1 << 20));
            notebook.add(&tenant, &line).unwrap();
            let there = notebook.lines(&tenant).unwrap();
            assert_eq!(there.fallen_out + there.lines.len() as u64, number + 1);
            assert!(there.lines.len() as u64 <= most);
            let first = &there.lines[0];
            assert_eq!(first[..6].parse::<u64>().unwrap(), there.fallen_out, "the oldest go");
        }
        assert!(notebook.lines(&tenant).unwrap().fallen_out > 30);
    }
}
