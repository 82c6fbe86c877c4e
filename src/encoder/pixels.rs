//! The numbers of a batch of pictures, in memory that the next batch gets again.

use std::sync::Mutex;

use ndarray::Array4;

use super::held;

/// More than this the system takes back by itself, and no model needs it for long.
const MOST_KEPT_BYTES: usize = 32 * 1024 * 1024;

/// What one batch has left for the next. Each batch is encoded in a thread of its own, and allocators keep
/// for each thread what it has freed: without this, memory grows by a batch now and then.
#[derive(Default)]
pub struct Pixels(Mutex<Vec<f32>>);

impl Pixels {
    /// (rows, 3, side, side) of any numbers.
    pub fn take(&self, rows: usize, side: usize) -> Array4<f32> {
        let mut numbers = std::mem::take(&mut *held(&self.0));
        numbers.resize(rows * 3 * side * side, 0.0);
        Array4::from_shape_vec((rows, 3, side, side), numbers).unwrap_or_default()
    }

    /// Keeps the memory.
    pub fn give_back(&self, pixels: Array4<f32>) {
        let (numbers, _) = pixels.into_raw_vec_and_offset();
        let mut kept = held(&self.0);
        let bytes = numbers.capacity() * size_of::<f32>();
        if kept.capacity() < numbers.capacity() && bytes <= MOST_KEPT_BYTES {
            *kept = numbers;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_batch_gets_the_same_memory() {
        let pixels = Pixels::default();
        let first = pixels.take(32, 8);
        assert_eq!(first.dim(), (32, 3, 8, 8));
        let place = first.as_ptr();
        pixels.give_back(first);
        let (second, beside) = (pixels.take(5, 8), pixels.take(5, 8));
        assert_eq!((second.as_ptr(), second.dim()), (place, (5, 3, 8, 8)));
        assert_ne!(beside.as_ptr(), place);
        // The larger of two is kept, in any order, and what is too large is not.
        pixels.give_back(second);
        pixels.give_back(beside);
        pixels.give_back(Array4::zeros((32, 3, 512, 512)));
        assert_eq!(pixels.take(32, 8).as_ptr(), place);
    }
}
