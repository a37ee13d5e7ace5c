//! `coldfs mount`, and the same as a helper of `mount(8)`.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::{Args, Parser};
use serde::Serialize;

use super::output::Output;
use super::{Outcome, end_daemon, enter_daemon, say_begun};
use crate::background;
use crate::config::file::ConfigFile;
use crate::config::mount_flags::OptionList;
use crate::config::resolve::{Wanted, resolve as resolve_wanted, wrong};
use crate::config::{MountOptions, StoreUrl};
use crate::control::runtime::RuntimeDir;
use crate::control::wire::{Problem, WirePath};
use crate::daemon;
use crate::tenant::Succession;

const EXAMPLES: &str = "\
Examples:
  coldfs mount /srv/t1 /srv/t1
      Serve a directory in place: recommended, nobody can reach the files behind the mount.
  coldfs mount /srv/t1 /mnt/t1 --store s3://bucket/prefix
      Serve it elsewhere, cold bytes in S3 (credentials and endpoint: the standard AWS chain).
  coldfs mount /srv/t1 /srv/t1 --store disk:/cold/store -o allow_other,nosuid
  fusermount3 -u /srv/t1
      Detach. Released files are then small text files that say where their bytes are.

The store, without --store, is disk:/var/lib/coldfs/store for root and
disk:$XDG_DATA_HOME/coldfs/store for others; on the data's own filesystem it frees nothing.

-o takes defaults, ro, rw, allow_other, allow_root, suid, nosuid, dev, nodev, exec, noexec, sync,
async, dirsync, store=URL, tenant=NAME and config=FILE; user and users mean noexec,nosuid,nodev,
owner and group nosuid,nodev. It passes over what is for mount(8) and systemd (auto, noauto, nouser,
nofail, _netdev, silent, loud, comment=, helper=, uhelper=, x-*, X-*), what always holds
(default_permissions), and what only the filesystem below can do, which keeps the times (atime,
noatime, relatime, norelatime, strictatime, nostrictatime, diratime, nodiratime). In /etc/fstab, with a link /sbin/mount.coldfs to coldfs:
  /srv/t1 /srv/t1 coldfs store=s3://bucket/t1,allow_other,_netdev,nofail 0 0
With libfuse's mount.fuse3 the type fuse.coldfs does without the link.

--config FILE is TOML; every key, with its default:
  store = \"disk:DIR\" or \"s3://bucket/prefix\"
  tenant = \"the last component of DATA_DIR\"
  [recall]
  deadline = \"60s\"     a cold read fails with ETIMEDOUT after this long without a byte
  in_open = \"1MiB\"     up to this size, a file is fetched inside open()
  whole = \"16MiB\"      up to this size, a file is recalled by its first read
  [cache]
  chunks = \"64MiB\"     memory for files that are read without being recalled
  [catalog]
  dir = \"DIR\"          where what is known of all files is kept, which may be lost;
                       /var/lib/coldfs/catalog for root, $XDG_STATE_HOME/coldfs/catalog for others
  [heat]                how uses of files are seen: docs/heat.md
  half_life = \"7d\"      a use counts half after this long
  probe = \"auto\"        where to begin: tp_btf, fentry, raw_tp, tracepoint; or none
  drain = \"3s\"          how often the probe's counts are taken
  entries = 262144      files that may be used between two drains
  btf = \"FILE\"          the kernel's description, where /sys/kernel/btf/vmlinux is not
  [s3]                  how the store is reached and used: docs/engines.md
  [[class]] [budget.*] [brake]    who may recall how much: docs/storms.md
  [tiering]             files move by themselves: docs/policy.md
  enabled = true        false where the store is on the data's own filesystem
  interval = \"5m\"       from the end of a pass to the next
  high = 85, low = 80   percent of the filesystem between which cold files are released
  quota = \"100GiB\"      what the tenant may take here; none
  [policy]              component = \"FILE.wasm\" and [policy.settings]: docs/policy.md
The command line wins over -o, and -o over the file.

The command returns once the mount answers. Its daemon logs to NAME.log in the runtime
directory (COLDFS_RUNTIME_DIR, /run/coldfs for root), at most 8 MiB and the 8 MiB before.";

