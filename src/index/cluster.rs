//! Groups of near vectors and their centres: Lloyd's k-means, on vectors laid end to end.

use super::kernel::{products, square};
use super::rotation::Random;

/// Rows whose products are held at a time.
const AT_ONCE: usize = 64;
/// After this many rounds centres hardly move.
const ROUNDS: usize = 8;

/// Which centre is the nearest of each row, and the square of how far it is.
pub fn assigned(rows: &[f32], centres: &[f32], dimension: usize) -> Vec<(usize, f32)> {
    let squares: Vec<f32> = centres.chunks_exact(dimension).map(square).collect();
    let mut found = Vec::with_capacity(rows.len() / dimension);
    let mut near = Vec::new();
    for rows in rows.chunks(AT_ONCE * dimension) {
        products(rows, centres, dimension, &mut near);
        for (row, near) in rows.chunks_exact(dimension).zip(near.chunks_exact(squares.len())) {
            let mut best = (0, f32::INFINITY);
            for (at, (near, square)) in near.iter().zip(&squares).enumerate() {
                let distance = square - 2.0 * near;
                if distance < best.1 {
                    best = (at, distance);
                }
            }
            found.push((best.0, (best.1 + square(row)).max(0.0)));
        }
    }
    found
}

/// `count` centres of the rows, or fewer where there are fewer rows; the same for the same rows.
pub fn centres(rows: &[f32], dimension: usize, count: usize) -> Vec<f32> {
    let total = rows.len() / dimension;
    let count = count.min(total);
    let mut random = Random::new(total as u64);
    // Rows spread evenly over all, so that no two are the same.
    let mut centres: Vec<f32> = (0..count)
        .flat_map(|at| {
            let (from, to) = (at * total / count, (at + 1) * total / count);
            let row = from + random.below(to - from);
            rows[row * dimension..(row + 1) * dimension].iter().copied()
        })
        .collect();
    for _ in 0..ROUNDS {
        let assigned = assigned(rows, &centres, dimension);
        let mut sums = vec![0.0f64; centres.len()];
        let mut members = vec![0usize; count];
        for (row, (centre, _)) in rows.chunks_exact(dimension).zip(&assigned) {
            members[*centre] += 1;
            let sums = &mut sums[centre * dimension..(centre + 1) * dimension];
            sums.iter_mut().zip(row).for_each(|(sum, it)| *sum += f64::from(*it));
        }
        for (at, centre) in centres.chunks_exact_mut(dimension).enumerate() {
            let sums = &sums[at * dimension..(at + 1) * dimension];
            // A centre without rows goes where one of them is.
            let row = &rows[random.below(total) * dimension..][..dimension];
            for ((number, sum), row) in centre.iter_mut().zip(sums).zip(row) {
                *number = match members[at] {
                    0 => *row,
                    members => (sum / members as f64) as f32,
                };
            }
        }
    }
    centres
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_centre_is_that_of_the_twin() {
        arbtest::arbtest(|u| {
            let dimension = u.int_in_range(1..=9)?;
            let mut vectors = |count| -> arbtest::arbitrary::Result<Vec<f32>> {
                (0..dimension * count).map(|_| Ok(f32::from(u.int_in_range(-9i8..=9)?))).collect()
            };
            let (rows, centres) = (vectors(70)?, vectors(5)?);
            let found = assigned(&rows, &centres, dimension);
            for (row, (centre, distance)) in rows.chunks(dimension).zip(found) {
                let to = |centre: &[f32]| -> f32 {
                    row.iter().zip(centre).map(|(a, b)| (a - b).powi(2)).sum()
                };
                let all: Vec<f32> = centres.chunks(dimension).map(to).collect();
                assert_eq!(all[centre], distance);
                assert!(all.iter().all(|it| distance <= *it));
            }
            Ok(())
        });
    }

    #[test]
    fn clusters_far_apart_are_found() {
        let mut random = Random::new(3);
        let rows: Vec<f32> = (0..600)
            .flat_map(|at| {
                let noise = random.below(100) as f32 / 100.0;
                [10.0 * (at % 3) as f32 + noise, 5.0 - noise]
            })
            .collect();
        let centres = centres(&rows, 2, 6);
        let far = assigned(&rows, &centres, 2).into_iter().fold(0.0f32, |far, it| far.max(it.1));
        assert!(far < 2.0, "{far}");
    }
}
