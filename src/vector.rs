//! Vectors of any length, as people bring them, and their bytes.

use crate::embedding::Embedding;
use crate::error::{Error, Result};

/// Longest vector: squares and sums of its numbers stay far from the end of float32.
pub const MOST_LENGTH: f64 = 1e15;

/// Numbers that a table compares.
///
/// Invariant: at least one dimension, every number finite, no longer than [`MOST_LENGTH`].
#[derive(Debug, Clone, PartialEq)]
pub struct Vector(Vec<f32>);

impl Vector {
    /// Takes the numbers as they are.
    ///
    /// # Errors
    /// An empty vector, a number that is not finite, one that is too long.
    pub fn new(numbers: Vec<f32>) -> Result<Vector> {
        check(&numbers)?;
        Ok(Vector(numbers))
    }

    /// Reads the bytes of [`Vector::to_blob`].
    pub fn from_blob(blob: &[u8]) -> Result<Vector> {
        Vector::new(numbers_of_blob(blob)?)
    }

    /// Little-endian floats, four bytes each, nothing else.
    pub fn to_blob(&self) -> Vec<u8> {
        self.0.iter().flat_map(|it| it.to_le_bytes()).collect()
    }

    /// The shortest decimal of every number that reads back as the same float.
    pub fn to_json(&self) -> String {
        let numbers: Vec<String> = self.0.iter().map(f32::to_string).collect();
        format!("[{}]", numbers.join(","))
    }

    /// The numbers, as many as [`Vector::dimension`].
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// How many numbers.
    pub fn dimension(&self) -> usize {
        self.0.len()
    }

    /// Its Euclidean length.
    pub fn length(&self) -> f64 {
        length(&self.0)
    }
}

fn length(numbers: &[f32]) -> f64 {
    numbers.iter().map(|it| f64::from(*it).powi(2)).sum::<f64>().sqrt()
}

/// Whether numbers are those of a vector.
///
/// # Errors
/// Those of [`Vector::new`].
pub fn check(numbers: &[f32]) -> Result<()> {
    if numbers.is_empty() {
        return Err(Error::VectorBytes { bytes: 0 });
    }
    if let Some(at) = numbers.iter().position(|it| !it.is_finite()) {
        return Err(Error::VectorNumber { value: numbers[at], at });
    }
    match length(numbers) {
        length if MOST_LENGTH < length => Err(Error::VectorLength { length }),
        _ => Ok(()),
    }
}

impl From<Embedding> for Vector {
    fn from(embedding: Embedding) -> Vector {
        Vector(embedding.into_numbers())
    }
}

/// The floats of a blob.
pub fn numbers_of_blob(blob: &[u8]) -> Result<Vec<f32>> {
    let (floats, rest) = blob.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Error::VectorBytes { bytes: blob.len() });
    }
    Ok(floats.iter().map(|it| f32::from_le_bytes(*it)).collect())
}

/// The numbers of an array, such as `[0.6, 0.8]`.
pub fn numbers_of_json(text: &str) -> Result<Vec<f32>> {
    serde_json::from_str(text).map_err(|err| Error::VectorJson { reason: err.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_as_they_are() {
        arbtest::arbtest(|u| {
            let raw: Vec<i16> = u.arbitrary()?;
            let Ok(vector) = Vector::new(raw.into_iter().map(f32::from).collect()) else {
                return Ok(());
            };
            assert_eq!(Vector::from_blob(&vector.to_blob()).unwrap(), vector);
            assert_eq!(numbers_of_json(&vector.to_json()).unwrap(), vector.as_slice());
            Ok(())
        });
    }

    #[test]
    fn what_is_no_vector() {
        let message = |it: Result<Vector>| it.unwrap_err().to_string();
        assert!(message(Vector::from_blob(b"")).starts_with("the vector has 0 bytes"));
        assert!(message(Vector::from_blob(b"12345")).starts_with("the vector has 5 bytes"));
        let json = numbers_of_json("{}").unwrap_err().to_string();
        assert!(json.starts_with("the JSON is no vector"));
        assert!(message(Vector::new(vec![f32::NEG_INFINITY])).contains("-inf at dimension 0"));
        assert!(message(Vector::new(vec![3e38; 2])).contains("at most 1e15"));
        assert_eq!(Vector::new(vec![0.0; 3]).unwrap().length(), 0.0);
    }
}
