//! New files: made below as the caller, and open from then on.

use std::fs::File;
use std::sync::Arc;

use nix::sys::stat::fstat;

use super::lookup::Entry;
use super::open::{OpenRequest, Opened, RegisterBacking, Step, blocking};
use super::{Answer, Attr, Caller, Errno, Name, Ops};
use crate::file_id::Ino;
use crate::inode::{Inode, Serving, TierGuard};
use crate::sys;

/// A new file, not yet open.
struct Created {
    inode: Arc<Inode>,
    file: Arc<File>,
    entry: Entry,
}

impl Ops {
    /// Creates a file and opens it; opens it if it is there and `flags` allow.
    pub fn create(
        self: &Arc<Self>,
        caller: Caller,
        parent: Ino,
        name: &Name,
        mode: u32,
        flags: i32,
        door: Arc<dyn RegisterBacking>,
    ) -> Answer<(Entry, Opened)> {
        let opened = match self.create_file(caller, parent, name, mode) {
            Ok(created) => self.open_created(caller, created, door),
            Err(Errno(libc::EEXIST)) if flags & libc::O_EXCL == 0 => {
                let found = self.lookup(parent, name);
                found.and_then(|entry| entry.ok_or(Errno(libc::ENOENT))).map(|entry| {
                    let ino = Ino(entry.attr.stat.st_ino);
                    (entry, self.open(caller, ino, flags, door))
                })
            }
            Err(error) => Err(error),
        };
        match opened {
            Ok((entry, Answer::Now(opened))) => Answer::Now(opened.map(|opened| (entry, opened))),
            Ok((entry, Answer::Later(opened))) => {
                Answer::later(async move { Ok((entry, opened.await?)) })
            }
            Err(error) => Answer::Now(Err(error)),
        }
    }

    fn create_file(
        &self,
        caller: Caller,
        parent: Ino,
        name: &Name,
        mode: u32,
    ) -> Result<Created, Errno> {
        use nix::fcntl::{OFlag, openat};
        let dir = self.dir_for_change(parent, name)?;
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR | OFlag::O_NOFOLLOW;
        let file = {
            let _caller = caller.enter()?;
            let mode = nix::sys::stat::Mode::from_bits_truncate(mode);
            openat(dir.as_fd(), name.as_cstr(), flags | OFlag::O_CLOEXEC, mode)?
        };
        self.tenant.noticed.name(dir.ino(), name.as_bytes());
        let stat = fstat(&file)?;
        let handle = sys::handle::of(&file, c"")?;
        let anchor = file.try_clone()?;
        let inode = self.inodes.enter_looked_up(anchor, handle, &stat);
        let generation = inode.handle.generation();
        let entry = Entry { attr: Attr { stat, unsettled: true }, generation };
        Ok(Created { inode, file: Arc::new(File::from(file)), entry })
    }

    fn open_created(
        self: &Arc<Self>,
        caller: Caller,
        created: Created,
        door: Arc<dyn RegisterBacking>,
    ) -> Result<(Entry, Answer<Opened>), Errno> {
        let Created { inode, file, entry } = created;
        let request = OpenRequest {
            caller,
            writable: true,
            truncate: false,
            exec: false,
            fill_waited: true,
            proven_here: false,
            visit: None,
            door,
        };
        let open = move |ops: &Arc<Self>, inode: &Arc<Inode>, held: &mut TierGuard| {
            if matches!(inode.serving(), Serving::Closed) {
                let how = ops.serve_local(inode, held, file, &request);
                return Ok(ops.opened(inode, held, &request, how));
            }
            match ops.open_step(inode, held, &request, true)? {
                Step::Done(opened) => Ok(opened),
                Step::Wait(_) => Err(Errno(libc::EIO)),
            }
        };
        // A walk that sees the new name may be looking whether the file is one to move.
        let answer = match inode.try_tier() {
            Some(mut held) => Answer::Now(open(self, &inode, &mut held)),
            None => {
                let ops = Arc::clone(self);
                Answer::later(async move {
                    let mut held = inode.tier().await;
                    blocking(move || open(&ops, &inode, &mut held)).await
                })
            }
        };
        Ok((entry, answer))
    }
}
