//! What is done otherwise away from the CPU: batches are larger and of few sizes, several are under way, and
//! their pixels lie where the device reads them by itself.

use std::sync::Mutex;

use ndarray::{Array4, ArrayView4, ArrayViewMut4, Ix4, ShapeError};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session, SessionOutputs};
use ort::value::Tensor;

use super::device::{Device, experiment};
use super::held;

/// Rows of a call: for each number of them a device looks for its best kernels anew.
const ROWS: [usize; 6] = [1, 8, 32, 64, 128, 256];
/// Slots of a sentence come in such steps, for the same reason.
const SLOTS: usize = 8;

/// Rows that are best handed over at once.
pub fn batch() -> usize {
    experiment("batch").unwrap_or(128).clamp(1, ROWS[ROWS.len() - 1])
}

/// Batches under way at once: one is computed, one goes to the device, one is decoded.
pub fn under_way() -> usize {
    experiment("depth").unwrap_or(3).max(1)
}

/// Image paths that are open side by side, up to two.
pub fn graphs() -> usize {
    experiment("graphs").unwrap_or(2).max(1)
}

/// Rows of the call in which so many are computed.
pub fn rows(count: usize) -> usize {
    ROWS.into_iter().find(|it| count <= *it).unwrap_or(count)
}

/// Slots of the call in which sentences of so many tokens are computed.
pub fn slots(used: usize, most: usize) -> usize {
    used.next_multiple_of(SLOTS).min(most)
}

/// The pixels of a batch, (rows, 3, side, side).
pub enum Block {
    /// In any memory.
    Plain(Array4<f32>),
    /// In memory that the device reads by itself.
    Pinned(Tensor<f32>),
}

impl Block {
    pub fn view(&self) -> Result<ArrayView4<'_, f32>, ShapeError> {
        match self {
            Block::Plain(it) => Ok(it.view()),
            Block::Pinned(it) => it.extract_array().into_dimensionality::<Ix4>(),
        }
    }

    pub fn view_mut(&mut self) -> Result<ArrayViewMut4<'_, f32>, ShapeError> {
        match self {
            Block::Plain(it) => Ok(it.view_mut()),
            Block::Pinned(it) => it.extract_array_mut().into_dimensionality::<Ix4>(),
        }
    }

    pub fn rows(&self) -> usize {
        self.view().map_or(0, |it| it.dim().0)
    }
}

/// Blocks that wait for the next batch.
#[derive(Default)]
pub struct Blocks(Mutex<Vec<Block>>);

impl Blocks {
    /// One of so many rows, which `made` makes if there is none.
    pub fn take(&self, rows: usize, made: impl FnOnce() -> Block) -> Block {
        let mut kept = held(&self.0);
        let at = kept.iter().position(|it| it.rows() == rows);
        let found = at.map(|at| kept.swap_remove(at));
        drop(kept);
        found.unwrap_or_else(made)
    }

    /// Keeps it, if there are not as many as batches under way; the longest kept goes then.
    pub fn give_back(&self, block: Block) {
        let mut kept = held(&self.0);
        kept.push(block);
        if under_way() < kept.len() {
            kept.remove(0);
        }
    }
}

/// A graph whose input and output are bound: what is pinned is copied once, by the device.
pub struct Bound {
    binding: IoBinding,
    allocator: Allocator,
    output: String,
    host: MemoryInfo<'static>,
}

impl Bound {
    /// None where the device has no such memory.
    pub fn new(session: &Session, device: Device, output: &str) -> Option<ort::Result<Bound>> {
        let allocator = match device {
            Device::Cuda => pinned(session, AllocationDevice::CUDA_PINNED),
            // As slow as any, to try the way.
            Device::Cpu => Ok(Allocator::default()),
            _ => return None,
        };
        Some(allocator.and_then(|allocator| {
            let (kind, output) = (AllocatorType::Device, output.to_owned());
            let host = MemoryInfo::new(AllocationDevice::CPU, 0, kind, MemoryType::CPUOutput)?;
            Ok(Bound { binding: session.create_binding()?, allocator, output, host })
        }))
    }

    /// Pixels of zeros.
    pub fn block(&self, shape: [usize; 4]) -> ort::Result<Block> {
        let tensor = Tensor::<f32>::new(&self.allocator, shape)?;
        // An error, where the CPU could not write to it.
        tensor.try_extract_array::<f32>()?;
        Ok(Block::Pinned(tensor))
    }

    /// What the graph says to a whole block.
    pub fn run<'a>(
        &'a mut self,
        session: &'a mut Session,
        input: &str,
        block: &Tensor<f32>,
    ) -> ort::Result<SessionOutputs<'a>> {
        self.binding.bind_input(input, block)?;
        // Anew, as what was given out before had another batch's shape.
        self.binding.bind_output_to_device(self.output.as_str(), &self.host)?;
        session.run_binding(&self.binding)
    }
}

/// Whichever of its names the provider knows the memory by.
fn pinned(session: &Session, device: AllocationDevice<'static>) -> ort::Result<Allocator> {
    let allocator = |memory| {
        let info = MemoryInfo::new(device.clone(), 0, AllocatorType::Device, memory)?;
        Allocator::new(session, info)
    };
    allocator(MemoryType::CPUInput).or_else(|_| allocator(MemoryType::Default))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_have_few_sizes() {
        assert_eq!([1, 2, 8, 9, 33, 128, 200, 300].map(rows), [1, 8, 8, 32, 64, 128, 256, 300]);
        assert_eq!([1, 8, 9, 31].map(|it| slots(it, 30)), [8, 8, 16, 30]);
    }

    #[test]
    fn blocks_are_used_again_and_not_hoarded() {
        let blocks = Blocks::default();
        let plain = |rows| move || Block::Plain(Array4::zeros((rows, 3, 2, 2)));
        let place = |it: &Block| it.view().unwrap().as_ptr();
        let first = blocks.take(8, plain(8));
        let at = place(&first);
        blocks.give_back(first);
        assert_eq!(blocks.take(32, plain(32)).rows(), 32);
        let again = blocks.take(8, plain(8));
        assert_eq!((again.rows(), place(&again)), (8, at));
        for _ in 0..10 {
            blocks.give_back(plain(8)());
        }
        assert_eq!(held(&blocks.0).len(), under_way());
    }
}
