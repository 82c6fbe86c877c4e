//! Groups of near vectors and their centres: Lloyd's k-means, on vectors laid end to end.

use super::crew::Crew;
use super::rotation::Random;
use crate::error::Result;
use crate::kernel::{ROWS, WIDTH, least, panel, panels, square};

/// Rows that are compared with centres at a time.
const AT_ONCE: usize = 1024;
/// After this many rounds centres hardly move.
const ROUNDS: usize = 8;
/// Centres up to which every row is compared with each of them.
const FEW: usize = 128;
/// A half with fewer than one in so many of the rows is none.
const UNEQUAL: usize = 32;
/// Of so many groups of centres a row is compared with one.
const TRIED: usize = 2;

/// Centres, ready to find the nearest of many rows.
///
/// Many of them are grouped about centres of their own: a row is compared with those of the groups that
/// are nearest to it, and may miss its nearest centre where another one is about as near.
pub struct Centres {
    dimension: usize,
    groups: Vec<Group>,
    /// The groups' own centres; none where there is one group.
    leaders: Option<Group>,
}

/// Centres that lie beside each other in memory.
struct Group {
    /// Which of all they are.
    members: Vec<usize>,
    panels: Vec<[f32; WIDTH]>,
    /// Squares of their lengths, endless behind the last.
    squares: Vec<[f32; WIDTH]>,
}

impl Group {
    fn new(centres: &[f32], dimension: usize, members: Vec<usize>) -> Group {
        let one = |at: &usize| &centres[at * dimension..(at + 1) * dimension];
        let own: Vec<f32> = members.iter().flat_map(one).copied().collect();
        let mut squares = vec![[f32::INFINITY; WIDTH]; members.len().div_ceil(WIDTH)];
        for (at, centre) in own.chunks_exact(dimension).enumerate() {
            squares[at / WIDTH][at % WIDTH] = square(centre);
        }
        Group { members, panels: panels(&own, dimension), squares }
    }

    /// Shows how far each of these rows is from each member, but for the square of the row: row, member, distance.
    fn compare(
        &self,
        rows: &[f32],
        those: &[usize],
        dimension: usize,
        mut show: impl FnMut(usize, usize, f32),
    ) {
        for those in those.chunks(ROWS) {
            let some = some_of(rows, those, dimension);
            for (at, numbers) in self.panels.chunks_exact(dimension).enumerate() {
                for (row, near) in those.iter().zip(panel(&some, numbers)) {
                    let members = at * WIDTH..self.members.len().min((at + 1) * WIDTH);
                    for (member, near) in members.zip(near) {
                        show(*row, member, self.squares[at][member % WIDTH] - 2.0 * near);
                    }
                }
            }
        }
    }

    /// Shows of each of these rows the nearest member, and how far it is but for the square of the row.
    fn nearest(
        &self,
        rows: &[f32],
        those: &[usize],
        dimension: usize,
        mut show: impl FnMut(usize, usize, f32),
    ) {
        for those in those.chunks(ROWS) {
            let found = least(&some_of(rows, those, dimension), &self.panels, &self.squares);
            for (row, (member, far)) in those.iter().zip(found) {
                show(*row, member as usize, far);
            }
        }
    }
}

/// As many rows as are multiplied at a time; missing ones repeat the last.
fn some_of<'a>(rows: &'a [f32], those: &[usize], dimension: usize) -> [&'a [f32]; ROWS] {
    std::array::from_fn(|at| row_at(rows, those[at.min(those.len() - 1)], dimension))
}

impl Centres {
    /// For centres of this dimension laid end to end.
    pub fn new(centres: &[f32], dimension: usize) -> Result<Centres> {
        let count = centres.len() / dimension;
        if count <= FEW {
            return Ok(Centres::ungrouped(centres, dimension));
        }
        let leaders = self::centres(centres, dimension, count.isqrt())?;
        let near = Centres::for_rows(count, &leaders, dimension)?;
        let nearest = nearest_of(&Crew::alone(), centres, near)?;
        let members = members(&nearest, leaders.len() / dimension);
        let all = (0..members.len()).collect();
        let leaders = Some(Group::new(&leaders, dimension, all));
        let groups = members.into_iter().map(|it| Group::new(centres, dimension, it)).collect();
        Ok(Centres { dimension, groups, leaders })
    }

    /// For so many rows.
    pub fn for_rows(count: usize, centres: &[f32], dimension: usize) -> Result<Centres> {
        match count * dimension < centres.len() {
            true => Ok(Centres::ungrouped(centres, dimension)),
            false => Centres::new(centres, dimension),
        }
    }

