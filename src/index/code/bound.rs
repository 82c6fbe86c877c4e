//! How far scores can be from what codes say, for certain.
//!
//! A row's difference x from the centre is what its code stands for, y, and a rest r that the code leaves out. Of the
//! query's difference p from the centre, or from the share of it that an aspect compares with, the length is known and, by
//! looking the code up, how much lies along y: a. `<p, r>` is what an estimate misses:
//!
//! ```text
//! <p, r> <= |p| |r|                                      Cauchy and Schwarz; no more is asked of most rows
//! y's length is such that <x, r> = 0, so <y, r> = -|r|^2
//! p = a y / |y| + p',    |p'|^2 = |p|^2 - a^2
//! r = -q y / |y| + r',   |r'|^2 = |r|^2 - q^2,           q = |r|^2 / |y|
//! <p, r> <= |p'| |r'| - a q                              the less, the more of p lies along the code
//! ```

use half::f16;

use super::{Coded, Coder, GROUP, RESTS, SCALES, SHIFTS, Seen};
use crate::kernel::{self, Groups, Loops, TABLE, widest};

/// What rotating a unit vector in float32 adds at most, four rounds of at most seventeen steps.
const TURNING: f32 = 1e-5;
/// What rounding to sixteen bits changes at most, as a share.
const HALVED: f32 = 5e-4;
/// Numbers from here on are rounded to sixteen bits by no larger share.
const LEAST_HALF: f32 = 6.2e-5;
/// The share of a rest's square over a code's length that is left when both were rounded, the rest upwards.
const LEFT: f32 = 1.0 - 1.0 / 256.0;
/// What is added to a length for its own rounding, as a share.
const LONGER: f32 = 1e-5;

/// The kinds of numbers of [`Directions`].
const LENGTHS: usize = 0;
const CENTRES: usize = 1;

/// What a list's codes stand for besides scores, found when it is asked for the first time.
pub(super) struct Directions {
    /// Of each group how long its rows' levels are, as vectors about zero; and how much of the centre lies along these, as a
    /// share of its length.
    numbers: Vec<f16>,
    /// The centre's length.
    length: f32,
    /// What looking it up may be off by.
    rounding: f32,
}

/// What is known of a group's scores.
pub struct Bounded {
    pub estimates: [f32; GROUP],
    /// How far off these are at most.
    pub margins: [f32; GROUP],
    /// The most that the scores can be.
    pub most: [f32; GROUP],
    /// Whose most reaches the floor that was asked for, a bit for each row.
    pub left: u32,
    /// The query's products with levels.
    along: [f32; GROUP],
    /// What rounding makes of the margins.
    rounding: [f32; GROUP],
}

impl Coder {
    /// Bounds a group's scores. Empty slots are not among those left.
    pub fn bound(&self, seen: Seen<'_>, floor: f32) -> Bounded {
        let totals = self.totals(seen.asked, seen.coded, seen.group);
        widest(Bounding { coder: self, seen, totals: &totals, floor })
    }

    /// Bounds the scores from above once more, by the directions of codes, where `centre` is the list's.
    pub fn narrow(&self, seen: Seen<'_>, floor: f32, centre: &[f32], bounded: &mut Bounded) {
        let directions = seen.coded.directions.get_or_init(|| self.directions(seen.coded, centre));
        widest(Narrowing { coder: self, seen, directions, floor, bounded });
    }

    fn directions(&self, coded: &Coded, centre: &[f32]) -> Directions {
        let asked = self.ask(&self.rotated(centre));
        let per_length = if 0.0 < asked.length { 1.0 / asked.length } else { 0.0 };
        let mut numbers = Vec::with_capacity(2 * GROUP * coded.groups.len());
        // For each table's place, how many bits it has.
        let places = 0..self.plane_bytes();
        let bits: Vec<u8> = places.map(|at| (at % TABLE).count_ones() as u8).collect();
        let mut memory = Vec::new();
        for group in 0..coded.groups.len() {
            let squares = self.squares(coded, group, &bits, &mut memory);
            let totals = self.totals(&asked, coded, group);
            let lengths = squares.map(f32::sqrt);
            let along = lengths.iter().zip(totals);
            let along = along.map(|(it, total)| asked.along(total) * per_length / it);
            numbers.extend(lengths.iter().map(|it| f16::from_f32(*it)));
            numbers.extend(along.map(f16::from_f32));
        }
        Directions { numbers, length: asked.length, rounding: asked.rounding }
    }

    /// The squares of the lengths of a group's levels, as vectors about zero.
    ///
    /// A level is half the sum of `2^plane` or, where the plane's bit is not set, of `-2^plane`; two planes add as much as they
    /// have equal bits and take off as much as they have others.
    fn squares(
        &self,
        coded: &Coded,
        group: usize,
        bits: &[u8],
        memory: &mut Vec<u8>,
    ) -> [f32; GROUP] {
        let count = self.rotation.padded() as i64;
        let own: i64 = (0..self.bits).map(|it| count << (2 * it)).sum();
        let mut squares = [own; GROUP];
        for (high, low) in (0..self.bits).flat_map(|high| (0..high).map(move |low| (high, low))) {
            let planes = [high, low].map(|it| self.plane(coded, group, it));
            memory.clear();
            memory.extend(planes[0].iter().zip(planes[1]).map(|(a, b)| a ^ b));
            let others = kernel::sums(bits, memory);
            for (square, others) in squares.iter_mut().zip(others) {
                *square += (count - 2 * i64::from(others)) << (high + low + 1);
            }
        }
        squares.map(|it| it as f32 / 4.0)
    }
}

