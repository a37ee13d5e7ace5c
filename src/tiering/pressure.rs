//! Whether the machine's disks keep others waiting (`/proc/pressure/io`, Linux 4.20).

/// The share of the last ten seconds, percent, in which somebody waited for a disk; none: this
/// kernel does not tell.
pub fn io_percent() -> Option<u32> {
    parse(&std::fs::read_to_string("/proc/pressure/io").ok()?)
}

fn parse(text: &str) -> Option<u32> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    let percent = line.split(' ').find_map(|word| word.strip_prefix("avg10="))?;
    percent.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let text = "some avg10=42.90 avg60=3.00 avg300=0.00 total=1\nfull avg10=7.00 avg60=0.00\n";
        assert_eq!(parse(text), Some(42));
        assert_eq!(parse("full avg10=7.00"), None);
        assert_eq!(parse(""), None);
    }
}
