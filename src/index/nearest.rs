//! The nearest rows: approximate distances for all, exact ones for those in question.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashSet};

use super::measure::{Measure, Near};
use crate::error::Result;
use crate::vector::Vector;

/// Rows in question that are held at a time: 1.5 MB.
const MOST_IN_QUESTION: usize = 1 << 16;

/// One answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// The row.
    pub rowid: i64,
    /// How far it is, by the table's metric.
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

/// What is asked of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planes {
    /// High planes.
    High,
    /// Low planes too, of rows where both lie together.
    Both,
}

/// Takes a row: which of those that were asked for, its high plane, and its low one if it was asked for and is there.
pub type ShowRow<'a> = dyn FnMut(usize, &[u8], Option<&[u8]>) -> Result<()> + 'a;

/// Where blocks of vectors come from.
pub trait Source {
    /// Shows each block.
    fn scan(&self, show: &mut Show<'_>) -> Result<()>;

    /// Shows the vectors of these rows, in whatever order is cheap.
    fn whole(&self, rows: &[Found], show: &mut dyn FnMut(Found, Vector)) -> Result<()>;
}

/// The nearest rows, nearest first: exactly those of a scan over whole vectors.
pub fn nearest(source: &impl Source, measure: &Measure, want: &Want) -> Result<Vec<Hit>> {
    if want.count == 0 {
        return Ok(Vec::new());
    }
    let mut search = Search::new(measure, want);
    let width = measure.form().high_bytes();
    source.scan(&mut |block, rowids, high| {
        for (slot, (rowid, high)) in rowids.iter().zip(high.chunks_exact(width)).enumerate() {
            if want.rows.allow(*rowid) {
                search.meet(Found { block, slot, rowid: *rowid }, measure.near(high));
            }
        }
        search.settle_some(source)
    })?;
    search.settled(source)
}

/// Rows met one after the other, and what became of them. All but the answers goes by keys.
pub(super) struct Search<'a> {
    measure: &'a Measure,
    want: &'a Want,
    within: f64,
    after: Option<f64>,
    /// The farthest that each of `count` rows can be, the largest on top.
    likely: BinaryHeap<Approximate>,
    /// Rows that may be answers, and the nearest that they can be.
    question: Vec<(f64, Found)>,
    /// The `count` nearest settled rows, the farthest on top.
    exact: BinaryHeap<Hit>,
}

/// A number that is not yet certain.
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
    pub(super) fn new(measure: &'a Measure, want: &'a Want) -> Search<'a> {
        let (likely, exact) = (BinaryHeap::new(), BinaryHeap::new());
        let after = want.after.map(|it| measure.key(it.distance));
        let within = measure.key(want.within);
        Search { measure, want, within, after, likely, question: Vec::new(), exact }
    }

    /// Takes in a row.
    pub(super) fn meet(&mut self, found: Found, near: Near) {
        let least = near.least();
        if self.farthest() < least {
            return;
        }
        if let Some(distance) = near.distance {
            return take(&mut self.exact, self.want, Hit { rowid: found.rowid, distance });
        }
        if let Some(after) = self.after {
            if near.key + near.slack < after {
                return;
            }
            // A row that may stand before `after` must not push others out.
            if least <= after {
                self.question.push((least, found));
                return;
            }
        }
        self.question.push((least, found));
        self.likely.push(Approximate(near.key + near.slack));
        if self.want.count < self.likely.len() {
            self.likely.pop();
        }
    }

    /// Whether no row that may be so near, and no nearer, can still be an answer.
    pub(super) fn is_past(&self, least: f64) -> bool {
        self.farthest() < least
    }

    /// The farthest that an answer can be.
    pub(super) fn farthest(&self) -> f64 {
        let mut farthest = self.within;
        if let Some(last) = self.likely.peek().filter(|_| self.likely.len() == self.want.count) {
            farthest = farthest.min(last.0);
        }
        if let Some(last) = self.exact.peek().filter(|_| self.exact.len() == self.want.count) {
            farthest = farthest.min(self.measure.key(last.distance));
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
        let farthest = self.farthest();
        let mut rows: Vec<Found> =
            self.question.drain(..).filter(|it| it.0 <= farthest).map(|it| it.1).collect();
        rows.sort_by_key(|it| (it.block, it.slot));
        let (measure, want, exact) = (self.measure, self.want, &mut self.exact);
        source.whole(&rows, &mut |found, vector| {
            let distance = measure.distance(&vector);
            take(exact, want, Hit { rowid: found.rowid, distance });
        })
    }
}

