//! How far rows are from many vectors, by products of bytes: about, in a seventh of the time that floats take.

use super::panels::{ROWS, WIDTH};

/// Numbers that are multiplied and added up by one instruction.
pub const FOUR: usize = 4;
/// What is added to a vector's bytes, as one side of a product has no sign.
pub const MOVED: u8 = 128;

/// Some rows as bytes.
pub struct ByteRows<const N: usize> {
    /// Four numbers of each.
    pub fours: Vec<[[i8; FOUR]; N]>,
    /// The sums of their bytes.
    pub sums: [i32; N],
    /// What a byte stands for, twice.
    pub steps: [f32; N],
}

impl<const N: usize> ByteRows<N> {
    /// All zeros.
    pub fn new(dimension: usize) -> ByteRows<N> {
        let fours = vec![[[0; FOUR]; N]; dimension.div_ceil(FOUR)];
        ByteRows { fours, sums: [0; N], steps: [0.0; N] }
    }
}

/// Sixteen vectors after the other as bytes; those that there are not are endlessly far.
pub struct BytePanels {
    /// Four numbers of each, with [`MOVED`] added; as many fours a panel as rows have.
    pub fours: Vec<[[u8; FOUR]; WIDTH]>,
    /// What a byte stands for.
    pub steps: Vec<[f32; WIDTH]>,
    /// The squares of their lengths.
    pub squares: Vec<[f32; WIDTH]>,
}

/// Writes of each vector of each panel how far it is from each row, but for the square of the row; the least for each row.
pub type Far<const N: usize> =
    fn(rows: &ByteRows<N>, panels: &BytePanels, far: &mut [[[f32; WIDTH]; N]]) -> [f32; N];

/// These for many rows, and for one.
#[derive(Clone, Copy)]
pub struct Fars {
    pub many: Far<ROWS>,
    pub one: Far<1>,
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub fn avx512<const N: usize>(
    rows: &ByteRows<N>,
    panels: &BytePanels,
    far: &mut [[[f32; WIDTH]; N]],
) -> [f32; N] {
    use std::arch::x86_64::*;
    let mut least = [_mm512_set1_ps(f32::INFINITY); N];
    let fours = panels.fours.chunks_exact(rows.fours.len());
    let panels = fours.zip(&panels.steps).zip(&panels.squares);
    for (((fours, steps), squares), far) in panels.zip(far) {
        let mut sums = rows.sums.map(|it| _mm512_set1_epi32(-i32::from(MOVED) * it));
        for (rows, vectors) in rows.fours.iter().zip(fours) {
            // SAFETY: the array holds 64 bytes.
            let vectors = unsafe { _mm512_loadu_si512(vectors.as_ptr().cast()) };
            for (row, sum) in rows.iter().zip(&mut sums) {
                let four = _mm512_set1_epi32(i32::from_le_bytes(row.map(i8::cast_unsigned)));
                *sum = _mm512_dpbusd_epi32(*sum, vectors, four);
            }
        }
        // SAFETY: the arrays hold sixteen floats.
        let (steps, squares) =
            unsafe { (_mm512_loadu_ps(steps.as_ptr()), _mm512_loadu_ps(squares.as_ptr())) };
        for row in 0..N {
            let near = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[row]), steps);
            let it = _mm512_fnmadd_ps(_mm512_set1_ps(rows.steps[row]), near, squares);
            least[row] = _mm512_min_ps(it, least[row]);
            // SAFETY: the array holds sixteen floats.
            unsafe { _mm512_storeu_ps(far[row].as_mut_ptr(), it) };
        }
    }
    least.map(|it| _mm512_reduce_min_ps(it))
}

/// The same by some rows and halves of a panel at a time, as these registers have room for.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avxvnni")]
pub fn avx_vnni<const N: usize>(
    rows: &ByteRows<N>,
    panels: &BytePanels,
    far: &mut [[[f32; WIDTH]; N]],
) -> [f32; N] {
    use std::arch::x86_64::*;
    const SOME: usize = 6;
    const LANES: usize = WIDTH / 2;
    let mut least = [[f32::INFINITY; WIDTH]; N];
    let fours = panels.fours.chunks_exact(rows.fours.len());
    let panels = fours.zip(&panels.steps).zip(&panels.squares);
    for (((fours, steps), squares), far) in panels.zip(far) {
        for first in (0..N).step_by(SOME) {
            let some = SOME.min(N - first);
            let mut sums = [[_mm256_setzero_si256(); 2]; SOME];
            for (sums, sum) in sums.iter_mut().zip(&rows.sums[first..]) {
                *sums = [_mm256_set1_epi32(-i32::from(MOVED) * sum); 2];
            }
            for (rows, vectors) in rows.fours.iter().zip(fours) {
                let vectors: *const __m256i = vectors.as_ptr().cast();
                // SAFETY: the array holds twice 32 bytes.
                let vectors =
                    unsafe { [_mm256_loadu_si256(vectors), _mm256_loadu_si256(vectors.add(1))] };
                for (row, sums) in rows[first..first + some].iter().zip(&mut sums) {
                    let four = _mm256_set1_epi32(i32::from_le_bytes(row.map(i8::cast_unsigned)));
                    sums[0] = _mm256_dpbusd_avx_epi32(sums[0], vectors[0], four);
                    sums[1] = _mm256_dpbusd_avx_epi32(sums[1], vectors[1], four);
                }
            }
            for (row, sums) in (first..N).zip(sums) {
                for (side, sum) in sums.into_iter().enumerate() {
                    let lanes = side * LANES..(side + 1) * LANES;
                    let (least, far) =
                        (&mut least[row][lanes.clone()], &mut far[row][lanes.clone()]);
                    let (steps, squares) = (&steps[lanes.clone()], &squares[lanes]);
                    // SAFETY: each slice has eight floats.
                    unsafe {
                        let steps = _mm256_loadu_ps(steps.as_ptr());
                        let near = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), steps);
                        let squares = _mm256_loadu_ps(squares.as_ptr());
                        let it = _mm256_fnmadd_ps(_mm256_set1_ps(rows.steps[row]), near, squares);
                        _mm256_storeu_ps(far.as_mut_ptr(), it);
                        let before = _mm256_loadu_ps(least.as_ptr());
                        _mm256_storeu_ps(least.as_mut_ptr(), _mm256_min_ps(it, before));
                    }
                }
            }
        }
    }
    least.map(|it| it.into_iter().fold(f32::INFINITY, f32::min))
}

