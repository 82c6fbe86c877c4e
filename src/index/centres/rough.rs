//! The nearest of many centres by products of bytes, which say roughly how far each is; those that may be the nearest are
//! compared in floats.

use std::array;

use crate::kernel::{
    BytePanels, ByteRows, FOUR, Fars, Loops, MOVED, ROWS, WIDTH, product, square, widest,
};

/// The largest byte that is made of a number.
const MOST_LEVEL: f32 = 127.0;
/// Added to a number, it leaves the nearest whole one in the lowest bits.
const WHOLE: f32 = 12_582_912.0;
/// A difference of two distances that is this many standard deviations of what rounding does to it is a sure one.
const DEVIATIONS: f32 = 5.0;
/// Centres that a row is compared with in floats at most: of more than those any is about as near.
const MOST: usize = 16;

/// Centres as bytes, less their mean, which says nothing of which is the nearest.
pub struct Bytes {
    kernels: Fars,
    dimension: usize,
    mean: Vec<f32>,
    panels: BytePanels,
    most_step: f32,
    most_square: f32,
}

/// The same, and as they are.
pub struct Rough {
    bytes: Bytes,
    whole: Vec<f32>,
    /// The squares of their lengths.
    whole_squares: Vec<f32>,
}

/// Numbers as levels.
struct Levels {
    levels: Vec<i8>,
    /// What a level stands for.
    step: f32,
    /// The square of the numbers' length.
    square: f32,
}

impl Bytes {
    /// For centres of this dimension laid end to end.
    pub fn new(kernels: Fars, centres: &[f32], dimension: usize) -> Bytes {
        let fours = dimension.div_ceil(FOUR);
        let count = centres.len() / dimension;
        let mut mean = vec![0.0; dimension];
        for centre in centres.chunks_exact(dimension) {
            mean.iter_mut().zip(centre).for_each(|(sum, it)| *sum += it / count as f32);
        }
        let of_panels = count.div_ceil(WIDTH);
        let mut panels = BytePanels {
            fours: vec![[[MOVED; FOUR]; WIDTH]; fours * of_panels],
            steps: vec![[0.0; WIDTH]; of_panels],
            squares: vec![[f32::INFINITY; WIDTH]; of_panels],
        };
        let (mut most_step, mut most_square) = (0.0f32, 0.0f32);
        for (at, centre) in centres.chunks_exact(dimension).enumerate() {
            let (panel, lane) = (at / WIDTH, at % WIDTH);
            let Levels { levels, step, square } = widest(Levelled { numbers: centre, mean: &mean });
            for (four, levels) in panels.fours[panel * fours..].iter_mut().zip(levels.chunks(FOUR))
            {
                for (it, level) in four[lane].iter_mut().zip(levels) {
                    *it = MOVED.wrapping_add_signed(*level);
                }
            }
            panels.steps[panel][lane] = step;
            panels.squares[panel][lane] = square;
            (most_step, most_square) = (most_step.max(step), most_square.max(square));
        }
        Bytes { kernels, dimension, mean, panels, most_step, most_square }
    }

    /// About how far each centre is from a row, as squares; the first ones of these are there, the rest is endlessly far.
    pub fn far_from(&self, row: &[f32]) -> Vec<[f32; WIDTH]> {
        let mut rows = ByteRows::<1>::new(self.dimension);
        let levelled = widest(Levelled { numbers: row, mean: &self.mean });
        levelled.write(&mut rows, 0);
        let mut far = vec![[[0.0; WIDTH]; 1]; self.panels.squares.len()];
        (self.kernels.one)(&rows, &self.panels, &mut far);
        far.into_iter().map(|[far]| far.map(|it| it + levelled.square)).collect()
    }
}

impl Levels {
    #[inline(always)]
    fn write<const N: usize>(&self, rows: &mut ByteRows<N>, row: usize) {
        for (fours, levels) in rows.fours.iter_mut().zip(self.levels.chunks(FOUR)) {
            fours[row][..levels.len()].copy_from_slice(levels);
        }
        rows.sums[row] = self.levels.iter().map(|it| i32::from(*it)).sum();
        rows.steps[row] = 2.0 * self.step;
    }
}

