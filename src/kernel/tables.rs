//! A query as codes look it up: for every four of its numbers the sums of any of them, rounded to bytes.

use super::TABLE;

/// Numbers of a table, each of which is in half of its sums.
pub const NUMBERS: usize = TABLE.ilog2() as usize;
/// Which sums hold a number: those whose place has its bit.
const HOLDS: [[f32; TABLE]; NUMBERS] = holds();
/// Floats from here on, up to twice it, are whole numbers, which stand in their lowest bits.
const WHOLE: f32 = (1 << 23) as f32;

/// What bytes of tables stand for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// What a step is worth.
    pub step: f32,
    /// What the zeros of all tables stand for together.
    pub base: f32,
}

/// Writes [`TABLE`] bytes for every four numbers of a query.
pub type Tables = fn(query: &[f32], out: &mut Vec<u8>) -> Scale;

const fn holds() -> [[f32; TABLE]; NUMBERS] {
    let mut holds = [[0.0; TABLE]; NUMBERS];
    let mut at = 0;
    while at < NUMBERS * TABLE {
        let (number, place) = (at / TABLE, at % TABLE);
        if place >> number & 1 == 1 {
            holds[number][place] = 1.0;
        }
        at += 1;
    }
    holds
}

/// The same steps for all instructions: the compiler makes the most of each.
#[inline(always)]
fn written(query: &[f32], out: &mut Vec<u8>) -> Scale {
    let fours = query.as_chunks::<NUMBERS>().0;
    let least = |it: &[f32; NUMBERS]| it.iter().map(|it| it.min(0.0)).sum::<f32>();
    let largest = |it: &[f32; NUMBERS]| it.iter().map(|it| it.max(0.0)).sum::<f32>();
    let range = fours.iter().map(|it| largest(it) - least(it)).fold(0.0f32, f32::max);
    let step = (range / 255.0).max(f32::MIN_POSITIVE);
    let per_step = 1.0 / step;
    let mut base = 0.0;
    out.clear();
    out.reserve(fours.len() * TABLE);
    for numbers in fours {
        let least = least(numbers);
        base += least;
        let mut sums = [-least; TABLE];
        for (number, holds) in numbers.iter().zip(&HOLDS) {
            for (sum, holds) in sums.iter_mut().zip(holds) {
                *sum += number * holds;
            }
        }
        // To the nearest.
        out.extend_from_slice(&sums.map(|sum| (sum * per_step + WHOLE).to_bits() as u8));
    }
    Scale { step, base }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
pub fn avx512(query: &[f32], out: &mut Vec<u8>) -> Scale {
    written(query, out)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub fn avx2(query: &[f32], out: &mut Vec<u8>) -> Scale {
    written(query, out)
}

pub fn plain(query: &[f32], out: &mut Vec<u8>) -> Scale {
    written(query, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_sums_to_half_a_step() {
        arbtest::arbtest(|u| {
            let count = u.int_in_range(1..=40)?;
            let power = 10f32.powi(u.int_in_range(-30i32..=10)?);
            let numbers =
                (0..count * NUMBERS).map(|_| Ok(power * f32::from(u.arbitrary::<i16>()?)));
            let query: Vec<f32> = numbers.collect::<arbtest::arbitrary::Result<_>>()?;
            let mut tables = vec![7];
            let scale = super::super::tables(&query, &mut tables);
            assert_eq!(tables.len(), count * TABLE);
            let mut base = 0.0;
            for (numbers, table) in query.chunks(NUMBERS).zip(tables.chunks(TABLE)) {
                let sum = |place: usize| {
                    let held = numbers.iter().enumerate().filter(|it| place >> it.0 & 1 == 1);
                    held.map(|it| f64::from(*it.1)).sum::<f64>()
                };
                let least = (0..TABLE).map(sum).fold(f64::INFINITY, f64::min);
                base += least;
                for (place, byte) in table.iter().enumerate() {
                    let steps = (sum(place) - least) / f64::from(scale.step);
                    assert!((steps - f64::from(*byte)).abs() < 0.5002, "{steps} {byte}");
                }
            }
            assert!((base - f64::from(scale.base)).abs() <= base.abs() * 1e-5);
            let mut others = Vec::new();
            assert_eq!((plain(&query, &mut others), &others), (scale, &tables));
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the feature was just found.
                let found = unsafe { avx2(&query, &mut others) };
                assert_eq!((found, &others), (scale, &tables));
            }
            Ok(())
        });
    }
}
