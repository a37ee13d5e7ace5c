//! `-o` lists, as `mount(8)` and `/etc/fstab` pass them.

use super::usage;
use crate::control::wire::Problem;

/// Who may use the mount besides the user that mounted it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Nobody else.
    #[default]
    Owner,
    /// Root too.
    Root,
    /// Everybody, as permissions allow.
    All,
}

/// Flags of a mount that the kernel knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountFlags {
    /// `ro`.
    pub read_only: bool,
    /// `allow_other`, `allow_root`.
    pub access: Access,
    /// `nosuid`.
    pub no_suid: bool,
    /// `nodev`.
    pub no_dev: bool,
    /// `noexec`.
    pub no_exec: bool,
    /// `sync`.
    pub sync: bool,
    /// `dirsync`.
    pub dir_sync: bool,
}

/// What an `-o` list says: flags, and values that the command line takes too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OptionList {
    /// Flags of the mount.
    pub flags: MountFlags,
    /// `store=URL`.
    pub store: Option<String>,
    /// `tenant=NAME`.
    pub tenant: Option<String>,
    /// `config=FILE`.
    pub config: Option<String>,
}

/// What has an effect; the last three with a value.
pub const TAKEN: &[&str] = &[
    "defaults",
    "ro",
    "rw",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "noexec",
    "sync",
    "async",
    "dirsync",
    "allow_other",
    "allow_root",
    "user",
    "users",
    "owner",
    "group",
    "store",
    "tenant",
    "config",
];

/// For `mount(8)`, its helpers, systemd and the people who read fstab; not for a filesystem.
/// `atime` words ask for what only the filesystem below can do, which keeps the times.
pub const IGNORED: &[&str] = &[
    "auto",
    "noauto",
    "nouser",
    "nofail",
    "_netdev",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "diratime",
    "nodiratime",
    "default_permissions",
    "silent",
    "loud",
];
/// The same, whatever follows.
pub const IGNORED_PREFIXES: [&str; 5] = ["x-", "X-", "comment=", "uhelper=", "helper="];

/// Known elsewhere, wrong here: what to do instead.
const REFUSED: [(&str, &str); 8] = [
    ("remount", "detach with `fusermount3 -u MOUNTPOINT` and mount again"),
    ("bind", "use plain `mount --bind` on the mountpoint"),
    ("auto_unmount", "leave it out: the daemon detaches when it ends"),
    ("kernel_cache", "leave it out: coldfs decides what the kernel may cache"),
    ("direct_io", "leave it out: coldfs decides what the kernel may cache"),
    ("nonempty", "leave it out: mount over DATA_DIR itself or on an empty directory"),
    ("fsname", "leave it out: the source is always DATA_DIR"),
    ("subtype", "leave it out: the type is always fuse.coldfs"),
];

impl OptionList {
    /// Reads a list. `sloppy` (mount -s) passes over what it does not know.
    pub fn parse(list: &str, sloppy: bool) -> Result<Self, Problem> {
        let mut options = Self::default();
        for option in split(list) {
            if !options.take(&option)? && !sloppy {
                return Err(unknown(&option));
            }
        }
        Ok(options)
    }

    /// Takes one option; false where it is not known.
    fn take(&mut self, option: &str) -> Result<bool, Problem> {
        let (key, value) = match option.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (option, None),
        };
        match (key, value) {
            ("ro", None) => self.flags.read_only = true,
            // The last word wins, as everywhere in mount(8).
            ("rw", None) => self.flags.read_only = false,
            ("defaults", None) => {}
            ("suid", None) => self.flags.no_suid = false,
            ("nosuid", None) => self.flags.no_suid = true,
            ("dev", None) => self.flags.no_dev = false,
            ("nodev", None) => self.flags.no_dev = true,
            ("exec", None) => self.flags.no_exec = false,
            ("noexec", None) => self.flags.no_exec = true,
            ("async", None) => self.flags.sync = false,
            ("sync", None) => self.flags.sync = true,
            ("dirsync", None) => self.flags.dir_sync = true,
            ("allow_other", None) => self.flags.access = Access::All,
            ("allow_root", None) => self.flags.access = Access::Root,
            // What mount(8) implies by them.
            ("user" | "users", None) => {
                (self.flags.no_suid, self.flags.no_dev, self.flags.no_exec) = (true, true, true);
            }
            ("owner" | "group", None) => {
                (self.flags.no_suid, self.flags.no_dev) = (true, true);
            }
            ("store", Some(url)) => self.store = Some(url.to_owned()),
            ("tenant", Some(name)) => self.tenant = Some(name.to_owned()),
            ("config", Some(file)) => self.config = Some(file.to_owned()),
            ("store" | "tenant" | "config", None) => {
                return Err(usage(
                    format!("-o {key}: the value is missing"),
                    format!("write -o {key}=VALUE"),
                ));
            }
            _ => {
                if let Some((_, next_step)) = REFUSED.iter().find(|(name, _)| *name == key) {
                    return Err(usage(format!("-o {option}: not for coldfs"), *next_step));
                }
                return Ok(IGNORED.contains(&option)
                    || IGNORED_PREFIXES.iter().any(|prefix| option.starts_with(prefix)));
            }
        }
        Ok(true)
    }
}

