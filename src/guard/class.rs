//! Recall classes: what a reader may do to cold files, by who it is. The first class that fits
//! decides; who fits none is in `interactive`.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use globset::{GlobBuilder, GlobMatcher};

use super::reader::Reader;

/// What an open of a cold file by a class does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is recalled by the defaults of admission.
    Allow,
    /// It is read from the store; nothing is brought home.
    PassThrough,
    /// As allowed, so many files a second.
    Slow {
        /// More opens than that wait.
        files_per_second: u32,
    },
    /// EACCES.
    Deny,
}

/// What happens to an open beyond its budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// It waits for its turn, up to the recall deadline; then EACCES.
    Wait,
    /// EACCES at once.
    Deny,
}

/// When a read brings a file home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// When it is opened.
    FirstTouch,
    /// When it is opened the second time; the first is passed through.
    SecondTouch,
}

/// A recall class.
#[derive(Clone, Debug)]
pub struct Class {
    /// Its name, in the audit and in `coldfs top`.
    pub name: String,
    /// Whom it is for.
    pub members: Members,
    /// What they may do.
    pub action: Action,
    /// Beyond the budget.
    pub over: Over,
    /// When.
    pub admit: Admit,
}

/// Whom a class is for: every list that is not empty must have one that fits.
#[derive(Clone, Debug, Default)]
pub struct Members {
    programs: Vec<Pattern>,
    cgroups: Vec<Pattern>,
    users: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Pattern {
    text: String,
    /// None: the text is itself all that fits.
    glob: Option<GlobMatcher>,
}

/// What makes a pattern of a text (globset's syntax).
const SPECIAL: [char; 7] = ['*', '?', '[', ']', '{', '}', '\\'];

impl Pattern {
    fn new(text: &str, across_slashes: bool) -> Result<Self, String> {
        let mut pattern = Self { text: text.to_owned(), glob: None };
        if text.contains(SPECIAL) {
            let glob = GlobBuilder::new(text).literal_separator(!across_slashes).build();
            let glob = glob.map_err(|error| format!("{text:?} is no pattern: {}", error.kind()))?;
            pattern.glob = Some(glob.compile_matcher());
        }
        Ok(pattern)
    }

    fn fits(&self, path: impl AsRef<Path>) -> bool {
        match &self.glob {
            Some(glob) => glob.is_match(path),
            None => self.text.as_bytes() == path.as_ref().as_os_str().as_bytes(),
        }
    }
}

impl Members {
    /// Programs: a pattern without `/` is for names (of the process or its executable), one with
    /// `/` for the executable's path. Cgroups: patterns for the path, and all below it. A name
    /// can be forged: give rights by path, cgroup or user.
    pub fn new(programs: &[String], cgroups: &[String], users: Vec<u32>) -> Result<Self, String> {
        let compile = |texts: &[String], across| -> Result<Vec<_>, String> {
            texts.iter().map(|text| Pattern::new(text, across)).collect()
        };
        Ok(Self { programs: compile(programs, false)?, cgroups: compile(cgroups, true)?, users })
    }

    fn fit(&self, reader: &Reader) -> bool {
        let program = |pattern: &Pattern| match pattern.text.contains('/') {
            true => pattern.fits(&reader.program),
            false => {
                // The kernel keeps 15 bytes of a name.
                pattern.fits(&reader.name)
                    || pattern.fits(reader.program_name())
                    || (reader.name.len() == 15 && pattern.text.starts_with(&reader.name))
            }
        };
        let cgroup = |pattern: &Pattern| {
            Path::new(&reader.cgroup).ancestors().any(|path| pattern.fits(path))
        };
        let any = |patterns: &[Pattern], fits: &dyn Fn(&Pattern) -> bool| {
            patterns.is_empty() || patterns.iter().any(fits)
        };
        any(&self.programs, &program)
            && any(&self.cgroups, &cgroup)
            && (self.users.is_empty() || self.users.contains(&reader.uid))
    }

    fn is_everybody(&self) -> bool {
        self.programs.is_empty() && self.cgroups.is_empty() && self.users.is_empty()
    }

