//! The two planes of a vector, two little-endian bytes a number each; together lossless.

use crate::kernel::{Loops, widest};

/// Bytes a number takes in one plane.
pub const BYTES: usize = 2;

/// Most that rounding to a bfloat16 changes a unit vector's cosine with another one: eight
/// significant bits leave each number within 2^-8 of its size, and lengths multiply.
pub const ROUNDING: f64 = 1.0 / 256.0;

/// Appends the numbers to both planes.
pub fn split(numbers: &[f32], high: &mut Vec<u8>, low: &mut Vec<u8>) {
    let (high_from, low_from) = (high.len(), low.len());
    high.resize(high_from + BYTES * numbers.len(), 0);
    low.resize(low_from + BYTES * numbers.len(), 0);
    widest(Split { numbers, high: &mut high[high_from..], low: &mut low[low_from..] });
}

struct Split<'a> {
    numbers: &'a [f32],
    high: &'a mut [u8],
    low: &'a mut [u8],
}

impl Loops for Split<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let high = self.high.as_chunks_mut::<BYTES>().0.iter_mut();
        let low = self.low.as_chunks_mut::<BYTES>().0.iter_mut();
        for ((number, high), low) in self.numbers.iter().zip(high).zip(low) {
            let bits = number.to_bits();
            // To nearest; a finite number near the largest float would round to infinity, no unit
            // vector holds one.
            *high = ((bits.wrapping_add(0x8000) >> 16) as u16).to_le_bytes();
            *low = (bits as u16).to_le_bytes();
        }
    }
}

/// The rounded numbers of a high plane.
pub fn widened(high: &[u8]) -> impl Iterator<Item = f32> + '_ {
    let halves = high.as_chunks::<BYTES>().0.iter();
    halves.map(|it| f32::from_bits(u32::from(u16::from_le_bytes(*it)) << 16))
}

/// The numbers that [`split`] took apart.
pub fn join(high: &[u8], low: &[u8]) -> Vec<f32> {
    let mut numbers = vec![0.0; high.len().min(low.len()) / BYTES];
    widest(Join { high, low, numbers: &mut numbers });
    numbers
}

struct Join<'a> {
    high: &'a [u8],
    low: &'a [u8],
    numbers: &'a mut [f32],
}

impl Loops for Join<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (high, low) = (self.high.as_chunks::<BYTES>().0, self.low.as_chunks::<BYTES>().0);
        for ((number, high), low) in self.numbers.iter_mut().zip(high).zip(low) {
            *number = joined(*high, *low);
        }
    }
}

#[inline(always)]
fn joined(high: [u8; BYTES], low: [u8; BYTES]) -> f32 {
    let low = u32::from(u16::from_le_bytes(low));
    // The upper half was rounded up where the lower half begins with a one.
    let upper = u32::from(u16::from_le_bytes(high)).wrapping_sub(low >> 15);
    f32::from_bits((upper << 16) | low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_lose_nothing() {
        arbtest::arbtest(|u| {
            let numbers: Vec<f32> = u.arbitrary()?;
            let (mut high, mut low) = (Vec::new(), Vec::new());
            split(&numbers, &mut high, &mut low);
            let again = join(&high, &low);
            let bits = |it: &[f32]| it.iter().map(|it| it.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&again), bits(&numbers));
            Ok(())
        });
    }

    #[test]
    fn the_high_plane_is_within_its_bound() {
        for number in [1.0f32, -0.7, 0.3333333, 1e-3, -1.999, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0]
        {
            let (mut high, mut low) = (Vec::new(), Vec::new());
            split(&[number], &mut high, &mut low);
            let rounded = f32::from_bits(u32::from(u16::from_le_bytes([high[0], high[1]])) << 16);
            assert!(f64::from((rounded - number).abs()) <= ROUNDING * f64::from(number.abs()));
        }
    }
}
