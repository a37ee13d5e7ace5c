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
    /// Whether so many bytes more leave it at `low` percent at most: nothing has to go for them.
    pub fn takes(&self, bytes: u64, low: u32) -> bool {
        self.used_bytes.saturating_add(bytes) <= self.share(low)
    }

    fn share(&self, percent: u32) -> u64 {
        let share = u128::from(self.capacity_bytes) * u128::from(percent) / 100;
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    /// Bytes to free until it is down to `low` percent; 0 where it is not above `high`.
    pub fn goal_bytes(&self, high: u32, low: u32) -> u64 {
        match self.used_bytes > self.share(high) {
            true => self.used_bytes.saturating_sub(self.share(low)),
            false => 0,
        }
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

    #[test]
    fn what_comes_home_ahead_of_need_makes_nothing_go() {
        let room = Room { capacity_bytes: 1_000, used_bytes: 700 };
        assert!(room.takes(100, 80) && !room.takes(101, 80) && !room.takes(u64::MAX, 80));
        assert!(!Room::default().takes(1, 80), "nobody knows");
    }
}
