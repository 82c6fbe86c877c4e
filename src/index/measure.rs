//! A query as rows are measured by it.
//!
//! Rows are ordered by a key that falls as a score rises, so that lists and codes, which estimate
//! scores, know nothing of metrics:
//!
//! ```text
//!         score                       key            distance
//! cosine  <q, x>                      1 - score      key
//! dot     <q, x> / |q|                -score         |q| key
//! l2      -|q - x|^2 / 2              -score         sqrt(2 key)
//! ```

use super::form::{Form, Storage};
use super::metric::Metric;
use super::plane::ROUNDING;
use crate::error::Result;
use crate::kernel::{dot, summed};
use crate::vector::Vector;

/// What float32 sums of a chunk are off by at most, as a share of the sum of their absolute terms.
const SUMMED: f64 = 32.0 * f32::EPSILON as f64;

/// A query, and how the rows it is compared with are written.
pub struct Measure {
    form: Form,
    query: Vector,
    /// The query, or for inner products its direction.
    asked: Vec<f32>,
    /// What distances are, of keys, for inner products.
    unit: f64,
    /// Most that a cosine of high planes is off by.
    slack: f64,
    /// What rounding to a high plane changes, as a share of a vector's length.
    rounding: f64,
    /// What numbers too small for float32 may add up to.
    vanishing: f64,
}

/// What a row's high plane says of its key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Near {
    /// The key, but for rounding.
    pub key: f64,
    /// How far from it the exact one can be.
    pub slack: f64,
    /// How far the row is exactly, if all of it was looked at.
    pub distance: Option<f64>,
}

impl Near {
    /// The nearest that the row can be.
    pub fn least(&self) -> f64 {
        self.key - self.slack
    }
}

impl Measure {
    /// For rows of this form; the query has their dimension.
    pub fn new(form: Form, query: Vector) -> Measure {
        let length = query.length();
        let unit = if form.metric == Metric::Dot && 0.0 < length { length } else { 1.0 };
        let asked = match form.metric {
            Metric::Dot => {
                query.as_slice().iter().map(|it| (f64::from(*it) / unit) as f32).collect()
            }
            _ => query.as_slice().to_vec(),
        };
        let dimension = form.dimension as f64;
        let (rounding, slack) = match form.storage {
            Storage::F32 => (ROUNDING, ROUNDING + dimension * f64::from(f32::EPSILON)),
            _ => (f64::from(f32::EPSILON), SUMMED),
        };
        let vanishing = dimension * f64::from(f32::MIN_POSITIVE);
        Measure { form, query, asked, unit, slack, rounding, vanishing }
    }

    /// How rows are written.
    pub fn form(&self) -> &Form {
        &self.form
    }

    /// Numbers of the query.
    pub fn dimension(&self) -> usize {
        self.form.dimension
    }

    /// What codes and centres are compared with.
    pub fn asked(&self) -> &[f32] {
        &self.asked
    }

    /// What key and score add up to.
    pub fn base(&self) -> f64 {
        if self.form.metric == Metric::Cosine { 1.0 } else { 0.0 }
    }

    /// The key of a distance.
    pub fn key(&self, distance: f64) -> f64 {
        match self.form.metric {
            Metric::Cosine => distance,
            Metric::Dot => distance / self.unit,
            Metric::L2 => distance * distance.abs() / 2.0,
        }
    }

    /// How far a row is exactly.
    pub fn distance(&self, row: &Vector) -> f64 {
        // Both have the dimension of the table.
        self.form.metric.distance(&self.query, row).unwrap_or(f64::INFINITY)
    }

    /// How near a row is: exactly, if it may be as near as `farthest` and its low plane is there.
    ///
    /// # Errors
    /// Bytes that are none of a vector.
    pub fn nearer(&self, high: &[u8], low: Option<&[u8]>, farthest: f64) -> Result<Near> {
        let near = self.near(high);
        let Some(low) = low.filter(|_| near.least() <= farthest) else {
            return Ok(near);
        };
        let distance = self.distance(&self.form.read(high, low)?);
        Ok(Near { key: self.key(distance), slack: 0.0, distance: Some(distance) })
    }

    /// How near a row is by its high plane.
    pub fn near(&self, high: &[u8]) -> Near {
        let (key, slack) = self.key_and_slack(high);
        Near { key, slack, distance: None }
    }

    fn key_and_slack(&self, high: &[u8]) -> (f64, f64) {
        if self.form.metric == Metric::Cosine && self.form.storage == Storage::F32 {
            return (1.0 - f64::from(dot(&self.asked, high)), self.slack);
        }
        let (mut product, mut square, mut apart) = (0.0, 0.0, 0.0);
        self.form.each(high, |at, row| {
            let Some(asked) = self.asked.get(at..at + row.len()) else {
                return;
            };
            if self.form.metric == Metric::L2 {
                apart += f64::from(summed(asked, row, |a, b| (a - b) * (a - b)));
            } else {
                product += f64::from(summed(asked, row, |a, b| a * b));
            }
            if self.form.metric != Metric::Cosine {
                square += f64::from(summed(row, row, |a, b| a * b));
            }
        });
        if self.form.metric == Metric::Cosine {
            return (1.0 - product, self.slack);
        }
        let length = (square + self.vanishing).sqrt() * (1.0 + 2.0 * ROUNDING);
        let off = self.rounding * length;
        if self.form.metric == Metric::Dot {
            return (-product, off + SUMMED * length + self.vanishing);
        }
        let distance = apart.sqrt();
        let off = off + SUMMED * (distance + length) + self.vanishing.sqrt();
        (apart / 2.0, off * (distance + off / 2.0))
    }

    /// What a high plane may hide of a cosine.
    pub fn hidden(&self) -> f64 {
        if self.form.metric == Metric::Cosine { self.rounding } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::form::Storage;
    use super::*;

    #[test]
    fn the_exact_key_is_within_the_slack() {
        arbtest::arbtest(|u| {
            let dimension = u.int_in_range(1..=150)?;
            let metric = *u.choose(&[Metric::Cosine, Metric::Dot, Metric::L2])?;
            let storage = *u.choose(&[Storage::F32, Storage::F16, Storage::Int8])?;
            let form = Form { metric, storage, dimension };
            let mut vector = || {
                let power = 10f32.powi(u.int_in_range(-40i32..=10)?);
                let raw =
                    (0..dimension).map(|_| Ok(power * f32::from(u.arbitrary::<i16>()?) / 3e4));
                Ok(metric.vector(raw.collect::<arbtest::arbitrary::Result<_>>()?))
            };
            let (Ok(query), Ok(row)) = (vector()?, vector()?) else {
                return Ok(());
            };
            let measure = Measure::new(form, query.clone());
            for row in [row, query] {
                let (mut high, mut low) = (Vec::new(), Vec::new());
                form.write(&row, &mut high, &mut low);
                let near = measure.near(&high);
                let exact = measure.key(measure.distance(&form.read(&high, &low).unwrap()));
                assert!((exact - near.key).abs() <= near.slack, "{form:?}: {exact} {near:?}");
            }
            Ok(())
        });
    }
}
