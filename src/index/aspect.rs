//! Lists as a query sees them.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::centres::Bytes;
use super::code::{Asked, Coder};
use super::effort::Learned;
use super::form::Form;
use super::measure::Measure;
use super::metric::Metric;
use crate::kernel::{self, product, products, square};

/// The square of a centre's length from which on its numbers' products are exact enough to divide by.
const LEAST_SQUARE: f32 = 1e-30;
/// Numbers of centres from which on most of a query's time with them is reading them.
const MANY: usize = 32 * 1024;

/// Lists that are told at once not to be among the most promising.
const TOGETHER: usize = 16;

/// A list of rows near each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct List {
    /// Its number.
    pub list: i64,
    /// How many rows.
    pub count: usize,
    /// The mean square of its rows' distance from the centre.
    pub spread: f32,
}

/// All lists of a table.
pub struct Lists {
    /// Reads and writes their codes.
    pub coder: Coder,
    /// One after the other.
    pub lists: Vec<List>,
    /// Their centres, in the same order, as [`Coder::placed`].
    pub centres: Vec<f32>,
    /// The squares of their lengths.
    squares: Vec<f32>,
    /// The roots of the lists' spreads, and one over each.
    deviations: Vec<f32>,
    per_deviation: Vec<f32>,
    /// The centres as bytes, made for the second query: the first of a process would wait longer for them than for floats.
    bytes: OnceLock<Option<Bytes>>,
    was_asked: AtomicBool,
    /// What searching them for some of their own rows has shown.
    pub learned: Learned,
}

/// A list as a query sees it.
#[derive(Debug, Clone, Copy)]
pub struct Aspect {
    /// The score of the list's centre.
    pub near: f32,
    /// How far the query is from what codes tell it apart from: the centre, or its share.
    pub away: f32,
    /// The most that this may be.
    pub farthest: f32,
    /// How much of the centre that is. An inner product knows no scale, so the query is compared with
    /// the point of the centre's line that is nearest to it; else 1.
    pub share: f32,
    /// The centre's length.
    pub length: f32,
    /// What a row's score has lost when it is as far from the centre as rows are, and what a spread
    /// of the list makes in scores.
    lost: f32,
    per_spread: f32,
}

impl Aspect {
    /// A list along a direction: scores are its rows' dot products with it, less the centre's.
    pub fn along() -> Aspect {
        let (near, away, farthest, length) = (0.0, 0.0, 0.0, 0.0);
        Aspect { near, away, farthest, share: 0.0, length, lost: 0.0, per_spread: 1.0 }
    }

    /// How many spreads of its list a score is ahead of the centre.
    pub fn ahead(&self, score: f32) -> f32 {
        (score - self.near + self.lost) * self.per_spread
    }
}

impl Lists {
    /// Lists whose centres lie one after the other.
    pub fn new(coder: Coder, lists: Vec<List>, centres: Vec<f32>, learned: Learned) -> Lists {
        let dimension = centres.len() / lists.len().max(1);
        let squares = centres.chunks_exact(dimension.max(1)).map(square).collect();
        let deviations: Vec<f32> = lists.iter().map(|it| it.spread.sqrt()).collect();
        let metric = coder.metric();
        let per_deviation = deviations.iter().map(|it| 1.0 / divisor(metric, *it)).collect();
        let (bytes, was_asked) = (OnceLock::new(), AtomicBool::new(false));
        Lists {
            coder,
            lists,
            centres,
            squares,
            deviations,
            per_deviation,
            bytes,
            was_asked,
            learned,
        }
    }

    /// The centres as bytes, where that is worth it.
    fn bytes(&self) -> Option<&Bytes> {
        if self.centres.len() < MANY || !self.was_asked.swap(true, Ordering::Relaxed) {
            return None;
        }
        let dimension = self.centres.len() / self.lists.len();
        let bytes = || Some(Bytes::new(kernel::bytes()?, &self.centres, dimension));
        self.bytes.get_or_init(bytes).as_ref()
    }

