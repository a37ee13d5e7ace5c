//! What is agreed with the kernel at INIT.

use fuser::{InitFlags, KernelConfig};

/// Flags that every kernel we support is asked for, where it has them.
const WANTED: [InitFlags; 12] = [
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_AUTO_INVAL_DATA,
    InitFlags::FUSE_MAX_PAGES,
];

/// Largest read or write request, bytes.
pub(super) const MAX_REQUEST_BYTES: u32 = 1 << 20;

/// Asks for what the kernel has. Returns whether it grants passthrough, if that is wanted.
pub(super) fn negotiate(config: &mut KernelConfig, mut passthrough: bool) -> bool {
    for flag in WANTED {
        if config.capabilities().contains(flag) && config.add_capabilities(flag).is_err() {
            tracing::debug!(?flag, "this kernel does without");
        }
    }
    if passthrough {
        let possible = config.capabilities().contains(InitFlags::FUSE_PASSTHROUGH)
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok();
        passthrough = possible;
    }
    let sizes = config
        .set_max_write(MAX_REQUEST_BYTES)
        .and_then(|_| config.set_max_readahead(MAX_REQUEST_BYTES));
    if let Err(nearest) = sizes {
        tracing::debug!(nearest, "the kernel takes requests of another size");
    }
    passthrough
}
