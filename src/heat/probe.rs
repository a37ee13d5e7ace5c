//! The probe in the kernel: loaded, attached, asked, emptied. It goes with the value.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use aya::programs::Program;
use aya::{Btf, Ebpf, EbpfLoader};

use super::layout::{
    self, DAEMON, DEVICES, EPOCH, Key, NAME_BYTES, NONCE, QUIET, QUIET_GROUPS, QUIET_NAMES,
    QUIET_TASKS, RECENT, RECENT_EPOCH, RECENT_KEY, RECENT_REPEATS, RECENT_WORDS, SETTINGS,
    SETTINGS_WORDS, SIGHT, SIGHT_KEY, SIGHT_NONCE, SIGHT_TASK, SIGHT_WORDS, TOUCHED,
};
use super::{Choice, Kind, object, offsets};
use crate::sys::bpf::{Batch, Cursor};

/// Entries taken at once: 100 KB, and more than any bucket of a hash map holds.
const BATCH: usize = 4_096;
/// Where the kernel says what its tracepoints' records look like; the second is mounted there
/// by the first who looks, where the first is not mounted.
const FORMATS: [&str; 2] = ["/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events"];
/// Fields that the classic programs take, and where they lie.
const RECORDS: [(&str, &str, usize); 9] = [
    ("filemap/mm_filemap_get_pages", "s_dev", layout::FILEMAP_DEVICE),
    ("filemap/mm_filemap_get_pages", "i_ino", layout::FILEMAP_NUMBER),
    ("filemap/mm_filemap_get_pages", "index", layout::PAGES_INDEX),
    ("filemap/mm_filemap_map_pages", "s_dev", layout::FILEMAP_DEVICE),
    ("filemap/mm_filemap_map_pages", "i_ino", layout::FILEMAP_NUMBER),
    ("filemap/mm_filemap_fault", "s_dev", layout::FILEMAP_DEVICE),
    ("filemap/mm_filemap_fault", "i_ino", layout::FILEMAP_NUMBER),
    ("iomap/iomap_dio_rw_begin", "dev", layout::DIRECT_DEVICE),
    ("iomap/iomap_dio_rw_begin", "ino", layout::DIRECT_NUMBER),
];

/// Why there is no probe: what each kind met, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeError(pub Vec<String>);

impl std::fmt::Display for ProbeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for ProbeError {}

/// What a test saw: the reader, and its file, as the kernel knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) process: u32,
    pub(super) device: u32,
}

