//! Few-bit codes of vectors: what they are near to, read in a fraction of the bytes.
//!
//! Gao and Long, "RaBitQ" (2024), and with Gao et al. its extension to more bits (2025): a row's
//! difference from its list's centre is rotated and rounded to a grid, and two numbers of the row make
//! the estimate of its dot product with anything unbiased. The error is known beforehand, as the
//! rotation makes all data alike.
//!
//! ```text
//! group of 32 rows   ┌──────────┬──────────┬─────────┬─ ─ ─┐   little-endian
//!                    │ 32 x f16 │ 32 x f16 │ plane 0 │     │   `bits` planes
//!                    │ shifts   │ scales   │         │     │
//!                    └──────────┴──────────┴─────────┴─ ─ ─┘
//! plane              16 bytes for each four numbers: byte i holds four bits of row i in its lower half,
//!                    of row i + 16 in its upper one
//! ```

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::kernel::{self, LANES, MOST_TABLES, TABLE};
use super::rotation::Rotation;

/// Rows that are coded together.
pub const GROUP: usize = LANES;
/// Numbers that a table is about.
const NUMBERS: usize = 4;
/// Shifts and scales of a group.
const FACTORS: usize = 2 * 2 * GROUP;
/// Most bits a number.
pub const MOST_BITS: usize = 4;
/// The grid's step for numbers of a normal distribution, by bits (Max 1960): least squared error.
const STEPS: [f32; MOST_BITS] = [1.5956, 0.9957, 0.5860, 0.3352];
/// The squared error that is left, relative to the numbers' own square.
const LEFT: [f32; MOST_BITS] = [0.3634, 0.1188, 0.03744, 0.01154];

/// A list's centre as it is kept, two bytes a number.
pub fn centre_bytes(centre: &[f32]) -> Vec<u8> {
    centre.iter().flat_map(|it| f16::from_f32(*it).to_le_bytes()).collect()
}

/// The numbers of [`centre_bytes`].
pub fn centre_of(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<2>().0.iter().map(|it| f16::from_le_bytes(*it).to_f32()).collect()
}

/// Writes and reads the codes of one table.
pub struct Coder {
    rotation: Rotation,
    bits: usize,
}

/// One row's code.
#[derive(Debug, Clone)]
pub struct Code {
    shift: f16,
    scale: f16,
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
}

/// Codes of blocks, ready to be scanned.
#[derive(Default)]
pub struct Coded {
    /// A group's block and the slot of its first row.
    pub groups: Vec<(i64, usize)>,
    /// How many rows there are.
    pub rows: usize,
    shifts: Vec<f32>,
    scales: Vec<f32>,
    planes: Vec<u8>,
}

impl Coded {
    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.planes.len() + 4 * (self.shifts.len() + self.scales.len()) + 16 * self.groups.len()
    }
}

impl Coder {
    /// For vectors of this dimension.
    pub fn new(dimension: usize, bits: usize) -> Coder {
        Coder { rotation: Rotation::new(dimension), bits: bits.clamp(1, MOST_BITS) }
    }

    /// Bytes of a group.
    pub fn group_bytes(&self) -> usize {
        FACTORS + self.planes_bytes()
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
        Code { shift, scale, levels }
    }

    fn most_level(&self) -> f32 {
        ((1usize << self.bits) - 1) as f32
    }

    /// Writes a code into a block's groups.
    pub fn write(&self, groups: &mut [u8], slot: usize, code: &Code) {
        let (group, lane) = self.lane(groups, slot);
        group[2 * lane..2 * lane + 2].copy_from_slice(&code.shift.to_le_bytes());
        let scale = 2 * (GROUP + lane);
        group[scale..scale + 2].copy_from_slice(&code.scale.to_le_bytes());
        for plane in 0..self.bits {
            let from = FACTORS + plane * self.plane_bytes();
            for (at, levels) in code.levels.as_chunks::<NUMBERS>().0.iter().enumerate() {
                let bits = levels.iter().enumerate();
                let nibble = bits.fold(0, |sum, (bit, it)| sum | ((it >> plane) & 1) << bit);
                put(&mut group[from + at * TABLE + lane % TABLE], lane, nibble);
            }
        }
    }

