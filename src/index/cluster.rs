//! Groups of near vectors and their centres: Lloyd's k-means, on vectors laid end to end.

use super::centres::Centres;
use super::crew::Crew;
use super::rotation::Random;
use crate::error::Result;

/// Rows that are compared with centres at a time.
const AT_ONCE: usize = 1024;
/// After this many rounds centres hardly move.
const ROUNDS: usize = 8;
/// A half with fewer than one in so many of the rows is none.
const UNEQUAL: usize = 32;

/// `count` centres of the rows, or fewer where there are fewer rows; the same for the same rows.
pub fn centres(rows: &[f32], dimension: usize, count: usize) -> Result<Vec<f32>> {
    Ok(clustered(&Crew::alone(), rows, dimension, count, &|| Ok(()))?.0)
}

/// [`centres`], and two for each that would have more than `most` rows; the same for any crew. The calling thread asks `go_on`
/// before each round.
pub fn halved_centres<'scope>(
    crew: &Crew<'scope, '_>,
    rows: &'scope [f32],
    dimension: usize,
    count: usize,
    most: usize,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<Vec<f32>> {
    let (centres, nearest) = clustered(crew, rows, dimension, count, go_on)?;
    let members = members(&nearest, centres.len() / dimension);
    let centres = centres.chunks_exact(dimension).map(<[f32]>::to_vec);
    let halved = crew.each(centres.zip(members).collect(), move |(centre, members)| {
        let mut halved = Vec::new();
        match members.len() <= most {
            true => halved.extend(centre),
            false => halve(&centre, &rows_of(rows, &members, dimension), most, &mut halved)?,
        }
        Ok(halved)
    })?;
    Ok(halved.into_iter().collect::<Result<Vec<_>>>()?.concat())
}

/// Adds the centre, or those of its rows' halves where they are more than `most`.
fn halve(centre: &[f32], rows: &[f32], most: usize, halved: &mut Vec<f32>) -> Result<()> {
    let dimension = centre.len();
    if most * dimension < rows.len() {
        let (centres, nearest) = clustered(&Crew::alone(), rows, dimension, 2, &|| Ok(()))?;
        let halves = members(&nearest, 2);
        let count = rows.len() / dimension;
        // Not all the same, nor a few apart from all others, which would go on row by row.
        if halves.iter().all(|it| count <= it.len() * UNEQUAL) {
            for (centre, half) in centres.chunks_exact(dimension).zip(&halves) {
                halve(centre, &rows_of(rows, half, dimension), most, halved)?;
            }
            return Ok(());
        }
    }
    halved.extend_from_slice(centre);
    Ok(())
}

/// Which rows each centre is the nearest of, in their order.
pub(super) fn members(nearest: &[usize], count: usize) -> Vec<Vec<usize>> {
    let mut members = vec![Vec::new(); count];
    nearest.iter().enumerate().for_each(|(row, centre)| members[*centre].push(row));
    members
}

pub(super) fn row_at(rows: &[f32], at: usize, dimension: usize) -> &[f32] {
    &rows[at * dimension..(at + 1) * dimension]
}

fn rows_of(rows: &[f32], those: &[usize], dimension: usize) -> Vec<f32> {
    let mut own = Vec::with_capacity(those.len() * dimension);
    those.iter().for_each(|at| own.extend_from_slice(row_at(rows, *at, dimension)));
    own
}

/// Centres, and which was the nearest of each row before they moved for the last time.
fn clustered<'scope>(
    crew: &Crew<'scope, '_>,
    rows: &'scope [f32],
    dimension: usize,
    count: usize,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<(Vec<f32>, Vec<usize>)> {
    let total = rows.len() / dimension;
    let count = count.min(total);
    let mut random = Random::new(total as u64);
    // Rows spread evenly over all, so that no two are the same.
    let mut centres: Vec<f32> = (0..count)
        .flat_map(|at| {
            let (from, to) = (at * total / count, (at + 1) * total / count);
            row_at(rows, from + random.below(to - from), dimension).iter().copied()
        })
        .collect();
    let mut nearest = Vec::new();
    for _ in 0..ROUNDS {
        go_on()?;
        nearest =
            nearest_of(crew, rows, dimension, Centres::for_rows(total, &centres, dimension)?)?;
        let means = means(crew, rows, dimension, members(&nearest, count))?;
        for (centre, mean) in centres.chunks_exact_mut(dimension).zip(means) {
            // A centre without rows goes where one of them is.
            let row = row_at(rows, random.below(total), dimension);
            centre.copy_from_slice(mean.as_deref().unwrap_or(row));
        }
    }
    Ok((centres, nearest))
}

