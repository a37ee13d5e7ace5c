//! The configuration file: TOML, every key optional, unknown keys refused with their line.
//!
//! ```toml
//! store = "s3://bucket/prefix"
//! tenant = "t1"
//!
//! [s3]                      # how the store's engine is reached: see `s3_options`
//! region = "eu-central-1"
//!
//! [recall]
//! deadline = "60s"          # ETIMEDOUT after this long without a byte
//! in_open = "1MiB"          # up to this size, fetched inside open()
//! whole = "16MiB"           # up to this size, recalled by the first read
//!
//! [cache]
//! chunks = "64MiB"          # memory for files that are read without being recalled
//!
//! [catalog]
//! dir = "DIR"               # where what is known of all files is kept; it may be lost
//!
//! [heat]
//! half_life = "7d"          # a use counts half after this long
//! probe = "auto"            # where to begin: tp_btf, fentry, raw_tp, tracepoint; none: no probe
//! btf = "FILE"              # the kernel's description, where /sys/kernel/btf/vmlinux is not
//! drain = "3s"              # how often the probe's counts are taken
//! entries = 262144          # files that may be used between two drains
//!
//! [tiering]                 # files move by themselves: see `tiering`, and docs/policy.md
//! [policy]
//! component = "FILE.wasm"   # the default policy is part of the program
//! settings.cold-after = "30d"
//!
//! [[class]]                 # recall classes: see docs/storms.md, as for [budget.*] and [brake]
//! name = "nightly"
//! cgroups = ["/system.slice/nightly.service"]
//! action = "pass-through"
//!
//! [[tenants]]               # only for `coldfs serve`: see `tenants`, and docs/serve.md
//! data_dir = "/srv/t1"
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::heat::{self, HeatText};
use super::storm::{self, BrakeText, BudgetsText, ClassText};
use super::tenants::{Listed, TenantText};
use super::tiering::{self, PolicyText, TieringText};
use super::{S3Options, StoreUrl, TenantName, Tuning, usage};
use crate::control::wire::Problem;
use crate::guard::Rules;
use crate::temperature::HalfLife;
use crate::{policy, units};

/// What a configuration file says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    /// Where cold bytes go.
    #[serde(deserialize_with = "parsed")]
    pub store: Option<StoreUrl>,
    /// The tenant's name.
    #[serde(deserialize_with = "tenant_name")]
    pub tenant: Option<TenantName>,
    /// How the store's engine is reached and used.
    pub s3: S3Options,
    pub(super) recall: Recall,
    cache: Cache,
    catalog: Catalog,
    heat: HeatText,
    class: Vec<ClassText>,
    budget: BudgetsText,
    brake: BrakeText,
    pub(super) tiering: TieringText,
    pub(super) policy: PolicyText,
    /// What `coldfs serve` serves, in the file's order.
    #[serde(rename = "tenants", deserialize_with = "listed")]
    tenants: Vec<Listed>,
}

/// `[recall]` as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Recall {
    #[serde(deserialize_with = "seconds")]
    deadline: Option<u64>,
    #[serde(deserialize_with = "size")]
    in_open: Option<u64>,
    #[serde(deserialize_with = "size")]
    whole: Option<u64>,
}

