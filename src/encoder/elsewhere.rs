//! What is done otherwise away from the CPU: batches are larger, on CUDA of two sizes, several are under
//! way, and their pixels lie where the device reads them by itself.

use std::sync::Mutex;

use ndarray::{Array4, ArrayView4, ArrayViewMut4, Ix4, ShapeError};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session, SessionOutputs};
use ort::value::Tensor;

use super::device::Device;
use super::held;
use super::pixels::Pixel;

/// Pictures that are handed over at once.
pub const BATCH: usize = 256;
/// Batches under way at once: one is computed, one waits for the device, one is decoded, one is filled or
/// stored by the statement. With three a device that takes twice as long as decoding stood still for a seventh of
/// the time, with five no less than with four.
pub const UNDER_WAY: usize = 4;

/// Pictures of a transaction that is one of many: 0.2 s of a fast device, which has no more than four batches to do while it is
/// committed.
pub const IN_A_TRANSACTION: usize = 16 * BATCH;

/// Threads that decode on so many cores: of many, some are for those that tell the device what to do and store
/// what it said.
pub fn threads(cores: usize) -> usize {
    cores - cores / 8
}

/// Rows of the call in which so many are computed, of which `most` come at once.
pub fn rows(device: Device, count: usize, most: usize) -> usize {
    if has_sizes(device) && 1 < count { most.max(count) } else { count }
}

/// Whether it chooses kernels anew for each number of rows and of slots.
pub fn has_sizes(device: Device) -> bool {
    device == Device::Cuda
}

/// The pixels of a batch.
pub enum Block<P: Pixel> {
    /// In any memory.
    Plain(Array4<P>),
    /// In memory that the device reads by itself.
    Bound(Box<Bound<P>>),
}

impl<P: Pixel> Block<P> {
    pub fn view(&self) -> Result<ArrayView4<'_, P>, ShapeError> {
        match self {
            Block::Plain(it) => Ok(it.view()),
            Block::Bound(it) => it.pixels.extract_array().into_dimensionality::<Ix4>(),
        }
    }

    pub fn view_mut(&mut self) -> Result<ArrayViewMut4<'_, P>, ShapeError> {
        match self {
            Block::Plain(it) => Ok(it.view_mut()),
            Block::Bound(it) => it.pixels.extract_array_mut().into_dimensionality::<Ix4>(),
        }
    }

    pub fn rows(&self) -> usize {
        self.view().map_or(0, |it| it.dim().0)
    }

    /// Copies the pixels to the device, while that computes what others sent.
    ///
    /// # Errors
    /// It has no memory for them.
    pub fn send(&mut self) -> ort::Result<()> {
        match self {
            Block::Plain(_) => Ok(()),
            Block::Bound(it) => {
                it.binding.bind_input(it.input.as_str(), &it.pixels)?;
                // Another stream than the copy's may be the next to compute.
                it.binding.synchronize_inputs()
            }
        }
    }
}

/// Pixels that are bound to a graph's input: what is pinned is copied once, by the device.
pub struct Bound<P: Pixel> {
    // Goes before the binding, which keeps the session that it came from.
    pixels: Tensor<P>,
    binding: IoBinding,
    input: String,
}

/// Blocks that wait for the next batch.
#[derive(Default)]
pub struct Blocks<P: Pixel>(Mutex<Vec<Block<P>>>);

impl<P: Pixel> Blocks<P> {
    /// One of so many rows, which `made` makes if there is none.
    pub fn take(&self, rows: usize, made: impl FnOnce() -> Block<P>) -> Block<P> {
        let mut kept = held(&self.0);
        let at = kept.iter().position(|it| it.rows() == rows);
        let found = at.map(|at| kept.swap_remove(at));
        drop(kept);
        found.unwrap_or_else(made)
    }

    /// Keeps it, if there are not as many as batches under way; the longest kept goes then.
    pub fn give_back(&self, block: Block<P>) {
        let mut kept = held(&self.0);
        kept.push(block);
        if UNDER_WAY < kept.len() {
            kept.remove(0);
        }
    }
}

/// What blocks are bound to a graph with.
pub struct Binder {
    allocator: Allocator,
    input: String,
    output: String,
    host: MemoryInfo<'static>,
}

impl Binder {
    /// None where the device has no such memory.
    pub fn new(
        session: &Session,
        device: Device,
        input: &str,
        output: &str,
    ) -> Option<ort::Result<Binder>> {
        let allocator = match device {
            Device::Cuda => pinned(session, AllocationDevice::CUDA_PINNED),
            // As slow as any, to try the way.
            Device::Cpu => Ok(Allocator::default()),
            _ => return None,
        };
        Some(allocator.and_then(|allocator| {
            let kind = AllocatorType::Device;
            // Answers bound to pinned memory are computed there, and then refused as copies of themselves.
            let host = MemoryInfo::new(AllocationDevice::CPU, 0, kind, MemoryType::CPUOutput)?;
            Ok(Binder { allocator, input: input.to_owned(), output: output.to_owned(), host })
        }))
    }

    /// Pixels of zeros.
    pub fn block<P: Pixel>(&self, session: &Session, shape: [usize; 4]) -> ort::Result<Block<P>> {
        let pixels = Tensor::<P>::new(&self.allocator, shape)?;
        // An error, where the CPU could not write to it.
        pixels.try_extract_array::<P>()?;
        let (binding, input) = (session.create_binding()?, self.input.clone());
        Ok(Block::Bound(Box::new(Bound { pixels, binding, input })))
    }

    /// What the graph says to a block that was sent.
    pub fn run<'a, P: Pixel>(
        &self,
        session: &'a mut Session,
        block: &'a mut Bound<P>,
    ) -> ort::Result<SessionOutputs<'a>> {
        // Anew, as what was given out before is another batch's.
        block.binding.bind_output_to_device(self.output.as_str(), &self.host)?;
        session.run_binding(&block.binding)
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
    fn batches_have_two_sizes_where_sizes_cost() {
        let of = |device| [1, 2, 128, 200].map(|it| rows(device, it, 128));
        assert_eq!(of(Device::Cuda), [1, 128, 128, 200]);
        assert_eq!(of(Device::CoreMl), [1, 2, 128, 200]);
    }

    #[test]
    fn blocks_are_used_again_and_not_hoarded() {
        let blocks = Blocks::<f32>::default();
        let plain = |rows| move || Block::Plain(Array4::zeros((rows, 3, 2, 2)));
        let place = |it: &Block<f32>| it.view().unwrap().as_ptr();
        let first = blocks.take(8, plain(8));
        let at = place(&first);
        blocks.give_back(first);
        assert_eq!(blocks.take(32, plain(32)).rows(), 32);
        let again = blocks.take(8, plain(8));
        assert_eq!((again.rows(), place(&again)), (8, at));
        for _ in 0..10 {
            blocks.give_back(plain(8)());
        }
        assert_eq!(held(&blocks.0).len(), UNDER_WAY);
    }
}
