//! What of a file a release would lose, or could not give back.

use std::io;
use std::os::fd::AsFd;

use nix::sys::stat::FileStat;

use super::Skip;
use crate::sys::{self, xattr};
use crate::tenant::Tenant;

/// Why a file is never released; none where nothing speaks against it.
pub(super) fn barred(tenant: &Tenant, fd: impl AsFd, stat: &FileStat) -> io::Result<Option<Skip>> {
    if xattr::value(fd, xattr::FILE_CAPABILITIES)?.is_some() {
        return Ok(Some(Skip::Capabilities));
    }
    if stat.st_mode & (libc::S_ISUID | libc::S_ISGID) != 0 && !sys::has_capability(sys::CAP_FSETID)
    {
        return Ok(Some(Skip::SetId));
    }
    Ok((!tenant.can_record(stat.st_mode)).then_some(Skip::Unwritable))
}