    /// Whether whoever is in `other` is in this one too, as far as the texts show.
    fn covers(&self, other: &Self) -> bool {
        let within = |mine: &[Pattern], theirs: &[Pattern]| {
            mine.is_empty()
                || (!theirs.is_empty()
                    && theirs.iter().all(|their| mine.iter().any(|my| my.text == their.text)))
        };
        within(&self.programs, &other.programs)
            && within(&self.cgroups, &other.cgroups)
            && (self.users.is_empty()
                || (!other.users.is_empty()
                    && other.users.iter().all(|user| self.users.contains(user))))
    }
}

/// All classes of a tenant, in order.
#[derive(Clone, Debug)]
pub struct Classes(Arc<[Class]>);

/// On-access scanners, indexers and thumbnailers: they read everything and need none of it.
const SCANNERS: &[&str] = &[
    "clamd",
    "clamscan",
    "clamdscan",
    "clamonacc",
    "updatedb",
    "updatedb.mlocate",
    "updatedb.plocate",
    "locate",
    "plocate-build",
    "tracker-miner-fs*",
    "tracker-extract*",
    "localsearch*",
    "baloo_file*",
    "baloorunner",
    "recollindex",
    "tumblerd",
    "*thumbnailer*",
    "mandb",
    "aide",
    "tripwire",
    "rkhunter",
    "chkrootkit",
    "wazuh-syscheckd",
    "falcon-sensor",
    "mdatp",
    "wdavdaemon",
    "savscand",
    "beagled",
    "catfish",
];

/// Backup programs: they read what changed, once, and must not be refused it.
const BACKUPS: &[&str] = &[
    "borg",
    "borgmatic",
    "restic",
    "kopia",
    "duplicity",
    "duplicati*",
    "rsnapshot",
    "bup",
    "bacula-fd",
    "bareos-fd",
    "rdiff-backup",
    "tarsnap",
    "dsmc",
    "veeamagent",
    "amandad",
    "proxmox-backup-client",
    "urbackupclientbackend",
];

/// Who fits no class.
pub const INTERACTIVE: &str = "interactive";

impl Classes {
    /// These classes, and after them the shipped ones that they do not name.
    pub fn new(own: Vec<Class>) -> Result<Self, String> {
        // The last one, for everybody, wherever it is written.
        let (last, mut classes): (Vec<_>, Vec<_>) =
            own.into_iter().partition(|class| class.name == INTERACTIVE);
        let last = last.into_iter().chain(shipped()).find(|class| class.name == INTERACTIVE);
        let between = shipped().into_iter().filter(|class| class.name != INTERACTIVE);
        for class in between.chain(last) {
            if !classes.iter().any(|own| own.name == class.name) {
                classes.push(class);
            }
        }
        for (at, class) in classes.iter().enumerate() {
            if let Some(before) = classes[..at].iter().find(|before| before.name == class.name) {
                return Err(format!("there are two classes named {:?}", before.name));
            }
            let covering =
                classes[..at].iter().find(|before| before.members.covers(&class.members));
            match covering {
                Some(before) if before.members.is_everybody() => {
                    let (before, class) = (&before.name, &class.name);
                    return Err(format!(
                        "class {before:?} is for everybody, so that {class:?} after it is for \
                         nobody: give {before:?} programs, cgroups or users, or name it \
                         {INTERACTIVE:?}, which comes last"
                    ));
                }
                Some(before) => {
                    let (before, class) = (&before.name, &class.name);
                    return Err(format!(
                        "class {before:?} comes first and has all members of {class:?}, which \
                         would be for nobody"
                    ));
                }
                None => {}
            }
        }
        Ok(Self(classes.into()))
    }

    /// The class of a reader, by its place.
    pub fn of(&self, reader: &Reader) -> usize {
        let found = self.0.iter().position(|class| class.members.fit(reader));
        // `interactive` is the last and for everybody.
        found.unwrap_or(self.0.len() - 1)
    }

    /// Whether this reader's class brings nothing home: then it warms nothing either.
    pub fn is_quiet(&self, reader: &Reader) -> bool {
        self.get(self.of(reader)).action == Action::PassThrough
    }

    /// Names that suffice to be in such a class, whatever else the reader is.
    pub fn quiet_names(&self) -> Vec<String> {
        let first = self.0.iter().take_while(|class| class.action == Action::PassThrough);
        let by_name = first
            .filter(|class| class.members.cgroups.is_empty() && class.members.users.is_empty());
        let texts = by_name.flat_map(|class| &class.members.programs).map(|pattern| &pattern.text);
        texts.filter(|text| !text.contains('/') && !text.contains(SPECIAL)).cloned().collect()
    }

