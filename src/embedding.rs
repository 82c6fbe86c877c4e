//! Embeddings: unit vectors and their arithmetic.

use crate::error::{Error, Result};
use crate::kernel::{Loops, widest};

/// A point on the unit sphere where pictures and sentences meet.
///
/// Invariant: at least one dimension, every number finite, of length one.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding(Vec<f32>);

impl Embedding {
    /// Scales `raw` to length one.
    ///
    /// # Errors
    /// An empty vector, a number that is not finite, a vector of zeros.
    pub fn new(mut raw: Vec<f32>) -> Result<Embedding> {
        scale(&mut raw)?;
        Ok(Embedding(raw))
    }

    /// Little-endian floats, four bytes each, nothing else.
    pub fn to_blob(&self) -> Vec<u8> {
        self.0.iter().flat_map(|it| it.to_le_bytes()).collect()
    }

    /// The numbers, as many as [`Embedding::dimension`].
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// The numbers alone.
    pub fn into_numbers(self) -> Vec<f32> {
        self.0
    }

    /// How many numbers.
    pub fn dimension(&self) -> usize {
        self.0.len()
    }

    /// `self + weight * other`, back on the sphere: "beach", less "people".
    pub fn add(&self, other: &Embedding, weight: f64) -> Result<Embedding> {
        let (expected, got) = (self.dimension(), other.dimension());
        if expected != got {
            return Err(Error::Dimension { expected, got });
        }
        let sum = self.0.iter().zip(&other.0).map(|(a, b)| (*a as f64 + weight * *b as f64) as f32);
        Embedding::new(sum.collect())
    }
}

/// Scales numbers to length one.
///
/// # Errors
/// Those of [`Embedding::new`].
pub fn scale(raw: &mut [f32]) -> Result<()> {
    if raw.is_empty() {
        return Err(Error::VectorBytes { bytes: 0 });
    }
    // Squares of float32 neither overflow nor vanish in float64.
    let norm = widest(Square(raw)).sqrt();
    // Most are of length one already: their bytes come back as they went in.
    if (norm - 1.0).abs() <= 1e-6 {
        return Ok(());
    }
    if let Some(at) = raw.iter().position(|it| !it.is_finite()) {
        return Err(Error::VectorNumber { value: raw[at], at });
    }
    if norm == 0.0 {
        return Err(Error::VectorZero);
    }
    raw.iter_mut().for_each(|it| *it = (f64::from(*it) / norm) as f32);
    Ok(())
}

/// Of the length; in sums side by side, which do not wait for each other.
struct Square<'a>(&'a [f32]);

impl Loops for Square<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let (chunks, rest) = self.0.as_chunks::<8>();
        let mut sums = [0.0f64; 8];
        for chunk in chunks {
            let squares = sums.iter_mut().zip(chunk);
            squares.for_each(|(sum, it)| *sum += f64::from(*it) * f64::from(*it));
        }
        sums.iter().sum::<f64>() + rest.iter().map(|it| f64::from(*it).powi(2)).sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &Embedding, b: &Embedding) -> f32 {
        a.as_slice().iter().zip(b.as_slice()).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn lengths_are_one_and_made_so_once() {
        arbtest::arbtest(|u| {
            let raw: Vec<i16> = u.arbitrary()?;
            let Ok(embedding) = Embedding::new(raw.into_iter().map(f32::from).collect()) else {
                return Ok(());
            };
            assert!((cosine(&embedding, &embedding) - 1.0).abs() < 1e-5);
            assert_eq!(Embedding::new(embedding.as_slice().to_vec()).unwrap(), embedding);
            Ok(())
        });
    }

    #[test]
    fn what_is_no_vector() {
        let message = |it: Vec<f32>| Embedding::new(it).unwrap_err().to_string();
        assert!(message(Vec::new()).starts_with("the vector has 0 bytes"));
        assert!(message(vec![1.0, f32::NAN]).contains("NaN at dimension 1"));
        assert!(message(vec![0.0; 3]).starts_with("the vector is all zeros"));
    }

    #[test]
    fn huge_and_tiny_numbers_have_a_direction() {
        let huge = Embedding::new(vec![3e38, 3e38]).unwrap();
        let tiny = Embedding::new(vec![1e-40, 1e-40]).unwrap();
        assert!(1.0 - 1e-3 < cosine(&huge, &tiny));
    }

    #[test]
    fn lengths_must_agree() {
        let (a, b) = (Embedding(vec![1.0]), Embedding(vec![1.0, 0.0]));
        let message = a.add(&b, 1.0).unwrap_err().to_string();
        assert!(message.starts_with("the vector has 2 dimensions, expected 1"), "{message}");
    }

    #[test]
    fn a_sum_may_cancel() {
        let a = Embedding::new(vec![1.0, 0.0]).unwrap();
        assert!(matches!(a.add(&a, -1.0), Err(Error::VectorZero)));
        assert_eq!(a.add(&a, 1.0).unwrap(), a);
    }
}
