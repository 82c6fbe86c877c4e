//! Where graphs are run: the setting, and what each provider is called.

use std::sync::{Mutex, PoisonError};

use ort::ep::{self, ExecutionProvider, ExecutionProviderDispatch};

use super::runtime;
use crate::error::{Error, Result};

/// A place where graphs can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// ONNX Runtime's own kernels.
    Cpu,
    /// NVIDIA's, by CUDA.
    Cuda,
    /// Apple's.
    CoreMl,
    /// Any of Windows.
    DirectMl,
    /// Intel's.
    OpenVino,
}

/// What somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// This one and no other.
    Only(Device),
    /// The first of the others that can be used, else the CPU.
    Auto,
}

const ALL: [Device; 5] =
    [Device::Cpu, Device::Cuda, Device::CoreMl, Device::DirectMl, Device::OpenVino];

struct Setting {
    wanted: Wanted,
    /// Graphs were opened with it.
    used: bool,
}

static SETTING: Mutex<Setting> =
    Mutex::new(Setting { wanted: Wanted::Only(Device::Cpu), used: false });

impl Device {
    /// As it is set and shown.
    pub fn name(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
            Device::Cuda => "cuda",
            Device::CoreMl => "coreml",
            Device::DirectMl => "directml",
            Device::OpenVino => "openvino",
        }
    }

    /// What ONNX Runtime calls it.
    pub fn provider(self) -> &'static str {
        match self {
            Device::Cpu => ep::CPU::NAME,
            Device::Cuda => ep::CUDA::NAME,
            Device::CoreMl => ep::CoreML::NAME,
            Device::DirectMl => ep::DirectML::NAME,
            Device::OpenVino => ep::OpenVINO::NAME,
        }
    }

    /// Files that a device needs beside ONNX Runtime's library, or in it, for the error's sake.
    fn needs(self) -> &'static str {
        match self {
            Device::Cpu => "nothing else",
            Device::Cuda => {
                "an NVIDIA driver, the libraries of CUDA and cuDNN, and of the package onnxruntime-gpu libonnxruntime together with libonnxruntime_providers_cuda and libonnxruntime_providers_shared in one folder"
            }
            Device::CoreMl => "macOS and its build of ONNX Runtime",
            Device::DirectMl => "Windows, and of the package onnxruntime-directml both libraries",
            Device::OpenVino => "the libraries of the package onnxruntime-openvino in one folder",
        }
    }

    fn is_built_in(self) -> bool {
        // Who asks before the library is open ends the process.
        if runtime::environment().is_err() {
            return false;
        }
        let known = match self {
            Device::Cpu => Ok(true),
            Device::Cuda => ep::CUDA::is_available(),
            Device::CoreMl => ep::CoreML::is_available(),
            Device::DirectMl => ep::DirectML::is_available(),
            Device::OpenVino => ep::OpenVINO::is_available(),
        };
        known.unwrap_or(false)
    }

    /// How a session is told; none for the CPU, which is always there. A refusal is an error.
    pub fn dispatch(self) -> Option<ExecutionProviderDispatch> {
        let provider = match self {
            Device::Cpu => return None,
            // Its kernels for halves want channels last: an H200 ran the built-in model's graph 1.18 times as fast. A bias that
            // is added by a kernel of its own reads and writes all again: without one an H100 ran it 1.6 times as fast.
            Device::Cuda => {
                ep::CUDA::default().with_prefer_nhwc(true).with_fuse_conv_bias(true).build()
            }
            Device::CoreMl => ep::CoreML::default().build(),
            Device::DirectMl => ep::DirectML::default().build(),
            Device::OpenVino => ep::OpenVINO::default().build(),
        };
        Some(provider.error_on_failure())
    }

    /// Why the device cannot be used: what is missing, and where it was looked for.
    pub fn missing(self, reason: &str) -> Error {
        Error::Device {
            name: self.name(),
            reason: reason.trim_end().to_owned(),
            needs: self.needs(),
            library: match runtime::state() {
                Ok((library, _)) => library.display().to_string(),
                Err(reason) => reason,
            },
        }
    }
}

/// The devices to try, in order. From now on the setting is fixed, once `opened` says so.
pub fn candidates() -> Vec<Device> {
    match setting().wanted {
        Wanted::Only(device) => vec![device],
        // All others are at hand only where the library was built for them.
        Wanted::Auto => {
            let (cpu, others) = (ALL[0], &ALL[1..]);
            others.iter().copied().filter(|it| it.is_built_in()).chain([cpu]).collect()
        }
    }
}

/// Notes that a graph was opened, so that all others go to the same place.
pub fn opened() {
    setting().used = true;
}

/// The setting, as it is written.
pub fn wanted() -> &'static str {
    match setting().wanted {
        Wanted::Only(device) => device.name(),
        Wanted::Auto => "auto",
    }
}

/// Sets where graphs are run; too late once one is open.
pub fn want(name: &str) -> Result<()> {
    let known = || ALL.map(Device::name).join(", ");
    let wanted = match ALL.into_iter().find(|it| it.name() == name) {
        Some(device) => Wanted::Only(device),
        None if name == "auto" => Wanted::Auto,
        None => {
            return Err(Error::Usage(format!(
                "there is no device '{name}' (known: auto, {})",
                known()
            )));
        }
    };
    let mut setting = setting();
    if setting.used && setting.wanted != wanted {
        return Err(Error::Usage(
            "graphs are open already (choose the device before the first encoding)".to_owned(),
        ));
    }
    setting.wanted = wanted;
    Ok(())
}

fn setting() -> std::sync::MutexGuard<'static, Setting> {
    SETTING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_have_the_names_that_onnx_runtime_knows() {
        let names = ALL.map(|it| (it.name(), it.provider()));
        let expected = [
            ("cpu", "CPUExecutionProvider"),
            ("cuda", "CUDAExecutionProvider"),
            ("coreml", "CoreMLExecutionProvider"),
            ("directml", "DmlExecutionProvider"),
            ("openvino", "OpenVINOExecutionProvider"),
        ];
        assert_eq!(names, expected);
        for device in ALL {
            let named = device.dispatch().map(|it| it.name());
            assert_eq!(named, (device != Device::Cpu).then_some(device.provider()));
        }
    }

    #[test]
    fn an_unknown_device_is_refused() {
        let refused = want("gpu").unwrap_err().to_string();
        let expected =
            "there is no device 'gpu' (known: auto, cpu, cuda, coreml, directml, openvino)";
        assert_eq!(refused, expected);
    }
}
