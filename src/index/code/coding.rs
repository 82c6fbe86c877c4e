//! Codes of sixteen rows at a time: their numbers lie side by side, so that the sums of a row, each in its own order, are
//! lanes of a register. A code is known to be a row's by being the same whenever it is made.

use half::f16;

use super::super::metric::Metric;
use super::{Coder, GROUP, STEPS, put};
use crate::kernel::{Loops, NUMBERS, TABLE, side_by_side, widest};

/// Rows that are coded together: half a group.
const ROWS: usize = TABLE;

/// Added to a whole number, it leaves that in the lowest bits.
const LOWEST_BITS: f32 = 8_388_608.0;

/// One number of each row.
type Column<T> = [T; ROWS];

/// The codes of some rows; the first three are as they will be read.
struct Codes {
    shifts: Column<f32>,
    scales: Column<f32>,
    rests: Column<f32>,
    levels: Vec<Column<u8>>,
}

impl Coder {
    /// Writes the codes of rows, laid end to end, into the slots of a block of the list whose centre, [rotated](Coder::rotated),
    /// this is.
    pub fn write(&self, groups: &mut [u8], first: usize, rows: &[f32], centre: &[f32]) {
        let dimension = self.rotation.dimension();
        let mut columns = vec![[0.0; ROWS]; self.rotation.padded()];
        for (at, some) in rows.chunks(ROWS * dimension).enumerate() {
            let count = some.len() / dimension;
            let codes = widest(Coding { coder: self, rows: some, centre, columns: &mut columns });
            let first = first + ROWS * at;
            for lane in 0..count {
                let numbers = [codes.shifts[lane], codes.scales[lane], codes.rests[lane]];
                self.write_numbers(groups, first + lane, numbers);
            }
            widest(Writing {
                coder: self,
                groups: &mut *groups,
                first,
                count,
                levels: &codes.levels,
            });
        }
    }
}

struct Coding<'a> {
    coder: &'a Coder,
    rows: &'a [f32],
    centre: &'a [f32],
    /// Memory for as many as rotated vectors have numbers.
    columns: &'a mut [Column<f32>],
}

impl Loops for Coding<'_> {
    type Output = Codes;

    #[inline(always)]
    fn run(self) -> Codes {
        let Coding { coder, rows, centre, columns } = self;
        coder.place(rows, columns);
        coder.rotation.turn(columns);
        let (mut squares, mut between) = ([0.0f32; ROWS], [0.0f32; ROWS]);
        for (numbers, centre) in columns.iter_mut().zip(centre) {
            side_by_side::<ROWS>();
            for row in 0..ROWS {
                numbers[row] -= centre;
                squares[row] += numbers[row] * numbers[row];
                between[row] += numbers[row] * centre;
            }
        }
        let (most, half) = (coder.most_level(), coder.most_level() / 2.0);
        let mut per_step = [0.0f32; ROWS];
        for row in 0..ROWS {
            let step = STEPS[coder.bits - 1] * (squares[row] / centre.len() as f32).sqrt();
            per_step[row] = if 0.0 < step { 1.0 / step } else { 0.0 };
        }
        let mut levels = vec![[0; ROWS]; columns.len()];
        let (mut along, mut centre_along) = ([0.0f32; ROWS], [0.0f32; ROWS]);
        for ((numbers, levels), centre) in columns.iter().zip(&mut levels).zip(centre) {
            side_by_side::<ROWS>();
            for row in 0..ROWS {
                let number = numbers[row] * per_step[row] + half + 0.5;
                let level = number.clamp(0.0, most).floor();
                levels[row] = (level + LOWEST_BITS).to_bits() as u8;
                let grid = level - half;
                along[row] += numbers[row] * grid;
                centre_along[row] += centre * grid;
            }
        }
        let mut scales = [0.0f32; ROWS];
        for row in 0..ROWS {
            scales[row] = if 0.0 < along[row] { squares[row] / along[row] } else { 0.0 };
        }
        coder.keep(&mut scales);
        let mut rests = [0.0f64; ROWS];
        for (numbers, levels) in columns.iter().zip(&levels) {
            side_by_side::<ROWS>();
            for row in 0..ROWS {
                let rest = numbers[row] - scales[row] * (f32::from(levels[row]) - half);
                rests[row] += f64::from(rest) * f64::from(rest);
            }
        }
        let mut shifts = [0.0f32; ROWS];
        for row in 0..ROWS {
            // A score of L2 also loses half the square of how far the row is from the centre.
            let own = if coder.metric == Metric::L2 { -squares[row] / 2.0 } else { between[row] };
            shifts[row] = own - scales[row] * centre_along[row];
        }
        coder.keep(&mut shifts);
        let rests = rests.map(|it| coder.kept_above(it.sqrt()));
        Codes { shifts, scales, rests, levels }
    }
}

impl Coder {
    /// Lays rows side by side where centres are; columns that they have no numbers for are zero.
    #[inline(always)]
    fn place(&self, rows: &[f32], columns: &mut [Column<f32>]) {
        columns.fill([0.0; ROWS]);
        let dimension = self.rotation.dimension();
        for (lane, row) in rows.chunks_exact(dimension).enumerate() {
            columns.iter_mut().zip(row).for_each(|(column, it)| column[lane] = *it);
        }
        for (column, origin) in columns.iter_mut().zip(&self.origin) {
            column.iter_mut().for_each(|it| *it -= origin);
        }
    }

    /// Makes numbers what they will be read as.
    #[inline(always)]
    fn keep(&self, numbers: &mut Column<f32>) {
        if !self.is_wide() {
            numbers.iter_mut().for_each(|it| *it = f16::from_f32(*it).to_f32());
        }
    }
}

struct Writing<'a> {
    coder: &'a Coder,
    groups: &'a mut [u8],
    first: usize,
    count: usize,
    levels: &'a [Column<u8>],
}

impl Loops for Writing<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Writing { coder, groups, first, count, levels } = self;
        let is_half = count == ROWS && first.is_multiple_of(ROWS);
        for plane in 0..coder.bits {
            for (at, four) in levels.as_chunks::<NUMBERS>().0.iter().enumerate() {
                let mut nibbles = [0u8; ROWS];
                for (bit, levels) in four.iter().enumerate() {
                    for lane in 0..ROWS {
                        nibbles[lane] |= (levels[lane] >> plane & 1) << bit;
                    }
                }
                let from = plane * coder.plane_bytes() + at * TABLE;
                if is_half {
                    let (_, planes) = coder.lane(groups, first);
                    let (keep, shift) = if first % GROUP == 0 { (0xF0, 0) } else { (0x0F, 4) };
                    for (byte, nibble) in planes[from..from + TABLE].iter_mut().zip(nibbles) {
                        *byte = *byte & keep | nibble << shift;
                    }
                    continue;
                }
                for (slot, nibble) in (first..first + count).zip(nibbles) {
                    let (_, planes) = coder.lane(groups, slot);
                    put(&mut planes[from + slot % TABLE], slot % GROUP, nibble);
                }
            }
        }
    }
}
