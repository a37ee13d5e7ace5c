//! Maps of the kernel's BPF machine: taking many entries at once (`bpf(2)`, Linux 5.6).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `BPF_MAP_LOOKUP_AND_DELETE_BATCH` of bpf.h.
const LOOKUP_AND_DELETE_BATCH: libc::c_int = 25;

/// `union bpf_attr`, the part for batches.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Where a batch goes on: opaque to us, four bytes for a hash map.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor(Option<u32>);

/// Room for entries of a hash map whose keys are two words and whose values are one.
#[derive(Debug)]
pub struct Batch {
    keys: Vec<[u64; 2]>,
    values: Vec<u64>,
}

/// What one call took.
#[derive(Debug)]
pub struct Taken<'a> {
    /// Keys of the entries.
    pub keys: &'a [[u64; 2]],
    /// Their values, in the same order.
    pub values: &'a [u64],
    /// Whether the map has more behind them.
    pub more: bool,
}

impl Batch {
    /// Room for so many.
    pub fn with_room(entries: usize) -> Self {
        Self { keys: vec![[0; 2]; entries], values: vec![0; entries] }
    }

    /// Takes entries out of the map, behind `cursor`. `ENOSPC`: a bucket has more than there is
    /// room for.
    pub fn take(&mut self, map: impl AsFd, cursor: &mut Cursor) -> io::Result<Taken<'_>> {
        let mut next = 0_u32;
        let from = cursor.0;
        let mut attr = BatchAttr {
            in_batch: from.as_ref().map_or(0, |from| std::ptr::from_ref(from) as u64),
            out_batch: std::ptr::from_mut(&mut next) as u64,
            keys: self.keys.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            count: u32::try_from(self.keys.len()).unwrap_or(u32::MAX),
            map_fd: map.as_fd().as_raw_fd().cast_unsigned(),
            ..BatchAttr::default()
        };
        // SAFETY: all addresses in `attr` are of buffers that outlive the call; keys and values
        // have room for `count` entries of 16 and 8 bytes, which is what callers' maps hold.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                LOOKUP_AND_DELETE_BATCH,
                &raw mut attr,
                size_of::<BatchAttr>(),
            )
        };
        let more = if answer < 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::ENOENT) {
                return Err(error);
            }
            false
        } else {
            true
        };
        cursor.0 = more.then_some(next);
        let count = usize::try_from(attr.count).unwrap_or(0).min(self.keys.len());
        Ok(Taken { keys: &self.keys[..count], values: &self.values[..count], more })
    }
}
