//! Approximate search: the lists whose centres are near, and of their rows those that look near.
//!
//! Two things can go wrong, and the effort says how far either may (`effort.rs`). A list that
//! is not opened may hold an answer: how many is foreseen from how the rows of the lists already
//! opened lie about their centres, *as this query sees them*, so that a sentence among photographs,
//! which is far from everything, opens more lists. A code may make an answer look too far: codes
//! know their own error.

use std::collections::BinaryHeap;
use std::sync::{Arc, LazyLock};

use super::aspect::{Aspect, Lists, View};
use super::code::{Asked, Coded, Seen};
use super::effort::Aim;
use super::lie::Lie;
use super::measure::{Measure, Near};
use super::nearest::{Approximate, Found, Hit, Planes, Rows, Search, Show, ShowRow, Source, Want};
use crate::error::Result;
use crate::kernel::Scanned;

/// Rows in the lists that are opened before anything is foreseen, about, and how many lists these are: fewer of long ones, of which
/// the first four held 0.96 of all answers (1,000,000 x 128), more of short ones, of which eight held 0.89 (100,000 x 512).
const FIRST_ROWS: usize = 2_500;
const LEAST_FIRST: usize = 4;
const MOST_FIRST: usize = 8;
/// A query lies among the rows if it is no farther from a near list's centre than the list's rows are, by
/// the mean square, times this: most clustered rows and queries like them are at 0.6 to 1.1 of it, photographs
/// among sentences at 1.7 to 2.7, random directions from 2 on. In twelve dimensions queries from elsewhere begin
/// at 1.
const AMONG: f32 = 1.2;
/// Standard deviations more than codes may err by, where only highest bits are known.
const CLOSER: f32 = 0.5;
/// One in so many groups of a list tells how all lie.
const SOME: usize = 4;
/// Candidates that are looked at together: the next ones need to be nearer than these. Of 32 it was 35 rows a query instead of 28
/// (1,000,000 x 128, where 0.8 is asked).
const TOGETHER: usize = 8;
/// Room for candidates that most searches need no more than.
const USUAL: usize = 512;
/// Nearest candidates that are looked at before further lists are opened, at most.
const MOST_NEAREST: usize = 128;
/// Standard deviations of a high plane's rounding, as a share of its bound, within which rows are
/// looked at in full.
const ROUNDED: f64 = 4.0;

/// Where rows come from that are in lists, or in none yet.
pub trait Listed: Source {
    /// Shows each block that is in no list.
    fn tail(&self, show: &mut Show<'_>) -> Result<()>;

    /// The codes of a list.
    fn codes(&self, list: i64) -> Result<Arc<Coded>>;

    /// The rowid of a row known by its block and slot.
    fn rowid(&self, found: &Found) -> Result<i64>;

    /// A row by its place, if it may answer; its rowid is read only where that decides.
    fn allowed(&self, rows: &Rows, block: i64, slot: usize) -> Result<Option<Found>> {
        let mut found = Found { block, slot, rowid: 0 };
        if !rows.is_all() {
            found.rowid = self.rowid(&found)?;
        }
        Ok(rows.allow(found.rowid).then_some(found))
    }

    /// Shows these rows of lists, which are sorted by block and slot.
    fn rows(&self, rows: &[Found], planes: Planes, show: &mut ShowRow<'_>) -> Result<()>;
}

/// The nearest rows, nearest first; most of those that [`super::nearest`] finds, by the
/// aim. `want.after` is not for this search.
pub fn likely(
    source: &impl Listed,
    lists: &Lists,
    measure: &Measure,
    want: &Want,
    aim: Aim,
) -> Result<Vec<Hit>> {
    if want.count == 0 {
        return Ok(Vec::new());
    }
    let mut probe = Probe {
        source,
        lists,
        measure,
        want,
        within: measure.key(want.within) + measure.hidden(),
        reach: 0.0,
        seen: Vec::new(),
        best: BinaryHeap::new(),
        surely: BinaryHeap::new(),
        candidates: Vec::with_capacity(USUAL),
        scanned: Scanned::default(),
        lie: Lie::new(),
    };
    let width = measure.form().high_bytes();
    source.tail(&mut |block, rowids, high| {
        for (slot, (rowid, high)) in rowids.iter().zip(high.chunks_exact(width)).enumerate() {
            if want.rows.allow(*rowid) {
                probe.see(Found { block, slot, rowid: *rowid }, measure.near(high));
            }
        }
        Ok(())
    })?;
    probe.open_lists(aim)?;
    probe.answers()
}

struct Probe<'a, S> {
    source: &'a S,
    lists: &'a Lists,
    measure: &'a Measure,
    want: &'a Want,
    /// The key of the farthest that is asked for.
    within: f64,
    /// Standard deviations that a code may err by.
    reach: f32,
    /// Rows whose high planes were looked at.
    seen: Vec<(Near, Found)>,
    /// The keys of the `count` nearest of them, the farthest on top.
    best: BinaryHeap<Approximate>,
    /// The same of rows known by their codes, taken to be as far as they can be.
    surely: BinaryHeap<Approximate>,
    candidates: Vec<Candidate>,
    /// Memory for what a list's highest bits say.
    scanned: Scanned,
    lie: Lie,
}

struct Candidate {
    /// As near as it can be, as a score.
    most: f32,
    estimate: f32,
    found: Found,
}

impl<S: Listed> Probe<'_, S> {
    fn see(&mut self, found: Found, near: Near) {
        self.seen.push((near, found));
        keep(&mut self.best, near.key, self.want.count);
    }

