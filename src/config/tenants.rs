//! `[[tenants]]`: what `coldfs serve` serves, and what each has of its own.
//!
//! ```toml
//! [[tenants]]
//! data_dir = "/srv/t1"              # the directory to serve
//! mountpoint = "/mnt/t1"            # over itself without it
//! name = "t1"                       # the last component of data_dir without it
//! store = "s3://bucket/prefix"      # the file's own without it
//! options = "allow_other,nosuid"    # as `coldfs mount -o` takes them
//! recall.deadline = "5m"            # any key of [recall] and [tiering], instead of the file's
//! tiering.quota = "100GiB"
//! policy.settings.cold-after = "7d" # beside or instead of [policy.settings]
//! ```
//!
//! The policy itself, the probe, recall classes, budgets and memory are the daemon's, one for all.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::file::{ConfigFile, Recall, parsed};
use super::mount_flags::OptionList;
use super::places::{Places, Seen};
use super::resolve::{Wanted, resolve};
use super::state::{catalog_dir, resolved};
use super::tiering::TieringText;
use super::{MountOptions, StoreUrl, TenantName, usage};
use crate::control::wire::Problem;
use crate::policy::settings::Settings;
use crate::tenant::Succession;

/// A tenant as it is written.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantText {
    data_dir: PathBuf,
    mountpoint: Option<PathBuf>,
    #[serde(default, deserialize_with = "parsed")]
    name: Option<TenantName>,
    #[serde(default, deserialize_with = "parsed")]
    store: Option<StoreUrl>,
    #[serde(default)]
    options: String,
    #[serde(default)]
    recall: Recall,
    #[serde(default)]
    tiering: TieringText,
    #[serde(default)]
    policy: OwnPolicy,
}

/// What of `[policy]` a tenant may have of its own.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct OwnPolicy {
    settings: Settings,
}

impl TenantText {
    /// A place without a root is beside the configuration file.
    pub(super) fn beside(&mut self, dir: &Path) {
        self.data_dir = dir.join(&self.data_dir);
        self.mountpoint = self.mountpoint.take().map(|mountpoint| dir.join(mountpoint));
    }

    /// Lays what it says over what the file says to all.
    pub(super) fn lay_over(&self, file: &mut ConfigFile) {
        file.store = self.store.clone().or(file.store.take());
        file.recall = self.recall.over(&file.recall);
        file.tiering = self.tiering.over(&file.tiering);
    }

    /// What it has instead of the policy's settings.
    pub fn overrides(&self) -> &Settings {
        &self.policy.settings
    }

    fn is_same_but_for_settings(&self, other: &Self) -> bool {
        let but = |text: &Self| Self { policy: OwnPolicy::default(), ..text.clone() };
        but(self) == but(other)
    }
}

/// A tenant, and where it stands in the file.
#[derive(Clone, Debug)]
pub struct Listed {
    pub(super) text: TenantText,
    at: usize,
    line: usize,
}

/// Where it stands is no difference.
impl PartialEq for Listed {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Listed {
    pub(super) fn new(at: usize, text: TenantText) -> Self {
        Self { text, at, line: 0 }
    }

    pub(super) fn find_line(&mut self, file: &str) {
        let before = file.as_bytes().iter().take(self.at);
        self.line = before.filter(|byte| **byte == b'\n').count() + 1;
    }
}

/// A tenant that somebody wants served.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Its name: as it is written, or the directory's last component.
    pub name: String,
    /// Its directory, absolute.
    pub data_dir: PathBuf,
    /// Where it is to be mounted, absolute.
    pub mountpoint: PathBuf,
    /// Line of the file at which it begins.
    pub line: usize,
    /// The file.
    pub config: PathBuf,
    text: TenantText,
}

/// A tenant that cannot be served, whatever is done.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Who.
    pub asked: Asked,
    /// Why, and what to do.
    pub why: Problem,
}

