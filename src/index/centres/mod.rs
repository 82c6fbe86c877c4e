//! The nearest of some centres, for many rows at a time.

mod groups;
mod rough;

use std::collections::BTreeSet;

use self::groups::Groups;
pub use self::rough::Bytes;
use self::rough::Rough;
use crate::error::Result;
use crate::kernel;

/// Centres up to which every row is compared with each of them in floats.
const FEW: usize = 128;

/// Centres, ready to find the nearest of many rows.
pub enum Centres {
    /// Compared in floats.
    Whole(Groups),
    /// Compared in bytes first.
    Roughly(Rough),
}

impl Centres {
    /// For so many rows, and centres of this dimension laid end to end.
    pub fn for_rows(rows: usize, centres: &[f32], dimension: usize) -> Result<Centres> {
        let count = centres.len() / dimension;
        if count <= FEW || rows < count {
            // Making ready would take longer.
            return Ok(Centres::Whole(Groups::one(centres, dimension)));
        }
        Ok(match kernel::bytes() {
            Some(products) => Centres::Roughly(Rough::new(products, centres, dimension)),
            None => Centres::Whole(Groups::many(centres, dimension)?),
        })
    }

    /// Which centre is the nearest of each row, or about the nearest, and the square of how far it is.
    pub fn nearest(&self, rows: &[f32]) -> Vec<(usize, f32)> {
        match self {
            Centres::Whole(groups) => groups.nearest(rows),
            Centres::Roughly(rough) => rough.nearest(rows),
        }
    }
}

/// [`Centres::nearest`], for rows that are compared with these centres once.
pub fn assigned(rows: &[f32], centres: &[f32], dimension: usize) -> Result<Vec<(usize, f32)>> {
    Ok(Centres::for_rows(rows.len() / dimension, centres, dimension)?.nearest(rows))
}

/// The nearest to one of these centres that are none of some of them, the nearest first.
pub fn beside(
    centres: &[f32],
    dimension: usize,
    at: usize,
    but: &BTreeSet<usize>,
    most: usize,
) -> Vec<usize> {
    let (mut products, own) = (Vec::new(), &centres[at * dimension..(at + 1) * dimension]);
    kernel::products(own, centres, &mut products);
    let pairs = centres.chunks_exact(dimension).zip(products).enumerate();
    let others = pairs.filter(|it| it.0 != at && !but.contains(&it.0));
    let far = others.map(|(at, (centre, product))| (kernel::square(centre) - 2.0 * product, at));
    let mut far: Vec<(f32, usize)> = far.collect();
    far.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    far.into_iter().take(most).map(|it| it.1).collect()
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
            let found = assigned(&rows, &centres, dimension).unwrap();
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
}