impl Recall {
    /// This, laid over another.
    pub(super) fn over(&self, below: &Self) -> Self {
        Self {
            deadline: self.deadline.or(below.deadline),
            in_open: self.in_open.or(below.in_open),
            whole: self.whole.or(below.whole),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Cache {
    #[serde(deserialize_with = "size")]
    chunks: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Catalog {
    dir: Option<PathBuf>,
}

impl ConfigFile {
    /// Where the catalog is kept; none: the file does not say.
    pub fn catalog_dir(&self) -> Option<PathBuf> {
        self.catalog.dir.clone()
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            usage(format!("{}: {error}", path.display()), "name another with --config FILE")
        })?;
        let mut file = Self::parse(&text).map_err(|cause| {
            usage(format!("{}: {cause}", path.display()), "`coldfs mount --help` lists every key")
        })?;
        // A daemon has left the directory in which it was started.
        if let Ok(path) = std::path::absolute(path)
            && let Some(dir) = path.parent()
        {
            file.policy.beside(dir);
            file.tenants.iter_mut().for_each(|tenant| tenant.text.beside(dir));
        }
        Ok(file)
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut file: ConfigFile = toml::from_str(text).map_err(|error| one_line(&error))?;
        file.tenants.iter_mut().for_each(|tenant| tenant.find_line(text));
        file.check()?;
        Ok(file)
    }

    /// What contradicts itself.
    pub(super) fn check(&self) -> Result<(), String> {
        let tuning = self.tuning();
        if tuning.recall_deadline.is_zero() {
            return Err("recall.deadline is 0: every cold read would fail".into());
        }
        if tuning.recall_in_open_bytes > tuning.recall_whole_bytes {
            return Err("recall.in_open is larger than recall.whole".into());
        }
        self.s3.check()?;
        self.rules()?;
        self.heat()?;
        self.tiering(true, None)?;
        Ok(())
    }

    /// What `coldfs serve` serves, in the file's order.
    pub fn tenants(&self) -> &[Listed] {
        &self.tenants
    }

    /// What it says to one tenant.
    pub(super) fn for_tenant(&self, tenant: &TenantText) -> Self {
        let mut file = Self { tenants: Vec::new(), ..self.clone() };
        tenant.lay_over(&mut file);
        file
    }

    /// Whether it says the same, besides who the tenants are and which policy judges: those can
    /// change under a tenant that is mounted.
    pub fn is_same_to_all(&self, other: &Self) -> bool {
        let but = |file: &Self| Self {
            tenants: Vec::new(),
            policy: PolicyText::default(),
            ..file.clone()
        };
        but(self) == but(other)
    }

    /// Whether another policy is to judge.
    pub fn has_other_policy(&self, than: &Self) -> bool {
        self.policy != than.policy
    }

    /// How uses of files are seen, and how long until one counts half.
    pub fn heat(&self) -> Result<(crate::heat::Options, HalfLife), String> {
        heat::options(&self.heat)
    }

    /// The storm guard's rules.
    pub fn rules(&self) -> Result<Rules, String> {
        storm::rules(&self.class, &self.budget, &self.brake)
    }

    /// How files move by themselves. `apart`: the store is on another filesystem than the data, so
    /// that moving them frees something.
    pub fn tiering(
        &self,
        apart: bool,
        code_dir: Option<PathBuf>,
    ) -> Result<crate::tiering::Options, String> {
        let (_, half_life) = self.heat()?;
        tiering::options(&self.tiering, apart, half_life, self.policy(code_dir))
    }

    /// Which policy.
    pub fn policy(&self, code_dir: Option<PathBuf>) -> policy::Options {
        tiering::policy(&self.policy, code_dir)
    }

    /// The defaults, with what this file says laid over them.
    pub fn tuning(&self) -> Tuning {
        let default = Tuning::default();
        Tuning {
            recall_deadline: self
                .recall
                .deadline
                .map_or(default.recall_deadline, Duration::from_secs),
            recall_in_open_bytes: self.recall.in_open.unwrap_or(default.recall_in_open_bytes),
            recall_whole_bytes: self.recall.whole.unwrap_or(default.recall_whole_bytes),
            chunk_cache_bytes: self.cache.chunks.unwrap_or(default.chunk_cache_bytes),
        }
    }
}

/// A mistake, with its place and without the drawing: a problem is a line.
fn one_line(error: &toml::de::Error) -> String {
    let drawn = error.to_string();
    let place = drawn.lines().next().unwrap_or_default();
    format!("{place}: {}", error.message().trim_end().replace('\n', ", "))
}

/// Each with where it stands, so that it can be named by its line.
fn listed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Listed>, D::Error> {
    let tenants = Vec::<toml::Spanned<TenantText>>::deserialize(deserializer)?;
    let listed = |tenant: toml::Spanned<TenantText>| {
        let at = tenant.span().start;
        Listed::new(at, tenant.into_inner())
    };
    Ok(tenants.into_iter().map(listed).collect())
}

fn tenant_name<'de, D: Deserializer<'de>>(from: D) -> Result<Option<TenantName>, D::Error> {
    // The misspelling at hand: one letter less than the table of a fleet's tenants.
    let name = String::deserialize(from).map_err(|_other| {
        de::Error::custom("not a name; for a table a tenant write [[tenants]]")
    })?;
    name.parse().map(Some).map_err(de::Error::custom)
}

pub(super) fn parsed<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr<Err = String>,
{
    String::deserialize(deserializer)?.parse().map(Some).map_err(de::Error::custom)
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a number or a string such as \"64MiB\" or \"60s\"")]
enum Quantity {
    Number(u64),
    Text(String),
}

/// Bytes, as a number or with a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        quantity(deserializer, units::parse_size).map(|size| Self(size.unwrap_or(0)))
    }
}

/// Seconds, as a number or with a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span(pub(super) u64);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        quantity(deserializer, units::parse_seconds).map(|span| Self(span.unwrap_or(0)))
    }
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    quantity(deserializer, units::parse_size)
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    quantity(deserializer, units::parse_seconds)
}

