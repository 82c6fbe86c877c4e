//! Dot products of many vectors with many: four rows by two centres at a time, so that each
//! number that is loaded is used often.

pub type Products = fn(rows: &[f32], centres: &[f32], dimension: usize, out: &mut Vec<f32>);

const ROWS: usize = 4;
const CENTRES: usize = 2;
const LANES: usize = 8;

/// The twin of the other.
pub fn plain(rows: &[f32], centres: &[f32], dimension: usize, out: &mut Vec<f32>) {
    blocked::<false>(rows, centres, dimension, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub fn avx2(rows: &[f32], centres: &[f32], dimension: usize, out: &mut Vec<f32>) {
    blocked::<true>(rows, centres, dimension, out);
}

/// `FUSED` multiplies and adds in one instruction, which only some machines have.
#[inline(always)]
fn blocked<const FUSED: bool>(rows: &[f32], centres: &[f32], dimension: usize, out: &mut Vec<f32>) {
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
            let block = block::<FUSED>(those, these);
            for (at, sums) in block.iter().enumerate().take(count - first) {
                for (to, sum) in sums.iter().enumerate().take(width - left) {
                    out[(first + at) * width + left + to] = *sum;
                }
            }
        }
    }
}

#[inline(always)]
fn block<const FUSED: bool>(
    rows: [&[f32]; ROWS],
    centres: [&[f32]; CENTRES],
) -> [[f32; CENTRES]; ROWS] {
    let mut sums = [[[0.0f32; LANES]; CENTRES]; ROWS];
    let rows = rows.map(|it| it.as_chunks::<LANES>());
    let centres = centres.map(|it| it.as_chunks::<LANES>());
    for at in 0..rows[0].0.len() {
        for (row, sums) in rows.iter().zip(&mut sums) {
            for (centre, sums) in centres.iter().zip(sums) {
                for lane in 0..LANES {
                    let (a, b) = (row.0[at][lane], centre.0[at][lane]);
                    sums[lane] = if FUSED { a.mul_add(b, sums[lane]) } else { a * b + sums[lane] };
                }
            }
        }
    }
    std::array::from_fn(|row| {
        std::array::from_fn(|centre| {
            let rest: f32 = rows[row].1.iter().zip(centres[centre].1).map(|(a, b)| a * b).sum();
            sums[row][centre].iter().sum::<f32>() + rest
        })
    })
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
