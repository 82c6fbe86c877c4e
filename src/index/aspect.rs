//! Lists as a query sees them.

use super::code::{Asked, Coder};
use super::effort::Learned;
use super::measure::Measure;
use super::metric::Metric;
use crate::kernel::{products, square};

/// The square of a centre's length from which on its numbers' products are exact enough to divide by.
const LEAST_SQUARE: f32 = 1e-30;

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
        Lists { coder, lists, centres, squares, learned }
    }

    /// How many rows are in lists.
    pub fn rows(&self) -> usize {
        self.lists.iter().map(|it| it.count).sum()
    }

    /// The query for their codes, and how each list looks.
    pub fn seen_by(&self, measure: &Measure) -> (Asked, Vec<Aspect>) {
        let query = self.coder.placed(measure.asked());
        let asked = self.coder.ask(&self.coder.rotated(&query));
        let mut products_with = Vec::new();
        products(&query, &self.centres, &mut products_with);
        let own = match measure.form().metric {
            // Of length one.
            Metric::Cosine => 1.0,
            _ => square(&query),
        };
        let lists = self.lists.iter().zip(&self.squares).zip(products_with);
        let aspects = lists
            .map(|((list, square), product)| aspect(measure, own, list.spread, *square, product));
        (asked, aspects.collect())
    }
}

/// Of a query and a centre by the squares of their lengths and their dot product.
fn aspect(measure: &Measure, own: f32, spread: f32, square: f32, product: f32) -> Aspect {
    let metric = measure.form().metric;
    let share = match metric {
        Metric::Dot if LEAST_SQUARE < square => product / square,
        Metric::Dot => 0.0,
        _ => 1.0,
    };
    let distance = (own + share * share * square - 2.0 * share * product).max(0.0);
    let off =
        4.0 * (measure.dimension() as f32 + 4.0) * f32::EPSILON * (own + share * share * square);
    let away = distance.sqrt();
    let deviation = spread.sqrt();
    let (near, lost, per_spread) = match metric {
        Metric::L2 => (-distance / 2.0, spread / 2.0, deviation * away),
        _ => (product, 0.0, deviation),
    };
    let least = if metric == Metric::Cosine { 1e-9 } else { f32::MIN_POSITIVE };
    Aspect {
        near,
        away,
        farthest: (distance + off).sqrt(),
        share,
        length: square.sqrt(),
        lost,
        per_spread: 1.0 / per_spread.max(least),
    }
}
