//! Dot products of rows with sixteen vectors at a time, and the nearest of many vectors: numbers of sixteen lie side by
//! side, so that sums end in lanes of their own and nothing has to be added across.

/// Vectors of a panel.
pub const WIDTH: usize = 16;
/// Rows that are multiplied at a time: their sums, and what they are made of, fill half of the registers of AVX-512.
/// AVX2, where a sum takes two of its own, has room for half of the rows.
pub const ROWS: usize = 12;

/// The products of each row with each vector of a panel; rows have as many numbers as the panel's vectors.
pub type Panel = fn(rows: &[&[f32]; ROWS], panel: &[[f32; WIDTH]]) -> [[f32; WIDTH]; ROWS];

/// For each row the vector of some panels for which `squares` less twice the product is the least, the first of such,
/// and how much that is. There is an array of squares for each panel.
pub type Least = fn(
    rows: &[&[f32]; ROWS],
    panels: &[[f32; WIDTH]],
    squares: &[[f32; WIDTH]],
) -> [(u32, f32); ROWS];

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
mod x86 {
    use super::{ROWS, WIDTH, first_of_least};
    use std::arch::x86_64::*;

    const LANES: usize = WIDTH / 2;
    const HALF: usize = ROWS / 2;

    /// A panel's sums with half of the rows.
    #[target_feature(enable = "avx2,fma")]
    fn half(rows: &[&[f32]], panel: &[[f32; WIDTH]]) -> [[__m256; 2]; HALF] {
        let rows: [&[f32]; HALF] = std::array::from_fn(|at| &rows[at][..panel.len()]);
        let mut sums = [[_mm256_setzero_ps(); 2]; HALF];
        for (at, numbers) in panel.iter().enumerate() {
            let [left, right] = load(numbers);
            for (row, sums) in rows.iter().zip(&mut sums) {
                // SAFETY: every row was cut to the panel's length.
                let number = _mm256_set1_ps(unsafe { *row.get_unchecked(at) });
                sums[0] = _mm256_fmadd_ps(number, left, sums[0]);
                sums[1] = _mm256_fmadd_ps(number, right, sums[1]);
            }
        }
        sums
    }

    #[target_feature(enable = "avx2")]
    fn load(numbers: &[f32; WIDTH]) -> [__m256; 2] {
        // SAFETY: the array holds twice eight floats.
        unsafe { [_mm256_loadu_ps(numbers.as_ptr()), _mm256_loadu_ps(numbers.as_ptr().add(LANES))] }
    }

