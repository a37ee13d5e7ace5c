//! Whether the machine's disks keep others waiting (`/proc/pressure/io`, Linux 4.20).

use crate::policy::contract::Action;

/// Whether a move waits while files are recalled or a disk is busy. What makes room on a filesystem
/// that is too full does not: recalls and writers want that room, and would keep it full for ever.
pub fn yields(next: Action, goal_bytes: u64) -> bool {
    match next {
        Action::Archive | Action::Release | Action::Migrate => goal_bytes == 0,
        Action::Recall => true,
    }
}

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
    fn what_makes_room_on_a_full_disk_waits_for_nobody() {
        for makes_room in [Action::Archive, Action::Release, Action::Migrate] {
            assert!(yields(makes_room, 0) && !yields(makes_room, 1), "{makes_room:?}");
        }
        assert!(yields(Action::Recall, 0) && yields(Action::Recall, 1));
    }

    #[test]
    fn the_kernels_words_are_read() {
        let text = "some avg10=42.90 avg60=3.00 avg300=0.00 total=1\nfull avg10=7.00 avg60=0.00\n";
        assert_eq!(parse(text), Some(42));
        assert_eq!(parse("full avg10=7.00"), None);
        assert_eq!(parse(""), None);
    }
}