fn quantity<'de, D: Deserializer<'de>>(
    deserializer: D,
    parse: fn(&str) -> Result<u64, String>,
) -> Result<Option<u64>, D::Error> {
    match Quantity::deserialize(deserializer)? {
        Quantity::Number(number) => Ok(Some(number)),
        Quantity::Text(text) => parse(&text).map(Some).map_err(de::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read() {
        let file = ConfigFile::parse(
            "store = 's3://b/p'\ntenant = 't'\n[recall]\ndeadline = '2m'\nin_open = 4096\n\
             whole = '1 GiB'\n[cache]\nchunks = '8M'\n[catalog]\ndir = '/c'\n",
        )
        .unwrap();
        assert_eq!(file.store.as_ref().unwrap().to_string(), "s3://b/p");
        assert_eq!(file.tenant.as_ref().unwrap().as_str(), "t");
        let tuning = file.tuning();
        assert_eq!(tuning.recall_deadline, Duration::from_secs(120));
        assert_eq!(tuning.recall_in_open_bytes, 4096);
        assert_eq!(tuning.recall_whole_bytes, 1 << 30);
        assert_eq!(tuning.chunk_cache_bytes, 8 << 20);
        assert_eq!(file.catalog_dir(), Some("/c".into()));
        assert_eq!(ConfigFile::parse("").unwrap().tuning(), Tuning::default());
    }

    #[test]
    fn mistakes_are_named_with_line_and_column() {
        for (text, line, word) in [
            ("stoer = 'disk:/x'", "line 1, column 1", "stoer"),
            ("\n[recall]\ndeadlin = 1", "line 3, column 1", "deadlin"),
            ("[recall]\nwhole = '1X'", "line 2, column 9", "not a size"),
            ("[recall]\nwhole = -1", "line 2, column 9", "a number or a string"),
            ("store = 'x'", "line 1, column 9", "no store"),
            ("[[tenant]]\ndata_dir = '/x'", "line 1, column 1", "[[tenants]]"),
            ("tenant = 'a/b'", "line 1, column 10", "no slash"),
            ("store = ", "line 1", "value"),
        ] {
            let error = ConfigFile::parse(text).unwrap_err();
            assert!(error.contains(line) && error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn the_storm_guard_is_turned() {
        let file = ConfigFile::parse(
            "[[class]]\nname = 'nightly'\nprograms = ['/opt/scan']\nusers = [0, 'root']\n\
             action = 'slow'\nfiles_per_second = 5\nover = 'deny'\nadmit = 'second-touch'\n\
             [budget.process]\nsegments = 3\nbytes = '1GiB'\n[brake]\nwindow = '1m'\n",
        );
        let rules = file.unwrap().rules().unwrap();
        assert_eq!(rules.classes.get(0).name, "nightly");
        assert_eq!((rules.budgets.process.segments, rules.budgets.process.bytes), (3, 1 << 30));
        assert_eq!(rules.brake.window, Duration::from_secs(60));
        for (text, word) in [
            ("[[class]]\nname = 'x'\naction = 'slow'", "files_per_second"),
            ("[[class]]\nname = 'x'\naction = 'deny'\nfiles_per_second = 1", "belongs to"),
            ("[[class]]\nname = 'x'\naction = 'deny'", "for everybody"),
            ("[[class]]\nname = 'x'\naction = 'deny'\nusers = ['no one']", "no user"),
            ("[[class]]\nname = 'x'\naction = 'refuse'", "pass-through"),
            ("[budget.user]\nbytes = 0", "budget.user"),
            ("[brake]\nwindow = 1", "brake.window"),
        ] {
            let error = ConfigFile::parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn heat_is_turned() {
        let file = ConfigFile::parse(
            "[heat]\nprobe = 'raw_tp'\nhalf_life = '1d'\ndrain = 1\nentries = 64\nbtf = '/b'\n",
        );
        let (options, half_life) = file.unwrap().heat().unwrap();
        assert_eq!(options.choice.kinds().count(), 2);
        assert_eq!((options.interval.as_secs(), options.entries), (1, 64));
        assert_eq!(half_life.0.as_secs(), 86_400);
        for (text, word) in [
            ("[heat]\nprobe = 'kprobe'", "raw_tp"),
            ("[heat]\ndrain = 0", "heat.drain"),
            ("[heat]\nentries = 1", "heat.entries"),
            ("[heat]\nhalf_life = 0", "heat.half_life"),
        ] {
            let error = ConfigFile::parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        assert!(ConfigFile::parse("[recall]\ndeadline = 0").is_err());
        assert!(ConfigFile::parse("[recall]\nin_open = '32M'").is_err());
    }
}
