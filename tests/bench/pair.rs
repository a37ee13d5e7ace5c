//! Paired measurement: in every round each subject is measured once, the order turning from
//! round to round, and a ratio is taken within its round. So what the machine does meanwhile
//! falls on all of them.

use serde_json::json;

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

/// One subject's figures, a round each. None: it cannot do this.
pub type Series = Vec<Option<f64>>;

/// What one metric gave.
#[derive(Debug)]
pub struct Measured {
    pub bench: &'static str,
    pub metric: &'static str,
    pub unit: &'static str,
    pub better: Better,
    /// By subject, the first being coldfs.
    pub series: Vec<(String, Series)>,
}

/// coldfs beside one peer.
#[derive(Debug)]
pub struct Beside<'a> {
    pub peer: &'a str,
    pub peer_value: f64,
    /// Median of coldfs over peer, and the smallest and largest of them.
    pub ratio: f64,
    pub spread: [f64; 2],
    /// Where the median lies, with at least 95 of 100 chances.
    pub interval: [f64; 2],
    pub rounds: usize,
}

/// Measures `subjects` subjects for `rounds` rounds after one that is thrown away.
pub fn alternate(
    subjects: usize,
    rounds: usize,
    mut measure: impl FnMut(usize) -> Option<f64>,
) -> Vec<Series> {
    let mut all = vec![Series::new(); subjects];
    for round in 0..=rounds {
        for turn in 0..subjects {
            let subject = (turn + round) % subjects;
            let value = measure(subject);
            if round > 0 {
                all[subject].push(value);
            }
        }
    }
    all
}

impl Measured {
    /// The median of coldfs's own figures.
    pub fn value(&self) -> Option<f64> {
        median(self.series[0].1.iter().flatten().copied().collect())
    }

    pub fn beside(&self) -> impl Iterator<Item = Beside<'_>> {
        let ours = &self.series[0].1;
        self.series[1..].iter().filter_map(|(peer, theirs)| {
            let pairs =
                ours.iter().zip(theirs).filter_map(|(ours, theirs)| Some(((*ours)?, (*theirs)?)));
            let mut ratios: Vec<f64> = pairs.map(|(ours, theirs)| ours / theirs).collect();
            ratios.sort_by(f64::total_cmp);
            Some(Beside {
                peer,
                peer_value: median(theirs.iter().flatten().copied().collect())?,
                spread: [*ratios.first()?, *ratios.last()?],
                interval: interval(&ratios)?,
                rounds: ratios.len(),
                ratio: median(ratios)?,
            })
        })
    }

    /// One object a line and peer, as DESIGN.md section 10 has it; one where there is no peer.
    pub fn print_json(&self) {
        let better = if self.better == Better::Higher { "higher" } else { "lower" };
        if self.series.len() == 1 {
            let line = json!({
                "bench": self.bench, "metric": self.metric, "unit": self.unit, "better": better,
                "coldfs": self.value().map(rounded), "n": self.series[0].1.len(),
            });
            println!("{line}");
        }
        for beside in self.beside() {
            let line = json!({
                "bench": self.bench, "metric": self.metric, "unit": self.unit, "better": better,
                "coldfs": self.value().map(rounded),
                "peer": beside.peer, "peer_value": rounded(beside.peer_value),
                "ratio": rounded(beside.ratio), "spread": beside.spread.map(rounded),
                "interval": beside.interval.map(rounded), "n": beside.rounds,
            });
            println!("{line}");
        }
    }

    /// One line of a table, with the spread of ratios; the aim is a bound on the first of them.
    pub fn print_row(&self, aim: Option<f64>) {
        self.print_row_with(aim, |beside| beside.spread);
    }

    /// One line of a table, with the interval of each median.
    pub fn print_row_of_medians(&self, aim: Option<f64>) {
        self.print_row_with(aim, |beside| beside.interval);
    }

    fn print_row_with(&self, aim: Option<f64>, range: fn(&Beside<'_>) -> [f64; 2]) {
        let value = self.value().map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
        print!("{:<18} {:>10} {:<8}", self.metric, shortened(&value), self.unit);
        for beside in self.beside() {
            let [low, high] = range(&beside);
            print!(" | {:<6} {:>6.3} [{low:.3}, {high:.3}]", beside.peer, beside.ratio);
        }
        match aim {
            Some(aim) => {
                println!(" | aim {} {aim}", if self.better == Better::Higher { ">=" } else { "<=" })
            }
            None => println!(),
        }
    }
}

fn shortened(number: &str) -> &str {
    number.get(..7).unwrap_or(number).trim_end_matches('.')
}

/// To four significant digits: more would be noise.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powf(3.0 - value.abs().log10().floor());
    (value * scale).round() / scale
}

/// The places of ordered figures between which their median lies with at least 95 of 100 chances,
/// whatever their distribution: each figure is below it as often as above. All of them where there are
/// less than six.
fn interval(ordered: &[f64]) -> Option<[f64; 2]> {
    let count = ordered.len();
    let (mut chance, mut below, mut outside) = (0.5_f64.powf(count as f64), 0.0, 0);
    for number in 0..count / 2 {
        below += chance;
        if 2.0 * below > 0.05 {
            break;
        }
        outside = number;
        chance *= (count - number) as f64 / (number + 1) as f64;
    }
    Some([*ordered.get(outside)?, *ordered.get(count.checked_sub(outside + 1)?)?])
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}
