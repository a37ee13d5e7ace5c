//! Pins: files and directories that a person keeps from being archived or released.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;

use crate::sys;

/// What a person wants never to happen to a file, or to anything below a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// Never archived, so never released.
    NeverArchive,
    /// Archived, never released.
    NeverRelease,
}

impl Pin {
    /// The word stored and shown.
    pub fn word(self) -> &'static str {
        match self {
            Pin::NeverArchive => "never-archive",
            Pin::NeverRelease => "never-release",
        }
    }

    /// The one that forbids more.
    pub fn harder(one: Option<Pin>, other: Option<Pin>) -> Option<Pin> {
        match (one, other) {
            (Some(Pin::NeverArchive), _) | (_, Some(Pin::NeverArchive)) => Some(Pin::NeverArchive),
            (one, other) => one.or(other),
        }
    }
}

fn name(rootless: bool) -> &'static CStr {
    if rootless { c"user.coldfs.pin" } else { c"trusted.coldfs.pin" }
}

pub(super) fn read(fd: impl AsFd, rootless: bool) -> io::Result<Option<Pin>> {
    let value = match sys::xattr::value(fd, name(rootless)) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => None,
        Err(error) if rootless && error.raw_os_error() == Some(libc::EACCES) => None,
        other => other?,
    };
    Ok(value.map(|word| match word.as_slice() {
        b"never-release" => Pin::NeverRelease,
        // A word of a later version pins as hard as there is.
        _ => Pin::NeverArchive,
    }))
}

pub(super) fn write(fd: impl AsFd, rootless: bool, pin: Option<Pin>) -> io::Result<()> {
    match pin {
        Some(pin) => sys::xattr::set(fd, name(rootless), pin.word().as_bytes(), 0),
        None => match sys::xattr::remove(fd, name(rootless)) {
            Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(()),
            other => other,
        },
    }
}
