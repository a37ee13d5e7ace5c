//! What this machine has and lacks for coldfs: facts looked at one by one, each with what it
//! means and what to do. Nothing is changed.

mod engine;

use std::ffi::CStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

use crate::config::checks::{FS_TYPE, check_filesystem};
use crate::heat::{Kind, ProbeError};
use crate::store::disk::Access;
use crate::sys;

pub use engine::examine as store;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// It works, less well.
    Warn,
    /// It does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at, stable for scripts.
    pub name: &'static str,
    /// How it came out.
    pub grade: Grade,
    /// What was seen and what it means.
    pub what: String,
    /// What to do; empty where there is nothing to do.
    pub next_step: String,
}

impl Check {
    fn ok(name: &'static str, what: impl Into<String>) -> Self {
        Self { name, grade: Grade::Ok, what: what.into(), next_step: String::new() }
    }

    fn new(
        name: &'static str,
        grade: Grade,
        what: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { name, grade, what: what.into(), next_step: next.into() }
    }
}

/// Looks at the machine itself.
pub fn machine() -> Vec<Check> {
    vec![
        fuse_device(Path::new("/dev/fuse")),
        fusermount(&std::env::var_os("PATH").unwrap_or_default()),
        passthrough(&read("/proc/sys/kernel/osrelease"), sys::has_capability(sys::CAP_SYS_ADMIN)),
        handles_capability(sys::has_capability(sys::CAP_DAC_READ_SEARCH)),
        allow_other(&read("/etc/fuse.conf"), nix::unistd::geteuid().is_root()),
        open_files(nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)),
        probe(crate::heat::try_here()),
        updatedb(std::fs::read_to_string("/etc/updatedb.conf").ok().as_deref()),
    ]
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn fuse_device(device: &Path) -> Check {
    const NAME: &str = "fuse_device";
    let shown = device.display();
    match std::fs::File::options().read(true).write(true).open(device) {
        Ok(_) => Check::ok(NAME, format!("{shown} opens")),
        Err(error) => Check::new(
            NAME,
            Grade::Fail,
            format!("{shown}: {error}: nothing can be mounted"),
            match error.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    "run as root, or let users at it: chmod 666 /dev/fuse; in a container, pass it \
                     in (--device /dev/fuse)"
                }
                _ => "modprobe fuse; in a container, pass it in (--device /dev/fuse)",
            },
        ),
    }
}

fn fusermount(path: &std::ffi::OsStr) -> Check {
    const NAME: &str = "fusermount3";
    let found = std::env::split_paths(path).map(|dir| dir.join(NAME)).find(|file| file.is_file());
    match found {
        Some(file) => Check::ok(NAME, format!("{}", file.display())),
        None => Check::new(
            NAME,
            Grade::Fail,
            "fusermount3 is not in PATH: users cannot mount, and nobody can detach by it",
            "install it: apt-get install fuse3",
        ),
    }
}

/// Linux got FUSE passthrough in 6.9. Whether this one takes a backing file only a mount tells, and
/// nothing is mounted here.
fn passthrough(release: &str, is_admin: bool) -> Check {
    const NAME: &str = "passthrough";
    let mut numbers = release.trim().split(['.', '-']).map(|part| part.parse::<u32>());
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    };
    let release = release.trim();
    if version < (6, 9) {
        Check::new(
            NAME,
            Grade::Warn,
            format!("Linux {release} has no FUSE passthrough: the daemon serves every read"),
            "use Linux 6.9 or later",
        )
    } else if !is_admin {
        Check::new(
            NAME,
            Grade::Warn,
            format!(
                "Linux {release} has FUSE passthrough, but only for CAP_SYS_ADMIN: the daemon serves every read"
            ),
            "mount as root for native speed",
        )
    } else {
        Check::ok(
            NAME,
            format!(
                "Linux {release} has it and you may use it, as far as can be told without a mount: \
                 `coldfs status` of one shows whether resident files run at native speed"
            ),
        )
    }
}