struct Bounding<'a> {
    coder: &'a Coder,
    seen: Seen<'a>,
    totals: &'a [u32; GROUP],
    floor: f32,
}

impl Loops for Bounding<'_> {
    type Output = Bounded;

    #[inline(always)]
    fn run(self) -> Bounded {
        let Bounding { coder, seen: Seen { asked, coded, group, list }, totals, floor } = self;
        let (away, share) = (list.farthest, list.share.abs());
        let length = coder.rotation.padded() as f32;
        let sums = TURNING + length * f32::EPSILON;
        let most = coder.most_level() * length.sqrt();
        // What rounding adds, by what it is a share of. Of cosines, queries and rows have length one.
        let (ends, per_square, per_shift, per_scale, flat) = match coder.is_wide() {
            true => (
                // The row is no farther from the centre than its code and rest are long.
                asked.length + list.length + away,
                2.0 * sums,
                2.0 * f32::EPSILON * share,
                asked.rounding + most * sums * (asked.length + share * list.length),
                length * f32::MIN_POSITIVE * (1.0 + share),
            ),
            false => (
                0.0,
                0.0,
                HALVED,
                asked.rounding + most * sums * (1.0 + away),
                sums * (2.0 + away) * (2.0 + away),
            ),
        };
        let groups = coder.groups(coded);
        let (shifts, scales) = (groups.numbers(group, SHIFTS), groups.numbers(group, SCALES));
        let rests = groups.numbers(group, RESTS);
        let mut bounded = Bounded {
            estimates: [0.0; GROUP],
            margins: [0.0; GROUP],
            most: [0.0; GROUP],
            left: 0,
            along: [0.0; GROUP],
            rounding: [0.0; GROUP],
        };
        for at in 0..GROUP {
            let (shift, scale) = (shifts[at], scales[at].abs());
            let along = asked.along(totals[at]);
            let all = ends + most / 2.0 * scale + rests[at];
            let rounding =
                per_shift * shift.abs() + per_scale * scale + per_square * all * all + flat;
            bounded.along[at] = along;
            bounded.rounding[at] = rounding;
            bounded.estimates[at] = list.near + list.share * shift + scales[at] * along;
            bounded.margins[at] = away * rests[at] + rounding;
            bounded.most[at] = bounded.estimates[at] + bounded.margins[at];
        }
        bounded.left = bounded.reaching(floor);
        bounded
    }
}

impl Bounded {
    #[inline(always)]
    fn reaching(&self, floor: f32) -> u32 {
        let mut left = 0;
        for at in 0..GROUP {
            let reaches = floor <= self.most[at] && self.estimates[at].is_finite();
            left |= u32::from(reaches) << at;
        }
        left
    }
}

struct Narrowing<'a> {
    coder: &'a Coder,
    seen: Seen<'a>,
    directions: &'a Directions,
    floor: f32,
    bounded: &'a mut Bounded,
}

impl Loops for Narrowing<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Narrowing { coder, seen, directions, floor, bounded } = self;
        let Seen { asked, coded, group, list } = seen;
        let groups = coder.groups(coded);
        let known = Groups { halves: &directions.numbers, floats: &[], kinds: 2, ..groups };
        let (lengths, centres) = (known.numbers(group, LENGTHS), known.numbers(group, CENTRES));
        let (scales, rests) = (groups.numbers(group, SCALES), groups.numbers(group, RESTS));
        let share = list.share.abs();
        let length = coder.rotation.padded() as f32;
        let sums = TURNING + length * f32::EPSILON;
        let turned = 2.0 * sums * (asked.length + share * list.length + list.farthest);
        let away = list.farthest * (1.0 + LONGER) + turned;
        let looked_up = asked.rounding + share * directions.rounding;
        // How far from a right angle the rest may stand, as a share of the code's length.
        let (least, slant) = match coder.is_wide() {
            true => (f32::MIN_POSITIVE, 4.0 * length * f32::EPSILON),
            false => (LEAST_HALF, 1.1 * HALVED + 4.0 * length * f32::EPSILON),
        };
        for at in 0..GROUP {
            let (scale, rest) = (scales[at].abs(), rests[at]);
            let (query, centre) =
                (bounded.along[at] / lengths[at], list.share * directions.length * centres[at]);
            let off =
                looked_up / lengths[at] + turned + 2.0 * HALVED * (query.abs() + centre.abs());
            let along = query - centre - off;
            let code = scale * lengths[at];
            let back = rest * (rest / code) * LEFT - slant * code;
            let (ahead, behind) = (along / away, back / rest);
            let beside = ((1.0 - ahead * ahead).max(0.0) * (1.0 - behind * behind).max(0.0)).sqrt();
            let missed = rest * away * beside * (1.0 + LONGER) - along * back;
            let usual = list.farthest * rest;
            let holds = 0.0 <= along && 0.0 <= back && least <= scale && least <= rest;
            let missed = if holds && missed < usual { missed } else { usual };
            bounded.most[at] = bounded.estimates[at] + (missed + bounded.rounding[at]);
        }
        bounded.left = bounded.reaching(floor);
    }
}
