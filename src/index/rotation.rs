//! A fixed random rotation, so that every coordinate of any data looks alike.
//!
//! Rounds of random signs and Hadamard transforms (Ailon and Chazelle 2009). It depends on the number of
//! dimensions alone, so a code once written never has to be written anew.

use crate::kernel::{Loops, side_by_side, widest};

/// Enough that a single coordinate spreads like a normal distribution.
const ROUNDS: usize = 4;
/// Numbers that rotated vectors are a multiple of long: four 16-byte tables of four numbers each.
const MULTIPLE: usize = 16;

/// The rotation for vectors of one dimension.
pub struct Rotation {
    dimension: usize,
    /// The dimension, filled up with zeros to a multiple of 16.
    padded: usize,
    /// The largest power of two in it.
    power: usize,
    /// 1 or -1 per round and number.
    signs: Vec<f32>,
}

impl Rotation {
    /// For vectors of this many numbers.
    pub fn new(dimension: usize) -> Rotation {
        let padded = dimension.next_multiple_of(MULTIPLE);
        let power = 1 << padded.ilog2();
        let mut random = Random::new(dimension as u64);
        let signs = (0..ROUNDS * padded).map(|_| if random.bits() >> 63 == 0 { 1.0 } else { -1.0 });
        Rotation { dimension, padded, power, signs: signs.collect() }
    }

    /// How long vectors are.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// How long rotated vectors are.
    pub fn padded(&self) -> usize {
        self.padded
    }

    /// The rotated vector; lengths and dot products stay.
    pub fn apply(&self, vector: &[f32]) -> Vec<f32> {
        let mut numbers = vector.to_vec();
        numbers.resize(self.padded, 0.0);
        widest(Turning { rotation: self, numbers: numbers.as_chunks_mut::<1>().0 });
        numbers
    }

    /// Rotates vectors that lie side by side: one number of each, [`Rotation::padded`] times.
    #[inline(always)]
    pub fn turn<const VECTORS: usize>(&self, numbers: &mut [[f32; VECTORS]]) {
        let Rotation { padded, power, signs, .. } = self;
        let rest = padded - power;
        for (round, signs) in signs.chunks_exact(*padded).enumerate() {
            for (numbers, sign) in numbers.iter_mut().zip(signs) {
                side_by_side::<VECTORS>();
                numbers.iter_mut().for_each(|it| *it *= sign);
            }
            // The transform takes a power of two: the first and the last numbers by turns.
            let from = if round % 2 == 0 { 0 } else { rest };
            hadamard(&mut numbers[from..from + power]);
            if 0 < rest {
                butterfly(numbers, std::f32::consts::FRAC_1_SQRT_2);
            }
        }
    }
}

struct Turning<'a> {
    rotation: &'a Rotation,
    numbers: &'a mut [[f32; 1]],
}

impl Loops for Turning<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.rotation.turn(self.numbers);
    }
}

#[inline(always)]
fn hadamard<const VECTORS: usize>(numbers: &mut [[f32; VECTORS]]) {
    // A power of two, and at least sixteen.
    for eight in numbers.as_chunks_mut::<8>().0 {
        side_by_side::<VECTORS>();
        for vector in 0..VECTORS {
            let turned = hadamard_of_eight(eight.each_ref().map(|it| it[vector]));
            eight.iter_mut().zip(turned).for_each(|(it, number)| it[vector] = number);
        }
    }
    let mut half = 8;
    while half < numbers.len() {
        numbers.chunks_exact_mut(2 * half).for_each(|it| butterfly(it, 1.0));
        half *= 2;
    }
    let scale = 1.0 / (numbers.len() as f32).sqrt();
    numbers.as_flattened_mut().iter_mut().for_each(|it| *it *= scale);
}

/// Three steps at once, in registers.
#[inline(always)]
fn hadamard_of_eight([a, b, c, d, e, f, g, h]: [f32; 8]) -> [f32; 8] {
    let [a, b, c, d, e, f, g, h] = [a + b, a - b, c + d, c - d, e + f, e - f, g + h, g - h];
    let [a, b, c, d, e, f, g, h] = [a + c, b + d, a - c, b - d, e + g, f + h, e - g, f - h];
    [a + e, b + f, c + g, d + h, a - e, b - f, c - g, d - h]
}

/// Adds up and takes off the halves.
#[inline(always)]
fn butterfly<const VECTORS: usize>(numbers: &mut [[f32; VECTORS]], scale: f32) {
    let (left, right) = numbers.split_at_mut(numbers.len() / 2);
    for (a, b) in left.as_flattened_mut().iter_mut().zip(right.as_flattened_mut()) {
        (*a, *b) = ((*a + *b) * scale, (*a - *b) * scale);
    }
}

/// Steele, Lea and Flood's SplitMix64: the same numbers on every machine.
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut it = self.0;
        it = (it ^ (it >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        it = (it ^ (it >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        it ^ (it >> 31)
    }

    /// Below `count`, which is not 0.
    pub fn below(&mut self, count: usize) -> usize {
        (self.bits() % count as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_angles_stay() {
        arbtest::arbtest(|u| {
            let dimension = u.int_in_range(1..=300)?;
            let mut vector = || -> arbtest::arbitrary::Result<Vec<f32>> {
                (0..dimension).map(|_| Ok(f32::from(u.arbitrary::<i8>()?) / 128.0)).collect()
            };
            let (a, b) = (vector()?, vector()?);
            let dot = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
            let rotation = Rotation::new(dimension);
            let (turned, other) = (rotation.apply(&a), rotation.apply(&b));
            let most = 1e-5 * (1.0 + dimension as f32);
            assert!((dot(&turned, &other) - dot(&a, &b)).abs() < most);
            assert!((dot(&turned, &turned) - dot(&a, &a)).abs() < most);
            Ok(())
        });
    }

    #[test]
    fn one_number_spreads_over_all() {
        for dimension in [128, 384, 1000] {
            let mut vector = vec![0.0; dimension];
            vector[7] = 1.0;
            let largest = Rotation::new(dimension).apply(&vector);
            let largest = largest.iter().fold(0.0f32, |most, it| most.max(it.abs()));
            assert!(largest < 6.0 / (dimension as f32).sqrt(), "{dimension}: {largest}");
        }
    }

    #[test]
    fn it_is_the_same_on_every_machine_and_in_every_version() {
        let turned = Rotation::new(3).apply(&[0.5, -0.25, 1.0]);
        let sum: f32 = turned.iter().enumerate().map(|(at, it)| at as f32 * it).sum();
        assert_eq!(format!("{} {} {sum}", turned[0], turned[15]), "-0.15625 -0.03125 19.625");
    }
}
