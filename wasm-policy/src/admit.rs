//! Whether a file that is read while released comes home.

use crate::facts::{Context, Read};
use crate::rulebook::Builtin;
use crate::settings::Settings;

/// Whether it is recalled, and which rule says so.
pub fn admit(settings: &Settings, context: &Context, read: &Read) -> (bool, Builtin) {
    if !has_room(settings, context, read.size_bytes) {
        return (false, Builtin::NoRoom);
    }
    let share = u128::from(read.size_bytes) * u128::from(settings.recall_after_share);
    if read.size_bytes <= settings.recall_whole_up_to {
        (true, Builtin::ReadWhole)
    } else if u128::from(read.read_bytes) * 100 >= share {
        (true, Builtin::ReadMuch)
    } else if settings.recall_after_opens > 0
        && u64::from(read.opens) >= settings.recall_after_opens
    {
        (true, Builtin::ReadOften)
    } else {
        (false, Builtin::ReadThrough)
    }
}

/// Whether it would stay below the high watermark: above it others would have to go for it.
fn has_room(settings: &Settings, context: &Context, bytes: u64) -> bool {
    let fits = |used: u64, of: u64| {
        (u128::from(used) + u128::from(bytes)) * 100
            <= u128::from(of) * u128::from(settings.high_watermark)
    };
    // A capacity of nothing is one that nobody knows.
    let filesystem =
        context.capacity_bytes == 0 || fits(context.used_bytes, context.capacity_bytes);
    filesystem && context.quota_bytes.is_none_or(|quota| fits(context.local_bytes, quota))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{calm, pressed};

    const GIB: u64 = 1 << 30;

    fn read(size_bytes: u64, read_bytes: u64, opens: u32) -> Read {
        Read { size_bytes, read_bytes, opens }
    }

    #[test]
    fn small_files_come_home_and_large_ones_when_much_of_them_is_read() {
        let settings = Settings::default();
        let admit = |read| super::admit(&settings, &calm(), &read);
        assert_eq!(admit(read(16 << 20, 1, 1)), (true, Builtin::ReadWhole));
        assert_eq!(admit(read((16 << 20) + 1, 1, 99)), (false, Builtin::ReadThrough));
        assert_eq!(admit(read(GIB, GIB / 4, 1)), (true, Builtin::ReadMuch));
        assert_eq!(admit(read(GIB, GIB / 4 - 1, 1)), (false, Builtin::ReadThrough));
        let settings = Settings { recall_after_opens: 3, ..settings };
        assert_eq!(super::admit(&settings, &calm(), &read(GIB, 1, 3)), (true, Builtin::ReadOften));
    }

    #[test]
    fn nothing_comes_home_where_others_would_have_to_go_for_it() {
        let settings = Settings::default();
        let (small, large) = (read(4_097, 4_097, 9), read(80 * GIB, 80 * GIB, 9));
        assert_eq!(admit(&settings, &pressed(), &small), (false, Builtin::NoRoom));
        assert_eq!(admit(&settings, &calm(), &large), (false, Builtin::NoRoom));
        let full = Context { quota_bytes: Some(GIB), local_bytes: GIB, ..calm() };
        assert_eq!(admit(&settings, &full, &small), (false, Builtin::NoRoom));
        let unknown = Context { capacity_bytes: 0, ..pressed() };
        assert_eq!(admit(&settings, &unknown, &small), (true, Builtin::ReadWhole));
        assert_eq!(admit(&settings, &calm(), &read(u64::MAX, u64::MAX, 0)).1, Builtin::NoRoom);
    }
}