/// Reads the configuration of a `coldfs serve`.
pub fn read(config: &Path) -> Result<ConfigFile, Problem> {
    let file = ConfigFile::read(config)?;
    if file.tenant.is_some() {
        let what = format!("{}: the key tenant is for `coldfs mount`", config.display());
        return Err(usage(what, "write a name = \"NAME\" in [[tenants]]"));
    }
    let text = std::fs::read_to_string(config).unwrap_or_default();
    if let Some(store) = store_without_root(&text) {
        // The daemon has left the directory in which it was started when it reads the file again.
        let what = format!("{}: store {store:?}: not an absolute path", config.display());
        return Err(usage(what, "write disk:/DIR"));
    }
    Ok(file)
}

/// A store whose directory depends on where the file is read.
fn store_without_root(text: &str) -> Option<String> {
    let file: toml::Table = toml::from_str(text).ok()?;
    let tenants = file.get("tenants").and_then(toml::Value::as_array).into_iter().flatten();
    let stores = tenants.map(|tenant| tenant.get("store")).chain([file.get("store")]);
    let mut stores = stores.filter_map(|store| store?.as_str());
    let rootless =
        stores.find(|store| store.strip_prefix("disk:").is_some_and(|dir| !dir.starts_with('/')));
    rootless.map(str::to_owned)
}

/// The tenants of a file: those that may be served, and those that stand in another's way. Those of
/// `before`, which have their places, keep them; else the first in the file has it. Not for async
/// threads.
pub fn asked(
    config: &Path,
    file: &ConfigFile,
    before: &[Asked],
) -> Result<(Vec<Asked>, Vec<Refused>), Problem> {
    let mut refused: Vec<Refused> = Vec::new();
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut places = Places::default();
    let mut taken: Vec<Wished> = Vec::new();
    let mut all = wished(config, file, before)?;
    all.sort_by_key(|one| match before.iter().find(|known| known.name == one.asked.name) {
        Some(known) if known.is_written_as(&one.asked.text) => 0,
        Some(_) => 1,
        None => 2,
    });
    for one in all {
        let asked = &one.asked;
        let why = match names.get(&asked.name) {
            Some(line) => Some(usage(
                format!("{}: the name is that of line {line}", asked.shown()),
                "give one of them another name",
            )),
            None => asked.unfit().or_else(|| places.objection(asked)),
        };
        match why {
            Some(why) => refused.push(Refused { asked: one.asked, why }),
            None => {
                names.insert(asked.name.clone(), asked.line);
                places.take(asked);
                taken.push(one);
            }
        }
    }
    // Once it is known whose place is whose: nothing that is kept is kept among a tenant's files. Of
    // a single one its own mount says that.
    let catalog = file.catalog_dir().or_else(catalog_dir).map(|dir| resolved(&dir));
    let catalog = catalog.filter(|_| taken.len() > 1);
    let mut fit = Vec::new();
    for one in taken {
        let why = places.objection_to_store(&one.asked, one.store.as_deref());
        match why.or_else(|| one.asked.objection_to_catalog(catalog.as_deref())) {
            Some(why) => refused.push(Refused { asked: one.asked, why }),
            None => fit.push(one.asked),
        }
    }
    Ok((fit, refused))
}

/// A tenant of a file, and the directory of its store.
struct Wished {
    asked: Asked,
    store: Option<PathBuf>,
}

/// All tenants of a file in its order. Places that do not answer are taken as they were before, or
/// as they are written: whoever attaches such a tenant waits for them.
fn wished(config: &Path, file: &ConfigFile, before: &[Asked]) -> Result<Vec<Wished>, Problem> {
    let mut written = Vec::new();
    for listed in file.tenants() {
        let text = &listed.text;
        let mountpoint = text.mountpoint.as_ref().unwrap_or(&text.data_dir);
        let store = match file.for_tenant(text).store {
            Some(store) => store,
            None => StoreUrl::from_env()?,
        };
        let store = match store {
            StoreUrl::Disk(dir) => Some(dir),
            StoreUrl::S3 { .. } => None,
        };
        written.push((text.data_dir.clone(), mountpoint.clone(), store));
    }
    let seen = Seen::of(written.iter().flat_map(|(data, mount, store)| {
        [Some(data), Some(mount), store.as_ref()].into_iter().flatten().cloned()
    }));
    let each = file.tenants().iter().zip(written).map(|(listed, (data_dir, mountpoint, store))| {
        let known = before.iter().find(|known| known.is_written_as(&listed.text));
        let before = |place: fn(&Asked) -> &PathBuf| known.map(|known| place(known).clone());
        let data_dir = seen.at(&data_dir).or(before(|known| &known.data_dir)).unwrap_or(data_dir);
        let mountpoint =
            seen.at(&mountpoint).or(before(|known| &known.mountpoint)).unwrap_or(mountpoint);
        let asked = Asked::new(config, listed, [data_dir, mountpoint], known);
        Wished { asked, store: store.map(|store| seen.at(&store).unwrap_or(store)) }
    });
    Ok(each.collect())
}

