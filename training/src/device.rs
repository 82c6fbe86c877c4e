//! What a run computes on.

use std::ffi::CStr;

use anyhow::{Result, bail};
use clap::ValueEnum;
use tch::{Cuda, Device, Tensor};

/// What the person asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// The first GPU where libtorch finds one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The first GPU, or an error that says what is missing.
    Cuda,
}

/// The tensor on the device, without waiting for what that does: the driver takes a copy at once, unless the memory is
/// [`pinned`], which libtorch keeps until it was read.
pub fn sent(tensor: &Tensor, device: Device) -> Tensor {
    if tensor.device() == device {
        return tensor.shallow_clone();
    }
    tensor.internal_to_copy((tensor.kind(), device), true)
}

/// The tensor in memory that the device reads by itself.
pub fn pinned(tensor: &Tensor, device: Device) -> Tensor {
    if device.is_cuda() { tensor.pin_memory(device) } else { tensor.shallow_clone() }
}

/// The CUDA half of libtorch. The program is linked to the CPU half alone, which suffices on most
/// machines and is all that `scripts/libtorch` needs.
const LIBRARY: &CStr = c"libtorch_cuda.so";

/// Opens the device; to be called before anything else of libtorch, which remembers what it has.
pub fn open(choice: Choice) -> Result<Device> {
    let loaded = match choice {
        Choice::Cpu => return Ok(Device::Cpu),
        Choice::Auto | Choice::Cuda => load(),
    };
    if loaded.is_ok() && Cuda::is_available() {
        return Ok(Device::Cuda(0));
    }
    if choice == Choice::Auto {
        return Ok(Device::Cpu);
    }
    let reason = loaded.err().unwrap_or_else(|| "libtorch finds no GPU or no driver".to_owned());
    bail!(
        "--device cuda: {reason} (set LD_LIBRARY_PATH to the lib folder of a PyTorch 2.11 that has CUDA)"
    )
}

/// Loads [`LIBRARY`] for the whole process, which registers its kernels.
#[allow(unsafe_code)]
fn load() -> std::result::Result<(), String> {
    // SAFETY: a constant name; the library's initialisers are libtorch's own registrations, made to
    // be run like this, and it is never closed.
    let handle = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: dlerror gives null or a string that lasts until this thread's next call of dl*.
    let reason = unsafe {
        let text = libc::dlerror();
        if text.is_null() {
            None
        } else {
            Some(CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    };
    Err(reason.unwrap_or_else(|| format!("{} cannot be loaded", LIBRARY.to_string_lossy())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_is_demanded_is_there_or_an_error() {
        assert_eq!(open(Choice::Cpu).unwrap(), Device::Cpu);
        let auto = open(Choice::Auto).unwrap();
        match open(Choice::Cuda) {
            Ok(device) => assert_eq!(device, auto),
            Err(err) => {
                assert_eq!(auto, Device::Cpu);
                assert!(err.to_string().contains("LD_LIBRARY_PATH"), "{err}");
            }
        }
    }
}
