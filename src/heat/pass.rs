//! One drain: what was touched goes to the tenants whose it is, and each ledger is told for what it
//! may vouch.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ledger::{Ledger, Touch, Via};
use super::owners::{Number, Owners};
use super::probe::{Probe, ProbeError, halves};
use super::proof::Proof;
use super::watch::{Options, Report};
use crate::file_id::Ino;
use crate::sys;
use crate::temperature::{Evidence, Second};

/// The wall clock and the one that nobody sets differ by more than this between two drains: it
/// was set. Larger than what NTP slews in a drain, and than a look at both takes.
const CLOCK_STEP: Duration = Duration::from_secs(5);
/// How soon a probe that sees no more is loaded anew, and again where that failed.
const RELOAD_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Watched {
    ledger: Arc<Ledger>,
    via: Via,
}

#[derive(Debug, Default)]
struct Device {
    watched: HashMap<Number, Watched>,
    owners: Arc<Mutex<Owners>>,
    lost: u64,
    /// One for all its tenants; none: the filesystem cannot be written.
    proof: Option<Proof>,
}

/// The probe, and who is told what it saw.
#[derive(Debug)]
pub(super) struct State {
    pub(super) probe: Option<Probe>,
    pub(super) report: Report,
    /// In a namespace of processes, whose numbers the kernel's programs do not know.
    pub(super) is_numbered_otherwise: bool,
    pub(super) stop: bool,
    options: Options,
    devices: HashMap<u32, Device>,
    numbers: Number,
    /// The daemon's thread group, as the kernel numbers it.
    process: u32,
    /// The wall clock and the one that nobody sets, at the last look.
    clocks: (Second, Duration),
    reloaded: Option<Instant>,
}

/// Loads what is asked for.
fn load(options: &Options) -> Result<Probe, ProbeError> {
    let description = options.description.clone();
    Probe::load(options.choice, description.as_deref(), options.entries)
}

impl State {
    pub(super) fn begin(options: Options) -> Self {
        let mut report = Report::default();
        let probe = match load(&options) {
            Ok(probe) => {
                report.kind = Some(probe.kind);
                report.refused.clone_from(&probe.refused);
                Some(probe)
            }
            Err(refused) => {
                report.refused = refused.0;
                None
            }
        };
        Self {
            probe,
            report,
            is_numbered_otherwise: false,
            stop: false,
            options,
            devices: HashMap::new(),
            numbers: 0,
            process: std::process::id(),
            clocks: (Second::now(), sys::boot_clock()),
            reloaded: None,
        }
    }

    /// Who the daemon is, as the kernel numbers it.
    pub(super) fn daemon_is(&mut self, process: u32) -> io::Result<()> {
        self.process = process;
        self.is_numbered_otherwise = process != std::process::id();
        self.probe.as_mut().map_or(Ok(()), |probe| probe.daemon_is(process))
    }

    /// Begins to fill a ledger from a device.
    pub(super) fn watch(
        &mut self,
        device: u32,
        ledger: &Arc<Ledger>,
        via: Via,
        proof: Option<Proof>,
    ) -> io::Result<()> {
        if let Some(probe) = &mut self.probe {
            probe.watch(device)?;
        }
        self.numbers += 1;
        let known = self.devices.entry(device).or_default();
        known.owners().join(self.numbers);
        if via == Via::Below {
            ledger.tell(&known.owners, self.numbers);
        }
        known.proof = known.proof.take().or(proof);
        known.watched.insert(self.numbers, Watched { ledger: Arc::clone(ledger), via });
        Ok(())
    }

    /// One drain; how many entries it took.
    pub(super) fn pass(&mut self) -> u64 {
        self.forget_the_dead();
        let begun = Second::now();
        if self.clock_was_set(begun) {
            tracing::warn!("the clock was set: what is idle is judged from now on");
            let ledgers = self.devices.values().flat_map(Device::ledgers);
            ledgers.for_each(|ledger| ledger.clock_set(begun));
        }
        let Some(probe) = &mut self.probe else { return 0 };
        let started = Instant::now();
        let (mut events, mut entries) = (0, 0);
        let devices = &self.devices;
        let drained = probe.drain(|key, count| {
            entries += 1;
            let (device, generation) = halves(key[0]);
            let Some(device) = devices.get(&device) else { return };
            events += count;
            device.give(Ino(key[1]), generation, count);
        });
        self.report.events += events;
        self.report.entries += entries;
        self.report.drains += 1;
        match drained.and_then(|()| self.count_lost()) {
            Ok(()) => self.vouch(begun),
            Err(error) => {
                tracing::warn!(%error, "the probe cannot be emptied: nothing counts as idle");
                let ledgers = self.devices.values().flat_map(Device::ledgers);
                ledgers.for_each(|ledger| ledger.gap(Second::now(), 0));
            }
        }
        self.report.spent += started.elapsed();
        entries
    }