impl Rough {
    /// For centres of this dimension laid end to end.
    pub fn new(kernels: Fars, centres: &[f32], dimension: usize) -> Rough {
        let bytes = Bytes::new(kernels, centres, dimension);
        let whole_squares = centres.chunks_exact(dimension).map(square).collect();
        Rough { bytes, whole: centres.to_vec(), whole_squares }
    }

    /// Which centre is the nearest of each row, or about the nearest, and the square of how far it is.
    pub fn nearest(&self, rows: &[f32]) -> Vec<(usize, f32)> {
        let dimension = self.bytes.dimension;
        let mut found = Vec::with_capacity(rows.len() / dimension);
        let mut far = vec![[[0.0; WIDTH]; ROWS]; self.bytes.panels.squares.len()];
        for some in rows.chunks(ROWS * dimension) {
            let count = some.len() / dimension;
            // Missing ones repeat the last.
            let rows = array::from_fn(|at| &some[at.min(count - 1) * dimension..][..dimension]);
            let nearest = widest(Comparing { rough: self, rows, far: &mut far });
            found.extend_from_slice(&nearest[..count]);
        }
        found
    }
}

struct Levelled<'a> {
    numbers: &'a [f32],
    mean: &'a [f32],
}

impl Loops for Levelled<'_> {
    type Output = Levels;

    #[inline(always)]
    fn run(self) -> Levels {
        let numbers: Vec<f32> = self.numbers.iter().zip(self.mean).map(|(a, b)| a - b).collect();
        let most = numbers.iter().fold(0.0f32, |most, it| it.abs().max(most));
        let (step, per_step) = match most / MOST_LEVEL {
            step if f32::MIN_POSITIVE <= step => (step, MOST_LEVEL / most),
            _ => (0.0, 0.0),
        };
        let levels = numbers.iter().map(|it| (it * per_step + WHOLE).to_bits() as i8).collect();
        Levels { levels, step, square: product(&numbers, &numbers) }
    }
}

struct Comparing<'a> {
    rough: &'a Rough,
    rows: [&'a [f32]; ROWS],
    /// How far each centre of each panel is from each row, roughly and but for the square of the row.
    far: &'a mut [[[f32; WIDTH]; ROWS]],
}

impl Loops for Comparing<'_> {
    type Output = [(usize, f32); ROWS];

    #[inline(always)]
    fn run(self) -> [(usize, f32); ROWS] {
        let Comparing { rough, rows, far } = self;
        let of = &rough.bytes;
        let mut bytes = ByteRows::new(of.dimension);
        let mut slack = [0.0; ROWS];
        // Loops, as what is called for each item of an array is not compiled as wide.
        for row in 0..ROWS {
            let levelled = Levelled { numbers: rows[row], mean: &of.mean }.run();
            levelled.write(&mut bytes, row);
            slack[row] = of.slack(&levelled);
        }
        let least = (of.kernels.many)(&bytes, &of.panels, far);
        let mut found = [(0, 0.0); ROWS];
        for row in 0..ROWS {
            let far = far.iter().map(|it| &it[row]);
            found[row] = rough.nearest_of(rows[row], far, least[row] + slack[row]);
        }
        found
    }
}

impl Bytes {
    /// How much farther than the centre that seems the nearest one may seem that is nearer.
    #[inline(always)]
    fn slack(&self, row: &Levels) -> f32 {
        // The square of what rounding does to a number is a twelfth of its step's; there are two distances, of two sides each.
        let off = |step: f32, square: f32| f64::from(step).powi(2) * f64::from(square);
        let off = off(row.step, self.most_square) + off(self.most_step, row.square);
        DEVIATIONS * (8.0 * off / 12.0).sqrt() as f32
    }
}

