//! Dot products of a query with many vectors, four at a time: each number of the query is loaded once for all.

use std::iter::Sum;
use std::ops::AddAssign;

/// The product with each of the vectors, which lie one after another and have as many numbers as the query.
pub type Products = fn(query: &[f32], vectors: &[f32], out: &mut Vec<f32>);

const LANES: usize = 8;
const VECTORS: usize = 4;
/// Sums of each vector under way, as one waits for the one before.
const SUMS: usize = 2;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub fn avx2(query: &[f32], vectors: &[f32], out: &mut Vec<f32>) {
    use std::arch::x86_64::*;
    const AT_ONCE: usize = SUMS * LANES;
    let dimension = query.len();
    let whole = dimension - dimension % AT_ONCE;
    out.clear();
    for four in vectors.chunks(VECTORS * dimension) {
        let count = four.len() / dimension;
        // Missing ones repeat the last.
        let rows: [&[f32]; VECTORS] =
            std::array::from_fn(|at| &four[at.min(count - 1) * dimension..][..dimension]);
        let mut sums = [[_mm256_setzero_ps(); SUMS]; VECTORS];
        for at in (0..whole).step_by(AT_ONCE) {
            for part in 0..SUMS {
                let at = at + part * LANES;
                // SAFETY: `at + LANES <= dimension`, which is how long each side is.
                let load = |it: &[f32]| unsafe { _mm256_loadu_ps(it.as_ptr().add(at)) };
                let numbers = load(query);
                for (row, sums) in rows.iter().zip(&mut sums) {
                    sums[part] = _mm256_fmadd_ps(numbers, load(row), sums[part]);
                }
            }
        }
        for (row, sums) in rows.iter().zip(sums).take(count) {
            let mut lanes = [0.0f32; LANES];
            // SAFETY: the array holds eight floats.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), _mm256_add_ps(sums[0], sums[1])) };
            out.push(lanes.iter().sum::<f32>() + dot(&query[whole..], &row[whole..]));
        }
    }
}

/// The same with sixteen lanes, and twice as many vectors: a sum of each is under way for each of the eight steps
/// that two units take.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
pub fn avx512(query: &[f32], vectors: &[f32], out: &mut Vec<f32>) {
    use std::arch::x86_64::*;
    const LANES: usize = 16;
    const VECTORS: usize = 8;
    let dimension = query.len();
    out.clear();
    for eight in vectors.chunks(VECTORS * dimension) {
        let count = eight.len() / dimension;
        // Missing ones repeat the last.
        let rows: [&[f32]; VECTORS] =
            std::array::from_fn(|at| &eight[at.min(count - 1) * dimension..][..dimension]);
        let mut sums = [_mm512_setzero_ps(); VECTORS];
        for at in (0..dimension).step_by(LANES) {
            let left = u32::MAX >> (32 - LANES.min(dimension - at));
            // SAFETY: no more is read than is left of either side, which are as long as each other.
            let load = |it: &[f32]| unsafe {
                _mm512_maskz_loadu_ps(left as __mmask16, it.as_ptr().add(at))
            };
            let numbers = load(query);
            for (row, sum) in rows.iter().zip(&mut sums) {
                *sum = _mm512_fmadd_ps(numbers, load(row), *sum);
            }
        }
        out.extend(sums.into_iter().take(count).map(|it| _mm512_reduce_add_ps(it)));
    }
}

/// The twin of the other two.
pub fn plain(query: &[f32], vectors: &[f32], out: &mut Vec<f32>) {
    out.clear();
    out.extend(vectors.chunks_exact(query.len()).map(|it| dot(query, it)));
}

#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    summed(a, b, |a, b| a * b)
}

/// The sum of what comes of each pair, in as many lanes as vector registers have.
#[inline(always)]
pub fn summed<T: Copy + Default + AddAssign + Sum>(
    a: &[f32],
    b: &[f32],
    of: impl Fn(f32, f32) -> T,
) -> T {
    let mut sums = [T::default(); LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += of(a[lane], b[lane]);
        }
    }
    let mut sum: T = sums.into_iter().sum();
    sum += a_rest.iter().zip(b_rest).map(|(a, b)| of(*a, *b)).sum();
    sum
}

#[cfg(test)]
mod tests {
    #[test]
    fn products_are_those_of_the_three_line_twin() {
        arbtest::arbtest(|u| {
            let dimension = u.int_in_range(1..=40)?;
            let mut vectors = |count: usize| -> arbtest::arbitrary::Result<Vec<f32>> {
                (0..dimension * count).map(|_| Ok(f32::from(u.int_in_range(-9i8..=9)?))).collect()
            };
            let (query, nine) = (vectors(1)?, vectors(9)?);
            let vectors = &nine[..dimension * u.int_in_range(0..=9)?];
            let mut expected = Vec::new();
            for vector in vectors.chunks(dimension) {
                expected.push(query.iter().zip(vector).map(|(a, b)| a * b).sum::<f32>());
            }
            // Whole numbers, so that sums are the same in any order.
            let mut found = Vec::new();
            super::super::products(&query, vectors, &mut found);
            assert_eq!(found, expected);
            super::plain(&query, vectors, &mut found);
            assert_eq!(found, expected);
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the features were just found.
                unsafe { super::avx2(&query, vectors, &mut found) };
                assert_eq!(found, expected);
            }
            Ok(())
        });
    }
}
