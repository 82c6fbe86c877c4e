//! Captioned pictures in, the encoder pair of dualpath out: the paper's two paths, its two losses,
//! and the ONNX files that the extension runs. The binary `train` is a thin door to this.

pub mod config;
pub mod data;
pub mod prepare;

pub mod device;
pub mod net;
pub mod torch;

mod ahead;
pub mod augment;
pub mod batch;
pub mod cache;
pub mod loss;
mod flat;
pub mod optim;
pub mod checkpoint;
pub mod fit;

pub mod encode;
pub mod eval;
pub mod onnx;
pub mod export;
pub mod querybank;
pub mod served;
mod teacher;
mod folder;
pub mod join;
pub mod quantize;
pub mod halve;
#[cfg(test)]
mod testing;

mod curves;
mod progress;
pub mod report;
mod sheet;
