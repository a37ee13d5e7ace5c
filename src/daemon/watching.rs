//! The probe, one for all tenants of a daemon: begun, shown, ended.

use std::path::Path;

use super::quiet;
use crate::control::wire::HeatStatus;
use crate::guard::class::Classes;
use crate::heat::{Choice, Options, Report, Source, Watch};
use crate::ops::HOME_NAME;
use crate::temperature::Second;
use crate::tenant::Tenant;

/// What may be done where a kernel allows no probe.
const NEXT_STEP: &str = "run as root or with CAP_BPF and CAP_PERFMON on a kernel with BTF \
    (`coldfs doctor`)";

/// Watching, or what stands in its place.
#[derive(Debug)]
pub(super) struct Watching {
    watch: Option<Watch>,
    wanted: Choice,
    /// Why there is none.
    failure: Option<String>,
}

impl Watching {
    /// Begins to look; what `classes` say of readers goes for all tenants.
    pub(super) fn begin(options: &Options, classes: Classes) -> Self {
        let wanted = options.choice;
        match Watch::start(options, quiet::finder(classes)) {
            Ok(watch) => Self { watch: Some(watch), wanted, failure: None },
            Err(error) => {
                let failure = format!("no heat from the kernel: start a thread: {error}");
                Self { watch: None, wanted, failure: Some(failure) }
            }
        }
    }

    /// Begins to see uses of a tenant's files; what is wrong with what is seen, a sentence each.
    pub(super) fn add(&self, tenant: &Tenant) -> Vec<String> {
        let Some(watch) = &self.watch else {
            tenant.heat.begin(Source::Opens, Second::now());
            return Vec::new();
        };
        let home = String::from_utf8_lossy(HOME_NAME);
        let notes = watch.add(&tenant.heat, tenant.root(), &home);
        for note in &notes {
            tracing::warn!(tenant = %tenant.name, "{note}");
        }
        notes
    }

    /// Takes what was seen lately, so that what is known of a tenant that goes away is whole.
    pub(super) fn drain(&self) {
        if let Some(watch) = &self.watch {
            watch.drain_now();
        }
    }

    /// The mount answers: what the daemon serves is seen there.
    pub(super) fn mounted(&self, tenant: &Tenant, mountpoint: &Path) {
        if let Some(watch) = &self.watch
            && let Err(error) = watch.add_mount(&tenant.heat, mountpoint)
        {
            tracing::warn!(%error, "reads of cold files are not seen: nothing counts as idle");
            tenant.heat.begin(Source::Opens, Second::now());
        }
    }

    pub(super) fn report(&self) -> Report {
        self.watch.as_ref().map(Watch::report).unwrap_or_default()
    }

    /// Where heat comes from, in a word.
    pub(super) fn word(&self, tenant: &Tenant) -> &'static str {
        match tenant.heat.sight().source {
            Source::Probe(kind) | Source::Partly(kind) => kind.word(),
            Source::Opens => "opens",
            Source::Nothing => "none",
        }
    }

    pub(super) fn status(&self, tenant: &Tenant) -> HeatStatus {
        let (sight, report) = (tenant.heat.sight(), self.report());
        HeatStatus {
            since: sight.since.0.into(),
            until: sight.until.0.into(),
            gaps: sight.gaps,
            lost: sight.lost,
            drains: report.drains,
            missed_drains: report.missed,
            entries: report.entries,
            drain_us: u64::try_from(report.spent.as_micros()).unwrap_or(u64::MAX),
            blind_drains: report.blind,
            reloads: report.reloads,
        }
    }

    /// What is missing, and what would enable it.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.failure.iter().cloned().collect();
        let report = self.report();
        if report.kind.is_none() && self.wanted != Choice::None {
            let why = report.refused.join("; ");
            notes.push(format!(
                "no probe: heat is what opens through the mount say, and no file counts as idle by \
                 it: {why}: {NEXT_STEP}"
            ));
        } else if !report.refused.is_empty() {
            notes.push(format!("a slower probe than the best: {}", report.refused.join("; ")));
        }
        if report.blind > 0 {
            notes.push(format!(
                "the probe was detached by somebody: at {} drains it did not see what the daemon \
                 read; it was loaded anew {} times, and idleness is proven only since the last",
                report.blind, report.reloads
            ));
        }
        if report.dropped > 0 {
            notes.push(format!(
                "{} uses of files were lost, the probe's map was full: idleness is proven only \
                 since then; raise [heat] entries",
                report.dropped
            ));
        }
        notes
    }

    /// Takes what is left and ends.
    pub(super) fn stop(&self) {
        if let Some(watch) = &self.watch {
            watch.stop();
        }
    }
}
