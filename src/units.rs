//! Sizes and durations as people write them.

/// Reads `4096`, `64K`, `64 KiB`, `1.5G`: powers of 1,024, as coreutils does; `kB`, `MB` and
/// so on are powers of 1,000.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor = match unit {
        "" | "B" => 1,
        "K" | "k" | "KiB" => 1 << 10,
        "M" | "m" | "MiB" => 1 << 20,
        "G" | "g" | "GiB" => 1 << 30,
        "T" | "t" | "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(format!("{text:?} is not a size; write 4096, 64K, 1.5G or 20MB")),
    };
    scale(number, factor)
        .ok_or_else(|| format!("{text:?} is not a size; write 4096, 64K, 1.5G or 20MB"))
}

/// Reads `90`, `90s`, `15m`, `36h`, `14d`, `2w` as seconds.
pub fn parse_seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor = match unit {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err(format!("{text:?} is not a duration; write 90s, 15m, 36h, 14d or 2w")),
    };
    scale(number, factor)
        .ok_or_else(|| format!("{text:?} is not a duration; write 90s, 15m, 36h, 14d or 2w"))
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// `number * factor`, rounded down, exactly; none where it is no number or does not fit.
fn scale(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().ok()?;
    let places = u32::try_from(fraction.len()).ok().filter(|places| *places <= 6)?;
    let fraction: u64 = fraction.parse().ok()?;
    let part = u128::from(fraction) * u128::from(factor) / 10_u128.pow(places);
    whole.checked_mul(factor)?.checked_add(u64::try_from(part).ok()?)
}

/// `10 minutes`, `90 s`: a time as people say it.
pub fn shown_seconds(seconds: u64) -> String {
    match (seconds / 60, seconds % 60) {
        (1, 0) => "1 minute".to_owned(),
        (minutes @ 2.., 0) => format!("{minutes} minutes"),
        _ => format!("{seconds} s"),
    }
}

/// `14 d`, `3 h 20 min`, `50 s`: an age, to what matters of it.
pub fn shown_age(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, 0) => format!("{hours} h"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (1..=2, hours @ 1.., _) => format!("{days} d {hours} h"),
        (days, _, _) => format!("{days} d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64K", 65_536),
            ("64 KiB", 65_536),
            ("1.5G", 3 << 29),
            ("20MB", 20_000_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "K", "-1", "1X", "1.2.3", "99999999T", "1e3"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, seconds) in [("90", 90), ("15m", 900), ("36h", 129_600), ("14d", 1_209_600)] {
            assert_eq!(parse_seconds(text), Ok(seconds), "{text}");
        }
        assert!(parse_seconds("1y").is_err());
    }

    #[test]
    fn an_age_says_what_matters_of_it() {
        let shown = [
            (59, "59 s"),
            (61, "1 min"),
            (3_600, "1 h"),
            (12_000, "3 h 20 min"),
            (90_000, "1 d 1 h"),
            (14 * 86_400 + 5_000, "14 d"),
        ];
        for (seconds, text) in shown {
            assert_eq!(shown_age(seconds), text);
        }
    }

    #[test]
    fn a_short_time_is_not_no_minutes() {
        let shown = [(10, "10 s"), (60, "1 minute"), (90, "90 s"), (600, "10 minutes")];
        for (seconds, text) in shown {
            assert_eq!(shown_seconds(seconds), text);
        }
    }
}
