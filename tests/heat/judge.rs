//! Judges of what is cold, and how right each of them is.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// Files of which few are used often (Zipf's law, exponent 1), in no order of their names.
pub struct Zipf {
    up_to: Vec<f64>,
    files: Vec<usize>,
}

impl Zipf {
    pub fn new(files: usize, dice: &mut StdRng) -> Self {
        let mut sum = 0.0;
        let up_to = (1..=files)
            .map(|rank| {
                sum += 1.0 / rank as f64;
                sum
            })
            .collect();
        let mut files: Vec<usize> = (0..files).collect();
        files.shuffle(dice);
        Self { up_to, files }
    }

    pub fn len(&self) -> usize {
        self.files.len()
    }

    pub fn file(&self, dice: &mut StdRng) -> usize {
        let at = dice.random_range(0.0..*self.up_to.last().unwrap());
        self.files[self.up_to.partition_point(|sum| *sum <= at)]
    }
}

/// Uses of a file, each counting half after a half-life, to the microsecond.
#[derive(Clone, Copy, Default)]
pub struct Exact {
    pub uses: u32,
    score: f64,
    /// Seconds since the trace began.
    pub first: f64,
    pub last: f64,
}

impl Exact {
    pub fn used(&mut self, at: f64, half_life: f64) {
        if self.uses == 0 {
            self.first = at;
        }
        self.score = self.score_at(at, half_life) + 1.0;
        self.uses += 1;
        self.last = at;
    }

    pub fn score_at(&self, at: f64, half_life: f64) -> f64 {
        self.score * ((self.last - at) / half_life).exp2()
    }
}

/// Whether a file is in the coldest half by these scores: 0 to 1, as where ties reach over the
/// middle.
fn coldest_half(scores: &[f64]) -> Vec<f64> {
    let mut ordered = scores.to_vec();
    ordered.sort_by(f64::total_cmp);
    let half = scores.len() / 2;
    let edge = ordered[half - 1];
    let below = ordered.partition_point(|score| *score < edge);
    let tied = ordered.partition_point(|score| *score <= edge) - below;
    let share = (half - below) as f64 / tied as f64;
    let part = |score: &f64| match score.total_cmp(&edge) {
        std::cmp::Ordering::Less => 1.0,
        std::cmp::Ordering::Equal => share,
        std::cmp::Ordering::Greater => 0.0,
    };
    scores.iter().map(part).collect()
}

/// Of the truly coldest half, the share that is among the coldest half as measured.
pub fn coldest_found(truth: &[f64], measured: &[f64]) -> f64 {
    let (truth, measured) = (coldest_half(truth), coldest_half(measured));
    let both: f64 = truth.iter().zip(&measured).map(|(a, b)| a.min(*b)).sum();
    both / (truth.len() / 2) as f64
}

/// Had the coldest half been released: the files of it that are used afterwards, each a recall.
pub fn recalls(scores: &[f64], used: &[bool]) -> f64 {
    let released = coldest_half(scores);
    released.iter().zip(used).filter(|(_, used)| **used).map(|(part, _)| part).sum()
}

/// Spearman's: 1 where both order the files alike. Ties have the middle of their ranks.
pub fn rank_correlation(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let middle = (a.len() as f64 - 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| -> f64 {
        a.iter().zip(b).map(|(a, b)| (a - middle) * (b - middle)).sum()
    };
    let both = (product(&a, &a) * product(&b, &b)).sqrt();
    if both == 0.0 { 0.0 } else { product(&a, &b) / both }
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    for tied in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let first = order.partition_point(|at| values[*at] < values[tied[0]]);
        let rank = first as f64 + (tied.len() as f64 - 1.0) / 2.0;
        tied.iter().for_each(|at| ranks[*at] = rank);
    }
    ranks
}

#[test]
fn judges_are_judged_rightly() {
    let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
    let truth = [1.0, 2.0, 3.0, 4.0];
    assert!(close(rank_correlation(&truth, &[10.0, 20.0, 30.0, 40.0]), 1.0));
    assert!(close(rank_correlation(&truth, &[4.0, 3.0, 2.0, 1.0]), -1.0));
    assert!(close(coldest_found(&truth, &[1.0, 3.0, 2.0, 4.0]), 0.5));
    assert!(close(coldest_found(&truth, &[0.0, 0.0, 0.0, 0.0]), 0.5), "a judge that knows nothing");
    assert!(close(recalls(&truth, &[true, false, true, true]), 1.0));
    assert!(close(recalls(&[7.0; 4], &[true, false, true, false]), 1.0));
    let mut exact = Exact::default();
    exact.used(0.0, 10.0);
    exact.used(10.0, 10.0);
    assert!(close(exact.score_at(20.0, 10.0), 0.75));
}