    /// The farthest that an answer can be, by the rows that were looked at.
    fn farthest(&self) -> f64 {
        let last = self.best.peek().filter(|_| self.best.len() == self.want.count);
        last.map_or(f64::INFINITY, |it| it.0)
    }

    /// The least score that an answer can have, as far as is known.
    fn floor(&self) -> f32 {
        let mut most = self.within;
        for heap in [&self.best, &self.surely] {
            if let Some(last) = heap.peek().filter(|_| heap.len() == self.want.count) {
                most = most.min(last.0);
            }
        }
        (self.measure.base() - most) as f32
    }

    /// How many rows that are known, up to as many as are wanted, are likely to be answers.
    fn known(&self, floor: f32) -> usize {
        if self.best.len() == self.want.count {
            return self.want.count;
        }
        let base = self.measure.base();
        let looked_at = self.seen.iter().map(|it| (base - it.0.key) as f32);
        let scores = looked_at.chain(self.candidates.iter().map(|it| it.estimate));
        scores.filter(|it| floor <= *it).take(self.want.count).count()
    }

    fn open_lists(&mut self, aim: Aim) -> Result<()> {
        let lists = &self.lists.lists;
        let view = self.lists.seen_by(self.measure);
        let first = FIRST_ROWS * lists.len() / self.lists.rows().max(1);
        let first = first.clamp(LEAST_FIRST, MOST_FIRST).min(lists.len());
        let mut next = view.most_promising(first);
        let is_among =
            next.iter().any(|at| view.aspect(*at).away.powi(2) <= AMONG * lists[*at].spread);
        let effort = if is_among { aim.among } else { aim.elsewhere };
        self.reach = deviations_for(effort.misled);
        // How many rows each list has that is not opened.
        let mut closed: Vec<f32> = lists.iter().map(|it| it.count as f32).collect();
        let (mut ahead, mut expected, mut foreseen) = (Vec::new(), Vec::new(), Vec::new());
        let mut opened = 0;
        while !next.is_empty() {
            opened += next.len();
            self.open_these(&view, &next)?;
            next.drain(..).for_each(|at| closed[at] = 0.0);
            self.look(true)?;
            let floor = self.floor();
            let full = self.known(floor) == self.want.count;
            // What is asked for may be more than there is within the distance, and codes flatter rows that were not looked at.
            let answers = self.best.len().max(1);
            self.lie.fit();
            view.all_ahead(floor, &mut ahead);
            let mut left = self.lie.expect(&ahead, &closed, &mut expected);
            let most = effort.unopened * answers as f64;
            if left <= most && (full || self.want.within.is_finite()) {
                return Ok(());
            }
            foreseen.clear();
            let some = expected.iter().enumerate().filter(|it| 0.0 < *it.1);
            foreseen.extend(some.map(|(at, rows)| (*rows, at)));
            // No more are opened than were before, so that the others need no order.
            let more = |a: &(f32, usize), b: &(f32, usize)| b.0.total_cmp(&a.0);
            if opened < foreseen.len() {
                foreseen.select_nth_unstable_by(opened, more);
                foreseen.truncate(opened);
            }
            foreseen.sort_unstable_by(more);
            for (rows, at) in &foreseen {
                if left <= most && full {
                    break;
                }
                left -= f64::from(*rows);
                next.push(*at);
            }
        }
        Ok(())
    }

    /// Opens lists, each of which is on its way from memory while the one before is estimated.
    fn open_these(&mut self, view: &View<'_>, these: &[usize]) -> Result<()> {
        let codes = |at: &usize| self.source.codes(self.lists.lists[*at].list);
        let mut coming = these.first().map(codes).transpose()?;
        for (at, next) in these.iter().zip(these.iter().skip(1).map(Some).chain([None])) {
            let next = next.map(codes).transpose()?;
            if let Some(coded) = std::mem::replace(&mut coming, next) {
                self.open(&view.asked, &coded, coming.as_deref(), &view.aspect(*at))?;
            }
        }
        Ok(())
    }

