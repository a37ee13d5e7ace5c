//! Configuration: what a person asked for, checked and made whole before anything is mounted.
//!
//! Only this module builds the daemon's options. A command line and a configuration file
//! ([`file`]) say what is wanted, `-o` lists ([`mount_flags`]) say it as `mount(8)` does,
//! [`tenants`] are those of a `coldfs serve`, [`resolve`] puts it together, and [`checks`] refuses
//! places that cannot work, naming what to do instead.

pub mod checks;
pub mod file;
mod heat;
pub mod mount_flags;
mod places;
pub mod resolve;
pub mod s3_options;
pub mod state;
pub mod store_url;
mod storm;
pub mod tenant;
pub mod tenants;
pub mod tiering;

use std::path::PathBuf;
use std::time::Duration;

pub use mount_flags::{Access, MountFlags};
pub use s3_options::S3Options;
pub use store_url::StoreUrl;
pub use tenant::TenantName;

use crate::control::wire::{Problem, ProblemKind};
use crate::guard::Rules;
use crate::temperature::HalfLife;
use crate::tenant::Succession;

/// Everything a daemon needs to serve one directory.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// The fronted directory: absolute, without symlinks, exists.
    pub data_dir: PathBuf,
    /// Where it is to be mounted: absolute, without symlinks, exists; may be `data_dir`.
    pub mountpoint: PathBuf,
    /// Where cold bytes go.
    pub store: StoreUrl,
    /// How its engine is reached and used.
    pub s3: S3Options,
    /// Whether the store may be one that does not know the tenant.
    pub new_store: bool,
    /// Whether this directory becomes the owner of what the tenant has in the store.
    pub succession: Succession,
    /// The tenant's name: a new tenant's, or what a known one has to have if it was given.
    pub tenant: TenantName,
    /// Whether a person gave it; else it is DATA_DIR's last component.
    pub tenant_given: bool,
    /// Flags of the mount.
    pub flags: MountFlags,
    /// What may be turned.
    pub tuning: Tuning,
    /// Where the catalog is kept; none: nothing says where a home is.
    pub catalog_dir: Option<PathBuf>,
    /// How uses of files are seen.
    pub heat: crate::heat::Options,
    /// How long until a use counts half.
    pub half_life: HalfLife,
    /// Who may bring cold files home, and how much.
    pub rules: Rules,
    /// How files move by themselves.
    pub tiering: crate::tiering::Options,
    /// The configuration file; `coldfs policy reload` reads it again.
    pub config: Option<PathBuf>,
    /// The component that the command line names, whatever the file says.
    pub policy: Option<PathBuf>,
    /// Whether the store is on another filesystem than the data: only then a release frees anything.
    pub store_apart: bool,
    /// What the checks found worth telling: for `status`, a sentence each.
    pub notes: Vec<String>,
}

/// What may be turned, each with its default (DESIGN.md section 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// A cold read fails with ETIMEDOUT after this long without a byte. Turned by whoever
    /// runs applications that would rather wait, or rather fail, than 60 s.
    pub recall_deadline: Duration,
    /// A stub of up to this size is recalled inside a read-only open, so that it opens
    /// passthrough. Turned down where open() must be quick on a slow store.
    pub recall_in_open_bytes: u64,
    /// A stub of up to this size is recalled whole by its first read. Turned up on fast links.
    pub recall_whole_bytes: u64,
    /// Memory for chunks of files that are read without being recalled.
    pub chunk_cache_bytes: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            recall_deadline: Duration::from_secs(60),
            recall_in_open_bytes: 1 << 20,
            recall_whole_bytes: 16 << 20,
            chunk_cache_bytes: 64 << 20,
        }
    }
}

/// A person's mistake: exit code 2.
pub(crate) fn usage(what: impl Into<String>, next_step: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::Usage, what, next_step)
}