/// The nearest centre of each row, by all of the crew.
fn nearest_of<'scope>(
    crew: &Crew<'scope, '_>,
    rows: &'scope [f32],
    dimension: usize,
    centres: Centres,
) -> Result<Vec<usize>> {
    let share = crew.share(rows.len() / dimension, AT_ONCE);
    let parts = rows.chunks(share * dimension).collect();
    let nearest = crew.each(parts, move |rows: &[f32]| centres.nearest(rows))?;
    Ok(nearest.into_iter().flatten().map(|it| it.0).collect())
}

/// The mean of each centre's rows, where it has any; added up in the order of the rows, so that it is the same for any crew.
fn means<'scope>(
    crew: &Crew<'scope, '_>,
    rows: &'scope [f32],
    dimension: usize,
    members: Vec<Vec<usize>>,
) -> Result<Vec<Option<Vec<f32>>>> {
    crew.each(members, move |members| {
        let mut sums = vec![0.0f64; dimension];
        for row in &members {
            let row = row_at(rows, *row, dimension);
            sums.iter_mut().zip(row).for_each(|(sum, it)| *sum += f64::from(*it));
        }
        let mean = sums.into_iter().map(|sum| (sum / members.len() as f64) as f32);
        (!members.is_empty()).then(|| mean.collect())
    })
}

#[cfg(test)]
mod tests {
    use super::super::centres::assigned;
    use super::super::crew::crewed;
    use super::*;

    #[test]
    fn centres_of_too_many_rows_are_halved() {
        let mut random = Random::new(9);
        // Nine of ten rows lie about one place, the others about another.
        let mut rows: Vec<f32> = (0..2000)
            .flat_map(|at| {
                let middle = if at % 10 == 0 { 50.0 } else { 0.0 };
                [0, 1].map(|_| middle + random.below(1000) as f32 / 1000.0)
            })
            .collect();
        let most = |centres: &[f32], rows: &[f32]| {
            let mut counts = vec![0; centres.len() / 2];
            assigned(rows, centres, 2).unwrap().into_iter().for_each(|it| counts[it.0] += 1);
            counts.into_iter().max()
        };
        let halved = halved_centres(&Crew::alone(), &rows, 2, 2, 300, &|| Ok(())).unwrap();
        assert!((16..40).contains(&halved.len()), "{}", halved.len());
        // Neighbours of the halves take and give some.
        assert!(most(&halved, &rows) <= Some(360), "{:?}", most(&halved, &rows));
        let whole = halved_centres(&Crew::alone(), &rows, 2, 2, 2000, &|| Ok(())).unwrap();
        assert_eq!(whole, centres(&rows, 2, 2).unwrap());
        // What is all the same has no halves, with one row far away or without.
        rows.iter_mut().for_each(|it| *it = 1.0);
        let halved = halved_centres(&Crew::alone(), &rows, 2, 2, 300, &|| Ok(())).unwrap();
        assert_eq!(halved, [1.0; 4]);
        rows.extend([1000.0; 2]);
        let halved = halved_centres(&Crew::alone(), &rows, 2, 1, 300, &|| Ok(())).unwrap();
        assert_eq!(halved.len(), 2);
    }

    #[test]
    fn any_crew_makes_the_same_centres() {
        let (dimension, mut random) = (7, Random::new(11));
        let rows: Vec<f32> =
            (0..dimension * 3_001).map(|_| random.below(1_000) as f32 / 999.0).collect();
        let of = |threads| {
            crewed(threads, |crew| halved_centres(crew, &rows, dimension, 150, 30, &|| Ok(())))
                .unwrap()
        };
        let alone = of(1);
        assert!(150 * dimension < alone.len());
        assert!([2, 3, 8].into_iter().all(|it| of(it) == alone));
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
        let centres = centres(&rows, 2, 6).unwrap();
        let far =
            assigned(&rows, &centres, 2).unwrap().into_iter().fold(0.0f32, |far, it| far.max(it.1));
        assert!(far < 2.0, "{far}");
    }

    #[test]
    fn rounds_end_where_they_are_not_to_go_on() {
        let (rows, asked) = (vec![1.0f32; 40], std::cell::Cell::new(0));
        let go_on = || {
            asked.set(asked.get() + 1);
            match asked.get() {
                3 => Err(crate::error::Error::Usage("enough".to_owned())),
                _ => Ok(()),
            }
        };
        let stopped = halved_centres(&Crew::alone(), &rows, 2, 3, 9, &go_on).unwrap_err();
        assert_eq!((stopped.to_string().as_str(), asked.get()), ("enough", 3));
    }
}