    /// A list's centre.
    pub fn centre(&self, at: usize) -> &[f32] {
        let dimension = self.centres.len() / self.lists.len();
        &self.centres[at * dimension..(at + 1) * dimension]
    }

    /// How many rows are in lists.
    pub fn rows(&self) -> usize {
        // Counts may be damaged.
        self.lists.iter().fold(0, |rows, it| rows.saturating_add(it.count))
    }

    /// All of them as the query sees them.
    pub fn seen_by<'a>(&'a self, measure: &'a Measure) -> View<'a> {
        let query = self.coder.placed(measure.asked());
        let asked = self.coder.ask(&self.coder.rotated(&query));
        let own = match measure.form().metric {
            // Of length one.
            Metric::Cosine => 1.0,
            _ => square(&query),
        };
        let (mut about, bytes) = (Vec::new(), self.bytes());
        match bytes {
            Some(bytes) => {
                let far = bytes.far_from(&query);
                let far = self.squares.iter().zip(far.as_flattened());
                about.extend(far.map(|(square, far)| (own + square - far) / 2.0));
            }
            None => products(&query, &self.centres, &mut about),
        }
        let (asked, form) = (Arc::new(asked), *measure.form());
        View { lists: self, asked, form, query, own, products: about, exact: bytes.is_none() }
    }
}

/// The lists of a table as a query sees them.
pub struct View<'a> {
    lists: &'a Lists,
    /// The query for their codes.
    pub asked: Arc<Asked>,
    form: Form,
    /// The query where centres are.
    query: Cow<'a, [f32]>,
    /// The square of its length.
    own: f32,
    /// Its products with the centres, and whether these are no more than about so.
    products: Vec<f32>,
    exact: bool,
}

impl View<'_> {
    /// How much a list promises: the more, the more of the nearest rows are in it.
    ///
    /// Rows stand with the centre that is nearest to them, and so do those beside the query: of two centres with the same cosine
    /// that is the shorter one, whose rows lie farther apart.
    pub fn promise(&self, at: usize) -> f32 {
        match self.form.metric {
            Metric::Dot => self.products[at],
            // What the distance's square takes from the query's own.
            _ => 2.0 * self.products[at] - self.lists.squares[at],
        }
    }

    /// The lists that promise most, that which does first.
    pub fn most_promising(&self, count: usize) -> Vec<usize> {
        let mut most: Vec<(f32, usize)> = Vec::with_capacity(count + 1);
        let mut least = f32::NEG_INFINITY;
        let promises: Vec<f32> = (0..self.products.len()).map(|at| self.promise(at)).collect();
        for (part, some) in promises.chunks(TOGETHER).enumerate() {
            // Soon hardly any is among the first.
            if most.len() == count && some.iter().fold(true, |none, it| none & (*it <= least)) {
                continue;
            }
            for (at, promise) in some.iter().enumerate() {
                if most.len() < count || least < *promise {
                    let place = most.partition_point(|it| *promise <= it.0);
                    most.insert(place, (*promise, TOGETHER * part + at));
                    most.truncate(count);
                    least = most.last().map_or(least, |it| it.0);
                }
            }
        }
        most.into_iter().map(|it| it.1).collect()
    }

    /// How many spreads of each list a score is ahead of its centre.
    pub fn all_ahead(&self, score: f32, ahead: &mut Vec<f32>) {
        ahead.clear();
        if self.form.metric == Metric::L2 {
            return ahead.extend(
                (0..self.products.len())
                    .map(|at| self.aspect_of(at, self.products[at]).ahead(score)),
            );
        }
        let per_deviation = &self.lists.per_deviation;
        ahead.extend(self.products.iter().zip(per_deviation).map(|(it, per)| (score - it) * per));
    }

    /// How a list looks.
    pub fn aspect(&self, at: usize) -> Aspect {
        if self.exact {
            return self.aspect_of(at, self.products[at]);
        }
        self.aspect_of(at, product(&self.query, self.lists.centre(at)))
    }

    /// The same by the query's product with the centre.
    fn aspect_of(&self, at: usize, product: f32) -> Aspect {
        let metric = self.form.metric;
        let square = self.lists.squares[at];
        let share = match metric {
            Metric::Dot if LEAST_SQUARE < square => product / square,
            Metric::Dot => 0.0,
            _ => 1.0,
        };
        let off = self.own + share * share * square;
        let distance = (off - 2.0 * share * product).max(0.0);
        let off = 4.0 * (self.form.dimension as f32 + 4.0) * f32::EPSILON * off;
        let (away, deviation) = (distance.sqrt(), self.lists.deviations[at]);
        let (near, lost, per_spread) = match metric {
            Metric::L2 => (-distance / 2.0, deviation * deviation / 2.0, deviation * away),
            _ => (product, 0.0, deviation),
        };
        Aspect {
            near,
            away,
            farthest: (distance + off).sqrt(),
            share,
            length: square.sqrt(),
            lost,
            per_spread: 1.0 / divisor(metric, per_spread),
        }
    }
}

