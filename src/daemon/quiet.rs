//! Whose reads warm nothing, as the probe is told: the classes that bring nothing home.
//!
//! The kernel compares names and control groups itself, at every read. What only a look at the
//! process tells (patterns, paths, users) is looked up here, so that a process that has just begun
//! may warm files for some seconds.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::guard::class::Classes;
use crate::guard::reader::Reader;
use crate::heat::Quiet;
use crate::sys::mount_table::MountTable;

/// How often all processes are looked at: 40 us each.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Control groups below each other: as deep as the probe looks.
const DEEPEST: usize = 8;

/// Finds them anew whenever it is asked, processes now and then.
pub(super) fn finder(classes: Classes) -> impl FnMut() -> Quiet + Send + 'static {
    // Where the unified hierarchy is mounted.
    let unified = MountTable::read()
        .ok()
        .and_then(|table| table.first_of("cgroup2").map(|mount| mount.at.clone()));
    let mut looked: Option<Instant> = None;
    let mut tasks = Vec::new();
    move || {
        if looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
            looked = Some(Instant::now());
            tasks = quiet_tasks(&classes);
        }
        let mut groups = Vec::new();
        if let Some(root) = &unified {
            find_groups(&classes, root, root, DEEPEST, &mut groups);
        }
        Quiet { tasks: tasks.clone(), names: classes.quiet_names(), groups }
    }
}

fn quiet_tasks(classes: &Classes) -> Vec<u32> {
    let mut tasks = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let uid = entry.metadata().map_or(0, |meta| meta.uid());
        if classes.is_quiet(&Reader::look(process, uid)) {
            tasks.push(process);
        }
    }
    tasks.sort_unstable();
    tasks
}

fn find_groups(classes: &Classes, root: &Path, dir: &Path, deepest: usize, found: &mut Vec<u64>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        let shown = path.strip_prefix(root).map(|path| format!("/{}", path.display()));
        if shown.is_ok_and(|shown| classes.is_quiet_group(&shown)) {
            // And with it all that is below.
            found.extend(entry.metadata().map(|meta| meta.ino()));
        } else if deepest > 0 {
            find_groups(classes, root, &path, deepest - 1, found);
        }
    }
}