    /// Whether a control group suffices to be in such a class.
    pub fn is_quiet_group(&self, path: &str) -> bool {
        let first = self.0.iter().take_while(|class| class.action == Action::PassThrough);
        let by_group = first
            .filter(|class| class.members.programs.is_empty() && class.members.users.is_empty());
        by_group.flat_map(|class| &class.members.cgroups).any(|pattern| pattern.fits(path))
    }

    /// A class by its place.
    pub fn get(&self, place: usize) -> &Class {
        &self.0[place]
    }
}

impl Default for Classes {
    fn default() -> Self {
        Self(shipped().into())
    }
}

fn shipped() -> Vec<Class> {
    let named = |name: &str, programs: &[&str], action, over| {
        let programs: Vec<String> = programs.iter().map(|&program| program.to_owned()).collect();
        let members = Members::new(&programs, &[], Vec::new()).unwrap_or_default();
        Class { name: name.to_owned(), members, action, over, admit: Admit::FirstTouch }
    };
    vec![
        named("scanner", SCANNERS, Action::PassThrough, Over::Deny),
        named("backup", BACKUPS, Action::PassThrough, Over::Wait),
        named(INTERACTIVE, &[], Action::Allow, Over::Wait),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(name: &str, program: &str) -> Reader {
        let cgroup = "/system.slice/nightly.service/job".to_owned();
        let (name, program) = (name.to_owned(), program.into());
        Reader { process: 1, uid: 1000, session: 1, name, program, cgroup }
    }

    fn class(name: &str, programs: &[&str], cgroups: &[&str], users: &[u32]) -> Class {
        let own = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let members = Members::new(&own(programs), &own(cgroups), users.to_vec()).unwrap();
        let (name, action) = (name.to_owned(), Action::Deny);
        Class { name, members, action, over: Over::Wait, admit: Admit::FirstTouch }
    }

    #[test]
    fn the_shipped_lists_know_their_programs() {
        let classes = Classes::default();
        let of = |name, program| classes.get(classes.of(&reader(name, program))).name.clone();
        assert_eq!(of("clamscan", "/usr/bin/clamscan"), "scanner");
        assert_eq!(of("renamed", "/usr/bin/clamscan"), "scanner");
        assert_eq!(of("tracker-miner-f", "/usr/libexec/tracker-miner-fs-3"), "scanner");
        assert_eq!(of("wazuh-syscheckd", ""), "scanner");
        // A script: its own name, its interpreter's path.
        assert_eq!(of("borg", "/usr/bin/python3.11"), "backup");
        assert_eq!(of("grep", "/usr/bin/grep"), INTERACTIVE);
        assert_eq!(of("", ""), INTERACTIVE);
        for class in shipped() {
            assert_eq!(class.members.is_everybody(), class.name == INTERACTIVE);
        }
    }

    #[test]
    fn members_fit_by_program_cgroup_and_user_together() {
        let own = vec![
            class("path", &["/opt/*/scan"], &[], &[]),
            class("nightly", &[], &["/system.slice/nightly.service"], &[1000]),
        ];
        let classes = Classes::new(own).unwrap();
        let of = |reader: &Reader| classes.get(classes.of(reader)).name.clone();
        assert_eq!(of(&reader("x", "/opt/av/scan")), "path");
        assert_eq!(of(&reader("scan", "/usr/bin/scan")), "nightly");
        let other = Reader { uid: 1001, ..reader("x", "/bin/x") };
        assert_eq!(of(&other), INTERACTIVE);
    }

    #[test]
    fn classes_that_contradict_are_refused_by_name() {
        let refused = |own: Vec<Class>| Classes::new(own).unwrap_err();
        let two = vec![class("a", &["x"], &[], &[]), class("a", &["y"], &[], &[])];
        assert!(refused(two).contains("two classes named \"a\""));
        let all = vec![class("all", &[], &[], &[])];
        assert!(refused(all).contains("\"scanner\" after it is for nobody"));
        let shadowed = vec![class("a", &["x", "y"], &[], &[]), class("b", &["y"], &[], &[7])];
        assert!(refused(shadowed).contains("all members of \"b\""));
        // A shipped class can be replaced, the last one too.
        let mine = vec![class("scanner", &["mine"], &[], &[])];
        assert_eq!(Classes::new(mine).unwrap().0.len(), 3);
        let last = Classes::new(vec![class(INTERACTIVE, &[], &[], &[])]).unwrap();
        assert_eq!(last.get(2).action, Action::Deny);
        assert!(Members::new(&["[".to_owned()], &[], Vec::new()).is_err());
    }
}
