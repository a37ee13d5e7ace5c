//! How long the kernel may keep what it is told.

use std::time::Duration;

use fuser::{Generation, ReplyEntry};

use super::attr;
use super::reply::errno;
use crate::ops::{Attr, Entry, Errno};

/// How long the kernel may keep names and attributes.
#[derive(Clone, Copy, Debug)]
pub struct Caching {
    /// Time to live of names and attributes.
    pub ttl: Duration,
}

impl Caching {
    /// Mounted over itself: nobody else reaches the directory.
    pub const EXCLUSIVE: Caching = Caching { ttl: Duration::from_secs(86_400) };
    /// Mounted elsewhere: a change made behind the mount is seen within this time.
    pub const SHARED: Caching = Caching { ttl: Duration::from_secs(1) };

    pub(super) fn ttl_of(&self, attr: &Attr) -> Duration {
        if attr.unsettled { self.ttl.min(UNSETTLED_TTL) } else { self.ttl }
    }

    pub(super) fn reply_lookup(&self, found: Result<Option<Entry>, Errno>, reply: ReplyEntry) {
        match found {
            Ok(Some(entry)) => reply.entry(
                &self.ttl_of(&entry.attr),
                &attr::file_attr(&entry.attr.stat),
                Generation(entry.generation.into()),
            ),
            // A name that is not there is kept too, by an entry without an inode.
            Ok(None) => reply.entry(&self.ttl, &attr::nothing(), Generation(0)),
            Err(error) => reply.error(errno(error)),
        }
    }
}

/// Attributes of a file that may be changed through a mapping are kept this long.
pub(super) const UNSETTLED_TTL: Duration = Duration::from_secs(1);