    /// Estimates the rows of a list, and keeps those that may be answers.
    fn open(
        &mut self,
        asked: &Asked,
        coded: &Coded,
        coming: Option<&Coded>,
        aspect: &Aspect,
    ) -> Result<()> {
        let coder = &self.lists.coder;
        let mut floor = self.floor();
        let base = self.measure.base();
        let mut scanned = std::mem::take(&mut self.scanned);
        coder.scan(asked, coded, aspect, self.reach + CLOSER, &mut scanned);
        for (group, (block, first)) in coded.groups.iter().enumerate() {
            if let Some(coming) = coming {
                coder.fetch_highest(coming, group);
            }
            if scanned.tops.get(group + 1).is_some_and(|it| floor - aspect.near <= *it) {
                coder.fetch_lower(coded, group + 1);
            }
            // The groups that tell how all rows lie are estimated in any case.
            let tells = group.is_multiple_of(SOME) && self.lie.asks();
            if !tells && scanned.tops[group] < floor - aspect.near {
                continue;
            }
            let seen = Seen { asked, coded, group, list: aspect };
            let guessed = coder.guess(seen, &scanned.totals[group], self.reach, floor);
            if tells {
                self.lie.hear(&guessed.estimates, aspect);
            }
            let mut left = guessed.left;
            while left != 0 {
                let at = left.trailing_zeros() as usize;
                left &= left - 1;
                let (estimate, error) = (guessed.estimates[at], guessed.errors[at]);
                if estimate + error < floor {
                    continue;
                }
                let Some(found) = self.source.allowed(&self.want.rows, *block, first + at)? else {
                    continue;
                };
                self.candidates.push(Candidate { most: estimate + error, estimate, found });
                let least = estimate - error;
                keep(&mut self.surely, base - f64::from(least), self.want.count);
                floor = self.floor();
            }
        }
        self.scanned = scanned;
        Ok(())
    }

    /// Looks at the high planes of candidates: the nearest alone, or all that may be answers.
    fn look(&mut self, nearest_alone: bool) -> Result<()> {
        let floor = self.floor();
        self.candidates.retain(|it| floor <= it.most);
        let mut left = if nearest_alone { self.want.count.min(MOST_NEAREST) } else { usize::MAX };
        let farther = |a: &Candidate, b: &Candidate| a.estimate.total_cmp(&b.estimate);
        // What is not looked at needs no order.
        let rest = self.candidates.len().saturating_sub(left.saturating_mul(2));
        if 0 < rest {
            self.candidates.select_nth_unstable_by(rest, farther);
        }
        self.candidates[rest..].sort_unstable_by(farther);
        while 0 < left && !self.candidates.is_empty() {
            let floor = self.floor();
            let mut batch = Vec::with_capacity(TOGETHER);
            while batch.len() < TOGETHER.min(left) {
                match self.candidates.pop() {
                    Some(it) if floor <= it.most => batch.push(it.found),
                    Some(_) => {}
                    None => break,
                }
            }
            left -= batch.len();
            batch.sort_unstable_by_key(|it| (it.block, it.slot));
            let (source, measure) = (self.source, self.measure);
            source.rows(&batch, Planes::Both, &mut |at, high, low| {
                self.see(batch[at], measure.nearer(high, low, self.farthest())?);
                Ok(())
            })?;
            if nearest_alone && self.candidates.last().is_none_or(|it| it.estimate < self.floor()) {
                break;
            }
        }
        Ok(())
    }

    fn answers(mut self) -> Result<Vec<Hit>> {
        self.look(false)?;
        let share = (ROUNDED / (self.measure.dimension() as f64).sqrt()).min(1.0);
        self.seen.iter_mut().for_each(|it| it.0.slack *= share);
        let mut search = Search::new(self.measure, self.want);
        self.seen.sort_unstable_by(|a, b| a.0.least().total_cmp(&b.0.least()));
        for (near, mut found) in self.seen {
            if search.is_past(near.least()) {
                break;
            }
            found.rowid = self.source.rowid(&found)?;
            search.meet(found, near);
        }
        search.settled(self.source)
    }
}

/// Keeps the `count` smallest keys.
fn keep(heap: &mut BinaryHeap<Approximate>, key: f64, count: usize) {
    if heap.len() < count {
        heap.push(Approximate(key));
    } else if let Some(mut last) = heap.peek_mut()
        && key < last.0
    {
        last.0 = key;
    }
}

/// Steps of the tables below, a standard deviation's parts.
const PARTS: f64 = 16.0;
/// Standard deviations that they reach to.
const FAR: f64 = 8.0;

/// The share of a normal distribution that lies beyond so many standard deviations.
fn tail(deviations: f64) -> f64 {
    static TAILS: LazyLock<Vec<f64>> = LazyLock::new(|| {
        let density = |at: f64| (-at * at / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let step = 1.0 / PARTS;
        let mut tails = vec![0.0];
        let mut at = FAR;
        while -FAR < at {
            // Simpson's rule.
            let part = density(at) + 4.0 * density(at - step / 2.0) + density(at - step);
            tails.push(tails.last().unwrap_or(&0.0) + part * step / 6.0);
            at -= step;
        }
        tails
    });
    let at = ((FAR - deviations) * PARTS).clamp(0.0, (TAILS.len() - 1) as f64);
    TAILS[at as usize]
}

/// How many standard deviations leave that share beyond.
fn deviations_for(share: f64) -> f32 {
    let parts = (0..(FAR * PARTS) as usize).map(|it| it as f64 / PARTS);
    parts.clone().find(|it| tail(*it) <= share).unwrap_or(FAR) as f32
}
