//! The nearest of centres that are grouped about centres of their own: in floats, where many are not compared at all.

use super::super::cluster::{self, members};
use crate::error::Result;
use crate::kernel::{ROWS, WIDTH, least, panel, panels, square};

/// Rows that are compared with centres at a time.
const AT_ONCE: usize = 1024;
/// Of so many groups of centres a row is compared with one.
const TRIED: usize = 2;

/// Groups of centres, one or many. Of many a row is compared with those that are nearest to it, and may miss its nearest
/// centre where another one is about as near.
pub struct Groups {
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
    std::array::from_fn(|at| cluster::row_at(rows, those[at.min(those.len() - 1)], dimension))
}

impl Groups {
    /// All centres of this dimension, laid end to end, in one group.
    pub fn one(centres: &[f32], dimension: usize) -> Groups {
        let all = (0..centres.len() / dimension).collect();
        let groups = vec![Group::new(centres, dimension, all)];
        Groups { dimension, groups, leaders: None }
    }

    /// Groups of about as many centres as there are groups.
    pub fn many(centres: &[f32], dimension: usize) -> Result<Groups> {
        let leaders = cluster::centres(centres, dimension, (centres.len() / dimension).isqrt())?;
        let count = leaders.len() / dimension;
        let nearest = Groups::one(&leaders, dimension).nearest(centres);
        let nearest: Vec<usize> = nearest.into_iter().map(|it| it.0).collect();
        let groups = members(&nearest, count);
        let groups = groups.into_iter().map(|it| Group::new(centres, dimension, it)).collect();
        let leaders = Some(Group::new(&leaders, dimension, (0..count).collect()));
        Ok(Groups { dimension, groups, leaders })
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

#[cfg(test)]
mod tests {
    use super::super::super::rotation::Random;
    use super::*;

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
        let exact = Groups::one(&centres, dimension).nearest(&rows);
        let found = Groups::many(&centres, dimension).unwrap().nearest(&rows);
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
}
