//! What the policy is told: plain copies of the contract's records.

/// Where the bytes of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residency {
    /// Local, no valid remote copy.
    Resident,
    /// Local, and a verified remote copy.
    Archived,
    /// Remote only.
    Released,
}

/// How well the idle time is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Watched for at least that long.
    Observed,
    /// An atime that the mount options make trustworthy, to a day (relatime).
    Atime,
    /// Only the time since the last change.
    Unknown,
}

/// What somebody decided for this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// Nothing.
    None,
    /// Its bytes do not leave this machine.
    NeverArchive,
    /// Its bytes stay here; a copy may be stored.
    NeverRelease,
}

/// Whose a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// One file offered to the policy.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Logical size.
    pub size_bytes: u64,
    /// What a release would free.
    pub local_bytes: u64,
    /// Last change, seconds since 1970.
    pub mtime_seconds: i64,
    /// Since the last read or write.
    pub idle_seconds: u32,
    /// How well that is known.
    pub evidence: Evidence,
    /// Exponentially decayed count of accesses.
    pub heat: f32,
    /// Since the last recall; none: never.
    pub recalled_seconds: Option<u32>,
    /// Open file descriptions.
    pub open_count: u32,
    /// Where its bytes are.
    pub residency: Residency,
    /// Relative to the tenant's root; none unless the rules want it.
    pub path: Option<&'a str>,
    /// None unless the rules want it.
    pub owner: Option<Owner>,
    /// What somebody decided.
    pub pin: Pin,
}

/// What to do with a file; to keep it is to say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Store a verified copy.
    Archive,
    /// Replace the local bytes of an archived file by a stub.
    Release,
    /// Archive, then release.
    Migrate,
    /// Bring the bytes back.
    Recall,
}

impl Action {
    /// Whether local bytes go away.
    pub fn frees(self) -> bool {
        match self {
            Action::Release | Action::Migrate => true,
            Action::Archive | Action::Recall => false,
        }
    }
}

/// Prices, in one currency; zero where unknown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tariff {
    /// A GiB on the local disk, a month.
    pub local_gib_month: f64,
    /// A GiB in the store, a month.
    pub remote_gib_month: f64,
    /// One PUT.
    pub put: f64,
    /// One GET.
    pub get: f64,
    /// A GiB that leaves the store.
    pub egress_gib: f64,
    /// Small files that share a PUT.
    pub files_per_put: f32,
    /// What an object is billed for at least.
    pub minimum_billable_bytes: u64,
    /// How long an object is billed at least.
    pub minimum_billable_seconds: u32,
}

/// What is known of a tenant when a pass starts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// Seconds since 1970.
    pub now_seconds: i64,
    /// After which heat has halved; 0: unknown.
    pub heat_half_life_seconds: u32,
    /// What the tenant has here.
    pub local_bytes: u64,
    /// What it may have here.
    pub quota_bytes: Option<u64>,
    /// Size of the filesystem below.
    pub capacity_bytes: u64,
    /// Used of it, by everybody.
    pub used_bytes: u64,
    /// To be freed in this pass for the filesystem's sake.
    pub release_goal_bytes: u64,
    /// Prices.
    pub tariff: Tariff,
}

/// A released file that is being read.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// Logical size.
    pub size_bytes: u64,
    /// Read of it since it was released.
    pub read_bytes: u64,
    /// Opens since it was released, this one included.
    pub opens: u32,
}