    /// Copies one slot's code to another of the same block.
    pub fn copy(&self, groups: &mut [u8], from: usize, to: usize) {
        let (group, lane) = self.lane(groups, from);
        let factors = [2 * lane, 2 * (GROUP + lane)].map(|at| [group[at], group[at + 1]]);
        let column = group[FACTORS..].iter().skip(lane % TABLE).step_by(TABLE);
        let nibbles: Vec<u8> = column.map(|it| taken(*it, lane)).collect();
        let (group, lane) = self.lane(groups, to);
        for (at, bytes) in [2 * lane, 2 * (GROUP + lane)].into_iter().zip(factors) {
            group[at..at + 2].copy_from_slice(&bytes);
        }
        for (byte, nibble) in
            group[FACTORS..].iter_mut().skip(lane % TABLE).step_by(TABLE).zip(nibbles)
        {
            put(byte, lane, nibble);
        }
    }

    /// Makes a slot one that no search finds.
    pub fn clear(&self, groups: &mut [u8], slot: usize) {
        let levels = vec![0; self.rotation.padded()];
        self.write(groups, slot, &Code { shift: f16::NEG_INFINITY, scale: f16::ZERO, levels });
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

    fn lane<'a>(&self, groups: &'a mut [u8], slot: usize) -> (&'a mut [u8], usize) {
        let bytes = self.group_bytes();
        let from = slot / GROUP * bytes;
        (&mut groups[from..from + bytes], slot % GROUP)
    }