fn handles_capability(has: bool) -> Check {
    const NAME: &str = "open_by_handle";
    if has {
        Check::ok(NAME, "files can be opened by handle")
    } else {
        Check::new(
            NAME,
            Grade::Warn,
            "no CAP_DAC_READ_SEARCH: files are found by path, recovery is slower",
            "mount as root",
        )
    }
}

fn allow_other(fuse_conf: &str, is_root: bool) -> Check {
    const NAME: &str = "user_allow_other";
    if fuse_conf.lines().any(|line| line.trim() == "user_allow_other") {
        Check::ok(NAME, "/etc/fuse.conf lets users mount with -o allow_other")
    } else if is_root {
        Check::ok(NAME, "not in /etc/fuse.conf; root needs it not")
    } else {
        Check::new(
            NAME,
            Grade::Warn,
            "not in /etc/fuse.conf: only you will see what you mount",
            "add a line user_allow_other to /etc/fuse.conf, or mount as root",
        )
    }
}

fn probe(here: Result<(Kind, Vec<String>), ProbeError>) -> Check {
    const NAME: &str = "probe";
    match here {
        Ok((kind @ (Kind::TpBtf | Kind::Fentry), _)) => {
            Check::ok(NAME, format!("{}: uses of files are seen in the kernel", kind.word()))
        }
        Ok((kind @ (Kind::RawTp | Kind::Tracepoint), refused)) => Check::new(
            NAME,
            Grade::Warn,
            format!("{}, slower than the best: {}", kind.word(), refused.join("; ")),
            "use a kernel with BTF (CONFIG_DEBUG_INFO_BTF)",
        ),
        Err(why) => Check::new(
            NAME,
            Grade::Warn,
            format!("uses of files are not seen in the kernel, none counts as idle by them: {why}"),
            "run as root or with CAP_BPF and CAP_PERFMON, on Linux 6.12 or later with BTF",
        ),
    }
}

/// Open files that one busy mount wants, with room for its connections.
const WANTED_FILES: u64 = 16_384;

fn open_files(limits: nix::Result<(u64, u64)>) -> Check {
    const NAME: &str = "open_files";
    match limits {
        Ok((_, hard)) if hard >= WANTED_FILES => {
            Check::ok(NAME, format!("up to {hard} open files"))
        }
        Ok((_, hard)) => Check::new(
            NAME,
            Grade::Warn,
            format!("at most {hard} open files: fewer files can be in use at once"),
            format!("raise the hard limit to {WANTED_FILES} (LimitNOFILE, limits.conf)"),
        ),
        Err(error) => {
            Check::new(NAME, Grade::Warn, format!("limit unknown: {error}"), "see ulimit -n")
        }
    }
}

fn updatedb(conf: Option<&str>) -> Check {
    const NAME: &str = "updatedb";
    let Some(conf) = conf else {
        return Check::ok(NAME, "no /etc/updatedb.conf: nothing crawls the mounts for locate");
    };
    let prunes = conf
        .lines()
        .filter(|line| line.trim_start().starts_with("PRUNEFS"))
        .any(|line| line.split(['"', ' ', '\t', '=']).any(|word| word == FS_TYPE));
    if prunes {
        Check::ok(NAME, format!("PRUNEFS in /etc/updatedb.conf has {FS_TYPE}"))
    } else {
        Check::new(
            NAME,
            Grade::Warn,
            format!(
                "PRUNEFS in /etc/updatedb.conf lacks {FS_TYPE}: locate crawls every mount daily"
            ),
            format!("add {FS_TYPE} to PRUNEFS in /etc/updatedb.conf"),
        )
    }
}

/// Looks at a directory that is to be served: handles, attributes, and room in an inode.
pub fn data_dir(dir: &Path) -> Check {
    const NAME: &str = "data_dir";
    match check_filesystem(dir).and_then(|()| writes_attributes(dir)) {
        Ok(()) => Check::ok(NAME, format!("{}: file handles and attributes work", dir.display())),
        Err(problem) => Check::new(NAME, Grade::Fail, problem.what, problem.next_step),
    }
}

