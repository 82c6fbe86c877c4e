//! What tests of graphs have in common.
#![allow(clippy::unwrap_used)]

use dualpath::encoder;
use ort::session::{Session, SessionInputValue};
use tch::Device;

use crate::net::Layer;
use crate::onnx::{self, Input, Precision};
use crate::torch::{Parameters, numbers};

/// Numbers in an embedding.
pub const WIDTH: i64 = 32;

/// The graph of a path with weights of chance, always the same.
pub fn written(path: &[Layer], input: Input, precision: Precision) -> Vec<u8> {
    tch::manual_seed(1);
    let parameters = Parameters::fresh(path, Device::Cpu);
    onnx::write(path, input, WIDTH, precision, |name| numbers(parameters.get(name)))
}

/// Rows of what a graph gives for rows of what it takes.
pub fn embedded(graph: &[u8], input: SessionInputValue<'static>) -> Vec<Vec<f32>> {
    let builder = Session::builder(encoder::environment().unwrap()).unwrap();
    let mut session = { builder }.commit_from_memory(graph).unwrap();
    let outputs = session.run(ort::inputs![input]).unwrap();
    let (shape, numbers) = outputs[0].try_extract_tensor::<f32>().unwrap();
    numbers.chunks_exact(shape[1] as usize).map(<[f32]>::to_vec).collect()
}