/// A loaded probe.
pub struct Probe {
    /// How it sees.
    pub kind: Kind,
    /// What better kinds met.
    pub refused: Vec<String>,
    settings: Array<MapData, [u64; SETTINGS_WORDS]>,
    wanted: [u64; SETTINGS_WORDS],
    devices: HashMap<MapData, u32, u64>,
    recent: PerCpuArray<MapData, [u64; RECENT_WORDS]>,
    sight: Array<MapData, [u64; SIGHT_WORDS]>,
    tasks: HashMap<MapData, u32, u8>,
    names: HashMap<MapData, [u8; NAME_BYTES], u8>,
    groups: HashMap<MapData, u64, u8>,
    touched: MapData,
    room: Batch,
    /// Its programs stay attached as long as this lives.
    _programs: Ebpf,
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Probe {
    /// Loads the first kind that this kernel allows. `description`: the kernel's own, where it is
    /// not in its place; `entries`: files that may be touched between two drains.
    pub(super) fn load(
        choice: Choice,
        description: Option<&Path>,
        entries: u32,
    ) -> Result<Self, ProbeError> {
        object::check(object::OBJECT).map_err(|why| ProbeError(vec![why]))?;
        let description = description.unwrap_or(Path::new(super::btf::KERNEL));
        let mut refused = Vec::new();
        for kind in choice.kinds() {
            match Self::load_kind(kind, description, entries) {
                Ok(probe) => return Ok(Self { refused, ..probe }),
                Err(why) => refused.push(format!("{}: {why}", kind.word())),
            }
        }
        Err(ProbeError(refused))
    }

    fn load_kind(kind: Kind, description: &Path, entries: u32) -> Result<Self, String> {
        let shown = description.display();
        let mut btf = None;
        let mut places = Vec::new();
        if kind.needs_btf() {
            let bytes = std::fs::read(description).map_err(|error| format!("{shown}: {error}"))?;
            places = offsets::of(&bytes).map_err(|why| format!("{shown}: {why}"))?;
            let parsed = Btf::parse(&bytes, aya::Endianness::default());
            btf = Some(parsed.map_err(|error| format!("{shown}: {}", chain(&error)))?);
        } else {
            check_records()?;
        }
        let mut loader = EbpfLoader::new();
        loader.btf(None).map_max_entries(TOUCHED, entries);
        for (global, offset) in &places {
            loader.override_global(global, offset, true);
        }
        let mut loaded = loader.load(object::OBJECT).map_err(|error| chain(&error))?;
        for (program, point) in kind.programs() {
            let attached = attach(&mut loaded, program, point, btf.as_ref());
            attached.map_err(|why| format!("{point}: {why}"))?;
        }
        Self::of(kind, loaded)
    }

    fn of(kind: Kind, mut loaded: Ebpf) -> Result<Self, String> {
        let mut map = |name: &str| loaded.take_map(name).ok_or(format!("the object has no {name}"));
        let wrong = |error: aya::maps::MapError| chain(&error);
        let touched = match map(TOUCHED)? {
            Map::HashMap(map) => map,
            _ => return Err(format!("{TOUCHED} is no hash map")),
        };
        Ok(Self {
            kind,
            refused: Vec::new(),
            settings: Array::try_from(map(SETTINGS)?).map_err(wrong)?,
            wanted: [1, 0, 0, 0],
            devices: HashMap::try_from(map(DEVICES)?).map_err(wrong)?,
            recent: PerCpuArray::try_from(map(RECENT)?).map_err(wrong)?,
            sight: Array::try_from(map(SIGHT)?).map_err(wrong)?,
            tasks: HashMap::try_from(map(QUIET_TASKS)?).map_err(wrong)?,
            names: HashMap::try_from(map(QUIET_NAMES)?).map_err(wrong)?,
            groups: HashMap::try_from(map(QUIET_GROUPS)?).map_err(wrong)?,
            touched,
            room: Batch::with_room(BATCH),
            _programs: loaded,
        })
    }

    fn tell(&mut self) -> io::Result<()> {
        self.settings.set(0, self.wanted, 0).map_err(io::Error::other)
    }

    /// Whose reads warm nothing: this daemon's.
    pub(super) fn daemon_is(&mut self, process: u32) -> io::Result<()> {
        self.wanted[DAEMON] = process.into();
        self.tell()
    }

    /// Whose reads warm nothing besides. Those that were and are no more, warm again.
    pub(super) fn quiet(&mut self, quiet: &super::Quiet) -> io::Result<()> {
        let names = quiet.names.iter().map(|name| padded(name));
        let has = [
            (replace(&mut self.tasks, quiet.tasks.iter().copied())?, layout::HAS_TASKS),
            (replace(&mut self.names, names)?, layout::HAS_NAMES),
            (replace(&mut self.groups, quiet.groups.iter().copied())?, layout::HAS_GROUPS),
        ];
        self.wanted[QUIET] = has.iter().filter(|(any, _)| *any).map(|(_, bit)| bit).sum();
        self.tell()
    }

    /// Watches a device, or watches it on.
    pub(super) fn watch(&mut self, device: u32) -> io::Result<()> {
        match self.devices.insert(device, 0, layout::NEW_ONLY) {
            Ok(()) => Ok(()),
            Err(_) if self.devices.get(&device, 0).is_ok() => Ok(()),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Watches a device no more.
    pub(super) fn forget(&mut self, device: u32) {
        if let Err(error) = self.devices.remove(&device) {
            tracing::debug!(device, %error, "a device was not watched");
        }
    }

    /// Accesses on a device that were lost since it is watched.
    pub(super) fn lost(&self, device: u32) -> io::Result<u64> {
        self.devices.get(&device, 0).map_err(io::Error::other)
    }

    /// Says to the probe that a read at this page is a test, runs it, and says what was seen.
    pub(super) fn test(
        &mut self,
        nonce: u64,
        read: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Option<Seen>> {
        self.sight.set(0, [0; SIGHT_WORDS], 0).map_err(io::Error::other)?;
        self.wanted[NONCE] = nonce;
        self.tell()?;
        let done = read();
        self.wanted[NONCE] = 0;
        self.tell()?;
        done?;
        let seen = self.sight.get(&0, 0).map_err(io::Error::other)?;
        if seen[SIGHT_NONCE] != nonce {
            return Ok(None);
        }
        let (device, _) = halves(seen[SIGHT_KEY]);
        let (process, _) = halves(seen[SIGHT_TASK]);
        Ok(Some(Seen { process, device }))
    }

    /// Takes all that was touched since the last time: key and number of accesses, a file maybe
    /// more than once.
    pub(super) fn drain(&mut self, mut take: impl FnMut(Key, u64)) -> io::Result<()> {
        let over = self.wanted[EPOCH];
        self.wanted[EPOCH] = over + 1;
        self.tell()?;
        let mut cursor = Cursor::default();
        loop {
            let taken = self.room.take(self.touched.fd().as_fd(), &mut cursor)?;
            taken.keys.iter().zip(taken.values).for_each(|(key, count)| take(*key, *count));
            if !taken.more {
                break;
            }
        }
        // What each CPU had not told the map of. Programs use the other entry by now.
        let slot = u32::from(over & 1 == 1);
        for recent in self.recent.get(&slot, 0).map_err(io::Error::other)?.iter() {
            if recent[RECENT_EPOCH] == over && recent[RECENT_REPEATS] > 0 {
                take([recent[RECENT_KEY], recent[RECENT_KEY + 1]], recent[RECENT_REPEATS]);
            }
        }
        Ok(())
    }
}

/// The halves of a word, the low one first.
#[allow(clippy::cast_possible_truncation, reason = "halves of a word")]
pub(super) fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// A task's name as the kernel keeps it: 15 bytes of it.
fn padded(name: &str) -> [u8; NAME_BYTES] {
    let mut padded = [0; NAME_BYTES];
    let length = name.len().min(NAME_BYTES - 1);
    padded[..length].copy_from_slice(&name.as_bytes()[..length]);
    padded
}

/// Makes these a map's keys; whether there are any. What does not fit is left out, and warms.
fn replace<K: aya::Pod + PartialEq>(
    map: &mut HashMap<MapData, K, u8>,
    keys: impl Iterator<Item = K>,
) -> io::Result<bool> {
    let keys: Vec<K> = keys.collect();
    let old: Vec<K> = map.keys().collect::<Result<_, _>>().map_err(io::Error::other)?;
    for gone in old.iter().filter(|key| !keys.contains(key)) {
        map.remove(gone).map_err(io::Error::other)?;
    }
    for new in keys.iter().filter(|key| !old.contains(key)) {
        if let Err(error) = map.insert(new, 1, 0) {
            tracing::warn!(%error, "more scanners than the probe has room for");
            break;
        }
    }
    Ok(!keys.is_empty())
}

fn attach(loaded: &mut Ebpf, name: &str, point: &str, btf: Option<&Btf>) -> Result<(), String> {
    let program = loaded.program_mut(name).ok_or("the object has no such program")?;
    let no_btf = || "no BTF".to_owned();
    let result = match program {
        Program::BtfTracePoint(program) => {
            program.load(point, btf.ok_or_else(no_btf)?).and_then(|()| program.attach().map(drop))
        }
        Program::FEntry(program) => {
            program.load(point, btf.ok_or_else(no_btf)?).and_then(|()| program.attach().map(drop))
        }
        Program::RawTracePoint(program) => {
            program.load().and_then(|()| program.attach(point).map(drop))
        }
        Program::TracePoint(program) => {
            let (category, name) = point.split_once('/').unwrap_or_default();
            program.load().and_then(|()| program.attach(category, name).map(drop))
        }
        _ => return Err("the object has another kind of program there".into()),
    };
    result.map_err(|error| chain(&error))
}

/// Compares the records of classic tracepoints with what the programs take.
fn check_records() -> Result<(), String> {
    for (point, field, place) in RECORDS {
        let format = FORMATS
            .iter()
            .find_map(|dir| std::fs::read_to_string(format!("{dir}/{point}/format")).ok());
        let format =
            format.ok_or(format!("{point}: no such tracepoint, or tracefs is not there"))?;
        if record_offset(&format, field) != Some(place) {
            return Err(format!("{point}: its field {field} is not at byte {place}"));
        }
    }
    Ok(())
}

fn record_offset(format: &str, field: &str) -> Option<usize> {
    let line = format.lines().find(|line| {
        line.split(';').next().is_some_and(|declared| declared.ends_with(&format!(" {field}")))
    })?;
    line.split("offset:").nth(1)?.split(';').next()?.parse().ok()
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    // The verifier's log is long, and for developers.
    let line = text.lines().next().unwrap_or_default().trim_end();
    line.strip_suffix("Verifier output:").unwrap_or(line).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_the_kernel_prints_them() {
        let format = "\tfield:unsigned long i_ino;\toffset:8;\tsize:8;\tsigned:0;\n\
                      \tfield:dev_t s_dev;\toffset:16;\tsize:4;\tsigned:0;\n";
        assert_eq!(record_offset(format, "s_dev"), Some(16));
        assert_eq!(record_offset(format, "ino"), None);
    }

    #[test]
    fn names_are_cut_as_the_kernel_cuts_them() {
        assert_eq!(&padded("updatedb.plocate")[..], b"updatedb.plocat\0");
        assert_eq!(&padded("borg")[..5], b"borg\0");
    }
}
