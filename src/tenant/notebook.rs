//! A file of lines in `.coldfs` that people read and that never grows beyond two halves.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};

use super::Tenant;

/// A half's size; the other half is what was before it.
const HALF_BYTES: u64 = 8 << 20;

/// Lines under a name, and before them lines under the same name with `.1`.
#[derive(Debug)]
pub struct Notebook {
    name: &'static str,
    open: Mutex<Option<(File, u64)>>,
}

impl Notebook {
    /// A notebook under this name; nothing is made before the first line.
    pub const fn new(name: &'static str) -> Self {
        Self { name, open: Mutex::new(None) }
    }

    /// All lines that there are, oldest first.
    pub fn lines(&self, tenant: &Tenant) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        for name in [format!("{}.1", self.name), self.name.to_owned()] {
            let file = match tenant.home.open_to_look(&name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let mut text = Vec::new();
            file.take(2 * HALF_BYTES).read_to_end(&mut text)?;
            lines.extend(String::from_utf8_lossy(&text).lines().map(str::to_owned));
        }
        Ok(lines)
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
            let file = tenant.home.open_for_append(self.name)?;
            let written = file.metadata()?.len();
            *open = Some(if written < HALF_BYTES {
                (file, written)
            } else {
                tenant.home.rename(self.name, &format!("{}.1", self.name))?;
                (tenant.home.open_for_append(self.name)?, 0)
            });
        }
        let Some((file, written)) = open.as_mut() else { return Ok(()) };
        file.write_all(format!("{line}\n").as_bytes())?;
        *written += line.len() as u64 + 1;
        Ok(())
    }
}