    /// Ledgers that nobody else has any more are not watched.
    fn forget_the_dead(&mut self) {
        // One that is filled from a mount too is held here twice.
        let mut held_here: HashMap<*const Ledger, usize> = HashMap::new();
        for watched in self.devices.values().flat_map(|device| device.watched.values()) {
            *held_here.entry(Arc::as_ptr(&watched.ledger)).or_default() += 1;
        }
        let mut probe = self.probe.as_mut();
        self.devices.retain(|number, device| {
            let mut gone = Vec::new();
            device.watched.retain(|tenant, watched| {
                let held = held_here.get(&Arc::as_ptr(&watched.ledger)).copied().unwrap_or(0);
                let is_used = Arc::strong_count(&watched.ledger) > held;
                gone.extend((!is_used).then_some(*tenant));
                is_used
            });
            gone.into_iter().for_each(|tenant| device.owners().leave(tenant));
            let is_used = !device.watched.is_empty();
            if let (false, Some(probe)) = (is_used, probe.as_mut()) {
                probe.forget(*number);
            }
            is_used
        });
    }

    /// All that happened before `begun` is taken, wherever the probe still sees.
    fn vouch(&mut self, begun: Second) {
        let Some(probe) = &mut self.probe else { return };
        let mut is_blind = false;
        for (number, device) in &self.devices {
            if device.is_seen_by(probe, *number) {
                device.ledgers().for_each(|ledger| ledger.seen_until(begun));
            } else {
                is_blind = true;
                device.ledgers().for_each(|ledger| ledger.gap(Second::now(), 0));
            }
        }
        if is_blind {
            self.report.blind += 1;
            self.reload();
        }
    }

    /// A probe that does not see what the daemon reads was detached, or something stands before
    /// it: another one is loaded, now and then.
    fn reload(&mut self) {
        if self.reloaded.is_some_and(|at| at.elapsed() < RELOAD_EVERY) {
            return;
        }
        self.reloaded = Some(Instant::now());
        tracing::warn!("the probe sees no more, nothing counts as idle: it is loaded anew");
        let loaded = load(&self.options).map_err(io::Error::other).and_then(|mut probe| {
            probe.daemon_is(self.process)?;
            self.devices.keys().try_for_each(|device| probe.watch(*device))?;
            Ok(probe)
        });
        match loaded {
            Ok(probe) => {
                for device in self.devices.values_mut() {
                    device.lost = 0;
                    device.ledgers().for_each(|ledger| ledger.seen_by(probe.kind));
                }
                self.report.kind = Some(probe.kind);
                self.report.refused.clone_from(&probe.refused);
                self.report.reloads += 1;
                self.probe = Some(probe);
            }
            Err(error) => tracing::warn!(%error, "the probe cannot be loaded anew"),
        }
    }

    /// Asks for accesses that the map had no room for: what is idle there is not known.
    fn count_lost(&mut self) -> io::Result<()> {
        let Some(probe) = &self.probe else { return Ok(()) };
        for (number, device) in &mut self.devices {
            let lost = probe.lost(*number)?;
            let more = lost.saturating_sub(device.lost);
            device.lost = lost;
            if more > 0 {
                self.report.dropped += more;
                let now = Second::now();
                device.watched.values().for_each(|watched| watched.ledger.gap(now, more));
            }
        }
        Ok(())
    }

    fn clock_was_set(&mut self, wall: Second) -> bool {
        let before = std::mem::replace(&mut self.clocks, (wall, sys::boot_clock()));
        let went = i64::from(wall.0) - i64::from(before.0.0);
        let passed = self.clocks.1.saturating_sub(before.1);
        let passed = i64::try_from(passed.as_secs()).unwrap_or(i64::MAX);
        went.abs_diff(passed) > CLOCK_STEP.as_secs()
    }
}

impl Device {
    fn owners(&self) -> std::sync::MutexGuard<'_, Owners> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that are filled from the files themselves: the mount's own inodes are seen, or lost,
    /// together with them.
    fn ledgers(&self) -> impl Iterator<Item = &Ledger> {
        let below = self.watched.values().filter(|watched| watched.via == Via::Below);
        below.map(|watched| watched.ledger.as_ref())
    }

    /// Accesses go to the tenant whose file it is, whatever the number of tenants.
    fn give(&self, ino: Ino, generation: u32, count: u64) {
        let (last, evidence) = (Second::now(), Evidence::Probe);
        let touch = Touch { via: Via::Below, generation, count, last, evidence };
        self.owners().give(ino, touch, |number| {
            if let Some(watched) = self.watched.get(&number) {
                watched.ledger.add(ino, Touch { via: watched.via, ..touch });
            }
        });
    }

    /// Whether the probe sees what is read there; where that cannot be asked, it is believed.
    fn is_seen_by(&self, probe: &mut Probe, number: u32) -> bool {
        let Some(proof) = &self.proof else { return true };
        match proof.ask(probe) {
            Ok(seen) => seen.is_some_and(|seen| seen.device == number),
            Err(error) => {
                tracing::warn!(%error, "the probe cannot be tested");
                false
            }
        }
    }
}