/// Serve a directory at a mountpoint, its cold files in a store
#[derive(Debug, Clone, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct MountArgs {
    /// The directory to serve
    data_dir: PathBuf,

    /// Where to mount it: an empty directory, or DATA_DIR itself
    mountpoint: PathBuf,

    /// Where cold bytes go: disk:DIR or s3://bucket/prefix
    #[arg(long, value_name = "URL")]
    store: Option<String>,

    /// Take a store that does not know the tenant, leaving behind what was released to another
    #[arg(long)]
    new_store: bool,

    /// Become the owner of what the tenant has in the store: the directory that was is gone
    #[arg(long)]
    take_over: bool,

    /// The tenant's name in the store
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,

    /// A configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// A policy component, instead of the one that the configuration names
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,

    /// Mount options, as mount(8) passes them
    #[arg(short = 'o', value_name = "OPTS", action = clap::ArgAction::Append)]
    options: Vec<String>,

    /// Stay in the foreground and log to standard error
    #[arg(short, long)]
    foreground: bool,

    /// Standard output is a pipe to the command that waits for the mount
    #[arg(long, hide = true, requires = "foreground")]
    ready_on_stdout: bool,

    /// Check everything and mount nothing
    #[arg(long)]
    check: bool,

    /// Pass over unknown -o words (mount -s)
    #[arg(long, hide = true)]
    sloppy: bool,
}

/// What `mount(8)` passes to a helper.
#[derive(Debug, Parser)]
#[command(name = "mount.coldfs", version)]
struct HelperArgs {
    /// The directory to serve
    data_dir: PathBuf,
    /// Where to mount it
    mountpoint: PathBuf,
    /// Mount options
    #[arg(short = 'o', action = clap::ArgAction::Append)]
    options: Vec<String>,
    /// Pass over unknown options
    #[arg(short = 's')]
    sloppy: bool,
    /// Check everything and mount nothing
    #[arg(short = 'f')]
    fake: bool,
    /// No mtab; there is none
    #[arg(short = 'n')]
    _no_mtab: bool,
    /// Talk more
    #[arg(short = 'v', action = clap::ArgAction::Count)]
    _verbose: u8,
    /// The type that was asked for
    #[arg(short = 't')]
    _kind: Option<String>,
}

/// Whether the program was called as `mount(8)` calls its helpers, or as libfuse's own helper
/// calls `coldfs` for `mount -t fuse.coldfs`: a path where a verb would stand.
pub fn is_mount_helper(program: &Path, first: Option<&OsString>) -> bool {
    let names = ["mount.coldfs", "mount.fuse.coldfs"];
    program.file_name().and_then(OsStr::to_str).is_some_and(|name| names.contains(&name))
        || first.is_some_and(|first| Path::new(first).is_absolute())
}

/// Reads a helper's arguments; ends the program where they are wrong.
pub fn helper_args(arguments: Vec<OsString>) -> MountArgs {
    let helper: HelperArgs = super::parse(arguments);
    MountArgs {
        data_dir: helper.data_dir,
        mountpoint: helper.mountpoint,
        store: None,
        new_store: false,
        take_over: false,
        tenant: None,
        config: None,
        policy: None,
        options: helper.options,
        foreground: false,
        ready_on_stdout: false,
        check: helper.fake,
        sloppy: helper.sloppy,
    }
}

#[derive(Serialize)]
struct Mounted {
    tenant: String,
    data_dir: WirePath,
    mountpoint: WirePath,
    store: String,
    notes: Vec<String>,
}

pub fn run(args: MountArgs, output: &mut Output) -> Result<Outcome, Problem> {
    let result = if args.foreground { serve(&args) } else { mount(&args, output) };
    end_daemon(args.ready_on_stdout, result)
}

fn mount(args: &MountArgs, output: &mut Output) -> Result<Outcome, Problem> {
    let options = resolve(args)?;
    let notes = if args.check {
        options.notes.clone()
    } else {
        let log = RuntimeDir::from_env()?.log_path(options.tenant.as_str());
        background::start(&child_arguments(args, &options)?, &log)?
    };
    let mounted = Mounted {
        tenant: options.tenant.to_string(),
        data_dir: options.data_dir.into(),
        mountpoint: options.mountpoint.into(),
        store: options.store.to_string(),
        notes,
    };
    say_begun(&mounted, &mounted.notes, output)?;
    Ok(Outcome::Done)
}

