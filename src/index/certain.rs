//! Exact search over lists: codes rule rows out for certain, and only the rest are read.
//!
//! What a code leaves out of a row changes the dot product by no more than its length times the
//! query's distance from the list's centre. A row whose estimate stays behind the last answer by more
//! than that is none. Lists near the query come first, so that the last answer is soon near.

use std::collections::VecDeque;
use std::slice;
use std::sync::Arc;

use super::aspect::{Aspect, Lists, View};
use super::code::{Asked, Coded, Seen};
use super::crew::crewed;
use super::measure::Measure;
use super::nearest::{Found, Hit, Planes, Search, Want};
use super::probe::Listed;
use crate::error::Result;

/// Lists whose rows are estimated before the first are looked at; then twice as many each time.
const FIRST_LISTS: usize = 4;
/// Bytes of codes that are estimated between two looks at most.
const MOST_CODES: usize = 4 * 1024 * 1024;
/// Lists that other threads estimate while the rows of those before are read; before fewer, the rows show how
/// near the next must be.
const LISTS_AHEAD: usize = 32;
/// Queries that go through the lists together, where there are many.
const TOGETHER: usize = 32;
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
    threads: usize,
) -> Result<Vec<Hit>> {
    if want.count == 0 {
        return Ok(Vec::new());
    }
    let mut sieve = Sieve::new(source, lists, measure, want)?;
    let after = want.after.map_or(f64::NEG_INFINITY, |it| measure.key(it.distance));
    let sift = |part: Part| part.sifted(lists, measure.base(), after);
    crewed(threads, |crew| {
        let mut at_once = FIRST_LISTS;
        loop {
            let ahead = crew.is_several() && LISTS_AHEAD <= at_once;
            if !ahead {
                look(slice::from_mut(&mut sieve), false)?;
            }
            let parts = sieve.parts(at_once, MOST_CODES)?;
            if parts.is_empty() {
                break;
            }
            let started = crew.start(parts, sift);
            at_once *= 2;
            if ahead {
                look(slice::from_mut(&mut sieve), true)?;
            }
            for left in started.finish()? {
                sieve.take(left)?;
            }
            if MOST_IN_QUESTION < sieve.left.len() {
                look(slice::from_mut(&mut sieve), true)?;
            }
        }
        Ok(())
    })?;
    look(slice::from_mut(&mut sieve), true)?;
    sieve.search.settled(source)
}

/// Shows what [`certain`] answers to each query, in their order; `want.after` is not for this search. Some queries go
/// through the lists together, and what `show` does meanwhile costs no time where there are several threads.
pub fn certain_of_each(
    source: &impl Listed,
    lists: &Lists,
    measures: &[Measure],
    want: &Want,
    threads: usize,
    mut show: impl FnMut(usize, Vec<Hit>) -> Result<()>,
) -> Result<()> {
    crewed(threads, |crew| {
        let mut known = VecDeque::new();
        for (group, measures) in measures.chunks(TOGETHER).enumerate() {
            let sieves = measures.iter().map(|it| Sieve::new(source, lists, it, want));
            let mut sieves = sieves.collect::<Result<Vec<_>>>()?;
            let mut at_once = FIRST_LISTS;
            loop {
                // Later on they are near.
                if at_once <= LISTS_AHEAD {
                    look(&mut sieves, false)?;
                }
                let mut parts = Vec::new();
                for (at, sieve) in sieves.iter_mut().enumerate() {
                    let next = sieve.parts(at_once, MOST_CODES / TOGETHER)?;
                    parts.extend(next.into_iter().map(|it| (at, it)));
                }
                if parts.is_empty() {
                    break;
                }
                let started = crew.start(parts, |(at, part): (usize, Part)| {
                    (at, part.sifted(lists, measures[at].base(), f64::NEG_INFINITY))
                });
                at_once *= 2;
                if let Some((at, hits)) = known.pop_front() {
                    show(at, hits)?;
                }
                for (at, left) in started.finish()? {
                    sieves[at].take(left)?;
                }
                if MOST_IN_QUESTION < sieves.iter().map(|it| it.left.len()).sum() {
                    look(&mut sieves, true)?;
                }
            }
            look(&mut sieves, true)?;
            for (at, sieve) in sieves.into_iter().enumerate() {
                known.push_back((TOGETHER * group + at, sieve.search.settled(source)?));
            }
        }
        known.into_iter().try_for_each(|(at, hits)| show(at, hits))
    })
}

/// A list to be estimated.
struct Part {
    asked: Arc<Asked>,
    coded: Arc<Coded>,
    /// Which one.
    at: usize,
    aspect: Aspect,
    /// The farthest that an answer can be.
    farthest: f64,
}

/// A row that is not ruled out.
struct Left {
    /// The nearest it can be.
    nearest: f64,
    estimate: f32,
    block: i64,
    slot: usize,
}

impl Part {
    /// The rows that can be answers, of which none is surely nearer than `after`; keys are `base` less scores.
    fn sifted(&self, lists: &Lists, base: f64, after: f64) -> Vec<Left> {
        let Part { asked, coded, at, aspect, farthest } = self;
        let coder = &lists.coder;
        let least = (base - farthest - rounding(base, *farthest)) as f32;
        let mut left = Vec::new();
        for (group, (block, first)) in coded.groups.iter().enumerate() {
            coder.fetch_highest(coded, group + 1);
            coder.fetch_lower(coded, group + 1);
            let seen = Seen { asked, coded, group, list: aspect };
            let mut bounded = coder.bound(seen, least);
            if bounded.left == 0 {
                continue;
            }
            coder.narrow(seen, least, lists.centre(*at), &mut bounded);
            let mut rows = bounded.left;
            while rows != 0 {
                let at = rows.trailing_zeros() as usize;
                rows &= rows - 1;
                let (estimate, margin) = (bounded.estimates[at], bounded.margins[at]);
                if after <= base - f64::from(estimate) + f64::from(margin) {
                    let nearest = base - f64::from(bounded.most[at]);
                    left.push(Left { nearest, estimate, block: *block, slot: first + at });
                }
            }
        }
        left
    }
}

