//! `[tiering]` and `[policy]` of the configuration file: how files move by themselves.
//!
//! ```toml
//! [tiering]                 # every key, with its default
//! enabled = true            # false where the store is on the data's own filesystem
//! interval = "5m"           # from the end of a pass to the next
//! high = 85                 # above this much of the filesystem, percent, files are released ...
//! low = 80                  # ... until it is down to this
//! quota = "100GiB"          # none; the policy has watermarks of its own for it
//! least_idle = "1m"         # no policy releases what was used more recently
//! least_stay = "24h"        # nor what came home more recently
//! files_an_hour = 10000000
//! bytes_an_hour = "2TiB"
//! requests_an_hour = 50000
//! io_pressure = 40          # above this, percent of the time, nothing moves
//!
//! [policy]
//! component = "FILE.wasm"
//! [policy.settings]         # docs/policy.md has those of the default policy
//! cold-after = "14d"
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::file::{Size, Span};
use crate::policy::settings::Settings;
use crate::policy::{self, code::Compiler};
use crate::temperature::HalfLife;
use crate::tiering::Options;
use crate::tiering::caps::Limits;

const INTERVAL: Duration = Duration::from_mins(5);
/// More often than this, passes would be all that the daemon does.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// The least time that the default policy may be told.
const LEAST_IDLE: Duration = Duration::from_mins(1);
const LEAST_STAY: Duration = Duration::from_hours(24);
const HIGH: u32 = 85;
const LOW: u32 = 80;
const IO_PRESSURE: u32 = 40;

/// `[tiering]` as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TieringText {
    enabled: Option<bool>,
    interval: Option<Span>,
    high: Option<u32>,
    low: Option<u32>,
    quota: Option<Size>,
    least_idle: Option<Span>,
    least_stay: Option<Span>,
    files_an_hour: Option<u64>,
    bytes_an_hour: Option<Size>,
    requests_an_hour: Option<u64>,
    io_pressure: Option<u32>,
}

impl TieringText {
    /// This, laid over another.
    pub(super) fn over(&self, below: &Self) -> Self {
        let (above, below) = (self.clone(), below.clone());
        Self {
            enabled: above.enabled.or(below.enabled),
            interval: above.interval.or(below.interval),
            high: above.high.or(below.high),
            low: above.low.or(below.low),
            quota: above.quota.or(below.quota),
            least_idle: above.least_idle.or(below.least_idle),
            least_stay: above.least_stay.or(below.least_stay),
            files_an_hour: above.files_an_hour.or(below.files_an_hour),
            bytes_an_hour: above.bytes_an_hour.or(below.bytes_an_hour),
            requests_an_hour: above.requests_an_hour.or(below.requests_an_hour),
            io_pressure: above.io_pressure.or(below.io_pressure),
        }
    }
}

/// `[policy]` as it is written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PolicyText {
    component: Option<PathBuf>,
    settings: Settings,
}

impl PolicyText {
    /// A component's name without a root is beside the configuration file.
    pub(super) fn beside(&mut self, dir: &Path) {
        if let Some(component) = &mut self.component {
            *component = dir.join(&component);
        }
    }
}

