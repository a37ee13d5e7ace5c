//! `status`: each tenant, and what the daemon did since it started.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::count::{self, Sums};
use super::known;
use super::served::Served;
use super::storm;
use super::walks::Unwalked;
use crate::control::wire::{
    Bytes, CatalogStatus, Files, HeatStatus, Problem, TenantEntry, TenantStatus, TieringReport,
};
use crate::tenant::Standing;

/// What takes a look at the disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    sums: Sums,
    catalog: CatalogStatus,
    note: Option<String>,
}

/// How a tenant that is served fares.
pub(super) async fn of(served: &Arc<Served>) -> Result<TenantStatus, Problem> {
    let watching = &served.machine.watching;
    // Before its notes: what it counts, they explain.
    let heat = watching.status(&served.tenant);
    let mut notes = served.options.notes.clone();
    notes.extend(storm::note(served));
    notes.extend(served.missing());
    notes.extend(served.heat_notes.iter().cloned());
    notes.extend(watching.notes());
    notes.extend(served.tiering.notes());
    let counting = Arc::clone(served);
    let counted = served.count.ask(move |stop| {
        let root = counting.locate_here(&counting.options.mountpoint)?;
        let known = known::sums(&counting, &root, stop);
        let sums = known.unwrap_or_else(|| count::sums(&counting, root, stop));
        let (catalog, note) = known::status(&counting, &counting.keeper.report());
        Ok::<_, Problem>(Counted { sums, catalog, note })
    });
    let Counted { sums, catalog, note } = match counted.await {
        Err(Unwalked::Cancelled) if served.is_detaching() => {
            notes.push("it is being detached, and its files are not counted".to_owned());
            Counted::default()
        }
        counted => counted??,
    };
    notes.extend(note);
    Ok(TenantStatus {
        name: served.name.clone(),
        mounted: true,
        data_dir: served.options.data_dir.clone().into(),
        mountpoint: served.options.mountpoint.clone().into(),
        store: served.tenant.store.url().to_owned(),
        guest: *served.tenant.standing() == Standing::Guest,
        verify: served.tenant.store.verify().word().to_owned(),
        probe: watching.word(&served.tenant).to_owned(),
        heat,
        policy: served.tiering.policy_name().unwrap_or_else(|| "none".to_owned()),
        tiering: served.tiering.report(),
        passthrough: served.passthrough.load(Ordering::Relaxed),
        files: sums.files,
        bytes: sums.bytes,
        catalog,
        failed: sums.failures.named,
        failed_total: sums.failures.total,
        notes,
    })
}

/// What can be said of a tenant of which nothing is mounted, or that cannot be looked at.
pub(super) fn absent(entry: &TenantEntry) -> TenantStatus {
    let mut notes = vec![match &entry.cause {
        Some(cause) => format!("{}: {cause}", entry.state.word()),
        None => entry.state.word().to_owned(),
    }];
    notes.extend(entry.next_step.clone());
    TenantStatus {
        name: entry.name.clone(),
        mounted: false,
        data_dir: entry.data_dir.clone(),
        mountpoint: entry.mountpoint.clone(),
        store: String::new(),
        guest: false,
        verify: String::new(),
        probe: "none".to_owned(),
        heat: HeatStatus::default(),
        policy: "none".to_owned(),
        tiering: TieringReport::default(),
        passthrough: false,
        files: Files::default(),
        bytes: Bytes::default(),
        catalog: CatalogStatus::default(),
        failed: Vec::new(),
        failed_total: 0,
        notes,
    }
}