    #[target_feature(enable = "avx2")]
    fn stored(both: [__m256; 2]) -> [f32; WIDTH] {
        let mut numbers = [0.0; WIDTH];
        // SAFETY: the array holds twice eight floats.
        unsafe {
            _mm256_storeu_ps(numbers.as_mut_ptr(), both[0]);
            _mm256_storeu_ps(numbers.as_mut_ptr().add(LANES), both[1]);
        }
        numbers
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn panel_avx2(rows: &[&[f32]; ROWS], panel: &[[f32; WIDTH]]) -> [[f32; WIDTH]; ROWS] {
        let mut products = [[0.0; WIDTH]; ROWS];
        for (rows, products) in rows.chunks_exact(HALF).zip(products.chunks_exact_mut(HALF)) {
            for (products, sums) in products.iter_mut().zip(half(rows, panel)) {
                *products = stored(sums);
            }
        }
        products
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn least_avx2(
        rows: &[&[f32]; ROWS],
        panels: &[[f32; WIDTH]],
        squares: &[[f32; WIDTH]],
    ) -> [(u32, f32); ROWS] {
        let mut found = [(0, f32::INFINITY); ROWS];
        let dimension = panels.len() / squares.len().max(1);
        for (rows, found) in rows.chunks_exact(HALF).zip(found.chunks_exact_mut(HALF)) {
            let mut best = [[_mm256_set1_ps(f32::INFINITY); 2]; HALF];
            let mut those = [[_mm256_setzero_ps(); 2]; HALF];
            for (at, squares) in squares.iter().enumerate() {
                let sums = half(rows, &panels[at * dimension..(at + 1) * dimension]);
                let this = _mm256_castsi256_ps(_mm256_set1_epi32(at as i32));
                let squares = load(squares);
                for ((sums, best), those) in sums.iter().zip(&mut best).zip(&mut those) {
                    for side in 0..2 {
                        let far = _mm256_fnmadd_ps(_mm256_set1_ps(2.0), sums[side], squares[side]);
                        let nearer = _mm256_cmp_ps::<_CMP_LT_OQ>(far, best[side]);
                        best[side] = _mm256_blendv_ps(best[side], far, nearer);
                        those[side] = _mm256_blendv_ps(those[side], this, nearer);
                    }
                }
            }
            for ((found, best), those) in found.iter_mut().zip(best).zip(those) {
                *found = first_of_least(stored(those).map(f32::to_bits), stored(best));
            }
        }
        found
    }

    /// A panel's sums with all of the rows.
    #[target_feature(enable = "avx512f")]
    fn all(rows: &[&[f32]; ROWS], panel: &[[f32; WIDTH]]) -> [__m512; ROWS] {
        let rows = rows.map(|it| &it[..panel.len()]);
        let mut sums = [_mm512_setzero_ps(); ROWS];
        for (at, numbers) in panel.iter().enumerate() {
            // SAFETY: the array holds sixteen floats.
            let numbers = unsafe { _mm512_loadu_ps(numbers.as_ptr()) };
            for (row, sum) in rows.iter().zip(&mut sums) {
                // SAFETY: every row was cut to the panel's length.
                let number = _mm512_set1_ps(unsafe { *row.get_unchecked(at) });
                *sum = _mm512_fmadd_ps(number, numbers, *sum);
            }
        }
        sums
    }

    #[target_feature(enable = "avx512f")]
    pub fn panel_avx512(rows: &[&[f32]; ROWS], panel: &[[f32; WIDTH]]) -> [[f32; WIDTH]; ROWS] {
        let mut products = [[0.0; WIDTH]; ROWS];
        for (products, sum) in products.iter_mut().zip(all(rows, panel)) {
            // SAFETY: the array holds sixteen floats.
            unsafe { _mm512_storeu_ps(products.as_mut_ptr(), sum) };
        }
        products
    }

    #[target_feature(enable = "avx512f")]
    pub fn least_avx512(
        rows: &[&[f32]; ROWS],
        panels: &[[f32; WIDTH]],
        squares: &[[f32; WIDTH]],
    ) -> [(u32, f32); ROWS] {
        let dimension = panels.len() / squares.len().max(1);
        let mut best = [_mm512_set1_ps(f32::INFINITY); ROWS];
        let mut those = [_mm512_setzero_si512(); ROWS];
        for (at, squares) in squares.iter().enumerate() {
            let sums = all(rows, &panels[at * dimension..(at + 1) * dimension]);
            let this = _mm512_set1_epi32(at as i32);
            // SAFETY: the array holds sixteen floats.
            let squares = unsafe { _mm512_loadu_ps(squares.as_ptr()) };
            for ((sum, best), those) in sums.into_iter().zip(&mut best).zip(&mut those) {
                let far = _mm512_fnmadd_ps(_mm512_set1_ps(2.0), sum, squares);
                let nearer = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(far, *best);
                *best = _mm512_mask_mov_ps(*best, nearer, far);
                *those = _mm512_mask_mov_epi32(*those, nearer, this);
            }
        }
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let mut found = [(0, 0.0); ROWS];
        for ((found, best), those) in found.iter_mut().zip(best).zip(those) {
            let least = _mm512_reduce_min_ps(best);
            let are = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(best, _mm512_set1_ps(least));
            let vectors = _mm512_add_epi32(_mm512_slli_epi32::<4>(those), lanes);
            *found = (_mm512_mask_reduce_min_epu32(are, vectors), least);
        }
        found
    }
}
#[cfg(target_arch = "x86_64")]
pub use x86::{least_avx2, least_avx512, panel_avx2, panel_avx512};

/// Of each lane's panel, and how much its least is, the first vector of the least.
#[inline]
fn first_of_least(mut panels: [u32; WIDTH], least: [f32; WIDTH]) -> (u32, f32) {
    // By halves, each of which takes a few instructions.
    let mut all = least;
    halved(&mut all, |a, b| if b < a { b } else { a });
    for lane in 0..WIDTH {
        let vector = panels[lane] * WIDTH as u32 + lane as u32;
        panels[lane] = if least[lane] == all[0] { vector } else { u32::MAX };
    }
    halved(&mut panels, u32::min);
    (panels[0], all[0])
}

/// Brings what two of all lanes come to into the first one.
#[inline]
fn halved<T: Copy>(lanes: &mut [T; WIDTH], of: impl Fn(T, T) -> T) {
    let mut half = WIDTH / 2;
    while 0 < half {
        let (left, right) = lanes.split_at_mut(half);
        left.iter_mut().zip(right).for_each(|(a, b)| *a = of(*a, *b));
        half /= 2;
    }
}

/// The twin of the other two.
pub fn panel_plain(rows: &[&[f32]; ROWS], panel: &[[f32; WIDTH]]) -> [[f32; WIDTH]; ROWS] {
    rows.map(|row| {
        let mut sums = [0.0; WIDTH];
        for (number, numbers) in row.iter().zip(panel) {
            sums.iter_mut().zip(numbers).for_each(|(sum, it)| *sum += number * it);
        }
        sums
    })
}

/// The twin of the other two.
pub fn least_plain(
    rows: &[&[f32]; ROWS],
    panels: &[[f32; WIDTH]],
    squares: &[[f32; WIDTH]],
) -> [(u32, f32); ROWS] {
    let dimension = panels.len() / squares.len().max(1);
    let mut lanes = [([0; WIDTH], [f32::INFINITY; WIDTH]); ROWS];
    for (at, squares) in squares.iter().enumerate() {
        let products = panel_plain(rows, &panels[at * dimension..(at + 1) * dimension]);
        for ((those, best), products) in lanes.iter_mut().zip(products) {
            for lane in 0..WIDTH {
                let far = squares[lane] - 2.0 * products[lane];
                those[lane] = if far < best[lane] { at as u32 } else { those[lane] };
                best[lane] = best[lane].min(far);
            }
        }
    }
    lanes.map(|(those, best)| first_of_least(those, best))
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
                assert_eq!(found, panel_plain(&rows, panel));
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the features were just found.
                    assert_eq!(found, unsafe { panel_avx2(&rows, panel) });
                }
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

    #[test]
    fn the_least_is_the_first_one_of_the_three_line_twin() {
        arbtest::arbtest(|u| {
            let (dimension, count) = (u.int_in_range(1..=9)?, u.int_in_range(1..=50)?);
            let mut vectors = |count: usize| -> arbtest::arbitrary::Result<Vec<f32>> {
                (0..dimension * count).map(|_| Ok(f32::from(u.int_in_range(-3i8..=3)?))).collect()
            };
            let (rows, others) = (vectors(ROWS)?, vectors(count)?);
            let rows: [&[f32]; ROWS] =
                std::array::from_fn(|at| &rows[at * dimension..(at + 1) * dimension]);
            let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let mut squares = vec![[f32::INFINITY; WIDTH]; count.div_ceil(WIDTH)];
            for (at, other) in others.chunks(dimension).enumerate() {
                squares[at / WIDTH][at % WIDTH] = product(other, other);
            }
            let panels = panels(&others, dimension);
            let found = super::super::least(&rows, &panels, &squares);
            assert_eq!(found, least_plain(&rows, &panels, &squares));
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the features were just found.
                assert_eq!(found, unsafe { least_avx2(&rows, &panels, &squares) });
            }
            for (row, found) in rows.iter().zip(found) {
                let far = |it: &[f32]| product(it, it) - 2.0 * product(row, it);
                let all: Vec<f32> = others.chunks(dimension).map(far).collect();
                let least = all.iter().copied().fold(f32::INFINITY, f32::min);
                assert_eq!(
                    (all.iter().position(|it| *it == least), least),
                    (Some(found.0 as usize), found.1)
                );
            }
            Ok(())
        });
    }

    #[test]
    fn what_is_no_number_hides_nothing() {
        let row = [1.0];
        let panels = vec![[0.0; WIDTH]; 3];
        for at in 0..3 * WIDTH {
            let mut squares = [[f32::NAN; WIDTH]; 3];
            squares[at / WIDTH][at % WIDTH] = 3.0;
            let found = super::super::least(&[&row[..]; ROWS], &panels, &squares);
            assert_eq!(found, [(at as u32, 3.0); ROWS]);
            assert_eq!(found, least_plain(&[&row[..]; ROWS], &panels, &squares));
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the features were just found.
                assert_eq!(found, unsafe { least_avx2(&[&row[..]; ROWS], &panels, &squares) });
            }
        }
    }
}
