//! Dot products of many vectors with many: four rows by two centres at a time, so that each
//! number that is loaded is used often.

pub type Products = fn(rows: &[f32], centres: &[f32], dimension: usize, out: &mut Vec<f32>);

const ROWS: usize = 4;
const CENTRES: usize = 2;
const LANES: usize = 8;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub fn avx2(rows: &[f32], centres: &[f32], dimension: usize, out: &mut Vec<f32>) {
    use std::arch::x86_64::*;
    let whole = dimension - dimension % LANES;
    blocked(rows, centres, dimension, out, |rows, centres| {
        let mut sums = [[_mm256_setzero_ps(); CENTRES]; ROWS];
        for at in (0..whole).step_by(LANES) {
            // SAFETY: `at + LANES <= dimension`, which is how long each side is.
            let load = |it: &[f32]| unsafe { _mm256_loadu_ps(it.as_ptr().add(at)) };
            let centres = [load(centres[0]), load(centres[1])];
            for row in 0..ROWS {
                let numbers = load(rows[row]);
                sums[row][0] = _mm256_fmadd_ps(numbers, centres[0], sums[row][0]);
                sums[row][1] = _mm256_fmadd_ps(numbers, centres[1], sums[row][1]);
            }
        }
        let mut block = [[0.0; CENTRES]; ROWS];
        for (row, sums) in sums.into_iter().enumerate() {
            for (centre, sum) in sums.into_iter().enumerate() {
                let mut lanes = [0.0f32; LANES];
                // SAFETY: the array holds eight floats.
                unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
                let rest = dot(&rows[row][whole..], &centres[centre][whole..]);
                block[row][centre] = lanes.iter().sum::<f32>() + rest;
            }
        }
        block
    });
}

/// The twin of the other.
pub fn plain(rows: &[f32], centres: &[f32], dimension: usize, out: &mut Vec<f32>) {
    blocked(rows, centres, dimension, out, |rows, centres| {
        rows.map(|row| centres.map(|centre| dot(row, centre)))
    });
}

pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

#[inline(always)]
fn blocked(
    rows: &[f32],
    centres: &[f32],
    dimension: usize,
    out: &mut Vec<f32>,
    block: impl Fn([&[f32]; ROWS], [&[f32]; CENTRES]) -> [[f32; CENTRES]; ROWS],
) {
    let (count, width) = (rows.len() / dimension, centres.len() / dimension);
    out.clear();
    out.resize(count * width, 0.0);
    let row = |at: usize| &rows[at * dimension..(at + 1) * dimension];
    let centre = |at: usize| &centres[at * dimension..(at + 1) * dimension];
    for first in (0..count).step_by(ROWS) {
        // The last block's missing rows repeat the last one.
        let those: [&[f32]; ROWS] = std::array::from_fn(|at| row((first + at).min(count - 1)));
        for left in (0..width).step_by(CENTRES) {
            let these: [&[f32]; CENTRES] =
                std::array::from_fn(|at| centre((left + at).min(width - 1)));
            for (at, sums) in block(those, these).iter().enumerate().take(count - first) {
                for (to, sum) in sums.iter().enumerate().take(width - left) {
                    out[(first + at) * width + left + to] = *sum;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn products_are_those_of_the_three_line_twin() {
        arbtest::arbtest(|u| {
            let dimension = u.int_in_range(1..=40)?;
            let mut vectors = |most| -> arbtest::arbitrary::Result<Vec<f32>> {
                let numbers = dimension * u.int_in_range(0..=most)?;
                (0..numbers).map(|_| Ok(f32::from(u.int_in_range(-9i8..=9)?))).collect()
            };
            let (rows, centres) = (vectors(9)?, vectors(5)?);
            let mut expected = Vec::new();
            for row in rows.chunks(dimension) {
                for centre in centres.chunks(dimension) {
                    expected.push(row.iter().zip(centre).map(|(a, b)| a * b).sum::<f32>());
                }
            }
            // Whole numbers, so that sums are the same in any order.
            let mut found = Vec::new();
            super::super::products(&rows, &centres, dimension, &mut found);
            assert_eq!(found, expected);
            super::plain(&rows, &centres, dimension, &mut found);
            assert_eq!(found, expected);
            Ok(())
        });
    }
}
