//! Dot products of rows with sixteen vectors at a time, whose numbers lie side by side, so that sums
//! end in lanes of their own and nothing has to be added across.

/// Vectors of a panel.
pub const WIDTH: usize = 16;
/// Rows that are multiplied at a time: with two sums of eight each, and what they are made of, they fill
/// the registers of AVX2.
pub const ROWS: usize = 6;

/// The products of each row with each vector of a panel; rows have as many numbers as the panel's vectors.
pub type Panel = fn(rows: &[&[f32]; ROWS], panel: &[[f32; WIDTH]]) -> [[f32; WIDTH]; ROWS];

/// Vectors laid end to end as panels, the last one filled up with zeros: first number of each, second of each.
pub fn panels(vectors: &[f32], dimension: usize) -> Vec<[f32; WIDTH]> {
    let mut panels = Vec::new();
    for vectors in vectors.chunks(WIDTH * dimension) {
        let from = panels.len();
        panels.resize(from + dimension, [0.0; WIDTH]);
        for (lane, vector) in vectors.chunks_exact(dimension).enumerate() {
            panels[from..].iter_mut().zip(vector).for_each(|(it, number)| it[lane] = *number);
        }
    }
    panels
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub fn avx2(rows: &[&[f32]; ROWS], panel: &[[f32; WIDTH]]) -> [[f32; WIDTH]; ROWS] {
    use std::arch::x86_64::*;
    const LANES: usize = 8;
    let rows = rows.map(|it| &it[..panel.len()]);
    let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
    for (at, numbers) in panel.iter().enumerate() {
        // SAFETY: the array holds twice eight floats.
        let (left, right) = unsafe {
            (_mm256_loadu_ps(numbers.as_ptr()), _mm256_loadu_ps(numbers.as_ptr().add(LANES)))
        };
        for (row, sums) in rows.iter().zip(&mut sums) {
            // SAFETY: every row was cut to the panel's length.
            let number = _mm256_set1_ps(unsafe { *row.get_unchecked(at) });
            sums[0] = _mm256_fmadd_ps(number, left, sums[0]);
            sums[1] = _mm256_fmadd_ps(number, right, sums[1]);
        }
    }
    let mut products = [[0.0; WIDTH]; ROWS];
    for (products, sums) in products.iter_mut().zip(sums) {
        // SAFETY: the array holds twice eight floats.
        unsafe {
            _mm256_storeu_ps(products.as_mut_ptr(), sums[0]);
            _mm256_storeu_ps(products.as_mut_ptr().add(LANES), sums[1]);
        }
    }
    products
}

/// The twin of the other.
pub fn plain(rows: &[&[f32]; ROWS], panel: &[[f32; WIDTH]]) -> [[f32; WIDTH]; ROWS] {
    rows.map(|row| {
        let mut sums = [0.0; WIDTH];
        for (number, numbers) in row.iter().zip(panel) {
            sums.iter_mut().zip(numbers).for_each(|(sum, it)| *sum += number * it);
        }
        sums
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_the_twin() {
        arbtest::arbtest(|u| {
            let dimension = u.int_in_range(1..=40)?;
            let mut vectors = |count: usize| -> arbtest::arbitrary::Result<Vec<f32>> {
                (0..dimension * count).map(|_| Ok(f32::from(u.int_in_range(-9i8..=9)?))).collect()
            };
            let (rows, others) = (vectors(ROWS)?, vectors(WIDTH + 3)?);
            let rows: [&[f32]; ROWS] =
                std::array::from_fn(|at| &rows[at * dimension..(at + 1) * dimension]);
            let panels = panels(&others, dimension);
            assert_eq!(panels.len(), 2 * dimension);
            for (at, panel) in panels.chunks(dimension).enumerate() {
                // Whole numbers, so that sums are the same in any order.
                let found = super::super::panel(&rows, panel);
                assert_eq!(found, plain(&rows, panel));
                for (row, found) in rows.iter().zip(found) {
                    for (lane, found) in found.into_iter().enumerate() {
                        let other = others.chunks(dimension).nth(at * WIDTH + lane);
                        let pairs = row.iter().zip(other.unwrap_or_default());
                        assert_eq!(found, pairs.map(|(a, b)| a * b).sum::<f32>());
                    }
                }
            }
            Ok(())
        });
    }
}
