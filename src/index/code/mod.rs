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

mod bound;
mod coding;
mod estimate;
#[cfg(test)]
mod tests;

pub use self::estimate::Asked;

use self::bound::Directions;

use std::borrow::Cow;
use std::sync::OnceLock;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::aspect::Aspect;
use super::metric::Metric;
use super::rotation::Rotation;
use crate::kernel::{self, Groups, LANES, NUMBERS, TABLE, square};

/// Rows that are coded together.
pub const GROUP: usize = LANES;
/// Numbers that are read at a time: those of a group.
const WIDENED: usize = 3 * GROUP;
/// Most bits a number.
pub const MOST_BITS: usize = 4;
/// The grid's step for numbers of a normal distribution, by bits (Max 1960): least squared error.
const STEPS: [f32; MOST_BITS] = [1.5956, 0.9957, 0.5860, 0.3352];

/// The kinds of numbers of a group, in their order.
const SHIFTS: usize = 0;
const SCALES: usize = 1;
const RESTS: usize = 2;

/// Writes and reads the codes of one table.
pub struct Coder {
    rotation: Rotation,
    bits: usize,
    bounded: bool,
    metric: Metric,
    /// What is taken off rows, queries and centres; empty where nothing is.
    origin: Vec<f32>,
}

/// Codes of blocks, ready to be scanned.
#[derive(Default)]
pub struct Coded {
    /// A group's block and the slot of its first row.
    pub groups: Vec<(i64, usize)>,
    /// How many rows there are.
    pub rows: usize,
    /// Each block and how many of them it has, rising.
    blocks: Vec<(i64, usize)>,
    /// Each group's shifts, scales and rests, as halves or as floats: as they are kept, because
    /// of rows of few dimensions they are a good part of the bytes.
    halves: Vec<f16>,
    floats: Vec<f32>,
    /// Planes of the highest bits, which most searches read alone, and all planes below them, [laid](kernel::lay) for this
    /// machine.
    highest: Vec<u8>,
    lower: Vec<u8>,
    /// What exact searches find out.
    directions: OnceLock<Directions>,
}

/// A group of codes as a query sees it.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    /// The query.
    pub asked: &'a Asked,
    /// The codes of the list.
    pub coded: &'a Coded,
    /// Which of their groups.
    pub group: usize,
    /// How the query sees the list.
    pub list: &'a Aspect,
}

impl Coded {
    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let numbers = 2 * self.halves.len() + 4 * self.floats.len();
        let places = 16 * (self.groups.len() + self.blocks.len());
        let directions = 2 * size_of::<f16>() * GROUP * self.groups.len();
        self.highest.len() + self.lower.len() + numbers + places + directions
    }

    /// How many rows a block has.
    pub fn rows_of(&self, block: i64) -> Option<usize> {
        let at = self.blocks.binary_search_by_key(&block, |it| it.0).ok()?;
        Some(self.blocks[at].1)
    }
}

impl Coder {
    /// For unit vectors of this dimension; `bounded` unless the codes are of format 3.
    pub fn new(dimension: usize, bits: usize, bounded: bool) -> Coder {
        let (rotation, bits) = (Rotation::new(dimension), bits.clamp(1, MOST_BITS));
        Coder { rotation, bits, bounded, metric: Metric::Cosine, origin: Vec::new() }
    }

    /// For vectors of any length and another metric than the cosine, which lie about an origin; an empty
    /// one is zero.
    pub fn of_any_length(dimension: usize, bits: usize, metric: Metric, origin: Vec<f32>) -> Coder {
        Coder { metric, origin, ..Coder::new(dimension, bits, true) }
    }

    /// Whether vectors may have any length, so that numbers are kept as floats instead of halves.
    fn is_wide(&self) -> bool {
        self.metric != Metric::Cosine
    }

    /// Bytes of a number of a centre or a code.
    fn number_bytes(&self) -> usize {
        if self.is_wide() { 4 } else { 2 }
    }

    /// Bytes of one number of each row of a group.
    fn factor_bytes(&self) -> usize {
        GROUP * self.number_bytes()
    }

    /// Bytes of a centre.
    pub fn centre_bytes_of(&self, dimension: usize) -> usize {
        dimension * self.number_bytes()
    }

    /// A list's centre as it is kept.
    pub fn centre_bytes(&self, centre: &[f32]) -> Vec<u8> {
        match self.is_wide() {
            true => centre.iter().flat_map(|it| it.to_le_bytes()).collect(),
            false => centre.iter().flat_map(|it| f16::from_f32(*it).to_le_bytes()).collect(),
        }
    }

    /// The numbers of [`Coder::centre_bytes`].
    pub fn centre_of(&self, bytes: &[u8]) -> Vec<f32> {
        let mut numbers = vec![0.0; bytes.len() / self.number_bytes()];
        self.widen(bytes, &mut numbers);
        numbers
    }

    /// Reads a centre; whether these are its bytes and all of its numbers finite.
    pub fn read_centre(&self, bytes: &[u8], centre: &mut [f32]) -> bool {
        self.widen(bytes, centre);
        // One number tells it of all, unless it is too large itself.
        let finite = square(centre).is_finite() || centre.iter().all(|it| it.is_finite());
        finite && bytes.len() == self.centre_bytes_of(centre.len())
    }