    /// Adds a block to those to be scanned; false where its bytes make no groups.
    pub fn load(&self, coded: &mut Coded, block: i64, groups: &[u8]) -> bool {
        if groups.is_empty() || !groups.len().is_multiple_of(self.group_bytes()) {
            return false;
        }
        for (at, group) in groups.chunks_exact(self.group_bytes()).enumerate() {
            coded.groups.push((block, at * GROUP));
            let (factors, planes) = group.split_at(FACTORS);
            let mut halves = [f16::ZERO; 2 * GROUP];
            for (half, bytes) in halves.iter_mut().zip(factors.as_chunks::<2>().0) {
                *half = f16::from_le_bytes(*bytes);
            }
            let mut wide = [0.0f32; 2 * GROUP];
            halves.convert_to_f32_slice(&mut wide);
            coded.shifts.extend(&wide[..GROUP]);
            coded.scales.extend(&wide[GROUP..]);
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
        let mut base = 0.0;
        for sums in &sums {
            let least = least(sums);
            base += least;
            tables.extend(sums.iter().map(|it| ((it - least) / step).round() as u8));
        }
        let half = self.most_level() / 2.0;
        let base = self.most_level() * base - half * query.iter().sum::<f32>();
        Asked { tables, step, base }
    }

    /// Estimates the dot products of a group's rows with the query.
    ///
    /// `near` is that of the list's centre. Empty slots come out as minus infinity.
    pub fn estimate(&self, asked: &Asked, coded: &Coded, group: usize, near: f32) -> [f32; GROUP] {
        let planes = &coded.planes[group * self.planes_bytes()..(group + 1) * self.planes_bytes()];
        let mut totals = [0u32; GROUP];
        for (weight, plane) in planes.chunks_exact(self.plane_bytes()).enumerate() {
            for (tables, codes) in
                asked.tables.chunks(TABLE * MOST_TABLES).zip(plane.chunks(TABLE * MOST_TABLES))
            {
                let sums = kernel::sums(tables, codes);
                totals.iter_mut().zip(sums).for_each(|(it, sum)| *it += u32::from(sum) << weight);
            }
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
}

fn put(byte: &mut u8, lane: usize, nibble: u8) {
    *byte = if lane < TABLE { *byte & 0xF0 | nibble } else { *byte & 0x0F | nibble << 4 };
}

fn taken(byte: u8, lane: usize) -> u8 {
    if lane < TABLE { byte & 0x0F } else { byte >> 4 }
}

#[cfg(test)]
mod tests {
    use super::super::rotation::Random;
    use super::*;

    fn unit(random: &mut Random, dimension: usize) -> Vec<f32> {
        // Twelve uniform numbers add up to nearly a normal one.
        let mut normal =
            || (0..12).map(|_| random.next() as f32 / u64::MAX as f32).sum::<f32>() - 6.0;
        let numbers: Vec<f32> = (0..dimension).map(|_| normal()).collect();
        let norm = numbers.iter().map(|it| it * it).sum::<f32>().sqrt();
        numbers.into_iter().map(|it| it / norm).collect()
    }

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn estimates_are_unbiased_and_as_exact_as_they_say() {
        for (dimension, bits) in [(512, 1), (128, 2), (100, 3), (64, 4), (1100, 2)] {
            let mut random = Random::new(7);
            let coder = Coder::new(dimension, bits);
            let centre: Vec<f32> = unit(&mut random, dimension).iter().map(|it| 0.5 * it).collect();
            let query = unit(&mut random, dimension);
            let rows: Vec<Vec<f32>> = (0..320).map(|_| unit(&mut random, dimension)).collect();
            let mut groups = coder.empty(rows.len());
            let turned = coder.rotated(&centre);
            for (slot, row) in rows.iter().enumerate() {
                coder.write(&mut groups, slot, &coder.code(&coder.rotated(row), &turned));
            }
            let mut coded = Coded::default();
            assert!(coder.load(&mut coded, 1, &groups));
            assert_eq!(coded.rows, rows.len());
            let asked = coder.ask(&coder.rotated(&query));
            let away: Vec<f32> = query.iter().zip(&centre).map(|(a, b)| a - b).collect();
            let away = dot(&away, &away).sqrt();
            let (mut sum, mut squares, mut expected) = (0.0, 0.0, 0.0);
            for (slot, row) in rows.iter().enumerate() {
                let group = slot / GROUP;
                let estimates = coder.estimate(&asked, &coded, group, dot(&query, &centre));
                let error = estimates[slot % GROUP] - dot(&query, row);
                sum += error;
                squares += error * error;
                expected += (coder.deviations(&coded, group)[slot % GROUP] * away).powi(2);
            }
            let count = rows.len() as f32;
            let (spread, said) = ((squares / count).sqrt(), (expected / count).sqrt());
            assert!((0.8..1.25).contains(&(spread / said)), "{dimension}, {bits}: {spread} {said}");
            assert!((sum / count).abs() < 4.0 * said / count.sqrt(), "{dimension}, {bits}");
        }
    }

    #[test]
    fn slots_are_written_copied_and_cleared() {
        arbtest::arbtest(|u| {
            let coder = Coder::new(u.int_in_range(1..=40)?, u.int_in_range(1..=MOST_BITS)?);
            let slots = 70;
            let mut groups = coder.empty(slots);
            let mut twin: Vec<Option<Code>> = vec![None; slots];
            for _ in 0..40 {
                let (slot, other) =
                    (u.int_in_range(0..=slots - 1)?, u.int_in_range(0..=slots - 1)?);
                match u.int_in_range(0..=2)? {
                    0 => {
                        let levels = (0..coder.rotation.padded())
                            .map(|_| Ok(u.arbitrary::<u8>()? & ((1 << coder.bits) - 1)));
                        let levels = levels.collect::<arbtest::arbitrary::Result<_>>()?;
                        let number = |it: i8| f16::from_f32(f32::from(it));
                        let (shift, scale) = (number(u.arbitrary()?), number(u.arbitrary()?));
                        let code = Code { shift, scale, levels };
                        coder.write(&mut groups, slot, &code);
                        twin[slot] = Some(code);
                    }
                    1 => {
                        coder.copy(&mut groups, slot, other);
                        twin[other] = twin[slot].clone();
                    }
                    _ => {
                        coder.clear(&mut groups, slot);
                        twin[slot] = None;
                    }
                }
            }
            let mut expected = coder.empty(slots);
            for (slot, code) in twin.iter().enumerate() {
                code.iter().for_each(|it| coder.write(&mut expected, slot, it));
            }
            assert_eq!(groups, expected);
            Ok(())
        });
    }
}
