//! Whether a move pays: what it costs against the space that it saves.
//!
//! Saved are the local bytes, for as long as a move has to pay for itself. Paid are the PUT (its
//! part of one, where small files share it), the store's space (no less than an object is billed
//! for, in size and in time), and for each expected recall a GET and the bytes that leave the
//! store. Expected recalls are a setting, and what heat tells: decayed by half in every half-life,
//! a heat of h is a rate of h * ln 2 / half-life accesses. Of an archived file the copy is paid
//! for already; only recalls count then.

use core::f64::consts::LN_2;

use crate::facts::{Action, Candidate, Context, Tariff};
use crate::settings::Settings;
use crate::units::MONTH;

const GIB: f64 = (1_u64 << 30) as f64;
/// A file of this size has a segment of its own (DESIGN.md, section 4), bytes.
const SEGMENT: f64 = (64_u64 << 20) as f64;

/// A tariff, ready to be applied to many files.
#[derive(Clone, Copy, Debug)]
pub struct Economy {
    /// The local disk's price is known: without it nothing can be weighed.
    known: bool,
    /// Of a local byte, over the time to pay back.
    saved_a_byte: f64,
    /// Of a stored byte.
    stored_a_byte: f64,
    /// Bytes that a packed file is billed for at least.
    billed_bytes: f64,
    /// Of an egress byte, a recall.
    egress_a_byte: f64,
    /// Of a GET, a recall.
    get: f64,
    put: f64,
    puts_a_file: f64,
    /// Recalls over the time to pay back, and how many more each unit of heat brings.
    recalls: f64,
    recalls_a_heat: f64,
}

#[allow(clippy::cast_precision_loss, reason = "a part in 2^53 of a bill is nothing")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

impl Economy {
    /// By these prices and settings.
    pub fn new(context: &Context, settings: &Settings) -> Self {
        let Tariff { local_gib_month, remote_gib_month, put, get, egress_gib, .. } = context.tariff;
        let months = settings.payback_months;
        let billed_months = f64::from(context.tariff.minimum_billable_seconds) / MONTH;
        let files_per_put = f64::from(context.tariff.files_per_put).max(1.0);
        let half_life = f64::from(context.heat_half_life_seconds);
        let a_month = if half_life > 0.0 { LN_2 / half_life * MONTH } else { 0.0 };
        Self {
            known: local_gib_month > 0.0,
            saved_a_byte: local_gib_month * months / GIB,
            stored_a_byte: remote_gib_month * months.max(billed_months) / GIB,
            billed_bytes: float(context.tariff.minimum_billable_bytes) / files_per_put,
            egress_a_byte: egress_gib / GIB,
            get,
            put,
            puts_a_file: 1.0 / files_per_put,
            recalls: settings.expected_recalls * months,
            recalls_a_heat: a_month * months,
        }
    }

    fn saved(&self, file: &Candidate) -> f64 {
        float(file.local_bytes) * self.saved_a_byte
    }

    /// What a move costs once, and for each recall.
    fn cost(&self, file: &Candidate, action: Action) -> (f64, f64) {
        let size = float(file.size_bytes);
        let a_recall = self.get + size * self.egress_a_byte;
        let once = match action {
            Action::Archive | Action::Migrate => {
                size.max(self.billed_bytes) * self.stored_a_byte
                    + self.puts_a_file.max(size / SEGMENT) * self.put
            }
            Action::Release | Action::Recall => 0.0,
        };
        (once, a_recall)
    }

    /// Whether the space pays for the move. True where nothing can be weighed.
    pub fn pays(&self, file: &Candidate, action: Action, heat: f32) -> bool {
        if !self.known {
            return true;
        }
        let (once, a_recall) = self.cost(file, action);
        let recalls = self.recalls + f64::from(heat) * self.recalls_a_heat;
        // An unheard-of heat (NaN) does not pay.
        self.saved(file) >= once + recalls * a_recall
    }

    /// The heat down to which a file has to cool before its move pays; none: it never does, or
    /// heat has no part in it.
    pub fn paying_heat(&self, file: &Candidate, action: Action) -> Option<f64> {
        let (once, a_recall) = self.cost(file, action);
        let left = self.saved(file) - once - self.recalls * a_recall;
        let heat = left / (a_recall * self.recalls_a_heat);
        (self.known && heat.is_finite() && heat > 0.0).then_some(heat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    /// S3 Standard's list prices beside a local SSD, dollars.
    const STANDARD: Tariff = Tariff {
        local_gib_month: 0.08,
        remote_gib_month: 0.023,
        put: 0.000_005,
        get: 0.000_000_4,
        egress_gib: 0.09,
        files_per_put: 1_000.0,
        minimum_billable_bytes: 0,
        minimum_billable_seconds: 0,
    };

    fn economy(tariff: Tariff) -> Economy {
        let context = Context { tariff, heat_half_life_seconds: 7 * 86_400, ..Context::default() };
        Economy::new(&context, &Settings::default())
    }

    fn of_size(bytes: u64) -> Candidate<'static> {
        Candidate { size_bytes: bytes, local_bytes: bytes, ..samples::cold() }
    }

    #[test]
    fn without_a_price_nothing_is_weighed() {
        assert!(economy(Tariff::default()).pays(&of_size(5_000), Action::Migrate, 1e30));
    }

    #[test]
    fn packing_is_what_makes_small_files_pay() {
        let small = of_size(8_192);
        assert!(economy(STANDARD).pays(&small, Action::Archive, 0.0));
        let one_each = Tariff { files_per_put: 1.0, ..STANDARD };
        assert!(!economy(one_each).pays(&small, Action::Archive, 0.0));
        assert!(economy(one_each).pays(&of_size(16 << 20), Action::Archive, 0.0));
    }

    #[test]
    fn minimum_sizes_and_times_are_paid_for() {
        let glacier =
            Tariff { minimum_billable_bytes: 128 << 10, remote_gib_month: 0.004, ..STANDARD };
        assert!(economy(glacier).pays(&of_size(8_192), Action::Archive, 0.0));
        let unpacked = Tariff { files_per_put: 1.0, put: 0.0, ..glacier };
        assert!(!economy(unpacked).pays(&of_size(5_000), Action::Archive, 0.0));
        let for_years = Tariff { minimum_billable_seconds: 157_788_000, ..STANDARD };
        assert!(!economy(for_years).pays(&of_size(1 << 20), Action::Archive, 0.0), "60 months");
    }

    #[test]
    fn what_is_used_often_does_not_pay_until_it_has_cooled() {
        let (economy, file) = (economy(STANDARD), of_size(1 << 30));
        assert!(!economy.pays(&file, Action::Release, 5.0));
        assert!(!economy.pays(&file, Action::Release, f32::NAN));
        let heat = economy.paying_heat(&file, Action::Release).unwrap();
        #[allow(clippy::cast_possible_truncation, reason = "a heat is an f32")]
        let (below, above) = ((heat * 0.99) as f32, (heat * 1.01) as f32);
        assert!(economy.pays(&file, Action::Release, below));
        assert!(!economy.pays(&file, Action::Release, above));
    }

    #[test]
    fn a_copy_that_is_there_is_paid_for_already() {
        let dear = Tariff { put: 1.0, files_per_put: 1.0, ..STANDARD };
        let file = of_size(1 << 20);
        assert!(!economy(dear).pays(&file, Action::Migrate, 0.0));
        assert!(economy(dear).pays(&file, Action::Release, 0.0));
    }
}
