//! The nearest rows: approximate distances for all, exact ones for those in question.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashSet};

use super::kernel::dot;
use super::plane::{BYTES, ROUNDING};
use crate::embedding::Embedding;
use crate::error::Result;

/// Rows in question that are held at a time: 1.5 MB.
const MOST_IN_QUESTION: usize = 1 << 16;

/// One answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// The row.
    pub rowid: i64,
    /// Cosine distance, 0 to 2.
    pub distance: f64,
}

/// Nearest first, equal distances by rowid.
impl Ord for Hit {
    fn cmp(&self, other: &Hit) -> Ordering {
        self.distance.total_cmp(&other.distance).then(self.rowid.cmp(&other.rowid))
    }
}

impl PartialOrd for Hit {
    fn partial_cmp(&self, other: &Hit) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Eq for Hit {}

/// Which rows may answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Rows {
    /// Those from the first to the last rowid.
    Between(i64, i64),
    /// These.
    Among(HashSet<i64>),
}

impl Rows {
    /// Whether every row may answer.
    pub fn is_all(&self) -> bool {
        *self == Rows::Between(i64::MIN, i64::MAX)
    }

    /// Whether the row may answer.
    pub fn allow(&self, rowid: i64) -> bool {
        match self {
            Rows::Between(first, last) => (*first..=*last).contains(&rowid),
            Rows::Among(rows) => rows.contains(&rowid),
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Want {
    /// How many rows.
    pub count: usize,
    /// Only rows behind this one, in the order of answers.
    pub after: Option<Hit>,
    /// Only rows at most this far.
    pub within: f64,
    /// Only these rows.
    pub rows: Rows,
}

/// A row met by the scan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// Its block.
    pub block: i64,
    /// Its place in the block.
    pub slot: usize,
    /// Its rowid.
    pub rowid: i64,
}

/// Takes a block: its number, the rowids, and their high planes one after the other.
pub type Show<'a> = dyn FnMut(i64, &[i64], &[u8]) -> Result<()> + 'a;

/// Where blocks of vectors come from.
pub trait Source {
    /// Shows each block.
    fn scan(&self, show: &mut Show<'_>) -> Result<()>;

    /// Shows the embeddings of these rows, in whatever order is cheap.
    fn whole(&self, rows: &[Found], show: &mut dyn FnMut(Found, Embedding)) -> Result<()>;
}

/// The nearest rows to `query`, nearest first: exactly those of a scan over whole vectors.
pub fn nearest(source: &impl Source, query: &Embedding, want: &Want) -> Result<Vec<Hit>> {
    if want.count == 0 {
        return Ok(Vec::new());
    }
    let mut search = Search::new(query, want, slack(query.dimension()));
    let width = query.dimension() * BYTES;
    source.scan(&mut |block, rowids, high| {
        for (slot, (rowid, high)) in rowids.iter().zip(high.chunks_exact(width)).enumerate() {
            if want.rows.allow(*rowid) {
                let cosine = f64::from(dot(query.as_slice(), high));
                search.meet(Found { block, slot, rowid: *rowid }, 1.0 - cosine);
            }
        }
        search.settle_some(source)
    })?;
    search.settled(source)
}

/// How far an approximate distance can be from the exact one: rounding, and float32 sums.
pub(super) fn slack(dimension: usize) -> f64 {
    ROUNDING + dimension as f64 * f64::from(f32::EPSILON)
}

/// Rows met one after the other, and what became of them.
pub(super) struct Search<'a> {
    query: &'a Embedding,
    want: &'a Want,
    slack: f64,
    /// The `count` smallest approximate distances, the largest on top.
    likely: BinaryHeap<Approximate>,
    question: Vec<(f64, Found)>,
    /// The `count` nearest settled rows, the farthest on top.
    exact: BinaryHeap<Hit>,
}

/// A distance that is not yet certain.
#[derive(PartialEq)]
pub(super) struct Approximate(pub f64);

impl Eq for Approximate {}

impl Ord for Approximate {
    fn cmp(&self, other: &Approximate) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Approximate {
    fn partial_cmp(&self, other: &Approximate) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<'a> Search<'a> {
    /// `slack` is how far an approximate distance can be from the exact one.
    pub(super) fn new(query: &'a Embedding, want: &'a Want, slack: f64) -> Search<'a> {
        let (likely, exact) = (BinaryHeap::new(), BinaryHeap::new());
        Search { query, want, slack, likely, question: Vec::new(), exact }
    }

    /// Takes in a row by its approximate distance.
    pub(super) fn meet(&mut self, found: Found, distance: f64) {
        if self.bound() < distance {
            return;
        }
        if let Some(after) = self.want.after {
            if distance + self.slack < after.distance {
                return;
            }
            // A row that may stand before `after` must not push others out.
            if distance - self.slack <= after.distance {
                self.question.push((distance, found));
                return;
            }
        }
        self.question.push((distance, found));
        self.likely.push(Approximate(distance));
        if self.want.count < self.likely.len() {
            self.likely.pop();
        }
    }

    /// Whether no row this far or farther can still be an answer.
    pub(super) fn is_past(&self, distance: f64) -> bool {
        self.bound() < distance
    }

    /// The farthest approximate distance that can still belong to an answer.
    fn bound(&self) -> f64 {
        self.farthest() + self.slack
    }

    /// The farthest that an answer can be.
    pub(super) fn farthest(&self) -> f64 {
        let mut farthest = self.want.within;
        if let Some(last) = self.likely.peek().filter(|_| self.likely.len() == self.want.count) {
            farthest = farthest.min(last.0 + self.slack);
        }
        if let Some(last) = self.exact.peek().filter(|_| self.exact.len() == self.want.count) {
            farthest = farthest.min(last.distance);
        }
        farthest
    }

    /// Looks at the rows in question as a whole once they are many.
    pub(super) fn settle_some(&mut self, source: &impl Source) -> Result<()> {
        if self.question.len() <= MOST_IN_QUESTION {
            return Ok(());
        }
        self.settle(source)
    }

    /// The answers.
    pub(super) fn settled(mut self, source: &impl Source) -> Result<Vec<Hit>> {
        self.settle(source)?;
        Ok(self.exact.into_sorted_vec())
    }

    /// Looks at the rows in question as a whole.
    fn settle(&mut self, source: &impl Source) -> Result<()> {
        let bound = self.bound();
        let mut rows: Vec<Found> =
            self.question.drain(..).filter(|it| it.0 <= bound).map(|it| it.1).collect();
        rows.sort_by_key(|it| (it.block, it.slot));
        let (query, want, exact) = (self.query, self.want, &mut self.exact);
        source.whole(&rows, &mut |found, embedding| {
            // Dimensions were checked where the block was read.
            let Ok(distance) = query.distance(&embedding) else {
                return;
            };
            let hit = Hit { rowid: found.rowid, distance };
            if want.within < distance || want.after.is_some_and(|after| hit <= after) {
                return;
            }
            exact.push(hit);
            if want.count < exact.len() {
                exact.pop();
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::plane;
    use super::*;

    struct Memory(Vec<(i64, Embedding)>);

    const PER_BLOCK: usize = 7;

    impl Source for Memory {
        fn scan(&self, show: &mut Show<'_>) -> Result<()> {
            for (block, rows) in self.0.chunks(PER_BLOCK).enumerate() {
                let (mut high, mut low) = (Vec::new(), Vec::new());
                rows.iter().for_each(|it| plane::split(it.1.as_slice(), &mut high, &mut low));
                let rowids: Vec<i64> = rows.iter().map(|it| it.0).collect();
                show(block as i64, &rowids, &high)?;
            }
            Ok(())
        }

        fn whole(&self, rows: &[Found], show: &mut dyn FnMut(Found, Embedding)) -> Result<()> {
            for found in rows {
                let (rowid, embedding) = &self.0[found.block as usize * PER_BLOCK + found.slot];
                assert_eq!(*rowid, found.rowid);
                show(*found, embedding.clone());
            }
            Ok(())
        }
    }

    fn twin(rows: &[(i64, Embedding)], query: &Embedding, want: &Want) -> Vec<Hit> {
        let mut all: Vec<Hit> = rows
            .iter()
            .map(|(rowid, it)| Hit { rowid: *rowid, distance: query.distance(it).unwrap() })
            .filter(|it| want.rows.allow(it.rowid) && it.distance <= want.within)
            .filter(|it| want.after.is_none_or(|after| after < *it))
            .collect();
        all.sort();
        all.truncate(want.count);
        all
    }

    #[test]
    fn the_answer_is_that_of_the_ten_line_twin() {
        arbtest::arbtest(|u| {
            let dimension = u.int_in_range(1..=70)?;
            let mut vector = || -> arbtest::arbitrary::Result<Embedding> {
                // Few different numbers, so that equal and nearly equal distances abound.
                let raw = (0..dimension).map(|_| Ok(f32::from(u.int_in_range(-3i8..=3)?) + 0.01));
                Ok(Embedding::new(raw.collect::<arbtest::arbitrary::Result<_>>()?).unwrap())
            };
            let query = vector()?;
            let rows = (0..40).map(|rowid| Ok((rowid * 3 - 20, vector()?)));
            let rows: Vec<_> = rows.collect::<arbtest::arbitrary::Result<_>>()?;
            let mut want = Want {
                count: u.int_in_range(1..=50)?,
                after: None,
                within: if u.arbitrary()? { 2.0 } else { 0.9 },
                rows: if u.arbitrary()? {
                    Rows::Between(i64::MIN, i64::MAX)
                } else {
                    Rows::Among((-20..60).step_by(2).collect())
                },
            };
            let memory = Memory(rows);
            // Page by page until nothing is left.
            loop {
                let expected = twin(&memory.0, &query, &want);
                assert_eq!(nearest(&memory, &query, &want).unwrap(), expected);
                let Some(last) = expected.last() else {
                    return Ok(());
                };
                want.after = Some(*last);
            }
        });
    }
}