/// The twin of the other two.
#[cfg(test)]
pub fn plain<const N: usize>(
    rows: &ByteRows<N>,
    panels: &BytePanels,
    far: &mut [[[f32; WIDTH]; N]],
) -> [f32; N] {
    let mut least = [f32::INFINITY; N];
    let fours = rows.fours.len();
    for (panel, far) in far.iter_mut().enumerate() {
        for row in 0..N {
            for lane in 0..WIDTH {
                let vector = panels.fours[panel * fours..].iter().map(|it| it[lane]);
                let pairs = rows.fours.iter().map(|it| it[row]).zip(vector);
                let products = pairs.flat_map(|(a, b)| {
                    (0..FOUR)
                        .map(move |at| i32::from(a[at]) * (i32::from(b[at]) - i32::from(MOVED)))
                });
                let near = products.sum::<i32>() as f32 * panels.steps[panel][lane];
                far[row][lane] = (-rows.steps[row]).mul_add(near, panels.squares[panel][lane]);
                least[row] = least[row].min(far[row][lane]);
            }
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    type Random<'a, 'b> = &'a mut arbtest::arbitrary::Unstructured<'b>;

    fn are_those_of_the_twin<const N: usize>(
        u: Random<'_, '_>,
        kernels: &[Far<N>],
    ) -> arbtest::arbitrary::Result<()> {
        let (fours, count) = (u.int_in_range(1..=5)?, u.int_in_range(1..=3)?);
        let mut rows = ByteRows::<N>::new(FOUR * fours);
        for fours in &mut rows.fours {
            for (row, four) in fours.iter_mut().enumerate() {
                *four = u.arbitrary()?;
                rows.sums[row] += four.iter().map(|it| i32::from(*it)).sum::<i32>();
                rows.steps[row] = f32::from(u.int_in_range(0u8..=9)?);
            }
        }
        let of = |u: Random<'_, '_>| {
            let mut panel = [0.0; WIDTH];
            for it in &mut panel {
                *it = f32::from(u.int_in_range(0u8..=100)?) / 8.0;
            }
            Ok(panel)
        };
        let (mut of_steps, mut of_squares) = (Vec::new(), Vec::new());
        let mut of_fours = Vec::new();
        for _ in 0..count {
            for _ in 0..fours {
                let mut four = [[0; FOUR]; WIDTH];
                for it in &mut four {
                    *it = u.arbitrary()?;
                }
                of_fours.push(four);
            }
            of_steps.push(of(u)?);
            of_squares.push(of(u)?);
        }
        let panels = BytePanels { fours: of_fours, steps: of_steps, squares: of_squares };
        let mut expected = vec![[[0.0; WIDTH]; N]; count];
        let least = plain(&rows, &panels, &mut expected);
        for (row, least) in least.into_iter().enumerate() {
            assert!(expected.iter().any(|it| it[row].contains(&least)));
        }
        for kernel in kernels {
            let mut found = vec![[[0.0; WIDTH]; N]; count];
            assert_eq!(kernel(&rows, &panels, &mut found), least);
            assert_eq!(found, expected);
        }
        Ok(())
    }

    #[test]
    fn distances_are_those_of_the_twin() {
        let (mut many, mut one): (Vec<Far<ROWS>>, Vec<Far<1>>) = (Vec::new(), Vec::new());
        if let Some(fars) = super::super::bytes() {
            many.push(fars.many);
            one.push(fars.one);
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avxvnni") {
            // SAFETY: the feature was just found, and no machine has it without AVX2 and FMA.
            many.push(|rows, panels, far| unsafe { avx_vnni(rows, panels, far) });
            // SAFETY: the same.
            one.push(|rows, panels, far| unsafe { avx_vnni(rows, panels, far) });
        }
        arbtest::arbtest(|u| {
            are_those_of_the_twin(u, &many)?;
            are_those_of_the_twin(u, &one)
        });
    }
}
