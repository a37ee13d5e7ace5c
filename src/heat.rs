//! Heat: who reads what, told by the kernel itself.
//!
//! With passthrough the daemon sees no reads, and access times lie. A probe ([`Probe`], its
//! source in `bpf/`) counts accesses inside the kernel, by device and inode; one thread
//! ([`Watch`]) takes the counts every few seconds and adds them to the [`Ledger`] of the tenant
//! whose file it is. The catalog takes them from there into its rows.
//!
//! ```text
//! kernel: probe -> map -> Watch -> Ledger (a tenant) -> catalog rows
//!                               opens, where there is no probe ^
//! ```
//!
//! An access is never made older than it is: everything that is taken happened at the latest at
//! the time it is taken, and is dated so. Whatever is lost on the way (a full map, a stopped
//! thread, a clock that was set) ends the time for which a ledger vouches
//! ([`Sight::since`]): idleness is proven from there on only. Unknown is not cold.

mod btf;
mod kind;
#[allow(dead_code, reason = "shared with the probe, each side uses its part")]
#[path = "../bpf/src/layout.rs"]
mod layout;
mod ledger;
mod object;
mod offsets;
mod owners;
mod pass;
mod probe;
mod proof;
mod watch;

pub use kind::{Choice, Kind};
pub use ledger::{FILES_WAITING, Ledger, Sight, Source, Touch, Via};
pub use object::{CHECKSUMS, OBJECT};
pub use probe::{Probe, ProbeError};
pub use watch::{Options, Quiet, Report, Watch, try_here};