/// Sets and removes an attribute on a file without a name, so that nothing stays.
fn writes_attributes(dir: &Path) -> Result<(), crate::control::wire::Problem> {
    let name: &CStr =
        if sys::has_capability(sys::CAP_SYS_ADMIN) { c"trusted.coldfs" } else { c"user.coldfs" };
    let written = tempfile::tempfile_in(dir).and_then(|file| {
        sys::xattr::set(&file, name, &[0; 64], 0)?;
        sys::xattr::remove(&file, name)
    });
    written.map_err(|error| {
        crate::control::wire::Problem::new(
            crate::control::wire::ProblemKind::Usage,
            format!("{}: cannot set {}: {error}", dir.display(), name.to_string_lossy()),
            "check that you may write there, on ext4, xfs or btrfs mounted read-write",
        )
    })
}

/// Looks whether releasing frees anything: not where a disk store, which may still have to be made,
/// is on the data directory's own filesystem.
pub fn store_apart(store: &Path, data_dir: &Path) -> Check {
    const NAME: &str = "store_apart";
    let (store_shown, data_shown) = (store.display(), data_dir.display());
    let on = |path: &Path| path.metadata().map(|meta| meta.dev());
    // A path of one component has an empty parent.
    let place = std::path::absolute(store).unwrap_or_else(|_| store.to_owned());
    let found = place.ancestors().find_map(|place| on(place).ok());
    match (found, on(data_dir)) {
        (Some(store), Ok(data)) if store != data => {
            Check::ok(NAME, format!("{store_shown} is on another filesystem than {data_shown}"))
        }
        (Some(_), Ok(_)) => Check::new(
            NAME,
            Grade::Warn,
            format!(
                "{store_shown} is on the filesystem of {data_shown}: releasing frees nothing, and \
                 nothing is tiered by itself"
            ),
            "name a store elsewhere with --store",
        ),
        (None, _) => Check::new(
            NAME,
            Grade::Warn,
            format!("{store_shown}: nobody can tell which filesystem it is on"),
            "check the path",
        ),
        (_, Err(error)) => {
            Check::new(NAME, Grade::Warn, format!("{data_shown}: {error}"), "check the directory")
        }
    }
}

