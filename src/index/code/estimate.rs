//! What codes say of a query: scores, and how far off they usually are.

use super::super::aspect::Aspect;
use super::{Coded, Coder, GROUP, MOST_BITS, SCALES, SHIFTS, STEPS, Seen};
use crate::kernel::{self, Groups, Line, Loops, Scale, Scanned, TABLE, square, summed, widest};

/// What rounding an entry changes at most, as a share of a step; the division by it is off by less than the rest.
const ROUNDED: f64 = 0.5001;
/// The squared error that is left, relative to the numbers' own square.
const LEFT: [f32; MOST_BITS] = [0.3634, 0.1188, 0.03744, 0.01154];

/// What a highest bit stands for in an unbiased estimate, and how far levels spread about that; of
/// numbers of a normal distribution, by bits.
const HIGHEST: [(f32, f32); MOST_BITS] =
    [(0.5, 0.0), (1.1092, 0.548), (2.0587, 1.170), (3.696, 2.186)];

/// A query as codes are looked up in it.
pub struct Asked {
    /// How long the query is.
    pub(super) length: f32,
    /// Sums of up to four numbers of the query, rounded to bytes.
    tables: Vec<u8>,
    /// What one of those is worth.
    step: f32,
    /// What all of them together are short of.
    base: f32,
    /// What those of the highest bit alone are short of.
    highest: f32,
    /// What the rounding of all of them changes at most.
    pub(super) rounding: f32,
}

impl Asked {
    /// The product with levels, as vectors about zero, that look up so much.
    #[inline(always)]
    pub(super) fn along(&self, total: u32) -> f32 {
        self.step * total as f32 + self.base
    }
}

impl Coder {
    /// A rotated query, ready to be looked up in.
    pub fn ask(&self, query: &[f32]) -> Asked {
        let mut tables = Vec::new();
        let Scale { step, base } = kernel::tables(query, &mut tables);
        let half = self.most_level() / 2.0;
        let sum = summed(query, query, |it, _| it);
        let highest = base - 0.5 * sum;
        let base = self.most_level() * base - half * sum;
        // Sums of float32 numbers, none of which is larger than the tables or the query together.
        let all = summed(query, query, |it, _| it.abs());
        let sums = f64::from(all) * query.len() as f64 * f64::from(f32::EPSILON);
        let entries = f64::from(step) * ROUNDED * (tables.len() / TABLE) as f64;
        let rounding = f64::from(self.most_level()) * (entries + 2.0 * sums);
        let length = square(query).sqrt();
        Asked { length, tables, step, base, highest, rounding: rounding as f32 }
    }

    /// Estimates the scores of a group's rows.
    ///
    /// Empty slots come out as minus infinity.
    pub fn estimate(&self, seen: Seen<'_>) -> [f32; GROUP] {
        let totals = self.totals(seen.asked, seen.coded, seen.group);
        widest(Estimating { seen, groups: self.groups(seen.coded), totals: &totals })
    }

    /// Looks up the highest bits of a whole list. A group's top is the highest score that any of its rows has by them, as far as
    /// it is ahead of the centre, but for errors beyond `reach` standard deviations.
    pub fn scan(
        &self,
        asked: &Asked,
        coded: &Coded,
        list: &Aspect,
        reach: f32,
        scanned: &mut Scanned,
    ) {
        let (middle, spread) = HIGHEST[self.bits - 1];
        let line = Line {
            share: list.share,
            per_sum: 2.0 * middle * asked.step,
            constant: 2.0 * middle * asked.highest + reach * spread * asked.length,
        };
        kernel::scan(&asked.tables, self.groups(coded), line, scanned);
    }

    /// What each row of a group looks up in all planes.
    pub(super) fn totals(&self, asked: &Asked, coded: &Coded, group: usize) -> [u32; GROUP] {
        let highest = kernel::sums(&asked.tables, self.plane(coded, group, self.bits - 1));
        self.totals_from(asked, coded, group, &highest)
    }

    /// The same, where it is known of the highest plane.
    fn totals_from(
        &self,
        asked: &Asked,
        coded: &Coded,
        group: usize,
        highest: &[u32; GROUP],
    ) -> [u32; GROUP] {
        let mut totals = *highest;
        totals.iter_mut().for_each(|it| *it <<= self.bits - 1);
        for weight in 0..self.bits - 1 {
            let sums = kernel::sums(&asked.tables, self.plane(coded, group, weight));
            totals.iter_mut().zip(sums).for_each(|(it, sum)| *it += sum << weight);
        }
        totals
    }

    /// Estimates a group's scores, whose highest bits are looked up already, with errors of so many standard deviations.
    pub fn guess(&self, seen: Seen<'_>, highest: &[u32; GROUP], reach: f32, floor: f32) -> Guessed {
        let totals = self.totals_from(seen.asked, seen.coded, seen.group, highest);
        let left = LEFT[self.bits - 1];
        let norm = (1.0 - left).sqrt() / STEPS[self.bits - 1];
        let each = reach * norm * left.sqrt() * seen.list.away;
        let groups = self.groups(seen.coded);
        widest(Guessing { estimating: Estimating { seen, groups, totals: &totals }, each, floor })
    }
}

/// What is thought of a group's scores.
pub struct Guessed {
    /// Of empty slots minus infinity.
    pub estimates: [f32; GROUP],
    /// How far off they may be.
    pub errors: [f32; GROUP],
    /// Which may reach the floor that was asked for, a bit for each row.
    pub left: u32,
}

struct Estimating<'a> {
    seen: Seen<'a>,
    groups: Groups<'a>,
    totals: &'a [u32; GROUP],
}

impl Loops for Estimating<'_> {
    type Output = [f32; GROUP];

    #[inline(always)]
    fn run(self) -> [f32; GROUP] {
        let Estimating { seen: Seen { asked, group, list, .. }, groups, totals } = self;
        let (shifts, scales) = (groups.numbers(group, SHIFTS), groups.numbers(group, SCALES));
        let mut scores = [0.0; GROUP];
        for (at, score) in scores.iter_mut().enumerate() {
            *score = list.near + list.share * shifts[at] + scales[at] * asked.along(totals[at]);
        }
        scores
    }
}

struct Guessing<'a> {
    estimating: Estimating<'a>,
    /// The error, as a share of a row's scale.
    each: f32,
    floor: f32,
}

impl Loops for Guessing<'_> {
    type Output = Guessed;

    #[inline(always)]
    fn run(self) -> Guessed {
        let Guessing { estimating, each, floor } = self;
        let mut errors = estimating.groups.numbers(estimating.seen.group, SCALES);
        let estimates = estimating.run();
        let mut left = 0;
        for at in 0..GROUP {
            errors[at] *= each;
            let reaches = floor <= estimates[at] + errors[at] && estimates[at].is_finite();
            left |= u32::from(reaches) << at;
        }
        Guessed { estimates, errors, left }
    }
}