    /// Reads numbers of centres or codes, as many as there is room for.
    fn widen(&self, bytes: &[u8], numbers: &mut [f32]) {
        if self.is_wide() {
            let floats = bytes.as_chunks::<4>().0;
            numbers.iter_mut().zip(floats).for_each(|(it, float)| *it = f32::from_le_bytes(*float));
            return;
        }
        let parts = bytes.as_chunks::<2>().0.chunks(WIDENED);
        for (numbers, bytes) in numbers.chunks_mut(WIDENED).zip(parts) {
            let mut halves = [f16::ZERO; WIDENED];
            halves.iter_mut().zip(bytes).for_each(|(it, half)| *it = f16::from_le_bytes(*half));
            halves[..numbers.len()].convert_to_f32_slice(numbers);
        }
    }

    /// A row or a query where centres are: less the origin.
    pub fn placed<'a>(&self, vector: &'a [f32]) -> Cow<'a, [f32]> {
        match self.origin.is_empty() {
            true => vector.into(),
            false => vector.iter().zip(&self.origin).map(|(it, origin)| it - origin).collect(),
        }
    }

    /// [`Coder::placed`] of many rows, laid end to end.
    pub fn place_all(&self, rows: &mut [f32]) {
        if !self.origin.is_empty() {
            for row in rows.chunks_exact_mut(self.origin.len()) {
                row.iter_mut().zip(&self.origin).for_each(|(it, origin)| *it -= origin);
            }
        }
    }

    /// Whether scores can be [bounded](Coder::bound).
    pub fn is_bounded(&self) -> bool {
        self.bounded
    }

    /// How vectors are compared.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Bytes of a group.
    pub fn group_bytes(&self) -> usize {
        self.factors_bytes() + self.planes_bytes()
    }

    /// Bytes of the codes of so many slots.
    pub fn bytes_of(&self, slots: usize) -> usize {
        slots.div_ceil(GROUP) * self.group_bytes()
    }

    /// Numbers that each code has.
    fn kinds(&self) -> usize {
        if self.bounded { 3 } else { 2 }
    }

    fn factors_bytes(&self) -> usize {
        self.factor_bytes() * self.kinds()
    }

    fn planes_bytes(&self) -> usize {
        self.bits * self.plane_bytes()
    }

    fn plane_bytes(&self) -> usize {
        self.rotation.padded() / NUMBERS * TABLE
    }

    /// A centre, or a [placed](Coder::placed) query, as [`Coder::write`] and [`Coder::ask`] take it.
    pub fn rotated(&self, vector: &[f32]) -> Vec<f32> {
        self.rotation.apply(vector)
    }

    /// The number, or the next one above it, as it will be read.
    fn kept_above(&self, number: f64) -> f32 {
        if self.is_wide() {
            let near = number as f32;
            return if f64::from(near) < number { near.next_up() } else { near };
        }
        let near = f16::from_f64(number);
        let kept = if near.to_f64() < number { f16::from_bits(near.to_bits() + 1) } else { near };
        kept.to_f32()
    }

    fn most_level(&self) -> f32 {
        ((1usize << self.bits) - 1) as f32
    }

    /// Writes shift, scale and rest of a slot.
    fn write_numbers(&self, groups: &mut [u8], slot: usize, numbers: [f32; 3]) {
        let (factors, _) = self.lane(groups, slot);
        let (lane, width) = (slot % GROUP, self.number_bytes());
        for (factor, number) in factors.chunks_exact_mut(self.factor_bytes()).zip(numbers) {
            self.put_number(&mut factor[width * lane..width * (lane + 1)], number);
        }
    }

    fn put_number(&self, bytes: &mut [u8], number: f32) {
        match self.is_wide() {
            true => bytes.copy_from_slice(&number.to_le_bytes()),
            false => bytes.copy_from_slice(&f16::from_f32(number).to_le_bytes()),
        }
    }

    /// Copies one slot's code to another of the same block.
    pub fn copy(&self, groups: &mut [u8], from: usize, to: usize) {
        let (each, width) = (self.factor_bytes(), self.number_bytes());
        let (factors, planes) = self.lane(groups, from);
        let lane = from % GROUP;
        let numbers: Vec<Vec<u8>> = factors
            .chunks_exact(each)
            .map(|it| it[width * lane..width * (lane + 1)].to_vec())
            .collect();
        let column = planes.iter().skip(lane % TABLE).step_by(TABLE);
        let nibbles: Vec<u8> = column.map(|it| taken(*it, lane)).collect();
        let (factors, planes) = self.lane(groups, to);
        let lane = to % GROUP;
        for (factor, number) in factors.chunks_exact_mut(each).zip(numbers) {
            factor[width * lane..width * (lane + 1)].copy_from_slice(&number);
        }
        let column = planes.iter_mut().skip(lane % TABLE).step_by(TABLE);
        column.zip(nibbles).for_each(|(byte, nibble)| put(byte, lane, nibble));
    }

    /// Makes a slot one that no search finds.
    pub fn clear(&self, groups: &mut [u8], slot: usize) {
        self.write_numbers(groups, slot, [f32::NEG_INFINITY, 0.0, 0.0]);
        let (_, planes) = self.lane(groups, slot);
        let column = planes.iter_mut().skip(slot % TABLE).step_by(TABLE);
        column.for_each(|byte| put(byte, slot % GROUP, 0));
    }

    /// Groups for this many slots, all empty.
    pub fn empty(&self, slots: usize) -> Vec<u8> {
        let count = slots.div_ceil(GROUP);
        let mut groups = vec![0; count * self.group_bytes()];
        for group in groups.chunks_exact_mut(self.group_bytes()) {
            for shift in group[..self.factor_bytes()].chunks_exact_mut(self.number_bytes()) {
                self.put_number(shift, f32::NEG_INFINITY);
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

    /// Memory for the codes of so many rows, where no block but the last has free slots.
    pub fn room_for(&self, rows: usize) -> Coded {
        let groups = rows.div_ceil(GROUP);
        let numbers = self.kinds() * GROUP * groups;
        let (halves, floats) = if self.is_wide() { (0, numbers) } else { (numbers, 0) };
        Coded {
            groups: Vec::with_capacity(groups),
            rows: 0,
            blocks: Vec::new(),
            halves: Vec::with_capacity(halves),
            floats: Vec::with_capacity(floats),
            highest: Vec::with_capacity(groups * self.plane_bytes()),
            lower: Vec::with_capacity(groups * (self.planes_bytes() - self.plane_bytes())),
            directions: OnceLock::new(),
        }
    }

    /// Adds a block's groups that are not empty to those to be scanned; false where its bytes make no groups.
    pub fn load(&self, coded: &mut Coded, block: i64, groups: &[u8]) -> bool {
        if groups.is_empty() || !groups.len().is_multiple_of(self.group_bytes()) {
            return false;
        }
        let before = coded.rows;
        for (at, group) in groups.chunks_exact(self.group_bytes()).enumerate() {
            let (factors, planes) = group.split_at(self.factors_bytes());
            let mut wide = [0.0f32; 3 * GROUP];
            let wide = &mut wide[..self.kinds() * GROUP];
            self.widen(factors, wide);
            let (shifts, others) = wide.split_at(GROUP);
            let odd = |it: &f32| it.is_nan() || *it == f32::INFINITY;
            if shifts.iter().any(odd) || others.iter().any(|it| !it.is_finite()) {
                return false;
            }
            let rows = shifts.iter().filter(|it| it.is_finite()).count();
            if rows == 0 {
                continue;
            }
            coded.rows += rows;
            coded.groups.push((block, at * GROUP));
            match self.is_wide() {
                true => coded.floats.extend(&*wide),
                false => {
                    let halves = factors.as_chunks::<2>().0;
                    coded.halves.extend(halves.iter().map(|it| f16::from_le_bytes(*it)));
                }
            }
            let (lower, highest) = planes.split_at(planes.len() - self.plane_bytes());
            lower.chunks_exact(self.plane_bytes()).for_each(|it| kernel::lay(it, &mut coded.lower));
            kernel::lay(highest, &mut coded.highest);
        }
        coded.blocks.push((block, coded.rows - before));
        true
    }

    /// Has what a scan reads of a group brought near.
    pub fn fetch_highest(&self, coded: &Coded, group: usize) {
        if group < coded.groups.len() {
            let (numbers, bytes) = (self.kinds() * GROUP, self.plane_bytes());
            kernel::fetch(&coded.highest[group * bytes..][..bytes]);
            match self.is_wide() {
                true => kernel::fetch(&coded.floats[group * numbers..][..numbers]),
                false => kernel::fetch(&coded.halves[group * numbers..][..numbers]),
            }
        }
    }

    /// The same of all other planes of a group.
    pub fn fetch_lower(&self, coded: &Coded, group: usize) {
        let bytes = self.planes_bytes() - self.plane_bytes();
        if group < coded.groups.len() {
            kernel::fetch(&coded.lower[group * bytes..][..bytes]);
        }
    }

    /// A plane of a group.
    fn plane<'a>(&self, coded: &'a Coded, group: usize, plane: usize) -> &'a [u8] {
        let bytes = self.plane_bytes();
        match plane + 1 == self.bits {
            true => &coded.highest[group * bytes..][..bytes],
            false => &coded.lower[(group * (self.bits - 1) + plane) * bytes..][..bytes],
        }
    }

    /// What is kept of each group, with its highest plane.
    fn groups<'a>(&self, coded: &'a Coded) -> Groups<'a> {
        let Coded { halves, floats, highest: planes, .. } = coded;
        Groups { planes, halves, floats, kinds: self.kinds() }
    }
}

fn put(byte: &mut u8, lane: usize, nibble: u8) {
    *byte = if lane < TABLE { *byte & 0xF0 | nibble } else { *byte & 0x0F | nibble << 4 };
}

fn taken(byte: u8, lane: usize) -> u8 {
    if lane < TABLE { byte & 0x0F } else { byte >> 4 }
}
