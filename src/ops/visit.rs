//! What the guard is told of an open of a cold file.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::{Caller, Ops};
use crate::guard::reader::Reader;
use crate::guard::{Ask, Visit, Why};
use crate::inode::{Cold, Inode};

impl Ops {
    /// A question to the guard. `bytes`: what will be fetched at once.
    pub(super) fn visit(
        &self,
        caller: Caller,
        inode: &Inode,
        cold: &Cold,
        why: Why,
        bytes: u64,
    ) -> Arc<Visit> {
        // As it is called now, for a person; a file without a name has a number.
        let path = std::fs::read_link(format!("/proc/self/fd/{}", cold.file.as_raw_fd()));
        let ask = Ask {
            ino: inode.ino,
            path: path.unwrap_or_default(),
            size_bytes: cold.record.size_bytes,
            remote_bytes: cold.place.packing.packed_bytes(),
            segment: cold.record.at.segment,
            bytes,
            why,
        };
        self.guard.visit(Reader::look(caller.pid, caller.uid), ask)
    }
}
