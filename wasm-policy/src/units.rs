//! Sizes and times as people write them, and back.

use alloc::format;
use alloc::string::String;

/// A day, seconds.
pub const DAY: u32 = 86_400;
/// A month of bills, seconds: a twelfth of 365.25 days.
pub const MONTH: f64 = 2_629_800.0;

const TIMES: [(&str, u64); 5] =
    [("w", 7 * 86_400), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
const SIZES: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// `14d`, `36h`: seconds. A number without a unit is none: nobody knows what it means.
pub fn seconds(text: &str) -> Option<u64> {
    with_unit(text, &TIMES)
}

/// `4096B`, `16MiB`: bytes.
pub fn bytes(text: &str) -> Option<u64> {
    with_unit(text, &SIZES)
}

/// In the largest unit that tells it exactly (7 d, not 168 h), or else one that leaves two digits.
fn shown(number: u64, units: &[(&str, u64)]) -> String {
    let last = units[units.len() - 1];
    let exact = units.iter().find(|(_, factor)| number > 0 && number.is_multiple_of(*factor));
    let exact = exact.filter(|(_, factor)| *factor > last.1);
    let fits = |least: u64| units.iter().find(|(_, factor)| number / factor >= least);
    let (name, factor) = *exact.or_else(|| fits(10)).unwrap_or(&last);
    format!("{} {name}", number / factor)
}

/// `3 d`: rounded down, for a person; weeks are told in days.
pub fn show_seconds(seconds: u64) -> String {
    shown(seconds, &TIMES[1..])
}

/// `16 MiB`: rounded down, for a person.
pub fn show_bytes(bytes: u64) -> String {
    shown(bytes, &SIZES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read_and_shown() {
        assert_eq!(seconds("14d"), Some(14 * 86_400));
        assert_eq!(seconds("2w"), Some(14 * 86_400));
        assert_eq!(bytes("16MiB"), Some(16 << 20));
        assert_eq!(bytes("0B"), Some(0));
        for wrong in ["", "d", "14", "14 d", "-1d", "1.5d", "14D", "99999999999999999999d"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
        for wrong in ["16777216TiB", "1MB", "MiB"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_person_reads_short_numbers() {
        assert_eq!(show_seconds(14 * 86_400), "14 d");
        assert_eq!(show_seconds(7 * 86_400), "7 d");
        assert_eq!(show_seconds(3 * 86_400 + 5), "72 h");
        assert_eq!(show_seconds(59), "59 s");
        assert_eq!(show_seconds(0), "0 s");
        assert_eq!(show_bytes(4_096), "4 KiB");
        assert_eq!(show_bytes(16 << 20), "16 MiB");
    }
}