fn serve(args: &MountArgs) -> Result<Outcome, Problem> {
    let options = resolve(args)?;
    if args.check {
        return Ok(Outcome::Done);
    }
    let log = args.ready_on_stdout.then(RuntimeDir::from_env).transpose()?;
    let ready = enter_daemon(log.map(|runtime| runtime.log_path(options.tenant.as_str())))?;
    daemon::run(options, ready)?;
    Ok(Outcome::Done)
}

/// What is to be mounted: the command line over `-o` over the file over the defaults, checked.
fn resolve(args: &MountArgs) -> Result<MountOptions, Problem> {
    let list = OptionList::parse(&args.options.join(","), args.sloppy)?;
    let config = args.config.clone().or_else(|| list.config.clone().map(PathBuf::from));
    let config = config.map(|path| std::path::absolute(&path).unwrap_or(path));
    let file = match &config {
        Some(path) => ConfigFile::read(path)?,
        None => ConfigFile::default(),
    };
    if !file.tenants().is_empty() {
        return Err(wrong("--config", "[[tenants]] are for `coldfs serve`"));
    }
    let store = args.store.as_ref().or(list.store.as_ref());
    let store = store.map(|text| text.parse().map_err(|cause: String| wrong("--store", cause)));
    let policy =
        args.policy.as_ref().map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()));
    let tenant = args.tenant.as_ref().or(list.tenant.as_ref());
    let tenant = tenant.map(|name| name.parse().map_err(|cause: String| wrong("--tenant", cause)));
    let wanted = Wanted {
        data_dir: args.data_dir.clone(),
        mountpoint: args.mountpoint.clone(),
        store: store.transpose()?,
        new_store: args.new_store,
        succession: if args.take_over { Succession::TakeOver } else { Succession::Keep },
        tenant: tenant.transpose()?,
        flags: list.flags,
        config,
        policy,
        is_one_of_many: false,
    };
    resolve_wanted(file, wanted)
}

