//! From what is wanted to what a daemon needs: a file's settings, and what stands above them.

use std::path::PathBuf;

use super::file::ConfigFile;
use super::{MountFlags, MountOptions, S3Options, StoreUrl, TenantName, checks, state, usage};
use crate::control::wire::{Problem, ProblemKind};
use crate::sys::mount_table::MountTable;
use crate::tenant::Succession;

/// What is wanted of one directory, over what the file says.
#[derive(Debug)]
pub struct Wanted {
    /// The directory.
    pub data_dir: PathBuf,
    /// Where.
    pub mountpoint: PathBuf,
    /// The store, whatever the file says.
    pub store: Option<StoreUrl>,
    /// Whether it may be one that does not know the tenant.
    pub new_store: bool,
    /// Whether the directory becomes the owner of what the tenant has there.
    pub succession: Succession,
    /// The tenant's name, whatever the file says.
    pub tenant: Option<TenantName>,
    /// Flags of the mount.
    pub flags: MountFlags,
    /// The file.
    pub config: Option<PathBuf>,
    /// The policy's component, whatever the file says.
    pub policy: Option<PathBuf>,
    /// Whether the file is for others too, whose stores may be of another kind.
    pub is_one_of_many: bool,
}

/// A mistake in what an option says.
pub fn wrong(option: &str, cause: impl std::fmt::Display) -> Problem {
    usage(format!("{option}: {cause}"), "see `coldfs mount --help`")
}

/// What is to be mounted, its places checked. It looks at them: not for async threads.
pub fn resolve(file: ConfigFile, wanted: Wanted) -> Result<MountOptions, Problem> {
    let store = match wanted.store.or_else(|| file.store.clone()) {
        Some(store) => store,
        None => StoreUrl::from_env()?,
    };
    let is_disk = matches!(store, StoreUrl::Disk(_));
    if is_disk && !wanted.is_one_of_many && file.s3 != S3Options::default() {
        let cause = "the table [s3] is for a store s3://BUCKET/PREFIX, and this is a disk: store";
        return Err(wrong("--config", cause));
    }
    let tuning = file.tuning();
    let catalog_dir = file.catalog_dir().or_else(state::catalog_dir);
    let (heat, half_life) = file.heat().map_err(|cause| wrong("--config", cause))?;
    let rules = file.rules().map_err(|cause| wrong("--config", cause))?;
    let table = MountTable::read().map_err(|error| {
        Problem::new(ProblemKind::Failed, format!("read the mount table: {error}"), "mount /proc")
    })?;
    let places = checks::check(&wanted.data_dir, &wanted.mountpoint, &store, &table)?;
    let code_dir = catalog_dir.as_ref().map(|dir| dir.join("policy"));
    let tiering = file.tiering(places.store_apart, code_dir);
    let mut tiering = tiering.map_err(|cause| wrong("--config", cause))?;
    tiering.policy.component = wanted.policy.clone().or(tiering.policy.component);
    let given = wanted.tenant.or(file.tenant);
    let tenant_given = given.is_some();
    let tenant = given.map_or_else(|| TenantName::of(&places.data_dir), Ok)?;
    Ok(MountOptions {
        data_dir: places.data_dir,
        mountpoint: places.mountpoint,
        store: places.store,
        s3: if is_disk { S3Options::default() } else { file.s3 },
        new_store: wanted.new_store,
        succession: wanted.succession,
        tenant,
        tenant_given,
        flags: wanted.flags,
        tuning,
        catalog_dir,
        heat,
        half_life,
        rules,
        tiering,
        config: wanted.config,
        policy: wanted.policy,
        store_apart: places.store_apart,
        notes: places.notes,
    })
}