/// Splits at commas; `\,` is a comma in a value, as libfuse has it.
fn split(list: &str) -> Vec<String> {
    let mut options = vec![String::new()];
    let mut chars = list.chars();
    while let Some(c) = chars.next() {
        match c {
            ',' => options.push(String::new()),
            '\\' => options.extend_last(chars.next().unwrap_or('\\')),
            c => options.extend_last(c),
        }
    }
    options.retain(|option| !option.is_empty());
    options
}

trait ExtendLast {
    fn extend_last(&mut self, c: char);
}

impl ExtendLast for Vec<String> {
    fn extend_last(&mut self, c: char) {
        if let Some(last) = self.last_mut() {
            last.push(c);
        }
    }
}

fn unknown(option: &str) -> Problem {
    let key = option.split('=').next().unwrap_or(option);
    let next_step = match TAKEN.iter().find(|name| is_near(key, name)) {
        Some(name) => format!("did you mean {name}?"),
        None => "see `coldfs mount --help` for what -o takes".into(),
    };
    usage(format!("-o {option}: unknown option"), next_step)
}

/// Whether two words differ only in dashes, case, or one character.
fn is_near(a: &str, b: &str) -> bool {
    let plain = |text: &str| text.replace(['-', '_'], "").to_ascii_lowercase();
    let (a, b) = (plain(a), plain(b));
    let same_ends = |a: &str, b: &str| {
        let prefix = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
        let suffix = a.bytes().rev().zip(b.bytes().rev()).take_while(|(x, y)| x == y).count();
        prefix + suffix + 1 >= a.len().max(b.len())
    };
    a == b || a.len().abs_diff(b.len()) <= 1 && same_ends(&a, &b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &str) -> Result<OptionList, String> {
        OptionList::parse(list, false).map_err(|problem| problem.to_string())
    }

    #[test]
    fn a_line_of_fstab_is_understood() {
        let options = parse(
            "rw,nosuid,nodev,allow_other,store=s3://b/p,tenant=t1,_netdev,nofail,\
             x-systemd.requires=network-online.target,X-mount.mkdir,comment=hello",
        )
        .unwrap();
        assert_eq!(options.store.as_deref(), Some("s3://b/p"));
        assert_eq!(options.tenant.as_deref(), Some("t1"));
        let flags = options.flags;
        assert!(flags.no_suid && flags.no_dev && !flags.read_only && !flags.no_exec);
        assert_eq!(flags.access, Access::All);
    }

    #[test]
    fn each_word_has_an_effect_or_none_as_listed() {
        let plain = OptionList::default();
        let of = |list: &str| parse(list).unwrap_or_else(|error| panic!("{list}: {error}"));
        for word in TAKEN {
            match *word {
                "defaults" => assert_eq!(of(word), plain),
                "store" | "tenant" | "config" => assert_ne!(of(&format!("{word}=x")), plain),
                // They take another back.
                "rw" => assert_eq!(of("ro,rw"), plain),
                "suid" | "dev" | "exec" => assert_eq!(of(&format!("no{word},{word}")), plain),
                "async" => assert_eq!(of("sync,async"), plain),
                _ => assert_ne!(of(word), plain, "{word}"),
            }
        }
        for word in IGNORED {
            assert_eq!(of(word), plain, "{word}");
        }
        for prefix in IGNORED_PREFIXES {
            assert_eq!(of(&format!("{prefix}y")), plain, "{prefix}");
        }
        for (word, _) in REFUSED {
            assert!(parse(word).is_err(), "{word}");
        }
    }

    #[test]
    fn the_last_word_wins() {
        assert!(!parse("ro,rw").unwrap().flags.read_only);
        assert!(parse("rw,ro").unwrap().flags.read_only);
        assert!(!parse("user,exec").unwrap().flags.no_exec);
        assert_eq!(parse("").unwrap(), OptionList::default());
        assert_eq!(parse(r"store=disk:/a\,b,ro").unwrap().store.as_deref(), Some("disk:/a,b"));
    }

    #[test]
    fn unknown_options_are_refused_by_name_with_a_hint() {
        for (list, words) in [
            ("stor=x", ["-o stor=x", "did you mean store?"]),
            ("allow-other", ["-o allow-other", "did you mean allow_other?"]),
            ("compress", ["-o compress", "coldfs mount --help"]),
            ("store", ["-o store", "-o store=VALUE"]),
            ("remount,ro", ["-o remount", "fusermount3 -u"]),
            ("fsname=x", ["-o fsname=x", "DATA_DIR"]),
        ] {
            let error = parse(list).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{list}: {error}");
        }
        assert!(OptionList::parse("compress", true).is_ok());
        assert!(OptionList::parse("remount", true).is_err());
    }
}