impl Asked {
    fn new(
        config: &Path,
        listed: &Listed,
        [data_dir, mountpoint]: [PathBuf; 2],
        known: Option<&Self>,
    ) -> Self {
        let text = listed.text.clone();
        let last = data_dir.file_name().unwrap_or_default().to_string_lossy();
        let name = match (&text.name, known) {
            (Some(name), _) => name.to_string(),
            (None, Some(known)) => known.name.clone(),
            (None, None) => last.into_owned(),
        };
        Self { name, data_dir, mountpoint, line: listed.line, config: config.to_owned(), text }
    }

    /// Whether a tenant's directory and name are written as its own are.
    fn is_written_as(&self, text: &TenantText) -> bool {
        (&self.text.data_dir, &self.text.name) == (&text.data_dir, &text.name)
    }

    /// Why it cannot have a directory of other tenants' catalogs among its files.
    fn objection_to_catalog(&self, catalog: Option<&Path>) -> Option<Problem> {
        let catalog = catalog?;
        if ![&self.data_dir, &self.mountpoint].into_iter().any(|place| catalog.starts_with(place)) {
            return None;
        }
        let (asked, catalog) = (self.shown(), catalog.display());
        let what = format!("{asked}: the catalogs of all tenants, {catalog}, are among its files");
        Some(usage(what, "name another directory for them: [catalog] dir"))
    }

    /// How messages name it.
    pub fn shown(&self) -> String {
        format!("{}: line {}: tenant {}", self.config.display(), self.line, self.name)
    }

    /// What it has instead of the policy's settings.
    pub fn overrides(&self) -> &Settings {
        self.text.overrides()
    }

    /// Whether a mount of the one is as good as of the other; settings of the policy change under it.
    pub fn is_mounted_alike(&self, other: &Self) -> bool {
        self.text.is_same_but_for_settings(&other.text)
            && (&self.data_dir, &self.mountpoint) == (&other.data_dir, &other.mountpoint)
    }

    fn unfit(&self) -> Option<Problem> {
        let unnamed = self.text.name.is_none();
        let problem = unnamed.then(|| TenantName::of(&self.data_dir).err()).flatten()?;
        Some(usage(format!("{}: {}", self.shown(), problem.what), "give it a name = \"NAME\""))
    }

