//! What is done otherwise away from the CPU: batches are larger, few sizes of them, several under way, and
//! their pixels lie where the device reads them by itself.

use std::sync::Mutex;

use ndarray::{Array4, ArrayView4, ArrayViewMut4, Ix4};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session};
use ort::value::Tensor;

use super::device::{Device, experiment};
use super::held;

/// Rows of a call: for each number of them the best kernels are searched anew.
const ROWS: [usize; 6] = [1, 8, 32, 64, 128, 256];
/// Slots of a sentence come in such steps, for the same reason.
const SLOTS: usize = 8;

/// Rows that are best handed over at once.
pub fn batch() -> usize {
    experiment("batch").unwrap_or(128).clamp(1, ROWS[ROWS.len() - 1])
}

/// Batches under way at once: one is computed, one on its way to the device, one being decoded.
pub fn under_way() -> usize {
    experiment("depth").unwrap_or(3).max(1)
}

/// Rows of the call in which so many are computed.
pub fn rows(count: usize) -> usize {
    ROWS.into_iter().find(|it| count <= *it).unwrap_or(count)
}

/// Slots of the call in which sentences of so many tokens are computed.
pub fn slots(used: usize, most: usize) -> usize {
    used.next_multiple_of(SLOTS).min(most)
}

/// Pixels of a batch.
pub enum Block {
    /// In any memory.
    Plain(Array4<f32>),
    /// In memory that the device reads by itself.
    Pinned(Tensor<f32>),
}

impl Block {
    /// Zeros in plain memory.
    pub fn plain(shape: [usize; 4]) -> Block {
        Block::Plain(Array4::zeros(shape))
    }

    /// (rows, 3, side, side); without rows where pinned memory has another shape, which it never has.
    pub fn view(&self) -> ArrayView4<'_, f32> {
        match self {
            Block::Plain(it) => it.view(),
            Block::Pinned(it) => {
                let pixels = it.try_extract_array().ok();
                let pixels = pixels.and_then(|it| it.into_dimensionality::<Ix4>().ok());
                pixels.unwrap_or_else(|| ArrayView4::from_shape([0; 4], &[]).unwrap_or_else(|_| unreachable!()))
            }
        }
    }
}
