//! Exact search over lists: codes rule rows out for certain, and only the rest are read.
//!
//! What a code leaves out of a row changes the dot product by no more than its length times the
//! query's distance from the list's centre. A row whose estimate stays behind the last answer by more
//! than that is none. Lists near the query come first, so that the last answer is soon near.

use super::aspect::{Aspect, Lists};
use super::code::{Asked, GROUP};
use super::measure::Measure;
use super::nearest::{Found, Hit, Search, Want};
use super::probe::Listed;
use crate::error::Result;

/// Lists whose rows are estimated before the first are looked at; then twice as many each time.
const FIRST_LISTS: usize = 4;
/// Of a first look, the rows per row wanted.
const FIRST_ROWS: usize = 2;
/// Rows in question that are held at a time.
const MOST_IN_QUESTION: usize = 1 << 16;

/// The nearest rows, nearest first: those that [`super::nearest`] finds. The codes must be
/// [bounded](super::code::Coder::is_bounded).
pub fn certain(
    source: &impl Listed,
    lists: &Lists,
    measure: &Measure,
    want: &Want,
) -> Result<Vec<Hit>> {
    if want.count == 0 {
        return Ok(Vec::new());
    }
    let search = Search::new(measure, want);
    let mut sieve = Sieve { source, lists, measure, want, search, left: Vec::new() };
    sieve.tail()?;
    let (asked, aspects) = lists.seen_by(measure);
    let mut order: Vec<usize> = (0..lists.lists.len()).collect();
    order.sort_unstable_by(|a, b| aspects[*b].near.total_cmp(&aspects[*a].near));
    let mut at_once = FIRST_LISTS;
    let mut rest = &order[..];
    while !rest.is_empty() {
        let (now, later) = rest.split_at(at_once.min(rest.len()));
        for at in now {
            sieve.open(&asked, *at, &aspects[*at])?;
        }
        sieve.look(false)?;
        rest = later;
        at_once *= 2;
    }
    sieve.look(true)?;
    sieve.search.settled(source)
}

struct Sieve<'a, S> {
    source: &'a S,
    lists: &'a Lists,
    measure: &'a Measure,
    want: &'a Want,
    search: Search<'a>,
    /// Rows that are not ruled out: the nearest they can be, their estimate, and where they are.
    left: Vec<(f64, f32, Found)>,
}

impl<S: Listed> Sieve<'_, S> {
    /// Meets the rows that are in no list.
    fn tail(&mut self) -> Result<()> {
        let Sieve { source, measure, want, search, .. } = self;
        let width = measure.form().high_bytes();
        source.tail(&mut |block, rowids, high| {
            for (slot, (rowid, high)) in rowids.iter().zip(high.chunks_exact(width)).enumerate() {
                if want.rows.allow(*rowid) {
                    search.meet(Found { block, slot, rowid: *rowid }, measure.near(high));
                }
            }
            search.settle_some(*source)
        })
    }

    /// Estimates the rows of a list, and keeps those that can be answers.
    fn open(&mut self, asked: &Asked, at: usize, aspect: &Aspect) -> Result<()> {
        let Lists { coder, lists, .. } = self.lists;
        let base = self.measure.base();
        let after = self.want.after.map(|it| self.measure.key(it.distance));
        let coded = self.source.codes(lists[at].list)?;
        let mut farthest = self.search.farthest();
        for (group, (block, first)) in coded.groups.iter().enumerate() {
            let estimates = coder.estimate(asked, &coded, group, aspect);
            let margins = coder.margins(asked, &coded, group, aspect);
            let least = (base - farthest - rounding(base, farthest)) as f32;
            let most: [f32; GROUP] = std::array::from_fn(|at| estimates[at] + margins[at]);
            for at in (0..GROUP).filter(|at| least <= most[*at]) {
                // Whether it is surely before the page that is asked for.
                let most_key = base - f64::from(estimates[at]) + f64::from(margins[at]);
                let before = after.is_some_and(|after| most_key < after);
                if before || !estimates[at].is_finite() {
                    continue;
                }
                let Some(found) = self.source.allowed(&self.want.rows, *block, first + at)? else {
                    continue;
                };
                self.left.push((base - f64::from(most[at]), estimates[at], found));
            }
            if MOST_IN_QUESTION < self.left.len() {
                self.look(true)?;
                farthest = self.search.farthest();
            }
        }
        Ok(())
    }

    /// Meets the rows that look nearest, so that fewer are left; then, if `all`, those.
    fn look(&mut self, all: bool) -> Result<()> {
        let mut left = std::mem::take(&mut self.left);
        let first = self.want.count.saturating_mul(FIRST_ROWS);
        if first < left.len() {
            left.select_nth_unstable_by(first, |a, b| b.1.total_cmp(&a.1));
            self.meet(&left[..first])?;
            left.drain(..first);
        }
        let farthest = self.search.farthest();
        let farthest = farthest + rounding(self.measure.base(), farthest);
        left.retain(|it| it.0 <= farthest);
        if all {
            self.meet(&left)?;
            left.clear();
        }
        self.left = left;
        Ok(())
    }

    fn meet(&mut self, rows: &[(f64, f32, Found)]) -> Result<()> {
        let mut rows: Vec<Found> = rows.iter().map(|it| it.2).collect();
        rows.sort_unstable_by_key(|it| (it.block, it.slot));
        let Sieve { source, measure, search, .. } = self;
        let mut met = Vec::with_capacity(rows.len());
        source.high(&rows, &mut |at, high| met.push((at, measure.near(high))))?;
        for (at, near) in met {
            let mut found = rows[at];
            if search.is_past(near.least()) {
                continue;
            }
            found.rowid = source.rowid(&found)?;
            search.meet(found, near);
        }
        search.settle_some(*source)
    }
}

/// What a key may lose as a float32 score.
fn rounding(base: f64, key: f64) -> f64 {
    f64::from(f32::EPSILON) * (base + key.abs())
}