/// A spread in scores, not so small that one could not divide by it.
fn divisor(metric: Metric, per_spread: f32) -> f32 {
    per_spread.max(if metric == Metric::Cosine { 1e-9 } else { f32::MIN_POSITIVE })
}

#[cfg(test)]
mod tests {
    use super::super::form::Storage;
    use super::*;
    use crate::vector::Vector;

    #[test]
    fn lists_promise_by_their_centres_and_look_the_same_from_afar() {
        arbtest::arbtest(|u| {
            let (dimension, count) = (u.int_in_range(1..=20)?, u.int_in_range(1..=12)?);
            let mut numbers = |count: usize| -> arbtest::arbitrary::Result<Vec<f32>> {
                (0..count).map(|_| Ok(f32::from(u.int_in_range(-9i8..=9)?) / 9.0 + 0.01)).collect()
            };
            let (raw, centres) = (numbers(dimension)?, numbers(dimension * count)?);
            for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
                let coder = match metric {
                    Metric::Cosine => Coder::new(dimension, 2, true),
                    _ => Coder::of_any_length(dimension, 2, metric, Vec::new()),
                };
                let form = Form { metric, storage: Storage::F32, dimension };
                let query: Vector = metric.vector(raw.clone()).unwrap();
                let measure = Measure::new(form, query);
                let list =
                    |at: usize| List { list: at as i64, count: 1, spread: (at + 1) as f32 / 8.0 };
                let lists = (0..count).map(list).collect();
                let lists = Lists::new(coder, lists, centres.clone(), Learned::default());
                let view = lists.seen_by(&measure);
                let asked = measure.asked();
                let nearer = |at: usize| -> f32 {
                    let pairs = || asked.iter().zip(&centres[at * dimension..]);
                    match metric {
                        Metric::Dot => pairs().map(|(a, b)| a * b).sum(),
                        _ => -pairs().map(|(a, b)| (a - b) * (a - b)).sum::<f32>(),
                    }
                };
                let some = count.div_ceil(2);
                let promising = view.most_promising(some);
                let promise: Vec<f32> = promising.iter().map(|at| view.promise(*at)).collect();
                let mut all: Vec<f32> = (0..count).map(|at| view.promise(at)).collect();
                all.sort_by(|a, b| b.total_cmp(a));
                assert_eq!(promise, all[..some]);
                let mut ahead = Vec::new();
                view.all_ahead(0.3, &mut ahead);
                for (at, afar) in ahead.into_iter().enumerate() {
                    let (near, far) = (nearer(at) - nearer(0), view.promise(at) - view.promise(0));
                    assert!((near - far).abs() < 1e-4, "{metric:?}: {near} {far}");
                    let close = view.aspect(at).ahead(0.3);
                    assert!((afar - close).abs() <= 1e-4 * close.abs().max(1.0), "{afar} {close}");
                }
            }
            Ok(())
        });
    }
}
