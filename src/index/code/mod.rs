//! Few-bit codes of vectors: what they are near to, read in a fraction of the bytes.
//!
//! Gao and Long, "RaBitQ" (2024), and with Gao et al. its extension to more bits (2025): a row's
//! difference from its list's centre is rotated and rounded to a grid, and two numbers of the row make
//! the estimate of its dot product with anything unbiased. The error is known beforehand, as the
//! rotation makes all data alike; and a third number, how long the part is that the code leaves out,
//! bounds it for certain.
//!
//! ```text
//! group of 32 rows   ┌──────────┬──────────┬──────────┬─────────┬─ ─ ─┐   little-endian
//!                    │ 32 x f16 │ 32 x f16 │ 32 x f16 │ plane 0 │     │   `bits` planes
//!                    │ shifts   │ scales   │ rests    │         │     │   rests: not in format 3
//!                    └──────────┴──────────┴──────────┴─────────┴─ ─ ─┘
//! plane              16 bytes for each four numbers: byte i holds four bits of row i in its lower half,
//!                    of row i + 16 in its upper one
//! ```

#[cfg(test)]
mod tests;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::kernel::{self, LANES, MOST_TABLES, TABLE};
use super::rotation::Rotation;

/// Rows that are coded together.
pub const GROUP: usize = LANES;
/// Numbers that a table is about.
const NUMBERS: usize = 4;
/// Bytes of one number of each row.
const FACTOR: usize = 2 * GROUP;
/// What rotating a unit vector in float32 adds at most, four rounds of at most seventeen steps.
const TURNING: f32 = 1e-5;
/// What rounding to sixteen bits changes at most, as a share.
const HALVED: f32 = 5e-4;
/// Most bits a number.
pub const MOST_BITS: usize = 4;
/// The grid's step for numbers of a normal distribution, by bits (Max 1960): least squared error.
const STEPS: [f32; MOST_BITS] = [1.5956, 0.9957, 0.5860, 0.3352];
/// The squared error that is left, relative to the numbers' own square.
const LEFT: [f32; MOST_BITS] = [0.3634, 0.1188, 0.03744, 0.01154];

/// What a highest bit stands for in an unbiased estimate, and how far levels spread about that; of
/// numbers of a normal distribution, by bits.
const HIGHEST: [(f32, f32); MOST_BITS] =
    [(0.5, 0.0), (1.1092, 0.548), (2.0587, 1.170), (3.696, 2.186)];

/// A list's centre as it is kept, two bytes a number.
pub fn centre_bytes(centre: &[f32]) -> Vec<u8> {
    centre.iter().flat_map(|it| f16::from_f32(*it).to_le_bytes()).collect()
}

/// The numbers of [`centre_bytes`].
pub fn centre_of(bytes: &[u8]) -> Vec<f32> {
    let halves: Vec<f16> =
        bytes.as_chunks::<2>().0.iter().map(|it| f16::from_le_bytes(*it)).collect();
    let mut numbers = vec![0.0; halves.len()];
    halves.convert_to_f32_slice(&mut numbers);
    numbers
}

/// Writes and reads the codes of one table.
pub struct Coder {
    rotation: Rotation,
    bits: usize,
    bounded: bool,
}

/// One row's code.
#[derive(Debug, Clone)]
pub struct Code {
    shift: f16,
    scale: f16,
    rest: f16,
    levels: Vec<u8>,
}

/// A query as codes are looked up in it.
pub struct Asked {
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

/// What the highest bits of a group look up.
pub struct Highest([u32; GROUP]);

/// Codes of blocks, ready to be scanned.
#[derive(Default)]
pub struct Coded {
    /// A group's block and the slot of its first row.
    pub groups: Vec<(i64, usize)>,
    /// How many rows there are.
    pub rows: usize,
    shifts: Vec<f32>,
    scales: Vec<f32>,
    rests: Vec<f32>,
    planes: Vec<u8>,
}

impl Coded {
    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let numbers = self.shifts.len() + self.scales.len() + self.rests.len();
        self.planes.len() + 4 * numbers + 16 * self.groups.len()
    }
}

impl Coder {
    /// For vectors of this dimension; `bounded` unless the codes are of format 3.
    pub fn new(dimension: usize, bits: usize, bounded: bool) -> Coder {
        Coder { rotation: Rotation::new(dimension), bits: bits.clamp(1, MOST_BITS), bounded }
    }