/// Looks at who may enter a disk store, which holds files' bytes and tenants' keys.
pub fn store_access(dir: &Path) -> Check {
    const NAME: &str = "store_access";
    let shown = dir.display();
    match Access::of(dir) {
        Ok(access) if access.is_closed() => Check::ok(
            NAME,
            format!(
                "{shown}: closed to others (mode {:o}), whatever the modes within",
                access.mode
            ),
        ),
        Ok(access) => Check::new(
            NAME,
            Grade::Warn,
            format!(
                "{shown}: open to others (mode {:o}): they can read what is stored and tenants' \
                 keys",
                access.mode
            ),
            if access.is_ours() {
                format!("chmod go= {shown}; a mount does so too")
            } else {
                format!("as user {}: chmod go= {shown}", access.uid)
            },
        ),
        Err(error) => {
            Check::new(NAME, Grade::Fail, format!("{shown}: {error}"), "check the directory")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_is_not_ok_says_what_to_do() {
        for check in machine() {
            assert_eq!(check.grade == Grade::Ok, check.next_step.is_empty(), "{check:?}");
        }
    }

    #[track_caller]
    fn is(check: &Check, grade: Grade, words: &[&str]) {
        assert_eq!(check.grade, grade, "{check:?}");
        for word in words {
            let text = format!("{} {}", check.what, check.next_step);
            assert!(text.contains(word), "{word:?} is not in {check:?}");
        }
    }

    #[test]
    fn what_cannot_be_mounted_by_fails() {
        let dir = tempfile::tempdir().unwrap();
        let none = dir.path().join("fuse");
        is(&fuse_device(&none), Grade::Fail, &["No such file", "modprobe fuse"]);
        std::fs::write(&none, b"").unwrap();
        is(&fuse_device(&none), Grade::Ok, &["opens"]);
        is(&fusermount(dir.path().as_os_str()), Grade::Fail, &["not in PATH", "fuse3"]);
        is(&fusermount("".as_ref()), Grade::Fail, &["not in PATH"]);
        std::fs::write(dir.path().join("fusermount3"), b"").unwrap();
        is(&fusermount(dir.path().as_os_str()), Grade::Ok, &["fusermount3"]);
    }

    #[test]
    fn what_a_user_lacks_is_named() {
        is(&handles_capability(true), Grade::Ok, &["by handle"]);
        is(&handles_capability(false), Grade::Warn, &["CAP_DAC_READ_SEARCH", "mount as root"]);
        is(&allow_other("", false), Grade::Warn, &["only you", "/etc/fuse.conf"]);
        is(&open_files(Err(nix::Error::EPERM)), Grade::Warn, &["EPERM", "ulimit"]);
    }

    #[test]
    fn a_probe_that_is_slow_or_missing_is_named() {
        for kind in [Kind::TpBtf, Kind::Fentry] {
            is(&probe(Ok((kind, Vec::new()))), Grade::Ok, &[kind.word()]);
        }
        for kind in [Kind::RawTp, Kind::Tracepoint] {
            let refused = vec!["no BTF here".to_owned()];
            is(&probe(Ok((kind, refused))), Grade::Warn, &["no BTF here", "CONFIG_DEBUG_INFO_BTF"]);
        }
    }

    #[test]
    fn a_store_on_the_datas_own_filesystem_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let to_be_made = dir.path().join("a/store");
        let near = store_apart(&to_be_made, dir.path());
        is(&near, Grade::Warn, &["frees nothing", "--store"]);
        is(&store_apart(Path::new("/proc"), dir.path()), Grade::Ok, &["another filesystem"]);
        is(&store_apart(&to_be_made, &to_be_made), Grade::Warn, &["No such file", "check"]);
    }

    #[test]
    fn passthrough_needs_a_kernel_and_a_capability() {
        is(&passthrough("6.18.0", true), Grade::Ok, &["without a mount", "coldfs status"]);
        is(&passthrough("6.18.0", false), Grade::Warn, &["CAP_SYS_ADMIN", "mount as root"]);
        is(&passthrough("6.1.0", true), Grade::Warn, &["Linux 6.1.0", "6.9 or later"]);
        for (release, is_admin, grade) in [
            ("6.18.44-fc\n", true, Grade::Ok),
            ("6.9.0", true, Grade::Ok),
            ("6.18.0", false, Grade::Warn),
            ("6.1.0-13-amd64", true, Grade::Warn),
            ("", true, Grade::Warn),
        ] {
            assert_eq!(passthrough(release, is_admin).grade, grade, "{release}");
        }
    }

    #[test]
    fn files_of_etc_are_understood() {
        assert_eq!(allow_other("#user_allow_other\n", false).grade, Grade::Warn);
        assert_eq!(allow_other("user_allow_other\n", false).grade, Grade::Ok);
        assert_eq!(updatedb(None).grade, Grade::Ok);
        assert_eq!(updatedb(Some("PRUNEFS=\"NFS fuse.sshfs\"\n")).grade, Grade::Warn);
        assert_eq!(updatedb(Some("PRUNEFS = \"NFS fuse.coldfs\"\n")).grade, Grade::Ok);
        assert_eq!(open_files(Ok((1024, 4096))).grade, Grade::Warn);
    }

    #[test]
    fn a_directory_that_cannot_be_served_fails() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(data_dir(dir.path()).grade, Grade::Ok, "{:?}", data_dir(dir.path()));
        assert_eq!(data_dir(Path::new("/proc")).grade, Grade::Fail);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_store_that_others_may_enter_is_named() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        for (mode, grade) in [(0o700, Grade::Ok), (0o750, Grade::Warn), (0o701, Grade::Warn)] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(dir.path(), permissions).unwrap();
            let check = store_access(dir.path());
            assert_eq!((check.name, check.grade), ("store_access", grade), "{check:?}");
            assert_eq!(check.grade == Grade::Ok, check.next_step.is_empty(), "{check:?}");
        }
        assert_eq!(store_access(&dir.path().join("none")).grade, Grade::Fail);
    }
}