/// What `[tiering]` asks for. Without a word, nothing moves where that would free nothing.
pub(super) fn options(
    text: &TieringText,
    apart: bool,
    half_life: HalfLife,
    policy: policy::Options,
) -> Result<Options, String> {
    let span = |span: &Option<Span>, default| {
        span.as_ref().map_or(default, |span| Duration::from_secs(span.0))
    };
    let interval = span(&text.interval, INTERVAL);
    if interval < SHORTEST_INTERVAL {
        return Err("tiering.interval is less than 1s".into());
    }
    let (high_percent, low_percent) = (text.high.unwrap_or(HIGH), text.low.unwrap_or(LOW));
    if !(1..=100).contains(&high_percent) || low_percent >= high_percent {
        return Err("tiering.low is to be below tiering.high, and both are percent".into());
    }
    let quota_bytes = text.quota.as_ref().map(|size| size.0);
    if quota_bytes == Some(0) {
        return Err("tiering.quota is 0: leave it out where there is none".into());
    }
    let io_pressure_percent = text.io_pressure.unwrap_or(IO_PRESSURE);
    if io_pressure_percent > 100 {
        return Err("tiering.io_pressure is more than 100 percent".into());
    }
    let default = Limits::default();
    let limits = Limits {
        files: text.files_an_hour.unwrap_or(default.files),
        bytes: text.bytes_an_hour.as_ref().map_or(default.bytes, |size| size.0),
        requests: text.requests_an_hour.unwrap_or(default.requests),
    };
    if limits.files == 0 || limits.bytes == 0 || limits.requests == 0 {
        return Err("tiering: 0 an hour moves nothing: write enabled = false".into());
    }
    Ok(Options {
        enabled: text.enabled.unwrap_or(apart),
        interval,
        high_percent,
        low_percent,
        quota_bytes,
        least_idle: span(&text.least_idle, LEAST_IDLE),
        least_stay: span(&text.least_stay, LEAST_STAY),
        limits,
        io_pressure_percent,
        half_life,
        policy,
        overrides: Settings::new(),
    })
}

/// What `[policy]` asks for.
pub(super) fn policy(text: &PolicyText, code_dir: Option<PathBuf>) -> policy::Options {
    // This very program, also where another was put in its place since.
    let compiler = Compiler::Child("/proc/self/exe".into());
    let PolicyText { component, settings } = text.clone();
    policy::Options { component, settings, code_dir, compiler }
}

#[cfg(test)]
mod tests {
    use crate::config::file::ConfigFile;

    #[test]
    fn tiering_is_turned() {
        let file = ConfigFile::parse(
            "[tiering]\nenabled = false\ninterval = '1h'\nhigh = 90\nlow = 70\nquota = '1GiB'\n\
             least_idle = 7\nleast_stay = '1d'\nfiles_an_hour = 5\nbytes_an_hour = '1M'\n\
             requests_an_hour = 9\nio_pressure = 100\n[policy]\ncomponent = '/p.wasm'\n\
             [policy.settings]\ncold-after = '30d'\nrelease-ahead = true\nrules = ['archive']\n",
        );
        let options = file.unwrap().tiering(true, None).unwrap();
        assert!(!options.enabled);
        assert_eq!((options.high_percent, options.low_percent), (90, 70));
        assert_eq!((options.limits.files, options.limits.bytes), (5, 1 << 20));
        assert_eq!(options.policy.settings.len(), 3);
        assert_eq!(options.policy.component, Some("/p.wasm".into()));
    }

    #[test]
    fn it_is_on_by_itself_only_where_moving_frees_something() {
        let silent = ConfigFile::parse("").unwrap();
        let enabled = |file: &ConfigFile, apart| file.tiering(apart, None).unwrap().enabled;
        assert!(enabled(&silent, true) && !enabled(&silent, false));
        let asked = ConfigFile::parse("[tiering]\nenabled = true").unwrap();
        assert!(enabled(&asked, false));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (text, word) in [
            ("[tiering]\ninterval = 0", "tiering.interval"),
            ("[tiering]\nhigh = 70", "tiering.low"),
            ("[tiering]\nhigh = 101", "percent"),
            ("[tiering]\nquota = 0", "tiering.quota"),
            ("[tiering]\nfiles_an_hour = 0", "enabled"),
            ("[tiering]\nio_pressure = 101", "io_pressure"),
            ("[tiering]\nintervall = 1", "line 2, column 1"),
            ("[policy]\nfile = 'x'", "line 2, column 1"),
            ("[policy.settings]\nx = { y = 1 }", "line 2"),
        ] {
            let error = ConfigFile::parse(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
