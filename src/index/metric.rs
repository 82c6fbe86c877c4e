//! What "near" means.

use crate::embedding::{self, Embedding};
use crate::error::{Error, Result};
use crate::kernel::summed;
use crate::vector::{self, Vector};

/// How two vectors are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Metric {
    /// 1 less the cosine of their angle; vectors are kept with length one.
    #[default]
    Cosine,
    /// The negative of their inner product, so that the largest product is the nearest.
    Dot,
    /// The Euclidean distance.
    L2,
}

impl Metric {
    const ALL: [Metric; 3] = [Metric::Cosine, Metric::Dot, Metric::L2];
    /// Their names, for an error.
    pub const NAMES: &str = "'cosine', 'dot' or 'l2'";

    /// The metric of a name in any case.
    pub fn named(name: &str) -> Result<Metric> {
        let found = Metric::ALL.into_iter().find(|it| it.name().eq_ignore_ascii_case(name));
        let names = Metric::NAMES;
        found.ok_or_else(|| Error::Usage(format!("metric is '{name}' (one of {names})")))
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Cosine => "cosine",
            Metric::Dot => "dot",
            Metric::L2 => "l2",
        }
    }

    /// The vector of these numbers, as it is compared: of length one for a cosine.
    ///
    /// # Errors
    /// Those of [`Vector::new`]; for a cosine a vector of zeros.
    pub fn vector(self, numbers: Vec<f32>) -> Result<Vector> {
        match self {
            Metric::Cosine => Embedding::new(numbers).map(Vector::from),
            _ => Vector::new(numbers),
        }
    }

    /// Makes of numbers those of [`Metric::vector`], in place.
    ///
    /// # Errors
    /// The same.
    pub fn make_vector(self, numbers: &mut [f32]) -> Result<()> {
        match self {
            Metric::Cosine => embedding::scale(numbers),
            _ => vector::check(numbers),
        }
    }

    /// How far apart two such vectors are; the smaller, the nearer.
    ///
    /// # Errors
    /// Vectors of two sizes.
    pub fn distance(self, a: &Vector, b: &Vector) -> Result<f64> {
        let (expected, got) = (a.dimension(), b.dimension());
        if expected != got {
            return Err(Error::Dimension { expected, got });
        }
        let (a, b) = (a.as_slice(), b.as_slice());
        let product = |a, b| f64::from(a) * f64::from(b);
        let apart = |a, b| (f64::from(a) - f64::from(b)).powi(2);
        Ok(match self {
            Metric::Cosine => (1.0 - summed(a, b, product)).clamp(0.0, 2.0),
            Metric::Dot => 0.0 - summed(a, b, product),
            Metric::L2 => summed(a, b, apart).sqrt(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_what_they_are_called() {
        let distance = |metric: Metric, a: [f32; 2], b: [f32; 2]| {
            let vector = |it: [f32; 2]| metric.vector(it.to_vec()).unwrap();
            metric.distance(&vector(a), &vector(b)).unwrap()
        };
        assert_eq!(distance(Metric::L2, [3.0, 0.0], [0.0, 4.0]), 5.0);
        assert_eq!(distance(Metric::Dot, [3.0, 1.0], [2.0, 4.0]), -10.0);
        assert_eq!(distance(Metric::Cosine, [3.0, 0.0], [0.0, 4.0]), 1.0);
        assert_eq!(distance(Metric::Dot, [0.0, 0.0], [2.0, 4.0]).to_string(), "0");
        assert!(Metric::Cosine.vector(vec![0.0; 2]).is_err());
        assert_eq!(Metric::named("L2").unwrap(), Metric::L2);
        let message = Metric::named("euclid").unwrap_err().to_string();
        assert_eq!(message, "metric is 'euclid' (one of 'cosine', 'dot' or 'l2')");
    }
}