impl Rough {
    /// The nearest of those that are about as far, and the square of how far it is.
    #[inline(always)]
    fn nearest_of<'a>(
        &self,
        row: &[f32],
        far: impl Iterator<Item = &'a [f32; WIDTH]>,
        limit: f32,
    ) -> (usize, f32) {
        let (mut found, mut compared) = ((0, f32::INFINITY), 0);
        let dimension = self.bytes.dimension;
        for (panel, far) in far.enumerate() {
            if !far.iter().fold(false, |any, it| any | (*it <= limit)) {
                continue;
            }
            for (lane, _) in far.iter().enumerate().filter(|it| *it.1 <= limit) {
                let at = panel * WIDTH + lane;
                let centre = &self.whole[at * dimension..(at + 1) * dimension];
                let exact = self.whole_squares[at] - 2.0 * product(row, centre);
                if exact < found.1 {
                    found = (at, exact);
                }
                compared += 1;
            }
            if MOST <= compared {
                break;
            }
        }
        (found.0, (found.1 + product(row, row)).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::rotation::Random;
    use super::*;
    use crate::kernel::plain_bytes;

    const PLAIN: Fars = Fars { many: plain_bytes::<ROWS>, one: plain_bytes::<1> };

    fn vectors(random: &mut Random, count: usize, about: f32, reach: f32) -> Vec<f32> {
        let one = |_| about + reach * (random.below(2001) as f32 / 1000.0 - 1.0);
        (0..count).map(one).collect()
    }

    #[test]
    fn the_nearest_centre_is_that_of_the_twin() {
        let mut random = Random::new(7);
        for (dimension, count, about, reach) in
            [(128, 300, 0.0, 1.0), (7, 40, 0.0, 1e-9), (33, 90, 20.0, 1.0), (1, 17, 1e12, 1e12)]
        {
            let centres = vectors(&mut random, count * dimension, about, reach);
            let rows = vectors(&mut random, 101 * dimension, about, reach);
            let found = Rough::new(PLAIN, &centres, dimension).nearest(&rows);
            assert_eq!(found.len(), 101);
            for (row, (at, square)) in rows.chunks(dimension).zip(found) {
                let to = |centre: &[f32]| -> f64 {
                    row.iter().zip(centre).map(|(a, b)| f64::from(a - b).powi(2)).sum()
                };
                let all: Vec<f64> = centres.chunks(dimension).map(to).collect();
                let least = all.iter().copied().fold(f64::INFINITY, f64::min);
                // As exact as floats of numbers so long.
                let off = 1e-5 * dimension as f64 * f64::from(about + reach).powi(2);
                assert!(all[at] <= least + off, "{dimension}: {} {least}", all[at]);
                assert!((f64::from(square) - all[at]).abs() <= off, "{square} {}", all[at]);
            }
        }
    }

    #[test]
    fn centres_that_are_all_the_same_are_as_near() {
        let found = Rough::new(PLAIN, &[0.5; 300], 3).nearest(&[0.5, 0.5, 2.5]);
        assert_eq!(found, [(0, 4.0)]);
        assert_eq!(Rough::new(PLAIN, &[0.0; 300], 3).nearest(&[0.0; 3]), [(0, 0.0)]);
    }

    #[test]
    fn one_row_is_about_as_far_as_the_twin_says() {
        let mut random = Random::new(9);
        for (dimension, count, about, reach) in [(128, 300, 0.5, 1.0), (7, 16, 0.0, 1e-9)] {
            let centres = vectors(&mut random, count * dimension, about, reach);
            let row = vectors(&mut random, dimension, about, reach);
            let bytes = Bytes::new(PLAIN, &centres, dimension);
            let far = bytes.far_from(&row);
            let off = bytes.slack(&widest(Levelled { numbers: &row, mean: &bytes.mean }));
            for (centre, far) in centres.chunks(dimension).zip(far.as_flattened()) {
                let square: f32 = centre.iter().zip(&row).map(|(a, b)| (a - b).powi(2)).sum();
                assert!((square - far).abs() <= off, "{square} {far} {off}");
            }
            assert!(far.as_flattened()[count..].iter().all(|it| it.is_infinite()));
        }
    }

    #[test]
    fn all_kernels_say_the_same() {
        let Some(products) = crate::kernel::bytes() else {
            return;
        };
        let mut random = Random::new(8);
        let (centres, rows) =
            (vectors(&mut random, 70 * 19, 0.3, 1.0), vectors(&mut random, 50 * 19, 0.3, 1.0));
        let of = |products| Rough::new(products, &centres, 19).nearest(&rows);
        assert_eq!(of(products), of(PLAIN));
    }
}