/// Takes in a row whose distance is known.
fn take(exact: &mut BinaryHeap<Hit>, want: &Want, hit: Hit) {
    if want.within < hit.distance || want.after.is_some_and(|after| hit <= after) {
        return;
    }
    exact.push(hit);
    if want.count < exact.len() {
        exact.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::super::form::{Form, Storage};
    use super::super::metric::Metric;
    use super::*;

    struct Memory {
        form: Form,
        rows: Vec<(i64, Vector)>,
    }

    const PER_BLOCK: usize = 7;

    impl Source for Memory {
        fn scan(&self, show: &mut Show<'_>) -> Result<()> {
            for (block, rows) in self.rows.chunks(PER_BLOCK).enumerate() {
                let (mut high, mut low) = (Vec::new(), Vec::new());
                rows.iter().for_each(|it| self.form.write(&it.1, &mut high, &mut low));
                let rowids: Vec<i64> = rows.iter().map(|it| it.0).collect();
                show(block as i64, &rowids, &high)?;
            }
            Ok(())
        }

        fn whole(&self, rows: &[Found], show: &mut dyn FnMut(Found, Vector)) -> Result<()> {
            for found in rows {
                let (rowid, vector) = &self.rows[found.block as usize * PER_BLOCK + found.slot];
                assert_eq!(*rowid, found.rowid);
                show(*found, vector.clone());
            }
            Ok(())
        }
    }

    fn twin(memory: &Memory, query: &Vector, want: &Want) -> Vec<Hit> {
        let distance = |it: &Vector| memory.form.metric.distance(query, it).unwrap();
        let mut all: Vec<Hit> = memory
            .rows
            .iter()
            .map(|(rowid, it)| Hit { rowid: *rowid, distance: distance(it) })
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
            let metric = *u.choose(&[Metric::Cosine, Metric::Dot, Metric::L2])?;
            let storage = *u.choose(&[Storage::F32, Storage::F16, Storage::Int8])?;
            let form = Form { metric, storage, dimension };
            let size = if u.arbitrary()? { 1.0 } else { 1e-19 };
            let mut vector = || -> arbtest::arbitrary::Result<Vector> {
                // Few different numbers, so that equal and nearly equal distances abound.
                let raw = (0..dimension)
                    .map(|_| Ok(size * (f32::from(u.int_in_range(-3i8..=3)?) + 0.01)));
                let raw = form.metric.vector(raw.collect::<arbtest::arbitrary::Result<_>>()?);
                let (mut high, mut low) = (Vec::new(), Vec::new());
                form.write(&raw.unwrap(), &mut high, &mut low);
                Ok(form.read(&high, &low).unwrap())
            };
            let query = vector()?;
            let rows = (0..40).map(|rowid| Ok((rowid * 3 - 20, vector()?)));
            let rows: Vec<_> = rows.collect::<arbtest::arbitrary::Result<_>>()?;
            let far = metric.distance(&query, &rows[7].1).unwrap();
            let mut want = Want {
                count: u.int_in_range(1..=50)?,
                after: None,
                within: if u.arbitrary()? { f64::INFINITY } else { far },
                rows: if u.arbitrary()? {
                    Rows::Between(i64::MIN, i64::MAX)
                } else {
                    Rows::Among((-20..60).step_by(2).collect())
                },
            };
            let memory = Memory { form, rows };
            let measure = Measure::new(form, query.clone());
            // Page by page until nothing is left.
            loop {
                let expected = twin(&memory, &query, &want);
                assert_eq!(nearest(&memory, &measure, &want).unwrap(), expected);
                let Some(last) = expected.last() else {
                    return Ok(());
                };
                want.after = Some(*last);
            }
        });
    }
}