    /// What is to be mounted, its places looked at. Not for async threads.
    pub fn resolve(&self, file: &ConfigFile) -> Result<MountOptions, Problem> {
        let named = |problem: Problem| Problem {
            what: format!("{}: {}", self.shown(), problem.what),
            ..problem
        };
        let for_it = file.for_tenant(&self.text);
        for_it.check().map_err(|cause| named(usage(cause, "docs/serve.md lists every key")))?;
        let list = OptionList::parse(&self.text.options, false).map_err(named)?;
        if list.store.is_some() || list.tenant.is_some() || list.config.is_some() {
            let what = format!("{}: options holds store=, tenant= or config=", self.shown());
            return Err(usage(what, "write them as keys of their own"));
        }
        let wanted = Wanted {
            data_dir: self.text.data_dir.clone(),
            mountpoint: self.text.mountpoint.clone().unwrap_or(self.text.data_dir.clone()),
            store: None,
            new_store: false,
            succession: Succession::Keep,
            tenant: self.text.name.clone(),
            flags: list.flags,
            config: Some(self.config.clone()),
            policy: None,
            is_one_of_many: true,
        };
        let mut options = resolve(for_it, wanted).map_err(named)?;
        options.tiering.overrides.clone_from(self.overrides());
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> (Vec<Asked>, Vec<Refused>) {
        let file = ConfigFile::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        asked(Path::new("/etc/fleet.toml"), &file, &[]).unwrap()
    }

    #[test]
    fn a_tenant_has_its_own_and_else_what_is_for_all() {
        let text = "store = 's3://all/p'\n[recall]\ndeadline = '2m'\n[tiering]\nhigh = 90\nlow = 70\n\
             [[tenants]]\ndata_dir = '/srv/t1'\n[[tenants]]\ndata_dir = '/srv/two'\nname = 't2'\n\
             mountpoint = '/mnt/t2'\nstore = 's3://own'\nrecall.deadline = '9s'\n\
             tiering.low = 10\ntiering.quota = '1GiB'\npolicy.settings.cold-after = '7d'\n";
        let file = ConfigFile::parse(text).unwrap();
        let (taken, refused) = asked(Path::new("/etc/fleet.toml"), &file, &[]).unwrap();
        assert!(refused.is_empty());
        let [one, two] = &taken[..] else { panic!("{taken:?}") };
        assert_eq!((one.name.as_str(), one.line, two.line), ("t1", 7, 9));
        assert_eq!((&one.mountpoint, &two.mountpoint), (&"/srv/t1".into(), &"/mnt/t2".into()));
        let own = file.for_tenant(&one.text);
        assert_eq!(own.store.as_ref().unwrap().to_string(), "s3://all/p");
        assert_eq!(own.tuning().recall_deadline.as_secs(), 120);
        let own = file.for_tenant(&two.text);
        assert_eq!(own.store.as_ref().unwrap().to_string(), "s3://own");
        assert_eq!(own.tuning().recall_deadline.as_secs(), 9);
        let tiering = own.tiering(true, None).unwrap();
        assert_eq!((tiering.high_percent, tiering.low_percent), (90, 10));
        assert_eq!(tiering.quota_bytes, Some(1 << 30));
        assert_eq!(two.overrides().len(), 1);
    }

    #[test]
    fn who_stands_in_anothers_way_is_refused_by_name_and_line() {
        let (taken, refused) = of("[[tenants]]\ndata_dir = '/srv/a'\n[[tenants]]\n\
             data_dir = '/srv/b'\nname = 'a'\n[[tenants]]\ndata_dir = '/srv/a/c'\n[[tenants]]\n\
             data_dir = '/srv/d'\nmountpoint = '/srv/a'\n[[tenants]]\ndata_dir = '/srv'\n\
             [[tenants]]\ndata_dir = '/srv/ab'\n[[tenants]]\ndata_dir = '/'\n");
        let names: Vec<_> = taken.iter().map(|asked| asked.name.as_str()).collect();
        assert_eq!(names, ["a", "ab"]);
        let said: Vec<_> = refused.iter().map(|refused| refused.why.what.as_str()).collect();
        for (said, words) in said.iter().zip([
            ["line 3: tenant a", "the name is that of line 1"],
            ["line 6: tenant c", "/srv/a/c lies in a directory of tenant a (line 1)"],
            ["line 8: tenant d", "mountpoint /srv/a is also that of tenant a (line 1)"],
            ["line 11: tenant srv", "data_dir /srv holds a directory of tenant a (line 1)"],
            ["line 15: tenant ", "no last component"],
        ]) {
            assert!(words.iter().all(|word| said.contains(word)), "{said}: {words:?}");
        }
        assert_eq!(said.len(), 5);
    }

    #[test]
    fn mistakes_in_a_tenant_are_named_with_their_line() {
        for (text, words) in [
            ("[[tenants]]\ndata_dir = '/a'\nmoutpoint = '/b'", ["line 3", "moutpoint"]),
            ("[[tenants]]\nname = 'a'", ["line 1", "data_dir"]),
            ("[[tenants]]\ndata_dir = '/a'\ntiering.hihg = 1", ["line 3", "hihg"]),
            ("[[tenants]]\ndata_dir = '/a'\nname = 'a/b'", ["line 3", "no slash"]),
            ("[[tenants]]\ndata_dir = '/a'\npolicy.component = 'x'", ["line 3", "component"]),
        ] {
            let error = ConfigFile::parse(text).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{text}: {error}");
        }
        let file = ConfigFile::parse("[[tenants]]\ndata_dir = '/a'\noptions = 'nosiud'").unwrap();
        let (taken, _) = asked(Path::new("/etc/fleet.toml"), &file, &[]).unwrap();
        let problem = taken[0].resolve(&file).unwrap_err();
        assert!(problem.what.contains("line 1: tenant a: ") && problem.what.contains("nosiud"));
    }

    #[test]
    fn a_store_has_to_be_where_it_is_wherever_the_daemon_is() {
        let own = "store = 'disk:/a'\n[[tenants]]\ndata_dir = 't'\nstore = 'disk:b'\n";
        assert_eq!(store_without_root(own).as_deref(), Some("disk:b"));
        assert_eq!(store_without_root("store = 'disk:./c'").as_deref(), Some("disk:./c"));
        assert_eq!(store_without_root("store = 's3://b'\n[[tenants]]\ndata_dir = 't'"), None);
    }

    #[test]
    fn only_what_a_mount_is_made_of_is_a_change_of_it() {
        let one = |more: &str| {
            let (mut taken, _) = of(&format!("[[tenants]]\ndata_dir = '/srv/a'\n{more}"));
            taken.remove(0)
        };
        assert!(one("").is_mounted_alike(&one("policy.settings.cold-after = '1d'")));
        assert!(one("").is_mounted_alike(&one("\n# a remark")));
        assert!(!one("").is_mounted_alike(&one("options = 'ro'")));
        let (all, other) = ("[recall]\nwhole = '1GiB'", "[policy]\ncomponent = '/p.wasm'");
        let parse = |text| ConfigFile::parse(text).unwrap();
        assert!(!parse("").is_same_to_all(&parse(all)));
        assert!(
            parse("").is_same_to_all(&parse(other)) && parse("").has_other_policy(&parse(other))
        );
    }

    #[test]
    fn who_is_served_keeps_its_place_whoever_comes_first_in_the_file() {
        let text = "store = 'disk:/s'\n[[tenants]]\ndata_dir = '/nowhere'\nname = 'above'\n\
                    [[tenants]]\ndata_dir = '/nowhere/mail'\n";
        let file = ConfigFile::parse(text).unwrap();
        let all = |before: &[Asked]| {
            let (mut taken, mut refused) =
                asked(Path::new("/etc/fleet.toml"), &file, before).unwrap();
            assert_eq!((taken.len(), refused.len()), (1, 1));
            (taken.remove(0), refused.remove(0).asked)
        };
        let (above, mail) = all(&[]);
        assert_eq!((above.name.as_str(), mail.name.as_str()), ("above", "mail"));
        let (taken, refused) = all(&[mail]);
        assert_eq!((taken.name.as_str(), refused.name.as_str()), ("mail", "above"));
        // Nor does another entry of the same name.
        let text = "store = 'disk:/s'\n[[tenants]]\ndata_dir = '/nowhere/other'\nname = 'mail'\n\
                    [[tenants]]\ndata_dir = '/nowhere/mail'\n";
        let file = ConfigFile::parse(text).unwrap();
        let (same, _) = asked(Path::new("/etc/fleet.toml"), &file, &[taken]).unwrap();
        assert_eq!(same[0].data_dir, Path::new("/nowhere/mail"));
    }

    #[test]
    fn nothing_that_is_kept_is_kept_among_the_files_of_a_tenant() {
        let text = "store = 'disk:/nowhere/a/cold'\n[[tenants]]\ndata_dir = '/nowhere/b'\n\
                    [[tenants]]\ndata_dir = '/nowhere/a'\nstore = 's3://own'\n";
        let (taken, refused) = of(text);
        assert_eq!((taken.len(), refused.len()), (1, 1));
        assert_eq!(refused[0].asked.name, "b");
        assert!(refused[0].why.what.contains("lies in a directory of tenant a (line 4)"));
        let text = "store = 'disk:/s'\ncatalog.dir = '/nowhere/a/catalog'\n\
                    [[tenants]]\ndata_dir = '/nowhere/a'\n";
        assert_eq!(of(text).1.len(), 0, "it is its own matter");
        let (_, refused) = of(&format!("{text}[[tenants]]\ndata_dir = '/nowhere/b'\n"));
        assert_eq!(refused[0].asked.name, "a");
        assert!(refused[0].why.what.contains("the catalogs of all tenants"), "{}", refused[0].why);
    }
}