/// The daemon's own command line: what was resolved, so that it depends on no directory.
fn child_arguments(args: &MountArgs, options: &MountOptions) -> Result<Vec<OsString>, Problem> {
    let mut arguments: Vec<OsString> =
        ["mount", "--foreground", "--ready-on-stdout"].map(OsString::from).to_vec();
    if options.new_store {
        arguments.push("--new-store".into());
    }
    if options.succession == Succession::TakeOver {
        arguments.push("--take-over".into());
    }
    let mut add = |flag: &str, value: OsString| {
        let mut argument = OsString::from(flag);
        argument.push("=");
        argument.push(value);
        arguments.push(argument);
    };
    let store = match &options.store {
        StoreUrl::Disk(dir) => {
            let mut store = OsString::from("disk:");
            store.push(dir);
            store
        }
        StoreUrl::S3 { .. } => options.store.to_string().into(),
    };
    add("--store", store);
    if options.tenant_given {
        add("--tenant", options.tenant.to_string().into());
    }
    let list = OptionList::parse(&args.options.join(","), args.sloppy)?;
    if let Some(config) = args.config.clone().or_else(|| list.config.map(PathBuf::from)) {
        let config = std::path::absolute(&config)
            .map_err(|error| wrong("--config", format!("{}: {error}", config.display())))?;
        // The child reads this file and none that -o names: one place decides.
        add("--config", config.into());
    }
    if let Some(policy) = &options.policy {
        let mut argument = OsString::from("--policy=");
        argument.push(policy);
        arguments.push(argument);
    }
    if !args.options.is_empty() {
        arguments.push("-o".into());
        arguments.push(args.options.join(",").into());
    }
    if args.sloppy {
        arguments.push("--sloppy".into());
    }
    arguments.push("--".into());
    arguments.push(options.data_dir.clone().into());
    arguments.push(options.mountpoint.clone().into());
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Access;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        mount: MountArgs,
    }

    fn home() -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().canonicalize().unwrap();
        for dir in ["data", "mnt", "store"] {
            std::fs::create_dir(root.join(dir)).unwrap();
        }
        (home, root)
    }

    fn parse(root: &Path, more: &[&str]) -> MountArgs {
        let places = [root.join("data").into_os_string(), root.join("mnt").into_os_string()];
        let line = ["coldfs"].iter().chain(more).map(OsString::from).chain(places);
        Line::try_parse_from(line).unwrap_or_else(|error| panic!("{error}")).mount
    }

    #[test]
    fn the_command_line_wins_over_options_and_options_over_the_file() {
        let (_home, root) = home();
        let config = root.join("coldfs.toml");
        std::fs::write(&config, "store = 's3://file'\ntenant = 'file'\n[recall]\ndeadline = 9\n")
            .unwrap();
        let config = format!("config={}", config.display());
        let options = resolve(&parse(&root, &["-o", &config])).unwrap();
        assert_eq!(
            (options.store.to_string().as_str(), options.tenant.as_str()),
            ("s3://file", "file")
        );
        assert_eq!(options.tuning.recall_deadline.as_secs(), 9);
        let list = format!("{config},store=s3://list,tenant=list");
        let options = resolve(&parse(&root, &["-o", &list])).unwrap();
        assert_eq!(
            (options.store.to_string().as_str(), options.tenant.as_str()),
            ("s3://list", "list")
        );
        let options =
            resolve(&parse(&root, &["-o", &list, "--store", "s3://line", "--tenant", "line"]))
                .unwrap();
        assert_eq!(
            (options.store.to_string().as_str(), options.tenant.as_str()),
            ("s3://line", "line")
        );
    }

    #[test]
    fn a_file_of_many_tenants_is_for_serve() {
        let (_home, root) = home();
        let config = root.join("fleet.toml");
        std::fs::write(&config, "[[tenants]]\ndata_dir = 'data'\n").unwrap();
        let problem = resolve(&parse(&root, &["--config", config.to_str().unwrap()]));
        assert!(problem.unwrap_err().what.contains("coldfs serve"));
    }

    #[test]
    fn the_daemon_is_started_with_what_was_resolved() {
        let (_home, root) = home();
        let store = format!("disk:{}", root.join("store").display());
        let flags =
            ["--store", &store, "--policy", "p.wasm", "-o", "allow_other,ro", "-o", "nosuid"];
        let args = parse(&root, &flags);
        let options = resolve(&args).unwrap();
        let mut line = vec![OsString::from("coldfs")];
        line.extend(child_arguments(&args, &options).unwrap().into_iter().skip(1));
        let child = Line::try_parse_from(line).unwrap_or_else(|error| panic!("{error}")).mount;
        assert!(child.foreground && child.ready_on_stdout);
        let again = resolve(&child).unwrap();
        assert_eq!(again.tenant.as_str(), "data");
        assert_eq!(again.store, options.store);
        assert_eq!(again.policy, options.policy);
        assert!(again.tiering.policy.component.is_some_and(|path| path.is_absolute()));
        assert_eq!(again.flags, options.flags);
        assert!(again.flags.read_only && again.flags.no_suid);
        assert_eq!(again.flags.access, Access::All);
    }

    #[test]
    fn every_option_is_in_the_help() {
        use crate::config::mount_flags::{IGNORED, IGNORED_PREFIXES, TAKEN};
        let said: Vec<&str> =
            EXAMPLES.split(|c: char| !c.is_alphanumeric() && !"_-=".contains(c)).collect();
        let said = |word: &str| said.iter().any(|other| other.split('=').next() == Some(word));
        for word in TAKEN.iter().chain(IGNORED) {
            assert!(said(word), "-o {word} is not in the help");
        }
        for prefix in IGNORED_PREFIXES {
            assert!(said(prefix.trim_end_matches('=')), "-o {prefix} is not in the help");
        }
    }

    #[test]
    fn mount_8_is_understood() {
        let (_home, root) = home();
        assert!(is_mount_helper(Path::new("/sbin/mount.coldfs"), None));
        assert!(is_mount_helper(Path::new("mount.fuse.coldfs"), None));
        assert!(is_mount_helper(Path::new("coldfs"), Some(&"/srv/t1".into())));
        assert!(!is_mount_helper(Path::new("/usr/bin/coldfs"), Some(&"mount".into())));
        let line = ["mount.coldfs".into(), root.join("data"), root.join("mnt")];
        let mut line: Vec<OsString> = line.map(PathBuf::into_os_string).to_vec();
        line.extend(
            ["-o", "rw,_netdev,tenant=t1,store=s3://b", "-s", "-n", "-t", "coldfs"].map(Into::into),
        );
        let options = resolve(&helper_args(line)).unwrap();
        assert_eq!(options.tenant.as_str(), "t1");
    }
}