    /// For fewer rows than it takes to be worth grouping them.
    fn ungrouped(centres: &[f32], dimension: usize) -> Centres {
        let all = (0..centres.len() / dimension).collect();
        let groups = vec![Group::new(centres, dimension, all)];
        Centres { dimension, groups, leaders: None }
    }

    /// Which centre is the nearest of each row, or about the nearest, and the square of how far it is.
    pub fn nearest(&self, rows: &[f32]) -> Vec<(usize, f32)> {
        let mut found = Vec::with_capacity(rows.len() / self.dimension);
        for rows in rows.chunks(AT_ONCE * self.dimension) {
            let mut best = vec![(0, f32::INFINITY); rows.len() / self.dimension];
            for (group, those) in self.groups.iter().zip(self.tried(rows)) {
                group.nearest(rows, &those, self.dimension, |row, member, far| {
                    if far < best[row].1 {
                        best[row] = (group.members[member], far);
                    }
                });
            }
            let rows = rows.chunks_exact(self.dimension);
            found.extend(rows.zip(best).map(|(row, (at, far))| (at, (far + square(row)).max(0.0))));
        }
        found
    }

    /// The rows that each group's centres are compared with.
    fn tried(&self, rows: &[f32]) -> Vec<Vec<usize>> {
        let all: Vec<usize> = (0..rows.len() / self.dimension).collect();
        let Some(leaders) = &self.leaders else {
            return vec![all];
        };
        let count = self.groups.len();
        let mut distances = vec![(f32::INFINITY, 0); all.len() * count];
        leaders.compare(rows, &all, self.dimension, |row, at, far| {
            distances[row * count + at] = (far, at);
        });
        let mut tried = vec![Vec::new(); count];
        for (row, distances) in distances.chunks_exact_mut(count).enumerate() {
            let most = count.div_ceil(TRIED);
            distances.select_nth_unstable_by(most - 1, |a, b| a.0.total_cmp(&b.0));
            distances[..most].iter().for_each(|it| tried[it.1].push(row));
        }
        tried
    }
}

/// [`Centres::nearest`], for rows that are compared with these centres once.
pub fn assigned(rows: &[f32], centres: &[f32], dimension: usize) -> Result<Vec<(usize, f32)>> {
    Ok(Centres::for_rows(rows.len() / dimension, centres, dimension)?.nearest(rows))
}

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
fn members(nearest: &[usize], count: usize) -> Vec<Vec<usize>> {
    let mut members = vec![Vec::new(); count];
    nearest.iter().enumerate().for_each(|(row, centre)| members[*centre].push(row));
    members
}

fn row_at(rows: &[f32], at: usize, dimension: usize) -> &[f32] {
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
        nearest = nearest_of(crew, rows, Centres::for_rows(total, &centres, dimension)?)?;
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
    centres: Centres,
) -> Result<Vec<usize>> {
    let dimension = centres.dimension;
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
    use super::super::crew::crewed;
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

    #[test]
    fn of_many_centres_the_nearest_or_one_about_as_near_is_found() {
        let (dimension, mut random) = (16, Random::new(5));
        let mut vectors = |count: usize, about: &[f32], reach: f32| -> Vec<f32> {
            (0..count * dimension)
                .map(|at| {
                    let own = reach * (random.below(1000) as f32 / 500.0 - 1.0);
                    about.get(at % about.len().max(1)).unwrap_or(&0.0) + own
                })
                .collect()
        };
        let centres = vectors(600, &[], 1.0);
        let rows = vectors(3000, &centres, 0.6);
        let grouped = Centres::new(&centres, dimension).unwrap();
        assert!(grouped.leaders.is_some());
        let exact = Centres::ungrouped(&centres, dimension).nearest(&rows);
        let found = grouped.nearest(&rows);
        let same = found.iter().zip(&exact).filter(|(a, b)| a.0 == b.0).count();
        assert!(found.len() * 9 <= same * 10, "{same} of {}", found.len());
        let sum = |all: &[(usize, f32)]| all.iter().map(|it| it.1).sum::<f32>();
        assert!(sum(&found) < 1.02 * sum(&exact), "{} {}", sum(&found), sum(&exact));
        for (row, (at, square)) in rows.chunks(dimension).zip(found) {
            let centre = &centres[at * dimension..(at + 1) * dimension];
            let twin: f32 = row.iter().zip(centre).map(|(a, b)| (a - b).powi(2)).sum();
            assert!((twin - square).abs() < 1e-3, "{twin} {square}");
        }
    }

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
