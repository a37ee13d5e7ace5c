//! The ways to see accesses, best first.

use std::str::FromStr;

/// How accesses are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Tracepoints with typed arguments.
    TpBtf,
    /// Function entries.
    Fentry,
    /// Tracepoints with untyped arguments.
    RawTp,
    /// Tracepoints by their records: slower, needs no BTF.
    Tracepoint,
}

impl Kind {
    /// In the order in which they are tried.
    pub const ALL: [Kind; 4] = [Kind::TpBtf, Kind::Fentry, Kind::RawTp, Kind::Tracepoint];

    /// The word shown to people and scripts.
    pub fn word(self) -> &'static str {
        match self {
            Kind::TpBtf => "tp_btf",
            Kind::Fentry => "fentry",
            Kind::RawTp => "raw_tp",
            Kind::Tracepoint => "tracepoint",
        }
    }

    /// Whether it takes fields of kernel structures, whose places BTF tells.
    pub(super) fn needs_btf(self) -> bool {
        self != Kind::Tracepoint
    }

    /// Programs of the object, and what each is attached to.
    pub(super) fn programs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Kind::TpBtf => &[
                ("btf_get_pages", "mm_filemap_get_pages"),
                ("btf_map_pages", "mm_filemap_map_pages"),
                ("btf_fault", "mm_filemap_fault"),
                ("btf_direct", "iomap_dio_rw_begin"),
            ],
            Kind::Fentry => &[
                ("entry_permission", "security_file_permission"),
                ("entry_map_pages", "filemap_map_pages"),
                ("entry_fault", "filemap_fault"),
            ],
            Kind::RawTp => &[
                ("raw_get_pages", "mm_filemap_get_pages"),
                ("raw_map_pages", "mm_filemap_map_pages"),
                ("raw_fault", "mm_filemap_fault"),
                ("raw_direct", "iomap_dio_rw_begin"),
            ],
            Kind::Tracepoint => &[
                ("classic_get_pages", "filemap/mm_filemap_get_pages"),
                ("classic_map_pages", "filemap/mm_filemap_map_pages"),
                ("classic_fault", "filemap/mm_filemap_fault"),
                ("classic_direct", "iomap/iomap_dio_rw_begin"),
            ],
        }
    }
}

/// What a person wants: where in the order to begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// With the best.
    #[default]
    Auto,
    /// With this one; the later ones follow.
    From(Kind),
    /// No probe: opens through the mount and access times have to do.
    None,
}

impl Choice {
    /// What is tried, in order.
    pub fn kinds(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(move |kind| match self {
            Choice::Auto => true,
            Choice::From(first) => *kind >= first,
            Choice::None => false,
        })
    }
}

impl FromStr for Choice {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "auto" => Ok(Choice::Auto),
            "none" => Ok(Choice::None),
            _ => Kind::ALL
                .into_iter()
                .find(|kind| kind.word() == word)
                .map(Choice::From)
                .ok_or_else(|| {
                    format!("no probe {word:?}: auto, tp_btf, fentry, raw_tp, tracepoint or none")
                }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_begins_somewhere_and_goes_on() {
        let kinds = |word: &str| word.parse::<Choice>().unwrap().kinds().collect::<Vec<_>>();
        assert_eq!(kinds("auto"), Kind::ALL);
        assert_eq!(kinds("raw_tp"), [Kind::RawTp, Kind::Tracepoint]);
        assert_eq!(kinds("none"), []);
        assert!("kprobe".parse::<Choice>().unwrap_err().contains("tracepoint or none"));
    }
}
