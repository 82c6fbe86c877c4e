//! Exact search over lists: codes rule rows out for certain, and only the rest are read.
//!
//! What a code leaves out of a row changes the dot product by no more than its length times the
//! query's distance from the list's centre. A row whose estimate stays behind the last answer by more
//! than that is none. Lists near the query come first, so that the last answer is soon near.

use super::code::{Asked, GROUP};
use super::kernel::{dot, products};
use super::nearest::{Found, Hit, Search, Want, slack};
use super::plane::BYTES;
use super::probe::{Listed, Lists};
use crate::embedding::Embedding;
use crate::error::Result;

/// Lists whose rows are estimated before the first are looked at; then twice as many each time.
const FIRST_LISTS: usize = 4;
/// Of a first look, the rows per row wanted.
const FIRST_ROWS: usize = 2;
/// Rows in question that are held at a time.
const MOST_IN_QUESTION: usize = 1 << 16;

/// The nearest rows to `query`, nearest first: those that [`super::nearest`] finds. The codes must be
/// [bounded](super::code::Coder::is_bounded).
pub fn certain(
    source: &impl Listed,
    lists: &Lists,
    query: &Embedding,
    want: &Want,
) -> Result<Vec<Hit>> {
    if want.count == 0 {
        return Ok(Vec::new());
    }
    let search = Search::new(query, want, slack(query.dimension()));
    let mut sieve = Sieve { source, lists, query, want, search, left: Vec::new() };
    sieve.tail()?;
    let mut near = Vec::new();
    products(&lists.centres, query.as_slice(), query.dimension(), &mut near);
    let mut order: Vec<usize> = (0..lists.lists.len()).collect();
    order.sort_unstable_by(|a, b| near[*b].total_cmp(&near[*a]));
    let asked = lists.coder.ask(&lists.coder.rotated(query.as_slice()));
    let mut at_once = FIRST_LISTS;
    let mut rest = &order[..];
    while !rest.is_empty() {
        let (now, later) = rest.split_at(at_once.min(rest.len()));
        for at in now {
            sieve.open(&asked, *at, near[*at])?;
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
    query: &'a Embedding,
    want: &'a Want,
    search: Search<'a>,
    /// Rows that are not ruled out: the nearest they can be, their estimate, and where they are.
    left: Vec<(f64, f32, Found)>,
}

impl<S: Listed> Sieve<'_, S> {
    /// Meets the rows that are in no list.
    fn tail(&mut self) -> Result<()> {
        let Sieve { source, query, want, search, .. } = self;
        let width = query.dimension() * BYTES;
        source.tail(&mut |block, rowids, high| {
            for (slot, (rowid, high)) in rowids.iter().zip(high.chunks_exact(width)).enumerate() {
                if want.rows.allow(*rowid) {
                    let cosine = f64::from(dot(query.as_slice(), high));
                    search.meet(Found { block, slot, rowid: *rowid }, 1.0 - cosine);
                }
            }
            search.settle_some(*source)
        })
    }

    /// Estimates the rows of a list, and keeps those that can be answers.
    fn open(&mut self, asked: &Asked, at: usize, near: f32) -> Result<()> {
        let Lists { coder, lists, .. } = self.lists;
        let (square, off) = self.lists.away(at, near);
        let away = (square + off).sqrt();
        let coded = self.source.codes(lists[at].list)?;
        let mut farthest = self.search.farthest();
        for (group, (block, first)) in coded.groups.iter().enumerate() {
            let estimates = coder.estimate(asked, &coded, group, near);
            let margins = coder.margins(asked, &coded, group, away);
            let least = (1.0 - farthest) as f32 - f32::EPSILON;
            let most: [f32; GROUP] = std::array::from_fn(|at| estimates[at] + margins[at]);
            for at in (0..GROUP).filter(|at| least <= most[*at]) {
                // Whether it is surely before the page that is asked for.
                let nearest = 1.0 - f64::from(estimates[at]) + f64::from(margins[at]);
                let before = self.want.after.is_some_and(|after| nearest < after.distance);
                if before || !estimates[at].is_finite() {
                    continue;
                }
                let Some(found) = self.source.allowed(&self.want.rows, *block, first + at)? else {
                    continue;
                };
                self.left.push((1.0 - f64::from(most[at]), estimates[at], found));
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
        let farthest = self.search.farthest() + f64::from(f32::EPSILON);
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
        let Sieve { source, query, search, .. } = self;
        let mut met = Vec::with_capacity(rows.len());
        source.high(&rows, &mut |at, high| met.push((at, dot(query.as_slice(), high))))?;
        for (at, near) in met {
            let mut found = rows[at];
            let distance = 1.0 - f64::from(near);
            if search.is_past(distance) {
                continue;
            }
            found.rowid = source.rowid(&found)?;
            search.meet(found, distance);
        }
        search.settle_some(*source)
    }
}