    /// Whether [`Coder::margins`] are known.
    pub fn is_bounded(&self) -> bool {
        self.bounded
    }

    /// Bytes of a group.
    pub fn group_bytes(&self) -> usize {
        self.factors_bytes() + self.planes_bytes()
    }

    fn factors_bytes(&self) -> usize {
        FACTOR * if self.bounded { 3 } else { 2 }
    }

    fn planes_bytes(&self) -> usize {
        self.bits * self.plane_bytes()
    }

    fn plane_bytes(&self) -> usize {
        self.rotation.padded() / NUMBERS * TABLE
    }

    /// A vector as [`Coder::code`] and [`Coder::ask`] take it.
    pub fn rotated(&self, vector: &[f32]) -> Vec<f32> {
        self.rotation.apply(vector)
    }

    /// The code of a row in the list of this centre, both rotated.
    pub fn code(&self, row: &[f32], centre: &[f32]) -> Code {
        let difference: Vec<f32> = row.iter().zip(centre).map(|(a, b)| a - b).collect();
        let square: f32 = difference.iter().map(|it| it * it).sum();
        let (most, half) = (self.most_level(), self.most_level() / 2.0);
        let step = STEPS[self.bits - 1] * (square / difference.len() as f32).sqrt();
        let per_step = if 0.0 < step { 1.0 / step } else { 0.0 };
        let (mut along, mut centre_along, mut between) = (0.0f32, 0.0f32, 0.0f32);
        let mut levels = Vec::with_capacity(difference.len());
        for (number, centre) in difference.iter().zip(centre) {
            let level = (number * per_step + half + 0.5).floor().clamp(0.0, most);
            along += number * (level - half);
            centre_along += centre * (level - half);
            between += number * centre;
            levels.push(level as u8);
        }
        let scale = f16::from_f32(if 0.0 < along { square / along } else { 0.0 });
        let shift = f16::from_f32(between - scale.to_f32() * centre_along);
        let rest: f64 = difference
            .iter()
            .zip(&levels)
            .map(|(number, level)| number - scale.to_f32() * (f32::from(*level) - half))
            .map(|it| f64::from(it).powi(2))
            .sum();
        Code { shift, scale, rest: at_least(rest.sqrt()), levels }
    }

    fn most_level(&self) -> f32 {
        ((1usize << self.bits) - 1) as f32
    }

    /// Writes a code into a block's groups.
    pub fn write(&self, groups: &mut [u8], slot: usize, code: &Code) {
        let (factors, planes) = self.lane(groups, slot);
        let lane = slot % GROUP;
        let numbers = [code.shift, code.scale, code.rest];
        for (factor, number) in factors.chunks_exact_mut(FACTOR).zip(numbers) {
            factor[2 * lane..2 * lane + 2].copy_from_slice(&number.to_le_bytes());
        }
        for plane in 0..self.bits {
            let from = plane * self.plane_bytes();
            for (at, levels) in code.levels.as_chunks::<NUMBERS>().0.iter().enumerate() {
                let bits = levels.iter().enumerate();
                let nibble = bits.fold(0, |sum, (bit, it)| sum | ((it >> plane) & 1) << bit);
                put(&mut planes[from + at * TABLE + lane % TABLE], lane, nibble);
            }
        }
    }

    /// Copies one slot's code to another of the same block.
    pub fn copy(&self, groups: &mut [u8], from: usize, to: usize) {
        let (factors, planes) = self.lane(groups, from);
        let lane = from % GROUP;
        let numbers: Vec<[u8; 2]> =
            factors.chunks_exact(FACTOR).map(|it| [it[2 * lane], it[2 * lane + 1]]).collect();
        let column = planes.iter().skip(lane % TABLE).step_by(TABLE);
        let nibbles: Vec<u8> = column.map(|it| taken(*it, lane)).collect();
        let (factors, planes) = self.lane(groups, to);
        let lane = to % GROUP;
        for (factor, number) in factors.chunks_exact_mut(FACTOR).zip(numbers) {
            factor[2 * lane..2 * lane + 2].copy_from_slice(&number);
        }
        let column = planes.iter_mut().skip(lane % TABLE).step_by(TABLE);
        column.zip(nibbles).for_each(|(byte, nibble)| put(byte, lane, nibble));
    }

    /// Makes a slot one that no search finds.
    pub fn clear(&self, groups: &mut [u8], slot: usize) {
        let levels = vec![0; self.rotation.padded()];
        let (shift, scale, rest) = (f16::NEG_INFINITY, f16::ZERO, f16::ZERO);
        self.write(groups, slot, &Code { shift, scale, rest, levels });
    }

