//! What codes say of a query: scores, how far off they usually are, and how far at most.

use super::super::aspect::Aspect;
use super::{Coded, Coder, GROUP, MOST_BITS, RESTS, SCALES, SHIFTS, STEPS};
use crate::kernel::{self, Line, MOST_TABLES, Scale, Scanned, TABLE, square, summed};

/// What rotating a unit vector in float32 adds at most, four rounds of at most seventeen steps.
const TURNING: f32 = 1e-5;
/// What rounding to sixteen bits changes at most, as a share.
const HALVED: f32 = 5e-4;
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
    rounding: f32,
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
    pub fn estimate(
        &self,
        asked: &Asked,
        coded: &Coded,
        group: usize,
        list: &Aspect,
    ) -> [f32; GROUP] {
        let mut totals = [0; GROUP];
        self.look_up(asked, coded, group, self.bits - 1, &mut totals);
        self.estimate_from(asked, coded, group, list, &totals)
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

    fn look_up(
        &self,
        asked: &Asked,
        coded: &Coded,
        group: usize,
        plane: usize,
        totals: &mut [u32; GROUP],
    ) {
        let bytes = self.plane_bytes();
        let plane = match plane + 1 == self.bits {
            true => &coded.highest[group * bytes..][..bytes],
            false => &coded.lower[(group * (self.bits - 1) + plane) * bytes..][..bytes],
        };
        let tables = asked.tables.chunks(TABLE * MOST_TABLES);
        for (tables, codes) in tables.zip(plane.chunks(TABLE * MOST_TABLES)) {
            let sums = kernel::sums(tables, codes);
            totals.iter_mut().zip(sums).for_each(|(it, sum)| *it += u32::from(sum));
        }
    }

    /// [`Coder::estimate`], whose first part is known.
    pub fn estimate_from(
        &self,
        asked: &Asked,
        coded: &Coded,
        group: usize,
        list: &Aspect,
        highest: &[u32; GROUP],
    ) -> [f32; GROUP] {
        let mut totals = highest.map(|it| it << (self.bits - 1));
        for weight in 0..self.bits - 1 {
            let mut sums = [0; GROUP];
            self.look_up(asked, coded, group, weight, &mut sums);
            totals.iter_mut().zip(sums).for_each(|(it, sum)| *it += sum << weight);
        }
        let groups = self.groups(coded);
        let (shifts, scales) = (groups.numbers(group, SHIFTS), groups.numbers(group, SCALES));
        let mut scores = [0.0; GROUP];
        for (at, score) in scores.iter_mut().enumerate() {
            let sum = asked.step * totals[at] as f32 + asked.base;
            *score = list.near + list.share * shifts[at] + scales[at] * sum;
        }
        scores
    }

    /// The standard deviations of a group's estimates.
    pub fn deviations(&self, coded: &Coded, group: usize, list: &Aspect) -> [f32; GROUP] {
        let left = LEFT[self.bits - 1];
        let norm = (1.0 - left).sqrt() / STEPS[self.bits - 1];
        let mut deviations = self.groups(coded).numbers(group, SCALES);
        let each = norm * left.sqrt() * list.away;
        deviations.iter_mut().for_each(|it| *it *= each);
        deviations
    }

    /// How far a group's estimates can be from the exact scores at most.
    ///
    /// What a code leaves out of a row adds to the score no more than its length times the query's
    /// distance from the centre, or the share of it; the other terms are what numbers were rounded by.
    pub fn margins(
        &self,
        asked: &Asked,
        coded: &Coded,
        group: usize,
        list: &Aspect,
    ) -> [f32; GROUP] {
        let away = list.farthest;
        let length = self.rotation.padded() as f32;
        let sums = TURNING + length * f32::EPSILON;
        let most = self.most_level() * length.sqrt();
        let groups = self.groups(coded);
        let [shifts, scales, rests] = [SHIFTS, SCALES, RESTS].map(|it| groups.numbers(group, it));
        if self.is_wide() {
            let share = list.share.abs();
            let ends = asked.length + list.length + away;
            let per_scale = asked.rounding + most * sums * (asked.length + share * list.length);
            let vanishing = length * f32::MIN_POSITIVE * (1.0 + share);
            return std::array::from_fn(|at| {
                // The row is no farther from the centre.
                let all = ends + most / 2.0 * scales[at].abs() + rests[at];
                let rounded = 2.0 * f32::EPSILON * share * shifts[at].abs();
                let flat = 2.0 * sums * all * all + vanishing;
                away * rests[at] + rounded + per_scale * scales[at].abs() + flat
            });
        }
        // Queries and rows have length one.
        let flat = sums * (2.0 + away) * (2.0 + away);
        let per_scale = asked.rounding + most * sums * (1.0 + away);
        std::array::from_fn(|at| {
            away * rests[at] + HALVED * shifts[at].abs() + per_scale * scales[at].abs() + flat
        })
    }
}
