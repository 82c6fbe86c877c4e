//! How rows lie about the centres of their lists, as a query sees them, and so how many answers are in lists that were not opened.

use super::aspect::Aspect;
use crate::kernel::{Loops, widest};

/// The share of rows that make up the far tail.
const TAIL: f64 = 0.02;
/// Rows that tell of it at most: more of them tell it no better, and are sorted again and again.
const ENOUGH: usize = 4096;
/// Tails beyond which nothing is: of 1,000 lists of 1,000 rows, 4e-5 rows.
const NOTHING: f64 = 20.0;
/// Sums of expected rows that are taken side by side.
const LANES: usize = 16;

/// What was seen of rows of lists that were opened.
pub struct Lie {
    /// How much nearer than the centre rows are, in units of their list's spread; of one in `every`
    /// groups asked.
    ahead: Vec<f32>,
    every: usize,
    asked: usize,
    /// Where the far tail begins, which has [`TAIL`] of the rows, and how far they reach beyond on
    /// average.
    begin: f64,
    reach: f64,
}

impl Lie {
    pub fn new() -> Lie {
        Lie { ahead: Vec::with_capacity(ENOUGH / 4), every: 1, asked: 0, begin: 0.0, reach: 0.0 }
    }

    /// Whether another group is to tell.
    pub fn asks(&mut self) -> bool {
        self.asked += 1;
        self.asked.is_multiple_of(self.every)
    }

    /// Takes in the scores of such a group's rows; those of empty slots are endless.
    pub fn hear(&mut self, scores: &[f32], list: &Aspect) {
        let from = self.ahead.len();
        self.ahead.extend(scores.iter().map(|it| list.ahead(*it)));
        if self.ahead[from..].iter().any(|it| !it.is_finite()) {
            self.ahead.retain(|it| it.is_finite());
        }
        if ENOUGH < self.ahead.len() {
            let mut odd = false;
            self.ahead.retain(|_| {
                odd = !odd;
                odd
            });
            self.every *= 2;
        }
    }

    /// Fits the tail to what was seen.
    pub fn fit(&mut self) {
        let count = (self.ahead.len() as f64 * TAIL) as usize;
        if count == 0 {
            return;
        }
        let (far, begin, _) = self.ahead.select_nth_unstable_by(count, |a, b| b.total_cmp(a));
        self.begin = f64::from(*begin);
        let sum: f64 = far.iter().map(|it| f64::from(*it) - self.begin).sum();
        self.reach = (sum / count as f64).max(1e-9);
    }

    /// How many rows of each list are expected to be so far ahead of its centre, of as many as it counts, and of all.
    ///
    /// The tail falls as an exponential does, more slowly than a normal one, because lists hold clusters of their own.
    pub fn expect(&self, ahead: &[f32], counts: &[f32], expected: &mut Vec<f32>) -> f64 {
        let (begin, per_reach) = match self.reach == 0.0 {
            // Nothing is known yet.
            true => (f32::INFINITY, 0.0),
            false => (self.begin as f32, (1.0 / self.reach) as f32),
        };
        expected.clear();
        expected.resize(counts.len(), 0.0);
        widest(Expecting { ahead, counts, expected, begin, per_reach })
    }
}

struct Expecting<'a> {
    ahead: &'a [f32],
    counts: &'a [f32],
    expected: &'a mut [f32],
    begin: f32,
    per_reach: f32,
}

impl Loops for Expecting<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let Expecting { ahead, counts, expected, begin, per_reach } = self;
        let mut sums = [0.0f32; LANES];
        let some = expected.chunks_mut(LANES).zip(ahead.chunks(LANES)).zip(counts.chunks(LANES));
        for ((expected, ahead), counts) in some {
            let lanes = sums.iter_mut().zip(expected).zip(ahead.iter().zip(counts));
            for ((sum, expected), (ahead, count)) in lanes {
                let tails = (ahead - begin) * per_reach;
                let far = if tails < NOTHING as f32 { TAIL as f32 * falling(tails) } else { 0.0 };
                // Where that is no number, too, as between an endless beginning and an endless row.
                let share = if begin < *ahead { far } else { 1.0 };
                *expected = count * share;
                *sum += *expected;
            }
        }
        sums.iter().map(|it| f64::from(*it)).sum()
    }
}

/// `exp(-tails)` of up to some eighty, to five digits, in steps that compilers can take for many numbers at once.
#[inline(always)]
fn falling(tails: f32) -> f32 {
    /// Added to a number, it leaves the nearest whole one in the lowest bits.
    const WHOLE: f32 = 12_582_912.0;
    let power = -tails * std::f32::consts::LOG2_E;
    let whole = power + WHOLE;
    let part = (power - (whole - WHOLE)) * std::f32::consts::LN_2;
    // Taylor's terms of exp(), as the part is no farther from zero than half of ln 2.
    let terms =
        1.0 + part * (1.0 + part * (0.5 + part * (1.0 / 6.0 + part * (1.0 / 24.0 + part / 120.0))));
    f32::from_bits(terms.to_bits().wrapping_add(whole.to_bits() << 23))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_falls_as_an_exponential_does() {
        for at in 0..2_000 {
            let tails = at as f32 / 100.0;
            let (found, expected) = (falling(tails), (-tails).exp());
            assert!((found - expected).abs() <= 1e-5 * expected, "{tails}: {found} {expected}");
        }
    }

    /// One list after the other, as the tail is described.
    fn twin(lie: &Lie, ahead: f32) -> f64 {
        let ahead = f64::from(ahead);
        if lie.reach == 0.0 || ahead <= lie.begin {
            return 1.0;
        }
        let beyond = (ahead - lie.begin) / lie.reach;
        if beyond < NOTHING { TAIL * (-beyond).exp() } else { 0.0 }
    }

    #[test]
    fn expectations_are_those_of_the_twin() {
        arbtest::arbtest(|u| {
            let mut lie = Lie::new();
            for _ in 0..u.int_in_range(0..=60)? {
                let mut scores = [0.0; 32];
                for it in &mut scores {
                    let score = f32::from(u.arbitrary::<i16>()?) / 2e4;
                    *it = if u.ratio(1, 20)? { f32::NEG_INFINITY } else { score };
                }
                if lie.asks() {
                    lie.hear(&scores, &Aspect::along());
                }
            }
            assert!(lie.ahead.iter().all(|it| it.is_finite()));
            lie.fit();
            let count = u.int_in_range(0..=70)?;
            let mut ahead = Vec::new();
            for _ in 0..count {
                let far = 12.0 * f32::from(u.arbitrary::<i16>()?) / 2e4;
                ahead.push(*u.choose(&[far, f32::NEG_INFINITY, f32::INFINITY])?);
            }
            let counts: Vec<f32> = (0..count).map(|at| (at % 3 * 500) as f32).collect();
            let mut expected = Vec::new();
            let all = lie.expect(&ahead, &counts, &mut expected);
            let mut sum = 0.0;
            for ((found, ahead), count) in expected.iter().zip(&ahead).zip(&counts) {
                let twin = f64::from(*count) * twin(&lie, *ahead);
                let slack = 1e-3 * twin + 1e-9 * f64::from(*count);
                assert!((f64::from(*found) - twin).abs() <= slack, "{ahead}: {found} {twin}");
                sum += f64::from(*found);
            }
            assert!((all - sum).abs() <= 1e-5 * sum);
            Ok(())
        });
    }
}