    /// Groups for this many slots, all empty.
    pub fn empty(&self, slots: usize) -> Vec<u8> {
        let count = slots.div_ceil(GROUP);
        let mut groups = vec![0; count * self.group_bytes()];
        for group in groups.chunks_exact_mut(self.group_bytes()) {
            for shift in group[..2 * GROUP].as_chunks_mut().0 {
                *shift = f16::NEG_INFINITY.to_le_bytes();
            }
        }
        groups
    }

    /// The factors and the planes of a slot's group.
    fn lane<'a>(&self, groups: &'a mut [u8], slot: usize) -> (&'a mut [u8], &'a mut [u8]) {
        let bytes = self.group_bytes();
        let from = slot / GROUP * bytes;
        groups[from..from + bytes].split_at_mut(self.factors_bytes())
    }

    /// Adds a block to those to be scanned; false where its bytes make no groups.
    pub fn load(&self, coded: &mut Coded, block: i64, groups: &[u8]) -> bool {
        if groups.is_empty() || !groups.len().is_multiple_of(self.group_bytes()) {
            return false;
        }
        for (at, group) in groups.chunks_exact(self.group_bytes()).enumerate() {
            coded.groups.push((block, at * GROUP));
            let (factors, planes) = group.split_at(self.factors_bytes());
            let mut halves = [f16::ZERO; 3 * GROUP];
            for (half, bytes) in halves.iter_mut().zip(factors.as_chunks::<2>().0) {
                *half = f16::from_le_bytes(*bytes);
            }
            let mut wide = [0.0f32; 3 * GROUP];
            halves.convert_to_f32_slice(&mut wide);
            coded.shifts.extend(&wide[..GROUP]);
            coded.scales.extend(&wide[GROUP..2 * GROUP]);
            coded.rests.extend(&wide[2 * GROUP..]);
            coded.planes.extend(planes);
            let odd = |it: &f32| it.is_nan() || *it == f32::INFINITY;
            if wide[..GROUP].iter().any(odd) || wide[GROUP..].iter().any(|it| !it.is_finite()) {
                return false;
            }
            coded.rows += wide[..GROUP].iter().filter(|it| it.is_finite()).count();
        }
        true
    }

    /// A rotated query, ready to be looked up in.
    pub fn ask(&self, query: &[f32]) -> Asked {
        let sums: Vec<[f32; TABLE]> = query
            .as_chunks::<NUMBERS>()
            .0
            .iter()
            .map(|numbers| {
                std::array::from_fn(|entry| {
                    (0..NUMBERS).filter(|bit| entry >> bit & 1 == 1).map(|bit| numbers[bit]).sum()
                })
            })
            .collect();
        let least = |it: &[f32; TABLE]| it.iter().copied().fold(f32::INFINITY, f32::min);
        let largest = |it: &[f32; TABLE]| it.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let range = sums.iter().map(|it| largest(it) - least(it)).fold(0.0f32, f32::max);
        let step = if 0.0 < range { range / 255.0 } else { 1.0 };
        let mut tables = Vec::with_capacity(sums.len() * TABLE);
        let (mut base, mut rounding) = (0.0, 0.0);
        for sums in &sums {
            let least = least(sums);
            base += least;
            let entries = sums.map(|it| ((it - least) / step).round() as u8);
            let off = sums.iter().zip(entries).map(|(it, entry)| {
                (f64::from(*it) - f64::from(least) - f64::from(step) * f64::from(entry)).abs()
            });
            rounding += off.fold(0.0, f64::max);
            tables.extend(entries);
        }
        let half = self.most_level() / 2.0;
        let sum = query.iter().sum::<f32>();
        let highest = base - 0.5 * sum;
        let base = self.most_level() * base - half * sum;
        // Sums of float32 numbers, none of which is larger than the tables or the query together.
        let all: f32 = query.iter().map(|it| it.abs()).sum();
        let sums = f64::from(all) * query.len() as f64 * f64::from(f32::EPSILON);
        let rounding = f64::from(self.most_level()) * (rounding + 2.0 * sums);
        Asked { tables, step, base, highest, rounding: rounding as f32 }
    }

    /// Estimates the dot products of a group's rows with the query.
    ///
    /// `near` is that of the list's centre. Empty slots come out as minus infinity.
    pub fn estimate(&self, asked: &Asked, coded: &Coded, group: usize, near: f32) -> [f32; GROUP] {
        self.estimate_from(asked, coded, group, near, &self.highest(asked, coded, group))
    }

    /// What a group's highest bits alone look up.
    pub fn highest(&self, asked: &Asked, coded: &Coded, group: usize) -> Highest {
        let mut totals = [0; GROUP];
        self.look_up(asked, coded, group, self.bits - 1, &mut totals);
        Highest(totals)
    }

    /// Whether a group's highest bits alone say that none of its rows is so far ahead of the list's
    /// centre, but for errors beyond `reach` standard deviations.
    pub fn is_behind(
        &self,
        asked: &Asked,
        coded: &Coded,
        group: usize,
        highest: &Highest,
        reach: f32,
        ahead: f32,
    ) -> bool {
        let (middle, spread) = HIGHEST[self.bits - 1];
        let factors = group * GROUP..(group + 1) * GROUP;
        let (shifts, scales) = (&coded.shifts[factors.clone()], &coded.scales[factors]);
        let most: [f32; GROUP] = std::array::from_fn(|at| {
            let sum = asked.step * highest.0[at] as f32 + asked.highest;
            shifts[at] + scales[at] * (2.0 * middle * sum + reach * spread)
        });
        most.iter().all(|it| *it < ahead)
    }

    fn look_up(
        &self,
        asked: &Asked,
        coded: &Coded,
        group: usize,
        plane: usize,
        totals: &mut [u32; GROUP],
    ) {
        let from = group * self.planes_bytes() + plane * self.plane_bytes();
        let plane = &coded.planes[from..from + self.plane_bytes()];
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
        near: f32,
        highest: &Highest,
    ) -> [f32; GROUP] {
        let mut totals = highest.0.map(|it| it << (self.bits - 1));
        for weight in 0..self.bits - 1 {
            let mut sums = [0; GROUP];
            self.look_up(asked, coded, group, weight, &mut sums);
            totals.iter_mut().zip(sums).for_each(|(it, sum)| *it += sum << weight);
        }
        let factors = group * GROUP..(group + 1) * GROUP;
        let (shifts, scales) = (&coded.shifts[factors.clone()], &coded.scales[factors]);
        std::array::from_fn(|at| {
            near + shifts[at] + scales[at] * (asked.step * totals[at] as f32 + asked.base)
        })
    }

    /// The standard deviations of a group's estimates, as shares of the query's distance from the
    /// centre.
    pub fn deviations(&self, coded: &Coded, group: usize) -> [f32; GROUP] {
        let left = LEFT[self.bits - 1];
        let norm = (1.0 - left).sqrt() / STEPS[self.bits - 1];
        let scales = &coded.scales[group * GROUP..(group + 1) * GROUP];
        std::array::from_fn(|at| scales[at] * norm * left.sqrt())
    }

    /// How far a group's estimates can be from the exact dot products at most.
    ///
    /// `away` is the query's distance from the centre. What a code leaves out of a row adds to the dot
    /// product no more than its length times `away`; the other terms are what numbers were rounded by.
    pub fn margins(&self, asked: &Asked, coded: &Coded, group: usize, away: f32) -> [f32; GROUP] {
        let length = self.rotation.padded() as f32;
        let sums = TURNING + length * f32::EPSILON;
        let flat = sums * (2.0 + away) * (2.0 + away);
        let per_scale = asked.rounding + self.most_level() * length.sqrt() * sums * (1.0 + away);
        let factors = group * GROUP..(group + 1) * GROUP;
        let (shifts, scales) = (&coded.shifts[factors.clone()], &coded.scales[factors.clone()]);
        let rests = &coded.rests[factors];
        std::array::from_fn(|at| {
            away * rests[at] + HALVED * shifts[at].abs() + per_scale * scales[at].abs() + flat
        })
    }
}

/// The number, or the next one above it that has sixteen bits.
fn at_least(number: f64) -> f16 {
    let near = f16::from_f64(number);
    if near.to_f64() < number { f16::from_bits(near.to_bits() + 1) } else { near }
}

fn put(byte: &mut u8, lane: usize, nibble: u8) {
    *byte = if lane < TABLE { *byte & 0xF0 | nibble } else { *byte & 0x0F | nibble << 4 };
}

fn taken(byte: u8, lane: usize) -> u8 {
    if lane < TABLE { byte & 0x0F } else { byte >> 4 }
}
