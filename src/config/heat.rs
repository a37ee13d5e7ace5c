//! The table `[heat]` of the configuration file: how uses of files are seen and weighed.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::file::{Span, parsed};
use crate::heat::{Choice, Options};
use crate::temperature::HalfLife;

/// Shorter drains cost more than they tell.
const SHORTEST_DRAIN_SECONDS: u64 = 1;
/// A day without a drain would fill any map.
const LONGEST_DRAIN_SECONDS: u64 = 86_400;
/// Fewer entries than this are lost at once; more than that are gigabytes of kernel memory.
const ENTRIES: std::ops::RangeInclusive<u32> = 64..=16_777_216;

/// `[heat]` as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HeatText {
    #[serde(deserialize_with = "parsed")]
    probe: Option<Choice>,
    btf: Option<PathBuf>,
    half_life: Option<Span>,
    drain: Option<Span>,
    entries: Option<u32>,
}

/// What it asks for.
pub(super) fn options(text: &HeatText) -> Result<(Options, HalfLife), String> {
    let default = Options::default();
    let interval = match text.drain.as_ref().map(|span| span.0) {
        None => default.interval,
        Some(seconds @ SHORTEST_DRAIN_SECONDS..=LONGEST_DRAIN_SECONDS) => {
            Duration::from_secs(seconds)
        }
        Some(_) => return Err("heat.drain is not between 1s and 1d".into()),
    };
    let entries = text.entries.unwrap_or(default.entries);
    if !ENTRIES.contains(&entries) {
        return Err("heat.entries is not between 64 and 16777216".into());
    }
    let half_life = match text.half_life.as_ref().map(|span| span.0) {
        None => HalfLife::default(),
        Some(0) => return Err("heat.half_life is 0: no use would ever count".into()),
        Some(seconds) => HalfLife(Duration::from_secs(seconds)),
    };
    let choice = text.probe.unwrap_or_default();
    Ok((Options { choice, description: text.btf.clone(), entries, interval }, half_life))
}
