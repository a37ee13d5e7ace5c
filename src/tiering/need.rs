//! How much is to be freed. Pure.

/// What a filesystem or a quota has, and what is taken of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes in all, as far as users may take them.
    pub capacity_bytes: u64,
    /// Bytes taken.
    pub used_bytes: u64,
}

impl Room {
    /// Bytes to free until it is down to `low` percent; 0 where it is not above `high`.
    pub fn goal_bytes(&self, high: u32, low: u32) -> u64 {
        let share = |percent: u32| {
            let share = u128::from(self.capacity_bytes) * u128::from(percent) / 100;
            u64::try_from(share).unwrap_or(u64::MAX)
        };
        if self.used_bytes > share(high) { self.used_bytes.saturating_sub(share(low)) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_above_the_high_mark_goes_down_to_the_low_one() {
        let goal = |used_bytes| Room { capacity_bytes: 1_000, used_bytes }.goal_bytes(85, 80);
        assert_eq!([goal(0), goal(850), goal(851), goal(1_000)], [0, 0, 51, 200]);
        let most = Room { capacity_bytes: u64::MAX, used_bytes: u64::MAX };
        assert!(most.goal_bytes(85, 80) > u64::MAX / 6);
        assert_eq!(Room::default().goal_bytes(85, 80), 0);
    }
}
