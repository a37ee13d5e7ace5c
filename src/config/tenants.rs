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
use super::places::{Places, resolved_in_time};
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

/// The tenants of a file: those that may be served, and those that stand in another's way. Whoever
/// has a place already keeps it; else the first in the file has it. Not for async threads.
pub fn asked(
    config: &Path,
    file: &ConfigFile,
    has_a_place: impl Fn(&str) -> bool,
) -> Result<(Vec<Asked>, Vec<Refused>), Problem> {
    let (mut taken, mut refused): (Vec<Asked>, Vec<Refused>) = (Vec::new(), Vec::new());
    let mut names: HashMap<String, usize> = HashMap::new();
    let mut places = Places::default();
    let mut all = all(config, file);
    all.sort_by_key(|(asked, _)| !has_a_place(&asked.name));
    for (asked, unseen) in all {
        let why = match names.get(&asked.name) {
            Some(line) => Some(usage(
                format!("{}: the name is that of line {line}", asked.shown()),
                "give one of them another name",
            )),
            None => unseen.or_else(|| asked.unfit()).or_else(|| places.objection(&asked)),
        };
        match why {
            Some(why) => refused.push(Refused { asked, why }),
            None => {
                names.insert(asked.name.clone(), asked.line);
                places.take(&asked);
                taken.push(asked);
            }
        }
    }
    // Once it is known whose place is whose.
    let mut fit = Vec::new();
    for asked in taken {
        let store = file.for_tenant(&asked.text).store;
        match store.and_then(|store| places.objection_to_store(&asked, &store)) {
            Some(why) => refused.push(Refused { asked, why }),
            None => fit.push(asked),
        }
    }
    if let Some(dir) = file.catalog_dir().or_else(catalog_dir)
        && let Some(whose) = places.among(&resolved(&dir))
    {
        let (config, dir) = (config.display(), dir.display());
        let what = format!("{config}: the catalog's directory {dir} lies in one of {whose}");
        return Err(usage(what, "name one outside of what is served: [catalog] dir"));
    }
    Ok((fit, refused))
}

/// All tenants of a file in its order; of those whose places cannot be looked at, why.
fn all(config: &Path, file: &ConfigFile) -> Vec<(Asked, Option<Problem>)> {
    let mountpoint = |text: &TenantText| text.mountpoint.as_ref().unwrap_or(&text.data_dir).clone();
    let texts = file.tenants().iter().map(|listed| &listed.text);
    let paths = texts.flat_map(|text| [text.data_dir.clone(), mountpoint(text)]).collect();
    let resolved = resolved_in_time(paths);
    let each = file.tenants().iter().zip(resolved.chunks(2));
    let each = each.map(|(listed, seen)| {
        let written = [listed.text.data_dir.clone(), mountpoint(&listed.text)];
        let place = |at: usize| seen[at].clone().unwrap_or_else(|| written[at].clone());
        let asked = Asked::new(config, listed, [place(0), place(1)]);
        let silent = written.iter().zip(seen).find(|(_, seen)| seen.is_none());
        let unseen = silent.map(|(path, _)| {
            let (asked, path) = (asked.shown(), path.display());
            let what = format!("{asked}: {path}: its disk does not answer");
            usage(what, "see to the disk, and reload: SIGHUP")
        });
        (asked, unseen)
    });
    each.collect()
}

impl Asked {
    fn new(config: &Path, listed: &Listed, [data_dir, mountpoint]: [PathBuf; 2]) -> Self {
        let text = listed.text.clone();
        let last = data_dir.file_name().unwrap_or_default().to_string_lossy();
        let name = text.name.as_ref().map_or_else(|| last.into_owned(), ToString::to_string);
        Self { name, data_dir, mountpoint, line: listed.line, config: config.to_owned(), text }
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
        asked(Path::new("/etc/fleet.toml"), &file, |_name| false).unwrap()
    }

    #[test]
    fn a_tenant_has_its_own_and_else_what_is_for_all() {
        let text = "store = 's3://all/p'\n[recall]\ndeadline = '2m'\n[tiering]\nhigh = 90\nlow = 70\n\
             [[tenants]]\ndata_dir = '/srv/t1'\n[[tenants]]\ndata_dir = '/srv/two'\nname = 't2'\n\
             mountpoint = '/mnt/t2'\nstore = 's3://own'\nrecall.deadline = '9s'\n\
             tiering.low = 10\ntiering.quota = '1GiB'\npolicy.settings.cold-after = '7d'\n";
        let file = ConfigFile::parse(text).unwrap();
        let (taken, refused) = asked(Path::new("/etc/fleet.toml"), &file, |_name| false).unwrap();
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
        let (taken, _) = asked(Path::new("/etc/fleet.toml"), &file, |_name| false).unwrap();
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
        let names = |is_served: fn(&str) -> bool| {
            let (taken, refused) = asked(Path::new("/etc/fleet.toml"), &file, is_served).unwrap();
            assert_eq!((taken.len(), refused.len()), (1, 1));
            (taken[0].name.clone(), refused[0].asked.name.clone())
        };
        assert_eq!(names(|_name| false), ("above".to_owned(), "mail".to_owned()));
        assert_eq!(names(|name| name == "mail"), ("mail".to_owned(), "above".to_owned()));
    }

    #[test]
    fn nothing_that_is_kept_is_kept_among_the_files_of_a_tenant() {
        let text = "store = 'disk:/nowhere/a/cold'\n[[tenants]]\ndata_dir = '/nowhere/b'\n\
                    [[tenants]]\ndata_dir = '/nowhere/a'\nstore = 's3://own'\n";
        let (taken, refused) = of(text);
        assert_eq!((taken.len(), refused.len()), (1, 1));
        assert_eq!(refused[0].asked.name, "b");
        assert!(refused[0].why.what.contains("lies in a directory of tenant a (line 4)"));
        let text = format!("[catalog]\ndir = '/nowhere/a/catalog'\n{text}");
        let file = ConfigFile::parse(&text.replacen("[catalog]\ndir", "catalog.dir", 1)).unwrap();
        let problem = asked(Path::new("/etc/fleet.toml"), &file, |_name| false).unwrap_err();
        assert!(problem.what.contains("the catalog's directory"), "{problem}");
    }
}