/// An exact search over lists as it goes.
struct Sieve<'a, S> {
    source: &'a S,
    lists: &'a Lists,
    measure: &'a Measure,
    want: &'a Want,
    search: Search<'a>,
    view: View<'a>,
    /// Lists that were not looked at, the most promising first.
    rest: std::vec::IntoIter<usize>,
    /// Rows that are not ruled out: the nearest they can be, their estimate, and where they are.
    left: Vec<(f64, f32, Found)>,
}

impl<'a, S: Listed> Sieve<'a, S> {
    fn new(
        source: &'a S,
        lists: &'a Lists,
        measure: &'a Measure,
        want: &'a Want,
    ) -> Result<Sieve<'a, S>> {
        let view = lists.seen_by(measure);
        let mut rest: Vec<usize> = (0..lists.lists.len()).collect();
        rest.sort_unstable_by(|a, b| view.promise(*b).total_cmp(&view.promise(*a)));
        let (search, rest, left) = (Search::new(measure, want), rest.into_iter(), Vec::new());
        let mut sieve = Sieve { source, lists, measure, want, search, view, rest, left };
        sieve.tail()?;
        Ok(sieve)
    }

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

    /// The next lists, up to so many.
    fn parts(&mut self, most: usize, most_bytes: usize) -> Result<Vec<Part>> {
        let farthest = self.search.farthest();
        let (mut parts, mut bytes) = (Vec::new(), 0);
        while parts.len() < most
            && bytes < most_bytes
            && let Some(at) = self.rest.next()
        {
            let coded = self.source.codes(self.lists.lists[at].list)?;
            bytes += coded.bytes();
            let (asked, aspect) = (self.view.asked.clone(), self.view.aspect(at));
            parts.push(Part { asked, coded, at, aspect, farthest });
        }
        Ok(parts)
    }

    /// Keeps the rows that the crew has not ruled out.
    fn take(&mut self, left: Vec<Left>) -> Result<()> {
        for Left { nearest, estimate, block, slot } in left {
            if let Some(found) = self.source.allowed(&self.want.rows, block, slot)? {
                self.left.push((nearest, estimate, found));
            }
        }
        Ok(())
    }

    /// Takes the rows that look nearest out of those that are left.
    fn first(&mut self) -> Vec<Found> {
        let first = self.want.count.saturating_mul(FIRST_ROWS);
        if self.left.len() <= first {
            return Vec::new();
        }
        self.left.select_nth_unstable_by(first, |a, b| b.1.total_cmp(&a.1));
        self.left.drain(..first).map(|it| it.2).collect()
    }

    /// Takes all that are left.
    fn all(&mut self) -> Vec<Found> {
        std::mem::take(&mut self.left).into_iter().map(|it| it.2).collect()
    }

    /// Rules out what has become too far.
    fn narrow(&mut self) {
        let farthest = self.search.farthest();
        let farthest = farthest + rounding(self.measure.base(), farthest);
        self.left.retain(|it| it.0 <= farthest);
    }
}

/// Meets the rows that look nearest to each query, so that fewer are left; then, if `all`, those.
fn look<S: Listed>(sieves: &mut [Sieve<'_, S>], all: bool) -> Result<()> {
    meet(sieves, Sieve::first, Planes::Both)?;
    sieves.iter_mut().for_each(Sieve::narrow);
    match all {
        // Most of them are none.
        true => meet(sieves, Sieve::all, Planes::High),
        false => Ok(()),
    }
}

/// Meets some rows of each query's, all of them in the order in which they lie.
fn meet<'a, S: Listed>(
    sieves: &mut [Sieve<'a, S>],
    some: impl Fn(&mut Sieve<'a, S>) -> Vec<Found>,
    planes: Planes,
) -> Result<()> {
    let Some(source) = sieves.first().map(|it| it.source) else {
        return Ok(());
    };
    let mut rows = Vec::new();
    for (at, sieve) in sieves.iter_mut().enumerate() {
        rows.extend(some(sieve).into_iter().map(|it| (at, it)));
    }
    rows.sort_unstable_by_key(|(_, it)| (it.block, it.slot));
    let places: Vec<Found> = rows.iter().map(|it| it.1).collect();
    let mut met = Vec::with_capacity(rows.len());
    source.rows(&places, planes, &mut |at, high, low| {
        let Sieve { measure, search, .. } = &sieves[rows[at].0];
        met.push(measure.nearer(high, low, search.farthest())?);
        Ok(())
    })?;
    for ((at, mut found), near) in rows.into_iter().zip(met) {
        let search = &mut sieves[at].search;
        if !search.is_past(near.least()) {
            found.rowid = source.rowid(&found)?;
            search.meet(found, near);
        }
    }
    sieves.iter_mut().try_for_each(|it| it.search.settle_some(source))
}

/// What a key may lose as a float32 score.
fn rounding(base: f64, key: f64) -> f64 {
    f64::from(f32::EPSILON) * (base + key.abs())
}
