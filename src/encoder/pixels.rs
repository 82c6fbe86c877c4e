//! The pixels of a batch of pictures, in memory that the next batch gets again.

use std::fmt::Debug;
use std::sync::Mutex;

use ndarray::{Array4, ArrayViewMut3};
use ort::value::PrimitiveTensorElementType;

use super::elsewhere::Blocks;
use super::held;
use crate::error::Result;
use crate::image::Preprocess;

/// More than this the system takes back by itself, and no model needs it for long.
const MOST_KEPT_BYTES: usize = 32 * 1024 * 1024;

/// One number of what an image path takes.
pub trait Pixel:
    PrimitiveTensorElementType + Debug + Copy + Default + Send + Sync + 'static
{
    /// (rows, ...) for pictures of so many pixels a side.
    fn shape(rows: usize, side: usize) -> [usize; 4];
    /// Decodes a picture into a row.
    fn read(preprocess: &Preprocess, bytes: &[u8], row: ArrayViewMut3<'_, Self>) -> Result<()>;
    /// What an encoder keeps of them.
    fn kept(memory: &Memory) -> &Kept<Self>;
}

/// [`crate::image::Pixels::Floats`]
impl Pixel for f32 {
    fn shape(rows: usize, side: usize) -> [usize; 4] {
        [rows, 3, side, side]
    }

    fn read(preprocess: &Preprocess, bytes: &[u8], row: ArrayViewMut3<'_, f32>) -> Result<()> {
        preprocess.read(bytes, row)
    }

    fn kept(memory: &Memory) -> &Kept<f32> {
        &memory.floats
    }
}

/// [`crate::image::Pixels::Bytes`]
impl Pixel for u8 {
    fn shape(rows: usize, side: usize) -> [usize; 4] {
        [rows, side, side, 3]
    }

    fn read(preprocess: &Preprocess, bytes: &[u8], row: ArrayViewMut3<'_, u8>) -> Result<()> {
        preprocess.read_bytes(bytes, row)
    }

    fn kept(memory: &Memory) -> &Kept<u8> {
        &memory.bytes
    }
}

/// Memory for either kind, of which an encoder uses one.
#[derive(Default)]
pub struct Memory {
    floats: Kept<f32>,
    bytes: Kept<u8>,
}

/// Memory for one kind.
#[derive(Default)]
pub struct Kept<P: Pixel> {
    pub spare: Spare<P>,
    /// For a device.
    pub blocks: Blocks<P>,
}

/// What some pictures have left for the next, the least memory first. They are encoded in ever new threads, and allocators keep
/// for each thread what it has freed: without this, memory grows now and then.
#[derive(Default)]
pub struct Spare<P>(Mutex<Vec<Vec<P>>>);

impl<P: Pixel> Spare<P> {
    /// Any pixels of so many pictures.
    pub fn take(&self, rows: usize, side: usize) -> Array4<P> {
        let shape = P::shape(rows, side);
        let count = shape.iter().product();
        let mut kept = held(&self.0);
        let mut numbers = match kept.iter().position(|it| count <= it.capacity()) {
            Some(at) => kept.remove(at),
            // The most of it grows.
            None => kept.pop().unwrap_or_default(),
        };
        drop(kept);
        numbers.resize(count, P::default());
        Array4::from_shape_vec(shape, numbers).unwrap_or_default()
    }

    /// Keeps the memory, and of all that is kept no more than so much; the least goes first.
    pub fn give_back(&self, pixels: Array4<P>) {
        let (numbers, _) = pixels.into_raw_vec_and_offset();
        let bytes = |it: &Vec<P>| it.capacity() * size_of::<P>();
        if MOST_KEPT_BYTES < bytes(&numbers) {
            return;
        }
        let mut kept = held(&self.0);
        let at = kept.partition_point(|it| it.capacity() < numbers.capacity());
        kept.insert(at, numbers);
        while MOST_KEPT_BYTES < kept.iter().map(bytes).sum() {
            kept.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_batch_gets_the_same_memory() {
        let pixels = Spare::<f32>::default();
        let first = pixels.take(32, 8);
        assert_eq!(first.dim(), (32, 3, 8, 8));
        let place = first.as_ptr();
        pixels.give_back(first);
        let (second, beside) = (pixels.take(5, 8), pixels.take(5, 8));
        assert_eq!((second.as_ptr(), second.dim()), (place, (5, 3, 8, 8)));
        assert_ne!(beside.as_ptr(), place);
        // Both are kept, in any order, and what is too large is not.
        let smaller = beside.as_ptr();
        pixels.give_back(second);
        pixels.give_back(beside);
        pixels.give_back(Array4::zeros((32, 3, 512, 512)));
        let [small, large] = [5, 32].map(|rows| pixels.take(rows, 8));
        assert_eq!([small.as_ptr(), large.as_ptr()], [smaller, place]);
    }

    #[test]
    fn of_what_is_kept_the_least_goes_first() {
        let pixels = Spare::<u8>::default();
        let rows = |rows: usize| Array4::zeros(u8::shape(rows, 1024));
        // Of 3, 6, 3 and 24 MiB.
        [1, 2, 1, 8].into_iter().for_each(|it| pixels.give_back(rows(it)));
        let kept: Vec<usize> = held(&pixels.0).iter().map(Vec::len).collect();
        assert_eq!(kept, [2, 8].map(|it| it * 3 * 1024 * 1024));
        assert_eq!(pixels.take(9, 1024).dim(), (9, 1024, 1024, 3));
        assert_eq!(held(&pixels.0).len(), 1);
    }
}
