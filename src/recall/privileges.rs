//! What a file loses whenever somebody writes to it, and a move gives back.

use std::fs::File;
use std::io;

use nix::sys::stat::{Mode, fchmod, fstat};

use crate::sys::xattr;

/// A file's privileges as they were before a write. Given to the stub, they are the file's.
#[derive(Debug)]
pub(crate) struct Privileges {
    capabilities: Option<Vec<u8>>,
    mode: u32,
}

const SET_ID_BITS: u32 = libc::S_ISUID | libc::S_ISGID;

impl Privileges {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let capabilities = xattr::value(file, xattr::FILE_CAPABILITIES)?;
        Ok(Self { capabilities, mode: fstat(file)?.st_mode })
    }

    /// Puts back what was lost since.
    pub(crate) fn restore(&self, file: &File) -> io::Result<()> {
        if self.mode & SET_ID_BITS & !fstat(file)?.st_mode != 0 {
            fchmod(file, Mode::from_bits_truncate(self.mode))?;
        }
        match &self.capabilities {
            Some(value) => xattr::set(file, xattr::FILE_CAPABILITIES, value, 0),
            None => Ok(()),
        }
    }
}
