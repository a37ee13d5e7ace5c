//! `.coldfs/conflicts`: a line for every body that nobody can account for. Kept for a person;
//! nothing reads it back.

use std::io::{self, Write};

use super::Home;
use crate::file_id::Ino;

const FILE_NAME: &str = "conflicts";

/// Beyond this size nothing is added; the log has it still.
const MAX_BYTES: u64 = 16 << 20;

pub(super) fn append(home: &Home, ino: Ino, what: &str) -> io::Result<()> {
    let mut file = home.open_for_append(FILE_NAME)?;
    if file.metadata()?.len() > MAX_BYTES {
        return Ok(());
    }
    let when = std::time::SystemTime::now();
    let when = when.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    file.write_all(format!("{when} inode {ino}: {what}\n").as_bytes())
}
